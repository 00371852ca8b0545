"""What an operation costs as the store grows: `python -m benchmarks.growth`.

One database is filled, by SQL, to a thousand, ten thousand, a hundred thousand and a million runs in one experiment,
points of one key in one run, and metrics in one experiment of many runs. At each size two servers on it, one with the
kit's fast store and one with MLflow's own, are sent the same requests in turn.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress

from benchmarks import growth_indexes
from benchmarks.gate import Target, pinned
from benchmarks.growth_document import markdown, newest, ratios, update
from benchmarks.growth_seed import START, Seed, run_id
from benchmarks.machine import REPOSITORY, describe, keep
from kit.console import Json, err, out, print_json

sys.path[:0] = [str(REPOSITORY / "tests/integration")]

from server_process import REGION, Backend, Process, Server  # noqa: E402

from local.aws import EmbeddedAws  # noqa: E402
from local.database import DatabaseServer, find_server  # noqa: E402

SIZES = (1_000, 10_000, 100_000, 1_000_000)
QUICK_SIZES = (1_000, 10_000)

STORES = ("fast", "stock")

ROUNDS = 4

BUFFER_POOL_BYTES = 2 * 1024**3
"""What the database caches: RDS gives three quarters of the instance's memory to it, and so more from 4 GiB on."""

Call = Callable[[Target, "Seed"], None]


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One request whose cost is followed along an axis of growth."""

    axis: str
    name: str
    send: Call


def _post(target: Target, path: str, **body: Any) -> bytes:
    return target.send("POST", f"/api/2.0/mlflow/{path}", body)


def _next(target: Target) -> int:
    target.steps += 1
    return target.steps


def _create_run(experiment: str) -> Call:
    def send(target: Target, seed: Seed) -> None:
        # older than the runs that are seeded: a search answers the same runs however many were created
        _post(
            target,
            "runs/create",
            experiment_id=seed.experiments[experiment],
            start_time=START - 1_000_000 + _next(target),
            run_name="measured",
            tags=[{"key": "mlflow.user", "value": "someone"}, {"key": "mlflow.source.name", "value": "a.py"}],
        )

    return send


def _now() -> int:
    return time.time_ns() // 1_000_000


def _log_metric(run: str) -> Call:
    def send(target: Target, _seed: Seed) -> None:
        _post(
            target,
            "runs/log-metric",
            run_id=run,
            key="metric_0",
            value=0.5,
            timestamp=_now(),
            step=2_000_000 + _next(target),
        )

    return send


def _log_batch(runs: Sequence[str], *, params: int) -> Call:
    """To each of the runs in turn, as a run with thousands of parameters is another matter."""

    def send(target: Target, _seed: Seed) -> None:
        step = 2_000_000 + _next(target)
        metrics = [
            {"key": f"metric_{n}", "value": 0.25, "timestamp": _now(), "step": step} for n in range(10)
        ]
        logged = [{"key": f"p_{step}_{target.server.port}_{n}", "value": "v"} for n in range(params)]
        run = runs[step % len(runs)]
        _post(target, "runs/log-batch", run_id=run, metrics=metrics, params=logged)

    return send


def _get_run(run: str) -> Call:
    def send(target: Target, _seed: Seed) -> None:
        target.send("GET", f"/api/2.0/mlflow/runs/get?run_id={run}")

    return send


def _history(run: str) -> Call:
    def send(target: Target, _seed: Seed) -> None:
        query = f"run_id={run}&metric_key=metric_0&max_results=100"
        target.send("GET", f"/api/2.0/mlflow/metrics/get-history?{query}")

    return send


def _search(experiment: str, **how: Any) -> Call:
    def send(target: Target, seed: Seed) -> None:
        _post(target, "runs/search", experiment_ids=[seed.experiments[experiment]], max_results=100, **how)

    return send


ORDER = ["metrics.metric_0 DESC"]
FILTER = "params.param_0 = 'p7'"
"""A value that a tenth of the runs have."""

OLD_RUNS = [run_id("runs", number) for number in range(10, 510)]
"""Seeded at every size, and too old to be among the 100 runs that a search answers."""

OF_RUNS, OF_POINTS, OF_METRICS = "runs in the experiment", "points in the run", "metrics in the experiment"

OPERATIONS = (
    Operation(axis=OF_RUNS, name="create run", send=_create_run("runs")),
    Operation(axis=OF_RUNS, name="log-metric", send=_log_metric(run_id("runs", 8))),
    Operation(axis=OF_RUNS, name="log-batch", send=_log_batch(OLD_RUNS, params=5)),
    Operation(axis=OF_RUNS, name="get run", send=_get_run(run_id("runs", 7))),
    Operation(axis=OF_RUNS, name="search", send=_search("runs")),
    Operation(axis=OF_RUNS, name="search, order", send=_search("runs", order_by=ORDER)),
    Operation(axis=OF_RUNS, name="search, filter", send=_search("runs", filter=FILTER)),
    Operation(
        axis=OF_RUNS, name="search, order and filter", send=_search("runs", order_by=ORDER, filter=FILTER)
    ),
    Operation(axis=OF_POINTS, name="log-metric", send=_log_metric(run_id("points", 0))),
    Operation(axis=OF_POINTS, name="log-batch", send=_log_batch([run_id("points", 0)], params=0)),
    Operation(axis=OF_POINTS, name="get run", send=_get_run(run_id("points", 0))),
    Operation(axis=OF_POINTS, name="get history, 100 points", send=_history(run_id("points", 0))),
    Operation(axis=OF_METRICS, name="log-metric", send=_log_metric(run_id("metrics", 3))),
    Operation(axis=OF_METRICS, name="log-batch", send=_log_batch([run_id("metrics", 4)], params=0)),
    Operation(axis=OF_METRICS, name="get run", send=_get_run(run_id("metrics", 5))),
    Operation(axis=OF_METRICS, name="search", send=_search("metrics")),
    Operation(axis=OF_METRICS, name="search, order", send=_search("metrics", order_by=ORDER)),
    Operation(axis=OF_METRICS, name="get history, 100 points", send=_history(run_id("metrics", 5))),
)


def cpu_seconds(pid: int) -> float:
    """Time that a process and its children have had on a CPU, with that of threads that have ended.

    https://man7.org/linux/man-pages/man3/clock_getcpuclockid.3.html: the clock of another process.
    """
    taken = 0
    family = [pid]
    for member in family:
        taken += time.clock_gettime_ns((~member << 3) | 2)
        for children in Path(f"/proc/{member}/task").glob("*/children"):
            with suppress(FileNotFoundError, ProcessLookupError):
                family += map(int, children.read_text().split())
    return taken / 1e9


@dataclass(kw_only=True)
class Cell:
    """What was measured of one operation on one server at one size."""

    latencies: list[float] = field(default_factory=list)
    server_cpu: float = 0
    database_cpu: float = 0
    error: str | None = None

    def summary(self) -> dict[str, Any]:
        """Milliseconds; the latencies of so many requests one after the other, and CPU a request."""
        count = len(self.latencies)
        if not count:
            return {"requests": 0, "error": self.error}
        ordered = sorted(self.latencies)
        figures = {
            "p50_ms": statistics.median(ordered),
            "p99_ms": ordered[min(count - 1, math.ceil(count * 0.99) - 1)],
            "server_cpu_ms": self.server_cpu / count * 1000,
            "database_cpu_ms": self.database_cpu / count * 1000,
        }
        return {"requests": count} | {name: round(value, 3) for name, value in figures.items()}


@dataclass(frozen=True, kw_only=True)
class Bench:
    """The servers under load, their database, and how long one operation may take of the time."""

    targets: dict[str, Target]
    database: DatabaseServer
    seed: Seed
    requests: int
    cell_seconds: float

    def measure(self, operation: Operation) -> dict[str, Any]:
        """One operation on all servers, in rounds that go through them in turn."""
        cells = {name: Cell() for name in self.targets}
        for number in range(ROUNDS):
            for name in list(cells) if number % 2 == 0 else list(reversed(cells)):
                self._round(self.targets[name], operation, cells[name])
        return {name: cell.summary() for name, cell in cells.items()}

    def _round(self, target: Target, operation: Operation, cell: Cell) -> None:
        """Requests until there are enough, or their share of the time is used; one that is slow by itself is enough."""
        spent = sum(cell.latencies) / 1000
        if cell.error or spent > self.cell_seconds:
            return
        database = self.database.pid or 0
        try:
            if not cell.latencies:
                target.connection.close()  # the server has closed it while the database was filled
                operation.send(target, self.seed)  # opens connections, fills caches
            before = cpu_seconds(target.server.popen.pid), cpu_seconds(database)
            deadline = time.perf_counter() + self.cell_seconds / ROUNDS
            for _ in range(self.requests // ROUNDS):
                started = time.perf_counter()
                operation.send(target, self.seed)
                now = time.perf_counter()
                cell.latencies.append((now - started) * 1000)
                if now > deadline:
                    break
        except (RuntimeError, OSError) as error:
            cell.error = str(error)[:200]
            target.connection.close()  # the next request opens another one
            return
        cell.server_cpu += cpu_seconds(target.server.popen.pid) - before[0]
        cell.database_cpu += cpu_seconds(database) - before[1]


@contextmanager
def bench(directory: Path, *, requests: int, cell_seconds: float) -> Iterator[Bench]:
    """A database in `directory`, filled as far as it was, and a server of each kind on it, all on one core."""
    binary = find_server()
    if binary is None:
        raise typer.BadParameter("no MySQL-compatible server found: run `python -m local.get_database`")
    *others, core = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, others or {core})
    with ExitStack() as stack:
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="growth-")))
        database = stack.enter_context(
            DatabaseServer(
                directory=directory / "database", binary=binary, log_bin_trust_function_creators=True
            )
        )
        _prepare(database)
        aws = stack.enter_context(EmbeddedAws(directory=logs / "aws", region=REGION))
        backend = Backend(database_server=database, aws_endpoint=aws.endpoint, name="growth")
        migration = Process("migrate", environment=backend.environment(), directory=logs)
        stack.callback(migration.kill)
        if migration.wait() != 0:
            raise RuntimeError(migration.output)
        targets = {}
        for store in STORES:
            with pinned(core):
                server = Server(backend, directory=logs, TRACKING_STORE=store)
            stack.callback(server.kill)
            targets[store] = Target(server=server.wait_until_healthy(), sign=None)
        yield Bench(
            targets=targets,
            database=database,
            seed=_seed(backend),
            requests=requests,
            cell_seconds=cell_seconds,
        )


def _prepare(database: DatabaseServer) -> None:
    database.admin(f"SET GLOBAL innodb_buffer_pool_size = {BUFFER_POOL_BYTES}")
    if database.binary.kind == "mysql":
        database.admin(f"SET GLOBAL innodb_redo_log_capacity = {BUFFER_POOL_BYTES}")


def _seed(backend: Backend) -> Seed:
    server = backend.database_server
    right = "SESSION_VARIABLES_ADMIN" if server.binary.kind == "mysql" else "BINLOG ADMIN"
    server.admin(f"GRANT {right} ON *.* TO %s@'%%'", (backend.username,))
    return Seed(
        host=server.host,
        port=server.port,
        username=backend.username,
        password=backend.password,
        database=backend.name,
        ca_bundle=str(server.ca_bundle),
    )


def measure(
    directory: Path, *, sizes: Sequence[int], requests: int, cell_seconds: float
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Every operation at every size (by size, axis, operation and store), and the indexes at the last one.

    What was measured is kept beside the database, and not measured again: its sizes are behind it.
    """
    kept = directory / "measured.json"
    found: dict[str, dict[str, Any]] = json.loads(kept.read_text()) if kept.exists() else {}
    with (
        Progress(console=err) as progress,
        bench(directory, requests=requests, cell_seconds=cell_seconds) as running,
    ):
        for size in sizes:
            if str(size) not in found:
                found[str(size)] = _measure_size(running, size, progress)
                kept.write_text(json.dumps(found))
        bar = progress.add_task("the kit's indexes", total=None)
        pid = running.database.pid or 0
        indexes = growth_indexes.measure(running.seed, lambda: cpu_seconds(pid))
        progress.remove_task(bar)
    return found, indexes


def _measure_size(running: Bench, size: int, progress: Progress) -> dict[str, Any]:
    bar = progress.add_task(f"{size:,}: filling", total=running.seed.rows(size))
    running.seed.grow(
        size, lambda part, rows: progress.update(bar, advance=rows, description=f"{size:,}: {part}")
    )
    progress.remove_task(bar)
    bar = progress.add_task(f"{size:,}: measuring", total=len(OPERATIONS))
    found: dict[str, Any] = {}
    for operation in OPERATIONS:
        progress.update(bar, description=f"{size:,}: {operation.name}, by {operation.axis}")
        found.setdefault(operation.axis, {})[operation.name] = running.measure(operation)
        progress.update(bar, advance=1)
    return found


def main(
    *,
    quick: Annotated[bool, typer.Option(help="Two sizes and few requests; nothing is written.")] = False,
    redraw: Annotated[
        bool, typer.Option(help="Measure nothing; write the document and the picture from the newest result.")
    ] = False,
    directory: Annotated[
        Path | None, typer.Option(help="Keep the database here, and go on there after an interruption.")
    ] = None,
    requests: int = 100,
    cell_seconds: Annotated[
        float, typer.Option(help="How long one operation may take of the time, on one server at one size.")
    ] = 4,
    as_json: Json = False,
) -> None:
    """Measure what operations cost as the store grows."""
    if redraw:
        update(newest())
        return
    about = describe()
    with tempfile.TemporaryDirectory(prefix="growth-") as temporary:
        place = directory or Path(temporary)
        place.mkdir(exist_ok=True, parents=True)
        place.chmod(0o755)
        measured, indexes = measure(
            place,
            sizes=QUICK_SIZES if quick else SIZES,
            requests=20 if quick else requests,
            cell_seconds=1 if quick else cell_seconds,
        )
    document = about | {
        "database": _version(),
        "buffer_pool_bytes": BUFFER_POOL_BYTES,
        "rounds": ROUNDS,
        "filter": FILTER,
        "order": ORDER,
        "ratios": ratios(measured),
        "indexes": indexes,
        "sizes": measured,
    }
    if not quick:
        update(keep("growth", document))
    if as_json:
        print_json(document)
    else:
        out.print(markdown(document), soft_wrap=True)


def _version() -> str:
    binary = find_server()
    return f"{binary.kind} {binary.version}" if binary else "none"


if __name__ == "__main__":
    typer.run(main)
