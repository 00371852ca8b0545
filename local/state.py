"""Where an environment that runs on this machine keeps its data, and what it says while it runs."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

#: Database, artifacts and logs of each environment. Kept between runs, never committed.
STATE = Path(__file__).resolve().parent.parent / ".local"


@dataclass(frozen=True, kw_only=True)
class Running:
    """An environment that a process of this machine runs, in an embedded AWS at `endpoint`.

    `operator` and `person` are environment variables: of the account's root, and of a user who may assume the roles.
    """

    pid: int
    endpoint: str
    outputs: Mapping[str, str]
    operator: Mapping[str, str] = field(repr=False)
    person: Mapping[str, str] = field(repr=False)


def directory_of(environment: str) -> Path:
    """The folder of an environment, one each: also for a file that is not in environments/."""
    return STATE / environment.removesuffix(".yaml").strip("/").replace("/", "-")


def role_files(directory: Path) -> Path:
    """Where the files are, as long as it runs, that make a shell one of the roles."""
    return directory / "roles"


def announce(
    directory: Path,
    *,
    endpoint: str,
    outputs: Mapping[str, str],
    operator: Mapping[str, str],
    person: Mapping[str, str],
) -> None:
    """Tell other processes that this one runs the environment of `directory`."""
    running = Running(pid=os.getpid(), endpoint=endpoint, outputs=outputs, operator=operator, person=person)
    write_private(_file(directory), json.dumps(asdict(running), indent=2))


def withdraw(directory: Path) -> None:
    """Take the announcement back, and the keys that end with it."""
    _file(directory).unlink(missing_ok=True)
    shutil.rmtree(role_files(directory), ignore_errors=True)


def running(environment: str) -> Running | None:
    """`environment`, if a process of this machine runs it now, else None."""
    try:
        found = Running(**json.loads(_file(directory_of(environment)).read_text()))
        os.kill(found.pid, 0)
    except (OSError, ValueError, TypeError):
        return None
    return found


def forget(environment: str) -> None:
    """Remove the data of an environment that does not run."""
    shutil.rmtree(directory_of(environment), ignore_errors=True)


def write_private(file: Path, text: str) -> None:
    """Write a file that nobody else on this machine can read."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    file.touch(mode=0o600, exist_ok=False)
    file.write_text(text, encoding="utf-8")


def _file(directory: Path) -> Path:
    return directory / "running.json"
