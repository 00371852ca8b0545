"""Creating, updating, rolling back and deleting stacks, resource by resource."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Callable, Mapping
from typing import Any

from local.cloudformation.provider import (
    Abandoned,
    Environment,
    Provider,
    ResourceFailure,
    ResourceRequest,
)
from local.cloudformation.stack import Resource, Revision, Stack
from local.cloudformation.template import Resolver, TemplateError, creation_order, dependencies, parse

_TAKEN = re.compile(r"already ?exists|AlreadyExists|AlreadyOwnedByYou|InvalidGroup.Duplicate", re.IGNORECASE)
_NAMES_TO_TRY = 4
_REPLACING = "Requested update requires the creation of a new physical resource; hence creating one."


class Interrupted(Exception):
    """A resource failed; the message is CloudFormation's summary."""


class Operation:
    """What every operation on a stack can do; `provider` gives the provider of a resource type."""

    def __init__(
        self, stack: Stack, *, environment: Environment, provider: Callable[[str], Provider]
    ) -> None:
        self.stack, self.environment, self.provider = stack, environment, provider

    def request(self, resource: Resource) -> ResourceRequest:
        """A request about a resource, for its provider."""
        # a name that is the same after a restart, so that data on disk find their resource again
        seed = f"{self.stack.name}/{resource.logical_id}/{resource.generation}"
        return ResourceRequest(
            logical_id=resource.logical_id,
            type=resource.type,
            properties=resource.properties,
            stack_name=self.stack.name,
            stack_id=self.stack.id,
            suffix=hashlib.sha256(seed.encode()).hexdigest()[:12],
            environment=self.environment,
        )

    def delete(self, resource: Resource, *, policy: str = "DeletionPolicy") -> None:
        """Delete a resource as one of its policies says, with events. Raises ResourceFailure."""
        wish = resource.definition.get(policy, "Delete")
        if wish == "Retain":
            self.stack.tell(resource, "DELETE_SKIPPED")
            return
        self.stack.tell(resource, "DELETE_IN_PROGRESS")
        try:
            provider = self.provider(resource.type)
            provider.delete(self.request(resource), resource.physical_id, snapshot=wish == "Snapshot")
        except ResourceFailure as failure:
            self.stack.tell(resource, "DELETE_FAILED", str(failure))
            raise
        self.stack.tell(resource, "DELETE_COMPLETE")


class Deployment(Operation):
    """One creation or update of a stack, which rolls back to what was there when a resource fails."""

    def __init__(
        self,
        stack: Stack,
        revision: Revision,
        *,
        environment: Environment,
        provider: Callable[[str], Provider],
        resolver: Callable[[Stack, Mapping[str, Any], Mapping[str, str]], Resolver],
        rollback: bool,
    ) -> None:
        super().__init__(stack, environment=environment, provider=provider)
        self._revision, self._rollback = revision, rollback
        self._creating = not stack.resources
        self._new_resolver = resolver
        self._undo: list[tuple[str, Resource | None]] = []  # what each changed resource was
        self._replaced: list[Resource] = []
        self._removed: list[Resource] = []

    def run(self) -> None:
        """Deploy; on return the stack's status says how it ended."""
        action, prefix = ("CREATE", "") if self._creating else ("UPDATE", "UPDATE_")
        self.stack.turn(f"{action}_IN_PROGRESS", "User Initiated")
        try:
            self._apply()
        except (Interrupted, TemplateError) as failure:
            if self._creating:
                self.stack.revision = self._revision
            if not self._rollback:
                self.stack.turn(f"{action}_FAILED", str(failure))
                return
            self.stack.turn(f"{prefix}ROLLBACK_IN_PROGRESS", f"{failure} Rollback requested by user.")
            self.stack.turn(f"{prefix}ROLLBACK_COMPLETE" if self._roll_back() else f"{prefix}ROLLBACK_FAILED")
            return
        if not self._creating:
            self.stack.turn("UPDATE_COMPLETE_CLEANUP_IN_PROGRESS")
        self._clean_up()
        self.stack.turn(f"{action}_COMPLETE")

    def _apply(self) -> None:
        template = parse(self._revision.body)
        resolver = self._new_resolver(self.stack, template, self._revision.parameters)
        wanted = {
            name: definition
            for name, definition in template["Resources"].items()
            if resolver.condition(definition.get("Condition"))
        }
        order = creation_order(wanted)
        for logical_id in order:
            if self.environment.closing.is_set():
                raise Abandoned
            self._put(logical_id, wanted[logical_id], resolver)
        self.stack.outputs = _outputs(template, resolver)
        existing = self.stack.resources
        self._removed = [resource for name, resource in existing.items() if name not in wanted]
        self.stack.resources = {name: existing[name] for name in order}
        self.stack.revision = self._revision

    def _put(self, logical_id: str, definition: Mapping[str, Any], resolver: Resolver) -> None:
        """Bring one resource to its new definition; a failure is in the events when this raises Interrupted."""
        old = self.stack.resources.get(logical_id)
        wanted = Resource(logical_id, definition, {}, "", {})
        verb = "CREATE"
        try:
            wanted.properties = resolver.resolve(definition.get("Properties", {}))
            if old is None or old.type != wanted.type:
                self.stack.tell(wanted, "CREATE_IN_PROGRESS")
                self._create(wanted)
            elif old.properties == wanted.properties:
                old.definition = definition
                return
            else:
                verb = "UPDATE"
                wanted.physical_id, wanted.generation = old.physical_id, old.generation
                self.stack.tell(wanted, "UPDATE_IN_PROGRESS")
                self._undo.append((logical_id, old))  # also when it fails half way
                self.stack.resources[logical_id] = wanted
                self._update(wanted, old)
        except (ResourceFailure, TemplateError) as failure:
            self.stack.tell(wanted, f"{verb}_FAILED", str(failure))
            raise Interrupted(
                f"The following resource(s) failed to {verb.lower()}: [{logical_id}]."
            ) from failure
        if verb == "CREATE":
            self._undo.append((logical_id, old))
            self.stack.resources[logical_id] = wanted
        if old is not None and old.physical_id != wanted.physical_id:
            self._replaced.append(old)
        self.stack.tell(wanted, f"{verb}_COMPLETE")

    def _create(self, wanted: Resource) -> None:
        provider = self.provider(wanted.type)
        for attempt in range(1, _NAMES_TO_TRY + 1):
            try:
                created = provider.create(self.request(wanted))
                break
            except ResourceFailure as failure:
                # something retained may bear the name: AWS's names are random, these are not
                if attempt == _NAMES_TO_TRY or not _TAKEN.search(str(failure)):
                    raise
                wanted.generation += 1
        wanted.physical_id, wanted.attributes = created.physical_id, created.attributes

    def _update(self, wanted: Resource, old: Resource) -> None:
        provider = self.provider(wanted.type)
        updated = provider.update(self.request(wanted), old.physical_id, old.properties)
        if updated is None:
            self.stack.tell(wanted, "UPDATE_IN_PROGRESS", _REPLACING)
            wanted.generation = old.generation + 1
            self._create(wanted)
        else:
            wanted.attributes = {**old.attributes, **updated.attributes}

    def _roll_back(self) -> bool:
        """Undo what was changed, last first; whether all of it could be undone."""
        complete = True
        for logical_id, old in reversed(self._undo):
            current = self.stack.resources[logical_id]
            try:
                if old is None or old.physical_id != current.physical_id:
                    del self.stack.resources[logical_id]
                    self.delete(current, policy="")  # what was made a moment ago goes, whatever it holds
                elif current.properties != old.properties:
                    self.stack.tell(old, "UPDATE_IN_PROGRESS")
                    provider = self.provider(old.type)
                    provider.update(self.request(old), old.physical_id, current.properties)
                    self.stack.tell(old, "UPDATE_COMPLETE")
            except ResourceFailure as failure:
                self.stack.tell(current, "UPDATE_FAILED", str(failure))
                complete = False
            if old is not None:
                self.stack.resources[logical_id] = old
        return complete

    def _clean_up(self) -> None:
        # as on AWS: the update stands, and the events tell what could not be cleaned up
        for resource in reversed(self._replaced):
            with contextlib.suppress(ResourceFailure):
                self.delete(resource, policy="UpdateReplacePolicy")
        for resource in reversed(self._removed):
            with contextlib.suppress(ResourceFailure):
                self.delete(resource)


class Deletion(Operation):
    """The deletion of a whole stack, last resource first."""

    def run(self) -> None:
        """Delete; what refuses stays, with what it needs, and the stack is then DELETE_FAILED."""
        self.stack.turn("DELETE_IN_PROGRESS", "User Initiated")
        resources = self.stack.resources
        failed: list[str] = []
        needed: set[str] = set()
        for logical_id in reversed(
            creation_order({name: item.definition for name, item in resources.items()})
        ):
            resource = resources[logical_id]
            if logical_id not in needed:
                try:
                    self.delete(resource)
                    del resources[logical_id]
                    continue
                except ResourceFailure:
                    failed.append(logical_id)
            needed |= dependencies(resource.definition)
        if failed:
            names = ", ".join(failed)
            self.stack.turn("DELETE_FAILED", f"The following resource(s) failed to delete: [{names}]. ")
        else:
            self.stack.turn("DELETE_COMPLETE")


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
