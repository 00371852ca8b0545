"""Compares the fast store with MLflow's own: `python -m tests.parity`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from kit.console import err, out

from .comparison import Campaign, Report
from .servers import alone


def main(
    *,
    sequences: int = 10_000,
    seed: int = 0,
    only: Annotated[int | None, typer.Option(help="one sequence, by its number")] = None,
    first: Annotated[int, typer.Option(help="the number of the first sequence")] = 0,
    threads: int = 4,
    failures: Annotated[int, typer.Option(help="how many differences to look for")] = 1,
    stores: Annotated[str, typer.Option(help="what to compare")] = "stock,fast",
) -> None:
    """Send random sequences of calls to both servers; exit 1 when an answer or a table differs."""
    left, right = stores.split(",")
    numbers = [only] if only is not None else range(first, first + sequences)
    with (
        tempfile.TemporaryDirectory(prefix="parity-") as directory,
        alone(Path(directory), (left, right)) as pair,
    ):
        campaign = Campaign(pair, seed=seed, threads=threads, most_failures=failures)
        report = campaign.run(list(numbers), progress=lambda found: err.print(summary(found)))
    for failure in report.failures:
        out.print(str(failure), markup=False, highlight=False)
    raise typer.Exit(bool(report.failures))


def summary(report: Report) -> str:
    """One line about a report."""
    return (
        f"{report.sequences} sequences, {report.answers} answers ({report.errors} of them errors,"
        f" {report.same_bytes} equal to the byte), {report.seconds:.0f} s"
    )


if __name__ == "__main__":
    typer.run(main)
