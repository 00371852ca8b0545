"""The token of a client: an STS GetCallerIdentity request that the client has signed and never sent.

The request is rebuilt here from fields that match narrow patterns. Nothing of it is taken over as a whole, so a
client can choose neither where it goes nor what it asks (the flaw of CVE-2020-16250 and CVE-2022-2385).
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from urllib.parse import quote, urlencode

from tracking_server.access.errors import Unauthenticated

PREFIX = "mlflow-aws-v1."
MAX_BYTES = 8192
SERVER_ID_HEADER = "x-mlflow-server-id"

MAX_AGE = timedelta(seconds=900)
"""STS takes a signature for 15 minutes, whatever X-Amz-Expires says (aws-iam-authenticator, pkg/token/token.go)."""

MAX_SKEW = timedelta(minutes=5)

_BASE64URL = re.compile(r"[A-Za-z0-9_-]+")
_PATTERNS = {
    "c": re.compile(
        r"(?P<key>(?:AKIA|ASIA)[A-Z0-9]{12,124})/(?P<day>[0-9]{8})"
        r"/(?P<region>[a-z]{2}(?:-[a-z]{2,12}){1,3}-[0-9]{1,2})/sts/aws4_request"
    ),
    "d": re.compile(r"[0-9]{8}T[0-9]{6}Z"),
    "e": re.compile(r"[1-9][0-9]{0,2}"),
    "h": re.compile(r"[a-z0-9](?:[a-z0-9.:-]{0,251}[a-z0-9])?"),
    "s": re.compile(r"[0-9a-f]{64}"),
    "t": re.compile(r"[A-Za-z0-9+/=]{16,6000}"),
}
_REQUIRED = frozenset("cdehs")


@dataclass(frozen=True, kw_only=True)
class StsRequest:
    """The one request that a token stands for, ready to be sent to `https://<host><path>`."""

    host: str
    path: str
    headers: dict[str, str]
    expires_at: float


def read(token: str, *, names: Collection[str], regions: Collection[str], now: float) -> StsRequest:
    """The request that `token` stands for at the time `now`, in seconds since 1970.

    `names` are the host names of this server and `regions` those whose STS it asks. Raises Unauthenticated.
    """
    fields = _fields(token)
    scope = _PATTERNS["c"].fullmatch(fields["c"])
    assert scope is not None  # noqa: S101 - _fields() has matched it
    if fields["h"] not in names:
        raise Unauthenticated(f"the token was signed for {fields['h']}, which is not a name of this server")
    if scope["region"] not in regions:
        listed = ", ".join(sorted(regions)[:4])
        raise Unauthenticated(
            f"the token was signed for STS in {scope['region']}, which this server does not ask: set "
            f"MLFLOW_AWS_IAM_REGION to one of {listed}{', …' if len(regions) > 4 else ''}"
        )
    if scope["key"].startswith("ASIA") != ("t" in fields):
        raise Unauthenticated("temporary credentials come with a session token, others without")
    expires_at = _expiry(fields["d"], scope["day"], int(fields["e"]), now)
    host = f"sts.{scope['region']}.amazonaws.com" + (".cn" if scope["region"].startswith("cn-") else "")
    return StsRequest(
        host=host,
        path="/?" + urlencode(_query(fields), quote_via=quote, safe="-_.~"),
        headers={"Host": host, SERVER_ID_HEADER: fields["h"], "Accept": "text/xml"},
        expires_at=expires_at,
    )


def _query(fields: dict[str, str]) -> dict[str, str]:
    query = {
        "Action": "GetCallerIdentity",
        "Version": "2011-06-15",
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
        "X-Amz-Credential": fields["c"],
        "X-Amz-Date": fields["d"],
        "X-Amz-Expires": fields["e"],
        "X-Amz-SignedHeaders": f"host;{SERVER_ID_HEADER}",
    }
    if "t" in fields:
        query["X-Amz-Security-Token"] = fields["t"]
    return query | {"X-Amz-Signature": fields["s"]}


def _expiry(date: str, day: str, seconds: int, now: float) -> float:
    try:
        signed_at = datetime.strptime(date, "%Y%m%dT%H%M%SZ").replace(tzinfo=timezone.utc)
    except ValueError:
        raise Unauthenticated("the token is malformed") from None
    current = datetime.fromtimestamp(now, timezone.utc)
    if date[:8] != day or seconds > MAX_AGE.total_seconds():
        raise Unauthenticated("the token is malformed")
    if signed_at - current > MAX_SKEW:
        raise Unauthenticated("the token was signed in the future: is the clock of the client right?")
    expires_at = signed_at + timedelta(seconds=seconds)
    if current >= expires_at:
        raise Unauthenticated("the token has expired: sign a new one, and check the clock of the client")
    return expires_at.timestamp()


def _fields(token: str) -> dict[str, str]:
    """The fields of a token: all of the right names, each a string of the right form, in one spelling only."""
    if len(token) > MAX_BYTES or not token.startswith(PREFIX):
        raise Unauthenticated("the token is malformed")
    encoded = token[len(PREFIX) :]
    if _BASE64URL.fullmatch(encoded) is None:
        raise Unauthenticated("the token is malformed")
    try:
        raw = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
        if base64.urlsafe_b64encode(raw).rstrip(b"=").decode() != encoded:
            raise ValueError("bits after the end")
        fields = json.loads(raw, object_pairs_hook=_once)
    except (ValueError, binascii.Error, RecursionError):
        raise Unauthenticated("the token is malformed") from None
    if not isinstance(fields, dict) or not _REQUIRED <= fields.keys() <= _PATTERNS.keys():
        raise Unauthenticated("the token is malformed")
    for name, value in fields.items():
        if not isinstance(value, str) or _PATTERNS[name].fullmatch(value) is None:
            raise Unauthenticated("the token is malformed")
    # JSON has blanks, escapes, byte order marks and other encodings: with them a token would have many spellings
    if json.dumps(fields, separators=(",", ":")).encode() != raw:
        raise Unauthenticated("the token is malformed")
    return fields


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a field stands twice")
    return fields
