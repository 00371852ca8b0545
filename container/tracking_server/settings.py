"""The settings of the process, read from its environment once, at start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from tracking_server import drivers
from tracking_server.access.settings import AccessSettings, read_access
from tracking_server.drivers import SCHEMES, DriverName
from tracking_server.variables import Reader, SettingsError

__all__ = ["SettingsError", "read_database", "read_server"]

ArtifactAccess = Literal["server", "direct"]
TrackingStore = Literal["fast", "stock"]


@dataclass(frozen=True, kw_only=True)
class MySQLSettings:
    """A MySQL database whose credentials are in Secrets Manager, reached over verified TLS."""

    host: str
    port: int
    name: str
    secret_arn: str
    ca_bundle: Path
    driver: DriverName

    @property
    def url(self) -> URL:
        """Where the database is; credentials are added to each connection, never to the URL."""
        return URL.create(
            SCHEMES[self.driver],
            host=self.host,
            port=self.port,
            database=self.name,
            query={"charset": "utf8mb4"},
        )


@dataclass(frozen=True, kw_only=True)
class SQLiteSettings:
    """A database file, for a machine without MySQL: one server process only."""

    url: URL

    @property
    def file(self) -> Path:
        """The database file."""
        return Path(self.url.database or "")


DatabaseSettings = MySQLSettings | SQLiteSettings


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """What `serve` needs besides the database.

    `workers` are processes, `threads` and `pool_size` (database connections) count for each of them.
    `drain_seconds` is how long /health answers 503 before the listener closes. Without `access` there is no
    gate: whoever reaches the server may do everything.
    """

    host: str
    port: int
    secret_arn: str
    artifacts_destination: str
    artifact_access: ArtifactAccess
    tracking_store: TrackingStore
    workers: int
    threads: int
    pool_size: int
    drain_seconds: int
    access: AccessSettings | None


def read_database(environ: Mapping[str, str]) -> DatabaseSettings:
    """The database of DATABASE_*, or the SQLite file of MLFLOW_BACKEND_STORE_URI. Raises SettingsError."""
    reader = Reader(environ)
    settings = _database(reader, environ)
    reader.finish()
    return settings


def read_server(environ: Mapping[str, str]) -> tuple[DatabaseSettings, ServerSettings]:
    """Everything that `serve` needs. Raises SettingsError."""
    reader = Reader(environ)
    database = _database(reader, environ)
    server = ServerSettings(
        host=reader.text("MLFLOW_HOST"),
        port=reader.number("MLFLOW_PORT", minimum=1, maximum=65535),
        secret_arn=reader.text("SERVER_SECRET_ARN"),
        artifacts_destination=reader.text("MLFLOW_ARTIFACTS_DESTINATION"),
        artifact_access=_artifact_access(reader),
        tracking_store=_tracking_store(reader),
        workers=reader.number("MLFLOW_WORKERS", minimum=1, maximum=64),
        threads=reader.number("SERVER_THREADS", minimum=1, maximum=256),
        pool_size=reader.number("DATABASE_POOL_SIZE", minimum=2, maximum=1024),
        drain_seconds=reader.number("SERVER_DRAIN_SECONDS", minimum=0, maximum=60),
        access=read_access(
            reader,
            # MLflow reads these two itself; without them it would refuse every request through the load balancer
            hosts=reader.listed("MLFLOW_SERVER_ALLOWED_HOSTS"),
            origins=reader.listed("MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"),
        ),
    )
    if server.artifacts_destination and urlsplit(server.artifacts_destination).scheme != "s3":
        reader.refuse(
            f"MLFLOW_ARTIFACTS_DESTINATION={server.artifacts_destination!r} must be s3://bucket/prefix"
        )
    if not reader.problems and server.pool_size < 2 * server.threads:
        # a request of MLflow's holds one connection while it opens another: a smaller pool can lock itself up
        reader.refuse(
            f"DATABASE_POOL_SIZE={server.pool_size} must be at least twice SERVER_THREADS={server.threads}"
        )
    reader.finish()
    return database, server


def _artifact_access(reader: Reader) -> ArtifactAccess:
    value = reader.text("ARTIFACT_ACCESS")
    if value == "direct":
        return "direct"
    if value not in ("", "server"):
        reader.refuse(f"ARTIFACT_ACCESS={value!r} must be 'server' or 'direct'")
    return "server"


def _tracking_store(reader: Reader) -> TrackingStore:
    value = reader.optional("TRACKING_STORE")
    if value == "stock":
        return "stock"
    if value not in ("", "fast"):
        reader.refuse(f"TRACKING_STORE={value!r} must be 'fast' or 'stock'")
    return "fast"


def _database(reader: Reader, environ: Mapping[str, str]) -> DatabaseSettings:
    if uri := environ.get("MLFLOW_BACKEND_STORE_URI"):
        url = _sqlite_url(uri)
        if url is None:
            # the value is not repeated: it may hold a password
            reader.refuse(
                "MLFLOW_BACKEND_STORE_URI may only name an SQLite file (sqlite:////path); use DATABASE_*"
            )
        return SQLiteSettings(url=url or URL.create("sqlite"))
    return MySQLSettings(
        host=reader.text("DATABASE_HOST"),
        port=reader.number("DATABASE_PORT", minimum=1, maximum=65535),
        name=reader.text("DATABASE_NAME"),
        secret_arn=reader.text("DATABASE_SECRET_ARN"),
        ca_bundle=reader.existing_file("DATABASE_CA_BUNDLE"),
        driver=_driver(reader),
    )


def _driver(reader: Reader) -> DriverName:
    """The driver of DATABASE_DRIVER, or the best that is there."""
    value = reader.optional("DATABASE_DRIVER")
    for name in SCHEMES:
        if value == name:
            if problem := drivers.import_problem(name):
                reader.refuse(f"DATABASE_DRIVER={value!r} cannot be used here: {problem}")
            return name
    if value:
        reader.refuse(f"DATABASE_DRIVER={value!r} must be one of {', '.join(SCHEMES)}")
    return drivers.best()


def _sqlite_url(uri: str) -> URL | None:
    """The URL of an SQLite file, None for anything else."""
    try:
        url = make_url(uri)
    except ArgumentError:
        return None
    return url if url.get_backend_name() == "sqlite" and url.database and not url.host else None
