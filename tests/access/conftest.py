"""Fixtures of the access tests: a guarded server, with the AWS around it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

INTEGRATION = Path(__file__).parent.parent / "integration"
sys.path.insert(0, str(INTEGRATION))

from guarded import Account, Guarded  # noqa: E402
from server_parts import database_server  # noqa: E402
from server_process import REGION, Backend, Process, Server  # noqa: E402

from local.aws import EmbeddedAws  # noqa: E402
from local.database import DatabaseServer  # noqa: E402

__all__ = ["database_server"]


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedAws]:
    """The AWS of one module: two cannot run in one process."""
    with EmbeddedAws(directory=tmp_path_factory.mktemp("aws"), region=REGION) as running:
        yield running


@pytest.fixture(scope="module")
def account(aws: EmbeddedAws) -> Account:
    return Account(aws)


@pytest.fixture(scope="module")
def guarded(
    account: Account,
    database_server: DatabaseServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Guarded]:
    """A migrated database and a way to start guarded servers on it, which end with the module."""
    directory = tmp_path_factory.mktemp("guarded")
    backend = Backend(database_server=database_server, aws_endpoint=account.aws.endpoint)
    processes: list[Process] = []

    def start(command: str, backend: Backend, **overrides: str) -> Process:
        if command == "serve":
            processes.append(Server(backend, directory=directory, **overrides))
        else:
            environment = backend.environment(**overrides)
            processes.append(Process(command, environment=environment, directory=directory))
        return processes[-1]

    migration = start("migrate", backend)
    assert migration.wait() == 0, migration.output
    yield Guarded(account=account, backend=backend, start=start, directory=directory)
    for process in processes:
        process.kill()


@pytest.fixture(scope="module")
def server(guarded: Guarded) -> Server:
    """One guarded server that decides as IAM says."""
    return guarded.serve()


@pytest.fixture
def as_role(account: Account, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Makes this process a client with the credentials of a role's session."""

    def become(role: str) -> None:
        for name, value in account.assume(role).environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("MLFLOW_TRACKING_AUTH", "aws-iam")
        monkeypatch.setenv("AWS_ENDPOINT_URL", account.aws.endpoint)

    return become
