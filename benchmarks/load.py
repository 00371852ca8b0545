"""Sends requests to a server and times them, at a small part of the CPU that the server needs for them.

A scenario makes sessions: generators that yield a request and are sent its answer. In a closed loop, every
connection goes through one session after the other. In an open loop requests arrive at a rate that does not depend
on how fast the server is: each is the next one of a session that is free, and its latency counts from when it was
due, whether or not a connection was free then.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from array import array
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

TIMEOUT_SECONDS = 120
"""MLflow's client waits as long for an answer (MLFLOW_HTTP_REQUEST_TIMEOUT)."""

RENEW_SECONDS = 300
"""An identity token holds for a quarter of an hour at most."""

UNREACHABLE, TIMED_OUT = 0, -1
"""Instead of a status: no connection, or one that broke; and no answer in time."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to send, and the name under which it is counted. `headers` end with a line break each."""

    name: str
    method: str
    path: str
    body: bytes = b""
    headers: str = "Content-Type: application/json\r\n"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The status and the body of an answer."""

    status: int
    body: bytes

    @property
    def good(self) -> bool:
        """Whether the server did what it was asked for."""
        return 200 <= self.status < 300


Session = Generator[Request, Answer, None]
Scenario = Callable[[], Session]


@dataclass(frozen=True, kw_only=True)
class Load:
    """What to send, how much of it, and where.

    Without `rate` (requests a second) it is a closed loop of so many `connections`; with it an open loop of at most
    so many, whose arrivals are at random or even intervals. `sign` makes headers, again and again.
    """

    port: int
    scenario: Scenario
    seconds: float
    connections: int
    rate: float | None = None
    arrivals: Literal["random", "even"] = "random"
    sign: Callable[[], Mapping[str, str]] | None = None
    host: str = "localhost"
    timeout: float = TIMEOUT_SECONDS


def run(load: Load) -> dict[str, Any]:
    """Send it all, wait for the last answer, and return counts, errors and latencies."""
    return asyncio.run(_Generator(load).run())


def percentile(ordered: list[float], share: float) -> float:
    """The smallest value that at least this share of the values do not exceed; 0 of none."""
    return ordered[max(0, math.ceil(len(ordered) * share) - 1)] if ordered else 0.0


class Record:
    """What came back."""

    def __init__(self) -> None:
        self._latencies: dict[str, array[float]] = {}
        self._errors: Counter[str] = Counter()
        self._example: dict[str, str] = {}

    def add(self, name: str, seconds: float, answer: Answer) -> None:
        """Count one request; one that failed has a latency as well."""
        self._latencies.setdefault(name, array("d")).append(seconds)
        if not answer.good:
            error = {UNREACHABLE: "unreachable", TIMED_OUT: "timed out"}.get(
                answer.status, str(answer.status)
            )
            self._errors[error] += 1
            self._example.setdefault(error, f"{name}: {answer.body[:200].decode(errors='replace')}")

    def summary(self, seconds: float) -> dict[str, Any]:
        """All requests together, and by name; latencies in milliseconds."""
        together = sorted(value for values in self._latencies.values() for value in values)
        failed = sum(self._errors.values())
        return {
            "seconds": round(seconds, 3),
            **_figures(together),
            "errors": failed,
            "throughput": round((len(together) - failed) / seconds, 2),
            "errors_by_status": dict(self._errors),
            "first_errors": self._example,
            "by_name": {name: _figures(sorted(values)) for name, values in self._latencies.items()},
        }


def _figures(ordered: list[float]) -> dict[str, Any]:
    shares = {"p50_ms": 0.5, "p95_ms": 0.95, "p99_ms": 0.99, "max_ms": 1}
    return {"requests": len(ordered)} | {
        name: round(percentile(ordered, share) * 1000, 3) for name, share in shares.items()
    }


class _Connection(asyncio.Protocol):
    """One connection, with one request on its way at most."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[Answer] | None = None
        self._received = bytearray()

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - for the type checker
        self._transport = transport

    async def send(self, content: bytes) -> Answer:
        if self._transport is None:
            return Answer(status=UNREACHABLE, body=b"not connected")
        loop = asyncio.get_running_loop()
        self._received.clear()
        self._waiter = loop.create_future()
        timer = loop.call_later(self._timeout, self._give_up)
        self._transport.write(content)
        try:
            return await self._waiter
        finally:
            timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._received += data
        found = _parse(self._received)
        if found is not None:
            answer, stays_open = found
            if not stays_open:
                self.close()
            self._settle(answer)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._settle(Answer(status=UNREACHABLE, body=repr(error or "closed").encode()))

    def _give_up(self) -> None:
        self._settle(Answer(status=TIMED_OUT, body=b""))
        self.close()

    def _settle(self, answer: Answer) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(answer)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


def _parse(received: bytearray) -> tuple[Answer, bool] | None:
    """The answer and whether the connection stays open; None when it is not complete."""
    end = received.find(b"\r\n\r\n")
    if end < 0:
        return None
    lines = bytes(received[:end]).lower().split(b"\r\n")
    headers = dict(line.split(b": ", 1) for line in lines[1:] if b": " in line)
    status = int(lines[0][9:12])
    if headers.get(b"transfer-encoding") == b"chunked":
        body = _unchunk(received, end + 4)
    else:
        length = int(headers.get(b"content-length", 0))
        body = bytes(received[end + 4 : end + 4 + length]) if len(received) >= end + 4 + length else None
    if body is None:
        return None
    return Answer(status=status, body=body), headers.get(b"connection") != b"close"


def _unchunk(received: bytearray, start: int) -> bytes | None:
    if not received.endswith(b"0\r\n\r\n"):  # spares reading a long body again at every piece of it
        return None
    parts: list[bytes] = []
    while True:
        end = received.find(b"\r\n", start)
        size = int(received[start:end].partition(b";")[0], 16) if end > 0 else -1
        if size < 0 or len(received) < end + 4 + size:
            return None
        if size == 0:
            return b"".join(parts)
        parts.append(bytes(received[end + 2 : end + 2 + size]))
        start = end + 4 + size


class _User:
    """A client in the middle of a session, with a connection that is kept alive."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._connection = _Connection(load.timeout)
        self._session = load.scenario()
        self._next = next(self._session)

    async def step(self, record: Record, signature: str, *, due: float) -> None:
        """The next request of the session, timed from when it was due."""
        request = self._next
        answer = await self._send(_content(self._load, request, signature))
        record.add(request.name, time.perf_counter() - due, answer)
        if answer.status == UNREACHABLE:
            await asyncio.sleep(0.05)
        try:
            self._next = self._session.send(answer)
        except StopIteration:
            self._session = self._load.scenario()
            self._next = next(self._session)

    async def _send(self, content: bytes) -> Answer:
        if not self._connection.is_open:  # the first request, or a server that closes idle connections
            try:
                _, self._connection = await asyncio.get_running_loop().create_connection(
                    lambda: _Connection(self._load.timeout), self._load.host, self._load.port
                )
            except OSError as error:
                return Answer(status=UNREACHABLE, body=str(error).encode())
        return await self._connection.send(content)

    def close(self) -> None:
        self._session.close()
        self._connection.close()


def _content(load: Load, request: Request, signature: str) -> bytes:
    length = f"Content-Length: {len(request.body)}\r\n{request.headers}" if request.body else ""
    head = f"{request.method} {request.path} HTTP/1.1\r\nHost: {load.host}:{load.port}\r\n{signature}{length}\r\n"
    return head.encode() + request.body


class _Generator:
    def __init__(self, load: Load) -> None:
        self._load = load
        self._record = Record()
        self._users: list[_User] = []
        self._signature = ""

    async def run(self) -> dict[str, Any]:
        renewing = asyncio.create_task(self._renew()) if self._load.sign else None
        await asyncio.sleep(0)  # lets it sign once
        started, cpu = time.perf_counter(), time.process_time()
        await (self._closed() if self._load.rate is None else self._open(self._load.rate))
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        if renewing:
            renewing.cancel()
        for user in self._users:
            user.close()
        summary = self._record.summary(seconds)
        return summary | {"generator_cpu_ms": round(cpu / max(1, summary["requests"]) * 1000, 4)}

    async def _renew(self) -> None:
        while self._load.sign:
            self._signature = "".join(f"{name}: {value}\r\n" for name, value in self._load.sign().items())
            await asyncio.sleep(RENEW_SECONDS)

    def _user(self) -> _User:
        user = _User(self._load)
        self._users.append(user)
        return user

    async def _closed(self) -> None:
        deadline = time.perf_counter() + self._load.seconds

        async def work(user: _User) -> None:
            while (now := time.perf_counter()) < deadline:
                await user.step(self._record, self._signature, due=now)

        await asyncio.gather(*(work(self._user()) for _ in range(self._load.connections)))

    async def _open(self, rate: float) -> None:
        free: deque[_User] = deque()
        waiting: deque[float] = deque()
        working: set[asyncio.Task[None]] = set()

        async def work(user: _User, due: float) -> None:
            await user.step(self._record, self._signature, due=due)
            while waiting:
                await user.step(self._record, self._signature, due=waiting.popleft())
            free.append(user)

        started = time.perf_counter()
        for after in _arrivals(rate, self._load.seconds, self._load.arrivals):
            due = started + after
            if (early := due - time.perf_counter()) > 0:
                await asyncio.sleep(early)
            if free or len(self._users) < self._load.connections:
                task = asyncio.create_task(work(free.popleft() if free else self._user(), due))
                working.add(task)
                task.add_done_callback(working.discard)
            else:
                waiting.append(due)
        while working:
            await asyncio.wait(working)


def _arrivals(rate: float, seconds: float, kind: Literal["random", "even"]) -> Iterator[float]:
    """Seconds from the start to each arrival: a Poisson process, or even intervals."""
    chance = random.Random(0)  # noqa: S311 - the same arrivals for everyone
    after = 0.0
    while after < seconds:
        yield after
        after += chance.expovariate(rate) if kind == "random" else 1 / rate
