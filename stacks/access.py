"""The four roles that people and jobs assume to use the server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import aws_cdk as cdk
from aws_cdk import aws_iam as iam
from constructs import Construct

from stacks.findings import accept
from stacks.sections import Roles

POLICIES = Path(__file__).parent.parent / "policies"

#: Role by file of `policies/`.
ROLES = {
    "reader": "Reader",
    "data-scientist": "DataScientist",
    "model-approver": "ModelApprover",
    "admin": "Admin",
}


class AccessStack(cdk.Stack):
    """A role and a managed policy for each file of `policies/`.

    The policy may also be attached to roles of your own; assuming the kit's role serves callers from elsewhere.

    Attributes:
        tracking_server_arn: what the policies are about. It has the form that SageMaker gives to its own servers.
        roles: by name, such as `DataScientist`.
    """

    def __init__(self, scope: Construct, id: str, *, env: cdk.Environment, name: str, roles: Roles) -> None:
        super().__init__(scope, id, env=env, description="MLflow AWS Kit: access")
        self.tracking_server_arn = self.format_arn(
            service="sagemaker", resource="mlflow-tracking-server", resource_name=name
        )
        self._name = name
        self.roles = {role: self._role(role, file, roles) for file, role in ROLES.items()}
        accept(
            self, "AwsSolutions-IAM5[Resource::*]", reason="sagemaker-mlflow:AccessUI has no resource type"
        )
        accept(
            self.node.find_child("AdminPolicy"),
            "AwsSolutions-IAM5[Action::sagemaker-mlflow:*]",
            reason="An administrator may do everything on this server, and on nothing else",
        )

    def _role(self, role: str, file: str, roles: Roles) -> iam.Role:
        policy = iam.ManagedPolicy(
            self,
            f"{role}Policy",
            description=f"MLflow {role} on {self._name}",
            document=iam.PolicyDocument.from_json(policy_document(file, self.tracking_server_arn)),
        )
        return iam.Role(
            self,
            role,
            description=f"MLflow {role}",
            assumed_by=trusted(roles),
            managed_policies=[policy],
            max_session_duration=cdk.Duration.hours(12),
        )


def policy_document(file: str, tracking_server_arn: str) -> dict[str, Any]:
    """The document `policies/<file>.json`, about the server with this ARN."""
    text = (POLICIES / f"{file}.json").read_text(encoding="utf-8")
    document: dict[str, Any] = json.loads(text.replace("${TrackingServerArn}", tracking_server_arn))
    return document


def trusted(roles: Roles) -> iam.IPrincipal:
    """Who may assume the roles: those that the environment names, or the account whose administrators decide."""
    principals: list[iam.IPrincipal] = [iam.ArnPrincipal(arn) for arn in roles.trusted_principal_arns]
    if not principals:
        principals = [
            iam.AccountRootPrincipal(),
            *(iam.AccountPrincipal(account) for account in roles.trusted_accounts),
        ]
    conditions = (
        {"StringEquals": {"aws:PrincipalOrgID": roles.organization_id}} if roles.organization_id else None
    )
    principal = iam.CompositePrincipal(*principals)
    return principal.with_conditions(conditions) if conditions else principal
