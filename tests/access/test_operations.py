"""Every operation of the stock client, by every role, through a proxy: as the role's policy says, and no other way."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
from guarded import ARN, Guarded, bearer
from mlflow.exceptions import MlflowException
from operations import OPERATIONS, Client, Operation, World
from proxy import Proxy, proxy, serve
from server_process import Server

from local.iam import decide
from stacks.access import ROLES, policy_document

ROUTES = Path(__file__).parents[2] / "container" / "tracking_server" / "access" / "routes.json"
FILES = {role: file for file, role in ROLES.items()}

# what the table of roles in the documentation promises, in the order Reader, DataScientist, ModelApprover, Admin
PROMISED = {
    "get run": (True, True, True, True),
    "search traces": (True, True, True, True),
    "download artifact": (True, True, True, True),
    "open the interface": (True, True, True, True),
    "who am I": (True, True, True, True),
    "create run": (False, True, False, True),
    "upload artifact": (False, True, False, True),
    "send spans": (False, True, False, True),
    "create model version": (False, True, False, True),
    "set alias": (False, False, True, True),
    "move model version to a stage": (False, False, True, True),
    "tag model version": (False, True, True, True),
    "rename registered model": (False, False, False, True),
    "delete model version": (False, False, False, True),
    "create webhook": (False, False, False, True),
    "list gateway endpoints": (False, False, False, True),
    "forget access": (False, False, False, True),
}


@pytest.fixture(scope="module", params=["iam", "roles"])
def front(
    request: pytest.FixtureRequest, guarded: Guarded, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proxy]:
    """nginx in front of a server of each engine."""
    roles = {"ACCESS_ROLES": guarded.policies()} if request.param == "roles" else {}
    server = serve(guarded, ACCESS_ENGINE=request.param, **roles)
    with proxy(directory=tmp_path_factory.mktemp("nginx") / "run", ports=[server.port]) as running:
        yield running
    server.kill()


def missing(operation: Operation, role: str) -> list[str]:
    """The actions that an operation needs and the policy of a role does not allow."""
    statements = policy_document(FILES[role], ARN)["Statement"]
    return [
        action
        for action in operation.actions
        if not decide(
            statements=statements,
            boundary=None,
            action=f"sagemaker-mlflow:{action}",
            resource="*" if action == "AccessUI" else ARN,
            context={},
        )[0]
    ]


def refusal(error: Exception) -> tuple[str, str]:
    """The error code and the message of what the client raised."""
    if isinstance(error, MlflowException):
        return error.error_code, error.message
    # what the client raises where it handles files
    if isinstance(error, requests.HTTPError) and error.response is not None:
        answer = error.response.json()
        return answer["error_code"], answer["message"]
    return type(error).__name__, str(error)


def outcome(operation: Operation, client: Client, world: World) -> tuple[str, str]:
    """The refusal of an operation, two empty strings when it was done."""
    try:
        operation.call(client, world)
    except Exception as error:
        return refusal(error)
    return "", ""


def mismatch(operation: Operation, role: str, code: str, message: str, role_session: str) -> str | None:
    """What is wrong with an outcome."""
    lacks = missing(operation, role)
    if not lacks:
        return f"{operation.name}: {code} {message}" if code else None
    if code != "PERMISSION_DENIED":
        return f"{operation.name}: needs {lacks}, but: {code or 'was done'} {message}"
    resource = "*" if lacks[0] == "AccessUI" else ARN
    expected = (
        f"User: {role_session} is not authorized to perform: sagemaker-mlflow:{lacks[0]} "
        f"on resource: {resource} because no identity-based policy allows"
    )
    return None if expected in message else f"{operation.name}: says {message!r}"


def test_table() -> None:
    names = [operation.name for operation in OPERATIONS]
    assert len(names) == len(set(names)) >= 60
    assert PROMISED.keys() <= set(names)
    official = json.loads(ROUTES.read_text())["official_actions"]
    assert {action for operation in OPERATIONS for action in operation.actions} >= set(official)


@pytest.mark.parametrize("name", PROMISED)
def test_policies_keep_the_promise(name: str) -> None:
    operation = next(operation for operation in OPERATIONS if operation.name == name)
    assert tuple(not missing(operation, role) for role in ROLES.values()) == PROMISED[name]


@pytest.mark.parametrize("role", ROLES.values())
def test_operations_of_a_role(
    front: Proxy, as_role: Callable[[str], None], role: str, guarded: Guarded
) -> None:
    as_role("Admin")
    world = World(Client(front.url))
    as_role(role)
    client = Client(front.url)
    session = guarded.account.roles[role].replace(":iam:", ":sts:").replace(":role/", ":assumed-role/")
    found = [
        mismatch(operation, role, *outcome(operation, client, world), f"{session}/person")
        for operation in OPERATIONS
    ]
    wrong = list(filter(None, found))
    assert not wrong, "\n".join(wrong)


@dataclass(frozen=True)
class Pair:
    """Two server processes on one database, and nginx that asks them in turn."""

    servers: tuple[Server, Server]
    front: Proxy


@pytest.fixture(scope="module")
def pair(guarded: Guarded, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    servers = serve(guarded), serve(guarded)
    directory = tmp_path_factory.mktemp("pair") / "run"
    with proxy(directory=directory, ports=[server.port for server in servers]) as front:
        yield Pair(servers, front)
    for server in servers:
        server.kill()


def statuses(pair: Pair, **options: dict[str, str]) -> set[int]:
    """What both servers answer, asked themselves and through nginx."""
    urls = [pair.servers[0].url, pair.servers[1].url, *[pair.front.url] * 4]
    return {requests.get(f"{url}/iam/whoami", timeout=30, **options).status_code for url in urls}


def test_bearer_of_one_process_holds_on_the_other(pair: Pair, guarded: Guarded) -> None:
    first = pair.servers[0].url
    proof = bearer(guarded.account.assume("Reader"), first)
    made = requests.post(f"{first}/iam/token", headers=proof, timeout=30).json()
    headers = {"Authorization": f"Bearer {made['access_token']}"}
    assert statuses(pair, headers=headers) == {200}
    said = requests.get(f"{pair.servers[1].url}/iam/whoami", headers=headers, timeout=30).json()
    assert (said["via"], said["principal"], said["session"]) == ("bearer", "role", "person")
    assert "GetRun" in said["actions"]
    assert "CreateRun" not in said["actions"]
    assert {line["upstream"] for line in pair.front.requests} == {
        f"127.0.0.1:{server.port}" for server in pair.servers
    }


def test_session_of_one_process_holds_and_ends_on_the_other(pair: Pair, guarded: Guarded) -> None:
    first, second = (server.url for server in pair.servers)
    proof = bearer(guarded.account.assume("Reader"), first)
    link = requests.post(f"{first}/iam/presigned-url", headers=proof, json={}, timeout=30).json()
    body = {"token": link["authorized_url"].partition("#")[2]}
    origin = {"Origin": "http://mlflow.example.com"}
    opened = requests.post(f"{second}/iam/session", json=body, headers=origin, timeout=30)
    assert opened.status_code == 204
    # a link works once, whichever process is asked
    again = requests.post(f"{first}/iam/session", json=body, headers=origin, timeout=30)
    assert again.status_code == 401
    cookies = {"mlflow-session": opened.cookies["mlflow-session"]}
    assert statuses(pair, cookies=cookies) == {200}
    requests.post(f"{first}/iam/logout", headers=origin, cookies=cookies, timeout=30)
    time.sleep(2.5)
    assert statuses(pair, cookies=cookies) == {401}


def test_flush_on_one_process_makes_the_other_forget(pair: Pair, guarded: Guarded) -> None:
    account = guarded.account
    account.role("Leaver", policy_document("reader", ARN))
    leaver = bearer(account.assume("Leaver"), pair.front.url)

    def search(server: Server) -> int:
        url = f"{server.url}/api/2.0/mlflow/experiments/search?max_results=1"
        return requests.get(url, headers=leaver, timeout=30).status_code

    assert set(map(search, pair.servers)) == {200}
    account.iam.delete_role_policy(RoleName="mlflow-test-Leaver", PolicyName="access")
    time.sleep(1.5)
    assert set(map(search, pair.servers)) == {200}, "nothing was remembered, so the rest shows nothing"
    admin = bearer(account.assume("Admin"), pair.front.url)
    assert requests.post(f"{pair.servers[0].url}/iam/flush", headers=admin, timeout=30).status_code == 200
    deadline = time.monotonic() + 2
    for server in pair.servers:
        while search(server) != 403:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert set(map(search, pair.servers)) == {403}
