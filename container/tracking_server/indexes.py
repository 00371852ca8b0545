"""Indexes that the kit adds to MLflow's tables: for a search whose cost would grow with the experiment."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import sqlalchemy
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

logger = logging.getLogger(__name__)

PATIENCE_SECONDS = 5
"""How long a change of an index waits for transactions that are in its way: every query waits behind it meanwhile."""

ATTEMPTS = 3

VALUE_CHARACTERS = 64
"""How much of a value is in an index: values have up to 8,000 characters, and an index holds 3,072 bytes at most."""


@dataclass(frozen=True, kw_only=True)
class Index:
    """An index of the kit on a table of MLflow. No foreign key may lean on it, or it could not be dropped."""

    name: str
    table: str
    columns: tuple[str, ...]

    @property
    def creation(self) -> str:
        """The statement that makes it while the server reads and writes the table."""
        columns = ", ".join(self.columns)
        return f"CREATE INDEX {self.name} ON {self.table} ({columns}) ALGORITHM=INPLACE LOCK=NONE"

    @property
    def removal(self) -> str:
        """The statement that drops it."""
        return f"DROP INDEX {self.name} ON {self.table}"


INDEXES = (
    # The order of a search that asks for none. The stage comes first, as MySQL silently drops the index of a foreign
    # key when another one begins with its column, and then refuses to drop that other one.
    Index(
        name="kit_runs_newest",
        table="runs",
        columns=("lifecycle_stage", "experiment_id", "start_time DESC", "run_uuid"),
    ),
    # Filters on a parameter or a tag, of which the name of a run is one. The start of a value tells most apart.
    Index(name="kit_params_value", table="params", columns=("`key`", f"value({VALUE_CHARACTERS})")),
    Index(name="kit_tags_value", table="tags", columns=("`key`", f"value({VALUE_CHARACTERS})")),
)


def create_indexes(connection: Connection) -> None:
    """Make the indexes that are missing or have other columns, online. On SQLite there is nothing to do.

    Nothing needs them to be right, only to be fast: one that cannot be made is a warning, and made by the next
    migration.
    """
    if connection.dialect.name != "mysql":
        return
    before = connection.scalar(sqlalchemy.text("SELECT @@SESSION.lock_wait_timeout"))
    connection.execute(sqlalchemy.text(f"SET SESSION lock_wait_timeout = {PATIENCE_SECONDS}"))
    for index in INDEXES:
        found = _columns(connection, index)
        if found == _plain(index):
            continue
        if _attempt(connection, [*([index.removal] if found else []), index.creation]):
            logger.info("made the index %s on %s", index.name, index.table)
    connection.execute(sqlalchemy.text(f"SET SESSION lock_wait_timeout = {before}"))
    connection.commit()


def _columns(connection: Connection, index: Index) -> tuple[str, ...]:
    """The columns of an index as found, none if there is no such index."""
    found = connection.execute(
        sqlalchemy.text(
            "SELECT column_name, sub_part FROM information_schema.statistics WHERE table_schema = DATABASE()"
            " AND table_name = :table AND index_name = :name ORDER BY seq_in_index"
        ),
        {"table": index.table, "name": index.name},
    )
    return tuple(f"{column}({characters})" if characters else str(column) for column, characters in found)


def _plain(index: Index) -> tuple[str, ...]:
    return tuple(column.removesuffix(" DESC").replace("`", "") for column in index.columns)


def _attempt(connection: Connection, statements: list[str]) -> bool:
    """Run statements one after the other, the first that fails again; whether all of them are done."""
    waiting = list(statements)
    for attempt in range(ATTEMPTS):
        try:
            while waiting:
                connection.execute(sqlalchemy.text(waiting[0]))
                waiting.pop(0)
        except DBAPIError as error:
            if connection.invalidated:
                raise
            if attempt == ATTEMPTS - 1:
                logger.warning("%s: %s; the next migration tries again", waiting[0], error.orig)
                return False
            logger.info("%s: %s; once more", waiting[0], error.orig)
        else:
            return True
    return False
