"""A proxy in front of a server that changes something, to show that the comparison sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from .wire import Answer, Request, Wire

Interference = Callable[[Request, Callable[[Request], Answer]], Answer]


@contextmanager
def proxy(port: int, interfere: Interference) -> Iterator[int]:
    """The port of a proxy to another port; `interfere` gets each request and what asks the server."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # an answer in one packet: the second of two would wait for the first to be acknowledged
        wbufsize = -1

        def setup(self) -> None:
            super().setup()
            self.wire = Wire(port)

        def handle(self) -> None:
            with suppress(ConnectionResetError):  # a client that ends its connection is no error here
                super().handle()

        def finish(self) -> None:
            self.wire.close()
            super().finish()

        def _handle(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            headers = {name: value for name, value in self.headers.items() if name != "Content-Length"}
            body = self.rfile.read(length) if length else None
            request = Request(method=self.command, path=self.path, headers=headers, body=body)
            answer = interfere(request, self.wire.send)
            self.send_response_only(answer.status)
            for name, value in answer.headers:
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.body)

        do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = do_OPTIONS = _handle

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def alters(find: bytes, put: bytes, *, path: str) -> Interference:
    """Changes one thing in the answers to a call."""

    def interfere(request: Request, send: Callable[[Request], Answer]) -> Answer:
        answer = send(request)
        if path in request.path:
            return replace(answer, body=answer.body.replace(find, put))
        return answer

    return interfere


def forgets(what: bytes, *, path: str) -> Interference:
    """Answers a call as if it had been done."""

    def interfere(request: Request, send: Callable[[Request], Answer]) -> Answer:
        if path in request.path and what in (request.body or b""):
            return Answer(status=200, headers=_HEADERS, body=b"{}")
        return send(request)

    return interfere


_HEADERS = (
    ("content-type", "application/json"),
    ("vary", "Origin"),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "SAMEORIGIN"),
)
