"""The two servers that are compared, each with a database of its own on one MySQL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from server_process import REGION, Backend, Process, Server

from local.aws import EmbeddedAws
from local.database import DatabaseServer, find_server

SHIM = Path(__file__).resolve().parent / "shim"


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the servers: what answers on `port`, and its database."""

    name: str
    server: Server
    backend: Backend
    port: int


@dataclass(frozen=True, kw_only=True)
class Pair:
    """The two servers."""

    left: Side
    right: Side

    @property
    def sides(self) -> tuple[Side, Side]:
        """Both."""
        return self.left, self.right


@contextmanager
def database_server(directory: Path) -> Iterator[DatabaseServer]:
    """A database server for as long as the context lasts."""
    binary = find_server()
    if binary is None:
        raise RuntimeError("no MySQL-compatible server found: run `python -m local.get_database`")
    (directory / "database").mkdir()
    with DatabaseServer(
        directory=directory / "database", binary=binary, log_bin_trust_function_creators=True
    ) as server:
        yield server


def migrate(backend: Backend, directory: Path) -> None:
    """Make MLflow's tables."""
    process = Process("migrate", environment=backend.environment(), directory=directory)
    try:
        if process.wait() != 0:
            raise RuntimeError(process.output)
    finally:
        process.kill()


@contextmanager
def serving(
    database: DatabaseServer,
    aws_endpoint: str,
    directory: Path,
    stores: tuple[str, str] = ("stock", "fast"),
    **variables: str,
) -> Iterator[Pair]:
    """Two running servers with empty databases, whose ids grow with time."""
    with ExitStack() as stack:
        sides = []
        # a seeded hash: MLflow prints a set in one of its messages
        options = {"PYTHONPATH": str(SHIM), "PYTHONHASHSEED": "0", **variables}
        for number, store in enumerate(stores):
            backend = Backend(database_server=database, aws_endpoint=aws_endpoint)
            migrate(backend, directory)
            server = Server(backend, directory=directory, TRACKING_STORE=store, **options)
            stack.callback(server.kill)
            name = store if stores[0] != stores[1] else f"{store} {number + 1}"
            sides.append(Side(name=name, server=server, backend=backend, port=server.port))
        for side in sides:
            side.server.wait_until_healthy()
        yield Pair(left=sides[0], right=sides[1])


@contextmanager
def alone(directory: Path, stores: tuple[str, str] = ("stock", "fast")) -> Iterator[Pair]:
    """As `serving`, with a database server and an AWS double of its own."""
    directory.chmod(0o755)
    with (
        database_server(directory) as database,
        EmbeddedAws(directory=directory / "aws", region=REGION) as aws,
        serving(database, aws.endpoint, directory, stores) as pair,
    ):
        yield pair
