"""STS web identity tokens: JWTs that AWS itself issues to a caller for an audience, here this server.

https://docs.aws.amazon.com/IAM/latest/UserGuide/id_roles_providers_outbound_token_claims.html (November 2026)
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Collection
from typing import Any

import jwt
import urllib3

from tracking_server.access.caller import Caller
from tracking_server.access.errors import Unauthenticated, Unavailable
from tracking_server.access.proof import Proof
from tracking_server.access.tokens import MAX_BYTES

ALGORITHMS = ("RS256", "ES384")
CLAIMS = "https://sts.amazonaws.com/"
MAX_KEYS_BYTES = 64 * 1024
MAX_SECONDS = 3600
KEYS_SECONDS = 3600
REFETCH_SECONDS = 30
"""An unknown key is looked for again at most so often: whoever invents key ids cannot make the server ask."""
_LEEWAY_SECONDS = 60


class WebIdentityTokens:
    """Reads tokens of `issuer`, the account's own, whose audience is a name of this server.

    `subjects` maps what a token names, the ARN of a role or user, to the caller.
    """

    via = "web-identity"

    def __init__(self, *, issuer: str, names: Collection[str], tracking_server_arn: str) -> None:
        self._issuer, self._names = issuer.rstrip("/"), sorted(names)
        self._arn = tracking_server_arn
        self._keys: dict[str, jwt.PyJWK] = {}
        self._fetched_at = float("-inf")
        self._lock = threading.Lock()
        self._http = urllib3.PoolManager(
            retries=False,
            timeout=urllib3.Timeout(connect=2.0, read=5.0),
            cert_reqs="CERT_REQUIRED",
            ca_certs=os.environ.get("AWS_CA_BUNDLE"),
        )

    def recognises(self, text: str) -> bool:
        """See Prover."""
        return text.startswith("eyJ") and text.count(".") == 2

    def prove(self, text: str) -> Proof:
        """See Prover."""
        if len(text) > MAX_BYTES:
            raise Unauthenticated("the web identity token is too long")
        try:
            header = jwt.get_unverified_header(text)
            key = self._key(str(header.get("kid")))
            if header.get("alg") not in ALGORITHMS or key.algorithm_name != header["alg"]:
                raise Unauthenticated("the web identity token bears no signature of a kind that AWS makes")
            claims = jwt.decode(
                text,
                key,
                algorithms=[key.algorithm_name],
                audience=self._names,
                issuer=self._issuer,
                leeway=_LEEWAY_SECONDS,
                options={"require": ["iss", "sub", "aud", "iat", "exp", "jti"], "strict_aud": False},
            )
        except jwt.PyJWTError as error:
            raise Unauthenticated(f"the web identity token does not hold: {error}") from None
        return Proof(caller=self._caller(claims), expires_at=_expiry(claims))

    def _caller(self, claims: dict[str, Any]) -> Caller:
        """The principal that the token names; IAM's own id is looked up by the engine, so it is left out here."""
        _, partition, _, _, account, _ = self._arn.split(":", 5)
        extra = claims.get(CLAIMS)
        extra = extra if isinstance(extra, dict) else {}
        prefix = f"arn:{partition}:iam::{account}:"
        subject = str(claims["sub"])
        if str(extra.get("aws_account")) != account or not subject.startswith(prefix):
            raise Unauthenticated(f"the web identity token is not of account {account}")
        kind, _, path = subject.removeprefix(prefix).partition("/")
        if kind not in ("role", "user") or not path:
            raise Unauthenticated("only IAM roles and IAM users may call")
        return Caller(
            arn=subject,
            unique_id=subject,
            account=account,
            kind="role" if kind == "role" else "user",
            name=path.rpartition("/")[2],
        )

    def _key(self, identifier: str) -> jwt.PyJWK:
        with self._lock:
            age = time.monotonic() - self._fetched_at
            if age > KEYS_SECONDS or (identifier not in self._keys and age > REFETCH_SECONDS):
                self._keys = self._fetch()
                self._fetched_at = time.monotonic()
            if identifier not in self._keys:
                raise Unauthenticated("the web identity token is signed with a key that AWS does not publish")
            return self._keys[identifier]

    def _fetch(self) -> dict[str, jwt.PyJWK]:
        url = f"{self._issuer}/.well-known/jwks.json"
        try:
            answer = self._http.request("GET", url, redirect=False, preload_content=False)
            body = answer.read(MAX_KEYS_BYTES + 1)
            answer.release_conn()
            if answer.status != 200 or len(body) > MAX_KEYS_BYTES:
                raise ValueError("no keys")
            entries = [dict(entry) for entry in json.loads(body)["keys"]]
        except (urllib3.exceptions.HTTPError, OSError, ValueError, KeyError, TypeError):
            raise Unavailable("the keys of the account's token issuer cannot be read; try again") from None
        return {str(entry["kid"]): key for entry in entries if (key := _usable(entry)) is not None}


def _usable(entry: dict[str, Any]) -> jwt.PyJWK | None:
    """A published key; None for one of a kind that is not known here, which must not spoil the others."""
    if not entry.get("kid"):
        return None
    try:
        return jwt.PyJWK(entry)
    except (jwt.PyJWTError, ValueError, KeyError, TypeError):
        return None


def _expiry(claims: dict[str, Any]) -> float:
    issued, expires = float(claims["iat"]), float(claims["exp"])
    if expires - issued > MAX_SECONDS:
        raise Unauthenticated("the web identity token holds for longer than AWS makes any")
    return expires
