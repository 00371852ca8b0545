"""The gate in this process: its own caches and table, with AWS and the database replaced by counters."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from benchmarks.machine import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "container"))

from tracking_server.access.audit import Audit, Decision
from tracking_server.access.authentication import Authentication
from tracking_server.access.bearers import Bearers
from tracking_server.access.caller import Caller
from tracking_server.access.gate import Gate
from tracking_server.access.own import OwnRoutes
from tracking_server.access.permissions import Grants, Permissions
from tracking_server.access.proof import Proof
from tracking_server.access.routes import Routes
from tracking_server.access.sessions import Sessions
from tracking_server.access.signed import Signer

ACCOUNT = "123456789012"
ARN = f"arn:aws:sagemaker:eu-west-1:{ACCOUNT}:mlflow-tracking-server/mlflow-bench"
PREFIX = "sagemaker-mlflow:"
PATH = "/api/2.0/mlflow/runs/get"
# as long as a token that was signed with temporary credentials
FILLER = "x" * 1200


class CountingProver:
    """Stands for STS: takes each token for the principal whose number it holds."""

    via = "token"

    def __init__(self) -> None:
        self.calls = 0

    def recognises(self, text: str) -> bool:
        """See Prover."""
        return True

    def prove(self, text: str) -> Proof:
        """See Prover."""
        self.calls += 1
        number = int(text.partition(".")[0])
        name = f"Role{number}"
        caller = Caller(
            arn=f"arn:aws:sts::{ACCOUNT}:assumed-role/{name}/person",
            unique_id=f"AROA{number:017d}",
            account=ACCOUNT,
            kind="role",
            name=name,
            session="person",
        )
        return Proof(caller=caller, expires_at=time.time() + 900)


class CountingEngine:
    """Stands for IAM: allows everything, in strings of its own for each principal, as parsed answers are."""

    name = "iam"

    def __init__(self, actions: frozenset[str]) -> None:
        self.calls = 0
        self._actions = sorted(PREFIX + action for action in actions)

    def ask(self, caller: Caller, *, address: str | None) -> Grants:
        """See Engine."""
        self.calls += 1
        return Grants(allowed=frozenset(action.removeprefix(PREFIX) for action in self._actions))


class Lines:
    """Takes decisions, makes their lines, and drops them."""

    def __init__(self) -> None:
        self.taken = 0

    def write(self, decision: Decision) -> None:
        """See Audit."""
        decision.line()
        self.taken += 1

    def start(self) -> None:
        """See Audit."""

    def close(self) -> None:
        """See Audit."""


class NoMarks:
    """Stands for the database's table of marks, in which nothing stands."""

    def flushed_at(self) -> int:
        """See Marks."""
        return 0


async def bare(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that answers 200 and nothing else."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def _nothing() -> Message:
    return {"type": "http.request", "body": b""}


@dataclass(kw_only=True)
class InProcess:
    """A gate and what stands around it."""

    app: ASGIApp = bare
    audit: Audit = field(default_factory=Lines)
    prover: CountingProver = field(default_factory=CountingProver)

    def __post_init__(self) -> None:
        routes = Routes.load()
        signer = Signer(key="k" * 64, tracking_server_arn=ARN)
        marks: Any = NoMarks()
        self.engine = CountingEngine(routes.all_actions())
        self.authentication = Authentication([self.prover])
        self.permissions = Permissions(self.engine)
        sessions = Sessions(signer=signer, marks=marks, origins=frozenset(), secure=True)
        self.gate = Gate(
            self.app,
            routes=routes,
            authentication=self.authentication,
            permissions=self.permissions,
            sessions=sessions,
            own=OwnRoutes(
                bearers=Bearers(signer),
                sessions=sessions,
                marks=marks,
                permissions=self.permissions,
                origin="https://mlflow.example.com",
                tracking_server_arn=ARN,
            ),
            marks=marks,
            audit=self.audit,
            tracking_server_arn=ARN,
            names=["mlflow.example.com"],
            proxies=1,
        )
        self.refused = 0

    async def call(self, principal: int) -> None:
        """One request of a principal, which has an address of its own."""
        await self.gate(request_of(principal), _nothing, self.send)

    async def send(self, message: Message) -> None:
        """ASGI's send; counts answers other than 200."""
        if message["type"] == "http.response.start" and message["status"] != 200:
            self.refused += 1


def request_of(principal: int) -> Scope:
    """The ASGI scope of a request as it comes from the stock client through a load balancer."""
    address = f"10.{principal >> 16 & 255}.{principal >> 8 & 255}.{principal & 255}"
    return {
        "type": "http",
        "method": "GET",
        "path": PATH,
        "query_string": b"run_id=0",
        "client": ("10.0.0.1", 4711),
        "headers": [
            (b"x-forwarded-for", address.encode()),
            (b"x-forwarded-proto", b"https"),
            (b"x-forwarded-port", b"443"),
            (b"host", b"mlflow.example.com"),
            (b"x-amzn-trace-id", b"Root=1-67891233-abcdef012345678912345678"),
            (b"user-agent", b"mlflow-python-client/3.17.2"),
            (b"accept-encoding", b"gzip, deflate"),
            (b"accept", b"*/*"),
            (b"authorization", f"Bearer {principal}.{FILLER}".encode()),
        ],
    }
