"""Command line of the container: `python -m tracking_server serve|migrate|check`."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

from tracking_server.drivers import load
from tracking_server.logs import configure_logging
from tracking_server.settings import (
    DatabaseSettings,
    MySQLSettings,
    SettingsError,
    read_database,
    read_server,
)

OK, FAILED, BAD_CONFIGURATION, REFUSED = range(4)

logger = logging.getLogger("tracking_server")

DESCRIPTION = """\
The MLflow tracking server of the MLflow AWS Kit.

  serve    answer MLflow's REST API and UI; waits for the database, never changes its schema
  migrate  bring the database schema to what this image's MLflow needs; run it before `serve`
  check    report whether database, schema and artifact bucket can be used, and exit
"""

ENVIRONMENT = """\
environment:
  all commands   DATABASE_HOST DATABASE_PORT DATABASE_NAME DATABASE_SECRET_ARN DATABASE_CA_BUNDLE
                 DATABASE_DRIVER=mysqlclient|pymysql, when it is not to be the faster one of those installed
                 or, on a machine without MySQL, MLFLOW_BACKEND_STORE_URI=sqlite:////path/to/file
  serve          MLFLOW_HOST MLFLOW_PORT SERVER_SECRET_ARN MLFLOW_ARTIFACTS_DESTINATION ARTIFACT_ACCESS
                 MLFLOW_SERVER_ALLOWED_HOSTS MLFLOW_SERVER_CORS_ALLOWED_ORIGINS MLFLOW_WORKERS
                 SERVER_THREADS DATABASE_POOL_SIZE SERVER_DRAIN_SECONDS
  check          MLFLOW_ARTIFACTS_DESTINATION, when the bucket is to be checked too

exit codes:
  0 done   1 failed, may be tried again   2 bad configuration   3 refused: the schema needs a person
"""


def serve() -> int:
    """Run the server until it is told to stop."""
    database, server = read_server(os.environ)
    _log_driver(database)
    from tracking_server.server import run

    return run(database, server)


def migrate() -> int:
    """Run the schema migration."""
    database = read_database(os.environ)
    _log_driver(database)
    from tracking_server.database import DatabaseError
    from tracking_server.migrate import MigrationFailed, MigrationRefused
    from tracking_server.migrate import migrate as run
    from tracking_server.secrets import SecretError

    try:
        logger.info("%s", run(database))
    except MigrationRefused as error:
        logger.error("refused: %s", error)
        return REFUSED
    except (DatabaseError, MigrationFailed, SecretError) as error:
        logger.error("%s", error)
        return FAILED
    return OK


def check() -> int:
    """Print a report."""
    database = read_database(os.environ)
    from tracking_server.check import report

    return OK if report(database, os.environ.get("MLFLOW_ARTIFACTS_DESTINATION")) else FAILED


def _log_driver(settings: DatabaseSettings) -> None:
    if isinstance(settings, MySQLSettings):
        logger.info("database driver: %s", load(settings.driver).version())


COMMANDS: dict[str, Callable[[], int]] = {"serve": serve, "migrate": migrate, "check": check}


def main() -> int:
    """Run the command that the arguments name and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tracking_server",
        description=DESCRIPTION,
        epilog=ENVIRONMENT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS, help="what to do")
    command = parser.parse_args().command
    configure_logging()
    # the first process of a container has no default reaction to SIGTERM
    signal.signal(signal.SIGTERM, _exit)
    try:
        return COMMANDS[command]()
    except SettingsError as error:
        logger.error("bad configuration: %s", error)
        return BAD_CONFIGURATION


def _exit(number: int, _frame: FrameType | None) -> None:
    logger.error("%s: stopped before it was done", signal.Signals(number).name)
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
