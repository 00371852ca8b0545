"""MLflow's own permissions for each experiment and model, below the gate and for the callers that it proves.

IAM knows one resource, the server. Where that is too coarse, MLflow's permissions come second: a request needs the
IAM action and MLflow's permission. A caller is a user of MLflow's named after the role or IAM user, made when first
seen; who creates an experiment manages it, everybody else may read it until told otherwise. Who may administer users
by IAM (`sagemaker-mlflow:UpdateUserAdmin`) is an administrator to MLflow too.
"""

# MLflow's functions bear no types
# mypy: allow-untyped-calls

from __future__ import annotations

import configparser
import os
import secrets
import tempfile
from pathlib import Path
from typing import Any, cast

import sqlalchemy
from alembic.command import upgrade
from alembic.config import Config
from cachetools import TTLCache
from mlflow.exceptions import MlflowException
from sqlalchemy.engine import Engine
from starlette.types import ASGIApp
from werkzeug.datastructures import Authorization

from tracking_server.access.current import ADMINISTERS, CALLER

MAX_USERS = 10_000
USER_SECONDS = 60
"""How long a user is taken to be there, as administrator or not, without a look into the database."""

_known: TTLCache[tuple[str, bool], None] = TTLCache(MAX_USERS, USER_SECONDS)


def load_guarded_mlflow(flask_app: Any, engine: Engine) -> ASGIApp:
    """MLflow's application with its permissions on.

    Makes or migrates the tables of MLflow's users, so that servers must not start at the same time.
    """
    config = configparser.ConfigParser()
    config["mlflow"] = {
        "default_permission": "READ",
        "database_uri": os.environ["_MLFLOW_SERVER_FILE_STORE"].replace("%", "%%"),
        "authorization_function": f"{__name__}:authorize",
    }
    with tempfile.NamedTemporaryFile("w", suffix=".ini", delete=False) as file:
        config.write(file)
    os.environ |= {
        "MLFLOW_AUTH_CONFIG_PATH": file.name,
        "MLFLOW_BASIC_AUTH_FAIL_CLOSED": "true",
        "_MLFLOW_AUTH_ADMIN_BOOTSTRAPPED": "true",  # nobody has a password here, so there is none to set
    }
    from mlflow.server import auth
    from mlflow.server.auth.db.utils import _get_alembic_config

    _migrate(engine, _get_alembic_config(engine.url.render_as_string()))
    app = cast(ASGIApp, auth.create_app(flask_app))
    Path(file.name).unlink()
    return app


def _migrate(engine: Engine, config: Config) -> None:
    """Make the tables of MLflow's users, or bring them up to date."""

    def rename(_c: object, _cursor: object, statement: str, parameters: Any, *_: object) -> tuple[str, Any]:
        # MLflow gives two tables a constraint of one name, which MySQL refuses; without a name it picks one
        return statement.replace("CONSTRAINT fk_user_id FOREIGN KEY", "FOREIGN KEY"), parameters

    # the migrations would make an engine of their own from the URL, which holds no credentials
    own, sqlalchemy.engine_from_config = sqlalchemy.engine_from_config, lambda *_, **__: engine
    sqlalchemy.event.listen(engine, "before_cursor_execute", rename, retval=True)
    try:
        upgrade(config, "head")
    finally:
        sqlalchemy.event.remove(engine, "before_cursor_execute", rename)
        sqlalchemy.engine_from_config = own


def user_name() -> str:
    """How MLflow calls the caller: readable, and never the same for a principal that is made anew."""
    caller = CALLER.get()
    if caller is None:
        raise MlflowException("nobody has been proved to call")  # unreachable behind the gate
    return f"{caller.kind}/{caller.name}/{caller.unique_id}"


def authorize() -> Authorization:
    """MLflow's hook: who calls, as one of its users."""
    name, administers = user_name(), ADMINISTERS.get()
    if (name, administers) not in _known:
        _provide(name, administers)
        _known[name, administers] = None
    return Authorization("basic", {"username": name})


def _provide(name: str, administers: bool) -> None:
    """Have MLflow know the user."""
    from mlflow.server.auth import store

    if not store.has_user(name):
        try:
            # a password that nobody is ever told: MLflow wants one
            store.create_user(name, secrets.token_urlsafe(32), is_admin=administers)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another task was faster
                raise
        return
    if store.get_user(name).is_admin != administers:
        store.update_user(name, is_admin=administers)
