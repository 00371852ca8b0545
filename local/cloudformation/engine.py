"""Stacks: creating, updating, rolling back and deleting their resources, with the events that AWS reports."""

from __future__ import annotations

import contextlib
import hashlib
import re
import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from local.cloudformation.provider import (
    Abandoned,
    Created,
    Environment,
    Provider,
    ResourceFailure,
    ResourceRequest,
)
from local.cloudformation.template import Resolver, TemplateError, creation_order, parse

_STACK = "AWS::CloudFormation::Stack"
_TAKEN = re.compile(r"already ?exists|AlreadyExists|AlreadyOwnedByYou|InvalidGroup.Duplicate", re.IGNORECASE)
_NAMES_TO_TRY = 4


def now() -> datetime:
    """The time as AWS writes it: UTC."""
    return datetime.now(timezone.utc)


@dataclass
class Resource:
    """A resource of a stack as it is now; `properties` are resolved, `definition` is the template's."""

    logical_id: str
    type: str
    definition: Mapping[str, Any]
    properties: dict[str, Any]
    physical_id: str
    attributes: dict[str, Any]
    status: str = "CREATE_COMPLETE"
    timestamp: datetime = field(default_factory=now)


@dataclass
class Stack:
    """A stack: its template, what exists of it, and what happened."""

    id: str
    name: str
    status: str = "REVIEW_IN_PROGRESS"
    status_reason: str | None = None
    body: str = "{}"
    parameters: dict[str, str] = field(default_factory=dict)
    tags: list[dict[str, str]] = field(default_factory=list)
    role_arn: str | None = None
    termination_protection: bool = False
    created: datetime = field(default_factory=now)
    updated: datetime | None = None
    resources: dict[str, Resource] = field(default_factory=dict)
    outputs: list[dict[str, str]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    change_set_id: str | None = None

    @property
    def template(self) -> dict[str, Any]:
        """The template as a dictionary, empty before the first deployment."""
        return parse(self.body) if self.body != "{}" else {}

    @property
    def busy(self) -> bool:
        """Whether an operation is under way."""
        return self.status.endswith("_IN_PROGRESS") and self.status != "REVIEW_IN_PROGRESS"


@dataclass(frozen=True)
class Revision:
    """What a deployment puts in place."""

    body: str
    parameters: dict[str, str]
    tags: list[dict[str, str]]


class Interrupted(Exception):
    """A resource failed; the message is CloudFormation's summary of the failed resources."""


class Deployment:
    """One creation or update of a stack, which rolls back to what was there when a resource fails."""

    def __init__(
        self,
        *,
        stack: Stack,
        revision: Revision,
        environment: Environment,
        provider: Callable[[str], Provider],
        resolver: Callable[..., Resolver],
        rollback: bool,
    ) -> None:
        self.stack, self.revision, self.environment, self.rollback = stack, revision, environment, rollback
        self.provider = provider
        self.creating = not stack.resources
        self._new_resolver = resolver
        self._undo: list[tuple[str, Resource | None]] = []
        self._obsolete: list[tuple[Resource, bool]] = []  # with whether it was replaced rather than removed
        self._generation: dict[str, int] = {}

    def run(self) -> None:
        """Deploy; on return the stack's status says how it ended."""
        action = "CREATE" if self.creating else "UPDATE"
        previous = Revision(self.stack.body, self.stack.parameters, self.stack.tags)
        self._status(f"{action}_IN_PROGRESS", "User Initiated")
        try:
            self._apply(self.revision, action)
        except (Interrupted, TemplateError) as failure:
            self.stack.body = self.revision.body if self.creating else previous.body
            if not self.rollback:
                self._status(f"{action}_FAILED", str(failure))
                return
            prefix = "" if self.creating else "UPDATE_"
            self._status(f"{prefix}ROLLBACK_IN_PROGRESS", f"{failure} Rollback requested by user.")
            complete = self._roll_back()
            self._status(f"{prefix}ROLLBACK_COMPLETE" if complete else f"{prefix}ROLLBACK_FAILED")
            return
        if not self.creating:
            self._status("UPDATE_COMPLETE_CLEANUP_IN_PROGRESS")
        for resource, _ in reversed(self._obsolete):
            # as on AWS: the update stands, and the event tells what could not be cleaned up
            with contextlib.suppress(ResourceFailure):
                self._delete(resource)
        self._status(f"{action}_COMPLETE")

    def _apply(self, revision: Revision, action: str) -> None:
        template = parse(revision.body)
        resolver = self._new_resolver(self.stack, template, revision.parameters)
        definitions = {
            name: definition
            for name, definition in template["Resources"].items()
            if resolver.condition(definition.get("Condition"))
        }
        order = creation_order(definitions)
        for logical_id in order:
            self._put(logical_id, definitions[logical_id], resolver)
        kept = {**self.stack.resources}
        leaving = [resource for name, resource in kept.items() if name not in definitions]
        self.stack.outputs = _outputs(template, resolver)
        for resource in leaving:
            del self.stack.resources[resource.logical_id]
            self._obsolete.append((resource, False))
        self.stack.resources = {name: self.stack.resources[name] for name in order}
        self.stack.body, self.stack.parameters, self.stack.tags = (
            revision.body,
            revision.parameters,
            revision.tags,
        )

    def _put(self, logical_id: str, definition: Mapping[str, Any], resolver: Resolver) -> None:
        if self.environment.closing.is_set():
            raise Abandoned
        old = self.stack.resources.get(logical_id)
        verb = "CREATE" if old is None else "UPDATE"
        try:
            properties = resolver.resolve(definition.get("Properties", {}))
            if old is not None and old.type == definition["Type"]:
                if old.properties == properties:
                    old.definition = definition
                    return
                self._event(logical_id, old.type, old.physical_id, "UPDATE_IN_PROGRESS")
                resource = self._update(old, definition, properties)
            else:
                self._event(logical_id, definition["Type"], "", f"{verb}_IN_PROGRESS")
                resource = self._create(logical_id, definition, properties)
        except (ResourceFailure, TemplateError) as failure:
            physical_id = old.physical_id if old else ""
            self._event(logical_id, definition["Type"], physical_id, f"{verb}_FAILED", str(failure))
            raise Interrupted(
                f"The following resource(s) failed to {verb.lower()}: [{logical_id}]."
            ) from failure
        resource.status = f"{verb}_COMPLETE"
        self._undo.append((logical_id, old))
        if old is not None and old.physical_id != resource.physical_id:
            self._obsolete.append((old, True))
        self.stack.resources[logical_id] = resource
        self._event(logical_id, resource.type, resource.physical_id, resource.status)

    def _request(self, logical_id: str, definition: Mapping[str, Any], properties: Any) -> ResourceRequest:
        seed = f"{self.stack.name}/{logical_id}/{self._generation.get(logical_id, 0)}"
        # a name that is the same after a restart, so that data on disk find their resource again
        suffix = hashlib.sha256(seed.encode()).hexdigest()[:12]
        return ResourceRequest(
            logical_id=logical_id,
            type=definition["Type"],
            properties=properties,
            stack_name=self.stack.name,
            stack_id=self.stack.id,
            suffix=suffix,
            environment=self.environment,
        )

    def _create(self, logical_id: str, definition: Mapping[str, Any], properties: Any) -> Resource:
        provider = self.provider(definition["Type"])
        for attempt in range(_NAMES_TO_TRY):
            try:
                created = provider.create(self._request(logical_id, definition, properties))
                break
            except ResourceFailure as failure:
                # something retained may bear the name: AWS's names are random, these are not
                if attempt + 1 == _NAMES_TO_TRY or not _TAKEN.search(str(failure)):
                    raise
                self._generation[logical_id] = self._generation.get(logical_id, 0) + 1
        return _resource(logical_id, definition, properties, created)

    def _update(self, old: Resource, definition: Mapping[str, Any], properties: Any) -> Resource:
        provider = self.provider(old.type)
        request = self._request(old.logical_id, definition, properties)
        created = provider.update(request, old.physical_id, old.properties)
        if created is None:
            self._event(
                old.logical_id,
                old.type,
                old.physical_id,
                "UPDATE_IN_PROGRESS",
                "Requested update requires the creation of a new physical resource; hence creating one.",
            )
            self._generation[old.logical_id] = self._generation.get(old.logical_id, 0) + 1
            return self._create(old.logical_id, definition, properties)
        kept = Created(created.physical_id, {**old.attributes, **created.attributes})
        return _resource(old.logical_id, definition, properties, kept)

    def _roll_back(self) -> bool:
        complete = True
        for logical_id, old in reversed(self._undo):
            current = self.stack.resources[logical_id]
            try:
                if old is None or old.physical_id != current.physical_id:
                    self._delete(current, honour_policy=False)
                    self.stack.resources.pop(logical_id)
                else:
                    self._event(logical_id, old.type, old.physical_id, "UPDATE_IN_PROGRESS")
                    request = self._request(logical_id, old.definition, old.properties)
                    self.provider(old.type).update(request, old.physical_id, current.properties)
                    self._event(logical_id, old.type, old.physical_id, "UPDATE_COMPLETE")
            except ResourceFailure as failure:
                self._event(logical_id, current.type, current.physical_id, "UPDATE_FAILED", str(failure))
                complete = False
            if old is not None:
                self.stack.resources[logical_id] = old
        return complete

    def _delete(self, resource: Resource, *, honour_policy: bool = True) -> None:
        delete_resource(self, resource, honour_policy=honour_policy)

    def _status(self, status: str, reason: str | None = None) -> None:
        set_status(self.stack, status, reason)

    def _event(
        self, logical_id: str, kind: str, physical_id: str, status: str, reason: str | None = None
    ) -> None:
        add_event(self.stack, logical_id, kind, physical_id, status, reason)


def delete_resource(
    operation: Deployment | Deletion, resource: Resource, *, honour_policy: bool = True
) -> None:
    """Delete a resource as its policies say, with events. Raises ResourceFailure."""
    stack, definition = operation.stack, resource.definition
    identity = (resource.logical_id, resource.type, resource.physical_id)
    policy = definition.get("DeletionPolicy", "Delete") if honour_policy else "Delete"
    if policy == "Retain":
        add_event(stack, *identity, "DELETE_SKIPPED")
        return
    add_event(stack, *identity, "DELETE_IN_PROGRESS")
    request = ResourceRequest(
        logical_id=resource.logical_id,
        type=resource.type,
        properties=resource.properties,
        stack_name=stack.name,
        stack_id=stack.id,
        suffix=uuid.uuid4().hex[:12],
        environment=operation.environment,
    )
    try:
        operation.provider(resource.type).delete(request, resource.physical_id, snapshot=policy == "Snapshot")
    except ResourceFailure as failure:
        add_event(stack, *identity, "DELETE_FAILED", str(failure))
        raise
    add_event(stack, *identity, "DELETE_COMPLETE")


class Deletion:
    """The deletion of a whole stack, last resource first."""

    def __init__(
        self, *, stack: Stack, environment: Environment, provider: Callable[[str], Provider]
    ) -> None:
        self.stack, self.environment, self.provider = stack, environment, provider

    def run(self) -> None:
        """Delete; resources that refuse stay, and the stack is then DELETE_FAILED."""
        set_status(self.stack, "DELETE_IN_PROGRESS", "User Initiated")
        failed: list[str] = []
        needed: set[str] = set()
        order = creation_order({name: item.definition for name, item in self.stack.resources.items()})
        for logical_id in reversed(order):
            resource = self.stack.resources[logical_id]
            try:
                if logical_id not in needed:
                    delete_resource(self, resource)
                    del self.stack.resources[logical_id]
                    continue
            except ResourceFailure:
                failed.append(logical_id)
            needed.update(_dependencies(resource.definition))
        if failed:
            names = ", ".join(failed)
            set_status(
                self.stack, "DELETE_FAILED", f"The following resource(s) failed to delete: [{names}]. "
            )
            return
        self.stack.resources = {}
        set_status(self.stack, "DELETE_COMPLETE")


def _dependencies(definition: Mapping[str, Any]) -> set[str]:
    from local.cloudformation.template import references

    explicit = definition.get("DependsOn", [])
    return {
        *references(definition.get("Properties", {})),
        *([explicit] if isinstance(explicit, str) else explicit),
    }


def _resource(
    logical_id: str, definition: Mapping[str, Any], properties: dict[str, Any], created: Created
) -> Resource:
    return Resource(
        logical_id, definition["Type"], definition, properties, created.physical_id, created.attributes
    )


def _outputs(template: Mapping[str, Any], resolver: Resolver) -> list[dict[str, str]]:
    outputs = []
    for name, definition in template.get("Outputs", {}).items():
        if not resolver.condition(definition.get("Condition")):
            continue
        output = {"OutputKey": name, "OutputValue": str(resolver.resolve(definition["Value"]))}
        if "Description" in definition:
            output["Description"] = definition["Description"]
        if "Export" in definition:
            output["ExportName"] = resolver.resolve(definition["Export"]["Name"])
        outputs.append(output)
    return outputs


_events_lock = threading.Lock()


def add_event(
    stack: Stack, logical_id: str, kind: str, physical_id: str, status: str, reason: str | None = None
) -> None:
    """Record a stack event, as DescribeStackEvents will return it."""
    event = {
        "StackId": stack.id,
        "EventId": str(uuid.uuid4()),
        "StackName": stack.name,
        "LogicalResourceId": logical_id,
        "PhysicalResourceId": physical_id,
        "ResourceType": kind,
        "Timestamp": now(),
        "ResourceStatus": status,
        "ResourceStatusReason": reason,
    }
    with _events_lock:
        stack.events.append({key: value for key, value in event.items() if value is not None})


def set_status(stack: Stack, status: str, reason: str | None = None) -> None:
    """Put a stack into a status, with its event."""
    stack.status, stack.status_reason, stack.updated = status, reason, now()
    add_event(stack, stack.name, _STACK, stack.id, status, reason)
