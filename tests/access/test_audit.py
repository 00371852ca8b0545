"""The record of decisions: one line for each request, complete, never lost, and without anybody's secrets."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests
import urllib3
from guarded import ARN, Guarded, Keys, audit_lines, bearer, gate_variables
from mlflow.exceptions import MlflowException
from operations import OPERATIONS, Client, World
from proxy import Proxy, proxy, serve
from server_process import Server

FIELDS = [
    "time",
    "logger",
    "request_id",
    "source_ip",
    "method",
    "path",
    "arn",
    "unique_id",
    "via",
    "actions",
    "resource",
    "decision",
    "status",
    "reason",
]
PUBLIC = {"/health", "/api/3.0/mlflow/server-info"}
"""What anybody may ask, about which nothing is decided."""

REMEMBERED = {"sagemaker-mlflow:GetRun"}
"""The client keeps in mind where the files of a run are."""

NOT_SET_UP = ("/users/list", "/presigned-download-url", "/presigned-upload-url")
"""What MLflow itself refuses where it has no users of its own and hands out no places of files."""

REQUESTS = 200


@pytest.fixture(scope="module")
def proxied(guarded: Guarded) -> Server:
    """A server that is reached through nginx."""
    return serve(guarded)


@pytest.fixture(scope="module")
def front(proxied: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with proxy(directory=tmp_path_factory.mktemp("nginx") / "run", ports=[proxied.port]) as running:
        yield running


@pytest.mark.parametrize("role", ["DataScientist", "Admin"])
def test_one_line_for_each_request(
    guarded: Guarded, proxied: Server, front: Proxy, as_role: Callable[[str], None], role: str
) -> None:
    as_role("Admin")
    world = World(Client(front.url))
    as_role(role)
    client = Client(front.url)
    settle(front, proxied, client)
    answered, decided = len(front.requests), len(audit_lines(proxied))
    wrong = []
    for operation in OPERATIONS:
        before = len(audit_lines(proxied))
        try:
            operation.call(client, world)
        except (MlflowException, requests.HTTPError) as error:
            logging.getLogger(__name__).debug("%s: %s", operation.name, error)
        asked = {action for line in audit_lines(proxied)[before:] for action in line["actions"]}
        needed = {f"sagemaker-mlflow:{action}" for action in operation.actions}
        if not asked <= needed or not needed - asked <= REMEMBERED or bool(needed) != bool(asked):
            wrong.append(f"{operation.name}: {sorted(asked)}")
    assert not wrong, "\n".join(wrong)

    settle(front, proxied, client)
    requested = [line for line in front.requests[answered:] if line["path"] not in PUBLIC]
    lines = audit_lines(proxied)[decided:]
    assert len(requested) > len(OPERATIONS) - 10
    assert sorted(line["id"] for line in requested) == sorted(line["request_id"] for line in lines)
    by_id = {line["id"]: line for line in requested}
    for line in lines:
        check(line, by_id[line["request_id"]], guarded=guarded, role=role)


def settle(front: Proxy, server: Server, client: Client) -> None:
    """nginx writes a line when the answer has been sent, so a request after all others has all of them written."""
    seen = sum(line["path"] == "/health" for line in front.requests)
    client.http("GET", "/health")
    server.wait_until(
        lambda: sum(line["path"] == "/health" for line in front.requests) > seen,
        what="last request in nginx's log",
    )


def check(line: dict[str, Any], request: dict[str, Any], *, guarded: Guarded, role: str) -> None:
    """Compare a line of audit with the request that nginx saw."""
    assert list(line) == FIELDS
    assert (line["method"], line["path"]) == (request["method"], request["path"])
    assert line["source_ip"] == request["address"]
    assert line["arn"].endswith(f":assumed-role/mlflow-test-{role}/person")
    assert line["unique_id"] == guarded.account.role_ids[role]
    assert (line["via"], line["resource"]) == ("token", ARN)
    if line["decision"] == "deny":
        assert (line["status"], request["status"]) == (403, 403)
        assert "is not authorized to perform: sagemaker-mlflow:" in line["reason"]
    else:
        assert (line["decision"], line["reason"]) == ("allow", "")
        assert request["status"] < 400 or request["path"].endswith(NOT_SET_UP)


def from_address(url: str, address: str, headers: dict[str, str]) -> int:
    """GET a URL from an address of this machine; the status."""
    with urllib3.PoolManager(source_address=(address, 0)) as pool:
        return pool.request("GET", url.replace("localhost", "127.0.0.1"), headers=headers).status


@pytest.mark.parametrize(
    "claim", ["8.8.8.8", "8.8.8.8, 9.9.9.9", "127.0.0.9", "", "'; drop table", "," * 500]
)
def test_address_is_the_one_that_the_proxy_saw(
    guarded: Guarded, proxied: Server, front: Proxy, claim: str
) -> None:
    address = "127.0.0.2"
    headers = {
        **bearer(guarded.account.assume("Reader"), front.url),
        "Host": f"localhost:{front.port}",
        "X-Forwarded-For": claim,
    }
    try:
        status = from_address(f"{front.url}/iam/whoami", address, headers)
    except urllib3.exceptions.MaxRetryError:
        pytest.skip(f"this machine has no address {address}")
    assert status == 200
    assert audit_lines(proxied)[-1]["source_ip"] == address


def test_address_without_a_proxy(guarded: Guarded, server: Server) -> None:
    headers = {**bearer(guarded.account.assume("Reader"), server.url), "X-Forwarded-For": "8.8.8.8"}
    assert requests.get(f"{server.url}/iam/whoami", headers=headers, timeout=30).status_code == 200
    assert audit_lines(server)[-1]["source_ip"] == "127.0.0.1"


def test_nobody_is_recorded_too(server: Server) -> None:
    answer = requests.post(f"{server.url}/api/2.0/mlflow/runs/create", json={}, timeout=30)
    assert (answer.status_code, answer.json()["error_code"]) == (401, "UNAUTHENTICATED")
    line = audit_lines(server)[-1]
    assert (line["decision"], line["status"], line["arn"], line["unique_id"]) == ("deny", 401, None, None)


@pytest.fixture
def log_group(guarded: Guarded, request: pytest.FixtureRequest) -> str:
    """An audit log group of the test's own."""
    name = f"/audit/{request.node.name}"
    guarded.account.aws.client("logs").create_log_group(logGroupName=name)
    return name


def ask(guarded: Guarded, server: Server, times: int) -> list[str]:
    """Ask a server often, at the same time; the ids of the requests."""
    headers = bearer(guarded.account.assume("Reader"), server.url)
    identifiers = [f"Root=1-{server.port}-{guarded.account.aws.calls.total()}-{n}" for n in range(times)]

    def one(identifier: str) -> int:
        named = {**headers, "X-Amzn-Trace-Id": identifier}
        return requests.get(f"{server.url}/iam/whoami", headers=named, timeout=60).status_code

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(one, identifiers)) == {200}
    return sorted(identifiers)


def in_group(guarded: Guarded, group: str) -> list[dict[str, Any]]:
    """The lines that CloudWatch has."""
    logs = guarded.account.aws.client("logs")
    pages = logs.get_paginator("filter_log_events").paginate(logGroupName=group)
    return [json.loads(event["message"]) for page in pages for event in page["events"]]


def ids(lines: list[dict[str, Any]]) -> list[str]:
    return sorted(line["request_id"] for line in lines)


def test_none_is_lost_when_the_server_ends(guarded: Guarded, log_group: str) -> None:
    server = guarded.serve(ACCESS_AUDIT_LOG_GROUP=log_group)
    identifiers = ask(guarded, server, REQUESTS)
    server.terminate()
    assert server.wait() == 0
    lines = in_group(guarded, log_group)
    assert ids(lines) == identifiers
    assert {tuple(line) for line in lines} == {tuple(FIELDS)}
    assert audit_lines(server) == []


def test_what_cloudwatch_refuses_stands_on_standard_output(guarded: Guarded, log_group: str) -> None:
    server = guarded.serve(ACCESS_AUDIT_LOG_GROUP=log_group)
    refused = {"code": "AccessDeniedException", "status": 400, "message": "No."}
    guarded.account.aws.fail("logs", "PutLogEvents", times=1, **refused)
    first = ask(guarded, server, 10)
    server.wait_for_log("the audit log group takes no lines")
    server.wait_until(lambda: audit_lines(server), what="audit lines")
    second = ask(guarded, server, 10)
    server.terminate()
    assert server.wait() == 0
    printed, sent = ids(audit_lines(server)), ids(in_group(guarded, log_group))
    assert printed
    assert set(printed) <= set(first)
    assert set(second) <= set(sent)
    assert sorted(printed + sent) == sorted(first + second)


def secrets_of(keys: Keys, headers: dict[str, str]) -> list[str]:
    """Everything that must not be read anywhere: credentials, the token, and what the token is made of."""
    token = headers["Authorization"].removeprefix("Bearer ")
    encoded = token.partition(".")[2]
    fields = json.loads(base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)))
    assert keys.token is not None
    return [keys.secret_key, keys.token, token, encoded, fields["s"]]


def use_everything(guarded: Guarded, front: Proxy) -> list[str]:
    """Call in every way there is, well and badly; all secrets that were part of it."""
    keys = guarded.account.assume("DataScientist")
    proof = bearer(keys, front.url)
    found = secrets_of(keys, proof)
    http = requests.Session()
    who = f"{front.url}/iam/whoami"
    held = http.post(f"{front.url}/iam/token", headers=proof, timeout=30).json()["access_token"]
    link = http.post(f"{front.url}/iam/presigned-url", headers=proof, json={}, timeout=30).json()
    one_use = link["authorized_url"].partition("#")[2]
    origin = {"Origin": "http://mlflow.example.com"}
    for _ in range(2):  # the second time it is refused
        http.post(f"{front.url}/iam/session", json={"token": one_use}, headers=origin, timeout=30)
    (cookie,) = http.cookies
    assert cookie.value is not None
    for headers in (proof, {"Authorization": f"Bearer {held}"}, {}):
        assert http.get(who, headers=headers, timeout=30).status_code == 200
    altered = [f"{text}x" for text in (proof["Authorization"], f"Bearer {held}", f"Bearer {keys.token}")]
    for text in (*altered, f"Basic {keys.secret_key}"):
        answer = http.get(who, headers={"Authorization": text}, timeout=30)
        assert answer.status_code == 401
        assert not any(secret in answer.text for secret in found)
    http.post(f"{front.url}/iam/logout", headers=origin, timeout=30)
    return [*found, held, one_use, cookie.value]


def test_no_secret_in_any_log(guarded: Guarded, front: Proxy, proxied: Server, log_group: str) -> None:
    database = guarded.backend.database_server
    database.admin("SET GLOBAL log_output = 'TABLE'")
    database.admin("SET GLOBAL general_log = 'ON'")
    try:
        used = use_everything(guarded, front)
        to_group = guarded.start(
            "serve", guarded.backend, **{**gate_variables(), "ACCESS_AUDIT_LOG_GROUP": log_group}
        ).wait_until_healthy()
        keys = guarded.account.assume("Reader")
        proof = bearer(keys, to_group.url)
        for text in (proof["Authorization"], proof["Authorization"] + "x"):
            requests.get(f"{to_group.url}/iam/whoami", headers={"Authorization": text}, timeout=30)
        used += secrets_of(keys, proof)
        to_group.terminate()
        assert to_group.wait() == 0
        statements = database.admin("SELECT CONVERT(argument USING utf8mb4) FROM mysql.general_log")
    finally:
        database.admin("SET GLOBAL general_log = 'OFF'")
    logs = {
        "server": proxied.output,
        "server with a log group": to_group.output,
        "log group": json.dumps(in_group(guarded, log_group)),
        "nginx": front.logs,
        "database": "\n".join(str(argument) for (argument,) in statements),
    }
    assert "kit_access_mark" in logs["database"]
    assert "/iam/session" in logs["server"]
    assert "/iam/session" in logs["nginx"]
    assert "/iam/whoami" in logs["log group"]
    found = [(name, secret[:12]) for name, log in logs.items() for secret in used if secret in log]
    assert found == []
