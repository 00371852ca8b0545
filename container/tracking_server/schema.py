"""What state the schema of the database is in, and the kit's record of the migrations that led there."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import mlflow
import sqlalchemy
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import Column, DateTime, Integer, MetaData, String, Table
from sqlalchemy.engine import Connection

State = Literal["running", "done", "dropped"]

metadata = MetaData()
# One row a migration. A first install starts from no revision at all.
migrations = Table(
    "kit_schema_migration",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("state", String(16), nullable=False),
    Column("from_revision", String(32)),
    Column("to_revision", String(32), nullable=False),
    Column("mlflow_version", String(32), nullable=False),
    Column("started_at", DateTime, nullable=False),
    Column("finished_at", DateTime),
)


@dataclass(frozen=True, kw_only=True)
class Migration:
    """One recorded migration."""

    id: int
    state: State
    from_revision: str | None
    to_revision: str
    mlflow_version: str
    started_at: datetime.datetime


@dataclass(frozen=True, kw_only=True)
class Schema:
    """The schema as found: MLflow's tables and the kit's, Alembic revision and last recorded migration."""

    tables: frozenset[str]
    kit_tables: frozenset[str]
    revision: str | None
    last: Migration | None

    @property
    def running(self) -> Migration | None:
        """The migration that was begun and not finished, if any."""
        return self.last if self.last and self.last.state == "running" else None


def read_schema(connection: Connection) -> Schema:
    """Look at the database; changes nothing."""
    names = set(sqlalchemy.inspect(connection).get_table_names())
    revision = last = None
    if "alembic_version" in names:
        revision = connection.scalar(sqlalchemy.text("SELECT version_num FROM alembic_version"))
    if migrations.name in names:
        row = (
            connection.execute(migrations.select().order_by(migrations.c.id.desc()).limit(1))
            .mappings()
            .first()
        )
        if row:
            last = Migration(**{key: row[key] for key in Migration.__dataclass_fields__})
    kit_tables = frozenset(name for name in names if name.startswith("kit_"))
    return Schema(
        tables=frozenset(name for name in names - kit_tables if not name.startswith("alembic_")),
        kit_tables=kit_tables,
        revision=revision,
        last=last,
    )


def latest_revision() -> str:
    """The revision that this image's MLflow needs."""
    revision = _scripts().get_current_head()
    if revision is None:
        raise RuntimeError("this MLflow ships no migrations")
    return revision


def is_known(revision: str) -> bool:
    """Whether this image's MLflow has heard of a revision: if not, a newer MLflow wrote it."""
    try:
        return _scripts().get_revision(revision) is not None
    except CommandError:
        return False


def _scripts() -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", str(Path(mlflow.__file__).parent / "store" / "db_migrations"))
    return ScriptDirectory.from_config(config)


def record_start(connection: Connection, *, from_revision: str | None, to_revision: str) -> int:
    """Note that a migration begins and return its id."""
    metadata.create_all(connection)
    result = connection.execute(
        migrations.insert().values(
            state="running",
            from_revision=from_revision,
            to_revision=to_revision,
            mlflow_version=mlflow.__version__,
            started_at=_now(),
        )
    )
    connection.commit()
    key = result.inserted_primary_key
    assert key is not None, "one row was inserted"  # noqa: S101
    return int(key[0])


def record_end(connection: Connection, identifier: int, state: State = "done") -> None:
    """Note that a migration is over."""
    connection.execute(
        migrations.update().where(migrations.c.id == identifier).values(state=state, finished_at=_now())
    )
    connection.commit()


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None, microsecond=0)
