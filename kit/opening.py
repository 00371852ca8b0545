"""`kit open` and `kit token`: an AWS identity turned into what a browser, or a program without AWS, can use."""

from __future__ import annotations

import webbrowser
from typing import Annotated

import typer

from kit.console import Json, err, out, print_json
from kit.deployment import Role, find
from kit.environments import Name
from kit.server import call


def open_ui(
    env: Name = "local",
    role: Role = None,
    show: Annotated[
        bool, typer.Option("--print", help="Print the link instead of opening it: it works once.")
    ] = False,
    minutes: Annotated[
        int, typer.Option(min=30, max=720, help="How long the browser stays signed in.")
    ] = 720,
    json: Json = False,
) -> None:
    """Open the MLflow UI in your browser, signed in.

    The server makes a link for who you are in AWS. The link works once and for five minutes; the browser that opens it
    has a session, which ends by itself or on the page `/iam/logout`. You need the action AccessUI.

    Against a running `kit up`, choose whom to be: `kit open --role DataScientist`.
    """
    body = {"session_expiration_duration_in_seconds": minutes * 60}
    answer = call(find(env), "POST", "/iam/presigned-url", role=role, body=body)
    url = str(answer["authorized_url"])
    if json:
        print_json(answer)
    elif show:
        typer.echo(url)
    elif webbrowser.open(url):
        out.print("Opened in your browser.")
    else:
        err.print(
            "No browser can be opened from here; open this link in one. It works once, for five minutes."
        )
        typer.echo(url)


def token(env: Name = "local", role: Role = None, json: Json = False) -> None:
    """Print a bearer token for programs that cannot sign with AWS: R, Java, curl, OTLP exporters.

    It holds for an hour at most, and as long as its caller is allowed to do things, so treat it like a password:

        export MLFLOW_TRACKING_TOKEN=$(kit token dev --role Reader)

    Python programs need none: `MLFLOW_TRACKING_AUTH=aws-iam` with the package `mlflow-aws-iam` signs each request.
    """
    answer = call(find(env), "POST", "/iam/token", role=role)
    if json:
        print_json(answer)
    else:
        typer.echo(answer["access_token"])
