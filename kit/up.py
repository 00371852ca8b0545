"""`kit up`: a whole tracking server on this machine, from the stacks that `cdk deploy` sends to AWS."""

from __future__ import annotations

import signal
import time
from typing import Annotated

import typer

from kit.console import Json, err, fail, out, print_json, print_rows
from kit.environments import Name, load
from local import product


def up(
    env: Name = "local",
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget earlier runs: start with an empty database.")] = False,
    json: Json = False,
) -> None:
    """Deploy an environment to an embedded AWS on this machine and run it until Ctrl-C.

    The real CDK CLI deploys the real stacks; the deployed task definition starts the real server, on a real
    MySQL-compatible database where there is one. Data stays under `.local/` and is there again next time.
    """
    environment = load(env)
    if running := product.running_outputs(env):
        fail(f"{env} runs already, at {running['TrackingUri']}.", todo="Stop it there with Ctrl-C, or use it as it is.")
    directory = product.state_directory(env)
    if fresh:
        product.forget(env)
    started = time.monotonic()

    def progress(message: str) -> None:
        err.print(f"[dim]{time.monotonic() - started:5.1f} s[/]  {message}", markup=True, soft_wrap=True)

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with product.Product(environment=env, region=environment.region, directory=directory, progress=progress) as it:
            if json:
                print_json(it.outputs)
            else:
                _announce(env, it)
            it.wait()
    except KeyboardInterrupt:
        err.print("Stopped. The data is kept; `kit up` goes on from there.")
    except product.Failure as error:
        fail(str(error), todo=f"The logs are in {directory / 'logs'}.")


def _announce(env: str, it: product.Product) -> None:
    uri = it.outputs["TrackingUri"]
    out.rule(f"MLflow {it.outputs['MlflowVersion']} is up: environment {env}, on {it.database}")
    print_rows(
        {
            "Tracking URI": uri,
            "UI": f"{uri}/",
            "All outputs": f".venv/bin/kit outputs {env}",
            "Try it": f"MLFLOW_TRACKING_URI={uri} .venv/bin/python examples/quickstart.py",
            "Data and logs": str(it.directory),
            "Stop": "Ctrl-C",
        }
    )
    out.rule()
