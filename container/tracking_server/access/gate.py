"""The gate: an ASGI layer outside all of MLflow, through which nothing passes that IAM does not allow."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Collection

import anyio
import anyio.to_thread
from sqlalchemy.exc import SQLAlchemyError
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from tracking_server.access.audit import Audit, Decision
from tracking_server.access.authentication import Authentication, SingleFlight
from tracking_server.access.current import ADMINISTERS, CALLER
from tracking_server.access.engines import ACCESS_UI, SERVICE
from tracking_server.access.errors import (
    Denied,
    NotFound,
    Refused,
    Unauthenticated,
    Unavailable,
)
from tracking_server.access.marks import Marks
from tracking_server.access.own import OwnRoutes
from tracking_server.access.pages import refusal_page
from tracking_server.access.permissions import Permissions
from tracking_server.access.request import Passage, Request
from tracking_server.access.routes import Routes
from tracking_server.access.sessions import Sessions

logger = logging.getLogger(__name__)

ADMINISTER = "UpdateUserAdmin"
"""Who may do this is an administrator of MLflow's own permissions too."""

FLUSH_CHECK_SECONDS = 1.0
FLUSH_BLIND_SECONDS = 60.0
"""How long the gate goes by what it knows while the database does not say whether all was to be forgotten."""

DRAINED_BYTES = 16 * 1024 * 1024
DRAIN_SECONDS = 10.0
"""How much of a refused upload is read: a client that is still sending would not see the refusal."""


class Gate:
    """Authenticates, authorises and audits every request, then hands it to MLflow without its credentials."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        routes: Routes,
        authentication: Authentication,
        permissions: Permissions,
        sessions: Sessions,
        own: OwnRoutes,
        marks: Marks,
        audit: Audit,
        tracking_server_arn: str,
        names: Collection[str],
        proxies: int,
    ) -> None:
        self._app = app
        self._routes = routes
        self._authentication = authentication
        self._permissions = permissions
        self._sessions = sessions
        self._own = own
        self._marks = marks
        self._audit = audit
        self._arn = tracking_server_arn
        self._names = frozenset(names)
        self._proxies = proxies
        self._flushed_at = 0
        self._flush_checked = float("-inf")
        self._flush_flight: SingleFlight[None] = SingleFlight()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection scope of ASGI."""
        if scope["type"] == "lifespan":
            self._audit.start()
            try:
                await self._app(scope, receive, send)
            finally:
                self._audit.close()
        elif scope["type"] == "http":
            await self._handle(scope, receive, send)
        elif scope["type"] == "websocket":  # MLflow has none
            await send({"type": "websocket.close", "code": 1008})

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        passage: Passage | None = None
        try:
            request = Request(scope, proxies=self._proxies, cookie=self._sessions.cookie)
            passage = Passage(request=request)
            answer = await self._admit(passage, receive)
        except Refused as error:
            await self._refuse(scope, receive, send, passage, error)
            return
        except SQLAlchemyError as error:
            logger.error("the database, which knows of links and ended sessions, does not answer: %s", error)
            unavailable = Unavailable("the database does not answer; try again")
            await self._refuse(scope, receive, send, passage, unavailable)
            return
        if answer is not None:
            await answer(scope, receive, send)
            return
        inner = dict(scope, headers=request.passed)
        CALLER.set(passage.caller)
        ADMINISTERS.set(passage.administers)
        await self._app(inner, receive, send)

    async def _admit(self, passage: Passage, receive: Receive) -> Response | None:
        """Return None when MLflow may answer, or the gate's own answer. Raises Refused."""
        request = passage.request
        if request.host not in self._names:
            raise Denied("Invalid Host header: this is no name of the server")
        rule = self._routes.find(request.method, request.path)
        if rule is not None and rule.decision == "public":
            return await self._own.answer_public(request, receive, self.record)
        await self._check_flush()
        await self._authenticate(passage)
        if rule is None:
            raise NotFound(f"the server has no {request.method} {request.path[:200]}")
        if rule.decision == "denied":
            raise Denied(f"{request.method} {request.path[:200]} is switched off on this server: {rule.why}")
        passage.actions = rule.actions
        if rule.decision == "action":
            await self._authorise(passage)
        self.record(passage, allowed=True, status=0, reason="")
        return await self._own.answer(passage, receive)

    async def _authenticate(self, passage: Passage) -> None:
        request = passage.request
        if authorization := request.header("authorization"):
            scheme, _, text = authorization.partition(" ")
            if scheme.lower() != "bearer":
                # what stands there may be a secret, and the reason is logged
                raise Unauthenticated(
                    "the Authorization header is of no scheme that this server takes: Bearer"
                )
            proof, passage.via = await self._authentication.prove(text.strip(), address=request.address)
            passage.caller = proof.caller
            return
        ticket = await self._sessions.read(request)
        if ticket is None:
            raise Unauthenticated(
                "no proof of identity: set MLFLOW_TRACKING_AUTH=aws-iam with the package mlflow-aws-iam "
                "installed, or open the server in a browser with `kit open`"
            )
        passage.caller, passage.via = ticket.caller, "session"

    async def _authorise(self, passage: Passage) -> None:
        caller = passage.caller
        assert caller is not None  # noqa: S101 - _authenticate() has set it
        grants = await self._permissions.of(caller, address=passage.request.address)
        passage.administers = ADMINISTER in grants.allowed
        for action in passage.actions:
            if action not in grants.allowed:
                because = (
                    "with an explicit deny in an identity-based policy"
                    if action in grants.explicitly_denied
                    else f"because no identity-based policy allows the {SERVICE}:{action} action"
                )
                raise Denied(
                    f"User: {caller.arn} is not authorized to perform: {SERVICE}:{action} "
                    f"on resource: {'*' if action == ACCESS_UI else self._arn} {because}"
                )

    async def _check_flush(self) -> None:
        """Forget everything when another task, or this one, was told to."""
        if time.monotonic() > self._flush_checked + FLUSH_CHECK_SECONDS:
            await self._flush_flight.do("flush", self._read_flush)

    async def _read_flush(self) -> None:
        try:
            flushed_at = await anyio.to_thread.run_sync(self._marks.flushed_at)
        except SQLAlchemyError as error:
            if time.monotonic() > self._flush_checked + FLUSH_BLIND_SECONDS:
                logger.error("the database does not say whether access was revoked: %s", error)
                raise Unavailable("the database does not say whether access was revoked; try again") from None
            return
        self._flush_checked = time.monotonic()
        if flushed_at != self._flushed_at:
            self._flushed_at = flushed_at
            self.forget()

    def forget(self) -> None:
        """Forget every identity and permission."""
        self._authentication.forget()
        self._permissions.forget()

    def record(self, passage: Passage, *, allowed: bool, status: int, reason: str) -> None:
        """Write a line of audit."""
        request = passage.request
        self._audit.write(
            Decision(
                time.time(),
                request.id,
                request.method,
                request.path,
                request.address,
                passage.caller,
                passage.via,
                passage.actions,
                self._arn,
                allowed,
                status,
                reason,
            )
        )

    async def _refuse(
        self, scope: Scope, receive: Receive, send: Send, passage: Passage | None, error: Refused
    ) -> None:
        headers = {"Cache-Control": "no-store"}
        if isinstance(error, Unauthenticated):
            headers["WWW-Authenticate"] = 'Bearer realm="mlflow-aws-iam"'
        if passage is not None:
            self.record(passage, allowed=False, status=error.status, reason=error.message)
            if passage.caller is not None:
                await drain(receive)
        if passage is not None and passage.request.wants_page:
            answer: Response = refusal_page(error, headers)
        else:
            content = json.dumps({"error_code": error.error_code, "message": error.message})
            answer = Response(content, error.status, headers, media_type="application/json")
        await answer(scope, receive, send)


async def drain(receive: Receive) -> None:
    """Read what a refused client is still sending, within limits."""
    left = DRAINED_BYTES
    with anyio.move_on_after(DRAIN_SECONDS):
        while left > 0:
            message = await receive()
            left -= len(message.get("body", b""))
            if message["type"] == "http.disconnect" or not message.get("more_body"):
                return
