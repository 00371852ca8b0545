"""Where an environment that runs on this machine keeps its data, and what it says while it runs."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

#: Database, artifacts and logs of each environment. Kept between runs, never committed.
STATE = Path(__file__).resolve().parent.parent / ".local"


def directory_of(environment: str) -> Path:
    """The folder of an environment, one each: also for a file that is not in environments/."""
    return STATE / environment.removesuffix(".yaml").strip("/").replace("/", "-")


def announce(directory: Path, *, endpoint: str, outputs: dict[str, str]) -> None:
    """Tell other processes that this one runs the environment of `directory`."""
    state = {"pid": os.getpid(), "endpoint": endpoint, "outputs": outputs}
    _file(directory).write_text(json.dumps(state, indent=2))


def withdraw(directory: Path) -> None:
    """Take the announcement back."""
    _file(directory).unlink(missing_ok=True)


def running_outputs(environment: str) -> dict[str, str] | None:
    """The outputs of `environment` if a process of this machine runs it now, else None."""
    try:
        state = json.loads(_file(directory_of(environment)).read_text())
        os.kill(state["pid"], 0)
    except (OSError, ValueError):
        return None
    outputs: dict[str, str] = state["outputs"]
    return outputs


def forget(environment: str) -> None:
    """Remove the data of an environment that does not run."""
    shutil.rmtree(directory_of(environment), ignore_errors=True)


def _file(directory: Path) -> Path:
    return directory / "running.json"
