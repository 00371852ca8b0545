"""The server process: gunicorn as the supervisor of uvicorn workers."""

from __future__ import annotations

import gc
import logging
import os
import signal
import time
from typing import Any

from gunicorn.app.base import BaseApplication  # type: ignore[import-untyped]
from gunicorn.arbiter import Arbiter  # type: ignore[import-untyped]
from gunicorn.glogging import Logger  # type: ignore[import-untyped]
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DBAPIError
from starlette.types import ASGIApp
from uvicorn_worker import UvicornWorker  # type: ignore[import-not-found]

from tracking_server.access.build import build_gate
from tracking_server.access.marks import marks
from tracking_server.app import Drain, TrackingServer, configure_mlflow, load_mlflow
from tracking_server.database import DatabaseError, create_server_engine, locked, wait_for_database
from tracking_server.schema import is_known, latest_revision, read_schema
from tracking_server.secrets import SecretError, server_keys
from tracking_server.settings import DatabaseSettings, ServerSettings

logger = logging.getLogger(__name__)

KEEP_ALIVE_SECONDS = 75
"""Longer than the 60 s idle timeout of a load balancer, which must be the one to close a connection."""

STOP_SECONDS = 115
"""How long the server takes at most from SIGTERM to its end, drain included: Fargate's longest stop timeout is
120 s, and the task definition must ask for it."""

SCHEMA_WAIT_SECONDS = 300

COLLECT_AFTER = 50_000
"""Objects made since the last collection of garbage that start the next one. A request makes some thousands, which
are freed by themselves; Python's own 700 has a request look for garbage several times."""


class SchemaNotReady(RuntimeError):
    """There is no schema that this image can serve; the message says what to do."""


class SchemaTooNew(SchemaNotReady):
    """A newer MLflow has migrated the schema."""


def run(database: DatabaseSettings, settings: ServerSettings) -> int:
    """Serve until SIGTERM and return the exit code."""
    try:
        keys = server_keys(settings.secret_arn)
        configure_mlflow(settings, database_url=database.url, keys=keys.mlflow)
    except SecretError as error:
        logger.error("%s", error)
        return 1
    engine = create_server_engine(database, pool_size=settings.pool_size)
    try:
        _wait_for_schema(engine)
        # several servers may start on one fresh schema, where each would create the default experiment
        with engine.connect() as connection, locked(connection, "start"):
            app = load_mlflow(engine, settings)
            if settings.access:
                app = build_gate(app, settings=settings.access, key=keys.access, engine=engine)
            else:
                logger.warning("ACCESS_ENGINE=open: whoever reaches this server may do everything")
    except SchemaTooNew as error:
        logger.error("refused: %s", error)
        return 3
    except (SecretError, DatabaseError, SchemaNotReady) as error:
        logger.error("%s", error)
        return 1
    finally:
        engine.dispose()  # no connection may be shared with the workers that are forked next
    gc.freeze()  # nor need they copy the pages of all that was imported, which a collection would touch
    gc.set_threshold(COLLECT_AFTER)
    drain = Drain()
    _Server(TrackingServer(app, drain=drain, threads=settings.threads), drain=drain, settings=settings).run()
    return 0


def _wait_for_schema(engine: Engine) -> None:
    """Return once the schema is what this image needs; a migration may be on its way there."""
    target = latest_revision()
    deadline = time.monotonic() + SCHEMA_WAIT_SECONDS
    while True:
        wait_for_database(engine)
        try:
            with engine.connect() as connection:
                schema = read_schema(connection)
        except DBAPIError as error:  # a table can be dropped between being listed and being read
            found = f"a schema that cannot be read just now ({error.orig})"
        else:
            migrated = schema.revision == target and not schema.running
            if migrated and marks.name in schema.kit_tables:
                return
            if schema.revision and not is_known(schema.revision):
                raise SchemaTooNew(
                    f"the database holds revision {schema.revision}, which is newer than this image's {target}: "
                    "deploy the newer image again"
                )
            found = f"revision {schema.revision}" if schema.revision else "no MLflow schema"
            if migrated:
                found += f" without the table {marks.name}"
            if schema.running:
                found += " and an unfinished migration"
        if time.monotonic() > deadline:
            raise SchemaNotReady(
                f"the database holds {found}, this image needs {target}: run `migrate` first"
            )
        logger.warning("waiting for the schema: found %s, need %s; `migrate` brings it there", found, target)
        time.sleep(2)


class _Logger(Logger):  # type: ignore[misc]
    """Leaves gunicorn's records to the root logger, which writes JSON."""

    def setup(self, cfg: Any) -> None:
        self.error_log.propagate = True
        self.error_log.setLevel(logging.INFO)


class _Worker(UvicornWorker):  # type: ignore[misc]
    """A uvicorn worker that logs through the root logger and trusts no forwarding header."""

    CONFIG_KWARGS = {  # noqa: RUF012
        "loop": "auto",
        "http": "auto",
        "access_log": False,
        "proxy_headers": False,
        "server_header": False,
    }

    def __init__(self, *arguments: Any, **parameters: Any) -> None:
        super().__init__(*arguments, **parameters)
        logging.getLogger("uvicorn.error").propagate = True

    async def callback_notify(self) -> None:
        """Called about once a minute: end, like gunicorn's own workers, when the supervisor was killed."""
        await super().callback_notify()
        if os.getppid() != self.ppid:
            os.kill(os.getpid(), signal.SIGTERM)


class _Arbiter(Arbiter):  # type: ignore[misc]
    """Turns the health check red for a while before it closes the listener."""

    def handle_term(self) -> None:
        settings: ServerSettings = self.app.settings
        logger.info("SIGTERM: health is red for %d s, then the listener closes", settings.drain_seconds)
        self.app.drain.begin()
        time.sleep(settings.drain_seconds)
        super().handle_term()


class _Server(BaseApplication):  # type: ignore[misc]
    def __init__(self, app: ASGIApp, *, drain: Drain, settings: ServerSettings) -> None:
        self._app = app
        self.drain = drain
        self.settings = settings
        super().__init__()

    def load_config(self) -> None:
        options = {
            "bind": f"{self.settings.host}:{self.settings.port}",
            "workers": self.settings.workers,
            "worker_class": _Worker,
            "preload_app": True,
            "keepalive": KEEP_ALIVE_SECONDS,
            "timeout": 120,  # for an event loop that is stuck, not for a slow request
            "graceful_timeout": STOP_SECONDS - self.settings.drain_seconds,
            "logger_class": _Logger,
            "control_socket_disable": True,
        }
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> ASGIApp:
        return self._app

    def run(self) -> None:
        _Arbiter(self).run()
