"""The ASGI application: all of MLflow, behind the kit's health check."""

from __future__ import annotations

import asyncio
import mmap
import os
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import anyio.to_thread
from sqlalchemy.engine import URL, Engine
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tracking_server.limits import BodyLimit
from tracking_server.settings import ServerSettings

ASSISTANT = "/ajax-api/3.0/mlflow/assistant"
"""MLflow's coding assistant runs programs on the server for callers on localhost, and has no off switch."""


class Drain:
    """Whether the server is on its way out: one flag, shared by the processes forked after it was made."""

    def __init__(self) -> None:
        self._flag = mmap.mmap(-1, 1)

    def begin(self) -> None:
        """Turn every process's health check red."""
        self._flag[0] = 1

    def __bool__(self) -> bool:
        return self._flag[0] == 1


class TrackingServer:
    """ASGI application around MLflow's: answers /health itself and sends clients elsewhere while draining."""

    def __init__(self, app: ASGIApp, *, drain: Drain, threads: int) -> None:
        self._app = BodyLimit(app)
        self._drain = drain
        self._threads = threads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            self._limit_threads()
        elif scope["type"] == "http":
            if scope["path"] == "/health":
                await self._answer_health(scope, receive, send)
                return
            if scope["path"].startswith(ASSISTANT):
                await PlainTextResponse("the assistant is off", status_code=404)(scope, receive, send)
                return
            if self._drain:
                send = _closing(send)
        await self._app(scope, receive, send)

    def _limit_threads(self) -> None:
        """Set how many requests this process works on at a time; they share its database connections."""
        anyio.to_thread.current_default_thread_limiter().total_tokens = self._threads
        # artifact transfers and OTLP use the event loop's own executor
        executor = ThreadPoolExecutor(max_workers=max(1, self._threads // 2), thread_name_prefix="transfer")
        asyncio.get_running_loop().set_default_executor(executor)

    async def _answer_health(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._drain:
            await PlainTextResponse("draining", status_code=503)(scope, receive, send)
        else:
            await PlainTextResponse("OK")(scope, receive, send)


def _closing(send: Send) -> Send:
    """Close the connection after the response, so that a client's next request goes to another server."""

    async def closing(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", []), (b"connection", b"close")]
        await send(message)

    return closing


def configure_mlflow(settings: ServerSettings, *, database_url: URL, keys: dict[str, str]) -> None:
    """Tell MLflow, through its environment variables, what its own command line would.

    They are set in this process only, and before MLflow's models and server are imported, which read some of
    them then.
    """
    direct = settings.artifact_access == "direct"
    os.environ.update(
        {
            "_MLFLOW_SERVER_FILE_STORE": database_url.render_as_string(),
            "_MLFLOW_SERVER_ARTIFACT_ROOT": settings.artifacts_destination
            if direct
            else "mlflow-artifacts:/",
            "_MLFLOW_SERVER_ARTIFACT_DESTINATION": settings.artifacts_destination,
            "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
            "_MLFLOW_SGI_NAME": "uvicorn",
            "_MLFLOW_SERVER_BOOT_ID": uuid.uuid4().hex,
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            **keys,
        }
    )
    if not (settings.access and settings.access.experiment_permissions):
        # MLflow's search tries to import this module at every request; while that fails, other threads see it
        # half loaded and answer 500
        sys.modules["mlflow.server.auth"] = None  # type: ignore[assignment]


def load_mlflow(engine: Engine, settings: ServerSettings) -> ASGIApp:
    """Import MLflow's application and open its stores on `engine`, which all of them share."""
    import mlflow.store.db.utils as database
    from mlflow.server import app as flask_app
    from mlflow.server import handlers

    from tracking_server.artifacts import StreamingS3ArtifactRepository, download_routes
    from tracking_server.fast import install

    # MLflow would make an engine, and so a pool, for each of its stores
    database.create_sqlalchemy_engine = lambda _uri: engine
    flask_app.secret_key = os.environ["MLFLOW_FLASK_SERVER_SECRET_KEY"]
    fast = settings.tracking_store == "fast" and install.is_supported(engine)
    if fast:
        install.install_store()
    install.write_compactly()
    handlers.initialize_backend_stores()
    artifacts = StreamingS3ArtifactRepository(settings.artifacts_destination, uploads=settings.threads)
    handlers._artifact_repo = artifacts  # type: ignore[assignment]
    app = _load_app(flask_app, settings, engine)
    app.router.routes[:0] = download_routes(artifacts)
    if fast and not (settings.access and settings.access.experiment_permissions):
        return install.serve_fast(app, threads=settings.threads)
    return cast(ASGIApp, app)


def _load_app(flask_app: Any, settings: ServerSettings, engine: Engine) -> Any:
    if settings.access and settings.access.experiment_permissions:
        from tracking_server.access.experiments import load_guarded_mlflow

        return load_guarded_mlflow(flask_app, engine)
    from mlflow.server.fastapi_app import app

    return app
