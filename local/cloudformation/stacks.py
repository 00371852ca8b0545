"""All stacks of a region: finding them, reading templates, and running operations on them."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote, urlparse

from local.cloudformation import buckets, databases, identity, networking, resources, services
from local.cloudformation.custom_resources import CustomResource
from local.cloudformation.engine import Deletion, Deployment
from local.cloudformation.provider import Abandoned, Environment, Provider, ResourceFailure
from local.cloudformation.stack import Revision, Stack
from local.cloudformation.template import Resolver, TemplateError, parse
from local.endpoint import ServiceError

Request = dict[str, Any]

TYPES: dict[str, Provider] = {
    **buckets.TYPES,
    **databases.TYPES,
    **identity.TYPES,
    **networking.TYPES,
    **resources.TYPES,
    **services.TYPES,
}


def invalid(message: str) -> ServiceError:
    """CloudFormation's general refusal."""
    return ServiceError("ValidationError", message)


def parsed(body: str) -> dict[str, Any]:
    """A template. Raises ServiceError when it is not one."""
    try:
        return parse(body)
    except TemplateError as error:
        raise invalid(str(error)) from error


class Stacks:
    """The stacks, also those deleted; operations run in threads of their own, as their callers poll."""

    def __init__(self, *, environment: Environment, custom: CustomResource) -> None:
        self.environment = environment
        self._custom = custom
        self._stacks: dict[str, Stack] = {}
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()

    def all(self) -> list[Stack]:
        """Every stack, also the deleted ones."""
        return list(self._stacks.values())

    def new(self, name: str, role_arn: str | None) -> Stack:
        """A stack without resources."""
        stack = Stack(id=self.arn(f"stack/{name}/{uuid.uuid4()}"), name=name, role_arn=role_arn)
        self._stacks[stack.id] = stack
        return stack

    def arn(self, resource: str) -> str:
        """An ARN of CloudFormation's."""
        here = self.environment
        return f"arn:{here.partition}:cloudformation:{here.region}:{here.account}:{resource}"

    def find(self, name: str | None) -> Stack | None:
        """The stack with an id, or the living one with a name."""
        for stack in self._stacks.values():
            if name == stack.id or (name == stack.name and stack.lives):
                return stack
        return None

    def get(self, name: str) -> Stack:
        """The same. Raises ServiceError when there is none."""
        stack = self.find(name)
        if stack is None:
            raise invalid(f"Stack with id {name} does not exist")
        return stack

    def provider(self, resource_type: str) -> Provider:
        """The provider of a resource type. Raises ResourceFailure for one that is not known here."""
        if resource_type.startswith("Custom::") or resource_type == "AWS::CloudFormation::CustomResource":
            return self._custom
        if resource_type not in TYPES:
            raise ResourceFailure(f"The embedded AWS does not support the resource type {resource_type}")
        return TYPES[resource_type]

    def revision(self, request: Request, stack: Stack) -> Revision:
        """What a request to create or update a stack asks for. Raises ServiceError."""
        previous = stack.revision
        body = previous.body if request.get("UsePreviousTemplate") else self.body(request)
        declared = parsed(body).get("Parameters", {})
        values = {name: definition.get("Default") for name, definition in declared.items()}
        for item in request.get("Parameters", []):
            name = item["ParameterKey"]
            if name not in declared:
                raise invalid(f"Parameters: [{name}] do not exist in the template")
            keep = item.get("UsePreviousValue") and name in previous.parameters
            values[name] = previous.parameters[name] if keep else item.get("ParameterValue", "")
        missing = [name for name, value in values.items() if value is None]
        if missing:
            raise invalid(f"Parameters: [{', '.join(missing)}] must have values")
        return Revision(body, {name: str(value) for name, value in values.items()}, request.get("Tags", []))

    def body(self, request: Request) -> str:
        """The text of the template that a request holds or points to."""
        if "TemplateBody" in request:
            return str(request["TemplateBody"])
        bucket, key = unquote(urlparse(request["TemplateURL"]).path).lstrip("/").split("/", 1)
        answer = self.environment.client("s3").get_object(Bucket=bucket, Key=key)
        body: bytes = answer["Body"].read()
        return body.decode()

    def deploy(self, stack: Stack, revision: Revision, *, rollback: bool) -> None:
        """Start the deployment of a revision."""
        deployment = Deployment(
            stack,
            revision,
            environment=self.environment,
            provider=self.provider,
            resolver=self._resolver,
            rollback=rollback,
        )
        if stack.status in ("ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "DELETE_FAILED"):
            raise invalid(f"Stack:{stack.id} is in {stack.status} state and can not be updated.")
        self._start(stack, "UPDATE_IN_PROGRESS" if stack.resources else "CREATE_IN_PROGRESS", deployment.run)

    def delete(self, stack: Stack) -> None:
        """Start the deletion of a stack; one whose exports are in use refuses."""
        for name, user in self._users_of_exports(stack):
            stack.turn("DELETE_FAILED", f"Cannot delete export {name} as it is in use by {user}.")
            return
        deletion = Deletion(stack, environment=self.environment, provider=self.provider)
        self._start(stack, "DELETE_IN_PROGRESS", deletion.run)

    def exports(self) -> list[dict[str, str]]:
        """What the living stacks export."""
        return [
            {"ExportingStackId": stack.id, "Name": output["ExportName"], "Value": output["OutputValue"]}
            for stack in self.all()
            for output in stack.outputs
            if stack.lives and "ExportName" in output
        ]

    def close(self) -> None:
        """Have the operations under way give up where they are."""
        self.environment.closing.set()
        for thread in self._threads:
            thread.join()

    def _start(self, stack: Stack, status: str, run: Callable[[], None]) -> None:
        with self._lock:
            if stack.busy:
                raise invalid(f"Stack:{stack.id} is in {stack.status} state and can not be updated.")
            stack.status = status

        def guarded() -> None:
            try:
                run()
            except Abandoned:
                return
            except Exception as error:  # a fault of a double: the caller must not wait for ever
                stack.turn(
                    f"{stack.status.removesuffix('_IN_PROGRESS')}_FAILED", f"Internal failure: {error!r}"
                )
                raise

        thread = threading.Thread(target=guarded, daemon=True, name=f"stack {stack.name}")
        self._threads.append(thread)
        thread.start()

    def _users_of_exports(self, stack: Stack) -> list[tuple[str, str]]:
        exported = [output["ExportName"] for output in stack.outputs if "ExportName" in output]
        others = [other for other in self.all() if other is not stack and other.lives]
        return [
            (name, other.name)
            for name in exported
            for other in others
            if json.dumps({"Fn::ImportValue": name})[1:-1] in json.dumps(other.template)
        ]

    def _resolver(self, stack: Stack, template: Mapping[str, Any], parameters: Mapping[str, str]) -> Resolver:
        here = self.environment
        values: dict[str, Any] = {}
        for name, definition in template.get("Parameters", {}).items():
            kind, value = definition.get("Type", "String"), parameters[name]
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
                "AWS::URLSuffix": here.url_suffix,
                "AWS::NotificationARNs": [],
            },
            reference=reference,
            attribute=attribute,
            imported=self._imported,
            dynamic=self._dynamic,
            zones=self._zones,
        )

    def _imported(self, name: str) -> str:
        for export in self.exports():
            if export["Name"] == name:
                return export["Value"]
        raise TemplateError(f"No export named {name} found.")

    def _dynamic(self, service: str, key: str) -> str:
        try:
            if service == "secretsmanager":
                # arn or name, then SecretString, JSON key, version stage, version id
                secret, _, rest = key.partition(":SecretString")
                answer = self.environment.client("secretsmanager").get_secret_value(SecretId=secret)
                field = rest.split(":")[1] if rest.count(":") else ""
                return str(json.loads(answer["SecretString"])[field] if field else answer["SecretString"])
            name = key.split(":")[0]
            answer = self.environment.client("ssm").get_parameter(Name=name, WithDecryption=True)
            return str(answer["Parameter"]["Value"])
        except Exception as error:
            raise TemplateError(f"Could not resolve {{{{resolve:{service}:{key}}}}}: {error}") from error

    def _zones(self) -> list[str]:
        zones = self.environment.client("ec2").describe_availability_zones()["AvailabilityZones"]
        return sorted(zone["ZoneName"] for zone in zones)
