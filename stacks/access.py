"""Who may use the server: the four roles, what the server may ask IAM about callers, and the record of its decisions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import aws_cdk as cdk
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from constructs import Construct

from stacks.access_sections import Roles
from stacks.environment import Environment
from stacks.findings import accept
from stacks.log_groups import grant_write, log_group
from stacks.trust import allow_source_identity, trusted

POLICIES = Path(__file__).parent.parent / "policies"

#: Role by file of `policies/`.
ROLES = {
    "reader": "Reader",
    "data-scientist": "DataScientist",
    "model-approver": "ModelApprover",
    "admin": "Admin",
}


class AccessStack(cdk.Stack):
    """A role and a managed policy for each file of `policies/`, and what the server needs to decide on requests.

    The policy may also be attached to roles of your own; assuming the kit's role serves callers from elsewhere.

    Attributes:
        tracking_server_arn: what the policies are about. It has the form that SageMaker gives to its own servers.
        roles: by name, such as `DataScientist`.
        audit_log: the server's decisions, one a line.
        write_audit: policy for the server's role.
        ask_iam: the same, and only with the engine `iam`; None with others.
    """

    def __init__(
        self, scope: Construct, id: str, *, env: cdk.Environment, environment: Environment, key: kms.IKey
    ) -> None:
        super().__init__(scope, id, env=env, description="MLflow AWS Kit: access")
        self._name = environment.name
        self.tracking_server_arn = tracking_server_arn(self, self._name)
        self.roles = {role: self._role(role, file, environment.roles) for file, role in ROLES.items()}
        accept(
            self, "AwsSolutions-IAM5[Resource::*]", reason="sagemaker-mlflow:AccessUI has no resource type"
        )
        accept(
            self.node.find_child("AdminPolicy"),
            "AwsSolutions-IAM5[Action::sagemaker-mlflow:*]",
            reason="An administrator may do everything on this server, and on nothing else",
        )
        self.audit_log = log_group(
            self,
            "AuditLog",
            environment=environment,
            key=key,
            retention_days=environment.access.audit_retention_days,
        )
        self.write_audit = iam.ManagedPolicy(
            self, "WriteAuditPolicy", description="Record decisions of the MLflow server"
        )
        grant_write(self.audit_log, self.write_audit)
        self.ask_iam = self._ask_iam() if environment.engine == "iam" else None

    def _role(self, role: str, file: str, roles: Roles) -> iam.Role:
        policy = iam.ManagedPolicy(
            self,
            f"{role}Policy",
            description=f"MLflow {role} on {self._name}",
            document=iam.PolicyDocument.from_json(policy_document(file, self.tracking_server_arn)),
        )
        made = iam.Role(
            self,
            role,
            description=f"MLflow {role}",
            assumed_by=trusted(roles),
            managed_policies=[policy],
            max_session_duration=cdk.Duration.hours(12),
        )
        allow_source_identity(made, roles)
        return made

    def _ask_iam(self) -> iam.ManagedPolicy:
        """What IAM is asked about a caller: whether it is still there, and what its policies allow."""
        principals = {
            kind: self.format_arn(service="iam", region="", resource=kind, resource_name="*")
            for kind in ("role", "user")
        }
        policy = iam.ManagedPolicy(
            self,
            "AskIamPolicy",
            description="Ask IAM what callers of MLflow may do",
            statements=[
                iam.PolicyStatement(
                    actions=["iam:SimulatePrincipalPolicy"], resources=list(principals.values())
                ),
                iam.PolicyStatement(actions=["iam:GetRole"], resources=[principals["role"]]),
                iam.PolicyStatement(actions=["iam:GetUser"], resources=[principals["user"]]),
            ],
        )
        account = "<AWS::AccountId>" if cdk.Token.is_unresolved(self.account) else self.account
        accept(
            policy,
            *(
                f"AwsSolutions-IAM5[Resource::arn:<AWS::Partition>:iam::{account}:{kind}/*]"
                for kind in principals
            ),
            reason="Every role and user of this account may call, and the server asks IAM about whoever does; it only "
            "reads",
        )
        return policy


def tracking_server_arn(stack: cdk.Stack, name: str) -> str:
    """The ARN that policies about the server name, as `stack` spells region and account."""
    return stack.format_arn(service="sagemaker", resource="mlflow-tracking-server", resource_name=name)


def policy_document(file: str, tracking_server_arn: str) -> dict[str, Any]:
    """The document `policies/<file>.json`, about the server with this ARN."""
    text = (POLICIES / f"{file}.json").read_text(encoding="utf-8")
    document: dict[str, Any] = json.loads(text.replace("${TrackingServerArn}", tracking_server_arn))
    return document
