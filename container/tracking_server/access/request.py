"""A request as the gate sees it: only what decides, each of it once."""

from __future__ import annotations

import itertools
import os
import re
import secrets
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


_OPAQUE = secrets.token_hex(8)
_NUMBERS = itertools.count()


class Request:
    """The method, path and headers of an HTTP scope.

    `address` is the client's, as the outermost of `proxies` trusted ones, which append to X-Forwarded-For, saw it.
    `passed` are the headers that MLflow may see: the token and the session cookie named `cookie` stay here, and names
    with an underscore are dropped, as load balancers do, since WSGI cannot tell them from names with a hyphen. Raises
    BadRequest where a header that decides stands twice.
    """

    __slots__ = ("_headers", "address", "method", "passed", "path")

    def __init__(self, scope: Scope, *, proxies: int, cookie: str) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        if scope.get("root_path"):  # frameworks take it off before they route, and nothing here sets it
            raise BadRequest("there is no root path")
        headers: dict[bytes, bytes] = {}
        passed: list[tuple[bytes, bytes]] = []
        for header in scope["headers"]:
            name, value = header
            if name in _KEPT:
                if name not in headers:
                    headers[name] = value
                elif name in _SINGLE:
                    raise BadRequest(f"the header {name.decode()} stands twice")
                else:
                    headers[name] += (b"; " if name == b"cookie" else b", ") + value
                if name == b"authorization":
                    continue
                if name == b"cookie":
                    if others := _without(cookie.encode(), value):
                        passed.append((name, others))
                    continue
            elif b"_" in name:
                continue
            passed.append(header)
        self._headers = headers
        self.passed = passed
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
        return (
            given
            if given and _REQUEST_ID.fullmatch(given)
            else f"{_OPAQUE}{os.getpid():x}-{next(_NUMBERS):x}"
        )

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


def _without(name: bytes, cookies: bytes) -> bytes:
    parts = (part.strip() for part in cookies.split(b";"))
    return b"; ".join(part for part in parts if part.partition(b"=")[0] != name)


@dataclass(kw_only=True)
class Passage:
    """What is known of a request so far: who, how proved, which actions it needs, whether they administer users."""

    request: Request
    caller: Caller | None = None
    via: str = ""
    actions: tuple[str, ...] = ()
    administers: bool = False
