"""Requests and answers, byte for byte."""

from __future__ import annotations

import http.client
import re
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Request:
    """One HTTP request."""

    method: str
    path: str
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None

    def __str__(self) -> str:
        headers = "".join(f"\n  {name}: {value}" for name, value in self.headers.items())
        body = "" if self.body is None else f"\n  {shortened(self.body)!r}"
        return f"{self.method} {self.path}{headers}{body}"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a server has answered to a request."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def __str__(self) -> str:
        headers = "".join(f"\n  {name}: {value}" for name, value in self.headers)
        return f"{self.status}{headers}\n  {shortened(self.body)!r}"


_REPETITION = re.compile(rb"(.{1,12}?)\1{30,}", re.DOTALL)

OF_THE_MOMENT = frozenset({"date", "content-length", "connection"})
"""Headers that are not compared: the length is that of the body, which is."""


class Wire:
    """A connection to a server that is kept open; for one thread."""

    def __init__(self, port: int, *, timeout: float = 120) -> None:
        self._port = port
        self._timeout = timeout
        self._connection: http.client.HTTPConnection | None = None

    def send(self, request: Request) -> Answer:
        """The answer to a request. Raises OSError or HTTPException when there is none."""
        if self._connection is None:
            self._connection = http.client.HTTPConnection("localhost", self._port, timeout=self._timeout)
        try:
            self._connection.request(request.method, request.path, body=request.body, headers=request.headers)
            response = self._connection.getresponse()
            body = response.read()
        except BaseException:
            self.close()
            raise
        headers = ((name.lower(), value) for name, value in response.getheaders())
        kept = sorted(_header(*each) for each in headers if _is_compared(each[0], request))
        if response.will_close:
            self.close()
        return Answer(status=response.status, headers=tuple(kept), body=body)

    def close(self) -> None:
        """Close the connection; the next request opens one."""
        if self._connection:
            self._connection.close()
            self._connection = None


def _is_compared(name: str, request: Request) -> bool:
    # MLflow sends them to everybody; they mean something only in an answer to another origin's request
    is_idle = name.startswith("access-control-") and "Origin" not in request.headers
    return name not in OF_THE_MOMENT and not is_idle


def _header(name: str, value: str) -> tuple[str, str]:
    """A header; of a list of names (MLflow lists some twice) what is in it."""
    return name, ", ".join(sorted(set(value.split(", ")))) if name == "vary" else value


def shortened(value: bytes, longest: int = 3000) -> bytes:
    """A text for people: repetitions and what is beyond `longest` bytes left out."""
    value = _REPETITION.sub(lambda match: b"%s{%d}" % (match[1], len(match[0]) // len(match[1])), value)
    return value if len(value) <= longest else value[:longest] + b"... (%d bytes)" % len(value)
