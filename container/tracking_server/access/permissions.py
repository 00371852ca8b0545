"""What a caller may do: asked of an engine once in a while for all actions together, then a look into a set."""

from __future__ import annotations

import functools
import logging
import random
import time
from dataclasses import dataclass
from typing import Protocol

import anyio
import anyio.to_thread
from cachetools import LRUCache

from tracking_server.access.authentication import SingleFlight
from tracking_server.access.caller import Caller
from tracking_server.access.errors import Unavailable

logger = logging.getLogger(__name__)

MAX_CALLERS = 10_000
MAX_ALIKE = 1_000

FRESH_SECONDS = 300
"""A change of policy counts after this at the latest; the moment is spread so that not all are asked again at once."""

STALE_SECONDS = 900
"""While IAM throttles, what is known stays good for so long, and then nothing is allowed."""

PATIENCE_SECONDS = 20.0
CONCURRENT_QUESTIONS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Grants:
    """What an engine answered: actions without prefix. `by_call`: policies look at the session or the address too."""

    allowed: frozenset[str]
    explicitly_denied: frozenset[str] = frozenset()
    by_call: bool = False


class Throttled(Exception):
    """The engine was asked too often."""


class Engine(Protocol):
    """Decides for all actions of a caller at once. `name` is its name in the environment file."""

    name: str

    def ask(self, caller: Caller, *, address: str | None) -> Grants:
        """What the caller may do from `address`; or, without one, what holds for all sessions and addresses. Blocks.

        Raises Throttled, or Unavailable when it cannot tell.
        """


@dataclass(frozen=True, slots=True)
class _Known:
    grants: Grants
    asked_at: float
    fresh_until: float


class Permissions:
    """Remembers what an engine answered, by the unique id of a role or user, in bounded memory."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._known: LRUCache[tuple[str, str, str | None], _Known] = LRUCache(MAX_CALLERS)
        # what many callers may do alike is held once: an answer of IAM is 24 KB of names
        self._alike: LRUCache[Grants, Grants] = LRUCache(MAX_ALIKE)
        self._flights: SingleFlight[_Known] = SingleFlight()
        self._limiter: anyio.CapacityLimiter | None = None
        self._generation = 0

    async def of(self, caller: Caller, *, address: str) -> Grants:
        """What the caller may do now. Raises Unavailable."""
        grants = await self._of(caller, None)
        return await self._of(caller, address) if grants.by_call else grants

    async def _of(self, caller: Caller, address: str | None) -> Grants:
        key = _key(caller, address)
        known = self._known.get(key)
        if known is not None and time.monotonic() < known.fresh_until:
            return known.grants
        # what was asked before all was to be forgotten is no answer to who comes after
        flight = (self._generation, key)
        known = await self._flights.do(flight, functools.partial(self._ask, caller, address, known))
        return known.grants

    async def _ask(self, caller: Caller, address: str | None, known: _Known | None) -> _Known:
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(CONCURRENT_QUESTIONS)
        asked_at, generation = time.monotonic(), self._generation
        try:
            with anyio.fail_after(PATIENCE_SECONDS):
                grants = await anyio.to_thread.run_sync(
                    functools.partial(self.engine.ask, caller, address=address),
                    limiter=self._limiter,
                    abandon_on_cancel=True,
                )
        except Throttled:
            if known is not None and asked_at < known.asked_at + STALE_SECONDS:
                logger.warning("IAM throttles: %s keeps the permissions of a while ago", caller.arn)
                return known
            raise Unavailable("IAM throttles, so it cannot be told what is allowed; try again") from None
        except TimeoutError:
            raise Unavailable("IAM did not answer in time what is allowed; try again") from None
        grants = self._alike.setdefault(grants, grants)
        fresh = asked_at + FRESH_SECONDS * random.uniform(0.8, 1.0)  # noqa: S311 - no secret
        known = _Known(grants, asked_at, fresh)
        if generation == self._generation:
            self._known[_key(caller, address)] = known
        return known

    def forget(self) -> None:
        """Ask again for everyone; what is being asked just now is not remembered."""
        self._generation += 1
        self._known.clear()

    def __len__(self) -> int:
        return len(self._known) + len(self._flights)


def _key(caller: Caller, address: str | None) -> tuple[str, str, str | None]:
    return caller.unique_id, "" if address is None else caller.session, address
