"""The life of an environment, by the real CDK CLI against the embedded AWS: deploy, change, fail, destroy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
import requests
import yaml
from ports import free_port

from local.aws import EmbeddedAws
from local.deploy import Cdk, CdkError

OUTPUTS = {
    "TrackingUri",
    "TrackingServerArn",
    "ArtifactBucketName",
    "ReaderRoleArn",
    "DataScientistRoleArn",
    "ModelApproverRoleArn",
    "AdminRoleArn",
    "DatabaseEndpoint",
    "ImageUri",
    "MlflowVersion",
}


class Deployment:
    """An environment file that can be changed, and the embedded AWS that it is deployed to."""

    def __init__(self, aws: EmbeddedAws, directory: Path, **settings: Any) -> None:
        self.aws = aws
        self.file = directory / "environment.yaml"
        self.settings: dict[str, Any] = {"extends": "local", "front": {"port": free_port()}, **settings}
        self.cdk = Cdk(aws=aws, environment=str(self.file))
        self.outputs: dict[str, str] = {}

    def deploy(self, **changes: Any) -> str:
        self.settings |= changes
        self.file.write_text(yaml.safe_dump(self.settings))
        printed: list[str] = []
        self.cdk.progress = printed.append
        self.outputs = self.cdk.deploy()
        return "\n".join(printed)

    def stack(self, part: str) -> str:
        return f"{self.settings['name']}-{part}"

    def resources(self, part: str, type: str) -> list[str]:
        """Physical ids of the stack's resources of a type."""
        pages = self.aws.client("cloudformation").list_stack_resources(StackName=self.stack(part))
        return [
            item["PhysicalResourceId"]
            for item in pages["StackResourceSummaries"]
            if item["ResourceType"] == type
        ]

    def task_definition(self) -> str:
        """What the service runs."""
        ecs = self.aws.client("ecs")
        [cluster] = self.resources("tracking-server", "AWS::ECS::Cluster")
        [service] = self.resources("tracking-server", "AWS::ECS::Service")
        [description] = ecs.describe_services(cluster=cluster, services=[service])["services"]
        return str(description["taskDefinition"])

    def databases(self) -> list[dict[str, Any]]:
        instances: list[dict[str, Any]] = self.aws.client("rds").describe_db_instances()["DBInstances"]
        return instances

    def snapshots(self) -> list[str]:
        found = self.aws.client("rds").describe_db_snapshots()["DBSnapshots"]
        return [snapshot["DBInstanceIdentifier"] for snapshot in found]

    def buckets(self) -> set[str]:
        return {bucket["Name"] for bucket in self.aws.client("s3").list_buckets()["Buckets"]}


@pytest.fixture(scope="module")
def development(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    directory = tmp_path_factory.mktemp("development")
    with EmbeddedAws(directory=directory, region="us-east-1") as aws:
        deployment = Deployment(aws, directory, name="mlflow-life")
        deployment.cdk.bootstrap()
        deployment.deploy()
        yield deployment


def experiments(uri: str) -> set[str]:
    return {experiment.name for experiment in mlflow.MlflowClient(uri).search_experiments()}


def test_first_deployment_gives_every_output(development: Deployment) -> None:
    assert development.outputs.keys() >= OUTPUTS
    assert requests.get(f"{development.outputs['TrackingUri']}/health", timeout=10).status_code == 200


def test_outputs_are_ssm_parameters_too(development: Deployment) -> None:
    pages = (
        development.aws.client("ssm")
        .get_paginator("get_parameters_by_path")
        .paginate(Path="/mlflow/mlflow-life/")
    )
    found = {item["Name"].rpartition("/")[2]: item["Value"] for page in pages for item in page["Parameters"]}
    assert found == {name: development.outputs[name] for name in OUTPUTS}


def test_second_deployment_changes_nothing(development: Deployment) -> None:
    before = development.task_definition()
    printed = development.deploy()
    assert printed.count("(no changes)") == 5
    assert development.task_definition() == before
    assert "There were no differences" in development.cdk.diff()


def test_size_changes_without_touching_what_is_stored(development: Deployment) -> None:
    mlflow.MlflowClient(development.outputs["TrackingUri"]).create_experiment("kept over the change of size")
    [before] = development.databases()
    bucket = development.outputs["ArtifactBucketName"]
    task_definition = development.task_definition()

    development.deploy(size="medium")

    [after] = development.databases()
    assert after["DBInstanceIdentifier"] == before["DBInstanceIdentifier"]
    assert (before["DBInstanceClass"], after["DBInstanceClass"]) == ("db.t4g.small", "db.t4g.medium")
    assert development.outputs["ArtifactBucketName"] == bucket
    assert development.task_definition() != task_definition
    assert "kept over the change of size" in experiments(development.outputs["TrackingUri"])


def test_failing_migration_leaves_the_service_as_it_was(development: Deployment) -> None:
    database = development.aws.database
    assert database is not None, "no MySQL-compatible server: local/get_database.py gets one"
    task_definition = development.task_definition()
    [[revision]] = database.admin("SELECT version_num FROM mlflow.alembic_version")
    database.admin("UPDATE mlflow.alembic_version SET version_num = 'fromafuture'")
    try:
        with pytest.raises(CdkError, match="newer"):
            development.deploy(tracking_server={"architecture": "amd64"})
    finally:
        database.admin(f"UPDATE mlflow.alembic_version SET version_num = '{revision}'")
    assert development.task_definition() == task_definition
    [stack] = development.aws.client("cloudformation").describe_stacks(
        StackName=development.stack("tracking-server")
    )["Stacks"]
    assert stack["StackStatus"] == "UPDATE_ROLLBACK_COMPLETE"
    assert "Default" in experiments(development.outputs["TrackingUri"])

    development.deploy()
    assert development.task_definition() != task_definition


def test_destroy_leaves_nothing_of_a_development_environment(development: Deployment) -> None:
    bucket = development.outputs["ArtifactBucketName"]
    uri = development.outputs["TrackingUri"]
    development.aws.client("s3").put_object(Bucket=bucket, Key="artifacts/left-behind", Body=b"x")
    development.cdk.destroy()
    assert development.databases() == []
    assert development.snapshots() == []
    assert bucket not in development.buckets()
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{uri}/health", timeout=5)


def test_destroy_keeps_the_data_of_a_protected_environment(tmp_path: Path) -> None:
    with EmbeddedAws(directory=tmp_path, region="us-east-1") as aws:
        production = Deployment(aws, tmp_path, extends="prod", name="mlflow-prod")
        production.cdk.bootstrap()
        production.deploy()
        bucket = production.outputs["ArtifactBucketName"]
        [database] = production.databases()
        assert database["MultiAZ"]

        with pytest.raises(CdkError, match=r"[Tt]ermination ?[Pp]rotection"):
            production.cdk.destroy()
        assert len(production.databases()) == 1

        # what docs/platform-engineers.md says about tearing down on purpose
        for part in ("network", "storage", "tracking-server", "access", "observability"):
            aws.client("cloudformation").update_termination_protection(
                StackName=production.stack(part), EnableTerminationProtection=False
            )
        aws.client("rds").modify_db_instance(
            DBInstanceIdentifier=database["DBInstanceIdentifier"], DeletionProtection=False
        )
        for balancer in aws.client("elbv2").describe_load_balancers()["LoadBalancers"]:
            aws.client("elbv2").modify_load_balancer_attributes(
                LoadBalancerArn=balancer["LoadBalancerArn"],
                Attributes=[{"Key": "deletion_protection.enabled", "Value": "false"}],
            )
        production.cdk.destroy()

        assert production.databases() == []
        assert production.snapshots() == [database["DBInstanceIdentifier"]]
        assert bucket in production.buckets()
