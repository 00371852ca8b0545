"""The schema migration: one at a time, recorded, and never from an unknown state."""

# MLflow's functions bear no types
# mypy: allow-untyped-calls

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import mlflow
import mlflow.store.db.utils as mlflow_database
import sqlalchemy
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError

from tracking_server.access.marks import create_table
from tracking_server.database import create_migration_engine, locked, wait_for_database
from tracking_server.indexes import create_indexes
from tracking_server.schema import (
    Schema,
    is_known,
    latest_revision,
    migrations,
    read_schema,
    record_end,
    record_start,
)
from tracking_server.settings import DatabaseSettings

logger = logging.getLogger(__name__)

RESTORE = "restore the database snapshot that was taken before it, then deploy again"


class MigrationFailed(RuntimeError):
    """The migration failed; the message says why and whether it may simply be started again."""


class MigrationRefused(RuntimeError):
    """The schema is in a state that must not be migrated; the message says what to do."""


def migrate(settings: DatabaseSettings) -> str:
    """Bring the schema to what this image's MLflow needs and return what was done, in one sentence.

    Raises DatabaseError, MigrationFailed or MigrationRefused.
    """
    engine = create_migration_engine(settings)
    wait_for_database(engine)
    with engine.connect() as connection:
        if connection.dialect.name == "mysql":
            # the server must not drop a connection that is silent for the hours an ALTER TABLE can take
            connection.execute(sqlalchemy.text("SET SESSION wait_timeout = 2147483"))
        with locked(connection, "migration"):
            done = _migrate(engine, connection)
            create_table(connection)
            create_indexes(connection)
            return done


def _migrate(engine: Engine, connection: Connection) -> str:
    schema = read_schema(connection)
    target = latest_revision()
    _refuse_unknown(schema)
    running = schema.running
    if running and running.from_revision is None:
        _drop_first_install(connection, schema)
        record_end(connection, running.id, "dropped")
        schema = read_schema(connection)
    elif running and schema.revision != running.to_revision:
        raise MigrationRefused(
            f"a migration from {running.from_revision} to {running.to_revision} "
            f"(MLflow {running.mlflow_version}), begun at {running.started_at} UTC, did not finish. "
            f"MySQL cannot roll back changes of tables, so what it left behind is unknown: {RESTORE}"
        )
    elif running:
        record_end(connection, running.id)
    if schema.revision == target:
        return f"the schema is up to date at revision {target} (MLflow {mlflow.__version__})"
    _probe_trigger(connection)
    with _uninterruptible():
        _run(engine, connection, schema, target)
    origin = f"from {schema.revision}" if schema.revision else "on an empty database"
    return f"migrated {origin} to revision {target} (MLflow {mlflow.__version__})"


def _refuse_unknown(schema: Schema) -> None:
    if schema.revision and not is_known(schema.revision):
        author = f"MLflow {schema.last.mlflow_version}" if schema.last else "a newer MLflow"
        raise MigrationRefused(
            f"the schema is at revision {schema.revision}, written by {author}, which this image's MLflow "
            f"{mlflow.__version__} does not know: a schema cannot be downgraded. Deploy {author} or later "
            "again, or restore a snapshot from before that upgrade"
        )
    if schema.tables and schema.revision is None and schema.running is None:
        raise MigrationRefused(
            f"the database holds {len(schema.tables)} tables but no MLflow schema that can be upgraded: they "
            "are another application's, or left by an MLflow that was stopped while it made its tables. Give "
            "the server a database of its own, or drop this one"
        )


def _drop_first_install(connection: Connection, schema: Schema) -> None:
    """Drop what an unfinished first install made: it began on an empty database that no server ever used."""
    if "runs" in schema.tables and connection.scalar(sqlalchemy.text("SELECT COUNT(*) FROM runs")):
        raise MigrationRefused(
            "the first install is recorded as unfinished, yet the database holds runs: nothing is dropped. "
            f"Find out who wrote them, and {RESTORE}"
        )
    logger.warning("an earlier first install did not finish: dropping its %d tables", len(schema.tables))
    found = sqlalchemy.MetaData()
    found.reflect(connection, only=lambda name, _: name != migrations.name)
    if connection.dialect.name == "mysql":
        connection.execute(sqlalchemy.text("SET FOREIGN_KEY_CHECKS = 0"))
    found.drop_all(connection)
    if connection.dialect.name == "mysql":
        connection.execute(sqlalchemy.text("SET FOREIGN_KEY_CHECKS = 1"))
    connection.commit()


def _probe_trigger(connection: Connection) -> None:
    """Make sure that triggers can be created, as MLflow's migrations do, before anything is changed."""
    if connection.dialect.name != "mysql":
        return
    name = migrations.name
    migrations.metadata.create_all(connection)
    try:
        connection.execute(
            sqlalchemy.text(
                f"CREATE TRIGGER {name}_probe BEFORE INSERT ON {name} FOR EACH ROW SET @kit_probe = 1"
            )
        )
        connection.execute(sqlalchemy.text(f"DROP TRIGGER {name}_probe"))
    except DBAPIError as error:
        raise MigrationFailed(
            "nothing was changed: the database does not let this account create triggers, which MLflow's "
            f"schema needs ({error.orig}). Set log_bin_trust_function_creators = 1 in its parameter group, "
            "then start again"
        ) from error


def _run(engine: Engine, connection: Connection, schema: Schema, target: str) -> None:
    logger.info("migrating the schema from %s to %s", schema.revision or "nothing", target)
    identifier = record_start(connection, from_revision=schema.revision, to_revision=target)
    try:
        if schema.revision is None:
            mlflow_database._initialize_tables(engine)
        else:
            mlflow_database._upgrade_db(engine)
    except Exception as error:
        again = "start it again: what it made so far is dropped then"
        advice = RESTORE if schema.revision else again
        raise MigrationFailed(f"the migration to {target} failed: {error}; {advice}") from error
    revision = read_schema(connection).revision
    if revision != target:
        raise MigrationFailed(f"the migration ended at revision {revision}, not at {target}: {RESTORE}")
    record_end(connection, identifier)


@contextmanager
def _uninterruptible() -> Iterator[None]:
    """Ignore, and log, requests to stop: a migration cut short may leave what only a restore repairs."""

    def refuse(number: int, _frame: FrameType | None) -> None:
        logger.warning(
            "%s ignored: the schema migration must not be interrupted and ends by itself",
            signal.Signals(number).name,
        )

    previous = {number: signal.signal(number, refuse) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
