"""OIDC providers that the account trusts: whether a web identity token is one of theirs."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import jwt

from local.endpoint import ServiceError
from local.principals import Principals

_ALGORITHMS = ("RS256", "RS384", "RS512", "ES256", "ES384", "ES512")
_SECONDS = 5.0
_LOOPBACK = ("localhost", "127.0.0.1")


@dataclass(frozen=True)
class WebIdentity:
    """What a provider says about somebody. `keys` are the condition keys that it gives."""

    provider_arn: str
    issuer: str
    subject: str
    audience: str
    keys: dict[str, Any]


def verify(principals: Principals, token: str, *, own_issuer: str) -> WebIdentity:
    """Read a token of one of the account's providers. Raises ServiceError, as AWS refuses others."""
    try:
        header = jwt.get_unverified_header(token)
        issuer = str(jwt.decode(token, options={"verify_signature": False})["iss"])
    except (jwt.PyJWTError, KeyError):
        raise _invalid(
            "The ID Token provided is not a valid JWT. (You may see this error if you sent an Access Token)"
        ) from None
    name = issuer.partition("://")[2].rstrip("/")
    providers = {item.url.rstrip("/"): item for item in principals.iam.open_id_providers.values()}
    if name not in providers or issuer == own_issuer:  # STS does not take its own tokens
        raise _invalid(f"No OpenIDConnect provider found in your account for {issuer}")
    provider = providers[name]
    keys = {str(entry.get("kid")): entry for entry in _published(issuer)}
    try:
        key = jwt.PyJWK(keys[str(header.get("kid"))], header["alg"])
        claims = jwt.decode(
            token,
            key,
            algorithms=list(_ALGORITHMS),
            audience=provider.client_id_list,
            options={"require": ["exp", "iat", "sub", "aud"]},
        )
    except jwt.ExpiredSignatureError:
        raise ServiceError(
            "ExpiredTokenException", "Token expired: current date/time must be before it"
        ) from None
    except jwt.InvalidAudienceError:
        raise _invalid("Incorrect token audience") from None
    except (jwt.PyJWTError, KeyError):
        raise _invalid("Couldn't verify the signature of the token") from None
    audience = claims["aud"] if isinstance(claims["aud"], str) else claims["aud"][0]
    subject = str(claims["sub"])
    keys_of_provider = {f"{name}:aud".lower(): audience, f"{name}:sub".lower(): subject}
    return WebIdentity(provider.arn, issuer, subject, audience, keys_of_provider)


def _published(issuer: str) -> list[dict[str, Any]]:
    """The keys of an issuer."""
    try:
        discovery = _fetch(f"{issuer.rstrip('/')}/.well-known/openid-configuration")
        keys: list[dict[str, Any]] = _fetch(discovery["jwks_uri"])["keys"]
    except (OSError, ValueError, KeyError):
        message = "Error connecting to the identity provider: its keys cannot be read"
        raise ServiceError("IDPCommunicationErrorException", message) from None
    return keys


def _fetch(url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    if parts.scheme != "https" and parts.hostname not in _LOOPBACK:
        raise ValueError(f"not HTTPS: {url}")
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=_SECONDS) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def _invalid(message: str) -> ServiceError:
    return ServiceError("InvalidIdentityTokenException", message)
