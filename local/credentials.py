"""Access keys: whose they are, their secrets, and the sessions of roles that tasks and functions sign with."""

from __future__ import annotations

import base64
import json
import re
import secrets
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

import boto3
import botocore.loaders
import botocore.session
from botocore.config import Config
from moto.iam.models import Role, User
from moto.organizations.models import organizations_backends

from local.endpoint import ServiceError
from local.iam import Statement, trusts
from local.principals import Policies, Principals, new_id, tags

_HOURS = 6
_ACCESS_KEY = re.compile("(AKIA|ASIA)[A-Z0-9]{16}")
_TOKEN_BYTES = 600  # session tokens of AWS are about this long
# reading the services' models is most of what a client costs
_MODELS = botocore.loaders.create_loader()


def client(
    service: str, access_key: str, secret_key: str, token: str | None = None, *, region: str, endpoint: str
) -> Any:
    """A boto3 client of a service at the endpoint, which tries once, whatever proxy the environment names."""
    core = botocore.session.get_session()
    core.register_component("data_loader", _MODELS)
    session = boto3.Session(access_key, secret_key, token, region_name=region, botocore_session=core)
    config = Config(retries={"total_max_attempts": 1}, proxies={})
    return session.client(service, endpoint_url=endpoint, config=config)


@dataclass(frozen=True)
class Session:
    """A session of a role: temporary credentials, and what is known of who asked for them.

    `limits` are the statements of its session policies; None where it has none.
    """

    role_arn: str
    role_id: str
    name: str
    access_key_id: str
    secret_access_key: str
    session_token: str
    issued: datetime
    expiration: datetime
    source_identity: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    transitive: frozenset[str] = frozenset()
    limits: Sequence[Statement] | None = None

    @property
    def arn(self) -> str:
        """The ARN of the assumed role, which has no path."""
        _, partition, _, _, account, role = self.role_arn.split(":", 5)
        return f"arn:{partition}:sts::{account}:assumed-role/{role.rsplit('/', 1)[-1]}/{self.name}"

    @property
    def user_id(self) -> str:
        """The unique id of the role, and the session's name."""
        return f"{self.role_id}:{self.name}"


@dataclass(frozen=True)
class Caller:
    """Who signs with an access key, as GetCallerIdentity says it.

    `principal` is the ARN of the user or the role; for the account's root, that of the caller itself.
    """

    arn: str
    user_id: str
    principal: str
    session: Session | None = None


@dataclass(frozen=True)
class AccessKey:
    """An access key's secret, and whose it is."""

    id: str
    caller: Caller
    secret: str


class Credentials:
    """The access keys of the account: its operator's, its users', and those of its roles' sessions."""

    def __init__(
        self, *, account: str, partition: str, region: str, operator: tuple[str, str], principals: Principals
    ) -> None:
        self.account, self.partition, self._region = account, partition, region
        self.principals = principals
        self.endpoint = ""
        self._operator_id, self._operator_secret = operator
        self._roles: dict[str, str] = {}  # by the token in a container credentials URL
        self._clients: dict[tuple[str, str], Any] = {}  # by service and the id of the role
        self._sessions: dict[str, Session] = {}  # by access key
        self._lock = threading.Lock()

    @property
    def organization(self) -> str | None:
        """The id of the organization that the account is in."""
        organization = organizations_backends[self.account][self.partition].org
        return None if organization is None else str(organization.id)

    def key(self, access_key: str) -> AccessKey | None:
        """An access key that is in use; None for others."""
        if access_key == self._operator_id:
            root = f"arn:{self.partition}:iam::{self.account}:root"
            return AccessKey(access_key, Caller(root, self.account, root), self._operator_secret)
        if session := self._sessions.get(access_key):
            caller = Caller(session.arn, session.user_id, session.role_arn, session)
            return AccessKey(access_key, caller, session.secret_access_key)
        for user in list(self.principals.iam.users.values()):
            for key in user.access_keys:
                if key.access_key_id == access_key and key.status == "Active":
                    caller = Caller(user.arn, user.id, user.arn)
                    return AccessKey(access_key, caller, key.secret_access_key)
        return None

    def restricted(self, access_key: str) -> bool:
        """Whether an access key has to be known: all that have AWS's form, except the operator's."""
        return access_key != self._operator_id and _ACCESS_KEY.fullmatch(access_key) is not None

    def caller(self, access_key: str) -> Caller | None:
        """The user or the role's session that signs with a restricted access key; None where it is not in use."""
        key = self.key(access_key) if self.restricted(access_key) else None
        return None if key is None else key.caller

    def entity(self, caller: Caller) -> User | Role:
        """The user or the role of a caller. Raises ServiceError where it is gone."""
        entity = self.principals.find(caller.principal)
        if caller.session is not None and not caller.user_id.startswith(f"{entity.id}:"):
            raise ServiceError("NoSuchEntity", f"The role with name {entity.name} cannot be found.")
        assert isinstance(entity, User | Role)  # noqa: S101 - a group has no keys
        return entity

    def policies(self, caller: Caller) -> Policies:
        """What decides about a caller. Raises ServiceError where its user or role is gone."""
        return self.principals.policies(self.entity(caller))

    def context(self, caller: Caller, region: str) -> dict[str, Any]:
        """The condition keys, in lower case, that every request of a caller has."""
        now = datetime.now(timezone.utc)
        session = caller.session
        keys: dict[str, Any] = {
            "aws:requestedregion": region,
            "aws:principalarn": caller.principal,
            "aws:principalaccount": self.account,
            "aws:principaltype": "User" if session is None else "AssumedRole",
            "aws:resourceaccount": self.account,
            "aws:sourceaccount": self.account,
            "aws:securetransport": "true",  # loopback stands in for TLS
            "aws:sourceip": "127.0.0.1",
            "aws:userid": caller.user_id,
            "aws:currenttime": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "aws:epochtime": str(int(now.timestamp())),
        }
        if self.organization is not None:
            keys["aws:principalorgid"] = self.organization
        entity = self.principals.find(caller.principal)
        labels = tags(entity)
        if session is None:
            keys["aws:username"] = entity.name
        else:
            keys["aws:multifactorauthpresent"] = "false"
            keys["aws:tokenissuetime"] = session.issued.strftime("%Y-%m-%dT%H:%M:%SZ")
            labels |= session.tags
            if session.source_identity:
                keys["aws:sourceidentity"] = session.source_identity
        return keys | {f"aws:principaltag/{name.lower()}": value for name, value in labels.items()}

    def open(self, role: Role, name: str, *, seconds: int, **properties: Any) -> Session:
        """A new session of a role, for this long; `properties` are those of Session."""
        now = datetime.now(timezone.utc)
        session = Session(
            role_arn=role.arn,
            role_id=role.id,
            name=name,
            access_key_id=new_id("ASIA", self.account),
            secret_access_key=secrets.token_urlsafe(30),
            session_token=base64.b64encode(secrets.token_bytes(_TOKEN_BYTES)).decode(),
            issued=now,
            expiration=now + timedelta(seconds=seconds),
            **properties,
        )
        self._sessions[session.access_key_id] = session
        return session

    def session(self, role_arn: str, service: str, name: str) -> Session:
        """A session of a role that trusts a service (`ecs-tasks.amazonaws.com`). Raises ServiceError."""
        role = self.principals.iam.get_role_by_arn(role_arn)
        if not trusts(json.loads(role.assume_role_policy_document), service):
            raise ServiceError("AccessDenied", f"The role {role_arn} cannot be assumed by {service}")
        return self.open(role, name, seconds=_HOURS * 3600)

    def client(self, service: str, role_arn: str) -> Any:
        """A boto3 client with a task role's credentials."""
        with self._lock:
            key = (service, self.principals.iam.get_role_by_arn(role_arn).id)
            if key not in self._clients:
                session = self.session(role_arn, "ecs-tasks.amazonaws.com", "agent")
                self._clients[key] = self.client_of(session, service)
            return self._clients[key]

    def client_of(self, session: Session, service: str) -> Any:
        """A boto3 client with a session's credentials."""
        keys = (session.access_key_id, session.secret_access_key, session.session_token)
        return client(service, *keys, region=self._region, endpoint=self.endpoint)

    def url(self, role_arn: str) -> str:
        """A container credentials endpoint that gives out a task role's credentials."""
        token = secrets.token_urlsafe(24)
        self._roles[token] = role_arn
        return f"{self.endpoint}/task-credentials/{token}"

    def serve(self, method: str, token: str) -> tuple[int, bytes]:
        """Answer a request for container credentials."""
        role_arn = self._roles.get(token)
        if method != "GET" or role_arn is None:
            return 404, b"{}"
        session = self.session(role_arn, "ecs-tasks.amazonaws.com", token[:12])
        answer = {
            "RoleArn": role_arn,
            "AccessKeyId": session.access_key_id,
            "SecretAccessKey": session.secret_access_key,
            "Token": session.session_token,
            "Expiration": session.expiration.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        return 200, json.dumps(answer).encode()
