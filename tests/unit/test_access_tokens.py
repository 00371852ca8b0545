"""Tokens as text: what is read, what is refused, and that no mutation of a good one gets through."""

from __future__ import annotations

import base64
import json
import random
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from tracking_server.access.errors import Unauthenticated
from tracking_server.access.sts import StsTokens
from tracking_server.access.tokens import MAX_BYTES, PREFIX, StsRequest, read

NOW = 1_800_000_000.0
DATE = datetime.fromtimestamp(NOW, timezone.utc).strftime("%Y%m%dT%H%M%SZ")
NAMES = frozenset({"mlflow.example.com", "localhost"})
REGIONS = frozenset({"eu-west-1", "us-east-1", "cn-north-1"})
FIELDS = {
    "c": f"ASIAIOSFODNN7EXAMPLE/{DATE[:8]}/eu-west-1/sts/aws4_request",
    "d": DATE,
    "e": "900",
    "h": "mlflow.example.com",
    "s": "0123456789abcdef" * 4,
    "t": base64.b64encode(bytes(range(256)) * 2).decode(),
}
MUTATIONS = 120_000


def pack(content: object) -> str:
    raw = content if isinstance(content, bytes) else json.dumps(content, separators=(",", ":")).encode()
    return PREFIX + base64.urlsafe_b64encode(raw).decode().rstrip("=")


TOKEN = pack(FIELDS)


def read_now(token: str, *, now: float = NOW) -> StsRequest:
    return read(token, names=NAMES, regions=REGIONS, now=now)


def test_request_is_the_one_question_to_the_one_host() -> None:
    request = read_now(TOKEN)
    assert (request.host, request.expires_at) == ("sts.eu-west-1.amazonaws.com", NOW + 900)
    assert request.headers == {
        "Host": "sts.eu-west-1.amazonaws.com",
        "x-mlflow-server-id": "mlflow.example.com",
        "Accept": "text/xml",
    }
    assert dict(parse_qsl(urlsplit(request.path).query, strict_parsing=True)) == {
        "Action": "GetCallerIdentity",
        "Version": "2011-06-15",
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
        "X-Amz-Credential": FIELDS["c"],
        "X-Amz-Date": DATE,
        "X-Amz-Expires": "900",
        "X-Amz-SignedHeaders": "host;x-mlflow-server-id",
        "X-Amz-Security-Token": FIELDS["t"],
        "X-Amz-Signature": FIELDS["s"],
    }


def test_hosts_of_china_have_their_own_suffix() -> None:
    fields = {**FIELDS, "c": FIELDS["c"].replace("eu-west-1", "cn-north-1")}
    assert read_now(pack(fields)).host == "sts.cn-north-1.amazonaws.com.cn"


@pytest.mark.parametrize(
    ("seconds", "good"), [(-301, False), (-300, True), (0, True), (899.9, True), (900, False), (1e6, False)]
)
def test_time(seconds: float, good: bool) -> None:
    if good:
        assert read_now(TOKEN, now=NOW + seconds).expires_at == NOW + 900
    else:
        with pytest.raises(Unauthenticated, match="clock"):
            read_now(TOKEN, now=NOW + seconds)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"h": "other.example.com"}, "signed for other.example.com"),
        ({"c": FIELDS["c"].replace("eu-west-1", "eu-west-2")}, "MLFLOW_AWS_IAM_REGION"),
        ({"c": FIELDS["c"].replace("ASIA", "AKIA")}, "temporary credentials"),
        ({"d": "20261399T000000Z"}, "malformed"),
        ({"d": "00000101T000000Z", "c": FIELDS["c"].replace(DATE[:8], "00000101")}, "malformed"),
        ({"d": "00010101T000000Z", "c": FIELDS["c"].replace(DATE[:8], "00010101")}, "expired"),
        ({"d": "99991231T235959Z", "c": FIELDS["c"].replace(DATE[:8], "99991231")}, "future"),
        ({"d": f"{DATE[:9]}235961Z"}, "malformed"),
        ({"e": "901"}, "malformed"),
    ],
)
def test_refusal_says_why(change: dict[str, str], message: str) -> None:
    with pytest.raises(Unauthenticated, match=message):
        read_now(pack({**FIELDS, **change}))


def test_longest_token() -> None:
    def of(length: int) -> str:
        token = pack({**FIELDS, "t": "A" * length})
        assert len(token) <= MAX_BYTES or length > 5700
        return token

    assert read_now(of(5600))
    with pytest.raises(Unauthenticated):
        read_now(of(6001))


def test_order_of_fields_does_not_matter_and_spelling_does() -> None:
    assert read_now(pack(dict(reversed(FIELDS.items())))) == read_now(TOKEN)
    text = json.dumps(FIELDS, separators=(",", ":"))
    for other in (
        json.dumps(FIELDS).encode(),
        f" {text}".encode(),
        text.replace("mlflow.", "\\u006dlflow.").encode(),
        text.replace("/eu-west-1", "\\/eu-west-1").encode(),
        b"\xef\xbb\xbf" + text.encode(),
        text.encode("utf-16"),
        text.encode("utf-32-be"),
    ):
        with pytest.raises(Unauthenticated, match="malformed"):
            read_now(pack(other))


# --- mutations

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
ODD = ["", "=", "+", "/", ".", " ", "\n", "\0", "\xa0", "\xff", "\x85", "%2e", '"', "{", "é"]
VALUES: list[Any] = [
    *(
        None,
        True,
        0,
        -1,
        1e309,
        [],
        {},
        "",
        " ",
        "*",
        "900",
        "localhost",
        "sts.amazonaws.com",
        "\r\n",
        "\0",
        "%00",
    ),
    *("AKIA", "&Action=AssumeRole", "#", "@evil.example.com", "٩٠٠", "A" * 7000, "../..", DATE, DATE[:8]),
    *FIELDS.values(),
]


def flip(chance: random.Random) -> str:
    """A bit of the document."""
    raw = bytearray(json.dumps(FIELDS, separators=(",", ":")).encode())
    for _ in range(chance.choice([1, 1, 1, 2, 5])):
        raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
    return pack(bytes(raw))


def respell(chance: random.Random) -> str:
    """A character of the token."""
    at = chance.randrange(len(TOKEN))
    with_ = chance.choice([*ALPHABET, *ODD])
    return TOKEN[:at] + with_ + TOKEN[at + chance.choice([0, 1, 1, 3]) :]


def splice(chance: random.Random) -> str:
    """Pieces of the token in another order, or twice, or less of them."""
    first, second = sorted((chance.randrange(len(TOKEN)), chance.randrange(len(TOKEN))))
    pieces = [TOKEN[:first], TOKEN[first:second], TOKEN[second:], PREFIX, TOKEN]
    return "".join(chance.choice(pieces) for _ in range(chance.randrange(1, 5)))


def refill(chance: random.Random) -> str:
    """A field with another value, or that of another field."""
    fields: dict[str, Any] = dict(FIELDS)
    for _ in range(chance.choice([1, 1, 2])):
        name, value = chance.choice([*FIELDS, "x", "Action", "C"]), chance.choice(VALUES)
        if isinstance(value, str) and isinstance(fields.get(name), str) and chance.random() < 0.5:
            at = chance.randrange(len(fields[name]) + 1)
            value = fields[name][:at] + value[:200] + fields[name][at:]
        if chance.random() < 0.1:
            fields.pop(name, None)
        else:
            fields[name] = value
    return pack(fields)


def invent(chance: random.Random) -> str:
    """Bytes or JSON that have nothing to do with it."""
    if chance.random() < 0.5:
        return PREFIX + "".join(chance.choices(ALPHABET, k=chance.randrange(60)))
    brackets = "".join(chance.choices('[]{}",:0aehst\\ ', k=chance.randrange(40)))
    return pack(brackets.encode() * chance.choice([1, 1, 1, 200]))


def wrap(chance: random.Random) -> str:
    """The document inside of another, or in another encoding."""
    text = json.dumps(FIELDS, separators=(",", ":"))
    start, end = (
        chance.choice(["", "[", '{"h":', " ", "//\n", "\ufeff", "{"]),
        chance.choice(["", "]", "}", "\n", "\0"]),
    )
    encoding = chance.choice(["utf-8", "utf-8", "utf-16", "utf-16-le", "utf-32", "utf-8-sig"])
    text = f'{start}{text[:-1]},"h":"localhost"}}{end}' if chance.random() < 0.3 else f"{start}{text}{end}"
    return pack(text.encode(encoding))


MUTATE: list[Callable[[random.Random], str]] = [flip, respell, splice, refill, invent, wrap]


class Sent(Exception):
    """A token got as far as STS."""


def fields_of(request: StsRequest) -> dict[str, str]:
    """What a request asks STS, as fields of a token."""
    query = dict(parse_qsl(urlsplit(request.path).query, strict_parsing=True))
    assert (query.pop("Action"), query.pop("Version")) == ("GetCallerIdentity", "2011-06-15")
    assert query.pop("X-Amz-SignedHeaders") == "host;x-mlflow-server-id"
    assert query.pop("X-Amz-Algorithm") == "AWS4-HMAC-SHA256"
    names = {"Credential": "c", "Date": "d", "Expires": "e", "Signature": "s", "Security-Token": "t"}
    fields = {names[name.removeprefix("X-Amz-")]: value for name, value in query.items()}
    return fields | {"h": request.headers["x-mlflow-server-id"]}


def test_no_mutation_gets_through(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """STS confirms the original alone, as the real one does; all others must be refused, and by a refusal."""
    monkeypatch.setattr(time, "time", lambda: NOW)
    prover = StsTokens(names=NAMES, regions=REGIONS, tracking_server_arn="arn:aws:sagemaker:eu-west-1:1:x/y")
    hosts = {
        f"sts.{region}.amazonaws.com" + (".cn" if region.startswith("cn-") else "") for region in REGIONS
    }
    passed_on = 0

    def send(request: StsRequest) -> tuple[int, str, bytes]:
        nonlocal passed_on
        passed_on += 1
        assert request.host in hosts
        assert request.headers.keys() == {"Host", "x-mlflow-server-id", "Accept"}
        assert request.headers["Host"] == request.host
        assert request.headers["x-mlflow-server-id"] in NAMES
        assert NOW < request.expires_at <= NOW + 300 + 900
        assert request.path.isascii()
        assert request.path.isprintable()
        if fields_of(request) == FIELDS:
            raise Sent
        return 403, "text/xml", b"<Code>SignatureDoesNotMatch</Code>"

    monkeypatch.setattr(prover, "_send", send)
    chance = random.Random(20_110_615)  # noqa: S311 - the same mutations every time
    started, refused, originals, leaked = time.monotonic(), 0, 0, 0
    for number in range(MUTATIONS):
        token = MUTATE[number % len(MUTATE)](chance)
        if not prover.recognises(token):
            refused += 1
            continue
        try:
            prover.prove(token)
        except Unauthenticated as error:
            refused += 1
            leaked += FIELDS["t"][:40] in error.message
        except Sent:
            assert json.loads(base64.urlsafe_b64decode(token[len(PREFIX) :] + "==")) == FIELDS
            assert len(token) == len(TOKEN)
            originals += 1
    seconds = time.monotonic() - started
    with capsys.disabled():
        print(
            f"\n{MUTATIONS} mutated tokens in {seconds:.0f} s: {refused} refused, {passed_on - originals} of them by "
            f"the signature; {originals} were the original again"
        )
    assert refused + originals == MUTATIONS
    assert not leaked
    assert originals < MUTATIONS / 20
    assert passed_on > originals + 1000
    assert seconds < 60
