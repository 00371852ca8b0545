"""What the stack engine asks of a resource type, and the provider that serves most types from a table."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import jmespath
from botocore.exceptions import ClientError, ParamValidationError
from botocore.model import ListShape, MapShape, Shape, StructureShape


class Abandoned(Exception):
    """The embedded AWS closes while an operation is under way."""


class ResourceFailure(Exception):
    """A resource could not be created, updated or deleted; the message is the event's reason."""


@dataclass(frozen=True, kw_only=True)
class Environment:
    """Where resources are made: `client(service)` gives a boto3 client with the rights of the deployment.

    `closing` is set when everything is about to stop: who waits then gives up.
    """

    closing: threading.Event = field(default_factory=threading.Event)
    client: Callable[[str], Any]
    region: str
    partition: str
    account: str

    @property
    def url_suffix(self) -> str:
        """The domain of the partition's services."""
        return "amazonaws.com.cn" if self.partition == "aws-cn" else "amazonaws.com"


@dataclass(frozen=True, kw_only=True)
class ResourceRequest:
    """One resource that an operation is about; `suffix` makes generated names unique."""

    logical_id: str
    type: str
    properties: dict[str, Any]
    stack_name: str
    stack_id: str
    suffix: str
    environment: Environment

    def pause(self, seconds: float) -> None:
        """Wait a moment. Raises Abandoned when there is nothing to wait for any more."""
        if self.environment.closing.wait(seconds):
            raise Abandoned

    def name(self, limit: int = 64) -> str:
        """The name for a resource whose template gives none."""
        start = f"{self.stack_name}-{self.logical_id}"[: limit - len(self.suffix) - 1].rstrip("-")
        return f"{start}-{self.suffix}"


@dataclass(frozen=True)
class Created:
    """A resource as its type reports it: what Ref gives and what GetAtt can ask for."""

    physical_id: str
    attributes: dict[str, Any] = field(default_factory=dict)


class Provider(Protocol):
    """A resource type. Every method raises ResourceFailure with the reason for the stack event."""

    def create(self, request: ResourceRequest) -> Created:
        """Make the resource."""

    def update(self, request: ResourceRequest, physical_id: str, old: Mapping[str, Any]) -> Created | None:
        """Change it in place from the `old` properties; None when it has to be replaced."""

    def delete(self, request: ResourceRequest, physical_id: str, *, snapshot: bool) -> None:
        """Delete it; one that is already gone is no error. `snapshot`: keep its data in a snapshot."""


def failure(error: Exception) -> ResourceFailure:
    """The reason of a stack event for an error of a service's client."""
    if isinstance(error, ClientError):
        detail = error.response["Error"]
        code, message = detail.get("Code", ""), detail.get("Message", "")
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return ResourceFailure(f"{message} (Status Code: {status}, Error Code: {code})")
    return ResourceFailure(str(error))


def to_api(shape: Shape, value: Any, path: str = "") -> Any:
    """CloudFormation's properties in the spelling and types of a service's input shape.

    Both speak of the same things with other capitals and, in places, other containers for tags. Raises
    ResourceFailure on a property that the shape does not know, as nothing may get lost silently.
    """
    if isinstance(shape, StructureShape):
        members = {name.lower(): name for name in shape.members}
        converted = {}
        for key, item in value.items():
            name = members.get(key.lower())
            if name is None and key in ("Key", "Value"):
                name = members.get(f"tag{key.lower()}")
            if name is None:
                raise ResourceFailure(f"The embedded AWS does not support the property {path}{key}")
            converted[name] = to_api(shape.members[name], item, f"{path}{key}.")
        return converted
    if isinstance(shape, ListShape):
        items = [{"Key": k, "Value": v} for k, v in value.items()] if isinstance(value, dict) else value
        return [to_api(shape.member, item, path) for item in ([items] if isinstance(items, str) else items)]
    if isinstance(shape, MapShape):
        if isinstance(value, list):
            return {item["Key"]: item["Value"] for item in value}
        return {key: to_api(shape.value, item, f"{path}{key}.") for key, item in value.items()}
    return _scalar(shape.type_name, value)


def _scalar(kind: str, value: Any) -> Any:
    if kind == "boolean":
        return value if isinstance(value, bool) else str(value).lower() == "true"
    if kind in ("integer", "long"):
        return int(value)
    if kind in ("float", "double"):
        return float(value)
    if kind == "string":
        return json.dumps(value) if isinstance(value, dict | list | bool) else str(value)
    return value


@dataclass(frozen=True, kw_only=True)
class ApiProvider:
    """A resource type whose life is a handful of calls of one service's API.

    `id` and the `attributes` are JMESPaths into {"in": request, "out": answer} of `create_call`; `read` gives
    further attributes. `key` is the parameter that takes the id in the update and delete calls. `name` is the
    property that gets a generated name when it is absent. `before` may rewrite the properties, `after` does
    what needs further calls (client, id, properties, old properties): changes of the properties in `by_after`,
    and their first values where `create_call` does not know them. Other changes are made by `update_call` where
    its input knows every changed property and none is `fixed`; else the resource is replaced.
    `deleted_by` gives the delete call's parameters where they are not just the id under `key`; `cleared` does
    what has to go before (client, id, properties).
    """

    service: str
    create_call: str
    id: str
    key: str = ""
    delete_call: str | None = None
    update_call: str | None = None
    name: str | None = None
    name_limit: int = 64
    attributes: Mapping[str, str] = field(default_factory=dict)
    read: Callable[[Any, str], dict[str, Any]] | None = None
    fixed: frozenset[str] = frozenset()
    by_after: frozenset[str] = frozenset()
    renamed: Mapping[str, str] = field(default_factory=dict)
    before: Callable[[dict[str, Any], ResourceRequest], dict[str, Any]] | None = None
    after: Callable[[Any, str, dict[str, Any], Mapping[str, Any]], None] | None = None
    deleted_by: Callable[[str, dict[str, Any]], dict[str, Any]] | None = None
    cleared: Callable[[Any, str, dict[str, Any]], None] | None = None

    def create(self, request: ResourceRequest) -> Created:
        """Call the service's create operation."""
        client = request.environment.client(self.service)
        properties = dict(request.properties)
        if self.name and self.name not in properties:
            properties[self.name] = request.name(self.name_limit)
        shape = self._shape(client, self.create_call)
        known = {name.lower() for name in shape.members}
        later = {name for name in self.by_after if self.renamed.get(name, name).lower() not in known}
        given = {key: value for key, value in properties.items() if key not in later}
        parameters = to_api(shape, self._prepared(given, request))
        answer = call(client, self.create_call, **parameters)
        found = {"in": parameters, "out": answer}
        physical_id = str(jmespath.search(self.id, found))
        attributes = {name: jmespath.search(path, found) for name, path in self.attributes.items()}
        return self._finish(client, request, Created(physical_id, attributes), {})

    def update(self, request: ResourceRequest, physical_id: str, old: Mapping[str, Any]) -> Created | None:
        """Call the service's update operation, unless a changed property wants a replacement."""
        new = request.properties
        changed = {key for key in {*new, *old} if new.get(key) != old.get(key)}
        client = request.environment.client(self.service)
        remaining = changed - self.by_after - {"Tags"}
        if remaining:
            if self.update_call is None or remaining & self.fixed:
                return None
            shape = self._shape(client, self.update_call)
            known = {name.lower() for name in shape.members}
            prepared = self._prepared(dict(new), request)
            if any(self.renamed.get(key, key).lower() not in known for key in remaining):
                return None
            given = {key: value for key, value in prepared.items() if key.lower() in known}
            identity = {self.key: physical_id} if self.key else {}
            call(client, self.update_call, **{**to_api(shape, given), **identity})
        return self._finish(client, request, Created(physical_id), old)

    def delete(self, request: ResourceRequest, physical_id: str, *, snapshot: bool) -> None:
        """Call the service's delete operation; what is gone already is fine."""
        if self.delete_call is None:
            return
        client = request.environment.client(self.service)
        if self.cleared:
            try:
                self.cleared(client, physical_id, request.properties)
            except ClientError as error:
                raise failure(error) from error
        by = self.deleted_by
        parameters = by(physical_id, request.properties) if by else {self.key: physical_id}
        delete(client, self.delete_call, **parameters)

    def _shape(self, client: Any, name: str) -> Any:
        operation = client.meta.method_to_api_mapping[name]
        return client.meta.service_model.operation_model(operation).input_shape

    def _prepared(self, properties: dict[str, Any], request: ResourceRequest) -> dict[str, Any]:
        if self.before:
            properties = self.before(properties, request)
        return {self.renamed.get(key, key): value for key, value in properties.items()}

    def _finish(
        self, client: Any, request: ResourceRequest, created: Created, old: Mapping[str, Any]
    ) -> Created:
        if self.after:
            try:
                self.after(client, created.physical_id, request.properties, old)
            except (ClientError, ParamValidationError) as error:
                raise failure(error) from error
        if self.read:
            created.attributes.update(self.read(client, created.physical_id))
        return created


def call(client: Any, name: str, **parameters: Any) -> dict[str, Any]:
    """Call a service. Raises ResourceFailure with the service's own message."""
    try:
        answer: dict[str, Any] = getattr(client, name)(**parameters)
    except (ClientError, ParamValidationError) as error:
        raise failure(error) from error
    return answer


def delete(client: Any, name: str, **parameters: Any) -> None:
    """Call a service's delete operation; that the resource is gone already is no failure."""
    try:
        call(client, name, **parameters)
    except ResourceFailure as error:
        if not re.search(r"NotFound|NoSuch|Missing|does not exist|could not be found", str(error)):
            raise
