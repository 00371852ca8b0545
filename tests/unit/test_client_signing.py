"""The token of the client, checked as AWS would check it: rebuilt from its fields and signed again without botocore."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import re
from typing import Any
from urllib.parse import quote

import pytest
from botocore.credentials import ReadOnlyCredentials
from hypothesis import given
from hypothesis import strategies as st
from mlflow.exceptions import MlflowException
from mlflow_aws_iam.signing import sign
from tracking_server.access import tokens

SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
USER = ReadOnlyCredentials("AKIAIOSFODNN7EXAMPLE", SECRET, None)
ROLE = ReadOnlyCredentials("ASIAIOSFODNN7EXAMPLE", SECRET, "IQoJb3JpZ2luX2VjE/a+b==")
NOW = 1_790_000_000.75  # 2026-09-21T14:13:20Z

FORMS = {
    "c": r"(AKIA|ASIA)[A-Z0-9]+/\d{8}/[a-z0-9-]+/sts/aws4_request",
    "d": r"\d{8}T\d{6}Z",
    "e": r"[1-9]\d{0,2}",
    "h": r"[a-z0-9.:-]+",
    "s": r"[0-9a-f]{64}",
    "t": r"[A-Za-z0-9+/=]+",
}


def fields_of(token: str) -> dict[str, str]:
    prefix, _, encoded = token.partition(".")
    assert prefix == "mlflow-aws-v1"
    assert re.fullmatch(r"[A-Za-z0-9_-]+", encoded)
    text = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).decode()
    fields: dict[str, str] = json.loads(text)
    assert text == json.dumps(fields, separators=(",", ":"), sort_keys=True)
    assert all(re.fullmatch(FORMS[name], value) for name, value in fields.items())
    return fields


def expected_signature(fields: dict[str, str], *, server_name: str, secret: str = SECRET) -> str:
    """What AWS computes for the request that a server of that name rebuilds."""
    _, day, region, service, end = fields["c"].split("/")
    host = f"sts.{region}.amazonaws.com" + (".cn" if region.startswith("cn-") else "")
    query = {
        "Action": "GetCallerIdentity",
        "Version": "2011-06-15",
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
        "X-Amz-Credential": fields["c"],
        "X-Amz-Date": fields["d"],
        "X-Amz-Expires": fields["e"],
        "X-Amz-SignedHeaders": "host;x-mlflow-server-id",
    }
    if "t" in fields:
        query["X-Amz-Security-Token"] = fields["t"]
    canonical = "\n".join(
        [
            "GET",
            "/",
            "&".join(f"{quote(name, safe='')}={quote(query[name], safe='')}" for name in sorted(query)),
            f"host:{host}",
            f"x-mlflow-server-id:{server_name}",
            "",
            "host;x-mlflow-server-id",
            hashlib.sha256(b"").hexdigest(),
        ]
    )
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    text = "\n".join(["AWS4-HMAC-SHA256", fields["d"], f"{day}/{region}/{service}/{end}", digest])
    key = f"AWS4{secret}".encode()
    for part in (day, region, service, end):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


@pytest.mark.parametrize("credentials", [USER, ROLE], ids=["user", "role"])
@pytest.mark.parametrize("region", ["us-east-1", "eu-west-1", "cn-north-1", "us-gov-west-1"])
@pytest.mark.parametrize("host", ["mlflow.example.com", "d111111abcdef8.cloudfront.net", "127.0.0.1", "::1"])
def test_aws_would_accept_the_signature(credentials: ReadOnlyCredentials, region: str, host: str) -> None:
    fields = fields_of(sign(credentials, host=host, region=region, now=NOW).value)
    assert fields["s"] == expected_signature(fields, server_name=host)
    assert fields["s"] != expected_signature(fields, server_name="other.example.com")
    assert fields["s"] != expected_signature(fields, server_name=host, secret="other")


def test_fields_of_a_user() -> None:
    fields = fields_of(sign(USER, host="mlflow.example.com", region="eu-west-1", now=NOW).value)
    assert fields == {
        "c": "AKIAIOSFODNN7EXAMPLE/20260921/eu-west-1/sts/aws4_request",
        "d": "20260921T141320Z",
        "e": "900",
        "h": "mlflow.example.com",
        "s": fields["s"],
    }


def test_fields_of_a_role() -> None:
    fields = fields_of(sign(ROLE, host="mlflow.example.com", region="eu-west-1", now=NOW).value)
    assert fields.keys() == set("cdehst")
    assert fields["t"] == ROLE.token


def test_the_format_stays_what_servers_read() -> None:
    assert sign(USER, host="mlflow.example.com", region="cn-north-1", now=NOW).value == (
        "mlflow-aws-v1.eyJjIjoiQUtJQUlPU0ZPRE5ON0VYQU1QTEUvMjAyNjA5MjEvY24tbm9ydGgtMS9zdHMvYXdzNF"
        "9yZXF1ZXN0IiwiZCI6IjIwMjYwOTIxVDE0MTMyMFoiLCJlIjoiOTAwIiwiaCI6Im1sZmxvdy5leGFtcGxlLmNvbSIs"
        "InMiOiJkMDA0ZTdhNTg2Y2JmYjU4N2Y3YzkyYzNiYzllMzJjM2UzYzMwMDE4MjYyNmVjMmVmZWUyM2RkNWFiMTc4NThhIn0"
    )


@given(
    host=st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,60}[a-z0-9])?", fullmatch=True),
    key=st.from_regex(r"[A-Z0-9]{16}", fullmatch=True),
    secret=st.from_regex(r"[A-Za-z0-9/+]{40}", fullmatch=True),
    session_token=st.none() | st.from_regex(r"[A-Za-z0-9+/]{16,2000}={0,2}", fullmatch=True),
    now=st.floats(min_value=1_700_000_000, max_value=4_000_000_000),
)
def test_every_token_is_one_that_the_server_rebuilds(
    host: str, key: str, secret: str, session_token: str | None, now: float
) -> None:
    credentials = ReadOnlyCredentials(("ASIA" if session_token else "AKIA") + key, secret, session_token)
    token = sign(credentials, host=host, region="eu-central-1", now=now)
    request = tokens.read(token.value, names={host}, regions={"eu-central-1"}, now=now)
    assert (request.host, request.expires_at) == ("sts.eu-central-1.amazonaws.com", token.expires_at)
    signature = expected_signature(fields_of(token.value), server_name=host, secret=secret)
    assert request.path.endswith(f"&X-Amz-Signature={signature}")


def test_the_token_tells_its_end_and_hides_itself() -> None:
    token = sign(ROLE, host="mlflow.example.com", region="eu-west-1", now=NOW)
    assert token.expires_at == 1_790_000_900
    assert "mlflow-aws-v1" not in repr(token)


def test_nothing_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    token = sign(ROLE, host="mlflow.example.com", region="eu-west-1", now=NOW)
    for secret in (token.value, fields_of(token.value)["s"], str(ROLE.token), SECRET):
        assert secret not in caplog.text


@pytest.mark.parametrize("region", ["aws-global", "evil.example.com/", "eu-west-1#", "", "eu"])
def test_what_is_no_region_goes_into_no_host_name(region: str) -> None:
    with pytest.raises(MlflowException, match="set MLFLOW_AWS_IAM_REGION"):
        sign(USER, host="mlflow.example.com", region=region, now=NOW)


def test_a_token_that_no_server_reads_is_not_made() -> None:
    long: Any = ROLE._replace(token="A" * 6200)
    with pytest.raises(MlflowException, match=r"too long \(6200 bytes\)"):
        sign(long, host="mlflow.example.com", region="eu-west-1", now=NOW)
