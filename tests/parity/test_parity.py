"""The fast store and MLflow's own answer alike, and write the same."""

from __future__ import annotations

import json
import os
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from .comparison import Campaign, Comparer, Outcome, table_difference
from .interference import Interference, alters, forgets, proxy
from .sequences import Operation
from .servers import Pair, Side
from .wire import Request, Wire

SEQUENCES = int(os.environ.get("PARITY_SEQUENCES", "200"))
"""A share of the sequences, so that the whole of the tests stays short; `make parity` runs 10,000."""

WRITERS = 2
ATTEMPTS = 20
JSON = {"Content-Type": "application/json"}
ROUNDS = 6


def test_random_sequences_are_answered_alike(pair: Pair) -> None:
    report = Campaign(pair, seed=0).run(range(SEQUENCES))
    assert not report.failures, "\n".join(map(str, report.failures))
    assert report.sequences == SEQUENCES
    # neither all well nor all refused
    assert 0.1 < report.errors / report.answers < 0.4


@pytest.mark.parametrize(
    ("interfere", "seen"),
    [
        (alters(b'"step":0', b'"step":7', path="runs/get"), "runs/get"),
        (alters(b"not found", b"not  found", path="runs/"), "not  found"),
        (alters(b'"status":"RUNNING"', b'"status": "RUNNING",', path="runs/create"), "runs/create"),
        (forgets(b'"params"', path="runs/log-batch"), "params"),
        (forgets(b'"key"', path="runs/delete-tag"), "tag"),
    ],
    ids=["a step", "a space in a message", "not JSON", "a batch that is not written", "a tag that stays"],
)
def test_differences_are_found(pair: Pair, interfere: Interference, seen: str) -> None:
    with proxy(pair.right.port, interfere) as port:
        other = Pair(left=pair.left, right=replace(pair.right, port=port))
        report = Campaign(other, seed=1).run(range(200), each=20)
    assert report.failures
    shown = str(report.failures[0])
    assert seen in shown
    assert "not seen again" not in shown
    assert len(report.failures[0].difference.operations) <= 5


def test_a_row_that_no_answer_tells_of_is_found(pair: Pair) -> None:
    """In a table only: the answers are all the same."""
    operations = [
        Operation(method="POST", path="/api/2.0/mlflow/experiments/create", body={"name": "«prefix»"}),
        Operation(
            method="POST", path="/api/2.0/mlflow/runs/create", body={"experiment_id": "«experiment 0»"}
        ),
    ]
    outcome = _run(pair, operations, "row-")
    assert table_difference(pair, [outcome]) == ""
    run_id = outcome.parts[1].runs[0]
    pair.right.backend.admin(f"UPDATE {{db}}.runs SET source_name = 'x' WHERE run_uuid = '{run_id}'")
    assert "table runs" in table_difference(pair, [outcome])


def test_writers_on_one_run_leave_the_same(pair: Pair) -> None:
    """What does not depend on who is first: rows of metrics, the latest of each, parameters, tags."""
    for number in range(ROUNDS):
        outcome = _run(
            pair,
            [
                Operation(
                    method="POST", path="/api/2.0/mlflow/experiments/create", body={"name": "«prefix»"}
                ),
                Operation(
                    method="POST",
                    path="/api/2.0/mlflow/runs/create",
                    body={"experiment_id": "«experiment 0»", "run_name": "shared"},
                ),
            ],
            f"writers-{number}-",
        )
        for part in outcome.parts:
            _write_together(part.side, part.runs[0], number)
        found = table_difference(pair, [outcome])
        assert not found, found


def _run(pair: Pair, operations: list[Operation], prefix: str) -> Outcome:
    comparer = Comparer(pair, threading.Lock())
    outcome = comparer.run(operations, prefix)
    comparer.close()
    assert outcome.difference is None, outcome.difference
    return outcome


def _write_together(side: Side, run_id: str, seed: int) -> None:
    refused: list[str] = []

    def write(writer: int) -> None:
        wire = Wire(side.port)
        for batch in _batches(seed, writer):
            body = json.dumps({"run_id": run_id, **batch}).encode()
            request = Request(method="POST", path="/api/2.0/mlflow/runs/log-batch", headers=JSON, body=body)
            for _ in range(ATTEMPTS):
                answer = wire.send(request)
                if answer.status == 200:
                    break
                refused.append(str(answer))
            else:
                raise AssertionError(refused[-1])
        wire.close()

    with ThreadPoolExecutor(WRITERS) as writers:
        list(writers.map(write, range(WRITERS)))
    # MLflow's own store refuses a batch whose parameters another one is logging at the same time
    assert side.name == "stock" or not refused, refused


def _batches(seed: int, writer: int) -> list[dict[str, Any]]:
    """What a writer logs: the same keys as the others, whose values are equal wherever the last one would win."""
    chance = random.Random(f"{seed}/{writer}")  # noqa: S311
    batches = []
    for step in range(20):
        values = [chance.choice((0.5, 1.5, "NaN", "Infinity", "-Infinity")) for _ in range(8)]
        metrics = [
            # a NaN is stored as 0: another time than that of any number, or the first to be written would stay
            {
                "key": f"m{chance.randint(0, 9)}",
                "value": value,
                "timestamp": step * 10 + writer,
                "step": step % 7,
            }
            for value in values
            if value != "NaN"
        ]
        nans = [{"key": f"n{i}", "value": "NaN", "timestamp": step, "step": step % 5} for i in range(3)]
        pairs = [{"key": f"p{step}-{i}", "value": str(i)} for i in range(3)]
        chance.shuffle(metrics)
        batches.append({"metrics": metrics + nans, "params": pairs, "tags": pairs})
    return batches
