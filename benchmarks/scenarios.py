"""What clients send: the session mix, and each operation by itself."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.load import Answer, Request, Session

API = "/api/2.0/mlflow"

METRICS, PARAMS = 10, 5
"""In one batch."""

FOUND = 100
"""Runs that a search answers."""

MIX = {
    "create run": 1,
    "log-batch": 4,
    "log-metric": 3,
    "get run": 2,
    "search 100 runs": 1,
    "update run": 1,
}
"""Requests of one session, by name."""


@dataclass(frozen=True, kw_only=True)
class Seeded:
    """What is in a server before the load: an experiment of 100 runs to search, and one to log to."""

    searched: str
    logged: str
    run: str
    artifacts: str
    """Where the files of the run are."""


def post(name: str, path: str, /, **body: Any) -> Request:
    """A call of the REST API with a JSON body."""
    return Request(name=name, method="POST", path=path, body=json.dumps(body).encode())


def get(name: str, path: str) -> Request:
    """A call of the REST API without a body."""
    return Request(name=name, method="GET", path=path)


def now() -> int:
    """Milliseconds, as in MLflow's timestamps."""
    return time.time_ns() // 1_000_000


def create_run(experiment: str, **fields: Any) -> Request:
    """A run with the tags that MLflow's client sets."""
    tags = {
        "mlflow.user": "someone",
        "mlflow.source.name": "train.py",
        "mlflow.source.type": "LOCAL",
        "mlflow.runName": "measured",
    }
    return post(
        "create run",
        f"{API}/runs/create",
        experiment_id=experiment,
        start_time=now(),
        run_name="measured",
        tags=[{"key": key, "value": value} for key, value in tags.items()],
        **fields,
    )


def log_batch(run: str, number: int) -> Request:
    """A batch of 10 metrics and 5 parameters, which no other number has."""
    metrics = [
        {"key": f"metric_{n}", "value": 0.25 + number, "timestamp": now(), "step": number}
        for n in range(METRICS)
    ]
    params = [{"key": f"param_{number}_{n}", "value": f"value {n}"} for n in range(PARAMS)]
    return post("log-batch", f"{API}/runs/log-batch", run_id=run, metrics=metrics, params=params)


def log_metric(run: str, step: int) -> Request:
    """One point of a metric."""
    return post(
        "log-metric",
        f"{API}/runs/log-metric",
        run_id=run,
        key="loss",
        value=1 / (1 + step),
        timestamp=now(),
        step=step,
    )


def get_run(run: str) -> Request:
    """A run with all that is in it."""
    return get("get run", f"{API}/runs/get?run_id={run}")


def search(experiment: str) -> Request:
    """The newest 100 runs."""
    return post(
        "search 100 runs",
        f"{API}/runs/search",
        experiment_ids=[experiment],
        max_results=FOUND,
        order_by=["attributes.start_time DESC"],
    )


def update_run(run: str) -> Request:
    """The end of a run."""
    return post("update run", f"{API}/runs/update", run_id=run, status="FINISHED", end_time=now())


def run_id(answer: Answer) -> str:
    """The id of the run that was created."""
    return str(json.loads(answer.body)["run"]["info"]["run_id"])


@dataclass(frozen=True, kw_only=True)
class Mix:
    """One training run's session of 12 requests; see MIX."""

    seeded: Seeded

    def __call__(self) -> Session:
        """One session; it ends early when no run could be created."""
        answer = yield create_run(self.seeded.logged)
        if not answer.good:
            return
        run = run_id(answer)
        for number in range(MIX["log-batch"]):
            yield log_batch(run, number)
            if number < MIX["log-metric"]:
                yield log_metric(run, number)
            if number % 2:
                yield get_run(run)
        yield search(self.seeded.searched)
        yield update_run(run)


@dataclass(frozen=True, kw_only=True)
class Repeat:
    """One operation, again and again, on a run of its own; `name` is one of OPERATIONS."""

    name: str
    seeded: Seeded

    def __call__(self) -> Session:
        """An endless session."""
        run = self.seeded.run
        if self.name in OF_A_RUN:
            answer = yield create_run(self.seeded.logged)
            if not answer.good:
                return
            run = run_id(answer)
        for number in itertools.count():
            yield OPERATIONS[self.name](self.seeded, run, number)


OF_A_RUN = {"log-batch", "log-metric", "log-parameter"}
"""What writes needs a run of its own for each connection."""

OPERATIONS: dict[str, Callable[[Seeded, str, int], Request]] = {
    "get experiment": lambda seeded, _run, _n: get(
        "get experiment", f"{API}/experiments/get?experiment_id={seeded.searched}"
    ),
    "create run": lambda seeded, _run, _n: create_run(seeded.logged),
    "log-metric": lambda _seeded, run, n: log_metric(run, n),
    "log-parameter": lambda _seeded, run, n: post(
        "log-parameter", f"{API}/runs/log-parameter", run_id=run, key=f"param_{n}", value="value"
    ),
    "log-batch": lambda _seeded, run, n: log_batch(run, n),
    "get run": lambda _seeded, run, _n: get_run(run),
    "search 100 runs": lambda seeded, _run, _n: search(seeded.searched),
    "update run": lambda _seeded, run, _n: update_run(run),
    "set tag": lambda _seeded, run, n: post(
        "set tag", f"{API}/runs/set-tag", run_id=run, key="stage", value=str(n)
    ),
    "get metric history": lambda _seeded, run, _n: get(
        "get metric history", f"{API}/metrics/get-history?run_id={run}&metric_key=metric_0"
    ),
}


def seed(send: Callable[[Request], Answer], *, runs: int = FOUND) -> Seeded:
    """Fill an empty server by its own API: 100 runs of 10 metrics and 5 parameters. Raises RuntimeError."""

    def ask(request: Request) -> dict[str, Any]:
        answer = send(request)
        if not answer.good:
            raise RuntimeError(f"{request.path}: {answer.status} {answer.body[:300]!r}")
        found: dict[str, Any] = json.loads(answer.body or b"{}")
        return found

    searched, logged = (
        ask(post("create experiment", f"{API}/experiments/create", name=name))["experiment_id"]
        for name in ("searched", "logged")
    )
    info: dict[str, Any] = {}
    for _ in range(runs):
        info = ask(create_run(searched))["run"]["info"]
        ask(log_batch(info["run_id"], 0))
    return Seeded(searched=searched, logged=logged, run=info["run_id"], artifacts=info["artifact_uri"])


def names() -> Iterator[str]:
    """Every operation that can be repeated."""
    yield from OPERATIONS
