"""What every task must know at once: used links, ended sessions, and the moment when all was to be forgotten."""

from __future__ import annotations

import time

import sqlalchemy
from sqlalchemy import BigInteger, Column, MetaData, String, Table
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import IntegrityError

metadata = MetaData()
marks = Table(
    "kit_access_mark",
    metadata,
    Column("name", String(64), primary_key=True),
    # seconds since 1970; for "flush" the moment of the flush in nanoseconds, as it never expires
    Column("at", BigInteger, nullable=False),
)

FLUSH = "flush"


def create_table(connection: Connection) -> None:
    """Make the table where it is missing."""
    metadata.create_all(connection)
    connection.commit()


class Marks:
    """The table of marks, shared by all tasks. Every method blocks on the database."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def use(self, identifier: str, *, expires_at: float) -> bool:
        """Whether this call is the first one to use `identifier`; the primary key has tasks agree."""
        now = int(time.time())
        with self._engine.begin() as connection:
            connection.execute(marks.delete().where(marks.c.name != FLUSH, marks.c.at < now - 60))
        try:
            with self._engine.begin() as connection:
                connection.execute(marks.insert().values(name=f"used:{identifier}", at=int(expires_at) + 1))
        except IntegrityError:
            return False
        return True

    def end(self, identifier: str, *, expires_at: float) -> None:
        """End a session for all tasks."""
        try:
            with self._engine.begin() as connection:
                connection.execute(marks.insert().values(name=f"ended:{identifier}", at=int(expires_at) + 1))
        except IntegrityError:
            return  # it has ended already

    def has_ended(self, identifier: str) -> bool:
        """Whether a session was ended."""
        found = sqlalchemy.select(marks.c.at).where(marks.c.name == f"ended:{identifier}")
        with self._engine.connect() as connection:
            return connection.scalar(found) is not None

    def flush(self) -> None:
        """Have every task forget what it knows of callers."""
        now = time.time_ns()
        with self._engine.begin() as connection:
            updated = connection.execute(marks.update().where(marks.c.name == FLUSH).values(at=now))
            if not updated.rowcount:
                connection.execute(marks.insert().values(name=FLUSH, at=now))

    def flushed_at(self) -> int:
        """The moment of the last flush, 0 if there was none."""
        with self._engine.connect() as connection:
            return connection.scalar(sqlalchemy.select(marks.c.at).where(marks.c.name == FLUSH)) or 0
