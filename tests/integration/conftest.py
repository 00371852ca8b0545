"""Fixtures of the integration tests: backends and server processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from server_parts import aws_endpoint, database_server, new_backend_once
from server_process import Backend, Process, Server

__all__ = ["aws_endpoint", "database_server", "new_backend_once"]


@pytest.fixture
def new_backend(new_backend_once: Callable[..., Backend]) -> Callable[..., Backend]:
    return new_backend_once


@pytest.fixture(scope="module")
def start_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Any]]:
    """Starts processes and ends them after the module's tests."""
    yield from _starter(tmp_path_factory.mktemp("processes"))


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Starts processes and ends them after the test."""
    yield from _starter(tmp_path)


def _starter(directory: Path) -> Iterator[Callable[..., Any]]:
    processes: list[Process] = []

    def run(command: str, backend: Backend, **overrides: str) -> Process:
        process: Process
        if command == "serve":
            process = Server(backend, directory=directory, **overrides)
        else:
            process = Process(command, environment=backend.environment(**overrides), directory=directory)
        processes.append(process)
        return process

    yield run
    for process in processes:
        process.kill()


@pytest.fixture(scope="session")
def migrated_backend(
    new_backend_once: Callable[..., Backend], migrated: Callable[[Backend], Backend]
) -> Backend:
    """A backend whose schema is up to date, for all tests that leave it so."""
    return migrated(new_backend_once())


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Backend], Backend]:
    """Brings a backend's schema up to date and returns the backend."""

    def migrate(backend: Backend) -> Backend:
        directory = tmp_path_factory.mktemp("migrate")
        process = Process("migrate", environment=backend.environment(), directory=directory)
        assert process.wait() == 0, process.output
        return backend

    return migrate
