"""Bearers: what the server gives in trade for a proof of identity, for clients that cannot sign."""

from __future__ import annotations

from tracking_server.access.caller import Caller
from tracking_server.access.proof import Proof
from tracking_server.access.signed import BEARER_PREFIX, BEARER_SECONDS, Signer


class Bearers:
    """Makes and reads bearers."""

    via = "bearer"

    def __init__(self, signer: Signer) -> None:
        self._signer = signer

    def make(self, caller: Caller) -> tuple[str, int]:
        """A bearer for `caller` and how many seconds it holds."""
        return BEARER_PREFIX + self._signer.sign("bearer", caller, seconds=BEARER_SECONDS), BEARER_SECONDS

    def recognises(self, text: str) -> bool:
        """See Prover."""
        return text.startswith(BEARER_PREFIX)

    def prove(self, text: str) -> Proof:
        """See Prover."""
        ticket = self._signer.read("bearer", text.removeprefix(BEARER_PREFIX))
        return Proof(caller=ticket.caller, expires_at=ticket.expires_at)
