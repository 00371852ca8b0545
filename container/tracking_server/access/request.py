"""A request as the gate sees it: only what decides, each of it once."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable
from dataclasses import dataclass

from starlette.types import Scope

from tracking_server.access.caller import Caller
from tracking_server.access.errors import BadRequest

_ADDRESS = re.compile(r"[0-9A-Fa-f.:]{2,45}")
_PORT = re.compile(r":[0-9]*\Z")
_REQUEST_ID = re.compile(r"[A-Za-z0-9=;:._-]{1,128}")

# headers that decide something here and must therefore stand once
_SINGLE = frozenset({b"host", b"authorization", b"origin", b"sec-fetch-site", b"content-length"})
_KEPT = _SINGLE | {b"cookie", b"x-forwarded-for", b"x-amzn-trace-id", b"accept"}


class Request:
    """The method, path and headers of an HTTP scope; `address` is the client's, as the outermost trusted proxy saw it.

    `proxies` is how many trusted proxies append to X-Forwarded-For. Raises BadRequest where a header that
    decides stands twice.
    """

    __slots__ = ("_headers", "address", "method", "path")

    def __init__(self, scope: Scope, *, proxies: int) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        if scope.get("root_path"):  # frameworks take it off before they route, and nothing here sets it
            raise BadRequest("there is no root path")
        headers: dict[bytes, bytes] = {}
        for name, value in scope["headers"]:
            if name not in _KEPT:
                continue
            if name not in headers:
                headers[name] = value
            elif name in _SINGLE:
                raise BadRequest(f"the header {name.decode()} stands twice")
            else:
                headers[name] += (b"; " if name == b"cookie" else b", ") + value
        self._headers = headers
        self.address: str = _address(scope, headers.get(b"x-forwarded-for", b""), proxies)

    def header(self, name: str) -> str:
        """The value of a header, empty if it is not there."""
        return self._headers.get(name.encode(), b"").decode("latin-1")

    @property
    def host(self) -> str:
        """The host name that the client used, in lower case and without port."""
        value = self.header("host").lower()
        if value.startswith("["):
            return value[1:].partition("]")[0]
        return _PORT.sub("", value)

    @property
    def id(self) -> str:
        """What the balancer calls this request, or a name of its own."""
        given = self.header("x-amzn-trace-id")
        return given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex

    def cookies(self, name: str) -> list[str]:
        """The values of every cookie of this name."""
        pairs = (part.strip().partition("=") for part in self.header("cookie").split(";"))
        return [value for key, _, value in pairs if key == name]

    @property
    def wants_page(self) -> bool:
        """Whether a person's browser opens a page."""
        return self.method == "GET" and "text/html" in self.header("accept")


def _address(scope: Scope, forwarded: bytes, proxies: int) -> str:
    if proxies:
        hops = forwarded.decode("latin-1").split(",")
        if len(hops) >= proxies and _ADDRESS.fullmatch(address := hops[-proxies].strip()):
            return address
    client = scope.get("client")
    return str(client[0]) if client else ""


def without_credentials(headers: Iterable[tuple[bytes, bytes]], cookie: str) -> list[tuple[bytes, bytes]]:
    """Headers as MLflow may see them.

    The token and the session stay here. Names with an underscore are dropped, as load balancers do: WSGI cannot
    tell them from names with a hyphen.
    """
    kept = []
    for name, value in headers:
        if name == b"authorization" or b"_" in name:
            continue
        if name == b"cookie":
            value = b"; ".join(
                part.strip()
                for part in value.split(b";")
                if part.strip().partition(b"=")[0] != cookie.encode()
            )
            if not value:
                continue
        kept.append((name, value))
    return kept


@dataclass(kw_only=True)
class Passage:
    """What is known of a request so far: who, how proved, which actions it needs, whether they administer users."""

    request: Request
    caller: Caller | None = None
    via: str = ""
    actions: tuple[str, ...] = ()
    administers: bool = False
