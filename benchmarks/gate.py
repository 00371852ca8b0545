"""What the gate costs: `python -m benchmarks.gate`.

Servers with the gate and without it run side by side on one database, each request is timed in CPU of the server's
processes, and rounds alternate between the servers. There are two servers of each kind, so that the difference
between two equal ones tells how much of a ratio is noise.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer
from rich.progress import Progress
from rich.table import Table

from benchmarks.in_process import InProcess, bare, request_of
from benchmarks.machine import REPOSITORY, describe, keep
from benchmarks.processes import cpu_seconds, pinned
from kit.console import Json, err, out, print_json

sys.path[:0] = [
    str(REPOSITORY / "tests"),
    str(REPOSITORY / "tests/access"),
    str(REPOSITORY / "tests/integration"),
]

from guarded import Account, bearer, gate_variables  # noqa: E402
from server_process import REGION, Backend, Process, Server  # noqa: E402

from local.aws import EmbeddedAws  # noqa: E402
from local.database import DatabaseServer, find_server  # noqa: E402

LIMIT = 1.05
"""What the gate may make a request cost, as a multiple of the same request without it."""

AUDIT_GROUP = "/benchmark/audit"
WARM_UP_REQUESTS = 200


@dataclass(kw_only=True)
class Target:
    """A server under load, over one connection that is kept alive."""

    server: Server
    sign: Callable[[str], dict[str, str]] | None
    run_id: str = ""
    steps: int = 0
    headers: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.connection = http.client.HTTPConnection("localhost", self.server.port, timeout=60)

    def create_run(self) -> None:
        """Make the run that the calls are about."""
        self.renew()
        body = self.send("POST", "/api/2.0/mlflow/runs/create", {"experiment_id": "0"})
        self.run_id = json.loads(body)["run"]["info"]["run_id"]

    def renew(self) -> None:
        """A new token, as it holds for a quarter of an hour at most."""
        self.headers = self.sign(self.server.url) if self.sign else {}

    def send(self, method: str, path: str, body: dict[str, Any] | None = None) -> bytes:
        """One request; its answer must be 200."""
        content = None if body is None else json.dumps(body)
        headers = self.headers | ({"Content-Type": "application/json"} if content else {})
        self.connection.request(method, path, content, headers)
        answer = self.connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{method} {path}: {answer.status} {text[:300]!r}")
        return text

    def get_experiment(self) -> None:
        """GET experiments/get."""
        self.send("GET", "/api/2.0/mlflow/experiments/get?experiment_id=0")

    def get_run(self) -> None:
        """GET runs/get."""
        self.send("GET", f"/api/2.0/mlflow/runs/get?run_id={self.run_id}")

    def log_metric(self) -> None:
        """POST runs/log-metric."""
        self.steps += 1
        metric = {"run_id": self.run_id, "key": "loss", "value": 0.5, "timestamp": 1, "step": self.steps}
        self.send("POST", "/api/2.0/mlflow/runs/log-metric", metric)


CALLS: dict[str, Callable[[Target], None]] = {
    "GET experiments/get": Target.get_experiment,
    "GET runs/get": Target.get_run,
    "POST runs/log-metric": Target.log_metric,
}


def round_of(target: Target, call: Callable[[Target], None], requests: int) -> float:
    """Milliseconds of the server's CPU for each of so many requests."""
    target.renew()
    call(target)
    before = cpu_seconds(target.server.popen.pid)
    for _ in range(requests):
        call(target)
    return (cpu_seconds(target.server.popen.pid) - before) / requests * 1000


def summary(rounds: list[dict[str, float]]) -> dict[str, Any]:
    """The figures of one call from the CPU of its rounds, in milliseconds a request by server."""
    without = [(r["open 1"] + r["open 2"]) / 2 for r in rounds]
    with_gate = [(r["iam 1"] + r["iam 2"]) / 2 for r in rounds]
    ratios = [b / a for a, b in zip(without, with_gate, strict=True)]
    equal = [r["open 2"] / r["open 1"] for r in rounds]
    spread = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else [ratios[0]] * 3
    return {
        "cpu_cost_ratio": round(statistics.median(ratios), 4),
        "pooled_cpu_cost_ratio": round(sum(with_gate) / sum(without), 4),
        "lower_quartile_ratio": round(spread[0], 4),
        "upper_quartile_ratio": round(spread[2], 4),
        "equal_servers_ratio": round(statistics.median(equal), 4),
        "equal_guarded_servers_ratio": round(statistics.median(r["iam 2"] / r["iam 1"] for r in rounds), 4),
        "ms_without": round(statistics.median(without), 3),
        "ms_with": round(statistics.median(with_gate), 3),
        "requests_a_cpu_second_without": round(1000 / statistics.median(without)),
        "requests_a_cpu_second_with": round(1000 / statistics.median(with_gate)),
        "rounds": [{name: round(value, 4) for name, value in r.items()} for r in rounds],
    }


async def _alone(requests: int) -> float:
    async def nothing(*_: Any) -> Any:
        return {"type": "http.request", "body": b""}

    part, costs = InProcess(), []
    for _ in range(100):
        await part.call(1)
    for app in (part.gate, bare):
        started = time.process_time()
        for _ in range(requests):
            await app(request_of(1), nothing, part.send)
        costs.append((time.process_time() - started) / requests * 1e6)
    if part.refused:
        raise RuntimeError("the gate has refused what it should let through")
    return costs[0] - costs[1]


def gate_alone(requests: int = 20_000) -> float:
    """Microseconds of CPU of the gate around an application that does nothing, everything cached."""
    return statistics.median(asyncio.run(_alone(requests)) for _ in range(5))


@contextmanager
def targets(directory: Path) -> Iterator[dict[str, Target]]:
    """Two servers without the gate and two with it, on one database."""
    binary = find_server()
    if binary is None:
        raise typer.BadParameter("no MySQL-compatible server found: run `python -m local.get_database`")
    *others, core = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, others or {core})
    with ExitStack() as stack:
        (directory / "database").mkdir()
        database = stack.enter_context(
            DatabaseServer(
                directory=directory / "database", binary=binary, log_bin_trust_function_creators=True
            )
        )
        aws = stack.enter_context(EmbeddedAws(directory=directory / "aws", region=REGION))
        aws.client("logs").create_log_group(logGroupName=AUDIT_GROUP)
        account = Account(aws)
        keys = account.assume("DataScientist")
        backend = Backend(database_server=database, aws_endpoint=aws.endpoint)
        migration = Process("migrate", environment=backend.environment(), directory=directory)
        stack.callback(migration.kill)
        if migration.wait() != 0:
            raise RuntimeError(migration.output)
        found = {}
        for name in ("open 1", "iam 1", "open 2", "iam 2"):
            guarded = name.startswith("iam")
            variables = gate_variables() | {"ACCESS_AUDIT_LOG_GROUP": AUDIT_GROUP} if guarded else {}
            with pinned(core):
                server = Server(backend, directory=directory, **variables)
            stack.callback(server.kill)
            server.wait_until_healthy()
            found[name] = Target(server=server, sign=(lambda url: bearer(keys, url)) if guarded else None)
            found[name].create_run()
        yield found


def measure(*, rounds: int, requests: int) -> dict[str, Any]:
    """Every call, in rounds that go through the servers in turn, each round in the other direction."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as directory, Progress(console=err) as progress:
        Path(directory).chmod(0o755)
        bar = progress.add_task("starting servers", total=len(CALLS) * rounds)
        taken: dict[str, list[dict[str, float]]] = {name: [] for name in CALLS}
        with targets(Path(directory)) as servers:
            progress.update(bar, description="warming up")
            for target in servers.values():
                for call in CALLS.values():
                    round_of(target, call, WARM_UP_REQUESTS)
            for number in range(rounds):
                order = list(servers) if number % 2 == 0 else list(reversed(servers))
                for name, call in CALLS.items():
                    progress.update(bar, description=name, advance=1)
                    taken[name].append({each: round_of(servers[each], call, requests) for each in order})
    return {name: summary(found) for name, found in taken.items()}


def main(*, rounds: int = 10, requests: int = 250, as_json: Json = False) -> None:
    """Measure what the gate costs; exit 1 when it is more than the limit."""
    about = describe()
    alone = gate_alone()
    calls = measure(rounds=rounds, requests=requests)
    worst = max(found["cpu_cost_ratio"] for found in calls.values())
    document = about | {
        "requests_a_round": requests,
        "limit": LIMIT,
        "worst_cpu_cost_ratio": worst,
        "gate_alone_us": round(alone, 1),
        "calls": calls,
    }
    path = keep("gate", document)
    if as_json:
        print_json(document)
    else:
        table = Table("call", "CPU ms", "req/CPU-s", "with ÷ without", "noise")
        table.columns[0].no_wrap = True
        for name, found in calls.items():
            table.add_row(
                name,
                f"{found['ms_without']:.2f} → {found['ms_with']:.2f}",
                f"{found['requests_a_cpu_second_without']} → {found['requests_a_cpu_second_with']}",
                f"{found['cpu_cost_ratio']:.3f}",
                f"{found['equal_servers_ratio']:.3f}",
            )
        out.print(table)
        out.print(f"the gate alone: {alone:.1f} µs a request; limit {LIMIT}; written to {path.name}")
    raise typer.Exit(worst > LIMIT)


if __name__ == "__main__":
    typer.run(main)
