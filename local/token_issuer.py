"""Outbound identity federation: JWTs in which STS states to others who calls it, and the keys to check them with.

https://docs.aws.amazon.com/IAM/latest/UserGuide/id_roles_providers_outbound_token_claims.html
"""

from __future__ import annotations

import json
import time
import uuid
from datetime import datetime, timezone
from functools import cached_property
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from local.credentials import Caller, Credentials
from local.endpoint import CURRENT_CALL, Operation, ServiceError
from local.principals import tags

ROUTE = "web-identity"
_CLAIMS = "https://sts.amazonaws.com/"
_SHORTEST, _USUAL, _LONGEST = 60, 300, 3600  # seconds that a token may be good for
_KEY_IDS = {"RS256": "RSA_0", "ES384": "EC384_0"}


class TokenIssuer:
    """The account's issuer. Its URL is on loopback, where AWS has a host of its own for each account."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self._id = str(uuid.uuid4())
        self._enabled = False

    @property
    def url(self) -> str:
        """What tokens name as their issuer."""
        return f"{self._credentials.endpoint}/{ROUTE}/{self._id}"

    @property
    def iam_operations(self) -> dict[str, Operation]:
        """The operations of IAM with which an account opts in and out."""
        return {
            "EnableOutboundWebIdentityFederation": self._enable,
            "DisableOutboundWebIdentityFederation": self._disable,
            "GetOutboundWebIdentityFederationInfo": self._info,
        }

    def serve(self, method: str, path: str) -> tuple[int, bytes]:
        """Answer a request for the discovery document or the keys."""
        documents = {
            f"{self._id}/.well-known/openid-configuration": self._discovery,
            f"{self._id}/.well-known/jwks.json": self._key_set,
        }
        if method != "GET" or path not in documents:
            return 404, b"{}"
        return 200, json.dumps(documents[path]()).encode()

    def token(self, caller: Caller, request: dict[str, Any]) -> dict[str, Any]:
        """Answer GetWebIdentityToken. Raises ServiceError."""
        if not self._enabled:
            raise ServiceError(
                "OutboundWebIdentityFederationDisabledException",
                "Outbound web identity federation is not enabled for this account.",
            )
        seconds, algorithm = int(request.get("DurationSeconds", _USUAL)), request["SigningAlgorithm"]
        _check(request, seconds, algorithm)
        now = int(time.time())
        session = caller.session
        if session is not None and now + seconds > session.expiration.timestamp():
            raise ServiceError(
                "SessionDurationEscalationException",
                "The requested token duration would extend the session beyond its original expiration time.",
            )
        audience = request["Audience"]
        claims = {
            "iss": self.url,
            "aud": audience[0] if len(audience) == 1 else audience,
            "sub": caller.principal,
            "iat": now,
            "exp": now + seconds,
            "jti": str(uuid.uuid4()),
            _CLAIMS: self._identity(caller) | _labels("request_tags", _pairs(request.get("Tags", []))),
        }
        token = jwt.encode(claims, self._keys[algorithm], algorithm, headers={"kid": _KEY_IDS[algorithm]})
        return {
            "WebIdentityToken": token,
            "Expiration": datetime.fromtimestamp(now + seconds, timezone.utc),
        }

    def _identity(self, caller: Caller) -> dict[str, Any]:
        identity: dict[str, Any] = {
            "aws_account": self._credentials.account,
            "source_region": CURRENT_CALL.get().region,
            "principal_id": caller.principal,
        }
        if self._credentials.organization is not None:
            identity["org_id"] = self._credentials.organization
        session = caller.session
        if session is None:
            labels = {} if caller.arn.endswith(":root") else tags(self._credentials.entity(caller))
            return identity | _labels("principal_tags", labels)
        identity["original_session_exp"] = session.expiration.strftime("%Y-%m-%dT%H:%M:%SZ")
        if session.source_identity:
            identity["source_identity"] = session.source_identity
        return identity | _labels(
            "principal_tags", {**tags(self._credentials.entity(caller)), **session.tags}
        )

    @cached_property
    def _keys(self) -> dict[str, Any]:
        return {
            "RS256": rsa.generate_private_key(public_exponent=65537, key_size=2048),
            "ES384": ec.generate_private_key(ec.SECP384R1()),
        }

    def _discovery(self) -> dict[str, Any]:
        return {
            "issuer": self.url,
            "jwks_uri": f"{self.url}/.well-known/jwks.json",
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": list(_KEY_IDS),
        }

    def _key_set(self) -> dict[str, Any]:
        public = {
            "RS256": RSAAlgorithm.to_jwk(self._keys["RS256"].public_key(), as_dict=True),
            "ES384": ECAlgorithm.to_jwk(self._keys["ES384"].public_key(), as_dict=True),
        }
        own = ("kty", "n", "e", "crv", "x", "y")
        return {
            "keys": [
                {"kid": _KEY_IDS[name], "alg": name, "use": "sig"}
                | {key: jwk[key] for key in own if key in jwk}
                for name, jwk in public.items()
            ]
        }

    def _enable(self, request: dict[str, Any]) -> dict[str, Any]:
        if self._enabled:
            raise ServiceError("FeatureEnabledException", "Outbound identity federation is already enabled.")
        self._enabled = True
        return {"IssuerIdentifier": self.url}

    def _disable(self, request: dict[str, Any]) -> dict[str, Any]:
        self._must_be_enabled()
        self._enabled = False
        return {}

    def _info(self, request: dict[str, Any]) -> dict[str, Any]:
        self._must_be_enabled()
        return {"IssuerIdentifier": self.url, "JwtVendingEnabled": True}

    def _must_be_enabled(self) -> None:
        if not self._enabled:
            raise ServiceError("FeatureDisabledException", "Outbound identity federation is not enabled.")


def _check(request: dict[str, Any], seconds: int, algorithm: str) -> None:
    wrong = None
    if not _SHORTEST <= seconds <= _LONGEST:
        wrong = f"Value '{seconds}' at 'durationSeconds' must be from {_SHORTEST} to {_LONGEST}"
    elif algorithm not in _KEY_IDS:
        wrong = f"Value '{algorithm}' at 'signingAlgorithm' must be one of {', '.join(_KEY_IDS)}"
    elif not 1 <= len(request.get("Audience", [])) <= 10:
        wrong = "Value at 'audience' must have from 1 to 10 members"
    if wrong:
        error = ServiceError("ValidationError", f"1 validation error detected: {wrong}")
        error.status = 400
        raise error


def _pairs(labels: list[dict[str, str]]) -> dict[str, str]:
    return {item["Key"]: item["Value"] for item in labels}


def _labels(claim: str, labels: dict[str, str]) -> dict[str, Any]:
    """A claim that is there only when it says something."""
    return {claim: labels} if labels else {}
