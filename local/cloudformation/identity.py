"""The resource types of IAM."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from local.cloudformation.provider import ApiProvider, Created, Provider, ResourceRequest, call, delete

Properties = dict[str, Any]
Old = Mapping[str, Any]


class InlinePolicy:
    """A policy document put into roles; Ref gives its name."""

    def create(self, request: ResourceRequest) -> Created:
        """Put the document into each role."""
        name, document = request.properties["PolicyName"], json.dumps(request.properties["PolicyDocument"])
        for role in request.properties["Roles"]:
            client = request.environment.client("iam")
            call(client, "put_role_policy", RoleName=role, PolicyName=name, PolicyDocument=document)
        return Created(name)

    def update(self, request: ResourceRequest, physical_id: str, old: Old) -> Created | None:
        """Put the new document, and take it from the roles that are no longer named."""
        if request.properties["PolicyName"] != physical_id:
            return None
        client = request.environment.client("iam")
        for role in set(old["Roles"]) - set(request.properties["Roles"]):
            delete(client, "delete_role_policy", RoleName=role, PolicyName=physical_id)
        return self.create(request)

    def delete(self, request: ResourceRequest, physical_id: str, *, snapshot: bool) -> None:
        """Take the document out of each role."""
        for role in request.properties["Roles"]:
            client = request.environment.client("iam")
            delete(client, "delete_role_policy", RoleName=role, PolicyName=physical_id)


def _role_policies(client: Any, role: str, new: Properties, old: Old) -> None:
    if old:
        client.update_assume_role_policy(
            RoleName=role, PolicyDocument=json.dumps(new["AssumeRolePolicyDocument"])
        )
        _clear_role(client, role, dict(old))
    for arn in new.get("ManagedPolicyArns", []):
        client.attach_role_policy(RoleName=role, PolicyArn=arn)
    for policy in new.get("Policies", []):
        document = json.dumps(policy["PolicyDocument"])
        client.put_role_policy(RoleName=role, PolicyName=policy["PolicyName"], PolicyDocument=document)
    if old and "PermissionsBoundary" in new:
        client.put_role_permissions_boundary(RoleName=role, PermissionsBoundary=new["PermissionsBoundary"])
    elif "PermissionsBoundary" in old:
        client.delete_role_permissions_boundary(RoleName=role)


def _clear_role(client: Any, role: str, properties: Properties) -> None:
    for arn in properties.get("ManagedPolicyArns", []):
        client.detach_role_policy(RoleName=role, PolicyArn=arn)
    for policy in properties.get("Policies", []):
        client.delete_role_policy(RoleName=role, PolicyName=policy["PolicyName"])


def _managed_policy(client: Any, arn: str, new: Properties, old: Old) -> None:
    if old and old["PolicyDocument"] != new["PolicyDocument"]:
        for version in client.list_policy_versions(PolicyArn=arn)["Versions"]:
            if not version["IsDefaultVersion"]:  # a policy holds five versions at most
                client.delete_policy_version(PolicyArn=arn, VersionId=version["VersionId"])
        document = json.dumps(new["PolicyDocument"])
        client.create_policy_version(PolicyArn=arn, PolicyDocument=document, SetAsDefault=True)
    for role in old.get("Roles", []):
        client.detach_role_policy(RoleName=role, PolicyArn=arn)
    for role in new.get("Roles", []):
        client.attach_role_policy(RoleName=role, PolicyArn=arn)


def _clear_managed_policy(client: Any, arn: str, properties: Properties) -> None:
    for role in client.list_entities_for_policy(PolicyArn=arn)["PolicyRoles"]:
        client.detach_role_policy(RoleName=role["RoleName"], PolicyArn=arn)
    for version in client.list_policy_versions(PolicyArn=arn)["Versions"]:
        if not version["IsDefaultVersion"]:
            client.delete_policy_version(PolicyArn=arn, VersionId=version["VersionId"])


TYPES: dict[str, Provider] = {
    "AWS::IAM::Role": ApiProvider(
        service="iam",
        create_call="create_role",
        id="out.Role.RoleName",
        key="RoleName",
        update_call="update_role",
        delete_call="delete_role",
        name="RoleName",
        attributes={"Arn": "out.Role.Arn", "RoleId": "out.Role.RoleId"},
        fixed=frozenset({"RoleName"}),
        after=_role_policies,
        by_after=frozenset(
            {"AssumeRolePolicyDocument", "ManagedPolicyArns", "PermissionsBoundary", "Policies"}
        ),
        cleared=_clear_role,
    ),
    "AWS::IAM::Policy": InlinePolicy(),
    "AWS::IAM::ManagedPolicy": ApiProvider(
        service="iam",
        create_call="create_policy",
        id="out.Policy.Arn",
        key="PolicyArn",
        delete_call="delete_policy",
        name="ManagedPolicyName",
        name_limit=128,
        renamed={"ManagedPolicyName": "PolicyName"},
        attributes={"PolicyArn": "out.Policy.Arn", "PolicyId": "out.Policy.PolicyId"},
        after=_managed_policy,
        by_after=frozenset({"PolicyDocument", "Roles"}),
        cleared=_clear_managed_policy,
    ),
}
