"""The loopback endpoint of the embedded AWS: every API call enters here, on its way to a double or to moto."""

from __future__ import annotations

import io
import logging
import re
import socketserver
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote

from moto.core.exceptions import ServiceException
from moto.core.model import OperationModel
from moto.core.parse import PROTOCOL_PARSERS
from moto.core.request import Request as MotoRequest
from moto.core.request import determine_request_protocol
from moto.core.routing import get_service_router
from moto.core.serialize import get_serializer_class
from moto.core.utils import get_service_model
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.exceptions import NotFound
from werkzeug.serving import BaseWSGIServer, make_server

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment  # of Python 3.11

_log = logging.getLogger(__name__)
# the call that this thread answers
CURRENT_CALL: ContextVar[ApiCall] = ContextVar("CURRENT_CALL")
Operation = Callable[[dict[str, Any]], dict[str, Any]]
_STS_HOST = re.compile(r"sts(\.[a-z0-9-]+)?\.amazonaws\.com(\.cn)?(:\d+)?")
_SCOPE = re.compile(r"Credential=([^/]+)/\d+/([^/]+)/([^/]+)/aws4_request")


class ServiceError(ServiceException):
    """An error that a double answers with: AWS's code and message, and its HTTP status if not the usual one."""

    status: int | None = None


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


class UnknownOperation(Exception):
    """A request for an operation that botocore does not know; the arguments are its service and its access key."""


def parse_call(environ: WSGIEnvironment) -> ApiCall | None:
    """The API call of a request; None when it is not signed, nor for STS. Raises UnknownOperation."""
    query = parse_qs(environ.get("QUERY_STRING", ""))
    presigned = query.get("X-Amz-Credential", [""])[0]
    scope = _SCOPE.search(environ.get("HTTP_AUTHORIZATION") or f"Credential={unquote(presigned)}")
    access_key, region, service = scope.groups() if scope is not None else ("", "", "")
    if scope is None and "AWSAccessKeyId" in query:  # a URL of S3 presigned in the older way
        access_key, service = query["AWSAccessKeyId"][0], "s3"
    if service != "s3" or environ["REQUEST_METHOD"] == "POST":  # bodies of objects stay a stream
        length = int(environ.get("CONTENT_LENGTH") or 0)
        environ["wsgi.input"] = io.BytesIO(environ["wsgi.input"].read(length))
    request = MotoRequest(environ)
    if service != "s3":
        request.get_data()  # kept, so that it can be read again after the form was
    if _STS_HOST.fullmatch(request.host) or (not service and _for_sts(request)):
        service = "sts"  # which says itself what is wrong with a signature
    if not service:
        rewind(environ)
        return None
    service = {"elasticloadbalancing": "elbv2", "monitoring": "cloudwatch"}.get(service, service)
    try:
        operation, path_parameters = get_service_router(service).match(request)
    except NotFound:
        # some SDKs write the target's prefix in another way than botocore's models
        name = environ.get("HTTP_X_AMZ_TARGET", "").rpartition(".")[2]
        model = get_service_model(service)
        if name not in model.operation_names:
            raise UnknownOperation(service, access_key) from None
        operation, path_parameters = model.operation_model(name), {}
    finally:
        rewind(environ)
    return ApiCall(service, region, access_key, request, operation, path_parameters)


def _for_sts(request: MotoRequest) -> bool:
    """Whether an unsigned request is one that STS answers or refuses."""
    return bool(request.values.get("Version") == get_service_model("sts").api_version)


def rewind(environ: WSGIEnvironment) -> None:
    """Have a body that was read for a look read again."""
    if isinstance(environ["wsgi.input"], io.BytesIO):
        environ["wsgi.input"].seek(0)


class Endpoint:
    """A WSGI application in front of moto.

    `operations` answer in moto's place, by service and operation. `arrived` hears of every call first,
    `authorize` of those that may go on; both refuse with ServiceError. `restricted` tells whether an access
    key is one that `authorize` looks at. `written` hears of the S3 calls that moto has done. `routes` serve
    plain HTTP under a first path segment: (method, rest of the path, headers, body) to (status, JSON).
    """

    def __init__(self) -> None:
        self.operations: dict[str, Mapping[str, Operation]] = {}
        self.routes: dict[str, Callable[[str, str, WSGIEnvironment, bytes], tuple[int, bytes]]] = {}
        self.arrived: Callable[[ApiCall], None] = lambda call: None
        self.authorize: Callable[[ApiCall], None] = lambda call: None
        self.restricted: Callable[[str], bool] = lambda access_key: False
        self.written: Callable[[ApiCall], None] = lambda call: None
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
        try:
            call = parse_call(environ)
        except UnknownOperation as error:
            service, access_key = error.args
            if service == "sts":  # moto would take it for a request of S3
                return _serialize(_unknown(environ), _no_action(), start_response)
            if self.restricted(access_key):
                return _respond(start_response, 403, {}, b'{"__type": "AccessDeniedException"}')
            call = None
        if call is None:
            return list(self._moto(environ, start_response))
        CURRENT_CALL.set(call)
        try:
            self.arrived(call)
            self.authorize(call)
            operation = self.operations.get(call.service, {}).get(call.name)
            result: object = operation(call.parameters) if operation else None
        except ServiceException as error:
            operation, result = _refuse, error
        if operation is None:
            rewind(environ)
            try:
                done: Iterable[bytes] = self._moto(environ, start_response)
            except NotImplementedError as missing:
                refusal = ServiceError("NotImplemented", str(missing))
                refusal.status = 501  # which no SDK tries again
                return _serialize(call, refusal, start_response)
            if call.service == "s3":
                self.written(call)
            return done
        return _serialize(call, result, start_response)


def _unknown(environ: WSGIEnvironment) -> ApiCall:
    operation = get_service_model("sts").operation_model("GetCallerIdentity")  # any would do for an error
    return ApiCall("sts", "", "", MotoRequest(environ), operation, {})


def _no_action() -> ServiceError:
    error = ServiceError("InvalidAction", "Could not find operation for version 2011-06-15")
    error.status = 400
    return error


def _refuse(request: dict[str, Any]) -> dict[str, Any]:
    raise AssertionError("never called: marks that the result is an error")


def _serialize(call: ApiCall, result: object, start_response: StartResponse) -> list[bytes]:
    model = get_service_model(call.service)
    serializer = get_serializer_class(model.service_name, call.protocol)(operation_model=call.operation)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # not every service's model lists AccessDenied
        answer = serializer.serialize(result)
    body = answer["body"] or ""
    content = body.encode() if isinstance(body, str) else bytes(body)
    status = getattr(result, "status", None) or int(answer["status_code"])
    return _respond(start_response, status, dict(answer["headers"]), content)


def _respond(
    start_response: StartResponse, status: int, headers: Mapping[str, Any], body: bytes
) -> list[bytes]:
    fields = {key: str(value) for key, value in headers.items() if key.lower() != "content-length"}
    start_response(f"{status} -", [*fields.items(), ("Content-Length", str(len(body)))])
    return [body]


class _Handler(MotoRequestHandler):
    protocol_version = "HTTP/1.1"

    def log(self, type: str, message: str, *args: Any) -> None:
        """No line per request, but what went wrong inside."""
        if type == "error":
            _log.error(message, *args)
