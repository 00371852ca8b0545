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

    network = NetworkStack(
        scope,
        named("network"),
        env=env,
        network=environment.network,
        front=environment.front,
        database=environment.database,
    )
    storage = StorageStack(
        scope,
        named("storage"),
        env=env,
        environment=environment,
        vpc=network.vpc,
        subnets=network.subnets,
        security_group=network.database,
    )
    tracking_server = TrackingServerStack(
        scope, named("tracking-server"), env=env, environment=environment, network=network, storage=storage
    )
    access = AccessStack(scope, named("access"), env=env, name=environment.name, roles=environment.roles)
    ObservabilityStack(
        scope,
        named("observability"),
        env=env,
        environment=environment,
        vpc=network.vpc,
        key=storage.key,
        tracking_server=tracking_server,
        database=storage.database,
    )

    storage.grant_login(tracking_server.migration_policy)
    storage.grant_login(tracking_server.server_policy)
    storage.grant_seed(tracking_server.server_policy)
    storage.grant_artifacts(tracking_server.server_policy)

    publish(
        access,
        environment.name,
        {"TrackingServerArn": access.tracking_server_arn}
        | {f"{name}RoleArn": role.role_arn for name, role in access.roles.items()},
    )
    publish(
        storage,
        environment.name,
        {"ArtifactBucketName": storage.bucket.bucket_name, "DatabaseEndpoint": storage.database_host},
    )
    publish(
        tracking_server,
        environment.name,
        {
            "TrackingUri": tracking_server.front.tracking_uri,
            "ImageUri": tracking_server.image_uri,
            "MlflowVersion": mlflow_version(),
        },
    )

    for key, value in environment.tags.items():
        cdk.Tags.of(scope).add(key, value)
    if environment.permissions_boundary_arn:
        boundary = iam.ManagedPolicy.from_managed_policy_arn(
            scope, "Boundary", environment.permissions_boundary_arn
        )
        iam.PermissionsBoundary.of(scope).apply(boundary)
