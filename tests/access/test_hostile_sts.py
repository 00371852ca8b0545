"""An STS that is down, slow or hostile: nobody gets in by it, and nobody is kept waiting."""

from __future__ import annotations

import asyncio
import http.client
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from urllib.parse import urlsplit

import pytest
import requests
from guarded import ARN, Account, Guarded, Keys, bearer
from hostile import pack, sign
from proxy import serve
from server_process import Server
from tracking_server.access import authentication
from tracking_server.access.authentication import Authentication
from tracking_server.access.errors import Refused
from tracking_server.access.sts import StsTokens

ROLE_ARN = "arn:aws:sts::123456789012:assumed-role/Admin/person"
ROLE_ID = "AROAABCDEFGHIJKLMNOPQ:person"
NAMESPACE = "https://sts.amazonaws.com/doc/2011-06-15/"
WORST_SECONDS = 12.0


class Handler(BaseHTTPRequestHandler):
    """Answers as the test says."""

    protocol_version = "HTTP/1.1"
    server: HostileSts

    def do_GET(self) -> None:
        self.server.asked += 1
        self.server.behaviour(self)

    def answer(self, body: bytes, *, status: int = 200, kind: str = "text/xml", **headers: str) -> None:
        """A whole answer."""
        self.send_response(status)
        if kind:
            self.send_header("Content-Type", kind)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing."""


Behaviour = Callable[[Handler], None]


class HostileSts(ThreadingHTTPServer):
    """A server in the place of STS."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.behaviour: Behaviour = good
        self.asked = 0
        self.ended = threading.Event()

    @property
    def url(self) -> str:
        """The endpoint."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that go away are what is expected."""


def xml(
    arn: str = ROLE_ARN,
    user_id: str = ROLE_ID,
    account: str = "123456789012",
    *,
    namespace: str = NAMESPACE,
    before: str = "",
    more: str = "",
) -> bytes:
    """The answer of STS."""
    return (
        f'{before}<GetCallerIdentityResponse xmlns="{namespace}"><GetCallerIdentityResult><Arn>{arn}</Arn>'
        f"<UserId>{user_id}</UserId><Account>{account}</Account></GetCallerIdentityResult>{more}"
        "<ResponseMetadata><RequestId>x</RequestId></ResponseMetadata></GetCallerIdentityResponse>"
    ).encode()


def good(handler: Handler) -> None:
    handler.answer(xml())


def body(content: bytes, **options: object) -> Behaviour:
    return lambda handler: handler.answer(content, **options)  # type: ignore[arg-type]


def error(code: str, status: int) -> Behaviour:
    content = f'<ErrorResponse xmlns="{NAMESPACE}"><Error><Type>Sender</Type><Code>{code}</Code></Error></ErrorResponse>'
    return body(content.encode(), status=status)


def redirect(status: int) -> Behaviour:
    def answer(handler: Handler) -> None:
        if handler.path == "/good":
            handler.answer(xml())
        else:
            handler.answer(xml(), status=status, Location="/good")

    return answer


def write(content: bytes) -> Behaviour:
    """Bytes instead of an HTTP answer, and the end."""

    def answer(handler: Handler) -> None:
        handler.wfile.write(content)
        handler.close_connection = True

    return answer


def silent(handler: Handler) -> None:
    handler.server.ended.wait(60)
    handler.close_connection = True


def drip(start: bytes) -> Behaviour:
    """The beginning of an answer, then a byte a second."""

    def answer(handler: Handler) -> None:
        handler.wfile.write(start)
        while not handler.server.ended.wait(1):
            handler.wfile.write(b"x")
        handler.close_connection = True

    return answer


def endless(handler: Handler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\n\r\n")
    while not handler.server.ended.is_set():
        handler.wfile.write(b"<!" * 4096)


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\n"
RESULT = xml().decode().partition("<GetCallerIdentityResult>")[2].partition("</GetCallerIdentityResult>")[0]
ENTITY = f'<!DOCTYPE x [<!ENTITY a "{ROLE_ARN}">]>'

UNKNOWN: dict[str, Behaviour] = {
    "HTML": body(b"<html><body>Welcome to the hotel</body></html>", kind="text/html"),
    "HTML as XML": body(b"<html><body>Welcome</body></html>"),
    "good answer as HTML": body(xml(), kind="text/html"),
    "good answer without a type": body(xml(), kind=""),
    "good answer as JSON": body(xml(), kind="application/json"),
    "JSON": body(
        f'{{"Arn":"{ROLE_ARN}","UserId":"{ROLE_ID}","Account":"123456789012"}}'.encode(), kind="text/xml"
    ),
    "nothing": body(b""),
    "no content": body(b"", status=204),
    "document type": body(xml(before="<!DOCTYPE x>")),
    "entity": body(xml("&a;", before=ENTITY)),
    "external entity": body(xml("&a;", before='<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>')),
    "document type in UTF-16": body(xml("&a;", before=ENTITY).decode().encode("utf-16")),
    "many laughs": body(
        xml(
            "&d;",
            before="<!DOCTYPE x [<!ENTITY a 'aaaaaaaaaa'>"
            + "".join(f"<!ENTITY {n} '{f'&{m};' * 10}'>" for m, n in ("ab", "bc", "cd"))
            + "]>",
        )
    ),
    "CDATA": body(xml(f"<![CDATA[{ROLE_ARN}]]>")),
    "comment within": body(xml(ROLE_ARN.replace("Admin", "<!-- -->Admin"))),
    "another namespace": body(xml(namespace="https://sts.example.com/doc/2011-06-15/")),
    "namespace of plain HTTP": body(xml(namespace="http://sts.amazonaws.com/doc/2011-06-15/")),
    "no namespace": body(xml(namespace="")),
    "two results": body(xml(more=f"<GetCallerIdentityResult>{RESULT}</GetCallerIdentityResult>")),
    "two ARNs": body(xml(f"{ROLE_ARN}</Arn><Arn>{ROLE_ARN}")),
    "element within": body(xml(f"{ROLE_ARN}<x/>")),
    "no ARN": body(xml().replace(b"Arn", b"Urn")),
    "empty ARN": body(xml("")),
    "result deeper": body(
        xml()
        .replace(b"<GetCallerIdentityResult>", b"<x><GetCallerIdentityResult>")
        .replace(b"</GetCallerIdentityResult>", b"</GetCallerIdentityResult></x>")
    ),
    "answer to another question": body(
        xml().replace(b"GetCallerIdentityResponse", b"GetSessionTokenResponse")
    ),
    "garbage behind": body(xml() + b"x"),
    "two documents": body(xml() + xml()),
    "half": body(xml()[:-40]),
    "invalid UTF-8": body(xml() + b"\xff"),
    "error with status 200": error("SignatureDoesNotMatch", 200),
    "huge": body(xml(more=f"<x>{'x' * 1_000_000}</x>")),
    "just too long": body(xml(more=f"<x>{'x' * 4096}</x>")),
    "endless": endless,
    "compressed": body(b"\x1f\x8b" + b"x" * 100, Content_Encoding="gzip"),
    "length too long": write(HEAD + b"Content-Length: 4000\r\n\r\n" + xml()),
    "length too short": write(HEAD + b"Content-Length: 100\r\n\r\n" + xml()),
    "length below zero": write(HEAD + b"Content-Length: -5\r\n\r\n"),
    "broken chunks": write(HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n" + xml()),
    "chunk that does not end": write(HEAD + b"Transfer-Encoding: chunked\r\n\r\nfff\r\n" + xml()),
    "no HTTP": write(b"SSH-2.0-OpenSSH_9.2\r\n"),
    "HTTP of the future": write(b"HTTP/9.9 200 OK\r\n\r\n"),
    "status that is none": write(b"HTTP/1.1 abc OK\r\n\r\n"),
    "closed at once": write(b""),
    "header lines that are none": write(
        HEAD.replace(b"text/xml", b"text/html") + b"no colon here\r\nContent-Length: 1\r\n\r\nx"
    ),
    "too many headers": write(HEAD + b"X: y\r\n" * 500 + b"\r\n" + xml()),
    "endless header line": write(HEAD + b"X: " + b"y" * 200_000),
    **{f"redirect {status}": redirect(status) for status in (300, 301, 302, 303, 307, 308)},
    **{
        f"status {status}": body(xml(), status=status)
        for status in (201, 202, 203, 206, 401, 404, 405, 429, 500, 503)
    },
    **{
        f"{code} {status}": error(code, status)
        for code, status in (
            ("Throttling", 400),
            ("ThrottlingException", 400),
            ("RequestLimitExceeded", 400),
            ("ServiceUnavailable", 400),
            ("ServiceUnavailable", 503),
            ("InternalFailure", 500),
        )
    },
}
"""Answers from which it cannot be told who calls."""

REFUSED: dict[str, Behaviour] = {
    "another account": body(xml(ROLE_ARN.replace("123456789012", "210987654321"), account="210987654321")),
    "ARN of another account": body(xml(ROLE_ARN.replace("123456789012", "210987654321"))),
    "account of another ARN": body(xml(account="210987654321")),
    "another partition": body(xml(ROLE_ARN.replace("arn:aws:", "arn:aws-cn:"))),
    "root": body(xml("arn:aws:iam::123456789012:root", "123456789012")),
    "federated user": body(xml("arn:aws:sts::123456789012:federated-user/x", "123456789012:x")),
    "role without a session": body(xml("arn:aws:iam::123456789012:role/Admin", "AROAABCDEFGHIJKLMNOPQ")),
    "id of a user": body(xml(user_id="AIDAABCDEFGHIJKLMNOPQ")),
    "id of another session": body(xml(user_id="AROAABCDEFGHIJKLMNOPQ:other")),
    "id without a session": body(xml(user_id="AROAABCDEFGHIJKLMNOPQ")),
    "user with the id of a role": body(xml("arn:aws:iam::123456789012:user/x", ROLE_ID)),
    "wildcard": body(xml("arn:aws:sts::123456789012:assumed-role/*/person")),
    "path in the name": body(xml("arn:aws:sts::123456789012:assumed-role/a/b/person")),
    "another service": body(xml(ROLE_ARN.replace(":sts:", ":s3:"))),
    **{
        f"{code} {status}": error(code, status)
        for code, status in (
            ("SignatureDoesNotMatch", 403),
            ("InvalidClientTokenId", 403),
            ("ExpiredToken", 403),
            ("ExpiredToken", 400),
            ("AccessDenied", 403),
            ("IncompleteSignature", 400),
        )
    },
    "403 without a code": body(b"no", status=403),
    "good answer with 403": body(xml(), status=403),
    "good answer with 400": body(xml(), status=400),
}
"""Answers that say who calls, or that nobody does."""


@pytest.fixture
def sts(monkeypatch: pytest.MonkeyPatch) -> Iterator[HostileSts]:
    with HostileSts() as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", server.url)
        yield server
        server.ended.set()
        server.shutdown()


def new_authentication() -> Authentication:
    return Authentication([StsTokens(names={"localhost"}, regions={"eu-west-1"}, tracking_server_arn=ARN)])


_names = count(10)


def new_token() -> str:
    return pack(sign(Keys(access_key=f"AKIAIOSFODNN7EXAMP{next(_names):02d}"[:40], secret_key="x" * 40)))


async def outcome(part: Authentication, token: str) -> str:
    """The ARN of the caller, or the status of the refusal."""
    try:
        proof, _ = await part.prove(token, address="10.0.0.1")
    except Refused as refused:
        return str(refused.status)
    return proof.caller.arn


def test_good_answer(sts: HostileSts) -> None:
    async def run() -> None:
        part, token = new_authentication(), new_token()
        assert await outcome(part, token) == ROLE_ARN
        assert await outcome(part, token) == ROLE_ARN
        assert sts.asked == 1

    asyncio.run(run())


@pytest.mark.parametrize("name", UNKNOWN)
def test_nonsense_is_not_remembered(sts: HostileSts, name: str, caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        part, token = new_authentication(), new_token()
        sts.behaviour = UNKNOWN[name]
        started = time.monotonic()
        assert await outcome(part, token) == "503"
        assert time.monotonic() - started < WORST_SECONDS
        assert (sts.asked, len(part)) == (1, 0)
        sts.behaviour = good
        assert await outcome(part, token) == ROLE_ARN
        assert sts.asked == 2

    asyncio.run(run())
    assert "X-Amz-Signature" not in caplog.text


@pytest.mark.parametrize("name", REFUSED)
def test_refusal_is_remembered_for_a_while(
    sts: HostileSts, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert authentication.REFUSAL_SECONDS == 60
    monkeypatch.setattr(authentication, "REFUSAL_SECONDS", 0.5)

    async def run() -> None:
        part, token = new_authentication(), new_token()
        sts.behaviour = REFUSED[name]
        assert await outcome(part, token) == "401"
        sts.behaviour = good
        assert await outcome(part, token) == "401"
        assert sts.asked == 1
        assert await outcome(part, new_token()) == ROLE_ARN
        await asyncio.sleep(0.6)
        assert await outcome(part, token) == ROLE_ARN

    asyncio.run(run())


SLOW: dict[str, Behaviour] = {
    "silent": silent,
    "drips headers": drip(b"HTTP/1.1 200 OK\r\nX: "),
    "drips the body": drip(HEAD + b"Content-Length: 2000\r\n\r\n"),
    "drips a status": drip(b"HTTP/1.1 2"),
}


@pytest.mark.parametrize("name", SLOW)
def test_slow(sts: HostileSts, name: str) -> None:
    async def run() -> None:
        part, known, token = new_authentication(), new_token(), new_token()
        assert await outcome(part, known) == ROLE_ARN
        sts.behaviour = SLOW[name]
        started = time.monotonic()
        waiting = asyncio.ensure_future(outcome(part, token))
        await asyncio.sleep(0.5)
        assert await outcome(part, known) == ROLE_ARN
        assert time.monotonic() - started < 1
        assert await waiting == "503"
        assert time.monotonic() - started < WORST_SECONDS
        sts.ended.set()
        sts.behaviour = good
        assert await outcome(part, token) == ROLE_ARN

    asyncio.run(run())


def test_down(monkeypatch: pytest.MonkeyPatch) -> None:
    with HostileSts() as closed:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", closed.url)

    async def run() -> None:
        part, token = new_authentication(), new_token()
        assert [await outcome(part, token) for _ in range(3)] == ["503"] * 3
        assert len(part) == 0

    asyncio.run(run())


# --- a whole server


@pytest.fixture
def front(sts: HostileSts, guarded: Guarded, account: Account) -> Iterator[Server]:
    """A server that asks this STS, which passes on to the good one until it is told otherwise."""
    place = urlsplit(account.aws.endpoint)

    def passed_on(handler: Handler) -> None:
        connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=10)
        connection.request("GET", handler.path, headers=dict(handler.headers.items()))
        found = connection.getresponse()
        handler.answer(found.read(), status=found.status, kind=found.headers["Content-Type"])

    sts.behaviour = passed_on
    server = serve(guarded, AWS_ENDPOINT_URL_STS=sts.url)
    yield server
    server.kill()


def who(server: Server, headers: dict[str, str], number: int = 0) -> tuple[int, float]:
    """The status of an answer, and how long it took."""
    started = time.monotonic()
    sent = {**headers, "X-Forwarded-For": f"10.8.0.{number}"}
    answer = requests.get(f"{server.url}/iam/whoami", headers=sent, timeout=30)
    return answer.status_code, time.monotonic() - started


def test_server_while_sts_fails(front: Server, sts: HostileSts, account: Account) -> None:
    works = sts.behaviour
    known = bearer(account.assume("Reader"), front.url)
    assert who(front, known)[0] == 200
    new = [bearer(account.assume("Reader", session=f"person{n}"), front.url) for n in range(30)]

    sts.behaviour = write(b"")
    assert [who(front, headers)[0] for headers in new[:2]] == [503, 503]
    assert who(front, known)[0] == 200

    sts.behaviour = silent
    with ThreadPoolExecutor(30) as pool:
        waiting = [pool.submit(who, front, headers, number) for number, headers in enumerate(new)]
        time.sleep(0.5)
        for _ in range(10):
            status, seconds = who(front, known)
            assert (status, seconds < 2) == (200, True), seconds
            assert requests.get(f"{front.url}/health", timeout=2).status_code == 200
        answers = [answer.result() for answer in waiting]
    assert {status for status, _ in answers} == {503}
    assert max(seconds for _, seconds in answers) < WORST_SECONDS
    sts.ended.set()

    sts.behaviour = works
    assert {who(front, headers)[0] for headers in new} == {200}
    assert "X-Amz-Signature" not in front.output
