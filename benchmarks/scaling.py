"""How the sizes scale, simulated: `python -m benchmarks.scaling` prints what `docs/performance.md` shows.

What one task can do, and how long it takes to answer, was measured (`benchmarks.calibrate`). The rest is what AWS says
of target tracking and of Fargate; nothing here has been seen on AWS.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import typer
from rich.table import Table

from benchmarks.machine import newest
from kit.console import Json, out, print_json
from stacks.sizes import SIZES, Size

PROVISION_SECONDS = 45
"""From a wanted task to its first process: network interface and image. An assumption, larger than what AWS shows
for an image of half a GB (https://aws.amazon.com/blogs/containers/, read 2026-11)."""

HEALTH_SECONDS = 20
"""Two good answers 10 s apart, as the target group asks for."""

OUT_DATAPOINTS, IN_DATAPOINTS = 3, 15
"""Minutes in a row above the target, and below nine tenths of it, that the alarms of target tracking want
(https://docs.aws.amazon.com/AmazonECS/latest/developerguide/target-tracking-create-policy.html, read 2026-11)."""

IN_SHARE = 0.9

OUT_COOLDOWN, IN_COOLDOWN = 60, 600
"""Seconds; the stack sets them."""

MINUTE = 60


@dataclass(frozen=True, kw_only=True)
class Second:
    """One second: requests that came, that the running tasks can answer, that wait; and tasks that run."""

    arrivals: float
    capacity: float
    waiting: float
    tasks: int


Trace = Sequence[float]
"""Requests that arrive in each second."""


def morning(size: Size) -> list[float]:
    """Two hours and a half: quiet, the sustained rate, a burst, a sweep of jobs at three times the burst, quiet again."""
    calm, sustained, burst = size.sustained_tps / 5, size.sustained_tps, size.burst_tps
    steps = [
        (calm, 10),
        (sustained, 25),
        (burst, 5),
        (sustained, 15),
        (burst * 3, 40),
        (sustained, 25),
        (calm, 30),
    ]
    return [float(rate) for rate, minutes in steps for _ in range(minutes * MINUTE)]


class Service:
    """Tasks that target tracking starts and ends."""

    def __init__(self, size: Size, *, throughput: float, start_seconds: float) -> None:
        self._size = size
        self._throughput = throughput
        self._start_seconds = math.ceil(start_seconds)
        self._ready_at: list[int] = [0] * size.min_tasks
        self._minute: list[float] = []
        self._loads: list[float] = []
        self._allowed_at = 0

    def seconds(self, trace: Trace) -> Iterator[Second]:
        """What happens."""
        waiting = 0.0
        for now, arrivals in enumerate(trace):
            tasks = sum(ready <= now for ready in self._ready_at)
            capacity = tasks * self._throughput
            waiting = max(0.0, waiting + arrivals - capacity)
            yield Second(arrivals=arrivals, capacity=capacity, waiting=waiting, tasks=tasks)
            self._minute.append(min(arrivals, capacity) / tasks)
            if len(self._minute) == MINUTE:
                self._loads.append(sum(self._minute))
                self._minute.clear()
                self._scale(now + 1)

    def _scale(self, now: int) -> None:
        wanted = len(self._ready_at)
        target = self._size.requests_per_task_per_minute
        high, low = self._loads[-OUT_DATAPOINTS:], self._loads[-IN_DATAPOINTS:]
        needed = max(1, math.ceil(sum(ready <= now for ready in self._ready_at) * self._loads[-1] / target))
        if now < self._allowed_at:
            return
        if len(high) == OUT_DATAPOINTS and min(high) > target and needed > wanted:
            more = min(needed, self._size.max_tasks) - wanted
            self._ready_at += [now + self._start_seconds] * more
            self._allowed_at = now + OUT_COOLDOWN
        elif len(low) == IN_DATAPOINTS and max(low) < IN_SHARE * target and needed < wanted:
            self._ready_at = self._ready_at[: max(needed, self._size.min_tasks)]
            self._allowed_at = now + IN_COOLDOWN


def simulate(
    size: Size, calibrated: dict[str, Any], *, shape: Callable[[Size], Trace] = morning
) -> list[Second]:
    """A trace on a size whose task was measured."""
    service = Service(
        size,
        throughput=calibrated["full"]["throughput"],
        start_seconds=PROVISION_SECONDS + calibrated["healthy_seconds"] + HEALTH_SECONDS,
    )
    return list(service.seconds(shape(size)))


def summary(size: Size, seconds: Sequence[Second]) -> dict[str, Any]:
    """The figures of a trace."""
    first_over = next((n for n, each in enumerate(seconds) if each.arrivals > size.burst_tps), 0)
    most = max(each.tasks for each in seconds)
    reached = next(n for n, each in enumerate(seconds) if each.tasks == most)
    return {
        "tasks_before": seconds[first_over].tasks,
        "tasks_at_most": most,
        "seconds_to_most": max(0, reached - first_over),
        "seconds_over_capacity": sum(each.arrivals > each.capacity for each in seconds),
        "longest_wait_seconds": round(max(each.waiting / each.capacity for each in seconds), 1),
        "tasks_at_the_end": seconds[-1].tasks,
    }


def simulated(calibration: dict[str, Any]) -> dict[str, list[Second]]:
    """Every size, with what was measured."""
    return {name: simulate(size, calibration["sizes"][name]) for name, size in SIZES.items()}


def main(*, as_json: Json = False) -> None:
    """Simulate two and a half hours with a sweep of jobs at three times the burst rate."""
    result = newest("calibrate")
    if result is None:
        raise typer.BadParameter("nothing is calibrated yet: run `python -m benchmarks.calibrate`")
    traces = simulated(json.loads(result.read_text()))
    found = {name: summary(size, traces[name]) for name, size in SIZES.items()}
    if as_json:
        print_json(found)
        return
    shown = Table("size", *(key.replace("_", " ") for key in next(iter(found.values()))))
    for name, figures in found.items():
        shown.add_row(name, *(f"{value:g}" for value in figures.values()))
    out.print(shown)


if __name__ == "__main__":
    typer.run(main)
