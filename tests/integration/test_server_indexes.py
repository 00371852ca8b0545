"""The kit's indexes: made by the migration, used by MLflow's own search, in nobody's way."""

from __future__ import annotations

import signal
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pymysql
import pytest
from server_process import Backend

OK = 0
NAME = "kit_runs_newest"
COLUMNS = {
    NAME: ["lifecycle_stage", "experiment_id", "start_time", "run_uuid"],
    "kit_params_value": ["key", "value"],
    "kit_tags_value": ["key", "value"],
}

# mlflow/store/tracking/sqlalchemy_store.py of MLflow 3.17.2, _search_runs: an active view, no filter, no order
SEARCH = (
    "SELECT DISTINCT runs.* FROM {db}.runs WHERE runs.experiment_id IN (7) AND runs.lifecycle_stage IN ('active')"
    " ORDER BY runs.start_time DESC, runs.run_uuid LIMIT 0, 101"
)


def columns(backend: Backend) -> dict[str, list[str]]:
    """The kit's indexes and their columns, in their order."""
    found: dict[str, list[str]] = {}
    for index, column in backend.admin(
        "SELECT index_name, column_name FROM information_schema.statistics"
        f" WHERE table_schema = '{backend.name}' AND index_name LIKE 'kit%%' AND table_name NOT LIKE 'kit%%'"
        " ORDER BY index_name, seq_in_index"
    ):
        found.setdefault(index, []).append(column)
    return found


def plan(backend: Backend, statement: str) -> str:
    """How the database means to run a statement."""
    return str(backend.admin(f"EXPLAIN FORMAT=JSON {statement}"))


def sorts(found: str) -> bool:
    """Whether a plan sorts, in the words of MariaDB and MySQL."""
    return "filesort" in found or "Sort: " in found


def add_runs(backend: Backend, count: int) -> None:
    """Runs of experiment 7, every tenth deleted, which start in another order than that of their ids."""
    backend.admin("INSERT INTO {db}.experiments (experiment_id, name) VALUES (7, 'seven')")
    for first in range(0, count, 500):
        rows = ", ".join(
            f"('{n:032x}', 'r', 'UNKNOWN', '', '', 'u', 'FINISHED', {n * 7919 % 100_003}, '',"
            f" '{'deleted' if n % 10 == 0 else 'active'}', 's3://b', 7)"
            for n in range(first, min(first + 500, count))
        )
        backend.admin(
            "INSERT INTO {db}.runs (run_uuid, name, source_type, source_name, entry_point_name, user_id, status,"
            f" start_time, source_version, lifecycle_stage, artifact_uri, experiment_id) VALUES {rows}"
        )
    backend.admin("ANALYZE TABLE {db}.runs")


def migrate(start: Callable[..., Any], backend: Backend) -> Any:
    """Run the migration to its end."""
    process = start("migrate", backend)
    assert process.wait() == OK, process.output
    return process


@pytest.fixture
def backend(new_backend: Callable[..., Backend], migrated: Callable[[Backend], Backend]) -> Backend:
    return migrated(new_backend())


def test_a_migration_makes_the_index_once(backend: Backend, start: Callable[..., Any]) -> None:
    assert columns(backend) == COLUMNS
    assert not any("made the index" in message for message in migrate(start, backend).messages())
    assert columns(backend) == COLUMNS


def test_the_next_migration_makes_what_is_missing_or_different(
    backend: Backend, start: Callable[..., Any]
) -> None:
    backend.admin(f"DROP INDEX {NAME} ON {{db}}.runs")
    assert any("made the index" in message for message in migrate(start, backend).messages())
    assert columns(backend) == COLUMNS
    backend.admin(f"DROP INDEX {NAME} ON {{db}}.runs")
    backend.admin(f"CREATE INDEX {NAME} ON {{db}}.runs (lifecycle_stage, end_time)")
    migrate(start, backend)
    assert columns(backend) == COLUMNS


def test_a_search_without_an_order_reads_only_what_it_answers(backend: Backend) -> None:
    add_runs(backend, 3000)
    found = plan(backend, SEARCH)
    assert NAME in found
    assert not sorts(found)
    with_index = backend.admin(SEARCH)
    backend.admin(f"DROP INDEX {NAME} ON {{db}}.runs")
    assert sorts(plan(backend, SEARCH))
    assert backend.admin(SEARCH) == with_index
    assert len(with_index) == 101


@pytest.mark.parametrize("table", ["params", "tags"])
def test_a_filter_starts_at_the_value(backend: Backend, table: str) -> None:
    add_runs(backend, 3000)
    backend.admin(
        f"INSERT INTO {{db}}.{table} (run_uuid, `key`, value)"
        " SELECT run_uuid, 'depth', CONCAT(start_time, REPEAT('x', 70)) FROM {db}.runs"
    )
    backend.admin(f"ANALYZE TABLE {{db}}.{table}")
    wanted = f"CONCAT('{7919 * 3}', REPEAT('x', 70))"
    statement = (
        "SELECT DISTINCT runs.* FROM {db}.runs JOIN (SELECT * FROM {db}." + table + " WHERE"
        f" (`key` = 'depth' AND BINARY `key` = 'depth') AND (value = {wanted} AND BINARY value = {wanted})) AS a"
        " ON runs.run_uuid = a.run_uuid WHERE runs.experiment_id IN (7) AND runs.lifecycle_stage IN ('active')"
        " ORDER BY runs.start_time DESC, runs.run_uuid LIMIT 0, 101"
    )
    assert f"kit_{table}_value" in plan(backend, statement)
    with_index = backend.admin(statement)
    backend.admin(f"DROP INDEX kit_{table}_value ON {{db}}.{table}")
    assert backend.admin(statement) == with_index
    assert [row[0] for row in with_index] == [f"{3:032x}"]


def test_the_foreign_key_keeps_its_own_index(backend: Backend) -> None:
    leading = backend.admin(
        "SELECT index_name FROM information_schema.statistics"
        f" WHERE table_schema = '{backend.name}' AND table_name = 'runs'"
        " AND column_name = 'experiment_id' AND seq_in_index = 1"
    )
    assert len(leading) == 1
    assert leading[0][0] != NAME
    backend.admin(f"DROP INDEX {NAME} ON {{db}}.runs")


def test_later_migrations_of_mlflow_may_change_the_tables(backend: Backend) -> None:
    add_runs(backend, 50)
    for change in (
        "runs MODIFY lifecycle_stage VARCHAR(250) NOT NULL",
        "runs MODIFY start_time DOUBLE",
        "runs CHANGE start_time started_at VARCHAR(30)",
        "params MODIFY value TEXT NOT NULL",
        "tags CHANGE `key` name VARCHAR(250) NOT NULL, CHANGE value content VARCHAR(30)",
    ):
        backend.admin(f"ALTER TABLE {{db}}.{change}")
        assert columns(backend).keys() == COLUMNS.keys()
    for change in (
        "runs DROP COLUMN started_at",
        "runs DROP FOREIGN KEY runs_ibfk_1, DROP INDEX experiment_id",
        "runs ADD CONSTRAINT runs_ibfk_1 FOREIGN KEY (experiment_id) REFERENCES experiments (experiment_id)",
        # without the stage the kit's index begins with the experiment, and takes the place of the foreign key's
        "runs DROP CONSTRAINT runs_lifecycle_stage, DROP COLUMN lifecycle_stage",
        "runs DROP FOREIGN KEY runs_ibfk_1, DROP COLUMN experiment_id",
        "runs RENAME TO {db}.all_runs",
        "params DROP FOREIGN KEY params_ibfk_1, DROP INDEX index_params_run_uuid",
        "params DROP COLUMN value",
        "tags DROP PRIMARY KEY, ADD PRIMARY KEY (run_uuid, name)",
        "tags DROP FOREIGN KEY tags_ibfk_1, DROP PRIMARY KEY, DROP COLUMN run_uuid",
    ):
        backend.admin(f"ALTER TABLE {{db}}.{change}")


@contextmanager
def reading(backend: Backend) -> Iterator[None]:
    """A transaction that has read runs and goes on: no change of the table can begin."""
    server = backend.database_server
    connection = pymysql.connect(
        host=server.host,
        port=server.port,
        user=backend.username,
        password=backend.password,
        database=backend.name,
        ssl=ssl.create_default_context(cafile=str(server.ca_bundle)),
    )
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT COUNT(*) FROM runs")
        yield


def is_waiting(backend: Backend) -> bool:
    """Whether the migration waits to make its index."""
    found = backend.admin(
        "SELECT info FROM information_schema.processlist"
        f" WHERE db = '{backend.name}' AND state LIKE 'Waiting for table metadata lock%%'"
    )
    return any("CREATE INDEX" in info for (info,) in found)


def test_a_transaction_in_the_way_does_not_stop_a_migration(
    backend: Backend, start: Callable[..., Any]
) -> None:
    backend.admin(f"DROP INDEX {NAME} ON {{db}}.runs")
    with reading(backend):
        process = migrate(start, backend)
    assert any("the next migration tries again" in message for message in process.messages())
    assert NAME not in columns(backend)
    migrate(start, backend)
    assert columns(backend) == COLUMNS


def test_a_migration_killed_at_its_index_is_made_good_by_the_next(
    backend: Backend, start: Callable[..., Any]
) -> None:
    add_runs(backend, 1000)
    backend.admin(f"DROP INDEX {NAME} ON {{db}}.runs")
    with reading(backend):
        process = start("migrate", backend)
        process.wait_until(lambda: is_waiting(backend), what="index that waits")
        process.terminate(signal.SIGKILL)
        process.wait()
    migrate(start, backend)
    assert columns(backend) == COLUMNS
