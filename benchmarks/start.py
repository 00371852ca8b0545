"""How long servers take to start, and the memory they need idle: `python -m benchmarks.start`.

The kit's server as each size starts it, and MLflow's own, one after the other on all cores.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress
from rich.table import Table

from benchmarks.machine import describe, keep
from benchmarks.processes import cpu_seconds, family, pss_mb
from benchmarks.servers import (
    JOBS_OFF,
    STOCK_PYTHON,
    Program,
    Site,
    Stage,
    install_stock,
    mlflow_server,
    stock_options,
)
from kit.console import Json, err, out, print_json
from stacks.sizes import SIZES, Size

from guarded import gate_variables  # isort: skip
from server_process import Backend, Server  # isort: skip

SETTLE_SECONDS = 5.0
"""Of quiet before memory is read; the recipe's job runner needs 15 more to start its processes."""

RECIPE_SETTLE_SECONDS = 20.0

Start = Callable[[], Server | Program]


def kit_variables(size: Size) -> dict[str, str]:
    """The processes and threads of a size, with the gate on."""
    return {
        "MLFLOW_WORKERS": str(size.workers),
        "SERVER_THREADS": str(size.threads),
        "DATABASE_POOL_SIZE": str(size.pool_size),
        **gate_variables(),
    }


def starts(stage: Stage, kit: Backend, stock: Backend) -> dict[str, tuple[Start, float]]:
    """What to start, and how long it takes to settle."""

    def of_size(size: Size) -> tuple[Start, float]:
        return lambda: Server(kit, directory=stage.directory, **kit_variables(size)), SETTLE_SECONDS

    def of_mlflow(settle: float, **how: Any) -> tuple[Start, float]:
        return lambda: mlflow_server(stock, directory=stage.directory, **how), settle

    return {
        **{f"kit, {name}": of_size(size) for name, size in SIZES.items()},
        "stock": of_mlflow(SETTLE_SECONDS, options=stock_options(), more=JOBS_OFF),
        "recipe": of_mlflow(RECIPE_SETTLE_SECONDS),
    }


def measure(stage: Stage, name: str, start: Start, settle: float) -> dict[str, float]:
    """Seconds until healthy, and memory when it is quiet."""
    begun = time.perf_counter()
    server = start()
    try:
        Site(name=name, server=server, loader=stage.loader).wait_until_healthy()
        healthy = time.perf_counter() - begun
        time.sleep(settle)
        pid = server.popen.pid
        return {
            "healthy_seconds": round(healthy, 2),
            "idle_pss_mb": round(pss_mb(pid), 1),
            "processes": len(family(pid)),
            "cpu_seconds": round(cpu_seconds(pid), 2),
        }
    finally:
        server.kill()


def summary(rounds: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Medians by server, and their ratios to the stock server's."""
    medians = {
        name: {key: statistics.median(each[key] for each in found) for key in found[0]}
        for name, found in rounds.items()
    }
    base = medians["stock"]
    return {
        name: {
            "memory_ratio": round(found["idle_pss_mb"] / base["idle_pss_mb"], 3),
            "start_ratio": round(found["healthy_seconds"] / base["healthy_seconds"], 3),
            **found,
            "rounds": rounds[name],
        }
        for name, found in medians.items()
    }


def main(
    *,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    as_json: Json = False,
) -> None:
    """Measure time to healthy and idle memory."""
    if not STOCK_PYTHON.exists():
        install_stock()
    about = describe()
    with (
        tempfile.TemporaryDirectory(prefix="benchmark-") as temporary,
        Progress(console=err) as progress,
    ):
        directory = Path(temporary)
        directory.chmod(0o755)  # the database runs as another user
        with Stage(directory) as stage, stage.all_cores():
            servers = starts(stage, stage.migrated(), stage.backend())
            taken: dict[str, list[dict[str, float]]] = {name: [] for name in servers}
            bar = progress.add_task("stock, once, for its schema", total=rounds * len(servers))
            measure(stage, "stock", *servers["stock"])
            for number in range(rounds):
                for name in servers if number % 2 == 0 else reversed(servers):
                    progress.update(bar, description=f"round {number + 1}: {name}")
                    taken[name].append(measure(stage, name, *servers[name]))
                    progress.advance(bar)
    document = about | {
        "rounds": rounds,
        "sizes": {name: kit_variables(size) for name, size in SIZES.items()},
        "servers": summary(taken),
    }
    path = keep("start", document)
    if as_json:
        print_json(document)
        return
    shown = Table("server", "healthy s", "idle MB", "processes", "CPU s")
    for name, found in document["servers"].items():
        shown.add_row(
            name,
            f"{found['healthy_seconds']:.1f}",
            f"{found['idle_pss_mb']:.0f}",
            f"{found['processes']:.0f}",
            f"{found['cpu_seconds']:.1f}",
        )
    out.print(shown)
    err.print(f"written to {path.name}")


if __name__ == "__main__":
    typer.run(main)
