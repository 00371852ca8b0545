"""Figures as SVG that follows the reader's light or dark scheme."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from benchmarks.scaling import Second

WIDTH = 760
LABEL_WIDTH, VALUE_WIDTH = 170, 110
ROW, BAR = 26, 16

STYLE = """\
  .card { fill: #ffffff } text { font: 12px system-ui, sans-serif; fill: #1f2328 }
  .title { font-weight: 600; font-size: 13px } .minor { fill: #59636e; font-size: 11px }
  .grid { stroke: #d1d9e0 } .line { fill: none; stroke-width: 2 }
  .kit { fill: #0969da } .other { fill: #8c959f } .one { stroke: #0969da } .two { stroke: #bc4c00 }
  @media (prefers-color-scheme: dark) {
    .card { fill: #0d1117 } text { fill: #f0f6fc } .minor { fill: #9198a1 } .grid { stroke: #3d444d }
    .kit { fill: #58a6ff } .other { fill: #656c76 } .one { stroke: #58a6ff } .two { stroke: #f0883e }
  }"""


def frame(title: str, width: float, height: float, parts: Sequence[str]) -> str:
    """A whole picture."""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="img">',
            f"<title>{escape(title)}</title>",
            f"<style>\n{STYLE}\n</style>",
            f'<rect class="card" width="{width:g}" height="{height:g}" rx="8"/>',
            *parts,
            "</svg>\n",
        ]
    )


def text(x: float, y: float, content: str, *, kind: str = "", anchor: str = "start") -> str:
    """One line of text."""
    named = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{named}>{escape(content)}</text>'


def bars(title: str, rows: Sequence[tuple[str, float, str]], *, top: float) -> list[str]:
    """A bar for each (name, value, label), the kit's in another colour."""
    most = max(value for _, value, _ in rows)
    parts = [text(20, top, title, kind="title")]
    for number, (name, value, label) in enumerate(rows):
        y = top + 12 + number * ROW
        long = max(1.0, value / most * (WIDTH - LABEL_WIDTH - VALUE_WIDTH - 20))
        colour = "kit" if name.startswith("kit") else "other"
        parts += [
            text(LABEL_WIDTH - 8, y + BAR - 3, name, anchor="end"),
            f'<rect class="{colour}" x="{LABEL_WIDTH}" y="{y:.1f}" width="{long:.1f}" height="{BAR}" rx="2"/>',
            text(LABEL_WIDTH + long + 6, y + BAR - 3, label, kind="minor"),
        ]
    return parts


def draw_versus_stock(document: dict[str, Any]) -> str:
    """Requests a CPU-second, and the 99th percentile at the highest concurrency."""
    mix = document["mix"]
    low, high = min(mix, key=int), max(mix, key=int)
    names = [name for name in mix[low] if name != "stock again"]
    cpu = [
        (name, f["requests_a_cpu_second"], f"{f['requests_a_cpu_second']:.0f} ({f['cpu_ratio']:.1f}×)")  # noqa: RUF001
        for name in names
        for f in (mix[low][name],)
    ]
    p99 = [(name, mix[high][name]["p99_ms"], f"{mix[high][name]['p99_ms']:,.0f} ms") for name in names]
    second = 40 + (len(names) + 1) * ROW + 14
    parts = [
        *bars(f"Requests a CPU-second, {low} clients at a time", cpu, top=28),
        *bars(f"99th percentile of the latency, {high} clients at a time", p99, top=second),
    ]
    return frame("The kit and other servers", WIDTH, second + len(names) * ROW + 24, parts)


@dataclass(frozen=True, kw_only=True)
class Plot:
    """The area of a chart, and the greatest values on its axes, which begin at 0."""

    left: float
    top: float
    width: float
    height: float
    most_x: float
    most_y: float

    def point(self, x: float, y: float) -> tuple[float, float]:
        """Where a point stands in the picture."""
        return (
            self.left + self.width * x / self.most_x,
            self.top + self.height * (1 - y / self.most_y),
        )

    def axes(self, title: str, unit: str) -> list[str]:
        """The title, horizontal lines with their values, and values along the bottom."""
        parts = [text(self.left, self.top - 12, title, kind="title")]
        for share in (0, 0.5, 1):
            _, y = self.point(0, self.most_y * share)
            right = self.left + self.width
            parts += [
                f'<line class="grid" x1="{self.left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>',
                text(self.left - 6, y + 4, f"{self.most_y * share:g}", kind="minor", anchor="end"),
            ]
        for share in (0, 0.25, 0.5, 0.75, 1):
            x, y = self.point(self.most_x * share, 0)
            parts.append(text(x, y + 16, f"{self.most_x * share:g} {unit}", kind="minor", anchor="middle"))
        return parts

    def line(self, points: Sequence[tuple[float, float]], colour: str) -> str:
        """A line through the points."""
        placed = (self.point(x, y) for x, y in points)
        return f'<polyline class="line {colour}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in placed)}"/>'


def round_up(value: float) -> float:
    """The next 1, 2 or 5 times a power of ten, for the end of an axis."""
    power: float = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= value)


MINUTE, STEP = 60, 10


def draw_scaling(traces: Mapping[str, Sequence[Second]]) -> str:
    """Requests that arrive and that the running tasks can answer, by size, with the number of tasks."""
    parts, height = [], 130
    for number, (name, seconds) in enumerate(traces.items()):
        plot = Plot(
            left=60,
            top=40 + number * (height + 60),
            width=WIDTH - 90,
            height=height,
            most_x=len(seconds) / MINUTE,
            most_y=round_up(max(max(each.capacity, each.arrivals) for each in seconds)),
        )
        shown = [(n / MINUTE, each) for n, each in enumerate(seconds) if n % STEP == 0]
        parts += [
            *plot.axes(f"{name}: requests a second", "min"),
            plot.line([(x, each.arrivals) for x, each in shown], "one"),
            plot.line([(x, each.capacity) for x, each in shown], "two"),
            *_tasks(plot, seconds),
        ]
    legend = 40 + len(traces) * (height + 60) - 8
    parts += [
        f'<line class="line one" x1="60" x2="84" y1="{legend - 4}" y2="{legend - 4}"/>',
        text(90, legend, "arrive"),
        f'<line class="line two" x1="150" x2="174" y1="{legend - 4}" y2="{legend - 4}"/>',
        text(180, legend, "can be answered by the tasks that run (their number above the line)"),
    ]
    return frame("How the sizes scale", WIDTH, legend + 16, parts)


def _tasks(plot: Plot, seconds: Sequence[Second]) -> list[str]:
    changes = [n for n, each in enumerate(seconds) if n == 0 or each.tasks != seconds[n - 1].tasks]
    placed = ((seconds[n].tasks, plot.point(n / MINUTE, seconds[n].capacity)) for n in changes)
    return [text(x + 4, y - 5, f"{tasks}", kind="minor") for tasks, (x, y) in placed]
