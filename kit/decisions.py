"""Asks IAM's policy simulator what a principal may do on a server, and finds the statements that say so."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any
from urllib.parse import unquote

from botocore.handlers import json_decode_policies

from kit.deployment import Deployment
from kit.matrix import ACCESS_UI, PREFIX


@dataclass(frozen=True, kw_only=True)
class Decision:
    """`effect` as IAM names it: allowed, explicitDeny, implicitDeny. `missing`: condition keys that were not told."""

    principal: str
    action: str
    resource: str
    effect: str
    matched: tuple[Mapping[str, Any], ...]
    missing: tuple[str, ...]
    within_boundary: bool | None
    within_organization: bool | None

    @property
    def allowed(self) -> bool:
        return self.effect == "allowed"

    def document(self) -> dict[str, Any]:
        """As JSON, without the statements."""
        return {
            "principal": self.principal,
            "action": self.action,
            "resource": self.resource,
            "allowed": self.allowed,
            "decision": self.effect,
            "missing_context": list(self.missing),
            "allowed_by_permissions_boundary": self.within_boundary,
            "allowed_by_organizations": self.within_organization,
        }


@dataclass(frozen=True, kw_only=True)
class Statement:
    """A statement that decides: the policy that it is in, and itself, unless it cannot be read."""

    policy: str
    content: Mapping[str, Any] | None


def decide(deployment: Deployment, *, principal: str, action: str) -> Decision:
    """What the policies of the role or user with the ARN `principal` say about an action, named without prefix.

    Raises:
        botocore.exceptions.ClientError, BotoCoreError: IAM refuses or cannot be reached.
    """
    iam = deployment.client("iam")
    resource = "*" if action == ACCESS_UI else deployment.tracking_server_arn
    [result] = iam.simulate_principal_policy(
        PolicySourceArn=principal,
        ActionNames=[f"{PREFIX}{action}"],
        ResourceArns=[resource],
        ContextEntries=_context(iam, principal, secure=deployment.tracking_uri.startswith("https:")),
    )["EvaluationResults"]
    specific: dict[str, Any] = next(iter(result.get("ResourceSpecificResults", [])), {})
    missing = {*result.get("MissingContextValues", []), *specific.get("MissingContextValues", [])}
    return Decision(
        principal=principal,
        action=action,
        resource=resource,
        effect=result["EvalDecision"],
        matched=tuple(result.get("MatchedStatements") or specific.get("MatchedStatements", [])),
        missing=tuple(sorted(missing)),
        within_boundary=result.get("PermissionsBoundaryDecisionDetail", {}).get(
            "AllowedByPermissionsBoundary"
        ),
        within_organization=result.get("OrganizationsDecisionDetail", {}).get("AllowedByOrganizations"),
    )


def statements(deployment: Deployment, decision: Decision) -> list[Statement]:
    """The statements that a decision rests on, as they stand in the policies of its principal.

    Raises:
        botocore.exceptions.ClientError, BotoCoreError: IAM refuses or cannot be reached.
    """
    if not decision.matched:
        return []
    iam = deployment.client("iam")
    # positions count in the document as it was written, which botocore would parse
    iam.meta.events.unregister("after-call.iam", json_decode_policies)
    documents = dict(_policies(iam, decision.principal))
    found = []
    for match in decision.matched:
        policy = str(match["SourcePolicyId"])
        document = documents.get(policy)
        start = match.get("StartPosition", {})
        found.append(Statement(policy=policy, content=None if document is None else _at(document, start)))
    return found


def _context(iam: Any, principal: str, *, secure: bool) -> list[dict[str, Any]]:
    """The condition keys that the server tells too, for every call of a principal."""
    kind, name = _named(principal)
    found = iam.get_role(RoleName=name)["Role"] if kind == "role" else iam.get_user(UserName=name)["User"]
    account, now = principal.split(":")[4], datetime.now(timezone.utc)
    keys = {
        "aws:PrincipalArn": ("string", principal),
        "aws:PrincipalAccount": ("string", account),
        "aws:PrincipalType": ("string", "AssumedRole" if kind == "role" else "User"),
        "aws:ResourceAccount": ("string", account),
        "aws:SecureTransport": ("boolean", str(secure).lower()),
        "aws:CurrentTime": ("date", now.strftime("%Y-%m-%dT%H:%M:%SZ")),
        "aws:EpochTime": ("numeric", str(int(now.timestamp()))),
    }
    if kind == "user":
        keys["aws:username"] = ("string", name)
    for tag in found.get("Tags", []):
        keys[f"aws:PrincipalTag/{tag['Key']}"] = ("string", tag["Value"])
    return [
        {"ContextKeyName": key, "ContextKeyType": kind, "ContextKeyValues": [value]}
        for key, (kind, value) in keys.items()
    ]


def _policies(iam: Any, principal: str) -> Iterator[tuple[str, str]]:
    """The name that the simulator has for each policy of a principal, and its document."""
    kind, name = _named(principal)
    yield from _policies_of(iam, kind, name)
    if kind == "user":
        for group in iam.list_groups_for_user(UserName=name)["Groups"]:
            yield from _policies_of(iam, "group", group["GroupName"])
        entity = iam.get_user(UserName=name)["User"]
    else:
        entity = iam.get_role(RoleName=name)["Role"]
    if boundary := entity.get("PermissionsBoundary"):
        yield _managed(iam, boundary["PermissionsBoundaryArn"])


def _policies_of(iam: Any, kind: str, name: str) -> Iterator[tuple[str, str]]:
    whose = {f"{kind.title()}Name": name}
    for page in iam.get_paginator(f"list_attached_{kind}_policies").paginate(**whose):
        for policy in page["AttachedPolicies"]:
            yield _managed(iam, policy["PolicyArn"])
    for page in iam.get_paginator(f"list_{kind}_policies").paginate(**whose):
        for policy in page["PolicyNames"]:
            found = getattr(iam, f"get_{kind}_policy")(**whose, PolicyName=policy)
            yield f"{kind}_{name}_{policy}", unquote(found["PolicyDocument"])


def _managed(iam: Any, arn: str) -> tuple[str, str]:
    policy = iam.get_policy(PolicyArn=arn)["Policy"]
    version = iam.get_policy_version(PolicyArn=arn, VersionId=policy["DefaultVersionId"])["PolicyVersion"]
    return policy["PolicyName"], unquote(version["Document"])


def _named(principal: str) -> tuple[str, str]:
    """`role` or `user`, and the name without its path."""
    kind, _, name = principal.split(":", 5)[5].partition("/")
    return kind, name.rpartition("/")[2]


def _at(document: str, start: Mapping[str, int]) -> Mapping[str, Any]:
    """The statement of a policy document that begins nearest to a position, which counts lines and columns from 1."""
    # not at the top: it brings the whole embedded AWS along
    from local.simulation import positions

    content = json.loads(document)["Statement"]
    listed: list[Mapping[str, Any]] = content if isinstance(content, list) else [content]

    def distance(number: int) -> tuple[int, int]:
        begin, _ = positions(document)[number]
        return abs(begin["Line"] - start.get("Line", 1)), abs(begin["Column"] - start.get("Column", 1))

    return listed[min(range(len(listed)), key=distance)]
