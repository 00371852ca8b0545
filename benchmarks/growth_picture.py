"""The curves of the growth benchmark as an SVG that follows the reader's light or dark scheme."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import Any

WIDTH, HEIGHT = 900, 560
PANEL_WIDTH, PANEL_HEIGHT = 330, 170
LEFTS, TOPS = (60, 490), (76, 336)

PANELS = (
    ("runs in the experiment", "Writes", ("create run", "log-metric", "log-batch")),
    ("runs in the experiment", "Reads", ("get run", "search", "search, order and filter")),
    ("points in the run", "One run", ("log-metric", "log-batch", "get history, 100 points")),
    ("metrics in the experiment", "Many runs", ("log-batch", "search", "search, order")),
)
COLOURS = ("one", "two", "three")
DASHES = {"fast": "", "stock": ' stroke-dasharray="5 4"'}

STYLE = """\
  .card { fill: #ffffff } text { font: 12px system-ui, sans-serif; fill: #1f2328 }
  .title { font-weight: 600; font-size: 13px } .minor { fill: #59636e; font-size: 11px }
  .grid { stroke: #d1d9e0 } .line { fill: none; stroke-width: 2 }
  .one { stroke: #0969da } .two { stroke: #bc4c00 } .three { stroke: #8250df } .key { stroke: #59636e }
  @media (prefers-color-scheme: dark) {
    .card { fill: #0d1117 } text { fill: #f0f6fc } .minor { fill: #9198a1 } .grid { stroke: #3d444d }
    .one { stroke: #58a6ff } .two { stroke: #f0883e } .three { stroke: #bc8cff } .key { stroke: #9198a1 }
  }"""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Where a size and a latency stand in a panel; both axes are logarithmic."""

    left: float
    top: float
    sizes: tuple[int, int]
    milliseconds: tuple[float, float]

    def x(self, size: float) -> float:
        """The distance from the left edge."""
        return self.left + PANEL_WIDTH * _share(size, *self.sizes)

    def y(self, milliseconds: float) -> float:
        """The distance from the upper edge."""
        return self.top + PANEL_HEIGHT * (1 - _share(milliseconds, *self.milliseconds))


def _share(value: float, low: float, high: float) -> float:
    return math.log(value / low) / math.log(high / low)


def draw(document: dict[str, Any]) -> str:
    """Four panels: median latency over the size, a line for each operation and store."""
    measured = document["sizes"]
    sizes = sorted(map(int, measured))
    values = [
        cell["p50_ms"]
        for axis, _, names in PANELS
        for name in names
        for axes in measured.values()
        for cell in axes[axis][name].values()
        if "p50_ms" in cell
    ]
    low, high = 10 ** math.floor(math.log10(min(values))), 10 ** math.ceil(math.log10(max(values)))
    parts = [_head()]
    for number, (axis, title, names) in enumerate(PANELS):
        scale = Scale(
            left=LEFTS[number % 2],
            top=TOPS[number // 2],
            sizes=(sizes[0], sizes[-1]),
            milliseconds=(low, high),
        )
        parts += [_frame(scale, f"{title}, by {axis}", sizes), _names(scale, names)]
        for colour, name in zip(COLOURS, names, strict=True):
            parts += [_line(scale, measured, axis, name, store, colour) for store in DASHES]
    return "\n".join([*parts, "</svg>\n"])


def _head() -> str:
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">
<title>Median latency of requests as the store grows</title>
<style>
{STYLE}
</style>
<rect class="card" width="{WIDTH}" height="{HEIGHT}" rx="8"/>
<text x="60" y="26" class="title">Median latency in ms as the store grows</text>
<line x1="560" y1="22" x2="590" y2="22" class="line key"/><text x="596" y="26">fast store</text>
<line x1="690" y1="22" x2="720" y2="22" class="line key"{DASHES["stock"]}/><text x="726" y="26">MLflow's own</text>"""


def _frame(scale: Scale, title: str, sizes: list[int]) -> str:
    bottom, right = scale.top + PANEL_HEIGHT, scale.left + PANEL_WIDTH
    parts = [f'<text x="{scale.left}" y="{scale.top - 26}" class="title">{escape(title)}</text>']
    low, high = (round(math.log10(value)) for value in scale.milliseconds)
    for power in range(low, high + 1):
        y = scale.y(10**power)
        parts.append(f'<line x1="{scale.left}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}" class="grid"/>')
        label = f"{10**power:,g}"
        parts.append(
            f'<text x="{scale.left - 6}" y="{y + 4:.1f}" text-anchor="end" class="minor">{label}</text>'
        )
    for size in sizes:
        x = scale.x(size)
        parts.append(
            f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle" class="minor">{size:,}</text>'
        )
    return "\n".join(parts)


def _names(scale: Scale, names: tuple[str, ...]) -> str:
    parts, left = [], scale.left
    for colour, name in zip(COLOURS, names, strict=True):
        y = scale.top - 10
        parts.append(f'<line x1="{left}" y1="{y - 4}" x2="{left + 14}" y2="{y - 4}" class="line {colour}"/>')
        parts.append(f'<text x="{left + 18}" y="{y}" class="minor">{escape(name)}</text>')
        left += 34 + 6 * len(name)
    return "\n".join(parts)


def _line(scale: Scale, measured: Any, axis: str, name: str, store: str, colour: str) -> str:
    cells = {int(size): axes[axis][name][store] for size, axes in measured.items()}
    points = " ".join(
        f"{scale.x(size):.1f},{scale.y(cell['p50_ms']):.1f}"
        for size, cell in sorted(cells.items())
        if "p50_ms" in cell
    )
    return f'<polyline points="{points}" class="line {colour}"{DASHES[store]}/>'
