"""Two servers on one MySQL for the tests of parity."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from server_parts import aws_endpoint, database_server

from local.database import DatabaseServer

from .servers import Pair, serving

__all__ = ["aws_endpoint", "database_server"]


@pytest.fixture(scope="module")
def pair(
    database_server: DatabaseServer, aws_endpoint: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    """MLflow's own store and the fast one."""
    with serving(database_server, aws_endpoint, tmp_path_factory.mktemp("parity")) as running:
        yield running
