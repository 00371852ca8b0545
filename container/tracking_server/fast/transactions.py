"""Transactions of plain statements, on the connections of the server's pool."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from sqlalchemy.engine import Engine
from sqlalchemy.exc import SQLAlchemyError

Row = tuple[Any, ...]
Result = TypeVar("Result")

# Error numbers: https://dev.mysql.com/doc/mysql-errors/8.4/en/
DUPLICATE = 1062
CONTENDED = frozenset({1205, 1213})
"""A lock that was waited for too long, and a deadlock: the same transaction may succeed when it is run again."""

ATTEMPTS = 3


class Unusual(Exception):
    """This call is for MLflow's own code. Nothing of it has been committed."""


class Duplicate(Unusual):
    """A row is there already."""


class Contended(Unusual):
    """Another transaction was in the way."""


class Statements:
    """Runs statements on one connection."""

    def __init__(self, cursor: Any) -> None:
        self._cursor = cursor

    def rows(self, statement: str, values: Sequence[Any] = ()) -> Sequence[Row]:
        """All rows that a statement finds."""
        self._cursor.execute(statement, values)
        found: Sequence[Row] = self._cursor.fetchall()
        return found

    def run(self, statement: str, values: Sequence[Any] = ()) -> None:
        """A statement without rows."""
        self._cursor.execute(statement, values)

    def insert(self, statement: str, rows: Sequence[Row], end: str = "") -> None:
        """Insert rows by one statement, which `statement` begins and `end` completes."""
        if rows:
            group = f"({','.join(['%s'] * len(rows[0]))})"
            values = [value for row in rows for value in row]
            self._cursor.execute(f"{statement} {','.join([group] * len(rows))} {end}", values)


class Transactions:
    """Opens transactions; every failure of the database in one becomes an `Unusual`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._dialect = engine.dialect
        self._error: type[Exception] = engine.dialect.dbapi.Error  # type: ignore[union-attr]

    @property
    def is_mariadb(self) -> bool:
        """Whether the server is MariaDB, which names the row of an upsert in its own way."""
        return bool(getattr(self._dialect, "is_mariadb", False))

    @contextmanager
    def begin(self, *, write: bool = False) -> Iterator[Statements]:
        """A transaction, rolled back unless it is for writing and ends well. Raises Unusual."""
        try:
            connection = self._engine.raw_connection()
        except (SQLAlchemyError, self._error) as error:
            raise Unusual(str(error)) from error
        cursor = connection.cursor()
        try:
            yield Statements(cursor)
            if write:
                connection.commit()
        except self._error as error:
            # what is left of the transaction is rolled back when the connection returns to its pool
            if self._dialect.is_disconnect(error, connection, cursor):  # type: ignore[arg-type]
                connection.invalidate(error)
            raise _unusual(error) from error
        finally:
            if connection.is_valid:
                cursor.close()
            connection.close()

    def write(self, work: Callable[[Statements, bool], Result]) -> Result:
        """Run a transaction, again where another's was in the way.

        `work` gets the statements and whether a row was found to be there already in an earlier attempt.
        Raises Unusual.
        """
        careful = False
        for attempt in range(ATTEMPTS):
            try:
                with self.begin(write=True) as statements:
                    return work(statements, careful)
            except Duplicate:
                if careful or attempt == ATTEMPTS - 1:
                    raise
                careful = True
            except Contended:
                if attempt == ATTEMPTS - 1:
                    raise
        raise AssertionError("unreachable")


def _unusual(error: Exception) -> Unusual:
    number = error.args[0] if error.args else None
    if number == DUPLICATE:
        return Duplicate(str(error))
    if number in CONTENDED:
        return Contended(str(error))
    return Unusual(str(error))
