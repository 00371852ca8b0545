"""`kit`: the operator's command line."""

from __future__ import annotations

import typer

from kit import access, cost, environments, opening, outputs, up

app = typer.Typer(
    name="kit",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    rich_markup_mode="markdown",
    help="""Runs and looks after MLflow servers that the stacks of this repository describe.

    Start one on this machine with `kit up`; what AWS gets, `npx cdk deploy --all -c env=dev` sends.
    `kit open` shows a server's UI in your browser, `kit access` tells who may do what, `kit cost` what AWS would charge.
    Most commands take `--json`. Shell completion: `kit --install-completion`.""",
)
app.command("up")(up.up)
app.command("outputs")(outputs.outputs)
app.command("open")(opening.open_ui)
app.command("token")(opening.token)
app.command("cost")(cost.cost)
app.add_typer(access.app, name="access")
app.add_typer(environments.app, name="env")


def main() -> None:
    """Entry point of the `kit` script."""
    app()
