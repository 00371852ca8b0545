"""Makes the two kinds of token: a signed question to STS that is never sent, and a JWT that STS gives."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import BotoCoreError, ClientError
from mlflow.exceptions import MlflowException

LIFETIME_SECONDS = 900
"""STS takes a signature for 15 minutes at most (aws-iam-authenticator, pkg/token/token.go)."""

MAX_BYTES = 8192
PREFIX = "mlflow-aws-v1."
SERVER_ID_HEADER = "x-mlflow-server-id"

_REGION = re.compile(r"[a-z]{2}(-[a-z]+){1,3}-[0-9]{1,2}")


@dataclass(frozen=True, kw_only=True)
class Token:
    """What is sent as bearer; it holds until `expires_at`, in seconds since 1970."""

    value: str = field(repr=False)
    expires_at: float


def sign(credentials: ReadOnlyCredentials, *, host: str, region: str, now: float) -> Token:
    """Signs GetCallerIdentity of the STS in `region`, bound to `host`, the name that the caller knows the server by.

    The host is a signed header. So only a server of that name can use the token, and a server that receives it
    cannot pass it on to another one. Nothing is sent to AWS. Raises MlflowException.
    """
    if not _REGION.fullmatch(region):
        raise MlflowException(
            f"{region!r} is not the name of an AWS region: set MLFLOW_AWS_IAM_REGION, for example to eu-west-1."
        )
    sts = f"sts.{region}.amazonaws.com" + (".cn" if region.startswith("cn-") else "")
    date = datetime.fromtimestamp(int(now), timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    fields = {
        "c": f"{credentials.access_key}/{date[:8]}/{region}/sts/aws4_request",
        "d": date,
        "e": f"{LIFETIME_SECONDS}",
        "h": host,
    }
    if credentials.token:
        fields["t"] = credentials.token
    request = AWSRequest(
        "GET",
        f"https://{sts}/",
        headers={"host": sts, SERVER_ID_HEADER: host},
        params={
            "Action": "GetCallerIdentity",
            "Version": "2011-06-15",
            "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
            "X-Amz-Credential": fields["c"],
            "X-Amz-Date": fields["d"],
            "X-Amz-Expires": fields["e"],
            "X-Amz-SignedHeaders": f"host;{SERVER_ID_HEADER}",
        }
        | ({"X-Amz-Security-Token": fields["t"]} if "t" in fields else {}),
    )
    # not `SigV4QueryAuth.add_auth`: it writes the session token and the signature to the debug log
    signer = SigV4Auth(credentials, "sts", region)
    request.context["timestamp"] = date
    fields["s"] = signer.signature(signer.string_to_sign(request, signer.canonical_request(request)), request)
    document = json.dumps(fields, separators=(",", ":"), sort_keys=True).encode()
    value = PREFIX + base64.urlsafe_b64encode(document).decode().rstrip("=")
    if len(value) > MAX_BYTES:
        raise MlflowException(
            f"The session token of your AWS credentials is too long ({len(credentials.token)} bytes): use a "
            "session with fewer or shorter session tags."
        )
    return Token(value=value, expires_at=float(int(now) + LIFETIME_SECONDS))


def web_identity_token(sts: Any, *, host: str) -> Token:
    """A JWT in which STS states who the caller is to the audience `host`. Raises MlflowException."""
    if not hasattr(sts, "get_web_identity_token"):
        raise MlflowException(
            "This botocore is too old for MLFLOW_AWS_IAM_WEB_IDENTITY=true: pip install --upgrade botocore"
        )
    try:
        answer = sts.get_web_identity_token(
            Audience=[host], SigningAlgorithm="RS256", DurationSeconds=LIFETIME_SECONDS
        )
    except (BotoCoreError, ClientError) as error:
        raise MlflowException(
            f"STS gave no web identity token for {host} (MLFLOW_AWS_IAM_WEB_IDENTITY=true): {error} "
            "You need the permission sts:GetWebIdentityToken, and the account needs outbound identity federation."
        ) from error
    return Token(value=answer["WebIdentityToken"], expires_at=answer["Expiration"].timestamp())
