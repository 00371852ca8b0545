"""Roles of services, whose rights are all in one managed policy that exists before the role does."""

from __future__ import annotations

from aws_cdk import aws_iam as iam
from constructs import Construct


def service_role(scope: Construct, id: str, *, service: str, policy: iam.ManagedPolicy) -> iam.Role:
    """A role for `service` with the rights of `policy`, to which grants may still be added.

    The usual inline policy of a role is attached after the role is created, so a task that starts at once may find
    itself without rights; this one cannot.
    """
    return iam.Role(
        scope,
        id,
        assumed_by=iam.ServicePrincipal(service),
        description=f"{scope.node.path}/{id}",
        managed_policies=[policy],
    )
