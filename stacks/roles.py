"""Roles of services, with managed policies that exist before the role does."""

from __future__ import annotations

from aws_cdk import aws_iam as iam
from constructs import Construct


def service_role(
    scope: Construct, id: str, *, service: str, policies: tuple[iam.IManagedPolicy, ...] = ()
) -> iam.Role:
    """A role for `service` with `policies`.

    CDK would put rights into an inline policy, which is attached after the role is created: a task that starts at
    once may find itself without rights.
    """
    return iam.Role(
        scope,
        id,
        assumed_by=iam.ServicePrincipal(service),
        description=f"{scope.node.path}/{id}",
        managed_policies=list(policies),
    )
