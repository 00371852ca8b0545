"""An embedded AWS for each module of these tests, and stacks made without the CDK."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from local.aws import EmbeddedAws

TINY = Path(__file__).parent / "tiny"


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedAws]:
    """An embedded AWS whose tasks run the tiny server."""
    with embedded(tmp_path_factory.mktemp("aws")) as embedded_aws:
        yield embedded_aws


def embedded(directory: Path, **arguments: Any) -> EmbeddedAws:
    """One that is not started yet."""
    return EmbeddedAws(
        directory=directory, server_python=Path(sys.executable), container=TINY / "container", **arguments
    )


def eventually(found: Callable[[], Any], seconds: float = 15) -> Any:
    """What `found` returns as soon as it is true."""
    deadline = time.monotonic() + seconds
    while not (result := found()):
        assert time.monotonic() < deadline, f"not within {seconds} seconds: {found}"
        time.sleep(0.05)
    return result


class Stack:
    """A CloudFormation stack made from a dictionary of resources."""

    def __init__(self, aws: EmbeddedAws, name: str) -> None:
        self.client = aws.client("cloudformation")
        self.name = name

    def create(self, resources: dict[str, Any], **template: Any) -> str:
        """Create it and return its last status."""
        self.client.create_stack(StackName=self.name, TemplateBody=body(resources, **template))
        return self.wait()

    def update(self, resources: dict[str, Any], **template: Any) -> str:
        """Update it and return its last status."""
        self.client.update_stack(StackName=self.name, TemplateBody=body(resources, **template))
        return self.wait()

    def delete(self) -> str:
        """Delete it and return its last status."""
        stack_id = self.describe()["StackId"]
        self.client.delete_stack(StackName=self.name)
        return self.wait(stack_id)

    def wait(self, name: str | None = None) -> str:
        """The status at the end of the operation under way."""

        def ended() -> str | None:
            status: str = self.describe(name)["StackStatus"]
            return None if status.endswith("_IN_PROGRESS") else status

        return str(eventually(ended, 60))

    def describe(self, name: str | None = None) -> dict[str, Any]:
        """The stack as DescribeStacks shows it."""
        stack: dict[str, Any] = self.client.describe_stacks(StackName=name or self.name)["Stacks"][0]
        return stack

    def outputs(self) -> dict[str, str]:
        """Its outputs by key."""
        return {item["OutputKey"]: item["OutputValue"] for item in self.describe()["Outputs"]}

    def reasons(self, status: str) -> str:
        """The reasons of all events of a status."""
        events = self.client.describe_stack_events(StackName=self.name)["StackEvents"]
        found = [item for item in events if item["ResourceStatus"] == status]
        return "\n".join(item.get("ResourceStatusReason", "") for item in found)

    def physical_id(self, logical_id: str) -> str:
        """The physical id of a resource."""
        resources = self.client.describe_stack_resources(StackName=self.name)["StackResources"]
        return str(
            next(item["PhysicalResourceId"] for item in resources if item["LogicalResourceId"] == logical_id)
        )


def body(resources: dict[str, Any], **template: Any) -> str:
    """A template's text."""
    return json.dumps({"Resources": resources, **template})


@pytest.fixture
def stack(aws: EmbeddedAws, request: pytest.FixtureRequest) -> Stack:
    """A stack of the test's own name."""
    return Stack(aws, request.node.name.replace("_", "-").split("[")[0][:60])


def role(service: str, *statements: dict[str, Any], **properties: Any) -> dict[str, Any]:
    """An IAM role resource that trusts a service."""
    policies = [
        {"PolicyName": "inline", "PolicyDocument": {"Version": "2012-10-17", "Statement": list(statements)}}
    ]
    return {
        "Type": "AWS::IAM::Role",
        "Properties": {
            "AssumeRolePolicyDocument": {
                "Version": "2012-10-17",
                "Statement": [
                    {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"Service": service}}
                ],
            },
            **({"Policies": policies} if statements else {}),
            **properties,
        },
    }
