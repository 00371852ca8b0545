"""A pytest plugin for MLflow's own tests: their store is on MySQL, and their server is the kit's.

It runs with the server's packages, not with the kit's. Nothing of MLflow's tests is changed on disk:

* `db_uri` and MLFLOW_TRACKING_URI name one MySQL database, which is as it was when it was new before each test.
* `SqlAlchemyStore` on MySQL is the fast store, unless UPSTREAM_STORE=stock.
* `ServerThread` and `_init_server`, with which the tests start MLflow's server, give the address of the kit's.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, text

DATABASE = os.environ["UPSTREAM_DATABASE"]
SERVER = os.environ["UPSTREAM_SERVER"]
STORE = os.environ["UPSTREAM_STORE"]
RESULTS = Path(os.environ["UPSTREAM_RESULTS"])

NOT_APPLICABLE = {
    r"workspace-enabled|test_sqlalchemy_workspace_store": "of MLflow's store for workspaces, which the kit does not use",
    r"test_sqlalchemy_store_schema\.py": "of the migrations of an SQLite file",
    r"\[file": "of the file store, which MLflow no longer serves",
    r"test_log_batch_internal_error": "replaces private methods of MLflow's store, which the fast one does not call",
}
"""Tests that say nothing about the kit's store or server, by a pattern in their names."""

EARLIER_NAMES = ("_PROVIDER_BACKEND_AVAILABLE",)
"""What a test file of an earlier MLflow imports of `mlflow.utils.providers`: whether it has litellm, which it has not."""

_engine = create_engine(DATABASE, pool_pre_ping=True)
_new: dict[str, list[dict[str, Any]]] = {}


def pytest_configure() -> None:
    """Put the kit's parts in the place of MLflow's, before the tests import them."""
    sys.path.insert(0, str(Path.cwd()))  # where MLflow's `tests` package is
    if STORE == "fast":
        _use_fast_store()
    from mlflow.utils import providers

    for name in EARLIER_NAMES:
        vars(providers).setdefault(name, False)
    from tests.tracking import integration_test_utils

    integration_test_utils.ServerThread = _RunningServer
    integration_test_utils._init_server = _running_server
    with _engine.begin() as connection:
        for table in _tables(connection):
            if rows := [dict(row) for row in connection.execute(text(f"SELECT * FROM `{table}`")).mappings()]:
                _new[table] = rows


def _use_fast_store() -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
    from tracking_server.fast.store import FastStore

    def new(cls: type, db_uri: str, *_: Any, **__: Any) -> Any:
        on_mysql = cls is SqlAlchemyStore and str(db_uri).startswith("mysql")
        return object.__new__(FastStore if on_mysql else cls)

    SqlAlchemyStore.__new__ = new


class _RunningServer:
    """In the place of a server in a thread of the test's process."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.url = SERVER

    def __enter__(self) -> str:
        return self.url

    def __exit__(self, *_: Any) -> None:
        return None


@contextlib.contextmanager
def _running_server(*_: Any, **__: Any) -> Iterator[str]:
    yield SERVER


def _tables(connection: Connection) -> list[str]:
    query = text("SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE()")
    return [str(row[0]) for row in connection.execute(query)]


def _renew() -> None:
    """Make the database what it was when it was new."""
    with _engine.begin() as connection:
        tables = _tables(connection)
        used = " UNION ALL ".join(f"(SELECT '{table}' FROM `{table}` LIMIT 1)" for table in tables)
        # the default experiment has the number 0, which would otherwise ask for the next one
        connection.execute(text("SET FOREIGN_KEY_CHECKS = 0, sql_mode = 'NO_AUTO_VALUE_ON_ZERO'"))
        for (table,) in connection.execute(text(used)).all():
            connection.execute(text(f"DELETE FROM `{table}`"))
        for table, rows in _new.items():
            names = ", ".join(f"`{name}`" for name in rows[0])
            values = ", ".join(f":{name}" for name in rows[0])
            connection.execute(text(f"INSERT INTO `{table}` ({names}) VALUES ({values})"), rows)
        connection.execute(text("ALTER TABLE experiments AUTO_INCREMENT = 1"))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is not applicable."""
    for item in items:
        for pattern, why in NOT_APPLICABLE.items():
            if re.search(pattern, item.nodeid):
                item.add_marker(pytest.mark.skip(reason=f"Not applicable: {why}"))
                break


def pytest_runtest_setup() -> None:
    """Each test begins with a new database."""
    _renew()


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest) -> Any:
    """Give the MySQL database to the tests that ask for a copy of an SQLite file."""
    if fixturedef.argname != "db_uri":
        return None
    fixturedef.cached_result = (DATABASE, fixturedef.cache_key(request), None)
    return DATABASE


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Write down how each test has ended."""
    if report.when != "call" and report.outcome == "passed":
        return
    reason = ""
    if report.outcome == "skipped" and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2]
    elif report.failed:
        crash = getattr(report.longrepr, "reprcrash", None)
        reason = crash.message if crash else str(report.longrepr)
    outcome = report.outcome if report.when == "call" or report.outcome == "skipped" else "error"
    with RESULTS.open("a") as file:
        file.write(json.dumps({"test": report.nodeid, "outcome": outcome, "reason": reason[:2000]}) + "\n")
