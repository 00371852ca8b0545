"""Real parts for tests: a MySQL-compatible server and an AWS double, each started once a session."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from moto.server import ThreadedMotoServer
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
    """The endpoint of S3 and Secrets Manager."""
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    yield f"http://localhost:{server.get_host_and_port()[1]}"
    server.stop()


@pytest.fixture(scope="session")
def new_backend_once(database_server: DatabaseServer, aws_endpoint: str) -> Callable[..., Backend]:
    """Makes backends, each with an empty database and a bucket."""

    def new(**options: Any) -> Backend:
        return Backend(database_server=database_server, aws_endpoint=aws_endpoint, **options)

    return new
