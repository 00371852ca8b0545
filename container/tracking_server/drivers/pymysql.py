"""PyMySQL, set up as `tracking_server.drivers` promises."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import pymysql

from tracking_server.drivers import UNVERIFIED, Patience
from tracking_server.drivers.keep_alive import keep_alive
from tracking_server.secrets import Account


class _Connection(pymysql.connections.Connection):
    """A PyMySQL connection that is impatient while it is set up or pinged, whatever its queries may take."""

    def __init__(self, *, patience: Patience, **parameters: Any) -> None:
        self._connect_seconds = patience.connect_seconds
        super().__init__(
            connect_timeout=patience.connect_seconds,
            read_timeout=patience.query_seconds,
            write_timeout=patience.query_seconds,
            **parameters,
        )

    def connect(self, sock: Any = None) -> None:
        with self._impatient():
            super().connect(sock)
        transport: socket.socket = self._sock  # type: ignore[attr-defined]
        keep_alive(transport)

    def ping(self, reconnect: Any = False) -> None:
        with self._impatient():
            super().ping(reconnect)

    @contextmanager
    def _impatient(self) -> Iterator[None]:
        patience: int | None = self._read_timeout
        self._read_timeout: int | None = self._connect_seconds
        try:
            yield
        finally:
            self._read_timeout = patience


def version() -> str:
    """The driver's name and version."""
    return f"PyMySQL {pymysql.__version__}"


def connect(
    parameters: Mapping[str, Any], *, account: Account, ca_bundle: Path, patience: Patience
) -> _Connection:
    """A connection, as `tracking_server.drivers.Driver` promises."""
    try:
        return _Connection(
            # bytes: PyMySQL would encode text as Latin-1
            user=account.username.encode(),
            password=account.password.encode(),
            ssl=_verified(ca_bundle),
            patience=patience,
            **parameters,
        )
    except pymysql.OperationalError as error:
        cause = getattr(error, "original_exception", None)
        if isinstance(cause, ssl.SSLCertVerificationError):
            raise pymysql.OperationalError(UNVERIFIED, str(cause)) from error
        raise


@lru_cache(maxsize=1)
def _verified(ca_bundle: Path) -> ssl.SSLContext:
    """Verifies authority and host name. Kept: reading the bundle takes longer than connecting does."""
    return ssl.create_default_context(cafile=str(ca_bundle))
