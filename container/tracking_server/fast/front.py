"""The ASGI application that answers the fast calls, and hands everything else on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tracking_server.fast.calls import Answer
from tracking_server.fast.transactions import Unusual

logger = logging.getLogger(__name__)

MAX_BODY = 4 * 1024 * 1024
"""A larger body, in bytes, is for MLflow's handlers: a batch of 1,000 short metrics has 100 kB."""


class FastFront:
    """Answers what is in the table of calls, unless it is Unusual; `app` answers all else."""

    def __init__(self, app: ASGIApp, *, calls: Mapping[tuple[str, str], Answer], threads: int) -> None:
        self._app = app
        self._calls = calls
        # its threads are started by the first calls, and so by each server process for itself
        self._executor = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="fast")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = self._calls.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if answer is None:
            await self._app(scope, receive, send)
        else:
            await self._fast(answer, scope, receive, send)

    async def _fast(self, answer: Answer, scope: Scope, receive: Receive, send: Send) -> None:
        read: list[Message] = []
        try:
            if scope["method"] == "GET":
                sent = scope["query_string"]
            else:
                _check_headers(scope)
                sent = await _body(receive, read)
            content = await asyncio.get_running_loop().run_in_executor(self._executor, answer, sent)
        except Unusual:
            await self._app(scope, _replay(read, receive), send)
            return
        except Exception:
            logger.exception("a fast call has failed; MLflow's own handler does it")
            await self._app(scope, _replay(read, receive), send)
            return
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})


def _check_headers(scope: Scope) -> None:
    """Raises Unusual unless the body is JSON as it stands."""
    is_json = False
    for name, value in scope["headers"]:
        if name == b"content-type":
            is_json = value.partition(b";")[0] == b"application/json"
        elif name == b"content-encoding":
            raise Unusual("encoded")
    if not is_json or scope["query_string"]:
        raise Unusual("not JSON")


async def _body(receive: Receive, read: list[Message]) -> bytes:
    """The whole body, whose messages are kept in `read`. Raises Unusual when it is large."""
    size = 0
    while True:
        message = await receive()
        read.append(message)
        if message["type"] != "http.request":
            raise Unusual("the client has gone")
        size += len(message.get("body", b""))
        if size > MAX_BODY:
            raise Unusual("large")
        if not message.get("more_body", False):
            break
    return read[0].get("body", b"") if len(read) == 1 else b"".join(m.get("body", b"") for m in read)


def _replay(read: list[Message], receive: Receive) -> Receive:
    """Receive what was read once more, and then what comes."""
    waiting = iter(read)

    async def replaying() -> Message:
        for message in waiting:
            return message
        return await receive()

    return replaying
