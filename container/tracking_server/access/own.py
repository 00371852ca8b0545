"""The server's own routes under /iam: bearers, one-use links, sessions, who am I, forget."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Protocol

import anyio.to_thread
from starlette.responses import JSONResponse, Response
from starlette.types import Receive

from tracking_server.access.bearers import Bearers
from tracking_server.access.errors import BadRequest, Denied, Refused
from tracking_server.access.marks import Marks
from tracking_server.access.pages import logout_page, open_page
from tracking_server.access.permissions import Permissions
from tracking_server.access.request import Passage, Request
from tracking_server.access.sessions import Sessions
from tracking_server.access.signed import OPEN_SECONDS, SESSION_SECONDS

MAX_BODY_BYTES = 16 * 1024
PROOFS = frozenset({"token", "web-identity"})
NO_STORE = {"Cache-Control": "no-store"}


class Record(Protocol):
    """Writes a line of audit."""

    def __call__(self, passage: Passage, *, allowed: bool, status: int, reason: str) -> None: ...


class OwnRoutes:
    """Answers the routes under /iam. `origin` is what people are told the server is called."""

    def __init__(
        self,
        *,
        bearers: Bearers,
        sessions: Sessions,
        marks: Marks,
        permissions: Permissions,
        origin: str,
        tracking_server_arn: str,
    ) -> None:
        self._bearers = bearers
        self._sessions = sessions
        self._marks = marks
        self._permissions = permissions
        self._origin = origin
        self._arn = tracking_server_arn
        self._routes: dict[tuple[str, str], Callable[[Passage, Receive], Any]] = {
            ("POST", "/iam/token"): self._token,
            ("POST", "/iam/presigned-url"): self._presigned_url,
            ("GET", "/iam/whoami"): self._who_am_i,
            ("POST", "/iam/flush"): self._flush,
        }

    async def answer(self, passage: Passage, receive: Receive) -> Response | None:
        """The answer to an authorised request; None for a route of MLflow's. Raises Refused."""
        request = passage.request
        handler = self._routes.get((request.method, request.path))
        return None if handler is None else await handler(passage, receive)

    async def answer_public(self, request: Request, receive: Receive, record: Record) -> Response | None:
        """The answer to a request of someone not yet known; None for a route of MLflow's. Raises Refused."""
        match request.method, request.path:
            case (("GET" | "HEAD"), "/iam/open"):
                return open_page()
            case (("GET" | "HEAD"), "/iam/logout"):
                return logout_page()
            case "POST", "/iam/session":
                return await self._open_session(request, receive, record)
            case "POST", "/iam/logout":
                return await self._log_out(request, record)
        return None

    async def _token(self, passage: Passage, receive: Receive) -> Response:
        self._require_proof(passage)
        assert passage.caller is not None  # noqa: S101 - the route is not public
        bearer, seconds = self._bearers.make(passage.caller)
        content = {"access_token": bearer, "token_type": "Bearer", "expires_in": seconds}
        return JSONResponse(content, headers=NO_STORE)

    async def _presigned_url(self, passage: Passage, receive: Receive) -> Response:
        self._require_proof(passage)
        assert passage.caller is not None  # noqa: S101 - the route is not public
        body = await _read_json(receive)
        token = self._sessions.link(
            passage.caller,
            seconds=_number(body, "expires_in_seconds", OPEN_SECONDS.stop - 1),
            session_seconds=_number(body, "session_expiration_duration_in_seconds", SESSION_SECONDS.stop - 1),
        )
        return JSONResponse({"authorized_url": f"{self._origin}/iam/open#{token}"}, headers=NO_STORE)

    async def _who_am_i(self, passage: Passage, receive: Receive) -> Response:
        caller = passage.caller
        assert caller is not None  # noqa: S101 - the route is not public
        grants = await self._permissions.of(caller, address=passage.request.address)
        return JSONResponse(
            {
                "arn": caller.arn,
                "account": caller.account,
                "unique_id": caller.unique_id,
                "principal": caller.kind,
                "name": caller.name,
                "session": caller.session,
                "via": passage.via,
                "tracking_server_arn": self._arn,
                "engine": self._permissions.engine.name,
                "actions": sorted(grants.allowed),
            },
            headers=NO_STORE,
        )

    async def _flush(self, passage: Passage, receive: Receive) -> Response:
        await anyio.to_thread.run_sync(self._marks.flush)
        return JSONResponse({}, headers=NO_STORE)

    def _require_proof(self, passage: Passage) -> None:
        """A bearer or a session does not make another one, which would outlive the credentials for ever."""
        if passage.via not in PROOFS:
            raise Denied("this takes a proof of identity itself, not a bearer or a session made from one")

    async def _open_session(self, request: Request, receive: Receive, record: Record) -> Response:
        passage = Passage(request=request, via="link")
        self._sessions.refuse_other_sites(request)
        token = (await _read_json(receive)).get("token")
        if not isinstance(token, str):
            raise BadRequest('the body must be {"token": "…"}')
        link, cookie = await self._sessions.open(token)
        passage.caller = link.caller
        record(passage, allowed=True, status=204, reason="session opened")
        return Response(status_code=204, headers={"Set-Cookie": cookie, **NO_STORE})

    async def _log_out(self, request: Request, record: Record) -> Response:
        try:
            ticket, cookie = await self._sessions.end(request)
        except Refused as error:
            if error.status != 401:
                raise
            ticket, cookie = None, self._sessions.removed  # it has ended already
        if ticket is not None:
            passage = Passage(request=request, via="session", caller=ticket.caller)
            record(passage, allowed=True, status=200, reason="session ended")
        page = logout_page(done=True)
        page.headers["Set-Cookie"] = cookie
        return page


async def _read_json(receive: Receive) -> dict[str, object]:
    """The JSON object in a body, {} for none. Raises BadRequest."""
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            raise BadRequest(f"the body is larger than {MAX_BODY_BYTES} bytes")
        if message["type"] == "http.disconnect" or not message.get("more_body"):
            break
    try:
        content = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        raise BadRequest("the body is no JSON") from None
    if not isinstance(content, dict):
        raise BadRequest("the body is no JSON object")
    return content


def _number(body: dict[str, object], name: str, default: int) -> int:
    value = body.get(name, default)
    if type(value) is not int:
        raise BadRequest(f"{name} must be a whole number")
    return value
