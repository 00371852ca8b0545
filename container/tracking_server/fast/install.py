"""Puts the fast store and the fast calls into MLflow's server."""

# MLflow's functions bear no types
# mypy: allow-untyped-calls

from __future__ import annotations

import json
import logging
from typing import Any

import mlflow
import orjson  # type: ignore[import-not-found]
from fastapi.middleware.cors import CORSMiddleware
from google.protobuf.json_format import MessageToDict  # type: ignore[import-untyped]
from google.protobuf.message import Message  # type: ignore[import-untyped]
from mlflow.server import fastapi_security, handlers
from mlflow.utils.proto_json_utils import _mark_int64_fields, _merge_json_dicts
from sqlalchemy.engine import Engine
from starlette.types import ASGIApp

from tracking_server.fast import VERSION
from tracking_server.fast.calls import fast_calls
from tracking_server.fast.front import FastFront
from tracking_server.fast.store import FastStore

logger = logging.getLogger(__name__)

SECURITY = (
    fastapi_security.HostValidationMiddleware,
    fastapi_security.CORSBlockingMiddleware,
    fastapi_security.SecurityHeadersMiddleware,
    CORSMiddleware,
)


def is_supported(engine: Engine) -> bool:
    """Whether the fast store knows this MLflow and this database; says in the log if it does not."""
    if mlflow.__version__ != VERSION:
        logger.warning(
            "the fast store knows MLflow %s, not %s: serving with MLflow's own", VERSION, mlflow.__version__
        )
        return False
    return engine.dialect.name == "mysql"


def install_store() -> None:
    """Have MLflow open its tracking store as a FastStore."""
    handlers._tracking_store_registry.register(
        "mysql", lambda store_uri, artifact_uri: FastStore(store_uri, artifact_uri)
    )


def write_compactly() -> None:
    """Have MLflow's handlers write their answers without white space, by a writer that is compiled."""
    handlers.message_to_json = _compact  # type: ignore[attr-defined]


def _compact(message: Message, *, pretty: bool = True, convert_int64_to_number: bool = True) -> str:
    """As MLflow's message_to_json, except that it is never pretty."""
    fields = MessageToDict(message, preserving_proto_field_name=True)
    if convert_int64_to_number:
        fields = _merge_json_dicts(_mark_int64_fields(message), fields)
    try:
        return str(orjson.dumps(fields), "utf-8")
    except orjson.JSONEncodeError:  # what JSON has no standard for
        return json.dumps(fields, separators=(",", ":"))


def serve_fast(app: Any, *, threads: int) -> ASGIApp:
    """MLflow's application with the fast calls in front, behind the security checks that MLflow has given it."""
    store = handlers._get_tracking_store()
    if not isinstance(store, FastStore):
        raise TypeError(f"MLflow has opened a {type(store).__name__}")
    security = [each for each in app.user_middleware if each.cls in SECURITY]
    app.user_middleware = [each for each in app.user_middleware if each.cls not in SECURITY]
    guarded: ASGIApp = FastFront(app, calls=fast_calls(store), threads=threads)
    for each in reversed(security):
        guarded = each.cls(guarded, *each.args, **each.kwargs)
    return guarded
