"""The tables and pictures of docs/performance.md from the newest results: `python -m benchmarks.performance_document`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.calibrate import holds
from benchmarks.machine import REPOSITORY, newest
from benchmarks.pictures import draw_scaling, draw_versus_stock
from benchmarks.scaling import simulated, summary
from stacks.sizes import SIZES

PAGE = REPOSITORY / "docs" / "performance.md"
IMAGES = REPOSITORY / "docs" / "images"

Document = dict[str, Any]


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """A table whose first column is text and the others figures."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def figure(value: float) -> str:
    """Three digits that count."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def conditions(document: Document) -> str:
    """Where and with what the figures were measured."""
    machine, versions = document["machine"], document["versions"]
    parts = [
        f"{machine['processor']}, {machine['cores']} cores",
        *([document["database"]] if "database" in document else []),
        f"MLflow {versions['mlflow']}",
        f"Python {versions['python']}",
        "1 round" if document["rounds"] == 1 else f"{document['rounds']} rounds",
    ]
    return "; ".join(parts) + "."


def versus_stock(document: Document) -> str:
    """A table for each concurrency, and one of errors."""
    parts = [conditions(document)]
    for concurrency, servers in document["mix"].items():
        rows = [
            [
                name,
                figure(f["cpu_ms"]),
                figure(f["requests_a_cpu_second"]),
                f"{f['cpu_ratio']:.2f} ({f['cpu_lower_quartile_ratio']:.2f} to {f['cpu_upper_quartile_ratio']:.2f})",
                figure(f["throughput"]),
                figure(f["p50_ms"]),
                figure(f["p99_ms"]),
                f"{f['p99_ratio']:.2f}",
                str(f["errors"]),
            ]
            for name, f in servers.items()
        ]
        head = [
            "server",
            "CPU ms",
            "per CPU-s",
            "ratio (quartiles)",
            "per s",
            "p50 ms",
            "p99 ms",
            "ratio",
            "errors",
        ]
        parts.append(f"{concurrency} clients at a time:\n\n{markdown(head, rows)}")
    for key, scenarios in document.items():
        if key.startswith("errors_at_") and scenarios:
            parts.append(f"{key.removeprefix('errors_at_')} clients at a time:\n\n{_errors(scenarios)}")
    parts += [f"{name} is left out: {reason}" for name, reason in document["left_out"].items()]
    return "\n\n".join(parts)


def _errors(scenarios: Document) -> str:
    rows = [
        [
            name,
            scenario,
            f"{f['errors']} of {f['requests']}",
            ", ".join(f"{status}: {count}" for status, count in f["errors_by_status"].items()) or "-",
            figure(f["throughput"]),
            figure(f["p99_ms"]),
        ]
        for scenario, servers in scenarios.items()
        for name, f in servers.items()
    ]
    return markdown(["server", "load", "errors", "by status", "per s", "p99 ms"], rows)


def operations(document: Document) -> str:
    """CPU of a request by operation, on both servers."""
    rows = [
        [
            name,
            figure(f["stock"]["cpu_ms"]),
            figure(f["kit"]["cpu_ms"]),
            f"{f['cpu_ratio']:.1f}",
            figure(f["stock"]["p50_ms"]),
            figure(f["kit"]["p50_ms"]),
        ]
        for name, f in document["operations"].items()
    ]
    head = ["operation", "stock CPU ms", "kit CPU ms", "ratio", "stock p50 ms", "kit p50 ms"]
    return f"{conditions(document)}\n\n{markdown(head, rows)}"


def start(document: Document) -> str:
    """Time to healthy and idle memory."""
    rows = [
        [
            name,
            figure(f["healthy_seconds"]),
            f"{f['idle_pss_mb']:.0f}",
            f"{f['processes']:.0f}",
            figure(f["cpu_seconds"]),
        ]
        for name, f in document["servers"].items()
    ]
    head = ["server", "healthy after s", "idle MB", "processes", "CPU s"]
    return f"{conditions(document)}\n\n{markdown(head, rows)}"


def calibration(document: Document) -> str:
    """What each size's task bears."""
    rows = []
    for name, size in document["sizes"].items():
        task = f"{size['cpu'] / 1024:g} vCPU, {size['memory_mib'] / 1024:g} GiB"
        for kind in ("sustained", "burst", "full"):
            borne = size[kind]
            rate = f"{borne['rate']}" if borne["rate"] else f"{borne['throughput']:.0f}, all it can"
            rows.append(
                [
                    *((name, task) if kind == "sustained" else ("", "")),
                    rate,
                    f"{borne['seconds']:,.0f}",
                    f"{borne['errors']} of {borne['requests']:,}",
                    figure(borne["p50_ms"]),
                    figure(borne["p99_ms"]),
                    f"{borne['cpu_share'] * 100:.0f} %",
                    f"{borne['memory_mb']:.0f}",
                    "" if kind == "full" else "yes" if holds(borne) else "no",
                ]
            )
    head = [
        "size",
        "one task",
        "requests a second",
        "for s",
        "errors",
        "p50 ms",
        "p99 ms",
        "CPU",
        "MB",
        "holds",
    ]
    about = conditions(document) + f" It holds: no error, and p99 at most {document['p99_bound_ms']} ms."
    return f"{about}\n\n{markdown(head, rows)}\n\n{_starts(document)}"


def _starts(document: Document) -> str:
    rows = [
        [
            name,
            f"{size['healthy_seconds']:.1f}",
            f"{size['idle_mb']:.0f}",
            f"{size['requests_per_task_per_minute']:,}",
        ]
        for name, size in document["sizes"].items()
    ]
    return markdown(
        ["size", "healthy after s", "idle MB", "scale out above, requests a minute of one task"], rows
    )


def scaling(document: Document) -> str:
    """What the simulation says."""
    traces = simulated(document)
    found = {name: summary(size, traces[name]) for name, size in SIZES.items()}
    head = ["size", *(key.replace("_", " ") for key in next(iter(found.values())))]
    return markdown(
        head, [[name, *(f"{value:g}" for value in each.values())] for name, each in found.items()]
    )


SECTIONS: dict[str, Callable[[Document], str]] = {
    "versus-stock": versus_stock,
    "operations": operations,
    "start": start,
    "calibrate": calibration,
}

SIMULATIONS: dict[str, tuple[str, Callable[[Document], str]]] = {"scaling": ("calibrate", scaling)}
"""Sections that are computed from another one's result."""

PICTURES: dict[str, tuple[str, Callable[[Document], str]]] = {
    "versus-stock": ("versus-stock", draw_versus_stock),
    "scaling": ("calibrate", lambda document: draw_scaling(simulated(document))),
}
"""By file: the result that it is drawn from, and how."""


def page(text: str) -> str:
    """The text of the document with the tables of the newest results."""
    sections = {name: (name, table) for name, table in SECTIONS.items()} | SIMULATIONS
    for name, (source, table) in sections.items():
        result = newest(source)
        if result:
            begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
            before, after = text.partition(begin)[0], text.partition(end)[2]
            content = f"{table(json.loads(result.read_text()))}\n\nFrom `benchmarks/results/{result.name}`."
            text = f"{before}{begin}\n{content}\n{end}{after}"
    return text


def pictures() -> dict[Path, str]:
    """What each picture should be."""
    return {
        IMAGES / f"{name}.svg": draw(json.loads(result.read_text()))
        for name, (source, draw) in PICTURES.items()
        if (result := newest(source))
    }


def main() -> None:
    """Write them."""
    PAGE.write_text(page(PAGE.read_text()))
    for path, content in pictures().items():
        path.write_text(content)


if __name__ == "__main__":
    main()
