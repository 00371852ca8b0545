"""Connections to the database: credentials, TLS, time limits and locks."""

# MLflow's functions bear no types
# mypy: allow-untyped-calls

from __future__ import annotations

import fcntl
import hashlib
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import sqlalchemy
from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.pool import QueuePool, StaticPool

from tracking_server.drivers import LOST, UNVERIFIED, Patience, load
from tracking_server.secrets import Account, DatabaseCredentials
from tracking_server.settings import DatabaseSettings, SQLiteSettings

logger = logging.getLogger(__name__)

# Error numbers: https://dev.mysql.com/doc/mysql-errors/8.4/en/
ACCESS_DENIED = frozenset({1045, 1698})
NOT_THERE_YET = frozenset({1040, 1053, 2002, 2003, 2005, 2006, LOST})

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
    driver = load(settings.driver)
    engine = sqlalchemy.create_engine(settings.url, **pool)
    credentials = DatabaseCredentials(secret_arn=settings.secret_arn)
    patience = Patience(connect_seconds=CONNECT_SECONDS, query_seconds=query_seconds)

    @event.listens_for(engine, "do_connect")
    def connect(dialect: Any, _record: Any, _arguments: list[Any], parameters: dict[str, Any]) -> Any:
        def attempt(account: Account) -> Any:
            return driver.connect(
                parameters, account=account, ca_bundle=settings.ca_bundle, patience=patience
            )

        return _connect(attempt, credentials=credentials, refusal=dialect.loaded_dbapi.OperationalError)

    return engine


def _connect(
    attempt: Callable[[Account], Any], *, credentials: DatabaseCredentials, refusal: type[Exception]
) -> Any:
    """Connect with the secret's account, fetching it again for as long as a rotation may take."""
    account = credentials.current()
    deadline = time.monotonic() + ROTATION_SECONDS
    while True:
        try:
            return attempt(account)
        except refusal as error:
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
            if _number(error) not in NOT_THERE_YET:
                raise DatabaseError(_refusal(engine, error)) from error
            logger.warning(
                "waiting for the database at %s, next try in %.0f s: %s",
                _place(engine),
                delay,
                _reason(error),
            )
        time.sleep(delay)
        delay = min(delay * 1.5, 10.0)


def _number(error: OperationalError) -> object:
    return next(iter(getattr(error.orig, "args", ())), None)


def _refusal(engine: Engine, error: OperationalError) -> str:
    if _number(error) == UNVERIFIED:
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
