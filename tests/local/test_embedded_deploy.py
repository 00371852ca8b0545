"""The real CDK CLI on a small app: deploy, nothing to do, diff, update, a failure, destroy."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import requests
from conftest import TINY

from local.aws import EmbeddedAws
from local.database import free_port
from local.deploy import Cdk, CdkError


class Tiny:
    """The app in tiny/, with context values that bend it."""

    def __init__(self, aws: EmbeddedAws) -> None:
        self.aws = aws
        self.said: list[str] = []
        self.context = {"port": str(free_port())}
        self.outputs: dict[str, str] = {}

    def cdk(self, **context: str) -> Cdk:
        self.context |= context
        return Cdk(
            aws=self.aws,
            app=(sys.executable, "app.py"),
            directory=TINY,
            context=self.context,
            progress=self.said.append,
        )

    def get(self, path: str = "/") -> dict[str, Any]:
        return dict(requests.get(self.outputs["Uri"] + path, timeout=10).json())

    def status(self) -> str:
        stacks = self.aws.client("cloudformation").describe_stacks(StackName="tiny")["Stacks"]
        return str(stacks[0]["StackStatus"])


@pytest.fixture(scope="module")
def tiny(aws: EmbeddedAws) -> Tiny:
    app = Tiny(aws)
    app.cdk().bootstrap()
    app.outputs = app.cdk().deploy()
    return app


def test_deployment_runs_what_the_stack_says(tiny: Tiny) -> None:
    assert any("✅  tiny" in line for line in tiny.said)
    assert tiny.outputs["Greeting"] == 'Hello world, number "5"'
    found = tiny.get()
    assert (found["COLOUR"], found["DATABASE_HOST"]) == ("blue", "localhost")
    assert tiny.outputs["DatabaseEndpoint"] == f"localhost:{found['DATABASE_PORT']}"
    assert len(found["SEED"]) == 32
    assert found["headers"]["Host"] == tiny.outputs["Uri"].removeprefix("http://")
    assert tiny.get("/s3/allowed/x") == {"written": "allowed/x"}
    refusal = tiny.get("/s3/other")["error"]
    assert refusal["Code"] == "AccessDenied"
    assert "is not authorized to perform: s3:PutObject on resource" in refusal["Message"]


def test_nothing_changed_and_no_differences(tiny: Tiny) -> None:
    tiny.said.clear()
    assert tiny.cdk().deploy() == tiny.outputs
    assert any("(no changes)" in line for line in tiny.said)
    assert "There were no differences" in tiny.cdk().diff()


def test_update_rolls_and_keeps_the_data(tiny: Tiny) -> None:
    outputs = tiny.cdk(colour="green", greet="you", database="t4g.small").deploy()
    assert outputs["Greeting"] == 'Hello you, number "5"'
    assert {**outputs, "Greeting": ""} == {**tiny.outputs, "Greeting": ""}
    assert tiny.get()["COLOUR"] == "green"
    [instance] = tiny.aws.client("rds").describe_db_instances()["DBInstances"]
    assert instance["DBInstanceClass"] == "db.t4g.small"


def test_failed_update_leaves_what_was_and_tells_why(tiny: Tiny) -> None:
    before = tiny.get()["pid"]
    with pytest.raises(CdkError) as failure:
        tiny.cdk(colour="broken", greet="them").deploy()
    assert "ECS Deployment Circuit Breaker was triggered" in str(failure.value)
    assert "this colour cannot be served" in str(failure.value)
    assert "    at " not in str(failure.value)
    assert tiny.status() == "UPDATE_ROLLBACK_COMPLETE"
    assert tiny.get()["pid"] == before
    parameter = tiny.aws.client("ssm").get_parameter(Name="/tiny/Greeting")["Parameter"]
    assert parameter["Value"] == 'Hello you, number "5"'


def test_app_that_does_not_synthesise_says_why(tiny: Tiny) -> None:
    app = (sys.executable, "-c", "raise SystemExit('no such environment: prdo')")
    with pytest.raises(CdkError, match="no such environment: prdo"):
        Cdk(aws=tiny.aws, app=app, directory=TINY).synth()


def test_protected_stack_stays_and_an_unprotected_one_goes(tiny: Tiny) -> None:
    protect = tiny.aws.client("cloudformation").update_termination_protection
    protect(StackName="tiny", EnableTerminationProtection=True)
    with pytest.raises(CdkError, match=r"cannot be deleted while TerminationProtection is enabled"):
        tiny.cdk().destroy()
    protect(StackName="tiny", EnableTerminationProtection=False)
    pid = tiny.get()["pid"]
    tiny.cdk().destroy()
    assert subprocess.run(["ps", "-p", str(pid)], capture_output=True).returncode == 1
    assert tiny.aws.client("rds").describe_db_instances()["DBInstances"] == []
    buckets = {bucket["Name"] for bucket in tiny.aws.client("s3").list_buckets()["Buckets"]}
    assert tiny.outputs["BucketName"] not in buckets
    with pytest.raises(requests.ConnectionError):
        tiny.get()
    assert list((tiny.aws.directory / "database").glob("*/data")) == []
