"""What the server itself signs: bearers, one-use URLs and browser sessions.

All tasks share the key, so what one has signed another one reads. A purpose and the server's ARN are part of each
signature: a bearer is no session, and nothing of one server means anything to another.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from dataclasses import dataclass
from typing import Literal

from itsdangerous import BadData, URLSafeSerializer

from tracking_server.access.caller import Caller
from tracking_server.access.errors import Unauthenticated

Purpose = Literal["bearer", "open", "session"]

BEARER_PREFIX = "mlflow-bearer-v1."
BEARER_SECONDS = 3600
OPEN_SECONDS = range(5, 300 + 1)
"""How long a one-use URL may wait: https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_CreatePresignedMlflowTrackingServerUrl.html"""
SESSION_SECONDS = range(1800, 43200 + 1)
"""How long a browser session may last: the same page."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ticket:
    """A signed statement that `caller` proved to be who they are; `id` names it alone."""

    caller: Caller
    id: str
    expires_at: float
    session_seconds: int = 0


class Signer:
    """Signs and reads tickets. `key` is secret and the same for every task of the server."""

    def __init__(self, *, key: str, tracking_server_arn: str) -> None:
        self._serializers = {
            purpose: URLSafeSerializer(
                key,
                salt=f"{purpose}|{tracking_server_arn}",
                signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256},
            )
            for purpose in ("bearer", "open", "session")
        }

    def sign(self, purpose: Purpose, caller: Caller, *, seconds: int, session_seconds: int = 0) -> str:
        """A ticket that holds for `seconds`, and that nobody else can make."""
        claims = {
            "arn": caller.arn,
            "uid": caller.unique_id,
            "acct": caller.account,
            "kind": caller.kind,
            "name": caller.name,
            "sess": caller.session,
            "jti": secrets.token_urlsafe(16),
            "exp": int(time.time()) + seconds,
            "ttl": session_seconds,
        }
        return str(self._serializers[purpose].dumps(claims))

    def read(self, purpose: Purpose, text: str) -> Ticket:
        """The ticket that was signed for this purpose, if it still holds. Raises Unauthenticated."""
        try:
            claims = self._serializers[purpose].loads(text)
        except BadData:
            raise Unauthenticated(f"this {_NAMES[purpose]} was not made by this server") from None
        if time.time() >= claims["exp"]:
            raise Unauthenticated(f"this {_NAMES[purpose]} has expired")
        caller = Caller(
            arn=claims["arn"],
            unique_id=claims["uid"],
            account=claims["acct"],
            kind=claims["kind"],
            name=claims["name"],
            session=claims["sess"],
        )
        return Ticket(
            caller=caller,
            id=claims["jti"],
            expires_at=float(claims["exp"]),
            session_seconds=claims["ttl"],
        )


_NAMES = {"bearer": "token", "open": "link", "session": "session"}
