"""Memory of the gate's caches under many principals: `python -m benchmarks.gate_memory`."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from resource import getpagesize
from typing import Any

import typer
from rich.table import Table

from benchmarks.in_process import InProcess
from benchmarks.machine import describe, keep
from kit.console import Json, err, out, print_json

SAMPLES = 25


@dataclass(kw_only=True)
class Phase:
    """What a phase took and left. `rss_mb` are samples in order, the first one where the caches have filled."""

    name: str
    requests: int = 0
    principals: int = 0
    sts_calls: int = 0
    iam_calls: int = 0
    refused: int = 0
    seconds: float = 0
    most_identities: int = 0
    most_permissions: int = 0
    rss_mb: list[float] = field(default_factory=list)

    @property
    def growth_mb(self) -> float:
        """How much memory has grown since the caches were full."""
        return round(max(self.rss_mb) - self.rss_mb[0], 1)


async def drive(part: InProcess, name: str, *, fill: Iterable[int], then: Sequence[int]) -> Phase:
    """Send the requests of the principals in `fill`, then those in `then` while memory is sampled."""
    started = time.monotonic()
    sts, iam, refused = part.prover.calls, part.engine.calls, part.refused
    filled = list(fill)
    phase = Phase(name=name, requests=len(filled) + len(then), principals=len({*filled, *then}))
    for principal in filled:
        await part.call(principal)
    _sample(part, phase)
    every = max(1, len(then) // SAMPLES)
    for count, principal in enumerate(then, 1):
        await part.call(principal)
        if count % every == 0:
            _sample(part, phase)
    phase.sts_calls, phase.iam_calls = part.prover.calls - sts, part.engine.calls - iam
    phase.refused = part.refused - refused
    phase.seconds = round(time.monotonic() - started, 1)
    return phase


def _sample(part: InProcess, phase: Phase) -> None:
    phase.most_identities = max(phase.most_identities, len(part.authentication))
    phase.most_permissions = max(phase.most_permissions, len(part.permissions))
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    phase.rss_mb.append(round(pages * getpagesize() / 2**20, 1))


async def measure(*, principals: int, requests: int, strangers: int) -> tuple[float, list[Phase]]:
    """Memory before the first request, and the two phases.

    First as many principals as the caches hold, who come again and again; then ever new ones, more than they hold.
    """
    part = InProcess()
    before = Phase(name="")
    _sample(part, before)
    order = random.Random(0).choices(range(principals), k=requests - principals)  # noqa: S311
    err.print(f"{requests:,} requests of {principals:,} principals")
    known = await drive(part, "known", fill=range(principals), then=order)
    err.print(f"one request of each of {strangers:,} principals")
    new = range(principals, principals + strangers)
    full = 2 * principals
    return before.rss_mb[0], [
        known,
        await drive(part, "ever new", fill=new[:full], then=new[full:]),
    ]


def main(
    *, principals: int = 10_000, requests: int = 1_000_000, strangers: int = 100_000, as_json: Json = False
) -> None:
    """Drive the gate's caches with many principals and show that memory stays flat."""
    about = describe()
    before, phases = asyncio.run(measure(principals=principals, requests=requests, strangers=strangers))
    document: dict[str, Any] = about | {
        "rss_before_mb": before,
        "phases": [{**asdict(phase), "growth_mb": phase.growth_mb} for phase in phases],
    }
    path = keep("gate-memory", document)
    if as_json:
        print_json(document)
        return
    table = Table("principals", "requests", "STS calls", "IAM calls", "full MB", "most MB", "seconds")
    for phase in phases:
        table.add_row(
            f"{phase.principals:,} {phase.name}",
            f"{phase.requests:,}",
            f"{phase.sts_calls:,}",
            f"{phase.iam_calls:,}",
            f"{phase.rss_mb[0]}",
            f"{max(phase.rss_mb)}",
            f"{phase.seconds}",
        )
    out.print(table)
    out.print(f"before the first request: {before} MB; written to {path.name}")


if __name__ == "__main__":
    typer.run(main)
