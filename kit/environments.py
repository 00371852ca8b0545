"""`kit env`: which environments there are, what they come to with all defaults, whether they are sound."""

from __future__ import annotations

from typing import Annotated, Any

import typer
import yaml

from kit.console import Json, err, fail, out, print_json
from stacks import environment_files
from stacks.environment import Environment
from stacks.environment_files import EnvironmentFileError

app = typer.Typer(no_args_is_help=True, help="List, show and validate environment files.")


def complete_name(incomplete: str) -> list[str]:
    """Shell completion for the name of an environment."""
    return [name for name in environment_files.names() if name.startswith(incomplete)]


Name = Annotated[
    str,
    typer.Argument(
        metavar="ENV",
        autocompletion=complete_name,
        help="An environment: a file of environments/ without its ending.",
    ),
]


def load(name: str) -> Environment:
    """The environment, or the end of the command with what is wrong in its file."""
    try:
        return environment_files.load(name)
    except EnvironmentFileError as error:
        fail(str(error), todo="`kit env list` shows the environments; docs/configuration.md every key.")


@app.command("list")
def list_environments(json: Json = False) -> None:
    """Every environment, with its size and region."""
    rows = []
    for name in environment_files.names():
        try:
            found = environment_files.load(name)
            rows.append({"environment": name, "name": found.name, "size": found.size, "region": found.region})
        except EnvironmentFileError as error:
            rows.append({"environment": name, "error": str(error)})
    if json:
        return print_json(rows)
    width = max(len(row["environment"]) for row in rows)
    for row in rows:
        facts = row.get("error") or f"{row['name']:<24} {row['size']:<8} {row['region']}"
        out.print(f"[bold]{row['environment']:<{width}}[/]  {facts}", soft_wrap=True)
    return None


@app.command("show")
def show(env: Name, json: Json = False) -> None:
    """One environment whole: what its file says, what it extends, and every default."""
    document: dict[str, Any] = load(env).model_dump(mode="json")
    if json:
        print_json(document)
    else:
        typer.echo(yaml.safe_dump(document, sort_keys=False, allow_unicode=True), nl=False)


@app.command("validate")
def validate(
    env: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ENV]...", autocompletion=complete_name, help="Which; all of them when left out."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Check environment files; nothing is synthesised and AWS is not asked. Exits 1 if one is not sound."""
    results: dict[str, list[str]] = {}
    for name in env or environment_files.names():
        try:
            environment_files.load(name)
            results[name] = []
        except EnvironmentFileError as error:
            results[name] = str(error).splitlines()
    if json:
        print_json(
            [{"environment": name, "valid": not errors, "errors": errors} for name, errors in results.items()]
        )
    else:
        for name, errors in results.items():
            out.print(f"[{'red' if errors else 'green'}]{'refused' if errors else 'sound':<8}[/] {name}")
            for line in errors:
                err.print(f"         {line}", markup=False, soft_wrap=True)
    if any(results.values()):
        raise typer.Exit(1)
