"""How large a request may be: a body that MLflow holds in memory as a whole must fit there."""

from __future__ import annotations

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY = 32 * 1024 * 1024
"""Bytes of a request that is no artifact. A batch of 1,000 metrics has 100 kB; a trace with long texts some MB."""

STREAMED = ("/api/2.0/mlflow-artifacts/artifacts/", "/ajax-api/2.0/mlflow-artifacts/artifacts/")
"""Bodies that go on to S3 in parts, and so may have any size."""


class _TooLarge(Exception):
    """Raised where the body is read."""


class BodyLimit:
    """Refuses a larger body with 413: at once where its length is told, else when that much has come."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or (scope["method"] == "PUT" and scope["path"].startswith(STREAMED)):
            await self._app(scope, receive, send)
            return
        length = next((value for name, value in scope["headers"] if name == b"content-length"), None)
        if length is not None:  # the server has checked that it is a number, and that the body is not longer
            if int(length) > MAX_BODY:
                await _refuse(scope, receive, send)
            else:
                await self._app(scope, receive, send)
            return
        await self._count(scope, receive, send)

    async def _count(self, scope: Scope, receive: Receive, send: Send) -> None:
        size, refused = 0, False

        async def counting() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > MAX_BODY:
                raise _TooLarge
            return message

        async def sending(message: Message) -> None:
            nonlocal refused
            if size <= MAX_BODY:
                await send(message)
            elif not refused:  # whatever the application makes of _TooLarge
                refused = True
                await _refuse(scope, receive, send)

        try:
            await self._app(scope, counting, sending)
        except _TooLarge:
            await sending({"type": "http.response.start"})


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    message = (
        f"The body is larger than {MAX_BODY // 1024**2} MiB. Log in several requests, or as an artifact."
    )
    answer = JSONResponse(
        {"error_code": "INVALID_PARAMETER_VALUE", "message": message},
        status_code=413,
        headers={"Connection": "close"},  # the rest of the body is not read
    )
    await answer(scope, receive, send)
