"""Temporary credentials of roles: what tasks and functions sign with, and what the endpoint knows them by."""

from __future__ import annotations

import functools
import json
import secrets
import threading
from datetime import datetime, timedelta, timezone
from typing import Any

import boto3
import botocore.loaders
import botocore.session
from botocore.config import Config
from moto.iam.aws_managed_policies import aws_managed_policies_data
from moto.iam.models import AWSManagedPolicy, IAMBackend, Policy, iam_backends
from moto.sts.models import AssumedRole, STSBackend, sts_backends

from local.endpoint import ServiceError
from local.iam import Statement, trusts
from local.patches import Patches

_HOURS = 6
# reading the services' models is most of what a client costs
_MODELS = botocore.loaders.create_loader()


def client(
    service: str, access_key: str, secret_key: str, token: str | None = None, *, region: str, endpoint: str
) -> Any:
    """A boto3 client of a service at the endpoint, which tries once, whatever proxy the environment names."""
    core = botocore.session.get_session()
    core.register_component("data_loader", _MODELS)
    session = boto3.Session(access_key, secret_key, token, region_name=region, botocore_session=core)
    config = Config(retries={"max_attempts": 1}, proxies={})
    return session.client(service, endpoint_url=endpoint, config=config)


class Credentials:
    """Sessions of the account's roles, as ECS and Lambda get them for what they run."""

    def __init__(self, *, account: str, partition: str, region: str) -> None:
        self._account, self._partition, self._region = account, partition, region
        self.endpoint = ""
        self._roles: dict[str, str] = {}  # by the token in a container credentials URL
        self._clients: dict[tuple[str, str], Any] = {}
        self._lock = threading.Lock()

    def start(self, patches: Patches) -> None:
        """Have AWS's own policies there when they are named; to make all of them takes a second and 300 MB."""
        for name in ("attach_role_policy", "get_policy"):
            patches.wrap(IAMBackend, name, _with_aws_policy)

    @property
    def iam(self) -> IAMBackend:
        """moto's IAM."""
        return iam_backends[self._account][self._partition]

    @property
    def sts(self) -> STSBackend:
        """moto's STS."""
        return sts_backends[self._account][self._partition]

    def session(self, role_arn: str, service: str, name: str) -> AssumedRole:
        """A session of a role that trusts a service (`ecs-tasks.amazonaws.com`). Raises ServiceError."""
        role = self.iam.get_role_by_arn(role_arn)
        if not trusts(json.loads(role.assume_role_policy_document), service):
            raise ServiceError("AccessDenied", f"The role {role_arn} cannot be assumed by {service}")
        session: AssumedRole = self.sts.assume_role(
            region_name=self._region,
            role_session_name=name,
            role_arn=role_arn,
            policy="",
            duration=_HOURS * 3600,
            external_id="",
        )
        return session

    def client(self, service: str, role_arn: str) -> Any:
        """A boto3 client with a task role's credentials."""
        with self._lock:
            if (service, role_arn) not in self._clients:
                session = self.session(role_arn, "ecs-tasks.amazonaws.com", "agent")
                self._clients[service, role_arn] = self.client_of(session, service)
            return self._clients[service, role_arn]

    def client_of(self, session: AssumedRole, service: str) -> Any:
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
        expiration = datetime.now(timezone.utc) + timedelta(hours=_HOURS)
        answer = {
            "RoleArn": role_arn,
            "AccessKeyId": session.access_key_id,
            "SecretAccessKey": session.secret_access_key,
            "Token": session.session_token,
            "Expiration": expiration.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        return 200, json.dumps(answer).encode()

    def caller(self, access_key: str) -> AssumedRole | None:
        """The role session that an access key belongs to; None for the operator's."""
        return self.sts.get_assumed_role_from_access_key(access_key)

    def policies(self, role_arn: str) -> tuple[list[Statement], list[Statement] | None]:
        """The statements of a role's policies, and those of its permission boundary if it has one."""
        role = self.iam.get_role_by_arn(role_arn)
        documents = [json.loads(text) for text in role.policies.values()]
        documents += [_document(policy) for policy in role.managed_policies.values()]
        boundary = role.permissions_boundary_arn
        limits = _document(self.iam.get_policy(boundary)) if boundary else None
        return _statements(documents), None if limits is None else _statements([limits])


@functools.cache
def _aws_policies() -> dict[str, dict[str, Any]]:
    policies: dict[str, dict[str, Any]] = json.loads(aws_managed_policies_data)
    return policies


def _with_aws_policy(original: Any, backend: IAMBackend, policy_arn: str, *arguments: Any) -> Any:
    name = policy_arn.rsplit("/", 1)[-1]
    missing = ":iam::aws:policy/" in policy_arn and policy_arn not in backend.managed_policies
    if missing and (data := _aws_policies().get(name)):
        policy = AWSManagedPolicy.from_data(name, backend.account_id, backend.region_name, data)
        backend.managed_policies[policy.arn] = policy
    return original(backend, policy_arn, *arguments)


def _document(policy: Policy) -> dict[str, Any]:
    [current] = [item for item in policy.versions if item.version_id == policy.default_version_id]
    document: dict[str, Any] = json.loads(current.document)
    return document


def _statements(documents: list[dict[str, Any]]) -> list[Statement]:
    found: list[Statement] = []
    for document in documents:
        statements = document["Statement"]
        found.extend(statements if isinstance(statements, list) else [statements])
    return found
