"""Tokens that nobody may get in with, sent to a running server."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from dataclasses import replace as changed
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import Any

import pytest
import requests
from guarded import Account, Guarded, Keys, bearer
from hostile import PREFIX, exchange, pack, sign, statuses
from proxy import serve
from server_process import Server

from local.aws import ACCESS_KEY, SECRET_KEY

_addresses = count(1)

Headers = dict[str, str]


@dataclass(kw_only=True)
class World:
    """A server, an administrator's session, and a token of theirs that is good."""

    server: Server
    account: Account
    keys: Keys
    fields: dict[str, Any] = field(default_factory=dict)

    def call(self, headers: Headers, *, method: str = "GET", path: str = "/iam/whoami") -> requests.Response:
        """A request from an address of its own, as failures are counted by address."""
        number = next(_addresses)
        sent = {"X-Forwarded-For": f"10.9.{number >> 8}.{number & 255}", **headers}
        return requests.request(
            method, f"{self.server.url}{path}", headers=sent, timeout=30, allow_redirects=False
        )

    def bearer(self) -> str:
        """A bearer that the server has made."""
        answer = self.call(token(self.fields), method="POST", path="/iam/token")
        return str(answer.json()["access_token"])

    def link(self) -> str:
        """The token in a one-use link that the server has made."""
        answer = self.call(token(self.fields), method="POST", path="/iam/presigned-url")
        return str(answer.json()["authorized_url"].partition("#")[2])

    def session(self) -> str:
        """The cookie of a session, as name=value."""
        answer = requests.post(
            f"{self.server.url}/iam/session",
            json={"token": self.link()},
            headers={"Origin": "http://mlflow.example.com"},
            timeout=30,
        )
        assert answer.status_code == 204, answer.text
        return answer.headers["Set-Cookie"].partition(";")[0]


@pytest.fixture(scope="module")
def server(guarded: Guarded) -> Server:
    return serve(guarded)


@pytest.fixture(scope="module")
def world(server: Server, account: Account) -> World:
    keys = account.assume("Admin")
    return World(server=server, account=account, keys=keys, fields=sign(keys))


def token(content: object) -> Headers:
    return {"Authorization": f"Bearer {pack(content)}"}


def text(value: str) -> Headers:
    return {"Authorization": f"Bearer {value}"}


def swapped(**fields: object) -> Callable[[World], Headers]:
    """The good token with other fields."""
    return lambda world: token({**world.fields, **fields})


def signed(**options: Any) -> Callable[[World], Headers]:
    """A token that is signed for something else."""
    return lambda world: token(sign(world.keys, **options))


def without(name: str) -> Callable[[World], Headers]:
    return lambda world: token({key: value for key, value in world.fields.items() if key != name})


def edited(edit: Callable[[str], str | bytes]) -> Callable[[World], Headers]:
    """The good token with its JSON text changed."""
    return lambda world: token(edit(json.dumps(world.fields, separators=(",", ":"))))


def respelled(edit: Callable[[str], str]) -> Callable[[World], Headers]:
    """The good token with its encoded text changed."""
    return lambda world: text(edit(pack(world.fields)))


def scope(
    world: World, *, region: str = "eu-west-1", service: str = "sts", key: str = "", tail: str = ""
) -> Headers:
    day = world.fields["d"][:8]
    credential = f"{key or world.keys.access_key}/{day}/{region}/{service}/aws4_request{tail}"
    return token({**world.fields, "c": credential})


def user(world: World) -> Keys:
    return world.account.person


def flipped(value: str, at: int) -> str:
    other = "A" if value[at] != "A" else "B"
    return value[:at] + other + value[at + 1 :]


def altered(signature: str) -> str:
    """A signature with another last digit."""
    return signature[:-1] + ("0" if signature[-1] != "0" else "1")


def standard_alphabet(world: World) -> Headers:
    """Base64 as MIME has it, of content that has a + or a / in it."""
    for name in ("?>>>", "~~~~", "????", ">>>>>"):
        raw = json.dumps({**world.fields, "h": name}, separators=(",", ":")).encode()
        encoded = base64.b64encode(raw).decode().rstrip("=")
        if "+" in encoded or "/" in encoded:
            return text(PREFIX + encoded)
    raise AssertionError


def trailing_bits(world: World) -> Headers:
    """The same bytes in another spelling, where the last character has bits to spare."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    for blanks in range(3):
        value = pack(json.dumps(world.fields, separators=(",", ":")) + " " * blanks)
        other = value[:-1] + alphabet[alphabet.index(value[-1]) ^ 1]
        encoded = [part[len(PREFIX) :] for part in (value, other)]
        decoded = [base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in encoded]
        if decoded[0] == decoded[1]:
            return text(other)
    raise AssertionError


def web_identity(algorithm: str) -> Headers:
    parts = [
        {"alg": algorithm, "typ": "JWT"},
        {"iss": "https://evil.example.com", "aud": "localhost", "sub": "x"},
    ]
    encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
    return text(".".join([*encoded, "" if algorithm == "none" else "c2ln"]))


def expired_session(world: World) -> Headers:
    """A session that has ended while the signature is fresh."""
    keys = world.account.assume("Reader", session="ended")
    credentials = world.account.aws.sts._credentials
    session = credentials._sessions[keys.access_key]
    credentials._sessions[keys.access_key] = changed(session, expiration=session.issued)
    return token(sign(keys))


def bearer_as(prefix: str) -> Callable[[World], Headers]:
    return lambda world: text(prefix + world.bearer().partition(".")[2])


REFUSED: dict[str, Callable[[World], Headers]] = {
    # time
    "expiry stretched": swapped(e="899"),
    "expiry beyond STS's": signed(expires="901"),
    "expiry of a week": swapped(e="604800"),
    "expiry of nothing": signed(expires="0"),
    "expiry with a sign": swapped(e="+900"),
    "expiry with a fraction": swapped(e="900.0"),
    "expiry of other digits": swapped(e="٩٠٠"),
    "replayed after expiry": lambda world: token(sign(world.keys, at=time.time() - 901)),
    "replayed after a short expiry": lambda world: token(sign(world.keys, at=time.time() - 61, expires="60")),
    "replayed with a new date": lambda world: token(
        {**sign(world.keys, at=time.time() - 1000), "d": world.fields["d"]}
    ),
    "signed in the future": lambda world: token(sign(world.keys, at=time.time() + 400)),
    "date of another day than the scope": signed(day="20200101"),
    "date that is none": swapped(d="20261399T999999Z"),
    "date of year zero": swapped(d="00000101T000000Z"),
    "date of other digits": swapped(d="\uff12\uff10\uff12\uff1620101T000000Z"),
    # what is asked
    "signed for another action": signed(action="GetSessionToken"),
    "signed for another version": signed(version="2012-11-05"),
    "signed for another method": signed(method="POST"),
    "signed for another service": signed(service="iam"),
    "signed without the server's name": signed(headers=("host",)),
    "signed without a host": signed(headers=("x-mlflow-server-id",)),
    **{
        f"action smuggled into {name}": lambda world, name=name: token(
            {**world.fields, name: f"{world.fields[name]}&Action=AssumeRole"}
        )
        for name in "cdehst"
    },
    **{
        f"line smuggled into {name}": lambda world, name=name: token(
            {**world.fields, name: f"{world.fields[name]}\r\nHost: evil.example.com"}
        )
        for name in "cdehst"
    },
    **{
        f"newline after {name}": lambda world, name=name: token(
            {**world.fields, name: f"{world.fields[name]}\n"}
        )
        for name in "cdehst"
    },
    "action as a field": swapped(Action="AssumeRole"),
    "version as a field": swapped(Version="2010-05-08"),
    "address as a field": swapped(u="https://evil.example.com/"),
    # for whom
    "signed for another server": signed(h="other.example.com"),
    "signed for another server, renamed": lambda world: token(
        {**sign(world.keys, h="other.example.com"), "h": "localhost"}
    ),
    "signed for another of the names": lambda world: token(
        {**sign(world.keys, h="mlflow.example.com"), "h": "localhost"}
    ),
    "name in upper case": swapped(h="LOCALHOST"),
    "name with a port": swapped(h="localhost:5000"),
    "name with a dot": swapped(h="localhost."),
    "name of nobody": swapped(h=""),
    "two names": swapped(h="localhost,evil.example.com"),
    # where
    "region of another partition": lambda world: scope(world, region="cn-north-1"),
    "region of the government": lambda world: scope(world, region="us-gov-west-1"),
    "region that is none": lambda world: scope(world, region="xx-nowhere-1"),
    "another region": lambda world: scope(world, region="us-east-1"),
    "region with a host": lambda world: scope(world, region="us-east-1.evil.com"),
    "region with a path": lambda world: scope(world, region="us-east-1/evil"),
    "region with a fragment": lambda world: scope(world, region="evil.com#"),
    "region with a user": lambda world: scope(world, region="us-east-1@evil.com"),
    "region with a dot": lambda world: scope(world, region="us-east-1."),
    "region with a line break": lambda world: scope(world, region="us-east-1\r\nX: y"),
    "region of nothing": lambda world: scope(world, region=""),
    "scope of another service": lambda world: scope(world, service="s3"),
    "scope with a tail": lambda world: scope(world, tail="/evil"),
    # form
    **{f"without {name}": without(name) for name in "cdehst"},
    **{
        f"{name} is {kind}": swapped(**{name: value})
        for name in "cdehst"
        for kind, value in (("null", None), ("a number", 900), ("a list", ["a"]), ("an object", {}))
    },
    "field of ours twice": edited(lambda text: text[:-1] + ',"h":"localhost"}'),
    "field of theirs first": edited(lambda text: '{"h":"other.example.com",' + text[1:]),
    "extra field": swapped(x="y"),
    "byte order mark": edited(lambda text: b"\xef\xbb\xbf" + text.encode()),
    "UTF-16": edited(lambda text: text.encode("utf-16")),
    "UTF-32": edited(lambda text: text.encode("utf-32-le")),
    "escapes": edited(lambda text: text.replace("localhost", "\\u006cocalhost")),
    "blanks": edited(lambda text: text.replace(",", ", ")),
    "garbage after the end": edited(lambda text: text + "x"),
    "second document": edited(lambda text: text + text),
    "NUL after the end": edited(lambda text: text + "\0"),
    "array": edited(lambda text: f"[{text}]"),
    "text": edited(lambda text: json.dumps(text)),
    "NaN": lambda world: token("NaN"),
    "field of NaN": edited(lambda text: text.replace('"900"', "NaN")),
    "comment": edited(lambda text: "/**/" + text),
    "deep": lambda world: token("[" * 5000),
    "deep field": edited(lambda text: text[:-1] + ',"x":' + "[" * 2000 + "]" * 2000 + "}"),
    "invalid UTF-8": edited(lambda text: text.encode()[:-1] + b"\xff}"),
    "nothing": lambda world: text(PREFIX),
    "oversize": swapped(t="A" * 8000),
    "oversize altogether": lambda world: text(PREFIX + "A" * 20000),
    "prefix in capitals": respelled(lambda value: value.replace(PREFIX, PREFIX.upper())),
    "prefix of another version": respelled(lambda value: value.replace("-v1.", "-v2.")),
    "prefix twice": respelled(lambda value: PREFIX + value),
    "standard alphabet": standard_alphabet,
    "trailing bits": trailing_bits,
    "padding": respelled(lambda value: value + "="),
    "blank within": respelled(lambda value: value[:40] + " " + value[40:]),
    "tab within": respelled(lambda value: value[:40] + "\t" + value[40:]),
    "character dropped": respelled(lambda value: value[:-1]),
    "character flipped": respelled(lambda value: flipped(value, 200)),
    "two tokens": respelled(lambda value: f"{value}, {value}"),
    "quotes": respelled(lambda value: f'"{value}"'),
    # other kinds of proof
    "EKS token": respelled(lambda value: "k8s-aws-v1." + value.removeprefix(PREFIX)),
    "token alone": lambda world: {"Authorization": pack(world.fields)},
    "Basic": lambda world: {"Authorization": "Basic " + base64.b64encode(b"admin:password1234").decode()},
    "Digest": lambda world: {"Authorization": 'Digest username="admin"'},
    "AWS4": lambda world: {"Authorization": f"AWS4-HMAC-SHA256 Credential={world.fields['c']}"},
    "empty": lambda world: {"Authorization": "Bearer "},
    "scheme alone": lambda world: {"Authorization": "Bearer"},
    "no header": lambda world: {},
    "JWT without signature": lambda world: web_identity("none"),
    "JWT of another issuer": lambda world: web_identity("RS256"),
    "header with an underscore": lambda world: {"Authorization_": f"Bearer {pack(world.fields)}"},
    "header of a proxy": lambda world: {"Proxy-Authorization": f"Bearer {pack(world.fields)}"},
    "headers that name a caller": lambda world: {
        "x-mlflow-user": "admin",
        "x-amzn-oidc-identity": "admin",
        "x-forwarded-user": "admin",
        "remote-user": "admin",
    },
    # whose keys
    "root": lambda world: token(sign(Keys(access_key=ACCESS_KEY, secret_key=SECRET_KEY))),
    "unknown key": lambda world: token(sign(Keys(access_key="AKIAIOSFODNN7EXAMPLE", secret_key="x" * 40))),
    "wrong secret": lambda world: token(sign(changed(world.account.person, secret_key="x" * 40))),
    "user's key with a session token": lambda world: token(sign(changed(user(world), token="A" * 200))),
    "user's key with a role's session token": lambda world: token(
        sign(changed(user(world), token=world.keys.token))
    ),
    "session without its token": lambda world: token(sign(changed(world.keys, token=None))),
    "session token altered": lambda world: token(
        sign(changed(world.keys, token=flipped(world.keys.token or "", 50)))
    ),
    "session token altered after signing": lambda world: token(
        {**world.fields, "t": flipped(world.fields["t"], 50)}
    ),
    "session token of another session": lambda world: token(
        sign(changed(world.keys, token=world.account.assume("Reader").token))
    ),
    "key of another session": lambda world: scope(world, key=world.account.assume("Reader").access_key),
    "ended session": expired_session,
    "signature in capitals": lambda world: token({**world.fields, "s": world.fields["s"].upper()}),
    "signature of zeros": swapped(s="0" * 64),
    "signature altered": lambda world: token({**world.fields, "s": altered(world.fields["s"])}),
    # what the server has made, in another place
    "bearer altered": lambda world: text(flipped(world.bearer(), 40)),
    "bearer's signature altered": lambda world: text(flipped(world.bearer(), -3)),
    "bearer cut": lambda world: text(world.bearer().rpartition(".")[0]),
    "bearer as token": bearer_as(PREFIX),
    "bearer without prefix": bearer_as(""),
    "bearer as cookie": lambda world: {"Cookie": f"mlflow-session={world.bearer().partition('.')[2]}"},
    "bearer with prefix as cookie": lambda world: {"Cookie": f"mlflow-session={world.bearer()}"},
    "token as cookie": lambda world: {"Cookie": f"mlflow-session={pack(world.fields)}"},
    "session as bearer": lambda world: text("mlflow-bearer-v1." + world.session().partition("=")[2]),
    "link as bearer": lambda world: text("mlflow-bearer-v1." + world.link()),
    "link as cookie": lambda world: {"Cookie": f"mlflow-session={world.link()}"},
    "two cookies": lambda world: {"Cookie": f"{world.session()}; mlflow-session=x"},
    "the same cookie twice": lambda world: {"Cookie": "; ".join([world.session()] * 2)},
    "cookie of HTTPS": lambda world: {"Cookie": f"__Host-{world.session()}"},
}


def secrets_of(headers: Headers) -> list[str]:
    """Pieces of what was sent that no log may hold."""
    values = [value.rpartition(" ")[2] for value in headers.values()]
    return [value[40:100] for value in values if len(value) > 100]


@pytest.mark.parametrize("name", REFUSED)
def test_refused(world: World, name: str) -> None:
    headers = REFUSED[name](world)
    encoded = {key: value.encode() for key, value in headers.items()}
    for _ in range(2):  # the second time it would be found in a memory
        answer = world.call(encoded)  # type: ignore[arg-type]
        assert answer.status_code in (400, 401, 431), (answer.status_code, answer.text)
        assert "arn:aws" not in answer.text
    created = world.call(encoded, method="POST", path="/api/2.0/mlflow/experiments/create")  # type: ignore[arg-type]
    assert created.status_code in (400, 401, 431), created.text
    output = world.server.output
    assert not [piece for piece in secrets_of(headers) if piece in output]


def test_number_of_cases() -> None:
    assert len(REFUSED) >= 40


def test_the_good_token_is_good(world: World) -> None:
    answer = world.call(token(world.fields))
    assert answer.status_code == 200, answer.text
    assert answer.json()["name"] == "mlflow-test-Admin"
    assert pack(world.fields)[60:120] not in world.server.output
    assert world.fields["s"] not in world.server.output


MALFORMED = [
    name
    for name in REFUSED
    if name.startswith(
        ("region", "expiry", "date", "action smuggled", "line smuggled", "without", "extra", "name")
    )
    and name not in ("expiry stretched", "expiry beyond STS's")
]


@pytest.mark.parametrize("name", MALFORMED)
def test_sts_is_not_asked(world: World, name: str) -> None:
    headers = {key: value.encode() for key, value in REFUSED[name](world).items()}
    before = world.account.aws.calls["sts", "GetCallerIdentity"]
    assert world.call(headers).status_code == 401  # type: ignore[arg-type]
    assert world.account.aws.calls["sts", "GetCallerIdentity"] == before


def raw(world: World, *lines: str | bytes) -> list[int]:
    """The statuses of the answers to a request with these header lines."""
    sent = [line.encode() if isinstance(line, str) else line for line in lines]
    return statuses(
        exchange(
            world.server.port,
            b"\r\n".join(
                [b"GET /iam/whoami HTTP/1.1", b"Host: localhost", b"Connection: close", *sent, b"", b""]
            ),
        )
    )


def test_header_twice(world: World) -> None:
    good, bad = f"Authorization: Bearer {pack(world.fields)}", "Authorization: Bearer x"
    assert raw(world, good) == [200]
    for lines in ([good, bad], [bad, good], [good, good], [good, bad.lower()], [good, "AUTHORIZATION:"]):
        assert raw(world, *lines) == [400], lines


@pytest.mark.parametrize(
    "line",
    [
        "authorization : Bearer {}",
        "X: y\r\n Authorization: Bearer {}",
        "Authorization:\x0bBearer {}",
        "Authorization\x00: Bearer {}",
        "X: y\rAuthorization: Bearer {}",
        "Authorization: Bearer\x00 {}",
        "Authorization: Bearer {}\x00",
        "Authorization: Bearer\xa0{}",
        "x_mlflow_user: admin\r\nAuthorization_: Bearer {}",
    ],
)
def test_header_smuggled(world: World, line: str) -> None:
    assert raw(world, line.format(pack(world.fields)).encode("latin-1")) in ([400], [401], [])


def test_folded_header_is_no_second_one(world: World) -> None:
    assert raw(world, "Authorization: Bearer x\r\n Bearer " + pack(world.fields)) in ([400], [401], [])


class Relay(BaseHTTPRequestHandler):
    """A server that keeps the proofs it is shown."""

    seen: list[str]

    def do_GET(self) -> None:
        self.seen.append(self.headers["Authorization"])
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing."""


@pytest.fixture
def relay() -> Iterator[tuple[str, list[str]]]:
    """A hostile server that people were talked into using: its URL and what it was shown."""
    handler = type("Handler", (Relay,), {"seen": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", handler.seen  # type: ignore[attr-defined]
        server.shutdown()


def test_relayed_token(world: World, relay: tuple[str, list[str]]) -> None:
    url, seen = relay
    requests.get(url, headers=bearer(world.keys, url), timeout=30)
    (shown,) = seen
    answer = world.call({"Authorization": shown})
    assert (answer.status_code, "signed for 127.0.0.1" in answer.text) == (401, True)
    encoded = shown.removeprefix(f"Bearer {PREFIX}")
    fields = json.loads(base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)))
    answer = world.call(token({**fields, "h": "localhost"}))
    assert (answer.status_code, "does not confirm the signature" in answer.text) == (401, True)


@pytest.mark.parametrize("path", ["/iam/token", "/iam/presigned-url"])
def test_a_bearer_or_a_session_makes_no_other(world: World, path: str) -> None:
    assert world.call(text(world.bearer()), method="POST", path=path).status_code == 403
    headers = {"Cookie": world.session(), "Origin": "http://mlflow.example.com"}
    assert world.call(headers, method="POST", path=path).status_code == 403


def test_link_works_once(world: World) -> None:
    link = world.link()
    found = [
        requests.post(
            f"{world.server.url}/iam/session",
            json={"token": value},
            headers={"Origin": origin},
            timeout=30,
        ).status_code
        for value, origin in [
            (link, "http://evil.example.com"),
            (flipped(link, 30), "http://mlflow.example.com"),
            (world.bearer(), "http://mlflow.example.com"),
            (link, "http://mlflow.example.com"),
            (link, "http://mlflow.example.com"),
        ]
    ]
    assert found == [403, 401, 401, 204, 401]
    assert link not in world.server.output


def test_session_of_another_site(world: World) -> None:
    cookie = world.session()
    for headers in (
        {},
        {"Origin": "http://evil.example.com"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
    ):
        answer = world.call({"Cookie": cookie, **headers}, method="POST", path="/iam/flush")
        assert answer.status_code == 403, headers


def test_deleted_role(world: World) -> None:
    account = world.account
    account.role(
        "Gone",
        {
            "Version": "2012-10-17",
            "Statement": [{"Effect": "Allow", "Action": "sagemaker-mlflow:*", "Resource": "*"}],
        },
    )
    headers = token(sign(account.assume("Gone")))
    search = {"method": "GET", "path": "/api/2.0/mlflow/experiments/get?experiment_id=0"}
    assert world.call(headers, **search).status_code == 200
    made = text(world.call(headers, method="POST", path="/iam/token").json()["access_token"])
    account.iam.delete_role_policy(RoleName="mlflow-test-Gone", PolicyName="access")
    account.iam.delete_role(RoleName="mlflow-test-Gone")
    account.role(
        "Gone",
        {
            "Version": "2012-10-17",
            "Statement": [{"Effect": "Allow", "Action": "sagemaker-mlflow:*", "Resource": "*"}],
        },
    )
    assert world.call(token(world.fields), method="POST", path="/iam/flush").status_code == 200
    time.sleep(1.2)
    assert world.call(headers, **search).status_code in (401, 403)
    assert world.call(made, **search).status_code == 403


def test_bearer_of_another_server(world: World, guarded: Guarded) -> None:
    arn = "arn:aws:sagemaker:eu-west-1:123456789012:mlflow-tracking-server/other"
    other = serve(guarded, TRACKING_SERVER_ARN=arn)
    theirs = changed(world, server=other)
    try:
        assert theirs.call(text(theirs.bearer())).status_code == 200
        assert world.call(text(theirs.bearer())).status_code == 401
        assert theirs.call(text(world.bearer())).status_code == 401
        assert theirs.call({"Cookie": world.session()}).status_code == 401
    finally:
        other.kill()
