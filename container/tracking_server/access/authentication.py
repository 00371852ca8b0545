"""Who calls: proofs are checked once and remembered until they expire, in bounded memory."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import anyio
import anyio.to_thread
from cachetools import TLRUCache, TTLCache

from tracking_server.access.errors import TooManyRequests, Unauthenticated, Unavailable
from tracking_server.access.proof import Proof, Prover

MAX_PROOFS = 10_000
MAX_REFUSALS = 10_000
MAX_ADDRESSES = 10_000

REFUSAL_SECONDS = 60
"""How long a token that AWS refused is refused without asking again."""

PATIENCE_SECONDS = 10.0
"""How long a request waits at most for AWS to confirm an identity."""

CONCURRENT_PROOFS = 16

# an unauthenticated caller can make the server ask STS: so many times at once, then so many a second
FAILURES_AT_ONCE, FAILURES_A_SECOND = 60, 2.0

T = TypeVar("T")


class SingleFlight(Generic[T]):
    """Has one caller do a piece of work for all who want the same at the same time."""

    def __init__(self) -> None:
        self._flights: dict[object, asyncio.Future[T]] = {}

    async def do(self, key: object, work: Callable[[], Awaitable[T]]) -> T:
        """The result of `work`, or of the one for `key` that is under way."""
        flight = self._flights.get(key)
        if flight is None:
            # a task of its own: the request that began it may go away, the others still wait for it
            flight = asyncio.ensure_future(work())
            self._flights[key] = flight
            flight.add_done_callback(lambda done: self._land(key, done))
        return await asyncio.shield(flight)

    def _land(self, key: object, flight: asyncio.Future[T]) -> None:
        del self._flights[key]
        if not flight.cancelled():
            flight.exception()  # every waiter may have gone away, and an exception that nobody sees is logged

    def __len__(self) -> int:
        return len(self._flights)


class Throttle:
    """Counts failed proofs by source address: a bucket that each failure takes from and that time refills."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        refilled = FAILURES_AT_ONCE / FAILURES_A_SECOND
        self._buckets: TTLCache[str, tuple[float, float]] = TTLCache(MAX_ADDRESSES, refilled, timer=now)

    def check(self, address: str) -> None:
        """Raises TooManyRequests when there were too many failures."""
        if self._left(address) < 1:
            raise TooManyRequests("too many failed proofs of identity from this address; wait a moment")

    def take(self, address: str) -> None:
        """Count an attempt. Raises TooManyRequests when there were too many."""
        self.check(address)
        self._buckets[address] = (self._left(address) - 1, self._now())

    def give_back(self, address: str) -> None:
        """The attempt was a good one."""
        self._buckets[address] = (min(self._left(address) + 1, FAILURES_AT_ONCE), self._now())

    def _left(self, address: str) -> float:
        left, at = self._buckets.get(address, (float(FAILURES_AT_ONCE), self._now()))
        return min(left + (self._now() - at) * FAILURES_A_SECOND, float(FAILURES_AT_ONCE))


class Authentication:
    """Turns what stands behind `Bearer` into a proved caller, by the first of `provers` that recognises it."""

    def __init__(self, provers: Sequence[Prover]) -> None:
        self._provers = tuple(provers)
        self._proofs: TLRUCache[bytes, Proof] = TLRUCache(
            MAX_PROOFS, ttu=lambda _, proof, __: proof.expires_at, timer=time.time
        )
        self._refusals: TTLCache[bytes, str] = TTLCache(MAX_REFUSALS, REFUSAL_SECONDS)
        self._flights: SingleFlight[Proof] = SingleFlight()
        self._throttle = Throttle()
        self._limiter: anyio.CapacityLimiter | None = None
        self._threads: anyio.CapacityLimiter | None = None
        self._generation = 0

    async def prove(self, text: str, *, address: str) -> tuple[Proof, str]:
        """The caller whom `text` proves, and the name of the way. Raises Refused.

        Only the digest of `text` is kept. A refusal is remembered for a minute when AWS has refused; that AWS
        could not be asked is not remembered at all.
        """
        prover = next((prover for prover in self._provers if prover.recognises(text)), None)
        if prover is None:
            raise Unauthenticated("the Authorization header holds no token of a kind that this server takes")
        key = hashlib.sha256(text.encode()).digest()
        if (proof := self._proofs.get(key)) is not None:
            return proof, prover.via
        if (reason := self._refusals.get(key)) is not None:
            raise Unauthenticated(reason)
        # what was asked before all was to be forgotten is no answer to who comes after
        flight = (self._generation, key)
        proof = await self._flights.do(flight, functools.partial(self._ask, prover, text, key, address))
        return proof, prover.via

    async def _ask(self, prover: Prover, text: str, key: bytes, address: str) -> Proof:
        self._throttle.check(address)
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(CONCURRENT_PROOFS)
            self._threads = anyio.CapacityLimiter(CONCURRENT_PROOFS)
        generation = self._generation
        try:
            with anyio.fail_after(PATIENCE_SECONDS):
                async with self._limiter:
                    # only now: of a crowd behind one address, those who wait for their turn have not failed
                    self._throttle.take(address)
                    proof = await anyio.to_thread.run_sync(
                        prover.prove, text, limiter=self._threads, abandon_on_cancel=True
                    )
        except TimeoutError:
            raise Unavailable("AWS did not confirm in time who calls; try again") from None
        except Unauthenticated as error:
            self._refusals[key] = error.message
            raise
        self._throttle.give_back(address)
        if generation == self._generation:
            self._proofs[key] = proof
        return proof

    def forget(self) -> None:
        """Ask again for everyone; what is being asked just now is not remembered."""
        self._generation += 1
        self._proofs.clear()
        self._refusals.clear()

    def __len__(self) -> int:
        return len(self._proofs) + len(self._refusals) + len(self._flights)
