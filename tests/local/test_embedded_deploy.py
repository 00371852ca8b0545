"""The real CDK CLI on a small app: deploy, nothing to do, diff, update, a failure, destroy."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests
from conftest import TINY

from local.aws import EmbeddedAws
from local.database import free_port
from local.deploy import Cdk, CdkError


class Tiny:
    """The app in tiny/, synthesised once; `bend` changes the assembly as another synthesis would."""

    def __init__(self, aws: EmbeddedAws) -> None:
        self.aws = aws
        self.said: list[str] = []
        self.cdk = Cdk(
            aws=aws,
            app=(sys.executable, "app.py"),
            directory=TINY,
            context={"port": str(free_port())},
            progress=self.said.append,
        )
        with ThreadPoolExecutor() as pool:
            synthesis = pool.submit(self.cdk.synth)
            self.cdk.bootstrap()
            self.assembly = synthesis.result()
        self.outputs = self.cdk.deploy(synth=False)

    def bend(self, **changes: str) -> None:
        """Replace words of the template, and the digest by which the CLI knows it."""
        template = self.assembly / "tiny.template.json"
        old = hashlib.sha256(template.read_bytes()).hexdigest()
        text = template.read_text()
        for word, other in changes.items():
            text = text.replace(f'"{word}"', f'"{other}"').replace(f'"db.{word}.', f'"db.{other}.')
        template.write_text(text)
        new = hashlib.sha256(template.read_bytes()).hexdigest()
        for file in (self.assembly / "manifest.json", self.assembly / "tiny.assets.json"):
            assert old in file.read_text()
            file.write_text(file.read_text().replace(old, new))

    def get(self, path: str = "/") -> dict[str, Any]:
        return dict(requests.get(self.outputs["Uri"] + path, timeout=10).json())

    def status(self) -> str:
        stacks = self.aws.client("cloudformation").describe_stacks(StackName="tiny")["Stacks"]
        return str(stacks[0]["StackStatus"])


@pytest.fixture(scope="module")
def tiny(aws: EmbeddedAws) -> Tiny:
    return Tiny(aws)


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
    assert tiny.cdk.deploy() == tiny.outputs
    assert any("(no changes)" in line for line in tiny.said)
    assert "There were no differences" in tiny.cdk.diff()


def test_update_rolls_and_keeps_the_data(tiny: Tiny) -> None:
    tiny.bend(blue="green", world="you", t4g="m7g")
    assert "[~] AWS::RDS::DBInstance Database" in tiny.cdk.diff(synth=False)
    outputs = tiny.cdk.deploy(synth=False)
    assert outputs["Greeting"] == 'Hello you, number "5"'
    assert {**outputs, "Greeting": ""} == {**tiny.outputs, "Greeting": ""}
    assert tiny.get()["COLOUR"] == "green"
    [instance] = tiny.aws.client("rds").describe_db_instances()["DBInstances"]
    assert instance["DBInstanceClass"] == "db.m7g.micro"


def test_failed_update_leaves_what_was_and_tells_why(tiny: Tiny) -> None:
    before = tiny.get()["pid"]
    tiny.bend(green="broken", you="them")
    with pytest.raises(CdkError) as failure:
        tiny.cdk.deploy(synth=False)
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
        tiny.cdk.destroy()
    protect(StackName="tiny", EnableTerminationProtection=False)
    pid = tiny.get()["pid"]
    tiny.cdk.destroy()
    assert subprocess.run(["ps", "-p", str(pid)], capture_output=True).returncode == 1
    assert tiny.aws.client("rds").describe_db_instances()["DBInstances"] == []
    buckets = {bucket["Name"] for bucket in tiny.aws.client("s3").list_buckets()["Buckets"]}
    assert tiny.outputs["BucketName"] not in buckets
    with pytest.raises(requests.ConnectionError):
        tiny.get()
    assert list((tiny.aws.directory / "database").glob("*/data")) == []
