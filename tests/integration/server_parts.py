"""Real parts for tests: a MySQL-compatible server and an AWS double, each started once a session."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ports import free_port
from server_process import Backend

from local.database import DatabaseServer, find_server


@pytest.fixture(scope="session")
def database_server() -> Iterator[DatabaseServer]:
    """One database server for the session; each test has a database of its own in it."""
    binary = find_server()
    assert binary is not None, "no MySQL-compatible server found: run `python -m local.get_database`"
    directory = Path(tempfile.mkdtemp(prefix="kit-database-"))
    directory.chmod(0o755)
    with DatabaseServer(directory=directory, binary=binary, log_bin_trust_function_creators=True) as server:
        yield server
    shutil.rmtree(directory)


@pytest.fixture(scope="session")
def aws_endpoint() -> Iterator[str]:
    """The endpoint of S3 and Secrets Manager: a process of its own, since moto has one state a process."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not _listens(port):
        assert server.poll() is None, "the AWS double ended at once"
        assert time.monotonic() < deadline, "the AWS double does not start"
        time.sleep(0.1)
    yield f"http://localhost:{port}"
    server.terminate()
    server.wait(10)


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


@pytest.fixture(scope="session")
def new_backend_once(database_server: DatabaseServer, aws_endpoint: str) -> Callable[..., Backend]:
    """Makes backends, each with an empty database and a bucket."""

    def new(**options: Any) -> Backend:
        return Backend(database_server=database_server, aws_endpoint=aws_endpoint, **options)

    return new
