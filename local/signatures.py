"""Signature Version 4, checked: who signed a request, in the order and the words of AWS's refusals.

AWS describes the signature at https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv.html; botocore
makes it anew here from the request that arrived.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from urllib.parse import parse_qsl, quote

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.compat import HTTPHeaders
from botocore.credentials import Credentials as Keys
from moto.core.request import Request
from moto.utilities.utils import get_partition
from werkzeug.datastructures import Headers

from local.credentials import AccessKey, Credentials
from local.endpoint import ServiceError

# X-Amz-Expires is for S3: other services give a signature these minutes
_PAST, _FUTURE = timedelta(minutes=15), timedelta(minutes=5)
_DATE = "%Y%m%dT%H%M%SZ"
_ALGORITHM = "AWS4-HMAC-SHA256"
_HOST = re.compile(r"[a-z0-9-]+\.(?:([a-z0-9-]+)\.)?amazonaws\.com(?:\.cn)?")
_REGION = re.compile("[a-z]{2}(-[a-z]+)+-[0-9]")
_INVALID_TOKEN = "The security token included in the request is invalid"  # noqa: S105 - a message


@dataclass(frozen=True)
class Signature:
    """What a request says about its signature, in its query or in its headers."""

    presigned: bool
    algorithm: str
    credential: str
    date: str
    signed_headers: str
    signature: str
    token: str | None

    @property
    def scope(self) -> list[str]:
        """Date, region, service and terminator of the credential."""
        return self.credential.split("/")[1:]


class Verifier:
    """Checks the signatures of requests to one service; `clock` is for tests."""

    def __init__(self, service: str, credentials: Credentials) -> None:
        self._service, self._credentials = service, credentials
        self.clock: Callable[[], datetime] = lambda: datetime.now(timezone.utc)

    def verify(self, request: Request) -> AccessKey:
        """The access key that signed a request. Raises ServiceError."""
        repeated = [name for name, times in Counter(_names(request)).items() if times > 1]
        if repeated:
            raise _refusal("MalformedQueryString", f"Duplicate parameter: {repeated[0]}", status=400)
        signature = _signature(request)
        self._check_date(signature)
        headers = signature.signed_headers.split(";")
        if "host" not in headers:
            message = "'Host' or ':authority' must be a 'SignedHeader' in the AWS Authorization."
            raise _refusal("SignatureDoesNotMatch", message)
        if signature.algorithm != _ALGORITHM:
            message = f"Unsupported AWS 'algorithm': '{signature.algorithm}' (only {_ALGORITHM} for now)."
            raise _refusal("IncompleteSignature", message, status=400)
        self._check_scope(signature, request.host)
        key = self._credentials.key(signature.credential.split("/")[0])
        # no partition knows the keys of another
        if key is None or get_partition(signature.scope[1]) != self._credentials.partition:
            raise _refusal("InvalidClientTokenId", f"{_INVALID_TOKEN}.")
        made = _sign(request, signature, headers, key)
        digest = hashlib.sha256(request.get_data()).hexdigest()
        if (
            not hmac.compare_digest(made.encode(), signature.signature.encode())
            or request.headers.get("X-Amz-Content-SHA256", digest) != digest
        ):
            message = (
                "The request signature we calculated does not match the signature you provided. Check your AWS "
                "Secret Access Key and signing method. Consult the service documentation for details."
            )
            raise _refusal("SignatureDoesNotMatch", message)
        self._check_token(signature, key)
        return key

    def _check_date(self, signature: Signature) -> None:
        try:
            date = datetime.strptime(signature.date, _DATE).replace(tzinfo=timezone.utc)
        except ValueError:
            message = f"Date must be in ISO-8601 'basic format'. Got '{signature.date}'."
            raise _refusal("IncompleteSignature", message, status=400) from None
        now = self.clock()
        oldest, newest = now - _PAST, now + _FUTURE
        if date < oldest:
            message = f"Signature expired: {signature.date} is now earlier than {oldest:{_DATE}}"
            raise _refusal("SignatureDoesNotMatch", f"{message} ({now:{_DATE}} - 15 min.)")
        if date > newest:
            message = f"Signature not yet current: {signature.date} is still later than {newest:{_DATE}}"
            raise _refusal("SignatureDoesNotMatch", f"{message} ({now:{_DATE}} + 5 min.)")

    def _check_scope(self, signature: Signature, host: str) -> None:
        if len(signature.scope) != 4:
            message = (
                "Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/term, "
                f"got '{signature.credential}'"
            )
            raise _refusal("IncompleteSignature", message, status=400)
        day, region, service, terminator = signature.scope
        wrong = []
        if not _serves(host, region):
            wrong.append("Credential should be scoped to a valid region.")
        if service != self._service:
            wrong.append(f"Credential should be scoped to correct service: '{self._service}'.")
        if terminator != "aws4_request":
            wrong.append(
                f"Credential should be scoped with a valid terminator: 'aws4_request', not '{terminator}'."
            )
        if day != signature.date[:8]:
            wrong.append(
                "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: "
                f"'{day}' != '{signature.date[:8]}', from '{signature.date}'."
            )
        if wrong:
            raise _refusal("SignatureDoesNotMatch", " ".join(wrong))

    def _check_token(self, signature: Signature, key: AccessKey) -> None:
        session = key.caller.session
        wanted = None if session is None else session.session_token
        if (signature.token or None) != wanted:
            raise _refusal("InvalidClientTokenId", _INVALID_TOKEN)
        if session is not None and session.expiration <= self.clock():
            raise _refusal("ExpiredToken", "The security token included in the request is expired")


def _serves(host: str, region: str) -> bool:
    """Whether a host is the region's; the global one of STS is us-east-1's, and loopback every region's."""
    match = _HOST.fullmatch(host)
    if match is None:
        return _REGION.fullmatch(region) is not None
    return region == (match[1] or "us-east-1")


def _refusal(code: str, message: str, *, status: int = 403) -> ServiceError:
    error = ServiceError(code, message)
    error.status = status
    return error


def _query(request: Request) -> list[tuple[str, str]]:
    return parse_qsl(request.query_string.decode("ascii", "replace"), keep_blank_values=True)


def _names(request: Request) -> list[str]:
    return [name for name, _ in _query(request)] + [name for name, _ in request.form.items(multi=True)]


def _signature(request: Request) -> Signature:
    """Where a request's signature is. Raises ServiceError where there is none, or half of one, or two."""
    query, header = dict(_query(request)), request.headers.get("Authorization", "")
    if "X-Amz-Algorithm" in query and header:
        message = "Found both 'X-Amz-Algorithm' as a query-string param and 'Authorization' as HTTP header."
        raise _refusal("SignatureDoesNotMatch", message)
    if "X-Amz-Algorithm" in query:
        return _presigned(query, request.headers)
    if not header.startswith("AWS4-"):
        raise _refusal("MissingAuthenticationToken", "Request is missing Authentication Token")
    algorithm, _, rest = header.partition(" ")
    parts = dict(part.strip().partition("=")[::2] for part in rest.split(","))
    date = request.headers.get("X-Amz-Date", "")
    missing = [
        f"Authorization header requires '{name}' parameter."
        for name in ("Credential", "Signature", "SignedHeaders")
        if not parts.get(name)
    ]
    if not date:
        missing.append("Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header.")
    if missing:
        raise _refusal("IncompleteSignature", " ".join([*missing, f"Authorization={algorithm}"]), status=400)
    return Signature(
        presigned=False,
        algorithm=algorithm,
        credential=parts["Credential"],
        date=date,
        signed_headers=parts["SignedHeaders"],
        signature=parts["Signature"],
        token=request.headers.get("X-Amz-Security-Token"),
    )


def _presigned(query: Mapping[str, str], headers: Headers) -> Signature:
    names = ("X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Signature", "X-Amz-SignedHeaders", "X-Amz-Date")
    missing = [f"AWS query-string parameters must include '{name}'." for name in names if not query.get(name)]
    if missing:
        message = " ".join([*missing, "Re-examine the query-string parameters."])
        raise _refusal("IncompleteSignature", message, status=400)
    return Signature(
        presigned=True,
        algorithm=query["X-Amz-Algorithm"],
        credential=query["X-Amz-Credential"],
        date=query["X-Amz-Date"],
        signed_headers=query["X-Amz-SignedHeaders"],
        signature=query["X-Amz-Signature"],
        token=query.get("X-Amz-Security-Token") or headers.get("X-Amz-Security-Token"),
    )


class _Signer(SigV4Auth):  # type: ignore[misc]
    """botocore's signer, of exactly the headers that it is given."""

    def headers_to_sign(self, request: AWSRequest) -> HTTPHeaders:
        """All of them; botocore leaves some out."""
        return request.headers


def _sign(request: Request, signature: Signature, names: list[str], key: AccessKey) -> str:
    """The signature that the owner of a key would have made of this request."""
    pairs = [(name, value) for name, value in _query(request) if name != "X-Amz-Signature"]
    query = "&".join(f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}" for name, value in pairs)
    headers = HTTPHeaders()
    for name in names:
        headers[name] = request.host if name == "host" else request.headers.get(name, "")
    signed = AWSRequest(
        method=request.method,
        url=f"http://{request.host}{quote(request.path, safe='/~')}?{query}",
        headers=headers,
        data=request.get_data(),
    )
    _, region, service, _ = signature.scope
    signed.context["timestamp"] = signature.date
    signer = _Signer(Keys("", key.secret), service, region)
    return str(signer.signature(signer.string_to_sign(signed, signer.canonical_request(signed)), signed))
