"""The load generator against a server whose answers are known, and the documents against the results."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from benchmarks import performance_document, versus_stock
from benchmarks.load import TIMED_OUT, UNREACHABLE, Answer, Load, Record, Request, Session, percentile, run
from benchmarks.more_scenarios import PAGES
from benchmarks.scenarios import MIX, Mix, Seeded
from local.database import free_port


@dataclass
class TinyServer:
    """Answers by the path: /slow after 100 ms, /bad with 500, /pieces in chunks, /last closes, /mute never."""

    port: int
    seen: Counter[str] = field(default_factory=Counter)
    connections: int = 0
    headers: list[str] = field(default_factory=list)
    working: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while line := await reader.readline():
            path = line.split()[1].decode()
            length = 0
            while (header := (await reader.readline()).decode().strip()) != "":
                self.headers.append(header)
                if header.lower().startswith("content-length"):
                    length = int(header.split(":")[1])
            body = await reader.readexactly(length)
            self.seen[path] += 1
            if path == "/mute":
                continue
            if path == "/slow":
                async with self.working:  # one after the other
                    await asyncio.sleep(0.1)
            writer.write(_answer(path, body))
            if path == "/last":
                break
        writer.close()


def _answer(path: str, body: bytes) -> bytes:
    status = "500 Internal" if path == "/bad" else "200 OK"
    if path == "/pieces":
        return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n6\r\nsecond\r\n0\r\n\r\n"
    closing = "Connection: close\r\n" if path == "/last" else ""
    return f"HTTP/1.1 {status}\r\n{closing}Content-Length: {len(body)}\r\n\r\n".encode() + body


@pytest.fixture
def server() -> Iterator[TinyServer]:
    loop = asyncio.new_event_loop()
    tiny = TinyServer(port=free_port())
    loop.run_until_complete(asyncio.start_server(tiny.serve, "localhost", tiny.port))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield tiny
    loop.call_soon_threadsafe(loop.stop)
    thread.join()


def repeat(*paths: str, body: bytes = b"") -> Session:
    for path in paths:
        yield Request(name=path, method="POST", path=path, body=body)


def load(server: TinyServer, *paths: str, **how: object) -> dict[str, object]:
    defaults: dict[str, object] = {"seconds": 0.3, "connections": 2}
    return run(Load(port=server.port, scenario=lambda: repeat(*paths), **(defaults | how)))  # type: ignore[arg-type]


def test_counts_what_it_sends(server: TinyServer) -> None:
    found = load(server, "/a", "/b")
    assert found["requests"] == server.seen.total() > 20
    assert {name: figures["requests"] for name, figures in found["by_name"].items()} == dict(server.seen)  # type: ignore[attr-defined]
    assert abs(server.seen["/a"] - server.seen["/b"]) <= 2  # a session for each connection is cut off
    assert found["errors"] == 0
    assert server.connections == 2, "connections are kept alive"


def test_counts_errors_by_status(server: TinyServer) -> None:
    found = load(server, "/a", "/bad")
    assert found["errors"] == found["errors_by_status"]["500"] == server.seen["/bad"]  # type: ignore[index]
    good = server.seen["/a"]
    assert found["throughput"] == pytest.approx(good / found["seconds"], rel=0.02)  # type: ignore[operator]


def test_no_server_is_an_error() -> None:
    found = run(Load(port=free_port(), scenario=lambda: repeat("/a"), seconds=0.1, connections=1))
    assert found["errors"] == found["requests"] == found["errors_by_status"]["unreachable"] > 0


def test_gives_up_in_time(server: TinyServer) -> None:
    found = load(server, "/mute", timeout=0.2)
    assert found["errors_by_status"] == {"timed out": found["requests"]}


def test_opens_a_connection_that_was_closed_again(server: TinyServer) -> None:
    found = load(server, "/last")
    assert found["errors"] == 0
    assert server.connections == found["requests"]


def test_reads_bodies_whole(server: TinyServer) -> None:
    bodies = []

    def session() -> Session:
        bodies.append((yield Request(name="", method="GET", path="/pieces")).body)
        bodies.append((yield Request(name="", method="PUT", path="/large", body=b"x" * 500_000)).body)

    run(Load(port=server.port, scenario=session, seconds=0.1, connections=1))
    assert bodies[:2] == [b"firstsecond", b"x" * 500_000]


def test_signs_requests(server: TinyServer) -> None:
    load(server, "/a", sign=lambda: {"Authorization": "Bearer it"})
    assert server.headers.count("Authorization: Bearer it") == server.seen["/a"]


def test_open_loop_keeps_its_rate(server: TinyServer) -> None:
    found = load(server, "/a", rate=100, arrivals="even", seconds=0.5)
    assert found["requests"] == 50


def test_random_arrivals_have_the_rate_on_average(server: TinyServer) -> None:
    found = load(server, "/a", rate=1000, seconds=1, connections=50)
    assert found["requests"] == pytest.approx(1000, rel=0.12)


def test_open_loop_counts_from_when_a_request_was_due(server: TinyServer) -> None:
    """A server that does 10 a second is sent 20: whoever comes after a second has waited for half of it."""
    for connections in (1, 50):  # whether the request waits here or there
        found = load(server, "/slow", rate=20, arrivals="even", seconds=1, connections=connections)
        assert found["requests"] == 20
        assert found["max_ms"] == pytest.approx(1050, rel=0.25)
        assert found["p50_ms"] == pytest.approx(575, rel=0.25)


def test_percentiles_are_the_nearest_rank() -> None:
    values = [float(value) for value in range(1, 101)]
    assert [percentile(values, share) for share in (0.5, 0.95, 0.99, 1)] == [50, 95, 99, 100]
    assert percentile([3.0], 0.99) == 3
    assert percentile([], 0.5) == 0


def test_a_failed_request_has_a_latency() -> None:
    record = Record()
    for status in (200, 400, UNREACHABLE, TIMED_OUT):
        record.add("a", 1.0, Answer(status=status, body=b"why"))
    summary = record.summary(2)
    assert (summary["requests"], summary["errors"], summary["throughput"]) == (4, 3, 0.5)
    assert summary["errors_by_status"] == {"400": 1, "unreachable": 1, "timed out": 1}
    assert summary["first_errors"]["400"] == "a: why"


def test_the_mix_has_twelve_requests() -> None:
    session = Mix(seeded=Seeded(searched="1", logged="2", run="r", artifacts="s3://a"))()
    names = Counter([next(session).name])
    answer = Answer(status=200, body=b'{"run": {"info": {"run_id": "r"}}}')
    while True:
        try:
            names[session.send(answer).name] += 1
        except StopIteration:
            break
    assert dict(names) == MIX
    assert names.total() == 12


def test_pages_are_what_a_browser_asks_for() -> None:
    assert set(PAGES) == {"experiment page", "run page"}
    paths = {request["path"] for page in PAGES.values() for request in page}
    assert "/" in paths
    assert all(path == "/" or path.startswith(("/ajax-api/", "/graphql")) for path in paths)


def test_ratios_are_of_the_same_round() -> None:
    def measured(cpu: float, p99: float) -> dict[str, object]:
        return {
            "cpu_ms": cpu, "throughput": 10 / cpu, "p50_ms": 1.0, "p95_ms": 1.0, "p99_ms": p99,
            "requests": 5, "errors": 0, "errors_by_status": {}, "generator_cpu_ms": 0.1,
        }  # fmt: skip

    rounds = [
        {"stock": measured(20, 100), "kit": measured(2, 20)},
        {"stock": measured(40, 300), "kit": measured(5, 30)},
        {"stock": measured(20, 100), "kit": measured(1, 50)},
    ]
    found = versus_stock.summary({"32": rounds})  # type: ignore[dict-item]
    assert found["32"]["kit"]["cpu_ratio"] == 10  # of 10, 8 and 20
    assert found["32"]["kit"]["p99_ratio"] == 0.2  # of 0.2, 0.1 and 0.5
    assert found["32"]["stock"]["cpu_ratio"] == 1
    assert versus_stock.headline(found) == {"kit_cpu_ratio": 10, "kit_p99_at_32_ratio": 0.2}


def test_the_document_has_the_newest_figures() -> None:
    text = performance_document.PAGE.read_text()
    assert performance_document.page(text) == text, "run `make docs`"


def test_the_pictures_are_of_the_newest_figures() -> None:
    for path, content in performance_document.pictures().items():
        assert path.read_text() == content, "run `make docs`"
