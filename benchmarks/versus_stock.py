"""The kit against MLflow's own server: `python -m benchmarks.versus_stock`.

All servers run at the same time, on one core and each on a database of its own in one MySQL; the load and the database
have the other cores. Every round goes through them in turn, every second one in the opposite order.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress
from rich.table import Table

from benchmarks.load import Scenario
from benchmarks.machine import describe, keep
from benchmarks.other_servers import OTHERS, Unusable
from benchmarks.scenarios import Mix, Repeat
from benchmarks.servers import (
    STOCK_PYTHON,
    Site,
    Stage,
    install_stock,
    start_recipe,
    start_stock,
    start_tuned,
)
from kit.console import Json, err, out, print_json

CONCURRENCIES = (8, 32)

BASE, BASE_AGAIN = "stock", "stock again"
"""What the ratios are against, and an equal server that tells how much of a ratio is noise."""

VARIANTS: dict[str, Callable[[Stage], Site]] = {
    "recipe": start_recipe,
    BASE: start_stock,
    BASE_AGAIN: lambda stage: start_stock(stage, BASE_AGAIN),
    "tuned": start_tuned,
    **OTHERS,
    "kit-pymysql": lambda stage: stage.kit("kit-pymysql", DATABASE_DRIVER="pymysql"),
    "kit-mysqlclient": lambda stage: stage.kit("kit-mysqlclient", DATABASE_DRIVER="mysqlclient"),
    "kit-gate": lambda stage: stage.kit("kit-gate", guarded=True),
}

ERRORS_AT = 128
"""Connections of the run that looks for errors."""

ERROR_SCENARIOS: dict[str, Callable[[Site], Scenario]] = {
    "mix": lambda site: Mix(seeded=site.seeded),
    "log-batch": lambda site: Repeat(name="log-batch", seeded=site.seeded),
}

NOT_OPENED_WIDE = (BASE_AGAIN,)
"""What the run that looks for errors would tell nothing new of."""

WARM_UP_SECONDS = 4.0

Rounds = list[dict[str, dict[str, Any]]]
"""For each round, what was measured by server."""


def figures(rounds: Rounds, name: str) -> dict[str, Any]:
    """One server's figures over the rounds, and their ratios to the stock server's of the same round."""
    mine, base = [each[name] for each in rounds], [each[BASE] for each in rounds]
    cpu = [b["cpu_ms"] / m["cpu_ms"] for m, b in zip(mine, base, strict=True)]
    lower, upper = _quartiles(cpu)
    throughput = [_over(m["throughput"], b["throughput"]) for m, b in zip(mine, base, strict=True)]
    p50 = [_over(m["p50_ms"], b["p50_ms"]) for m, b in zip(mine, base, strict=True)]
    p99 = [_over(m["p99_ms"], b["p99_ms"]) for m, b in zip(mine, base, strict=True)]
    return {
        "cpu_ratio": round(statistics.median(cpu), 3),
        "cpu_lower_quartile_ratio": round(lower, 3),
        "cpu_upper_quartile_ratio": round(upper, 3),
        "throughput_ratio": round(statistics.median(throughput), 3),
        "p50_ratio": round(statistics.median(p50), 4),
        "p99_ratio": round(statistics.median(p99), 4),
        "cpu_ms": round(statistics.median(m["cpu_ms"] for m in mine), 3),
        "requests_a_cpu_second": round(1000 / statistics.median(m["cpu_ms"] for m in mine), 1),
        **{
            key: round(statistics.median(m[key] for m in mine), 2)
            for key in ("throughput", "p50_ms", "p95_ms", "p99_ms")
        },
        "requests": sum(m["requests"] for m in mine),
        "errors": sum(m["errors"] for m in mine),
        "generator_cpu_ms": round(statistics.median(m["generator_cpu_ms"] for m in mine), 3),
        "rounds": [
            {
                key: m[key]
                for key in ("cpu_ms", "throughput", "p50_ms", "p99_ms", "requests", "errors_by_status")
            }
            for m in mine
        ],
    }


def _over(upper: float, lower: float) -> float:
    return upper / lower if lower else float("inf")


def _quartiles(values: list[float]) -> tuple[float, float]:
    if len(values) < 2:
        return values[0], values[0]
    lower, _, upper = statistics.quantiles(values, n=4)
    return lower, upper


def summary(by_concurrency: dict[str, Rounds]) -> dict[str, Any]:
    """By concurrency and server."""
    return {
        concurrency: {name: figures(rounds, name) for name in rounds[0]}
        for concurrency, rounds in by_concurrency.items()
    }


def headline(mix: dict[str, Any]) -> dict[str, float]:
    """The ratios that the documents speak of, from the lowest and the highest concurrency of the mix."""
    low, high = mix[min(mix, key=int)], mix[max(mix, key=int)]
    found = {}
    for name in low:
        if name != BASE:
            key = name.replace("-", "_").replace(" ", "_")
            found[f"{key}_cpu_ratio"] = low[name]["cpu_ratio"]
            found[f"{key}_p99_at_{max(mix, key=int)}_ratio"] = high[name]["p99_ratio"]
    return found


def start(stage: Stage, names: Sequence[str], progress: Progress) -> dict[str, str]:
    """Start and fill the servers that can be; why the others cannot."""
    unusable = {}
    bar = progress.add_task("starting servers", total=len(names))
    for name in names:
        progress.update(bar, description=f"starting {name}")
        try:
            site = VARIANTS[name](stage)
        except Unusable as reason:
            unusable[name] = str(reason)
            progress.console.print(f"{name} is left out: {reason}")
        else:
            site.seed()
            site.measure(Mix(seeded=site.seeded), seconds=WARM_UP_SECONDS, connections=CONCURRENCIES[0])
            site.pause()
        progress.advance(bar)
    return unusable


def measure_mix(stage: Stage, *, rounds: int, seconds: float, progress: Progress) -> dict[str, Rounds]:
    """The mix at each concurrency."""
    taken: dict[str, Rounds] = {str(each): [] for each in CONCURRENCIES}
    bar = progress.add_task("mix", total=rounds * len(CONCURRENCIES) * len(stage.sites))
    for number in range(rounds):
        sites = list(stage.sites.values())
        for concurrency in CONCURRENCIES:
            found = {}
            for site in sites if number % 2 == 0 else reversed(sites):
                progress.update(
                    bar, advance=1, description=f"round {number + 1}, {concurrency} at a time: {site.name}"
                )
                found[site.name] = site.measure(
                    Mix(seeded=site.seeded), seconds=seconds, connections=concurrency
                )
            taken[str(concurrency)].append({name: found[name] for name in stage.sites})
    return taken


def measure_errors(stage: Stage, *, seconds: float, progress: Progress) -> dict[str, Any]:
    """What fails when far more clients come than there are threads."""
    names = [name for name in stage.sites if name not in NOT_OPENED_WIDE]
    bar = progress.add_task("errors", total=len(names) * len(ERROR_SCENARIOS))
    found: dict[str, Any] = {}
    for scenario, make in ERROR_SCENARIOS.items():
        for name in names:
            progress.update(bar, advance=1, description=f"{scenario}, {ERRORS_AT} at a time: {name}")
            site = stage.sites[name]
            measured = site.measure(make(site), seconds=seconds, connections=ERRORS_AT)
            found.setdefault(scenario, {})[name] = {
                key: measured[key]
                for key in (
                    "requests",
                    "errors",
                    "errors_by_status",
                    "first_errors",
                    "seconds",
                    "throughput",
                    "p50_ms",
                    "p99_ms",
                    "max_ms",
                )
            }
    return found


def table(mix: dict[str, Any], errors: dict[str, Any]) -> Table:
    """For a person at a terminal."""
    shown = Table(
        "server", "CPU ms", "CPU ratio", "quartiles", "req/s", "p50 ms", "p99 ms", "p99 ratio", "errors"
    )
    for concurrency, servers in mix.items():
        shown.add_row(f"[bold]{concurrency} at a time[/]")
        for name, f in servers.items():
            shown.add_row(
                name,
                f"{f['cpu_ms']:.2f}",
                f"{f['cpu_ratio']:.2f}",
                f"{f['cpu_lower_quartile_ratio']:.2f}-{f['cpu_upper_quartile_ratio']:.2f}",
                f"{f['throughput']:.0f}",
                f"{f['p50_ms']:.0f}",
                f"{f['p99_ms']:.0f}",
                f"{f['p99_ratio']:.2f}",
                str(f["errors"]),
            )
    for scenario, found in errors.items():
        shown.add_row(f"[bold]{ERRORS_AT} at a time: {scenario}[/]")
        for name, f in found.items():
            shown.add_row(
                name, "", "", "", f"{f['throughput']:.0f}", f"{f['p50_ms']:.0f}", f"{f['p99_ms']:.0f}", "",
                f"{f['errors']} of {f['requests']}",
            )  # fmt: skip
    return shown


def main(
    *,
    rounds: int = 6,
    seconds: Annotated[float, typer.Option(help="Of load, for each server, round and concurrency.")] = 10,
    only: Annotated[
        list[str] | None,
        typer.Option(help=f"One of {', '.join(VARIANTS)}; may be repeated. Stock is always in."),
    ] = None,
    errors: Annotated[bool, typer.Option(help="Look for errors at 128 connections as well.")] = True,
    as_json: Json = False,
) -> None:
    """Measure the session mix on the kit's server and on MLflow's own."""
    for name in only or ():
        if name not in VARIANTS:
            raise typer.BadParameter(f"{name!r} is not one of {', '.join(VARIANTS)}")
    names = [name for name in VARIANTS if not only or name in only or name == BASE]
    if not STOCK_PYTHON.exists():
        install_stock()
    about = describe()
    with (
        tempfile.TemporaryDirectory(prefix="benchmark-") as temporary,
        Progress(console=err) as progress,
    ):
        directory = Path(temporary)
        directory.chmod(0o755)  # the database runs as another user
        with Stage(directory) as stage:
            unusable = start(stage, names, progress)
            mix = summary(measure_mix(stage, rounds=rounds, seconds=seconds, progress=progress))
            failed = measure_errors(stage, seconds=seconds, progress=progress) if errors else {}
            database = stage.database_version
    document = about | {
        "database": database,
        "rounds": rounds,
        "seconds_a_round": seconds,
        "left_out": unusable,
        **headline(mix),
        "mix": mix,
        f"errors_at_{ERRORS_AT}": failed,
    }
    if as_json:
        print_json(document)
    else:
        out.print(table(mix, failed))
    if only:
        err.print("not all servers have run: nothing is written")
    else:
        err.print(f"written to {keep('versus-stock', document).name}")


if __name__ == "__main__":
    typer.run(main)
