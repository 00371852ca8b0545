"""The gate in this process: what is remembered, for how long, and what happens when AWS cannot be asked."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest
from tracking_server.access import authentication, permissions
from tracking_server.access.authentication import Authentication, Throttle
from tracking_server.access.caller import Caller
from tracking_server.access.engines import ACCESS_UI, IamEngine, RolesEngine
from tracking_server.access.errors import Refused, TooManyRequests, Unauthenticated, Unavailable
from tracking_server.access.permissions import Grants, Permissions, Throttled
from tracking_server.access.proof import Proof
from tracking_server.access.routes import Routes

from benchmarks.in_process import InProcess
from local.iam import decide
from stacks.access import ROLES, policy_document

ACCOUNT = "123456789012"
ARN = f"arn:aws:sagemaker:eu-west-1:{ACCOUNT}:mlflow-tracking-server/mlflow-test"
ROUTES = Routes.load()
ROLE = Caller(
    arn=f"arn:aws:sts::{ACCOUNT}:assumed-role/R/person",
    unique_id="AROAABCDEFGHIJKLMNOPQ",
    account=ACCOUNT,
    kind="role",
    name="R",
    session="person",
)
ALL = {"Effect": "Allow", "Action": "sagemaker-mlflow:*", "Resource": "*"}


class Clock:
    """Time that passes when a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(permissions.time, "monotonic", lambda: self.now)


class FakeEngine:
    """An engine that answers what the test says."""

    name = "iam"

    def __init__(self, *answers: Grants | Exception) -> None:
        self.answers, self.asked = list(answers), 0

    def ask(self, caller: Caller, *, address: str | None) -> Grants:
        """See Engine."""
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


class FakeIam:
    """IAM's answers from policies at hand, in the place of its client."""

    def __init__(self, statements: list[dict[str, Any]], *, boundary: Any = None, **entity: Any) -> None:
        self.statements, self.boundary = statements, boundary
        self.entity = {"Arn": f"arn:aws:iam::{ACCOUNT}:role/team/R", "RoleId": ROLE.unique_id, **entity}
        self.calls: list[str] = []
        self.sources: set[str] = set()

    def get_role(self, RoleName: str) -> dict[str, Any]:
        self.calls.append("GetRole")
        return {"Role": self.entity}

    def get_user(self, UserName: str) -> dict[str, Any]:
        self.calls.append("GetUser")
        return {"User": self.entity}

    def get_paginator(self, name: str) -> FakeIam:
        assert name == "simulate_principal_policy"
        return self

    def paginate(self, **request: Any) -> list[dict[str, Any]]:
        """One page of the simulator."""
        self.calls.append("Simulate")
        self.sources.add(request["PolicySourceArn"])
        context = {
            entry["ContextKeyName"].lower(): entry["ContextKeyValues"][0]
            for entry in request["ContextEntries"]
        }
        results = []
        for action in request["ActionNames"]:
            allowed, reason = decide(
                statements=self.statements,
                boundary=self.boundary,
                action=action,
                resource=request["ResourceArns"][0],
                context=context,
            )
            explicit = "explicit deny" in reason
            keys = {
                key
                for statement in self.statements
                for operator in statement.get("Condition", {}).values()
                for key in operator
            }
            results.append(
                {
                    "EvalActionName": action,
                    "EvalDecision": "allowed" if allowed else "explicitDeny" if explicit else "implicitDeny",
                    "MissingContextValues": [key for key in keys if key.lower() not in context],
                }
            )
        return [{"EvaluationResults": results}]


def iam_engine(iam: FakeIam) -> IamEngine:
    engine = IamEngine(routes=ROUTES, tracking_server_arn=ARN, secure=True)
    engine._local.iam = iam
    return engine


def allowed(
    statements: list[dict[str, Any]], caller: Caller = ROLE, address: str = "10.0.0.1", **options: Any
) -> Any:
    """What IAM's engine and the memory around it allow, asked in this thread."""
    engine = iam_engine(FakeIam(statements, **options))
    grants = engine.ask(caller, address=None)
    return engine.ask(caller, address=address).allowed if grants.by_call else grants.allowed


# --- memory of permissions


def test_revocation_counts_after_five_minutes_at_the_latest(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, engine = (
        Clock(monkeypatch),
        FakeEngine(Grants(allowed=frozenset({"GetRun"})), Grants(allowed=frozenset())),
    )
    part = Permissions(engine)

    async def run() -> None:
        for seconds, wanted in ((0, {"GetRun"}), (0.79 * 300, {"GetRun"}), (300.1, set())):
            clock.now = 1000 + seconds
            assert (await part.of(ROLE, address="a")).allowed == wanted

    asyncio.run(run())
    assert engine.asked == 2


def test_throttled_iam(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    part = Permissions(FakeEngine(Grants(allowed=frozenset({"GetRun"})), Throttled()))

    async def run() -> None:
        for seconds in (0, 301, 899):
            clock.now = 1000 + seconds
            assert (await part.of(ROLE, address="a")).allowed == {"GetRun"}
        clock.now = 1000 + 901
        with pytest.raises(Unavailable):
            await part.of(ROLE, address="a")
        with pytest.raises(Unavailable):  # nothing is known of whoever is new
            await Permissions(FakeEngine(Throttled())).of(ROLE, address="a")

    asyncio.run(run())


def test_iam_that_is_down_allows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    part = Permissions(FakeEngine(Grants(allowed=frozenset({"GetRun"})), Unavailable("down")))

    async def run() -> None:
        await part.of(ROLE, address="a")
        clock.now += 301
        with pytest.raises(Unavailable):
            await part.of(ROLE, address="a")

    asyncio.run(run())


def test_an_answer_from_before_a_flush_is_none_after_it() -> None:
    going, asked = threading.Event(), threading.Event()

    class Slow(FakeEngine):
        def ask(self, caller: Caller, *, address: str | None) -> Grants:
            answer = super().ask(caller, address=address)
            if self.asked == 1:
                asked.set()
                going.wait(10)
            return answer

    part = Permissions(Slow(Grants(allowed=frozenset({"GetRun"})), Grants(allowed=frozenset())))

    async def run() -> None:
        first = asyncio.ensure_future(part.of(ROLE, address="a"))
        while not asked.is_set():
            await asyncio.sleep(0.01)
        part.forget()
        assert (await part.of(ROLE, address="a")).allowed == set()
        going.set()
        assert (await first).allowed == {"GetRun"}
        assert (await part.of(ROLE, address="a")).allowed == set()

    asyncio.run(run())


def test_single_flight() -> None:
    iam = FakeIam([ALL], RoleId=f"AROA{1:017d}")
    part = InProcess()
    part.permissions.engine = iam_engine(iam)
    # engines have a client for each thread: here all threads have the same
    part.permissions.engine._local = type("Shared", (), {"iam": iam})()  # type: ignore[assignment]

    async def crowd() -> None:
        await asyncio.gather(*(part.call(1) for _ in range(32)))

    asyncio.run(crowd())
    official = len(ROUTES.official_actions - {ACCESS_UI})
    extensions = len(ROUTES.all_actions() - ROUTES.official_actions)
    assert (part.refused, part.prover.calls) == (0, 1)
    assert iam.calls.count("GetRole") == 1
    assert iam.calls.count("Simulate") == -(-official // 50) - (-extensions // 50) + 1


# --- what policies say


def test_explicit_deny() -> None:
    deny = {"Effect": "Deny", "Action": "sagemaker-mlflow:Delete*", "Resource": "*"}
    grants = iam_engine(FakeIam([ALL, deny])).ask(ROLE, address=None)
    assert "CreateRun" in grants.allowed
    assert {"DeleteRun", "DeleteExperiment"} <= grants.explicitly_denied
    assert not grants.allowed & grants.explicitly_denied


@pytest.mark.parametrize(("tag", "good"), [("ml", True), ("hr", False), (None, False)])
def test_principal_tag(tag: str | None, good: bool) -> None:
    condition = {"StringEquals": {"aws:PrincipalTag/team": "ml"}}
    tags = [{"Key": "team", "Value": tag}] if tag else []
    assert ("GetRun" in allowed([{**ALL, "Condition": condition}], Tags=tags)) is good


@pytest.mark.parametrize(("address", "good"), [("10.1.2.3", True), ("10.2.0.1", False), ("::1", False)])
def test_source_address(address: str, good: bool) -> None:
    condition = {"IpAddress": {"aws:SourceIp": "10.1.0.0/16"}}
    assert ("GetRun" in allowed([{**ALL, "Condition": condition}], address=address)) is good


def test_each_address_has_grants_of_its_own() -> None:
    engine = iam_engine(FakeIam([{**ALL, "Condition": {"IpAddress": {"aws:SourceIp": "10.1.0.0/16"}}}]))
    engine._local = type("Shared", (), {"iam": engine._local.iam})()  # type: ignore[assignment]
    part = Permissions(engine)

    async def run() -> None:
        for address, good in (("10.1.0.1", True), ("10.2.0.1", False), ("10.1.0.1", True)):
            assert bool((await part.of(ROLE, address=address)).allowed) is good

    asyncio.run(run())


@pytest.mark.parametrize(("session", "good"), [("person", True), ("other", False)])
def test_user_id(session: str, good: bool) -> None:
    condition = {"StringLike": {"aws:userid": f"*:{session}"}}
    assert ("GetRun" in allowed([{**ALL, "Condition": condition}])) is good


def test_boundary() -> None:
    boundary = [{"Effect": "Allow", "Action": "sagemaker-mlflow:Get*", "Resource": "*"}]
    found = allowed([ALL], boundary=boundary)
    assert "GetRun" in found
    assert "CreateRun" not in found


def test_role_that_was_made_anew() -> None:
    assert not allowed([ALL], RoleId="AROAZZZZZZZZZZZZZZZZZ")


def test_user_with_a_path() -> None:
    arn = f"arn:aws:iam::{ACCOUNT}:user/data/team/u"
    user = Caller(arn=arn, unique_id="AIDAABCDEFGHIJKLMNOPQ", account=ACCOUNT, kind="user", name="u")
    iam = FakeIam([ALL], Arn=arn, UserId=user.unique_id)
    assert "GetRun" in iam_engine(iam).ask(user, address=None).allowed
    assert iam.sources == {arn}


@pytest.mark.parametrize(("file", "role"), ROLES.items())
def test_engines_agree(file: str, role: str) -> None:
    document = policy_document(file, ARN)
    roles = RolesEngine(
        routes=ROUTES, tracking_server_arn=ARN, policies={ROLE.unique_id: document}, secure=True
    ).ask(ROLE, address=None)
    iam = iam_engine(FakeIam(document["Statement"])).ask(ROLE, address=None)
    assert roles.allowed == iam.allowed
    assert roles.explicitly_denied == iam.explicitly_denied
    assert roles.allowed


# --- failed proofs


class Prover:
    """Takes what begins with `good`, after a while."""

    via = "token"

    def __init__(self) -> None:
        self.calls = 0

    def recognises(self, text: str) -> bool:
        """See Prover."""
        return True

    def prove(self, text: str) -> Proof:
        """See Prover."""
        self.calls += 1
        time.sleep(0.01)
        if not text.startswith("good"):
            raise Unauthenticated("no")
        return Proof(caller=ROLE, expires_at=time.time() + 900)


async def status(part: Authentication, text: str, address: str) -> int:
    try:
        await part.prove(text, address=address)
    except Refused as error:
        return error.status
    return 200


def test_failures_are_limited_by_address() -> None:
    prover = Prover()
    part = Authentication([prover])

    async def run() -> None:
        assert await status(part, "good known", "a") == 200
        found = [await status(part, f"bad{n}", "a") for n in range(80)]
        assert set(found) == {401, 429}
        assert prover.calls < 70
        assert await status(part, "good known", "a") == 200  # who is known already
        assert await status(part, "good new", "b") == 200  # and who is elsewhere
        assert await status(part, "bad0", "a") == 401  # known to be bad

    asyncio.run(run())


def test_a_crowd_behind_one_address_is_not_limited() -> None:
    part = Authentication([Prover()])

    async def run() -> None:
        found = await asyncio.gather(*(status(part, f"good{n}", "a") for n in range(300)))
        assert set(found) == {200}

    asyncio.run(run())


def test_throttle_is_refilled() -> None:
    now = [0.0]
    throttle = Throttle(lambda: now[0])
    for _ in range(authentication.FAILURES_AT_ONCE):
        throttle.take("a")
    with pytest.raises(TooManyRequests):
        throttle.take("a")
    throttle.take("b")
    now[0] = 1.0
    for _ in range(int(authentication.FAILURES_A_SECOND)):
        throttle.take("a")
    with pytest.raises(TooManyRequests):
        throttle.take("a")
