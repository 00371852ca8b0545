"""The operations of CloudFormation that the CDK CLI and an operator use."""

from __future__ import annotations

import difflib
import time
import uuid
from collections.abc import Mapping
from typing import Any

from local.cloudformation.provider import ResourceFailure
from local.cloudformation.stack import Stack, now, parameter_list
from local.cloudformation.stacks import TYPES, Request, Stacks, invalid, parsed
from local.endpoint import CURRENT_CALL, Operation, ServiceError

Answer = dict[str, Any]
_CLI_PATIENCE_SECONDS = 20
_NOTHING_CHANGED = (
    "The submitted information didn't contain changes. Submit different information to create a change set."
)


class CloudFormation:
    """Answers CloudFormation's operations over the stacks of one region."""

    def __init__(self, stacks: Stacks) -> None:
        self._stacks = stacks
        self._change_sets: dict[str, dict[str, Any]] = {}  # by id
        self.operations: dict[str, Operation] = {
            "CreateStack": self.create_stack,
            "UpdateStack": self.update_stack,
            "DeleteStack": self.delete_stack,
            "DescribeStacks": self.describe_stacks,
            "ListStacks": self.list_stacks,
            "DescribeStackEvents": self.describe_stack_events,
            "DescribeEvents": self.describe_events,
            "DescribeStackResources": self.describe_stack_resources,
            "DescribeStackResource": self.describe_stack_resource,
            "ListStackResources": self.list_stack_resources,
            "GetTemplate": self.get_template,
            "GetTemplateSummary": self.get_template_summary,
            "ValidateTemplate": self.get_template_summary,
            "CreateChangeSet": self.create_change_set,
            "DescribeChangeSet": self.describe_change_set,
            "ExecuteChangeSet": self.execute_change_set,
            "DeleteChangeSet": self.delete_change_set,
            "ListExports": lambda request: {"Exports": self._stacks.exports()},
            "UpdateTerminationProtection": self.update_termination_protection,
            "GetStackPolicy": lambda request: {},
        }

    def create_stack(self, request: Request) -> Answer:
        """Start the creation of a stack."""
        name = request["StackName"]
        if self._stacks.find(name):
            raise ServiceError("AlreadyExistsException", f"Stack [{name}] already exists")
        stack = self._stacks.new(name, request.get("RoleARN"))
        stack.termination_protection = request.get("EnableTerminationProtection", False)
        rollback = not request.get("DisableRollback", False) and request.get("OnFailure") != "DO_NOTHING"
        self._stacks.deploy(stack, self._stacks.revision(request, stack), rollback=rollback)
        return {"StackId": stack.id}

    def update_stack(self, request: Request) -> Answer:
        """Start an update, refused when it would change nothing."""
        stack = self._stacks.get(request["StackName"])
        revision = self._stacks.revision(request, stack)
        if revision == stack.revision:
            raise invalid("No updates are to be performed.")
        self._stacks.deploy(stack, revision, rollback=not request.get("DisableRollback", False))
        return {"StackId": stack.id}

    def delete_stack(self, request: Request) -> Answer:
        """Start the deletion of a stack, refused while it is protected; one that is gone is fine."""
        stack = self._stacks.find(request["StackName"])
        if stack is None or not stack.lives:
            return {}
        if stack.termination_protection:
            raise invalid(f"Stack [{stack.name}] cannot be deleted while TerminationProtection is enabled")
        self._stacks.delete(stack)
        return {}

    def describe_stacks(self, request: Request) -> Answer:
        """One stack, or all that are not deleted."""
        if name := request.get("StackName"):
            stack = self._stacks.get(name)
            _spare_the_cli_a_wait(stack)
            return {"Stacks": [stack.describe()]}
        return {"Stacks": [stack.describe() for stack in self._stacks.all() if stack.lives]}

    def list_stacks(self, request: Request) -> Answer:
        """Summaries, of the wanted statuses."""
        wanted = request.get("StackStatusFilter")
        stacks = self._stacks.all()
        return {
            "StackSummaries": [stack.describe() for stack in stacks if not wanted or stack.status in wanted]
        }

    def describe_stack_events(self, request: Request) -> Answer:
        """The events of a stack, newest first."""
        return {"StackEvents": self._stacks.get(request["StackName"]).events[::-1]}

    def describe_events(self, request: Request) -> Answer:
        """The events of a stack or change set, newest first."""
        change_set = self._change_sets.get(request.get("ChangeSetName", ""), {})
        stack = self._stacks.find(request.get("StackName") or change_set.get("StackId"))
        return {"OperationEvents": stack.events[::-1] if stack else []}

    def describe_stack_resources(self, request: Request) -> Answer:
        """The resources of a stack, or one of them."""
        found = self._stacks.get(request["StackName"]).describe_resources()
        wanted = request.get("LogicalResourceId")
        return {"StackResources": [item for item in found if wanted in (None, item["LogicalResourceId"])]}

    def describe_stack_resource(self, request: Request) -> Answer:
        """One resource of a stack."""
        found = self.describe_stack_resources(request)["StackResources"]
        if not found:
            name = request["LogicalResourceId"]
            raise invalid(f"Resource {name} does not exist for stack {request['StackName']}")
        return {"StackResourceDetail": found[0]}

    def list_stack_resources(self, request: Request) -> Answer:
        """Summaries of the resources of a stack."""
        return {"StackResourceSummaries": self._stacks.get(request["StackName"]).describe_resources()}

    def get_template(self, request: Request) -> Answer:
        """The template of a stack, or of a change set."""
        if change_set := self._change_set(request):
            return {"TemplateBody": change_set["revision"].body}
        return {"TemplateBody": self._stacks.get(request["StackName"]).revision.body}

    def get_template_summary(self, request: Request) -> Answer:
        """Parameters and resource types of a template."""
        named = "StackName" in request
        template = parsed(
            self._stacks.get(request["StackName"]).revision.body if named else self._stacks.body(request)
        )
        parameters = [
            {
                "ParameterKey": name,
                "ParameterType": definition.get("Type", "String"),
                "DefaultValue": definition.get("Default"),
                "NoEcho": definition.get("NoEcho", False),
            }
            for name, definition in template.get("Parameters", {}).items()
        ]
        types = sorted({resource["Type"] for resource in template["Resources"].values()})
        return {"Parameters": parameters, "ResourceTypes": types}

    def create_change_set(self, request: Request) -> Answer:
        """Compare a template with what a stack has; creates the stack record for a new one."""
        stack = self._stacks.find(request["StackName"])
        if stack is None and request.get("ChangeSetType") != "CREATE":
            raise invalid(f"Stack [{request['StackName']}] does not exist")
        if stack is None:
            stack = self._stacks.new(request["StackName"], request.get("RoleARN"))
        revision = self._stacks.revision(request, stack)
        self._check_types(parsed(revision.body))
        unchanged = revision == stack.revision
        identifier = self._stacks.arn(f"changeSet/{request['ChangeSetName']}/{uuid.uuid4()}")
        self._change_sets[identifier] = {
            "ChangeSetName": request["ChangeSetName"],
            "ChangeSetId": identifier,
            "StackId": stack.id,
            "StackName": stack.name,
            "CreationTime": now(),
            "Status": "FAILED" if unchanged else "CREATE_COMPLETE",
            "ExecutionStatus": "UNAVAILABLE" if unchanged else "AVAILABLE",
            "StatusReason": _NOTHING_CHANGED if unchanged else "",
            "Parameters": parameter_list(revision.parameters),
            "Changes": _changes(stack, parsed(revision.body)),
            "revision": revision,
        }
        return {"Id": identifier, "StackId": stack.id}

    def describe_change_set(self, request: Request) -> Answer:
        """A change set as it is."""
        return {key: value for key, value in self._known(request).items() if key != "revision"}

    def execute_change_set(self, request: Request) -> Answer:
        """Start the deployment that a change set describes."""
        change_set = self._known(request)
        if change_set["ExecutionStatus"] != "AVAILABLE":
            raise ServiceError(
                "InvalidChangeSetStatus", f"ChangeSet [{change_set['ChangeSetId']}] cannot be executed"
            )
        stack = self._stacks.get(change_set["StackId"])
        rollback = not request.get("DisableRollback", False)
        self._stacks.deploy(stack, change_set["revision"], rollback=rollback)
        change_set["ExecutionStatus"] = "EXECUTE_COMPLETE"
        stack.change_set_id = change_set["ChangeSetId"]
        return {}

    def delete_change_set(self, request: Request) -> Answer:
        """Forget a change set; one that is not there is fine."""
        if change_set := self._change_set(request):
            del self._change_sets[change_set["ChangeSetId"]]
        return {}

    def update_termination_protection(self, request: Request) -> Answer:
        """Protect a stack from deletion, or stop protecting it."""
        stack = self._stacks.get(request["StackName"])
        stack.termination_protection = request["EnableTerminationProtection"]
        return {"StackId": stack.id}

    def _change_set(self, request: Request) -> dict[str, Any] | None:
        name = request.get("ChangeSetName", "")
        if name in self._change_sets:
            return self._change_sets[name]
        stack = self._stacks.find(request.get("StackName"))
        for change_set in self._change_sets.values():
            if stack and change_set["ChangeSetName"] == name and change_set["StackId"] == stack.id:
                return change_set
        return None

    def _known(self, request: Request) -> dict[str, Any]:
        change_set = self._change_set(request)
        if change_set is None:
            raise ServiceError("ChangeSetNotFound", f"ChangeSet [{request['ChangeSetName']}] does not exist")
        return change_set

    def _check_types(self, template: Mapping[str, Any]) -> None:
        for resource in template["Resources"].values():
            try:
                self._stacks.provider(resource["Type"])
            except ResourceFailure as error:
                close = difflib.get_close_matches(resource["Type"], TYPES, n=1)
                hint = f"; did you mean {close[0]}?" if close else ""
                raise invalid(f"Template format error: {error}{hint}") from None


def _spare_the_cli_a_wait(stack: Stack) -> None:
    # the CLI asks again after 5 seconds only: an answer that comes when the stack is done saves most of them
    deadline = time.monotonic() + _CLI_PATIENCE_SECONDS
    if "cdk" in CURRENT_CALL.get().request.user_agent.string:
        while stack.busy and time.monotonic() < deadline:
            time.sleep(0.05)


def _changes(stack: Stack, template: Mapping[str, Any]) -> list[dict[str, Any]]:
    old, new = stack.template.get("Resources", {}), template["Resources"]
    changes = []
    for name in {**old, **new}:
        action = "Add" if name not in old else "Remove" if name not in new else "Modify"
        if action == "Modify" and old[name] == new[name]:
            continue
        change = {
            "Action": action,
            "LogicalResourceId": name,
            "ResourceType": (new.get(name) or old[name])["Type"],
        }
        if name in stack.resources:
            change["PhysicalResourceId"] = stack.resources[name].physical_id
        changes.append({"Type": "Resource", "ResourceChange": change})
    return changes
