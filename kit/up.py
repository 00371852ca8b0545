"""`kit up`: a whole tracking server on this machine, from the stacks that `cdk deploy` sends to AWS."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Annotated

import typer

from kit.console import Json, err, fail, out, print_json, print_rows
from kit.environments import Name, load
from local import state


def up(
    env: Name = "local",
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Forget earlier runs: start with an empty database.")
    ] = False,
    json: Json = False,
) -> None:
    """Deploy an environment to an embedded AWS on this machine and run it until Ctrl-C.

    The real CDK CLI deploys the real stacks; the deployed task definition starts the real server, on a real
    MySQL-compatible database where there is one. Data stays under `.local/` and is there again next time.
    """
    environment = load(env)
    if running := state.running(env):
        fail(
            f"{env} runs already, at {running.outputs['TrackingUri']}.",
            todo="Use it as it is, or stop it there with Ctrl-C.",
        )
    if fresh:
        state.forget(env)
    started = time.monotonic()

    def progress(line: str) -> None:
        err.print(f"{time.monotonic() - started:6.1f} s  {line}", markup=False, soft_wrap=True)

    progress("starting")
    # not at the top: it takes two seconds to import, which the other commands need not wait for
    from local.deploy import CdkError
    from local.product import Product

    directory = state.directory_of(env)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with Product(
            environment=env, region=environment.region, directory=directory, progress=progress
        ) as product:
            if json:
                print_json(product.outputs)
            else:
                _announce(env, product.outputs, directory, guarded=environment.engine != "open")
            _wait_for_end()
            progress("stopping")
    except KeyboardInterrupt:  # while it was starting
        err.print("Stopped before it was up.")
        raise typer.Exit(130) from None
    except (CdkError, OSError) as error:
        fail(str(error), todo=f"The logs are in {directory / 'logs'}.")
    err.print(f"Stopped. The data is kept: `kit up {env}` goes on from there.")


def _wait_for_end() -> None:
    """Until Ctrl-C or SIGTERM. A second one changes nothing: it must not cut the ordered stop short."""
    ended: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: ended.append(number))
    while not ended:
        time.sleep(0.2)


def _announce(env: str, outputs: dict[str, str], directory: Path, *, guarded: bool) -> None:
    uri = outputs["TrackingUri"]
    rows = {"Tracking URI": uri}
    if guarded:
        rows["UI"] = f".venv/bin/kit open {env} --role DataScientist"
        rows["Try it"] = ".venv/bin/python examples/quickstart.py"
        for file in sorted(state.role_files(directory).glob("*.env")):
            rows[f"As {file.stem}"] = f". {_from_here(file)}"
    else:
        rows["UI"] = f"{uri}/"
        rows["Try it"] = f"MLFLOW_TRACKING_URI={uri} .venv/bin/python examples/quickstart.py"
    out.rule(f"MLflow {outputs['MlflowVersion']} is up")
    print_rows(
        rows
        | {
            "All outputs": f".venv/bin/kit outputs {env}",
            "Data and logs": str(directory),
            "Stop": "Ctrl-C",
        }
    )
    out.rule()


def _from_here(file: Path) -> Path:
    """As short as it can be told to a shell in the current directory, or in another."""
    return file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file
