"""Requests that no HTTP library writes, to the server itself and through a proxy: none reaches what it may not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import pytest
import requests
from guarded import Account, Guarded, bearer
from hostile import exchange, statuses
from proxy import proxy, serve
from server_process import Server

CREATE = "/api/2.0/mlflow/experiments/create"
_names = count(1)


@dataclass(kw_only=True)
class Way:
    """A way to the server, and what three callers send as proof: nobody, a reader, an administrator."""

    port: int
    server: Server
    guarded: Guarded
    proofs: dict[str, str]

    def experiments(self) -> int:
        """How many there are in the database."""
        return int(self.guarded.backend.admin("SELECT COUNT(*) FROM {db}.experiments")[0][0])

    def send(self, data: bytes) -> list[int]:
        """Send bytes; nothing may have been created by them. The statuses of the answers."""
        before = self.experiments()
        answer = exchange(self.port, data)
        assert self.experiments() == before, answer
        assert b'"experiment_id"' not in answer
        return statuses(answer)


@pytest.fixture(scope="module")
def server(guarded: Guarded) -> Server:
    return serve(guarded)


@pytest.fixture(scope="module", params=["direct", "proxy"])
def way(
    request: pytest.FixtureRequest,
    server: Server,
    guarded: Guarded,
    account: Account,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Way]:
    proofs = {"nobody": "X: y"}
    for name in ("Reader", "Admin"):
        proofs[name] = "Authorization: " + bearer(account.assume(name), server.url)["Authorization"]
    if request.param == "direct":
        yield Way(port=server.port, server=server, guarded=guarded, proofs=proofs)
        return
    with proxy(directory=tmp_path_factory.mktemp("nginx") / "run", ports=[server.port]) as running:
        yield Way(port=running.port, server=server, guarded=guarded, proofs=proofs)


def body() -> bytes:
    return json.dumps({"name": f"hostile-{next(_names)}"}).encode()


def post(proof: str, *lines: str, target: str = CREATE, method: str = "POST", version: str = "1.1") -> bytes:
    """A request that creates an experiment if it gets through."""
    content = body()
    head = [
        f"{method} {target} HTTP/{version}",
        *([] if any(line.lower().startswith("host") for line in lines) else ["Host: localhost:80"]),
        proof,
        "Content-Type: application/json",
        f"Content-Length: {len(content)}",
        *lines,
    ]
    return "\r\n".join([*head, "", ""]).encode("latin-1") + content


def get(proof: str, *lines: str, target: str = "/iam/whoami") -> bytes:
    hosts = [] if any(line.lower().startswith("host") for line in lines) else ["Host: localhost:80"]
    return "\r\n".join([f"GET {target} HTTP/1.1", *hosts, proof, *lines, "", ""]).encode("latin-1")


def test_the_request_itself_is_a_good_one(way: Way) -> None:
    before = way.experiments()
    assert statuses(exchange(way.port, post(way.proofs["Admin"]))) == [200]
    assert way.experiments() == before + 1
    assert way.send(post(way.proofs["Reader"])) == [403]
    assert way.send(post(way.proofs["nobody"])) == [401]


TARGETS = [
    f"/{CREATE}",
    f"{CREATE}/",
    f"{CREATE}//",
    f"{CREATE}/.",
    f"{CREATE};x",
    f"{CREATE}%3bx",
    f"{CREATE}%00",
    f"{CREATE}%20",
    f"{CREATE}%0a",
    f"{CREATE}%09",
    f"{CREATE}.json",
    f"{CREATE}?_method=GET",
    f"{CREATE}#/health",
    f"{CREATE}%23",
    f"{CREATE}%3f",
    f"{CREATE}\\",
    CREATE.upper(),
    CREATE.replace("create", "Create"),
    CREATE.replace("/experiments/", "//experiments/"),
    CREATE.replace("/experiments/", "/./experiments/"),
    CREATE.replace("/experiments/", "/%2e/experiments/"),
    CREATE.replace("/experiments/", "/runs/../experiments/"),
    CREATE.replace("/experiments/", "/runs/%2e%2e/experiments/"),
    CREATE.replace("/experiments/", "/runs/..%2fexperiments/"),
    CREATE.replace("/experiments/", "/runs/..%5cexperiments/"),
    CREATE.replace("/experiments/", "/runs/..;/experiments/"),
    CREATE.replace("/experiments/", "/experiments%2f"),
    CREATE.replace("/experiments/", "/experiments%252f"),
    CREATE.replace("/experiments/", "/experiments%5c"),
    CREATE.replace("/experiments/", "/experiments\\"),
    CREATE.replace("create", "cre%61te"),
    CREATE.replace("create", "cre%u0061te"),
    CREATE.replace("create", "cre%c1%a1te"),
    CREATE.replace("create", "%63%72%65%61%74%65"),
    CREATE.replace("create", "%EF%BD%83reate"),
    f"/health/..{CREATE}",
    f"/health/%2e%2e{CREATE}",
    f"/health%2f..{CREATE}",
    f"/health/..;{CREATE}",
    f"/health;{CREATE}",
    f"/iam/open/..{CREATE}",
    f"/iam/open{CREATE}",
    f"/static-files/..{CREATE}",
    f"/api/3.0/mlflow/server-info/../../../..{CREATE}",
    f"/ajax-api/..{CREATE}",
    f"/v1{CREATE}",
    f"http://localhost{CREATE}",
    f"HTTP://LOCALHOST{CREATE}",
    f"http://localhost:80{CREATE}",
    f"http://evil.example.com{CREATE}",
    f"https://localhost{CREATE}",
    f"http://user:password@localhost{CREATE}",
    f"//localhost{CREATE}",
    f"///{CREATE}",
    CREATE[1:],
    f"*{CREATE}",
    f"\\{CREATE}",
    f"%2f{CREATE[1:]}",
    f"{CREATE} HTTP/1.1 x",
]


@pytest.mark.parametrize("caller", ["nobody", "Reader"])
@pytest.mark.parametrize("target", TARGETS)
def test_spelling_of_a_path(way: Way, target: str, caller: str) -> None:
    found = way.send(post(way.proofs[caller], target=target))
    assert all(status >= 300 for status in found), found


METHODS = [
    "post",
    "Post",
    "PUT",
    "PATCH",
    "DELETE",
    "OPTIONS",
    "HEAD",
    "GET",
    "TRACE",
    "CONNECT",
    "PRI",
    "POST\t",
    "X",
]


@pytest.mark.parametrize("caller", ["nobody", "Reader", "Admin"])
@pytest.mark.parametrize("method", METHODS)
def test_other_methods(way: Way, method: str, caller: str) -> None:
    found = way.send(post(way.proofs[caller], method=method))
    assert all(status >= 300 for status in found), found


OVERRIDES = [
    "X-HTTP-Method-Override: POST",
    "X-HTTP-Method: POST",
    "X-Method-Override: POST",
    f"X-Original-URL: {CREATE}",
    f"X-Rewrite-URL: {CREATE}",
    f"X-Original-URI: {CREATE}",
    f"X-Forwarded-Uri: {CREATE}",
    f"X-Forwarded-Prefix: {CREATE}",
    f"X-Script-Name: {CREATE}",
    f"Script-Name: {CREATE}",
    f"Path-Info: {CREATE}",
    f"Forwarded: for=127.0.0.1;host=localhost;path={CREATE}",
    "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",
]


@pytest.mark.parametrize("line", OVERRIDES)
@pytest.mark.parametrize("target", ["/health", "/iam/open", f"{CREATE}?_method=POST"])
def test_headers_that_rewrite(way: Way, line: str, target: str) -> None:
    content = body()
    sent = get(way.proofs["Reader"], line, f"Content-Length: {len(content)}", target=target) + content
    assert 401 not in way.send(sent)
    assert all(status >= 300 for status in way.send(post("X: y", line)))


SPOOFS = [
    "X-Forwarded-For: 127.0.0.1",
    "X-Forwarded-For: 127.0.0.1, 10.0.0.1, ::1",
    "X-Forwarded-For: x\r\nX-Forwarded-For: 127.0.0.1",
    "X-Real-IP: 127.0.0.1",
    "X-Forwarded-Host: localhost",
    "X-Forwarded-Proto: https\r\nX-Forwarded-Port: 443",
    "X-Forwarded-User: admin\r\nRemote-User: admin",
    "X-Amzn-Oidc-Identity: admin\r\nX-Amzn-Oidc-Data: x.y.z",
    "X-Mlflow-Server-Id: localhost",
    "X-Amzn-Trace-Id: Root=1-0-0;\tx",
    "Authorization_: Bearer x",
]


@pytest.mark.parametrize("caller", ["nobody", "Reader"])
@pytest.mark.parametrize("line", SPOOFS)
def test_spoofed_headers(way: Way, line: str, caller: str) -> None:
    assert way.send(post(way.proofs[caller], line)) == [401 if caller == "nobody" else 403]


HOSTS = [
    "Host: evil.example.com",
    "Host: localhost.evil.example.com",
    "Host: localhost.",
    "Host: evil.example.com:localhost",
    "Host: localhost@evil.example.com",
    "Host: evil@localhost",
    "Host: localhost:80@evil.example.com",
    "Host: localhost:80:evil.example.com",
    "Host: localhost, evil.example.com",
    "Host: localhost evil.example.com",
    "Host: localhost/evil",
    "Host: [localhost",
    "Host: localhost#",
    "Host: localhost\r\nHost: evil.example.com",
    "Host: evil.example.com\r\nHost: localhost",
    "Host: localhost\r\nHost: localhost",
    "Host: localhost\r\n evil.example.com",
    "Host : localhost",
    "Host: evil.example.com\r\nX-Forwarded-Host: localhost",
    "Host:",
    "Hostess: localhost",
]


@pytest.mark.parametrize("lines", HOSTS)
def test_host_that_is_not_the_server(way: Way, lines: str) -> None:
    """Even of someone who may do it."""
    found = way.send(post(way.proofs["Admin"], *lines.split("\r\n")))
    assert all(status >= 300 for status in found), found


def chunked(content: bytes) -> bytes:
    return f"{len(content):x}\r\n".encode() + content + b"\r\n0\r\n\r\n"


def smuggled() -> bytes:
    """A whole request that hides in another one."""
    return post("X: y", "Connection: close")


def hiding(*lines: str, content: bytes) -> bytes:
    """A request to what everybody may, with a body that is to be taken for another request."""
    head = ["POST /iam/logout HTTP/1.1", "Host: localhost", *lines, "", ""]
    return "\r\n".join(head).encode("latin-1") + content


TE = [
    "Transfer-Encoding: chunked",
    "Transfer-Encoding: xchunked",
    "Transfer-Encoding : chunked",
    "Transfer-Encoding:\tchunked",
    "Transfer-Encoding: \x0bchunked",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: x",
    "Transfer-Encoding: x\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding: identity, chunked",
    "Transfer-Encoding: chunked, identity",
    "Transfer-Encoding: CHUNKED",
    "Transfer-Encoding: 'chunked'",
    "X: y\nTransfer-Encoding: chunked",
    "X: y\rTransfer-Encoding: chunked",
    " Transfer-Encoding: chunked",
    "Transfer-Encoding:\r\n chunked",
    "Transfer_Encoding: chunked",
    "Transfer-Encoding\x00: chunked",
]


@pytest.mark.parametrize("encoding", TE)
def test_two_lengths(way: Way, encoding: str) -> None:
    """CL.TE, TE.CL and TE.TE."""
    hidden = smuggled()
    late = b"0\r\n\r\n" + hidden
    early = chunked(hidden)
    for content, length in ((late, len(late)), (early, 4), (early, len(early)), (late, 5), (hidden, 0)):
        found = way.send(hiding(f"Content-Length: {length}", encoding, content=content))
        assert all(status != 200 for status in found[1:]), (length, found)
    answer = requests.get(
        f"http://localhost:{way.port}/iam/whoami",
        headers={"Authorization": way.proofs["Admin"].partition(": ")[2]},
        timeout=30,
    )
    assert answer.json()["name"] == "mlflow-test-Admin"


LENGTHS = [
    "Content-Length: 0\r\nContent-Length: {}",
    "Content-Length: {}\r\nContent-Length: 0",
    "Content-Length: 0, {}",
    "Content-Length: +{}",
    "Content-Length: -1",
    "Content-Length: 0x5",
    "Content-Length: 5 0",
    "Content-Length:{}\x0b",
    "Content-Length : {}",
    "Content_Length: {}",
    "Content-Length: 99999999999999999999999",
    "Content-Length: \u0665",
    "Content-Length:",
]


@pytest.mark.parametrize("line", LENGTHS)
def test_length_that_is_unclear(way: Way, line: str) -> None:
    hidden = smuggled()
    found = way.send(
        hiding(*line.format(len(hidden)).encode().decode("latin-1").split("\r\n"), content=hidden)
    )
    assert all(status != 200 for status in found[1:]), found


@pytest.mark.parametrize(
    "start",
    [
        b"5;x=\r\nhello\r\n0\r\n\r\n",
        b"5;\nhello\r\n0\r\n\r\n",
        b"0;\r\n\r\n\r\n",
        b"0\n\n",
        b"0x0\r\n\r\n",
        b"-1\r\n\r\n",
        b"ffffffffffffffff0\r\n\r\n",
        b"5\r\nhelloX\r\n0\r\n\r\n",
        b"0\r\nContent-Length: 0\r\nAuthorization: Bearer x\r\n\r\n",
        b"5;" + b"x" * 20000 + b"\r\nhello\r\n0\r\n\r\n",
    ],
)
def test_odd_chunks(way: Way, start: bytes) -> None:
    found = way.send(hiding("Transfer-Encoding: chunked", content=start + smuggled()))
    assert all(status != 200 for status in found[1:]), found


@pytest.mark.parametrize("caller", ["nobody", "Reader"])
def test_a_connection_proves_nothing(way: Way, caller: str) -> None:
    """What comes behind an allowed request on the same connection is decided by itself."""
    found = way.send(get(way.proofs["Admin"]) + post(way.proofs[caller], "Connection: close"))
    assert found in ([200, 401 if caller == "nobody" else 403], [200])


@pytest.mark.parametrize("caller", ["nobody", "Reader"])
@pytest.mark.parametrize("version", ["1.0", "0.9", "1.2", "2", "2.0", "3", "11", "1.1.1", "x"])
def test_versions(way: Way, version: str, caller: str) -> None:
    found = way.send(post(way.proofs[caller], version=version))
    assert all(status >= 400 for status in found), found


@pytest.mark.parametrize(
    "data",
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000"),
        b"GET " + CREATE.encode() + b"\r\n",
        b"POST " + CREATE.encode() + b"\r\n\r\n",
        b"\r\n\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\nGET /iam/whoami HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /iam/whoami HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 20000 + b"\r\n",
        b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /iam/whoami HTTP/1.1\nHost: localhost\n\n",
    ],
)
def test_what_is_no_request(way: Way, data: bytes) -> None:
    found = way.send(data)
    assert all(status >= 400 for status in found), found
    assert requests.get(f"http://localhost:{way.port}/health", timeout=10).status_code == 200


@pytest.mark.parametrize("caller", ["nobody", "Reader", "Admin"])
@pytest.mark.parametrize("target", ["/", "/ws", CREATE, "/health"])
def test_websocket(way: Way, target: str, caller: str) -> None:
    lines = [
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ]
    assert 101 not in way.send(get(way.proofs[caller], *lines, target=target))
