"""Asks STS whose signature a token bears."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Collection
from urllib.parse import urlsplit
from xml.etree import ElementTree

import urllib3

from tracking_server.access.caller import identify
from tracking_server.access.errors import Unauthenticated, Unavailable
from tracking_server.access.proof import Proof
from tracking_server.access.tokens import PREFIX, StsRequest, read

CONNECT_SECONDS, READ_SECONDS, WHOLE_SECONDS = 2.0, 5.0, 8.0
MAX_ANSWER_BYTES = 4096

_NAMESPACE = "{https://sts.amazonaws.com/doc/2011-06-15/}"
_CODE = re.compile(rb"<Code>([A-Za-z]{1,64})</Code>")

REFUSALS = {
    "ExpiredToken": "the AWS credentials have expired: log in again",
    "ExpiredTokenException": "the AWS credentials have expired: log in again",
    "InvalidClientTokenId": "AWS does not know these credentials",
    "SignatureDoesNotMatch": "AWS does not confirm the signature",
}
"""Error codes of STS (https://docs.aws.amazon.com/STS/latest/APIReference/CommonErrors.html) and what they mean."""

OVERLOADED = frozenset({"Throttling", "ThrottlingException", "RequestLimitExceeded", "ServiceUnavailable"})


class StsTokens:
    """Reads the tokens of the kit's clients.

    `names` and `regions` are what this server accepts; `tracking_server_arn` tells its account and partition.
    """

    via = "token"

    def __init__(self, *, names: Collection[str], regions: Collection[str], tracking_server_arn: str) -> None:
        self._names, self._regions = frozenset(names), frozenset(regions)
        self._arn = tracking_server_arn
        # as for every SDK of AWS; a server on AWS has neither, and asks the host that the request was signed for
        self._endpoint = os.environ.get("AWS_ENDPOINT_URL_STS") or os.environ.get("AWS_ENDPOINT_URL")
        # what it warns of names the URL, and that is the token
        logging.getLogger("urllib3.connection").setLevel(logging.ERROR)
        # no proxy, no redirect and no second try: exactly one request to exactly one host
        self._http = urllib3.PoolManager(
            num_pools=len(self._regions),
            maxsize=16,
            retries=False,
            timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS),
            cert_reqs="CERT_REQUIRED",
            ca_certs=os.environ.get("AWS_CA_BUNDLE"),
        )

    def recognises(self, text: str) -> bool:
        """Whether `text` claims to be such a token."""
        return text.startswith(PREFIX)

    def prove(self, text: str) -> Proof:
        """Who signed the token. Blocks. Raises Unauthenticated, or Unavailable when STS cannot tell."""
        request = read(text, names=self._names, regions=self._regions, now=time.time())
        status, content_type, body = self._send(request)
        if status != 200:
            raise _refusal(status, body)
        fields = _parse(content_type, body)
        caller = identify(
            arn=fields["Arn"], user_id=fields["UserId"], account=fields["Account"], own_arn=self._arn
        )
        return Proof(caller=caller, expires_at=request.expires_at)

    def _send(self, request: StsRequest) -> tuple[int, str, bytes]:
        base = self._endpoint.rstrip("/") if self._endpoint else f"https://{request.host}"
        deadline = time.monotonic() + WHOLE_SECONDS
        try:
            answer = self._http.request(
                "GET",
                base + request.path,
                headers=request.headers,
                redirect=False,
                preload_content=False,
                decode_content=False,
            )
            try:
                body = b""
                while chunk := answer.read1(MAX_ANSWER_BYTES + 1):
                    body += chunk
                    if len(body) > MAX_ANSWER_BYTES or time.monotonic() > deadline:
                        raise Unavailable("STS gave no proper answer")
            except BaseException:
                answer.close()
                raise
            answer.release_conn()
        except (urllib3.exceptions.HTTPError, OSError):
            place = urlsplit(base).hostname
            raise Unavailable(f"STS at {place} cannot be reached to confirm who calls; try again") from None
        return answer.status, answer.headers.get("Content-Type", ""), body


def _refusal(status: int, body: bytes) -> Exception:
    found = _CODE.search(body)
    code = found[1].decode() if found else ""
    if status not in (400, 403) or code in OVERLOADED:
        return Unavailable("STS cannot confirm now who calls; try again")
    return Unauthenticated(REFUSALS.get(code, "AWS does not confirm the identity"))


def _parse(content_type: str, body: bytes) -> dict[str, str]:
    """Arn, UserId and Account of an answer that is exactly of STS's form. Raises Unavailable for any other."""
    nonsense = Unavailable("STS gave no proper answer")
    if content_type.partition(";")[0].strip().lower() not in ("text/xml", "application/xml") or b"<!" in body:
        raise nonsense
    try:
        # decoded here: in UTF-16 declarations would not have been seen above
        root = ElementTree.fromstring(body.decode())  # noqa: S314 - 4 KiB at most, and no declarations
    except (ElementTree.ParseError, ValueError):
        raise nonsense from None
    results = root.findall(f"{_NAMESPACE}GetCallerIdentityResult")
    if root.tag != f"{_NAMESPACE}GetCallerIdentityResponse" or len(results) != 1:
        raise nonsense
    fields = {}
    for name in ("Arn", "UserId", "Account"):
        found = results[0].findall(f"{_NAMESPACE}{name}")
        if len(found) != 1 or len(found[0]) or not found[0].text:
            raise nonsense
        fields[name] = found[0].text.strip()
    return fields
