"""What a stack is: its template, its resources, its outputs, and the events that tell what happened to it."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from local.cloudformation.template import parse

_EMPTY = "{}"


def now() -> datetime:
    """The time as AWS writes it: UTC."""
    return datetime.now(timezone.utc)


@dataclass(frozen=True)
class Revision:
    """What a deployment puts in place: the template's text, all parameters, and the stack's tags."""

    body: str
    parameters: dict[str, str]
    tags: list[dict[str, str]]


@dataclass
class Resource:
    """A resource of a stack as it is now.

    `definition` is the template's, `properties` are resolved; `generation` counts how often it was replaced.
    """

    logical_id: str
    definition: Mapping[str, Any]
    properties: dict[str, Any]
    physical_id: str
    attributes: dict[str, Any]
    generation: int = 0
    status: str = "CREATE_COMPLETE"
    timestamp: datetime = field(default_factory=now)

    @property
    def type(self) -> str:
        """The resource type, such as AWS::S3::Bucket."""
        return str(self.definition["Type"])


@dataclass
class Stack:
    """A stack: its revision, what exists of it, and what happened."""

    id: str
    name: str
    status: str = "REVIEW_IN_PROGRESS"
    status_reason: str | None = None
    revision: Revision = Revision(_EMPTY, {}, [])
    role_arn: str | None = None
    termination_protection: bool = False
    created: datetime = field(default_factory=now)
    updated: datetime | None = None
    resources: dict[str, Resource] = field(default_factory=dict)
    outputs: list[dict[str, str]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    change_set_id: str | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def template(self) -> dict[str, Any]:
        """The template as a dictionary, empty before the first deployment."""
        return parse(self.revision.body) if self.revision.body != _EMPTY else {}

    @property
    def lives(self) -> bool:
        """Whether it is not deleted."""
        return self.status != "DELETE_COMPLETE"

    @property
    def busy(self) -> bool:
        """Whether an operation is under way."""
        return self.status.endswith("_IN_PROGRESS") and self.status != "REVIEW_IN_PROGRESS"

    def turn(self, status: str, reason: str | None = None) -> None:
        """Take a status, with its event."""
        self.status, self.status_reason, self.updated = status, reason, now()
        self._add(self.name, "AWS::CloudFormation::Stack", self.id, status, reason)

    def tell(self, resource: Resource, status: str, reason: str | None = None) -> None:
        """Record an event of a resource."""
        resource.status, resource.timestamp = status, now()
        self._add(resource.logical_id, resource.type, resource.physical_id, status, reason)

    def _add(self, logical_id: str, kind: str, physical_id: str, status: str, reason: str | None) -> None:
        event = {
            "StackId": self.id,
            "EventId": str(uuid.uuid4()),
            "StackName": self.name,
            "LogicalResourceId": logical_id,
            "PhysicalResourceId": physical_id,
            "ResourceType": kind,
            "Timestamp": now(),
            "ResourceStatus": status,
            "ResourceStatusReason": reason,
        }
        with self._lock:
            self.events.append({key: value for key, value in event.items() if value is not None})

    def describe(self) -> dict[str, Any]:
        """The stack as DescribeStacks returns it."""
        described = {
            "StackId": self.id,
            "StackName": self.name,
            "StackStatus": self.status,
            "StackStatusReason": self.status_reason,
            "CreationTime": self.created,
            "LastUpdatedTime": self.updated,
            "Parameters": parameter_list(self.revision.parameters),
            "Tags": self.revision.tags,
            "Outputs": self.outputs,
            "RoleARN": self.role_arn,
            "ChangeSetId": self.change_set_id,
            "Description": self.template.get("Description"),
            "EnableTerminationProtection": self.termination_protection,
            "Capabilities": ["CAPABILITY_NAMED_IAM"],
        }
        return {key: value for key, value in described.items() if value is not None}

    def describe_resources(self) -> list[dict[str, Any]]:
        """Its resources as DescribeStackResources and ListStackResources return them."""
        return [
            {
                "StackId": self.id,
                "StackName": self.name,
                "LogicalResourceId": resource.logical_id,
                "PhysicalResourceId": resource.physical_id,
                "ResourceType": resource.type,
                "ResourceStatus": resource.status,
                "Timestamp": resource.timestamp,
                "LastUpdatedTimestamp": resource.timestamp,
            }
            for resource in self.resources.values()
        ]


def parameter_list(values: Mapping[str, str]) -> list[dict[str, str]]:
    """Parameters as the API lists them."""
    return [{"ParameterKey": key, "ParameterValue": value} for key, value in values.items()]
