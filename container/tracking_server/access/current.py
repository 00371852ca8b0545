"""Who is calling, for code below the gate. It cannot be set from outside, as a header could."""

from __future__ import annotations

from contextvars import ContextVar

from tracking_server.access.caller import Caller

CALLER: ContextVar[Caller | None] = ContextVar("CALLER", default=None)

ADMINISTERS: ContextVar[bool] = ContextVar("ADMINISTERS", default=False)
"""Whether IAM lets the caller administer users."""
