"""The schema migration on a real database: alone, in company, killed, refused."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
from server_process import PYTHON, REPOSITORY, Backend, Process, Server

from local.database import DatabaseServer

OK, FAILED, BAD_CONFIGURATION, REFUSED = range(4)

# A revision of MLflow 3.9, and one that is nearly its last migration's longest step
OLDER_REVISION = "c8d9e0f1a2b3"
MAKE_OLDER_SCHEMA = """
import sys
from alembic import command
from mlflow.store.db.utils import _get_alembic_config
from mlflow.store.tracking.dbmodels.initial_models import Base
from tracking_server.database import create_migration_engine
from tracking_server.settings import read_database
import os
engine = create_migration_engine(read_database(os.environ))
Base.metadata.create_all(engine)
config = _get_alembic_config(str(engine.url))
with engine.begin() as connection:
    config.attributes["connection"] = connection
    command.upgrade(config, sys.argv[1])
"""


def make_older_schema(backend: Backend) -> None:
    """What an older MLflow left behind, with an experiment in it."""
    subprocess.run(
        [PYTHON, "-c", MAKE_OLDER_SCHEMA, OLDER_REVISION],
        cwd=REPOSITORY / "container",
        env=backend.environment(),
        check=True,
        capture_output=True,
    )
    backend.admin(
        "INSERT INTO {db}.experiments (experiment_id, name, artifact_location, lifecycle_stage) "
        "VALUES (7, 'old', 'mlflow-artifacts:/7', 'active')"
    )


def reason(process: Process) -> str:
    """The last log line of a failed process, which the deployment shows."""
    last = process.records[-1]
    assert last["level"] == "ERROR"
    return str(last["message"])


def revision(backend: Backend) -> str:
    ((value,),) = backend.admin("SELECT version_num FROM {db}.alembic_version")
    return str(value)


def states(backend: Backend) -> list[str]:
    return [state for (state,) in backend.admin("SELECT state FROM {db}.kit_schema_migration ORDER BY id")]


@pytest.fixture
def up_to_date(migrated_backend: Backend) -> Iterator[Backend]:
    """A backend whose schema is up to date; the records of it may be changed."""
    current = revision(migrated_backend)
    yield migrated_backend
    migrated_backend.admin("DELETE FROM {db}.runs WHERE run_uuid = 'abc'")
    migrated_backend.admin(f"UPDATE {{db}}.alembic_version SET version_num = '{current}'")
    migrated_backend.admin(
        "UPDATE {db}.kit_schema_migration SET state = 'done', from_revision = NULL, "
        f"to_revision = '{current}', mlflow_version = '3.17.2'"
    )


@pytest.mark.parametrize("round_", range(5))
def test_two_servers_and_two_migrations_at_once(
    new_backend: Callable[..., Backend], start: Callable[..., Any], round_: int
) -> None:
    backend = new_backend()
    servers: list[Server] = [start("serve", backend) for _ in range(2)]
    migrations = [start("migrate", backend) for _ in range(2)]
    assert [migration.wait() for migration in migrations] == [OK, OK], migrations[0].output
    assert states(backend) == ["done"]
    for server in servers:
        server.wait_until_healthy()
        found = requests.get(f"{server.url}/api/2.0/mlflow/experiments/get?experiment_id=0", timeout=30)
        assert found.status_code == 200, found.text
        assert all(record["level"] in ("INFO", "WARNING") for record in server.records)


def test_second_migration_has_nothing_to_do(up_to_date: Backend, start: Callable[..., Any]) -> None:
    backend = up_to_date
    again = start("migrate", backend)
    assert again.wait() == OK
    assert "up to date" in again.messages()[-1]
    assert states(backend) == ["done"]


def test_killed_first_install_is_repaired(
    new_backend: Callable[..., Backend], start: Callable[..., Any]
) -> None:
    backend = new_backend()
    first = start("migrate", backend)
    first.wait_for_log("add job executor")
    first.kill()
    assert states(backend) == ["running"]
    second = start("migrate", backend)
    assert second.wait() == OK, second.output
    assert states(backend) == ["dropped", "done"]


def test_first_install_that_lost_its_database_is_repaired(
    new_backend: Callable[..., Backend], start: Callable[..., Any], database_server: DatabaseServer
) -> None:
    backend = new_backend()
    first = start("migrate", backend)
    first.wait_for_log("add trace tables")
    database_server.stop()
    try:
        assert first.wait() == FAILED
    finally:
        database_server.start()
    assert "start it again: what it made so far is dropped then" in reason(first)
    second = start("migrate", backend)
    assert second.wait() == OK, second.output


def test_migration_ignores_sigterm(new_backend: Callable[..., Backend], start: Callable[..., Any]) -> None:
    backend = new_backend()
    migration = start("migrate", backend)
    migration.wait_for_log("add model registry tables")
    migration.terminate()
    migration.wait_for_log("SIGTERM ignored")
    migration.terminate(signal.SIGINT)
    assert migration.wait() == OK, migration.output
    assert states(backend) == ["done"]


def test_older_schema_is_upgraded_and_keeps_its_data(
    new_backend: Callable[..., Backend], start: Callable[..., Any]
) -> None:
    backend = new_backend()
    make_older_schema(backend)
    server: Server = start("serve", backend)
    server.wait_for_log("waiting for the schema: found revision " + OLDER_REVISION)
    assert revision(backend) == OLDER_REVISION, "the server must never migrate"
    migration = start("migrate", backend)
    assert migration.wait() == OK, migration.output
    server.wait_until_healthy()
    found = requests.get(f"{server.url}/api/2.0/mlflow/experiments/get?experiment_id=7", timeout=30)
    assert found.json()["experiment"]["name"] == "old"


def test_interrupted_upgrade_is_refused(
    new_backend: Callable[..., Backend], start: Callable[..., Any]
) -> None:
    backend = new_backend()
    make_older_schema(backend)
    first = start("migrate", backend)
    first.wait_for_log("Add workspace columns")
    first.kill()
    tables = backend.admin(
        f"SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = '{backend.name}'"
    )
    second = start("migrate", backend)
    assert second.wait() == REFUSED
    assert f"a migration from {OLDER_REVISION} to" in reason(second)
    assert "restore the database snapshot" in reason(second)
    assert states(backend) == ["running"]
    assert tables == backend.admin(
        f"SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = '{backend.name}'"
    ), "a refusal changes nothing"


def test_upgrade_killed_after_its_last_step_is_complete(
    up_to_date: Backend, start: Callable[..., Any]
) -> None:
    backend = up_to_date
    backend.admin(
        f"UPDATE {{db}}.kit_schema_migration SET state = 'running', from_revision = '{OLDER_REVISION}'"
    )
    again = start("migrate", backend)
    assert again.wait() == OK, again.output
    assert states(backend) == ["done"]


def test_downgrade_is_refused(up_to_date: Backend, start: Callable[..., Any]) -> None:
    backend = up_to_date
    backend.admin("UPDATE {db}.alembic_version SET version_num = 'f4a9b2c7d1e6'")
    backend.admin(
        "UPDATE {db}.kit_schema_migration SET to_revision = 'f4a9b2c7d1e6', mlflow_version = '9.9.9'"
    )
    migration = start("migrate", backend)
    assert migration.wait() == REFUSED
    assert "written by MLflow 9.9.9" in reason(migration)
    assert "cannot be downgraded" in reason(migration)
    server = start("serve", backend)
    assert server.wait() == REFUSED
    assert "newer than this image's" in reason(server)


def test_foreign_tables_are_left_alone(
    new_backend: Callable[..., Backend], start: Callable[..., Any]
) -> None:
    backend = new_backend()
    backend.admin("CREATE TABLE {db}.customers (id INT)")
    migration = start("migrate", backend)
    assert migration.wait() == REFUSED
    assert "another application's" in reason(migration)
    assert backend.admin("SHOW TABLES FROM {db}") == [("customers",)]


def test_first_install_that_was_used_is_not_dropped(up_to_date: Backend, start: Callable[..., Any]) -> None:
    backend = up_to_date
    backend.admin("INSERT INTO {db}.runs (run_uuid) VALUES ('abc')")
    backend.admin("UPDATE {db}.kit_schema_migration SET state = 'running'")
    migration = start("migrate", backend)
    assert migration.wait() == REFUSED
    assert "nothing is dropped" in reason(migration)


def test_missing_parameter_is_found_before_anything_is_changed(
    new_backend: Callable[..., Backend], start: Callable[..., Any], database_server: DatabaseServer
) -> None:
    """RDS has the binary log on and log_bin_trust_function_creators off unless its parameter group says so."""
    backend = new_backend()
    database_server.admin("SET GLOBAL log_bin_trust_function_creators = 0")
    try:
        migration = start("migrate", backend)
        assert migration.wait() == FAILED
    finally:
        database_server.admin("SET GLOBAL log_bin_trust_function_creators = 1")
    assert "log_bin_trust_function_creators = 1" in reason(migration)
    assert backend.admin("SHOW TABLES FROM {db}") == [("kit_schema_migration",)]


def test_check_reports(
    up_to_date: Backend, new_backend: Callable[..., Backend], start: Callable[..., Any]
) -> None:
    before = start("check", new_backend())
    after = start("check", up_to_date)
    lost = start("check", up_to_date, MLFLOW_ARTIFACTS_DESTINATION="s3://no-such-bucket-anywhere/x")
    assert before.wait() == FAILED
    assert "found revision none, need dc11669786a5: run `migrate`" in before.output
    assert after.wait() == OK, after.output
    assert [line.split()[0] for line in after.output.splitlines()] == ["ok"] * 4
    assert "TLSv1.3, certificate verified for localhost" in after.output
    assert lost.wait() == FAILED
    assert "FAIL  bucket" in lost.output
