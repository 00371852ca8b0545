"""What single requests cost: `python -m benchmarks.operations`.

The kit's server and MLflow's own, on one core, are sent the same by one client, one request after the other.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress
from rich.table import Table

from benchmarks.load import Scenario
from benchmarks.machine import describe, keep
from benchmarks.more_scenarios import MORE
from benchmarks.scenarios import OPERATIONS, Repeat, Seeded
from benchmarks.servers import STOCK_PYTHON, Stage, install_stock, start_stock
from kit.console import Json, err, out, print_json

KIT, STOCK = "kit", "stock"

SCENARIOS: dict[str, Callable[[Seeded], Scenario]] = {
    **{name: (lambda seeded, name=name: Repeat(name=name, seeded=seeded)) for name in OPERATIONS},
    **MORE,
}

WARM_UP_SECONDS = 1.5


def summary(rounds: list[dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Medians of both servers, and ratios of the same round."""
    cpu = [each[STOCK]["cpu_ms"] / each[KIT]["cpu_ms"] for each in rounds]
    p50 = [each[KIT]["p50_ms"] / each[STOCK]["p50_ms"] for each in rounds]
    return {
        "cpu_ratio": round(statistics.median(cpu), 3),
        "p50_ratio": round(statistics.median(p50), 4),
        **{name: _figures([each[name] for each in rounds]) for name in (STOCK, KIT)},
    }


def _figures(taken: list[dict[str, Any]]) -> dict[str, Any]:
    medians = {
        key: round(statistics.median(each[key] for each in taken), 3)
        for key in ("cpu_ms", "p50_ms", "p99_ms")
    }
    by_name = {
        name: round(
            statistics.median(each["by_name"][name]["p50_ms"] for each in taken if name in each["by_name"]), 3
        )
        for name in taken[0]["by_name"]
    }
    return {
        **medians,
        "requests": sum(each["requests"] for each in taken),
        "errors": sum(each["errors"] for each in taken),
        "first_errors": {key: text for each in taken for key, text in each["first_errors"].items()},
        "p50_ms_by_request": by_name,
        "rounds": [{"cpu_ms": each["cpu_ms"], "requests": each["requests"]} for each in taken],
    }


def measure(
    directory: Path, *, rounds: int, seconds: float, names: list[str], progress: Progress
) -> dict[str, Any]:
    """Every operation on both servers, in turn."""
    bar = progress.add_task("starting servers", total=len(names) * rounds)
    with Stage(directory) as stage:
        for site in (stage.kit(KIT), start_stock(stage, STOCK, artifacts_through_server=True)):
            site.seed()
        taken: dict[str, list[dict[str, dict[str, Any]]]] = {name: [] for name in names}
        for number in range(rounds):
            order = [KIT, STOCK] if number % 2 else [STOCK, KIT]
            for name in names:
                progress.update(bar, description=name)
                found = {}
                for each in order:
                    site = stage.sites[each]
                    scenario = SCENARIOS[name](site.seeded)
                    if number == 0:
                        site.measure(scenario, seconds=WARM_UP_SECONDS, connections=1)
                    found[each] = site.measure(scenario, seconds=seconds, connections=1)
                taken[name].append(found)
                progress.advance(bar)
        return {"database": stage.database_version, "operations": {n: summary(f) for n, f in taken.items()}}


def table(operations: dict[str, Any]) -> Table:
    """For a person at a terminal."""
    shown = Table(
        "operation", "stock CPU ms", "kit CPU ms", "CPU ratio", "stock p50 ms", "kit p50 ms", "errors"
    )
    for name, found in operations.items():
        shown.add_row(
            name,
            f"{found[STOCK]['cpu_ms']:.2f}",
            f"{found[KIT]['cpu_ms']:.2f}",
            f"{found['cpu_ratio']:.2f}",
            f"{found[STOCK]['p50_ms']:.1f}",
            f"{found[KIT]['p50_ms']:.1f}",
            f"{found[STOCK]['errors']} / {found[KIT]['errors']}",
        )
    return shown


def main(
    *,
    rounds: Annotated[int, typer.Option(min=1)] = 4,
    seconds: Annotated[float, typer.Option(help="For each operation, server and round.")] = 2,
    only: Annotated[
        list[str] | None, typer.Option(help=f"One of {', '.join(SCENARIOS)}; may be repeated.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure the CPU and the latency of single operations."""
    for name in only or ():
        if name not in SCENARIOS:
            raise typer.BadParameter(f"{name!r} is not one of {', '.join(SCENARIOS)}")
    if not STOCK_PYTHON.exists():
        install_stock()
    about = describe()
    with tempfile.TemporaryDirectory(prefix="benchmark-") as temporary, Progress(console=err) as progress:
        directory = Path(temporary)
        directory.chmod(0o755)  # the database runs as another user
        names = [name for name in SCENARIOS if not only or name in only]
        measured = measure(directory, rounds=rounds, seconds=seconds, names=names, progress=progress)
    document = about | {"rounds": rounds, "seconds_a_round": seconds} | measured
    if as_json:
        print_json(document)
    else:
        out.print(table(document["operations"]))
    if only:
        err.print("not all operations have run: nothing is written")
    else:
        err.print(f"written to {keep('operations', document).name}")


if __name__ == "__main__":
    typer.run(main)
