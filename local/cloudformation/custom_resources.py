"""Custom resources: the deployed Lambda function is invoked and answers by a PUT to a URL on loopback."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from local.cloudformation.provider import (
    Created,
    ResourceFailure,
    ResourceRequest,
    call,
)

# https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-cloudformation-customresource.html
DEFAULT_SERVICE_TIMEOUT = 3600


class Answers:
    """Where custom resources' functions send their answers.

    `url_of` gives the ResponseURL of a token; `deliver` is called by the endpoint with the body of the PUT.
    """

    def __init__(self, url_of: Callable[[str], str]) -> None:
        self.url_of = url_of
        self._waiting: dict[str, tuple[threading.Event, list[dict[str, Any]]]] = {}

    def expect(self) -> str:
        """A token for one answer."""
        token = uuid.uuid4().hex
        self._waiting[token] = (threading.Event(), [])
        return token

    def deliver(self, token: str, body: bytes) -> bool:
        """Take an answer; False when nothing waits for it."""
        if token not in self._waiting:
            return False
        event, answers = self._waiting[token]
        answers.append(json.loads(body))
        event.set()
        return True

    def wait(self, token: str, timeout: float) -> dict[str, Any] | None:
        """The answer, or None when there was none within `timeout` seconds."""
        event, answers = self._waiting[token]
        return answers[0] if event.wait(timeout) else None

    def forget(self, token: str) -> None:
        """Take no answer for the token any more."""
        self._waiting.pop(token, None)


class CustomResource:
    """Custom::* and AWS::CloudFormation::CustomResource.

    `gave_up(function, token)` returns why a function can no longer answer (its invocations ended in errors), or
    None while it still may. `equivalents` answer in place of functions that cannot run here, by resource type.
    """

    def __init__(
        self,
        *,
        answers: Answers,
        gave_up: Callable[[str], str | None],
        equivalents: Mapping[str, Callable[[str, ResourceRequest], None]],
    ) -> None:
        self._answers, self._gave_up, self._equivalents = answers, gave_up, equivalents

    def create(self, request: ResourceRequest) -> Created:
        """Send a Create event."""
        return self._send("Create", request, None, None)

    def update(self, request: ResourceRequest, physical_id: str, old: Mapping[str, Any]) -> Created | None:
        """Send an Update event; another service token needs another resource."""
        if request.properties.get("ServiceToken") != old.get("ServiceToken"):
            return None
        return self._send("Update", request, physical_id, old)

    def delete(self, request: ResourceRequest, physical_id: str, *, snapshot: bool) -> None:
        """Send a Delete event."""
        self._send("Delete", request, physical_id, None)

    def _send(
        self, kind: str, request: ResourceRequest, physical_id: str | None, old: Mapping[str, Any] | None
    ) -> Created:
        if request.type in self._equivalents:
            self._equivalents[request.type](kind, request)
            return Created(physical_id or request.name())
        token = self._answers.expect()
        try:
            answer = self._invoke(kind, request, physical_id, old, token)
        finally:
            self._answers.forget(token)
        if answer.get("Status") != "SUCCESS":
            reason = answer.get("Reason", "no reason given")
            raise ResourceFailure(
                f"Received response status [FAILED] from custom resource. Message returned: {reason}"
            )
        return Created(
            answer.get("PhysicalResourceId") or physical_id or request.name(), answer.get("Data") or {}
        )

    def _invoke(
        self,
        kind: str,
        request: ResourceRequest,
        physical_id: str | None,
        old: Mapping[str, Any] | None,
        token: str,
    ) -> dict[str, Any]:
        function = request.properties["ServiceToken"]
        properties = {key: value for key, value in request.properties.items() if key != "ServiceTimeout"}
        event = {
            "RequestType": kind,
            "RequestId": str(uuid.uuid4()),
            "ResponseURL": self._answers.url_of(token),
            "ResourceType": request.type,
            "LogicalResourceId": request.logical_id,
            "StackId": request.stack_id,
            "ServiceToken": function,
            "ResourceProperties": _texts(properties),
        }
        if physical_id is not None:
            event["PhysicalResourceId"] = physical_id
        if old is not None:
            event["OldResourceProperties"] = _texts(old)
        client = request.environment.client("lambda")
        call(client, "invoke", FunctionName=function, InvocationType="Event", Payload=json.dumps(event))
        timeout = float(request.properties.get("ServiceTimeout", DEFAULT_SERVICE_TIMEOUT))
        while timeout > 0:
            reason = self._gave_up(function)
            if answer := self._answers.wait(token, 0.1):
                return answer
            if reason is not None:
                # AWS would wait for ServiceTimeout; nothing can come any more, so say now what happened
                raise ResourceFailure(
                    f"CloudFormation did not receive a response from your Custom Resource: {reason}"
                )
            request.pause(0.1)
            timeout -= 0.2
        raise ResourceFailure(
            "CloudFormation did not receive a response from your Custom Resource. "
            f"Please check your logs for requestId [{event['RequestId']}]."
        )


def _texts(value: Any) -> Any:
    """Numbers and booleans as the strings that CloudFormation sends."""
    if isinstance(value, dict):
        return {key: _texts(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_texts(item) for item in value]
    return json.dumps(value) if isinstance(value, bool | int | float) else value


def empty_bucket(kind: str, request: ResourceRequest) -> None:
    """Custom::S3AutoDeleteObjects: on Delete the bucket's objects go, in all versions."""
    if kind != "Delete":
        return
    client = request.environment.client("s3")
    bucket = request.properties["BucketName"]
    try:
        pages = client.get_paginator("list_object_versions").paginate(Bucket=bucket)
        for page in pages:
            found = [*page.get("Versions", []), *page.get("DeleteMarkers", [])]
            objects = [{"Key": item["Key"], "VersionId": item["VersionId"]} for item in found]
            if objects:
                client.delete_objects(Bucket=bucket, Delete={"Objects": objects, "Quiet": True})
    except client.exceptions.NoSuchBucket:
        return


def restrict_default_security_group(kind: str, request: ResourceRequest) -> None:
    """Custom::VpcRestrictDefaultSG: the VPC's default security group lets nothing through."""
    if kind == "Delete":
        return
    client = request.environment.client("ec2")
    group = request.properties["DefaultSecurityGroupId"]
    [found] = client.describe_security_groups(GroupIds=[group])["SecurityGroups"]
    if found["IpPermissions"]:
        client.revoke_security_group_ingress(GroupId=group, IpPermissions=found["IpPermissions"])
    if found["IpPermissionsEgress"]:
        client.revoke_security_group_egress(GroupId=group, IpPermissions=found["IpPermissionsEgress"])


# what these functions of the CDK do needs the AWS SDK for JavaScript, which is part of Lambda's runtime only
EQUIVALENTS: dict[str, Callable[[str, ResourceRequest], None]] = {
    "Custom::S3AutoDeleteObjects": empty_bucket,
    "Custom::VpcRestrictDefaultSG": restrict_default_security_group,
}
