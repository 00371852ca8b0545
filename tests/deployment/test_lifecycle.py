"""The life of an environment, by the real CDK CLI against the embedded AWS: deploy, change, fail, destroy."""

from __future__ import annotations

from collections.abc import Iterator

import mlflow
import pytest
import requests
from deployments import Deployment

from local.aws import EmbeddedAws
from local.deploy import CdkError

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


@pytest.fixture(scope="module")
def development(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    directory = tmp_path_factory.mktemp("development")
    with EmbeddedAws(directory=directory, region="us-east-1") as aws:
        deployment = Deployment(aws, directory, name="mlflow-life")
        deployment.cdk.bootstrap()
        deployment.deploy()
        yield deployment


@pytest.fixture(autouse=True)
def as_administrator(development: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in development.variables("Admin").items():
        monkeypatch.setenv(name, value)


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

    development.deploy(size="medium")

    [after] = development.databases()
    assert after["DBInstanceIdentifier"] == before["DBInstanceIdentifier"]
    assert (before["DBInstanceClass"], after["DBInstanceClass"]) == ("db.t4g.small", "db.t4g.medium")
    assert development.outputs["ArtifactBucketName"] == bucket
    [target] = development.scaling()
    assert (target["MinCapacity"], target["MaxCapacity"]) == (2, 4)
    assert "kept over the change of size" in experiments(development.outputs["TrackingUri"])


def test_failing_migration_leaves_the_service_as_it_was(development: Deployment) -> None:
    database = development.aws.database
    assert database is not None, "no MySQL-compatible server: local/get_database.py gets one"
    task_definition = development.task_definition()
    [[revision]] = database.admin("SELECT version_num FROM mlflow.alembic_version")
    database.admin("UPDATE mlflow.alembic_version SET version_num = 'fromafuture'")
    try:
        with pytest.raises(CdkError, match="a schema cannot be downgraded"):
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
