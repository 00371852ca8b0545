"""The users, groups and roles of the account: which policies each has, and ids as AWS gives them."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from moto.iam.aws_managed_policies import aws_managed_policies_data
from moto.iam.models import AWSManagedPolicy, Group, IAMBackend, Policy, Role, User, iam_backends
from moto.iam.utils import generate_access_key_id_from_account_id

from local.endpoint import CURRENT_CALL, Operation, ServiceError
from local.iam import Statement
from local.patches import Patches

Entity = User | Group | Role


@dataclass(frozen=True)
class SourcePolicy:
    """A policy document as it was written, under the name that the policy simulator gives it."""

    id: str
    text: str

    @property
    def statements(self) -> list[Statement]:
        """Its statements, in order."""
        found = json.loads(self.text)["Statement"]
        return found if isinstance(found, list) else [found]


@dataclass(frozen=True)
class Policies:
    """What decides about a principal: its identity-based policies, and the permissions boundary if it has one."""

    identity: tuple[SourcePolicy, ...]
    boundary: SourcePolicy | None = None

    @property
    def statements(self) -> list[Statement]:
        """The statements of the identity-based policies."""
        return [statement for policy in self.identity for statement in policy.statements]

    @property
    def limits(self) -> list[Statement] | None:
        """The statements of the boundary."""
        return None if self.boundary is None else self.boundary.statements


class Principals:
    """moto's users, groups and roles, with what moto leaves out."""

    def __init__(self, *, account: str, partition: str) -> None:
        self.account, self.partition = account, partition

    def start(self, patches: Patches) -> None:
        """Give users and groups ids as AWS's are, users a boundary, and have AWS's own policies there when named.

        To make all of AWS's policies takes a second and 300 MB.
        """
        for name in ("attach_role_policy", "attach_user_policy", "attach_group_policy", "get_policy"):
            patches.wrap(IAMBackend, name, _with_aws_policy)
        for owner, prefix in ((User, "AIDA"), (Group, "AGPA")):
            patches.wrap(owner, "__init__", functools.partial(_with_id, prefix))
        patches.wrap(IAMBackend, "create_user", _with_boundary)

    @property
    def operations(self) -> dict[str, Operation]:
        """The operations of IAM on the boundary of a user, which moto lacks."""
        return {
            "PutUserPermissionsBoundary": self._put_boundary,
            "DeleteUserPermissionsBoundary": self._delete_boundary,
        }

    @property
    def iam(self) -> IAMBackend:
        """moto's IAM."""
        return iam_backends[self.account][self.partition]

    def named(self, kind: str, name: str) -> Entity | None:
        """The user, group or role of a name, whatever its path."""
        entities: dict[str, Iterable[Entity]] = {
            "user": self.iam.users.values(),
            "group": self.iam.groups.values(),
            "role": self.iam.get_roles(),
        }
        return next((entity for entity in entities[kind] if entity.name == name), None)

    def find(self, arn: str) -> Entity:
        """The entity of an ARN. Raises ServiceError: InvalidInput for other ARNs, NoSuchEntity."""
        form = rf"arn:{self.partition}:iam::{self.account}:(user|group|role)/(?:.+/)?([\w+=,.@-]+)"
        match = re.fullmatch(form, arn)
        if match is None:
            raise ServiceError(
                "InvalidInput", f"Invalid Entity Arn: {arn} does not clearly define entity type and name."
            )
        kind, name = match.groups()
        entity = self.named(kind, name)
        if entity is None or entity.arn != arn:
            error = ServiceError("NoSuchEntity", f"The {kind} with name {name} cannot be found.")
            error.status = 404
            raise error
        return entity

    def policies(self, entity: Entity) -> Policies:
        """What decides about an entity; for a user, the policies of its groups too."""
        kind = type(entity).__name__.lower()
        found = [SourcePolicy(f"{kind}_{entity.name}_{name}", text) for name, text in entity.policies.items()]
        found += [SourcePolicy(policy.name, _text(policy)) for policy in entity.managed_policies.values()]
        if isinstance(entity, User):
            for group in self.iam.get_groups_for_user(entity.name):
                found += self.policies(group).identity
        boundary = (getattr(entity, "permissions_boundary", None) or {}).get("PermissionsBoundaryArn")
        if boundary is None:
            return Policies(tuple(found))
        limit = self.iam.get_policy(boundary)
        return Policies(tuple(found), SourcePolicy(limit.name, _text(limit)))

    def document(self, policy_arn: str) -> str:
        """The document of a managed policy."""
        return _text(self.iam.get_policy(policy_arn))

    def _put_boundary(self, request: dict[str, Any]) -> dict[str, Any]:
        self.iam.get_policy(request["PermissionsBoundary"])
        _bound(self.iam.get_user(request["UserName"]), request["PermissionsBoundary"])
        return {}

    def _delete_boundary(self, request: dict[str, Any]) -> dict[str, Any]:
        _bound(self.iam.get_user(request["UserName"]), None)
        return {}


def new_id(prefix: str, account: str) -> str:
    """A unique id as AWS gives them: `AROA` for a role, `AIDA` for a user, `ASIA` for a temporary access key."""
    length = 20 if prefix in ("AKIA", "ASIA") else 21
    return str(generate_access_key_id_from_account_id(account, prefix=prefix, total_length=length))


def tags(entity: Entity) -> dict[str, str]:
    """The tags of a user or a role."""
    found = getattr(entity, "tags", None) or []
    pairs = found.values() if isinstance(found, dict) else found
    return {pair["Key"]: pair["Value"] for pair in pairs}


def _text(policy: Policy) -> str:
    [current] = [item for item in policy.versions if item.version_id == policy.default_version_id]
    return str(current.document)


def _with_id(
    prefix: str, original: Any, entity: User | Group, account_id: str, *arguments: Any, **named: Any
) -> None:
    original(entity, account_id, *arguments, **named)
    entity.id = new_id(prefix, account_id)


def _bound(user: User, policy_arn: str | None) -> None:
    boundary = {"PermissionsBoundaryType": "Policy", "PermissionsBoundaryArn": policy_arn}
    vars(user)["permissions_boundary"] = boundary if policy_arn else None


def _with_boundary(original: Any, backend: IAMBackend, *arguments: Any, **named: Any) -> User:
    user: User = original(backend, *arguments, **named)
    if boundary := CURRENT_CALL.get().parameters.get("PermissionsBoundary"):
        _bound(user, boundary)
    return user


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
