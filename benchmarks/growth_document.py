"""The result of the growth benchmark as ratios, as the tables of its document, and as its picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.growth_picture import draw
from benchmarks.machine import REPOSITORY, RESULTS

PAGE = REPOSITORY / "docs" / "growth.md"
PICTURE = REPOSITORY / "docs" / "images" / "growth.svg"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"

ORDERED, PLAIN = "search, order and filter", "search"

Sizes = dict[str, dict[str, Any]]


def newest() -> Path:
    """The newest result of the benchmark. Raises IndexError when there is none."""
    return sorted(RESULTS.glob("*-growth.json"))[-1]


def ratios(measured: Sizes) -> dict[str, Any]:
    """Largest ÷ smallest size of every operation and store; a search with an order and a filter ÷ one without."""
    first, last = measured[min(measured, key=int)], measured[max(measured, key=int)]
    growth = {
        axis: {
            name: {store: _growth(cell, last[axis][name][store]) for store, cell in stores.items()}
            for name, stores in operations.items()
        }
        for axis, operations in first.items()
    }
    searches = {
        axis: {
            store: {
                size: {"p50_ratio": _ratio(cell, axes[axis][PLAIN][store], "p50_ms")}
                for size, axes in measured.items()
                for cell in (axes[axis][ORDERED][store],)
            }
            for store in operations[ORDERED]
        }
        for axis, operations in first.items()
        if ORDERED in operations
    }
    return {"growth": growth, "order_and_filter": searches}


def _growth(first: dict[str, Any], last: dict[str, Any]) -> dict[str, float | None]:
    return {
        "p50_growth_ratio": _ratio(last, first, "p50_ms"),
        "p99_growth_ratio": _ratio(last, first, "p99_ms"),
        "server_cpu_growth_ratio": _ratio(last, first, "server_cpu_ms"),
        "database_cpu_growth_ratio": _ratio(last, first, "database_cpu_ms"),
    }


def _ratio(upper: dict[str, Any], lower: dict[str, Any], name: str) -> float | None:
    """None where requests failed."""
    if not upper.get(name) or not lower.get(name):
        return None
    return round(upper[name] / lower[name], 3)


def markdown(document: dict[str, Any]) -> str:
    """A table for each axis: median latency, and CPU of server and database, of a request."""
    measured: Sizes = document["sizes"]
    sizes = sorted(measured, key=int)
    parts = [
        f"{document['machine']['processor']}, {document['machine']['cores']} cores; {document['database']};"
        f" MLflow {document['versions']['mlflow']}. Medians in ms of up to"
        f" {_most_requests(measured)} requests, one after the other. CPU of a request: server + database, in ms."
    ]
    for axis in measured[sizes[0]]:
        head = [
            "operation",
            "store",
            *(f"{int(size):,}" for size in sizes),
            "last ÷ first",
            "CPU, first",
            "CPU, last",
        ]
        rows = [f"By {axis}:", "", f"| {' | '.join(head)} |", f"|---|---|{'---:|' * (len(head) - 2)}"]
        for name, stores in measured[sizes[0]][axis].items():
            rows += [_row(document, axis, name, store, sizes) for store in stores]
        parts.append("\n".join(rows))
    parts.append(_indexes(document["indexes"], int(sizes[-1])))
    return "\n\n".join(parts)


def _row(document: dict[str, Any], axis: str, name: str, store: str, sizes: list[str]) -> str:
    cells = [document["sizes"][size][axis][name][store] for size in sizes]
    grown = document["ratios"]["growth"][axis][name][store]["p50_growth_ratio"]
    latencies = [_figure(cell.get("p50_ms")) for cell in cells]
    cpu = [
        f"{_figure(cell.get('server_cpu_ms'))} + {_figure(cell.get('database_cpu_ms'))}"
        for cell in (cells[0], cells[-1])
    ]
    growth = "" if grown is None else f"{grown:.1f}"
    return f"| {' | '.join([name, store, *latencies, growth, *cpu])} |"


def _indexes(indexes: dict[str, Any], size: int) -> str:
    rows = [
        f"The indexes, at {size:,} runs:",
        "",
        "| index | ms of its search without | with | gain | database CPU, ms a write, without | with | cost"
        " | built in |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, found in indexes.items():
        cells = [
            f"`{name}`",
            _figure(found["read_ms_without"]),
            _figure(found["read_ms_with"]),
            f"{found['read_gain_ratio']:,.0f}",
            f"{found['write_database_cpu_ms_without']:.2f}",
            f"{found['write_database_cpu_ms_with']:.2f}",
            f"{found['write_cost_ratio']:.2f}",
            f"{found['build_seconds']:.0f} s",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _figure(value: float | None) -> str:
    if value is None:
        return "fails"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _most_requests(measured: Sizes) -> int:
    return max(
        cell["requests"]
        for axes in measured.values()
        for operations in axes.values()
        for stores in operations.values()
        for cell in stores.values()
    )


def page(text: str, document: dict[str, Any]) -> str:
    """The text of the document with the tables of a result."""
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    return f"{before}{BEGIN}\n{markdown(document)}\n{END}{after}"


def update(result: Path) -> None:
    """Write the tables into the document, and draw the picture."""
    document = json.loads(result.read_text())
    PAGE.write_text(page(PAGE.read_text(), document))
    PICTURE.write_text(draw(document))
