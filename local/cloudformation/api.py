"""The CloudFormation API, as far as the CDK CLI and an operator use it."""

from __future__ import annotations

import difflib
import json
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote, urlparse

from local.cloudformation import buckets, networking, resources, services
from local.cloudformation.custom_resources import EQUIVALENTS, Answers, CustomResource
from local.cloudformation.engine import Deletion, Deployment, Revision, Stack, now, set_status
from local.cloudformation.provider import Abandoned, Environment, Provider, ResourceFailure
from local.cloudformation.template import Resolver, TemplateError, parse
from local.endpoint import CURRENT_CALL, ServiceError

Request = dict[str, Any]
Answer = dict[str, Any]
CLI_PATIENCE_SECONDS = 20
NOTHING_CHANGED = (
    "The submitted information didn't contain changes. Submit different information to create a change set."
)


def invalid(message: str) -> ServiceError:
    """CloudFormation's general refusal."""
    return ServiceError("ValidationError", message)


class CloudFormation:
    """All stacks of one region. Operations run in threads of their own, as the CLI polls for their end."""

    def __init__(
        self, *, environment: Environment, answers: Answers, gave_up: Callable[[str], str | None]
    ) -> None:
        self._environment = environment
        self._stacks: dict[str, Stack] = {}  # by id; those deleted stay
        self._change_sets: dict[str, dict[str, Any]] = {}  # by id
        self._lock = threading.RLock()
        self._operations: list[threading.Thread] = []
        self._types: dict[str, Provider] = {
            **networking.TYPES,
            **resources.TYPES,
            **services.TYPES,
            **buckets.TYPES,
        }
        self._custom = CustomResource(answers=answers, gave_up=gave_up, equivalents=EQUIVALENTS)
        self.operations: dict[str, Callable[[Request], Answer]] = {
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
            "ListChangeSets": self.list_change_sets,
            "ListExports": self.list_exports,
            "UpdateTerminationProtection": self.update_termination_protection,
            "GetStackPolicy": lambda request: {},
        }

    def create_stack(self, request: Request) -> Answer:
        """Start the creation of a stack."""
        if self._living(request["StackName"]):
            raise ServiceError("AlreadyExistsException", f"Stack [{request['StackName']}] already exists")
        stack = self._new_stack(request)
        stack.termination_protection = request.get("EnableTerminationProtection", False)
        rollback = not request.get("DisableRollback", False) and request.get("OnFailure") != "DO_NOTHING"
        self._deploy(stack, self._revision(request, stack), rollback=rollback)
        return {"StackId": stack.id}

    def update_stack(self, request: Request) -> Answer:
        """Start an update, refused when it would change nothing."""
        stack = self._stack(request["StackName"])
        revision = self._revision(request, stack)
        if revision == Revision(stack.body, stack.parameters, stack.tags):
            raise invalid("No updates are to be performed.")
        self._deploy(stack, revision, rollback=not request.get("DisableRollback", False))
        return {"StackId": stack.id}

    def delete_stack(self, request: Request) -> Answer:
        """Start the deletion of a stack, refused while it is protected or its exports are in use."""
        stack = self._living(request["StackName"])
        if stack is None:
            return {}
        if stack.termination_protection:
            raise invalid(f"Stack [{stack.name}] cannot be deleted while TerminationProtection is enabled")
        deletion = Deletion(stack=stack, environment=self._environment, provider=self._provider)
        users = self._users_of_exports(stack)
        if users:
            name, user = users[0]
            set_status(stack, "DELETE_FAILED", f"Cannot delete export {name} as it is in use by {user}.")
            return {}
        self._start(stack, "DELETE_IN_PROGRESS", deletion.run)
        return {}

    def describe_stacks(self, request: Request) -> Answer:
        """One stack, or all that are not deleted."""
        if name := request.get("StackName"):
            stack = self._stack(name, deleted=True)
            self._spare_the_cli_a_wait(stack)
            return {"Stacks": [_described(stack)]}
        return {"Stacks": [_described(stack) for stack in self._stacks.values() if _lives(stack)]}

    def _spare_the_cli_a_wait(self, stack: Stack) -> None:
        # the CLI asks again after 5 seconds only: an answer that comes when the stack is done saves most of them
        deadline = time.monotonic() + CLI_PATIENCE_SECONDS
        if "cdk" in CURRENT_CALL.get().request.user_agent.string:
            while stack.busy and time.monotonic() < deadline:
                time.sleep(0.05)

    def list_stacks(self, request: Request) -> Answer:
        """Summaries, of the wanted statuses."""
        wanted = request.get("StackStatusFilter") or []
        stacks = [stack for stack in self._stacks.values() if not wanted or stack.status in wanted]
        return {"StackSummaries": [_described(stack) for stack in stacks]}

    def describe_stack_events(self, request: Request) -> Answer:
        """The events of a stack, newest first."""
        return {"StackEvents": self._stack(request["StackName"], deleted=True).events[::-1]}

    def describe_events(self, request: Request) -> Answer:
        """The events of a stack or change set, newest first."""
        name = request.get("StackName")
        if name is None and request.get("ChangeSetName") in self._change_sets:
            name = self._change_sets[request["ChangeSetName"]]["StackId"]
        return {"OperationEvents": self._stack(name, deleted=True).events[::-1] if name else []}

    def describe_stack_resources(self, request: Request) -> Answer:
        """The resources of a stack, or one of them."""
        wanted = request.get("LogicalResourceId")
        found = self._resources(request)
        return {
            "StackResources": [
                item for item in found if wanted is None or item["LogicalResourceId"] == wanted
            ]
        }

    def describe_stack_resource(self, request: Request) -> Answer:
        """One resource of a stack."""
        for resource in self._resources(request):
            if resource["LogicalResourceId"] == request["LogicalResourceId"]:
                return {"StackResourceDetail": resource}
        raise invalid(
            f"Resource {request['LogicalResourceId']} does not exist for stack {request['StackName']}"
        )

    def list_stack_resources(self, request: Request) -> Answer:
        """Summaries of the resources of a stack."""
        return {"StackResourceSummaries": self._resources(request)}

    def get_template(self, request: Request) -> Answer:
        """The template of a stack, or of a change set."""
        if change_set := self._change_set(request):
            return {"TemplateBody": change_set["revision"].body}
        return {"TemplateBody": self._stack(request["StackName"], deleted=True).body}

    def get_template_summary(self, request: Request) -> Answer:
        """Parameters and resource types of a template."""
        body = self._stack(request["StackName"]).body if "StackName" in request else self._body(request)
        template = _parse(body)
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
        stack = self._living(request["StackName"])
        if request.get("ChangeSetType") == "CREATE" and (stack is None or not stack.resources):
            stack = stack or self._new_stack(request)
        elif stack is None:
            raise invalid(f"Stack [{request['StackName']}] does not exist")
        revision = self._revision(request, stack)
        self._check_known_types(revision)
        changes = _changes(stack, _parse(revision.body))
        unchanged = revision == Revision(stack.body, stack.parameters, stack.tags)
        identifier = self._arn(f"changeSet/{request['ChangeSetName']}/{uuid.uuid4()}")
        self._change_sets[identifier] = {
            "ChangeSetName": request["ChangeSetName"],
            "ChangeSetId": identifier,
            "StackId": stack.id,
            "StackName": stack.name,
            "CreationTime": now(),
            "Status": "FAILED" if unchanged else "CREATE_COMPLETE",
            "ExecutionStatus": "UNAVAILABLE" if unchanged else "AVAILABLE",
            "StatusReason": NOTHING_CHANGED if unchanged else None,
            "Parameters": _pairs("Parameter", revision.parameters),
            "Changes": changes,
            "revision": revision,
        }
        return {"Id": identifier, "StackId": stack.id}

    def describe_change_set(self, request: Request) -> Answer:
        """A change set as it is."""
        change_set = self._change_set(request)
        if change_set is None:
            raise ServiceError(
                "ChangeSetNotFound", f"ChangeSet [{request.get('ChangeSetName')}] does not exist"
            )
        return {key: value for key, value in change_set.items() if key != "revision" and value is not None}

    def execute_change_set(self, request: Request) -> Answer:
        """Start the deployment that a change set describes."""
        change_set = self._change_set(request)
        if change_set is None:
            raise ServiceError("ChangeSetNotFound", f"ChangeSet [{request['ChangeSetName']}] does not exist")
        if change_set["ExecutionStatus"] != "AVAILABLE":
            raise ServiceError(
                "InvalidChangeSetStatus", f"ChangeSet [{change_set['ChangeSetId']}] cannot be run"
            )
        stack = self._stacks[change_set["StackId"]]
        change_set["ExecutionStatus"] = "EXECUTE_COMPLETE"
        stack.change_set_id = change_set["ChangeSetId"]
        self._deploy(stack, change_set["revision"], rollback=not request.get("DisableRollback", False))
        return {}

    def delete_change_set(self, request: Request) -> Answer:
        """Forget a change set; one that is not there is fine."""
        if change_set := self._change_set(request):
            del self._change_sets[change_set["ChangeSetId"]]
        return {}

    def list_change_sets(self, request: Request) -> Answer:
        """The change sets of a stack."""
        stack = self._stack(request["StackName"])
        found = [item for item in self._change_sets.values() if item["StackId"] == stack.id]
        return {"Summaries": [{**item, "revision": None} for item in found]}

    def list_exports(self, request: Request) -> Answer:
        """The exports of all stacks."""
        return {
            "Exports": [
                {"ExportingStackId": stack.id, "Name": output["ExportName"], "Value": output["OutputValue"]}
                for stack in self._stacks.values()
                for output in stack.outputs
                if _lives(stack) and "ExportName" in output
            ]
        }

    def update_termination_protection(self, request: Request) -> Answer:
        """Protect a stack from deletion, or stop protecting it."""
        stack = self._stack(request["StackName"])
        stack.termination_protection = request["EnableTerminationProtection"]
        return {"StackId": stack.id}

    def close(self) -> None:
        """Have the operations under way give up where they are."""
        self._environment.closing.set()
        for thread in self._operations:
            thread.join()

    def _deploy(self, stack: Stack, revision: Revision, *, rollback: bool) -> None:
        deployment = Deployment(
            stack=stack,
            revision=revision,
            environment=self._environment,
            provider=self._provider,
            resolver=self._resolver,
            rollback=rollback,
        )
        self._start(stack, "UPDATE_IN_PROGRESS" if stack.resources else "CREATE_IN_PROGRESS", deployment.run)

    def _start(self, stack: Stack, status: str, run: Callable[[], None]) -> None:
        with self._lock:
            if stack.busy:
                raise invalid(f"Stack:{stack.id} is in {stack.status} state and can not be updated.")
            if stack.status in ("ROLLBACK_COMPLETE", "ROLLBACK_FAILED") and status != "DELETE_IN_PROGRESS":
                raise invalid(f"Stack:{stack.id} is in {stack.status} state and can not be updated.")
            stack.status = status

        def guarded() -> None:
            try:
                run()
            except Abandoned:
                return
            except Exception as error:
                failed = stack.status.removesuffix("_IN_PROGRESS") + "_FAILED"
                set_status(stack, failed, f"Internal failure: {error!r}")
                raise

        thread = threading.Thread(target=guarded, daemon=True, name=f"stack {stack.name}")
        self._operations.append(thread)
        thread.start()

    def _new_stack(self, request: Request) -> Stack:
        identifier = self._arn(f"stack/{request['StackName']}/{uuid.uuid4()}")
        stack = Stack(id=identifier, name=request["StackName"], role_arn=request.get("RoleARN"))
        self._stacks[stack.id] = stack
        return stack

    def _arn(self, resource: str) -> str:
        here = self._environment
        return f"arn:{here.partition}:cloudformation:{here.region}:{here.account}:{resource}"

    def _living(self, name: str) -> Stack | None:
        for stack in self._stacks.values():
            if name == stack.id or (name == stack.name and _lives(stack)):
                return stack
        return None

    def _stack(self, name: str, *, deleted: bool = False) -> Stack:
        stack = self._living(name)
        if stack is None or not (deleted or _lives(stack)):
            raise invalid(f"Stack with id {name} does not exist")
        return stack

    def _change_set(self, request: Request) -> dict[str, Any] | None:
        name = request.get("ChangeSetName")
        if name in self._change_sets:
            return self._change_sets[name]
        stack = self._living(request["StackName"]) if name and "StackName" in request else None
        for change_set in self._change_sets.values():
            if stack and change_set["ChangeSetName"] == name and change_set["StackId"] == stack.id:
                return change_set
        return None

    def _resources(self, request: Request) -> list[dict[str, Any]]:
        stack = self._stack(request.get("StackName") or request["PhysicalResourceId"], deleted=True)
        return [
            {
                "StackId": stack.id,
                "StackName": stack.name,
                "LogicalResourceId": resource.logical_id,
                "PhysicalResourceId": resource.physical_id,
                "ResourceType": resource.type,
                "ResourceStatus": resource.status,
                "Timestamp": resource.timestamp,
                "LastUpdatedTimestamp": resource.timestamp,
            }
            for resource in stack.resources.values()
        ]

    def _revision(self, request: Request, stack: Stack) -> Revision:
        body = stack.body if request.get("UsePreviousTemplate") else self._body(request)
        declared = _parse(body).get("Parameters", {})
        given: dict[str, str] = {}
        for item in request.get("Parameters", []):
            name = item["ParameterKey"]
            previous = item.get("UsePreviousValue") and name in stack.parameters
            given[name] = stack.parameters[name] if previous else item.get("ParameterValue", "")
        unknown = sorted(set(given) - set(declared))
        if unknown:
            raise invalid(f"Parameters: {unknown} do not exist in the template")
        values = {name: given.get(name, definition.get("Default")) for name, definition in declared.items()}
        missing = [name for name, value in values.items() if value is None]
        if missing:
            raise invalid(f"Parameters: {missing} must have values")
        texts = {name: str(value) for name, value in values.items()}
        return Revision(body, texts, request.get("Tags", []))

    def _body(self, request: Request) -> str:
        if "TemplateBody" in request:
            return str(request["TemplateBody"])
        bucket, key = unquote(urlparse(request["TemplateURL"]).path).lstrip("/").split("/", 1)
        body: bytes = self._environment.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()
        return body.decode()

    def _provider(self, resource_type: str) -> Provider:
        if resource_type.startswith("Custom::") or resource_type == "AWS::CloudFormation::CustomResource":
            return self._custom
        if resource_type not in self._types:
            raise ResourceFailure(f"The embedded AWS does not support the resource type {resource_type}")
        return self._types[resource_type]

    def _check_known_types(self, revision: Revision) -> None:
        for resource in _parse(revision.body)["Resources"].values():
            try:
                self._provider(resource["Type"])
            except ResourceFailure as error:
                close = difflib.get_close_matches(resource["Type"], self._types, n=1)
                hint = f"; did you mean {close[0]}?" if close else ""
                raise invalid(f"Template format error: {error}{hint}") from None

    def _resolver(self, stack: Stack, template: Mapping[str, Any], parameters: Mapping[str, str]) -> Resolver:
        here = self._environment
        values: dict[str, Any] = {}
        for name, definition in template.get("Parameters", {}).items():
            kind = definition.get("Type", "String")
            value: Any = parameters[name]
            if kind.startswith("AWS::SSM::Parameter::Value"):
                value = self._dynamic("ssm", value)
            values[name] = value.split(",") if "List" in kind else value

        def reference(name: str) -> str:
            if name not in stack.resources:
                raise TemplateError(f"Template format error: Unresolved resource dependencies [{name}]")
            return stack.resources[name].physical_id

        def attribute(name: str, key: str) -> Any:
            reference(name)
            resource = stack.resources[name]
            if resource.attributes.get(key) is None:
                raise TemplateError(
                    f"Template error: resource {name} ({resource.type}) has no attribute {key}"
                )
            return resource.attributes[key]

        return Resolver(
            template=template,
            parameters=values,
            pseudo={
                "AWS::AccountId": here.account,
                "AWS::Partition": here.partition,
                "AWS::Region": here.region,
                "AWS::StackName": stack.name,
                "AWS::StackId": stack.id,
                "AWS::URLSuffix": "amazonaws.com.cn" if here.partition == "aws-cn" else "amazonaws.com",
                "AWS::NotificationARNs": [],
            },
            reference=reference,
            attribute=attribute,
            imported=self._imported,
            dynamic=self._dynamic,
            zones=self._zones,
        )

    def _imported(self, name: str) -> str:
        for export in self.list_exports({})["Exports"]:
            if export["Name"] == name:
                return str(export["Value"])
        raise TemplateError(f"No export named {name} found.")

    def _users_of_exports(self, stack: Stack) -> list[tuple[str, str]]:
        exported = [output["ExportName"] for output in stack.outputs if "ExportName" in output]
        others = [other for other in self._stacks.values() if other is not stack and _lives(other)]
        return [
            (name, other.name)
            for name in exported
            for other in others
            if json.dumps({"Fn::ImportValue": name})[1:-1] in json.dumps(other.template)
        ]

    def _dynamic(self, service: str, key: str) -> str:
        try:
            if service == "secretsmanager":
                # arn or name, then SecretString, JSON key, version stage, version id
                secret, _, rest = key.partition(":SecretString")
                answer = self._environment.client("secretsmanager").get_secret_value(SecretId=secret)
                field = rest.split(":")[1] if rest.count(":") else ""
                return str(json.loads(answer["SecretString"])[field] if field else answer["SecretString"])
            answer = self._environment.client("ssm").get_parameter(
                Name=key.split(":")[0], WithDecryption=True
            )
            return str(answer["Parameter"]["Value"])
        except Exception as error:
            raise TemplateError(f"Could not resolve {{{{resolve:{service}:{key}}}}}: {error}") from error

    def _zones(self) -> list[str]:
        zones = self._environment.client("ec2").describe_availability_zones()["AvailabilityZones"]
        return sorted(zone["ZoneName"] for zone in zones)


def _lives(stack: Stack) -> bool:
    return stack.status != "DELETE_COMPLETE"


def _parse(body: str) -> dict[str, Any]:
    try:
        return parse(body)
    except TemplateError as error:
        raise invalid(str(error)) from error


def _pairs(prefix: str, values: Mapping[str, str]) -> list[dict[str, str]]:
    return [{f"{prefix}Key": key, f"{prefix}Value": value} for key, value in values.items()]


def _described(stack: Stack) -> Answer:
    described = {
        "StackId": stack.id,
        "StackName": stack.name,
        "StackStatus": stack.status,
        "StackStatusReason": stack.status_reason,
        "CreationTime": stack.created,
        "LastUpdatedTime": stack.updated,
        "Parameters": _pairs("Parameter", stack.parameters),
        "Tags": stack.tags,
        "Outputs": stack.outputs,
        "RoleARN": stack.role_arn,
        "ChangeSetId": stack.change_set_id,
        "Description": stack.template.get("Description") if stack.body != "{}" else None,
        "EnableTerminationProtection": stack.termination_protection,
        "Capabilities": ["CAPABILITY_NAMED_IAM"],
    }
    return {key: value for key, value in described.items() if value is not None}


def _changes(stack: Stack, template: Mapping[str, Any]) -> list[dict[str, Any]]:
    old = stack.template.get("Resources", {})
    new = template["Resources"]
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
