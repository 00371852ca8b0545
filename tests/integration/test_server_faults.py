"""The server while its database, its password or its settings are not as they should be."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from server_process import Backend, Process, Server

from local.certificates import issue_certificates
from local.database import DatabaseServer

API = "/api/2.0/mlflow"


@pytest.fixture(scope="module")
def backend(migrated_backend: Backend) -> Backend:
    return migrated_backend


@pytest.fixture(scope="module")
def server(backend: Backend, start_once: Callable[..., Any]) -> Server:
    running: Server = start_once("serve", backend)
    return running.wait_until_healthy()


def ask(server: Server) -> int:
    """The status of a request that needs the database."""
    url = f"{server.url}{API}/experiments/get?experiment_id=0"
    return requests.get(url, timeout=60).status_code


def test_database_down_at_start(
    new_backend: Callable[..., Backend], start: Callable[..., Any], database_server: DatabaseServer
) -> None:
    backend = new_backend()
    database_server.stop()
    try:
        migration: Process = start("migrate", backend)
        server: Server = start("serve", backend)
        migration.wait_for_log("waiting for the database at localhost")
        server.wait_for_log("waiting for the database at localhost")
    finally:
        database_server.start()
    assert migration.wait() == 0, migration.output
    server.wait_until_healthy()
    assert ask(server) == 200


def test_waiting_ends_at_once_on_sigterm(
    new_backend: Callable[..., Backend], start: Callable[..., Any]
) -> None:
    server: Server = start("serve", new_backend())
    server.wait_for_log("waiting for the schema")
    server.terminate()
    assert server.wait(timeout=5) == 128 + signal.SIGTERM


def test_database_lost_and_back(server: Server, database_server: DatabaseServer) -> None:
    assert ask(server) == 200
    database_server.stop()
    try:
        begun = time.monotonic()
        assert ask(server) == 503, "a status that MLflow's client tries again"
        assert time.monotonic() - begun < 5
        assert server.healthy(), "a server is not replaced because the database is down"
    finally:
        database_server.start()
    assert ask(server) == 200


def test_hung_database_does_not_hang_requests(server: Server, database_server: DatabaseServer) -> None:
    assert ask(server) == 200
    assert database_server.pid is not None
    os.kill(database_server.pid, signal.SIGSTOP)
    time.sleep(0.5)  # until its last thread has stopped
    try:
        begun = time.monotonic()
        assert ask(server) == 503
        assert time.monotonic() - begun < 20
        assert server.healthy()
    finally:
        os.kill(database_server.pid, signal.SIGCONT)
    assert ask(server) == 200


@pytest.mark.parametrize("first", ["database", "secret"])
def test_rotation_fails_no_request(backend: Backend, server: Server, first: str) -> None:
    """The password changes in the database and in the secret, one 3 s after the other, while clients log."""
    run = requests.post(f"{server.url}{API}/runs/create", json={"experiment_id": "0"}, timeout=30).json()
    run_id = run["run"]["info"]["run_id"]
    end_idle_connections(backend)
    password = f"rotated {first} first"
    steps = [lambda: backend.set_database_password(password), lambda: backend.set_secret_password(password)]
    if first == "secret":
        steps.reverse()
    with logging_clients(server, run_id, count=1) as statuses:
        time.sleep(0.5)
        steps[0]()
        with logging_clients(server, run_id, count=6) as more:  # these need new connections
            time.sleep(3)
            steps[1]()
            time.sleep(1)
    statuses += more
    assert len(statuses) > 50
    assert set(statuses) == {200}
    assert password not in server.output


def end_idle_connections(backend: Backend) -> None:
    """Take the server back to no connection at all; it has no request to answer just now."""
    for (identifier,) in backend.admin(
        f"SELECT id FROM information_schema.processlist WHERE user = '{backend.username}'"
    ):
        backend.admin(f"KILL {identifier}")


@contextmanager
def logging_clients(server: Server, run_id: str, *, count: int) -> Iterator[list[int]]:
    """Clients that log metrics one after the other, without trying again; yields their answers' statuses."""
    statuses: list[int] = []
    stop = threading.Event()

    def log() -> None:
        session = requests.Session()
        while not stop.is_set():
            metric = {"run_id": run_id, "key": "m", "value": 1.0, "timestamp": int(time.time() * 1000)}
            answer = session.post(f"{server.url}{API}/runs/log-metric", json=metric, timeout=60)
            statuses.append(answer.status_code)

    threads = [threading.Thread(target=log) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield statuses
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_connections_stay_within_the_pool(backend: Backend, start: Callable[..., Any]) -> None:
    """More clients than threads: batches, which take two connections each, neither fail nor lock up."""
    server: Server = start("serve", backend, SERVER_THREADS="4", DATABASE_POOL_SIZE="8").wait_until_healthy()
    run = requests.post(f"{server.url}{API}/runs/create", json={"experiment_id": "0"}, timeout=30).json()
    run_id = run["run"]["info"]["run_id"]
    statuses: list[int] = []

    def log() -> None:
        for step in range(5):
            metrics = [{"key": f"m{i}", "value": 1.0, "timestamp": step, "step": step} for i in range(20)]
            batch = {"run_id": run_id, "metrics": metrics, "params": [], "tags": []}
            statuses.append(
                requests.post(f"{server.url}{API}/runs/log-batch", json=batch, timeout=60).status_code
            )

    threads = [threading.Thread(target=log) for _ in range(24)]
    for thread in threads:
        thread.start()
    highest = 0
    while any(thread.is_alive() for thread in threads):
        ((count,),) = backend.admin(
            f"SELECT COUNT(*) FROM information_schema.processlist WHERE user = '{backend.username}' "
            f"AND db = '{backend.name}'"
        )
        highest = max(highest, count)
        time.sleep(0.1)
    assert set(statuses) == {200}
    assert len(statuses) == 120
    assert highest <= 2 * 8, "another server of this module may hold as many"


@pytest.mark.parametrize("command", ["serve", "migrate"])
def test_wrong_authority_is_refused(
    backend: Backend, start: Callable[..., Any], tmp_path: Path, command: str
) -> None:
    issue_certificates(tmp_path / "other")
    process = start(command, backend, DATABASE_CA_BUNDLE=str(tmp_path / "other" / "ca.pem"))
    assert process.wait() == 1
    assert "does not verify with DATABASE_CA_BUNDLE" in process.records[-1]["message"]


def test_wrong_host_name_is_refused(backend: Backend, start: Callable[..., Any]) -> None:
    """127.1 is the same address as 127.0.0.1, under a name that the certificate does not bear."""
    process = start("migrate", backend, DATABASE_HOST="127.1")
    assert process.wait() == 1
    assert "does not verify with DATABASE_CA_BUNDLE" in process.records[-1]["message"]


def test_unreadable_secret_is_named(backend: Backend, start: Callable[..., Any]) -> None:
    arn = f"{backend.database_secret}-gone"
    process = start("migrate", backend, DATABASE_SECRET_ARN=arn)
    assert process.wait() == 1
    assert f"secret {arn} cannot be read" in process.records[-1]["message"]


@pytest.mark.parametrize(
    "name",
    [
        "DATABASE_HOST",
        "DATABASE_PORT",
        "DATABASE_NAME",
        "DATABASE_SECRET_ARN",
        "DATABASE_CA_BUNDLE",
        "SERVER_SECRET_ARN",
        "MLFLOW_ARTIFACTS_DESTINATION",
        "ARTIFACT_ACCESS",
        "MLFLOW_SERVER_ALLOWED_HOSTS",
        "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS",
        "MLFLOW_WORKERS",
        "SERVER_THREADS",
        "DATABASE_POOL_SIZE",
        "SERVER_DRAIN_SECONDS",
    ],
)
def test_missing_variable_is_named(backend: Backend, start: Callable[..., Any], name: str) -> None:
    process = start("serve", backend, **{name: ""})
    assert process.wait() == 2
    assert process.records[-1]["message"] == f"bad configuration: missing environment variables: {name}"


def test_sqlite_needs_no_database_server(
    new_backend: Callable[..., Backend], start: Callable[..., Any], tmp_path: Path
) -> None:
    backend = new_backend(overrides={"MLFLOW_BACKEND_STORE_URI": f"sqlite:///{tmp_path}/new/mlflow.db"})
    nothing = {
        name: "" for name in backend.environment() if name.startswith("DATABASE_") and "POOL" not in name
    }
    migrations = [start("migrate", backend, **nothing) for _ in range(2)]
    server: Server = start("serve", backend, **nothing)
    assert [migration.wait() for migration in migrations] == [0, 0]
    server.wait_until_healthy()
    assert ask(server) == 200
    with_password = "mysql+pymysql://u:hunter2@localhost/db"
    refused = start("migrate", backend, MLFLOW_BACKEND_STORE_URI=with_password)
    assert refused.wait() == 2
    assert "hunter2" not in refused.output
