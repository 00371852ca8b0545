"""Other implementations of MLflow's API that can be installed, each in an environment of its own under .cache."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.machine import REPOSITORY
from benchmarks.servers import JOBS_OFF, Program, Site, Stage, mlflow_server, stock_options
from local.database import free_port

PLACE = REPOSITORY / ".cache" / "others"


class Unusable(RuntimeError):
    """It cannot be measured here; the message says why."""


def _install(name: str, *packages: str) -> Path:
    """The environment's programs."""
    uv = REPOSITORY / ".venv" / "bin" / "uv"
    place = PLACE / name
    making: list[str | Path] = [uv, "venv", "--quiet", "--allow-existing", "--python", sys.executable, place]
    filling: list[str | Path] = [
        uv,
        "pip",
        "install",
        "--quiet",
        "--python",
        place / "bin" / "python",
        *packages,
    ]
    try:
        for command in (making, filling):
            subprocess.run(command, check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        raise Unusable(f"it cannot be installed: {error.stderr.strip()[-300:]}") from error
    return place / "bin"


def start_fasttrackml(stage: Stage) -> Site:
    """FastTrackML 0.6.0: one Go program. It knows no MySQL and so has an SQLite file: other work than the others'."""
    program = _install("fasttrackml", "fasttrackml==0.6.0") / "fml"
    port = free_port()
    command: list[str | Path] = [
        *(program, "server", "--listen-address", f"127.0.0.1:{port}", "--log-level", "error"),
        *("--database-uri", f"sqlite://{stage.directory}/fasttrackml.db"),
    ]
    variables = {"HOME": str(stage.directory), "PATH": "/usr/bin:/bin"}
    return _open(
        stage,
        "fasttrackml (sqlite)",
        lambda: Program(command, port=port, variables=variables, directory=stage.directory),
    )


def start_mlflow_go(stage: Stage) -> Site:
    """mlflow-go-backend 0.2.2: a Go server in front, and MLflow's own behind it for what it does not do itself."""
    programs = _install("mlflow-go", "mlflow-go-backend==0.2.2", "mlflow==3.17.2", "pymysql", "boto3")
    for library in programs.parent.glob("lib/*/site-packages/mlflow_go_backend/*.dylib"):
        loaded = library.with_suffix(".so")  # the Linux wheel has its library under macOS's name
        if not loaded.exists():
            loaded.symlink_to(library.name)
    return _open(
        stage,
        "mlflow-go",
        lambda: mlflow_server(
            stage.backend(),
            directory=stage.directory,
            program=(programs / "mlflow-go",),
            options=stock_options(),
            more=JOBS_OFF,
        ),
    )


def _open(stage: Stage, name: str, start: Callable[[], Program]) -> Site:
    try:
        site = stage.open(name, start)
    except RuntimeError as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise Unusable(f"it does not start: {lines[-1][:300]}") from error
    return site


OTHERS: dict[str, Callable[[Stage], Site]] = {
    "mlflow-go": start_mlflow_go,
    "fasttrackml (sqlite)": start_fasttrackml,
}
