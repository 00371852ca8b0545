"""The HTTP side of a load balancer: which action a listener's rules choose, and forwarding without buffering."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

# what a proxy answers for itself: https://www.rfc-editor.org/rfc/rfc9110#section-7.6.1
_HOP_BY_HOP = {
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
}
_CHUNK_BYTES = 256 * 1024
# the idle timeout of an Application Load Balancer, seconds:
# https://docs.aws.amazon.com/elasticloadbalancing/latest/application/edit-load-balancer-attributes.html
_IDLE_TIMEOUT = 60


def open_session() -> aiohttp.ClientSession:
    """A client session for all targets: nothing is decoded, and a request may last as long as it moves."""
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=_IDLE_TIMEOUT)
    connector = aiohttp.TCPConnector(limit=0)
    return aiohttp.ClientSession(timeout=timeout, auto_decompress=False, connector=connector)


def fixed_response(config: Mapping[str, Any]) -> web.Response:
    """What a listener answers by itself."""
    return web.Response(
        status=int(config["StatusCode"]),
        text=config.get("MessageBody", ""),
        content_type=config.get("ContentType", "text/plain"),
    )


async def forward(
    session: aiohttp.ClientSession, target: str, request: web.BaseRequest, *, port: int
) -> web.StreamResponse:
    """Pass a request to a target's base URL and its answer back; `port` is the listener's."""
    headers = _end_to_end(request.headers)
    client = request.remote or "127.0.0.1"
    previous = request.headers.get("X-Forwarded-For")
    headers["X-Forwarded-For"] = f"{previous}, {client}" if previous else client
    headers["X-Forwarded-Proto"] = "http"
    headers["X-Forwarded-Port"] = str(port)
    body = request.content.iter_chunked(_CHUNK_BYTES) if request.can_read_body else None
    started = False
    try:
        async with session.request(
            request.method,
            URL(target + request.raw_path, encoded=True),
            headers=headers,
            data=body,
            allow_redirects=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        ) as answer:
            response = web.StreamResponse(
                status=answer.status, reason=answer.reason, headers=_end_to_end(answer.headers)
            )
            await response.prepare(request)
            started = True
            async for chunk in answer.content.iter_chunked(_CHUNK_BYTES):
                await response.write(chunk)
            await response.write_eof()
            return response
    except asyncio.TimeoutError:
        if started:
            raise
        return web.Response(status=504, text="504 Gateway Time-out")
    except aiohttp.ClientError:
        if started:  # the answer cannot be taken back: break the connection, as a balancer does
            raise
        return web.Response(status=502, text="502 Bad Gateway")


def _end_to_end(headers: Mapping[str, str]) -> CIMultiDict[str]:
    named = {name.strip().lower() for name in headers.get("Connection", "").split(",")}
    return CIMultiDict(
        (key, value) for key, value in headers.items() if key.lower() not in _HOP_BY_HOP | named
    )


def choose_action(listener: Any, request: web.BaseRequest) -> dict[str, Any]:
    """The action of the first of a listener's rules that a request meets, or else its default action."""
    numbered = [rule for rule in listener.rules.values() if rule.priority != "default"]
    for rule in sorted(numbered, key=lambda rule: int(rule.priority)):
        if all(_holds(condition, request) for condition in rule.conditions):
            return dict(rule.actions[-1].data)
    return dict(listener.default_actions[-1].data)


def _holds(condition: dict[str, Any], request: web.BaseRequest) -> bool:
    if condition["Field"] == "path-pattern":
        values = condition.get("PathPatternConfig", condition).get("Values", [])
        return any(fnmatchcase(request.path, value) for value in values)
    if condition["Field"] == "host-header":
        values = condition.get("HostHeaderConfig", condition).get("Values", [])
        host = request.headers.get("Host", "").split(":")[0].lower()
        return any(fnmatchcase(host, value.lower()) for value in values)
    return False
