"""How commands speak: text for a person, one JSON document with `--json`, errors that say what to do."""

from __future__ import annotations

import json
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON document and nothing else on standard output.")
]


def print_json(document: Any) -> None:
    """`document` as JSON, indented, keys in the order given."""
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False, default=str))


def print_rows(rows: dict[str, str]) -> None:
    """Names and values in two columns; values are never cut or wrapped, so that they can be copied."""
    width = max(map(len, rows))
    for name, value in rows.items():
        out.print(f"[bold]{name:<{width}}[/]  {_plain(value)}", soft_wrap=True)


def fail(problem: str, *, todo: str | None = None, code: int = 1) -> NoReturn:
    """Say on standard error what is wrong and what to do next, and leave with `code`."""
    err.print(f"[bold red]Error[/] {_plain(problem)}", soft_wrap=True)
    if todo:
        err.print(f"      {_plain(todo)}", soft_wrap=True)
    raise typer.Exit(code)


def _plain(text: str) -> str:
    """Square brackets are markup to rich and part of many messages."""
    return text.replace("[", r"\[")
