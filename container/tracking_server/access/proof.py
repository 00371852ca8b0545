"""What a proof of identity comes to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from tracking_server.access.caller import Caller


@dataclass(frozen=True, kw_only=True, slots=True)
class Proof:
    """A proved caller; the proof holds until `expires_at`, in seconds since 1970."""

    caller: Caller
    expires_at: float


class Prover(Protocol):
    """One way to prove an identity. `via` is its name in the audit."""

    via: str

    def recognises(self, text: str) -> bool:
        """Whether `text`, what stands behind `Bearer`, is of this kind."""

    def prove(self, text: str) -> Proof:
        """Who it proves. May block. Raises Unauthenticated or Unavailable."""
