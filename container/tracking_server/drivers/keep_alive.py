"""Keeps a silent connection known to what lies between it and the database."""

from __future__ import annotations

import socket

IDLE_SECONDS = 60
"""Shorter than the 350 s after which AWS's network address translation forgets a silent connection."""


def keep_alive(transport: socket.socket) -> None:
    """Have the kernel ask the other side whether it is there: a long statement leaves a connection silent."""
    transport.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):
        transport.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, IDLE_SECONDS)
