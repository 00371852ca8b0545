"""Connections to the database: credentials, TLS, time limits and locks."""

# MLflow's functions bear no types
# mypy: allow-untyped-calls

from __future__ import annotations

import fcntl
import hashlib
import logging
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pymysql
import sqlalchemy
from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.pool import QueuePool, StaticPool

from tracking_server.secrets import DatabaseCredentials
from tracking_server.settings import DatabaseSettings, SQLiteSettings

logger = logging.getLogger(__name__)

# Error numbers: https://dev.mysql.com/doc/mysql-errors/8.4/en/
ACCESS_DENIED = frozenset({1045, 1698})
NOT_THERE_YET = frozenset({1040, 1053, 2002, 2003, 2006, 2013})

CONNECT_SECONDS = 5
"""How long a database may take to accept a connection, and to answer a ping on one from the pool."""

QUERY_SECONDS = 60
"""How long a request waits for an answer: an Application Load Balancer gives up on an idle one after 60 s."""

ROTATION_SECONDS = 20
"""How long a refused connection is tried again while a rotation is between the database and the secret."""

POOL_WAIT_SECONDS = 30
RECYCLE_SECONDS = 1800


class DatabaseError(RuntimeError):
    """The database cannot be used and waiting will not help; the message says why."""


class _Connection(pymysql.connections.Connection):
    """A PyMySQL connection that is impatient while it is set up or pinged, whatever its queries may take."""

    def connect(self, sock: Any = None) -> None:
        with self._impatient():
            super().connect(sock)
        # a long statement leaves the connection silent: keep firewalls from forgetting it
        transport: socket.socket = self._sock  # type: ignore[attr-defined]
        if hasattr(socket, "TCP_KEEPIDLE"):
            transport.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)

    def ping(self, reconnect: Any = False) -> None:
        with self._impatient():
            super().ping(reconnect)

    @contextmanager
    def _impatient(self) -> Iterator[None]:
        patience: int | None = self._read_timeout
        self._read_timeout: int | None = CONNECT_SECONDS
        try:
            yield
        finally:
            self._read_timeout = patience


def create_server_engine(settings: DatabaseSettings, *, pool_size: int) -> Engine:
    """An engine for a server process: at most `pool_size` connections, none of which can hang a request."""
    return _create_engine(
        settings,
        query_seconds=QUERY_SECONDS,
        poolclass=QueuePool,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=POOL_WAIT_SECONDS,
        pool_recycle=RECYCLE_SECONDS,
        pool_pre_ping=True,
    )


def create_migration_engine(settings: DatabaseSettings) -> Engine:
    """An engine of one single connection, on which a statement may take as long as it needs.

    A lock taken on it is therefore held until its last statement is over, even when the client has died.
    """
    return _create_engine(settings, query_seconds=None, poolclass=StaticPool)


def _create_engine(settings: DatabaseSettings, *, query_seconds: int | None, **pool: Any) -> Engine:
    if isinstance(settings, SQLiteSettings):
        # not above: MLflow's models read a key from the environment when they are imported
        from mlflow.store.db.utils import create_sqlalchemy_engine

        settings.file.parent.mkdir(parents=True, exist_ok=True)
        sqlite: Engine = create_sqlalchemy_engine(settings.url.render_as_string())
        return sqlite
    engine = sqlalchemy.create_engine(settings.url, **pool)
    credentials = DatabaseCredentials(secret_arn=settings.secret_arn)
    limits = {
        "connect_timeout": CONNECT_SECONDS,
        "read_timeout": query_seconds,
        "write_timeout": query_seconds,
        "ssl": ssl.create_default_context(cafile=str(settings.ca_bundle)),
    }

    @event.listens_for(engine, "do_connect")
    def connect(_dialect: Any, _record: Any, arguments: list[Any], parameters: dict[str, Any]) -> _Connection:
        return _connect(credentials, *arguments, **parameters, **limits)

    return engine


def _connect(credentials: DatabaseCredentials, *arguments: Any, **parameters: Any) -> _Connection:
    """Connect with the secret's account, fetching it again for as long as a rotation may take."""
    account = credentials.current()
    deadline = time.monotonic() + ROTATION_SECONDS
    while True:
        try:
            return _Connection(
                *arguments,
                # bytes: PyMySQL would encode text as Latin-1
                user=account.username.encode(),
                password=account.password.encode(),
                **parameters,
            )
        except pymysql.err.OperationalError as error:
            if error.args[0] not in ACCESS_DENIED or time.monotonic() > deadline:
                raise
        account = credentials.after(account)


def wait_for_database(engine: Engine) -> None:
    """Return once the database answers, saying in the log what is waited for.

    Raises DatabaseError when the database answers but refuses: a certificate that does not verify, an account
    or a database name that it does not know.
    """
    delay = 1.0
    while True:
        try:
            with engine.connect():
                return
        except OperationalError as error:
            if not _may_heal(error):
                raise DatabaseError(_refusal(engine, error)) from error
            logger.warning(
                "waiting for the database at %s, next try in %.0f s: %s",
                _place(engine),
                delay,
                _reason(error),
            )
        time.sleep(delay)
        delay = min(delay * 1.5, 10.0)


def _may_heal(error: OperationalError) -> bool:
    number = error.orig.args[0] if isinstance(error.orig, pymysql.err.OperationalError) else None
    return number in NOT_THERE_YET and not _is_unverified(error)


def _is_unverified(error: OperationalError) -> bool:
    return isinstance(getattr(error.orig, "original_exception", None), ssl.SSLCertVerificationError)


def _refusal(engine: Engine, error: OperationalError) -> str:
    if _is_unverified(error):
        return (
            f"the certificate of the database at {_place(engine)} does not verify with DATABASE_CA_BUNDLE: "
            f"{_reason(error)}. If the bundle lacks the region, run container/refresh_trust_bundle.py and deploy again"
        )
    return f"the database at {_place(engine)} refuses the connection: {_reason(error)}"


def _reason(error: OperationalError) -> str:
    arguments = getattr(error.orig, "args", ())
    return str(arguments[-1]) if arguments else str(error)


def _place(engine: Engine) -> str:
    url = engine.url
    return f"{url.host}:{url.port}/{url.database}" if url.host else str(url.database)


@contextmanager
def locked(connection: Connection, purpose: str) -> Iterator[None]:
    """Hold the lock named `purpose` of this database, waiting for it as long as it takes.

    The database drops the lock by itself when the connection ends. SQLite has no such locks: there a lock
    file beside the database stands in.
    """
    if connection.dialect.name == "sqlite":
        with open(f"{connection.engine.url.database}.{purpose}.lock", "w") as file:  # noqa: PTH123
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
        return
    # lock names are global to the server and hold 64 characters at most
    digest = hashlib.sha256(str(connection.engine.url.database).encode()).hexdigest()[:32]
    name = f"mlflow-{purpose}-{digest}"
    while connection.scalar(sqlalchemy.text("SELECT GET_LOCK(:name, 30)"), {"name": name}) != 1:
        logger.info("another process holds the %s lock; still waiting for it", purpose)
    try:
        yield
    finally:
        with suppress(SQLAlchemyError):  # a connection that was lost has taken its lock with it
            connection.scalar(sqlalchemy.text("SELECT RELEASE_LOCK(:name)"), {"name": name})
