"""Puts the stacks of one environment together. The grants are all here: this page shows who may touch what."""

from __future__ import annotations

import aws_cdk as cdk
from aws_cdk import aws_iam as iam
from constructs import Construct

from stacks.access import AccessStack
from stacks.environment import Environment
from stacks.network import NetworkStack
from stacks.observability import ObservabilityStack
from stacks.outputs import publish
from stacks.storage import StorageStack
from stacks.tracking_server import TrackingServerStack, mlflow_version


def compose(scope: Construct, environment: Environment) -> None:
    """Adds the stacks of `environment` to `scope`, which is an app or a stage."""
    env = cdk.Environment(account=environment.account, region=environment.region)

    def named(part: str) -> str:
        return f"{environment.name}-{part}"

    network = NetworkStack(scope, named("network"), env=env, environment=environment)
    storage = StorageStack(
        scope,
        named("storage"),
        env=env,
        environment=environment,
        vpc=network.vpc,
        subnets=network.subnets,
        security_group=network.database,
    )
    access = AccessStack(scope, named("access"), env=env, environment=environment, key=storage.key)
    tracking_server = TrackingServerStack(
        scope,
        named("tracking-server"),
        env=env,
        environment=environment,
        network=network,
        storage=storage,
        access=access,
    )
    observability = ObservabilityStack(
        scope,
        named("observability"),
        env=env,
        environment=environment,
        vpc=network.vpc,
        key=storage.key,
        tracking_server=tracking_server,
        database=storage.database.instance if storage.database else None,
    )

    _grant(environment, storage=storage, tracking_server=tracking_server, access=access)
    _publish(environment.name, storage=storage, tracking_server=tracking_server, access=access)
    for stack in (network, storage, access, tracking_server, observability):
        # of every stack: a `cdk destroy` is refused before it has taken the service down, not after
        stack.termination_protection = environment.protect
        for key, value in environment.tags.items():
            stack.add_stack_tag(key, value)  # CloudFormation hands them on to every resource
    if environment.permissions_boundary_arn:
        boundary = iam.ManagedPolicy.from_managed_policy_arn(
            scope, "Boundary", environment.permissions_boundary_arn
        )
        iam.PermissionsBoundary.of(scope).apply(boundary)


def _grant(
    environment: Environment,
    *,
    storage: StorageStack,
    tracking_server: TrackingServerStack,
    access: AccessStack,
) -> None:
    rights = {
        tracking_server.migration_role: [storage.log_in],
        tracking_server.server_role: [
            storage.log_in,
            storage.read_seed,
            storage.read_artifacts,
            storage.write_artifacts,
            access.write_audit,
            *([access.ask_iam] if access.ask_iam else []),
        ],
    }
    if environment.artifacts.access == "direct":
        rights |= {
            access.roles["Reader"]: [storage.read_artifacts],
            access.roles["DataScientist"]: [storage.read_artifacts, storage.write_artifacts],
            access.roles["ModelApprover"]: [storage.read_artifacts],
            access.roles["Admin"]: [storage.read_artifacts, storage.write_artifacts],
        }
    for role, policies in rights.items():
        for policy in policies:
            role.add_managed_policy(policy)


def _publish(
    name: str, *, storage: StorageStack, tracking_server: TrackingServerStack, access: AccessStack
) -> None:
    role_arns = {f"{role}RoleArn": access.roles[role].role_arn for role in access.roles}
    publish(access, name, {"TrackingServerArn": access.tracking_server_arn} | role_arns)
    publish(
        storage,
        name,
        {"ArtifactBucketName": storage.bucket.bucket_name, "DatabaseEndpoint": storage.database_host},
    )
    publish(
        tracking_server,
        name,
        {
            "TrackingUri": tracking_server.front.tracking_uri,
            "ImageUri": tracking_server.image_uri,
            "MlflowVersion": mlflow_version(),
        },
    )
