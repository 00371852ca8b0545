"""Browser sessions: a signed cookie that ends with its time, or everywhere when its owner logs out."""

from __future__ import annotations

import anyio.to_thread
from cachetools import TTLCache

from tracking_server.access.caller import Caller
from tracking_server.access.errors import BadRequest, Denied, Unauthenticated
from tracking_server.access.marks import Marks
from tracking_server.access.request import Request
from tracking_server.access.signed import OPEN_SECONDS, SESSION_SECONDS, Signer, Ticket

REVOCATION_SECONDS = 2
"""How long after a logout another task may still take the session."""

MAX_SESSIONS = 10_000
SAFE_METHODS = frozenset({"GET", "HEAD"})


class Sessions:
    """Opens, reads and ends sessions. `secure`: the front speaks HTTPS, so cookies are kept to it."""

    def __init__(self, *, signer: Signer, marks: Marks, origins: frozenset[str], secure: bool) -> None:
        self._signer, self._marks = signer, marks
        self._origins, self._secure = origins, secure
        # a cookie of this prefix can be set by this host alone, over HTTPS, and goes to no other host:
        # https://developer.mozilla.org/en-US/docs/Web/HTTP/Reference/Headers/Set-Cookie#cookie_prefixes
        self.cookie = "__Host-mlflow-session" if secure else "mlflow-session"
        self._alive: TTLCache[str, bool] = TTLCache(MAX_SESSIONS, REVOCATION_SECONDS)

    def link(self, caller: Caller, *, seconds: int, session_seconds: int) -> str:
        """A token that opens a session for `caller` once. Raises BadRequest."""
        if seconds not in OPEN_SECONDS:
            raise BadRequest(
                f"expires_in_seconds must be from {OPEN_SECONDS.start} to {OPEN_SECONDS.stop - 1}"
            )
        if session_seconds not in SESSION_SECONDS:
            raise BadRequest(
                "session_expiration_duration_in_seconds must be "
                f"from {SESSION_SECONDS.start} to {SESSION_SECONDS.stop - 1}"
            )
        return self._signer.sign("open", caller, seconds=seconds, session_seconds=session_seconds)

    async def open(self, token: str) -> tuple[Ticket, str]:
        """Trade a link's token for a session: its ticket and the value of a Set-Cookie header."""
        link = self._signer.read("open", token)
        if not await anyio.to_thread.run_sync(lambda: self._marks.use(link.id, expires_at=link.expires_at)):
            raise Unauthenticated("this link was used already: each opens the server once")
        value = self._signer.sign("session", link.caller, seconds=link.session_seconds)
        return link, self._set_cookie(value, link.session_seconds)

    async def read(self, request: Request) -> Ticket | None:
        """The session of a request; None without a cookie. Raises Unauthenticated, or Denied across sites."""
        values = request.cookies(self.cookie)
        if not values:
            return None
        if len(values) > 1:
            raise Unauthenticated("the session cookie stands twice")
        ticket = self._signer.read("session", values[0])
        if await self._has_ended(ticket.id):
            raise Unauthenticated("this session was ended")
        self.refuse_other_sites(request)
        return ticket

    def refuse_other_sites(self, request: Request) -> None:
        """Raise Denied when a page of another site had the browser send this request.

        Reading counts too: MLflow lets every page on localhost read answers, and cookies ignore ports.
        """
        origin = request.header("origin")
        if request.method in SAFE_METHODS:
            same = not origin or origin in self._origins
        else:
            same = origin in self._origins if origin else request.header("sec-fetch-site") == "same-origin"
        if not same:
            raise Denied("a page of another site may not use this session")

    async def end(self, request: Request) -> tuple[Ticket | None, str]:
        """End the session of a request everywhere: its ticket and a Set-Cookie header that removes it."""
        ticket = await self.read(request)
        if ticket is not None:
            self._alive.pop(ticket.id, None)
            await anyio.to_thread.run_sync(lambda: self._marks.end(ticket.id, expires_at=ticket.expires_at))
        return ticket, self.removed

    @property
    def removed(self) -> str:
        """A Set-Cookie header that removes the cookie."""
        return self._set_cookie("", 0)

    async def _has_ended(self, identifier: str) -> bool:
        if identifier in self._alive:
            return False
        if await anyio.to_thread.run_sync(self._marks.has_ended, identifier):
            return True
        self._alive[identifier] = True
        return False

    def _set_cookie(self, value: str, seconds: int) -> str:
        secure = "; Secure" if self._secure else ""
        return f"{self.cookie}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}"
