"""The self-check: can the database, its schema and the artifact bucket be used?"""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlsplit

import boto3
import mlflow
import sqlalchemy
from botocore.exceptions import BotoCoreError, ClientError
from sqlalchemy.engine import Engine
from sqlalchemy.exc import SQLAlchemyError

from tracking_server.database import create_server_engine
from tracking_server.schema import latest_revision, read_schema
from tracking_server.secrets import SecretError
from tracking_server.settings import DatabaseSettings


class CheckFailed(RuntimeError):
    """What was looked at is not as it should be."""


def report(settings: DatabaseSettings, artifacts_destination: str | None) -> bool:
    """Print one line a check and return whether all of them passed."""
    engine = create_server_engine(settings, pool_size=2)
    checks: dict[str, Callable[[], str]] = {
        "database": lambda: _database(engine),
        "TLS": lambda: _tls(engine),
        "schema": lambda: _schema(engine),
    }
    if artifacts_destination:
        checks["bucket"] = lambda: _bucket(artifacts_destination)
    passed = [_print(name, check) for name, check in checks.items()]
    return all(passed)


def _print(name: str, check: Callable[[], str]) -> bool:
    try:
        found, passed = check(), True
    except (CheckFailed, SecretError, SQLAlchemyError, BotoCoreError, ClientError, OSError) as error:
        found, passed = str(getattr(error, "orig", error)), False
    print(f"{'ok  ' if passed else 'FAIL'}  {name:<9} {found}", flush=True)
    return passed


def _database(engine: Engine) -> str:
    if engine.dialect.name == "sqlite":
        return f"SQLite file {engine.url.database}"
    with engine.connect() as connection:
        version = connection.scalar(sqlalchemy.text("SELECT VERSION()"))
    return f"MySQL {version} at {engine.url.host}:{engine.url.port}/{engine.url.database}"


def _tls(engine: Engine) -> str:
    if engine.dialect.name == "sqlite":
        return "not needed for a file"
    with engine.connect() as connection:
        row = connection.execute(sqlalchemy.text("SHOW SESSION STATUS LIKE 'Ssl_version'")).first()
    if row is None or not row[1]:
        raise CheckFailed("the connection is not encrypted")
    return f"{row[1]}, certificate verified for {engine.url.host}"


def _schema(engine: Engine) -> str:
    target = latest_revision()
    with engine.connect() as connection:
        schema = read_schema(connection)
    if schema.running:
        raise CheckFailed(f"a migration to {schema.running.to_revision} is running or did not finish")
    if schema.revision != target:
        raise CheckFailed(f"found revision {schema.revision or 'none'}, need {target}: run `migrate`")
    return f"revision {target} (MLflow {mlflow.__version__})"


def _bucket(destination: str) -> str:
    parts = urlsplit(destination)
    boto3.client("s3").list_objects_v2(Bucket=parts.netloc, Prefix=parts.path.lstrip("/"), MaxKeys=1)
    return f"{destination} can be listed"
