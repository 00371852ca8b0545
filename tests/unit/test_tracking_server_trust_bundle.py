"""The authorities that the container trusts for RDS."""

from __future__ import annotations

import datetime
from pathlib import Path

from cryptography import x509

BUNDLE = Path(__file__).parents[2] / "container" / "rds-trust-bundle.pem"


def test_every_authority_is_named_valid_and_of_rds() -> None:
    text = BUNDLE.read_text()
    authorities = x509.load_pem_x509_certificates(text.encode())
    names = [line.removeprefix("# ") for line in text.splitlines() if line.startswith("# ")]
    now = datetime.datetime.now(datetime.timezone.utc)
    for authority, name in zip(authorities, names, strict=True):
        (common_name,) = authority.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        assert common_name.value == name
        assert name.startswith("Amazon RDS ")
        assert authority.subject == authority.issuer
        authority.verify_directly_issued_by(authority)
        assert authority.not_valid_after_utc > now + datetime.timedelta(days=365)


def test_regions_have_all_three_kinds_of_authority() -> None:
    """RDS signs with RSA 2048, RSA 4096 or ECC 384, as the instance is told."""
    names = [line.split() for line in BUNDLE.read_text().splitlines() if line.startswith("# ")]
    regions = {words[3] for words in names}
    assert {"us-east-1", "us-west-2", "eu-west-1", "eu-central-1", "ap-northeast-1"} <= regions
    for region in regions:
        assert sum(words[3] == region for words in names) == 3
