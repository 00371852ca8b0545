"""The loopback endpoint of the embedded AWS: every API call enters here, on its way to a double or to moto."""

from __future__ import annotations

import io
import re
import socketserver
import threading
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote
from wsgiref.types import StartResponse, WSGIEnvironment

from moto.core.exceptions import ServiceException
from moto.core.model import OperationModel
from moto.core.parse import PROTOCOL_PARSERS
from moto.core.request import Request as MotoRequest
from moto.core.request import determine_request_protocol
from moto.core.routing import NotFound, get_service_router
from moto.core.serialize import get_serializer_class
from moto.core.utils import get_service_model
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import BaseWSGIServer, make_server

# the call that this thread answers
CURRENT_CALL: ContextVar[ApiCall] = ContextVar("CURRENT_CALL")
Operation = Callable[[dict[str, Any]], dict[str, Any]]
_SCOPE = re.compile(r"Credential=([^/]+)/\d+/([^/]+)/([^/]+)/aws4_request")


class ServiceError(ServiceException):  # type: ignore[misc]  # moto is untyped
    """An error that a double answers with: AWS's code and message."""


@dataclass
class ApiCall:
    """A signed request: who calls which operation of which service. `parameters` are parsed when asked for."""

    service: str
    region: str
    access_key: str
    request: MotoRequest
    operation: OperationModel
    path_parameters: dict[str, Any]
    _parameters: dict[str, Any] | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """The operation's name, as the service's API reference writes it."""
        return str(self.operation.name)

    @property
    def protocol(self) -> str:
        """The wire protocol of this request."""
        return determine_request_protocol(self.operation.service_model, self.request.content_type)

    @property
    def parameters(self) -> dict[str, Any]:
        """The operation's input, by the API's member names. Reads the body: not for uploads of objects."""
        if self._parameters is None:
            parser = PROTOCOL_PARSERS[self.protocol](self.operation)
            self._parameters = dict(
                parser.parse(
                    {
                        "method": self.request.method,
                        "values": self.request.values,
                        "headers": self.request.headers,
                        "body": self.request.get_data(),
                        "url_path": self.request.path,
                        "url_params": self.path_parameters,
                    }
                )
            )
        return self._parameters


def parse_call(environ: WSGIEnvironment) -> ApiCall | None:
    """The API call of a request; None when it is not signed, or names no known operation."""
    query = parse_qs(environ.get("QUERY_STRING", ""))
    presigned = query.get("X-Amz-Credential", [""])[0]
    text = environ.get("HTTP_AUTHORIZATION") or f"Credential={unquote(presigned)}"
    scope = _SCOPE.search(text)
    if scope is None:
        return None
    access_key, region, service = scope.groups()
    if service != "s3":  # bodies of objects stay a stream
        length = int(environ.get("CONTENT_LENGTH") or 0)
        environ["wsgi.input"] = io.BytesIO(environ["wsgi.input"].read(length))
    request = MotoRequest(environ)
    service = "elbv2" if service == "elasticloadbalancing" else service
    service = "cloudwatch" if service == "monitoring" else service
    try:
        operation, path_parameters = get_service_router(service).match(request)
    except (NotFound, NotImplementedError, KeyError):
        return None
    finally:
        if service != "s3":
            environ["wsgi.input"].seek(0)
    return ApiCall(service, region, access_key, request, operation, path_parameters)


class Endpoint:
    """A WSGI application in front of moto.

    `operations` answer in moto's place, by service and operation; `authorize` raises ServiceError for calls that
    IAM refuses; `routes` serve plain HTTP under a first path segment: (method, rest of path, headers, body) to
    (status, content type, body).
    """

    def __init__(self) -> None:
        self.operations: dict[str, Mapping[str, Operation]] = {}
        self.routes: dict[str, Callable[[str, str, WSGIEnvironment, bytes], tuple[int, bytes]]] = {}
        self.authorize: Callable[[ApiCall], None] = lambda call: None
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._server: BaseWSGIServer | None = None

    def start(self) -> int:
        """Listen on loopback, on a free port, and return the port."""
        self._server = make_server("127.0.0.1", 0, self, threaded=True, request_handler=_Handler)
        assert isinstance(self._server, socketserver.ThreadingMixIn)  # noqa: S101
        self._server.daemon_threads = True
        self._server.block_on_close = False
        threading.Thread(target=self._server.serve_forever, daemon=True, name="endpoint").start()
        return self._server.port

    def stop(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        first, _, rest = environ["PATH_INFO"].lstrip("/").partition("/")
        if first in self.routes:
            length = int(environ.get("CONTENT_LENGTH") or 0)
            body = environ["wsgi.input"].read(length)
            status, answer = self.routes[first](environ["REQUEST_METHOD"], rest, environ, body)
            return _respond(start_response, status, {"Content-Type": "application/json"}, answer)
        call = parse_call(environ)
        if call is None:
            return list(self._moto(environ, start_response))
        CURRENT_CALL.set(call)
        try:
            self.authorize(call)
            operation = self.operations.get(call.service, {}).get(call.name)
            result: object = operation(call.parameters) if operation else None
        except ServiceException as error:
            operation, result = _refuse, error
        if operation is None:
            return self._moto(environ, start_response)  # type: ignore[no-any-return]
        return _serialize(call, result, start_response)


def _refuse(request: dict[str, Any]) -> dict[str, Any]:
    raise AssertionError("never called: marks that the result is an error")


def _serialize(call: ApiCall, result: object, start_response: StartResponse) -> list[bytes]:
    model = get_service_model(call.service)
    serializer = get_serializer_class(model.service_name, call.protocol)(operation_model=call.operation)
    answer = serializer.serialize(result)
    body = answer["body"]
    content = body.encode() if isinstance(body, str) else bytes(body)
    return _respond(start_response, int(answer["status_code"]), dict(answer["headers"]), content)


def _respond(
    start_response: StartResponse, status: int, headers: Mapping[str, Any], body: bytes
) -> list[bytes]:
    fields = {key: str(value) for key, value in headers.items() if key.lower() != "content-length"}
    start_response(f"{status} -", [*fields.items(), ("Content-Length", str(len(body)))])
    return [body]


class _Handler(MotoRequestHandler):  # type: ignore[misc]  # moto is untyped
    protocol_version = "HTTP/1.1"

    def log(self, type: str, message: str, *args: Any) -> None:
        """No line per request on the terminal."""
