"""KILL leaves all of a batch or nothing of it, and what was acknowledged stays."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest
from server_process import Backend, Server

from local.database import DatabaseServer

from .servers import migrate
from .wire import Request, Wire

KILLS = int(os.environ.get("PARITY_KILLS", "8"))
WORKER_KILLS = 7
"""Kills of a worker, which the supervisor replaces at once, between two kills of a whole server, which starts slowly."""

WRITERS = 4
JSON = {"Content-Type": "application/json"}
METRICS, PARAMS, TAGS = 20, 5, 5
"""What a batch holds."""


@dataclass
class Journal:
    """What a writer has sent to its run, and what of it the server has acknowledged."""

    run_id: str = ""
    sent: int = 0
    acknowledged: set[int] = field(default_factory=set)


def body(run_id: str, batch: int) -> bytes:
    """Every part of a batch bears its number: new metrics, one that each batch overwrites, parameters, tags."""
    metrics: list[dict[str, Any]] = [
        {"key": f"m{batch}-{i}", "value": batch, "timestamp": batch, "step": batch} for i in range(METRICS)
    ]
    metrics.append({"key": "newest", "value": batch, "timestamp": batch, "step": batch})
    params = [{"key": f"p{batch}-{i}", "value": str(batch)} for i in range(PARAMS)]
    tags = [{"key": f"t{batch}-{i}", "value": str(batch)} for i in range(TAGS)]
    return json.dumps({"run_id": run_id, "metrics": metrics, "params": params, "tags": tags}).encode()


def write(port: int, journal: Journal) -> None:
    """Log batches until the server is gone."""
    wire = Wire(port, timeout=30)
    try:
        if not journal.run_id:
            answer = wire.send(
                Request(
                    method="POST",
                    path="/api/2.0/mlflow/runs/create",
                    headers=JSON,
                    body=b'{"experiment_id": "0"}',
                )
            )
            journal.run_id = json.loads(answer.body)["run"]["info"]["run_id"]
        while True:
            journal.sent += 1
            batch = journal.sent
            answer = wire.send(
                Request(
                    method="POST",
                    path="/api/2.0/mlflow/runs/log-batch",
                    headers=JSON,
                    body=body(journal.run_id, batch),
                )
            )
            if answer.status == 200:
                journal.acknowledged.add(batch)
    except (OSError, HTTPException):
        return
    finally:
        wire.close()


@contextmanager
def writing(server: Server, journals: list[Journal]) -> Iterator[None]:
    """Every writer at work, until the server is gone."""
    threads = [threading.Thread(target=write, args=(server.port, journal)) for journal in journals]
    for thread in threads:
        thread.start()
    yield
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


def parts_of(backend: Backend, run_id: str, table: str) -> dict[int, int]:
    """How many rows of each batch a table has."""
    rows = backend.admin(
        "SELECT SUBSTRING_INDEX(SUBSTRING(`key`, 2), '-', 1), COUNT(*) FROM "
        f"{{db}}.{table} WHERE run_uuid = '{run_id}' AND `key` REGEXP '^[mpt][0-9]+-[0-9]+$' GROUP BY 1"
    )
    return {int(batch): count for batch, count in rows}


def check(backend: Backend, journal: Journal) -> int:
    """All or nothing of each batch; the number of batches that are there without an acknowledgement."""
    metrics = parts_of(backend, journal.run_id, "metrics")
    assert set(metrics.values()) <= {METRICS}
    assert parts_of(backend, journal.run_id, "latest_metrics") == metrics
    assert parts_of(backend, journal.run_id, "params") == dict.fromkeys(metrics, PARAMS)
    assert parts_of(backend, journal.run_id, "tags") == dict.fromkeys(metrics, TAGS)
    shared = backend.admin(
        f"SELECT step FROM {{db}}.metrics WHERE run_uuid = '{journal.run_id}' AND `key` = 'newest'"
    )
    assert {step for (step,) in shared} == set(metrics)
    newest = backend.admin(
        f"SELECT step, value FROM {{db}}.latest_metrics WHERE run_uuid = '{journal.run_id}' AND `key` = 'newest'"
    )
    assert newest == ([(max(metrics), float(max(metrics)))] if metrics else [])
    assert journal.acknowledged <= metrics.keys()
    return len(metrics.keys() - journal.acknowledged)


@pytest.mark.timeout(600)
def test_a_killed_server_leaves_whole_batches(
    database_server: DatabaseServer, aws_endpoint: str, tmp_path: Path
) -> None:
    backend = Backend(database_server=database_server, aws_endpoint=aws_endpoint)
    migrate(backend, tmp_path)
    journals = [Journal() for _ in range(WRITERS)]
    chance = random.Random(0)  # noqa: S311
    unacknowledged = 0
    kills = 0
    while kills < KILLS:
        server = Server(backend, directory=tmp_path, TRACKING_STORE="fast")
        try:
            for _ in range(WORKER_KILLS):
                _kill_while_writing(server, journals, chance, _worker_of(server.wait_until_healthy()))
                unacknowledged = _check_all(backend, journals)
            _kill_while_writing(server, journals, chance, server.wait_until_healthy().popen.pid)
        finally:
            server.kill()
        unacknowledged = _check_all(backend, journals)
        kills += WORKER_KILLS + 1
    acknowledged = sum(len(journal.acknowledged) for journal in journals)
    # the kills have met writers at work: nearly every one was waiting for an answer
    assert acknowledged > 10 * KILLS
    assert sum(journal.sent for journal in journals) - acknowledged >= KILLS
    print(f"{KILLS} kills: {acknowledged} batches acknowledged, {unacknowledged} more are there whole")


def _kill_while_writing(server: Server, journals: list[Journal], chance: random.Random, pid: int) -> None:
    with writing(server, journals):
        time.sleep(0.2 + chance.random() * 0.4)
        (os.killpg if pid == server.popen.pid else os.kill)(pid, signal.SIGKILL)


def _worker_of(server: Server) -> int:
    """The process that answers."""
    children = Path(f"/proc/{server.popen.pid}/task/{server.popen.pid}/children").read_text().split()
    assert len(children) == 1, children
    return int(children[0])


def _check_all(backend: Backend, journals: list[Journal]) -> int:
    _wait_for_rollback(backend)
    return sum(check(backend, journal) for journal in journals)


def _wait_for_rollback(backend: Backend) -> None:
    """Until the database has noticed that the connections of open transactions are gone."""
    deadline = time.monotonic() + 30
    query = (
        "SELECT 1 FROM information_schema.innodb_trx JOIN information_schema.processlist ON id = trx_mysql_thread_id"
        f" WHERE user = '{backend.username}'"
    )
    while backend.admin(query):
        assert time.monotonic() < deadline
        time.sleep(0.05)
