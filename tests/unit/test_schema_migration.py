"""What the schema migration function asks of AWS, checked by botocore, and what CloudFormation hears."""

from __future__ import annotations

import importlib.util
import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber

SOURCE = Path(__file__).parents[2] / "functions" / "schema_migration" / "handler.py"
REGION = "eu-west-1"
CLUSTER = "arn:aws:ecs:eu-west-1:111122223333:cluster/mlflow"
TASK = "arn:aws:ecs:eu-west-1:111122223333:task/mlflow/0123456789abcdef"
STACK = "arn:aws:cloudformation:eu-west-1:111122223333:stack/mlflow-tracking-server/1"
PROPERTIES = {
    "Cluster": CLUSTER,
    "TaskDefinition": "arn:aws:ecs:eu-west-1:111122223333:task-definition/migration:7",
    "Subnets": ["subnet-1", "subnet-2"],
    "SecurityGroups": ["sg-1"],
    "LogGroup": "server-log",
    "LogStreamPrefix": "migrate/tracking-server",
}


@pytest.fixture
def handler() -> ModuleType:
    """The module as Lambda loads it, without waiting between questions."""
    specification = importlib.util.spec_from_file_location("schema_migration_handler", SOURCE)
    assert specification
    assert specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    module.POLL_SECONDS = 0  # type: ignore[attr-defined]
    return module


class Aws:
    """Real clients of botocore whose answers are given: a call that is not expected, or not valid, fails."""

    def __init__(self) -> None:
        credentials = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": REGION}
        services = ("ecs", "logs", "cloudformation", "lambda")
        self.clients = {service: boto3.client(service, **credentials) for service in services}
        self.stubs = {service: Stubber(client) for service, client in self.clients.items()}
        for stub in self.stubs.values():
            stub.activate()

    def client(self, service: str) -> Any:
        return self.clients[service]

    def finds_stack(self, status: str) -> None:
        stack = {
            "StackName": "mlflow-tracking-server",
            "CreationTime": "2026-01-01T00:00:00Z",
            "StackStatus": status,
        }
        self.stubs["cloudformation"].add_response(
            "describe_stacks", {"Stacks": [stack]}, {"StackName": STACK}
        )

    def starts_task(self, **answer: Any) -> None:
        expected = {
            "cluster": CLUSTER,
            "taskDefinition": PROPERTIES["TaskDefinition"],
            "launchType": "FARGATE",
            "clientToken": "request-1",
            "startedBy": "schema-migration",
            "networkConfiguration": {
                "awsvpcConfiguration": {
                    "subnets": ["subnet-1", "subnet-2"],
                    "securityGroups": ["sg-1"],
                    "assignPublicIp": "DISABLED",
                }
            },
        }
        result = answer or {"tasks": [{"taskArn": TASK}], "failures": []}
        self.stubs["ecs"].add_response("run_task", result, expected)

    def shows_task(self, status: str, *, exit_code: int | None = None, reason: str = "") -> None:
        container = {"name": "tracking-server"} | ({} if exit_code is None else {"exitCode": exit_code})
        task = {"taskArn": TASK, "lastStatus": status, "containers": [container], "stoppedReason": reason}
        self.stubs["ecs"].add_response(
            "describe_tasks", {"tasks": [task]}, {"cluster": CLUSTER, "tasks": [TASK]}
        )

    def shows_log(self, *messages: str) -> None:
        self.stubs["logs"].add_response(
            "get_log_events",
            {"events": [{"timestamp": 1, "message": message} for message in messages]},
            {
                "logGroupName": "server-log",
                "logStreamName": "migrate/tracking-server/0123456789abcdef",
                "startFromHead": False,
                "limit": 100,
            },
        )

    def asked_everything(self) -> None:
        for stub in self.stubs.values():
            stub.assert_no_pending_responses()


@pytest.fixture
def aws(handler: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    double = Aws()
    monkeypatch.setattr(handler, "boto3", SimpleNamespace(client=double.client))
    yield double
    double.asked_everything()


class CloudFormation:
    """A server that hears what CloudFormation would hear."""

    def __init__(self) -> None:
        heard: list[dict[str, Any]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                # The URL is signed without a content type.
                assert self.headers["Content-Type"] == ""
                heard.append(json.loads(body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *arguments: object) -> None:
                pass

        self.heard = heard
        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def event(self, request_type: str = "Create", **properties: str) -> dict[str, Any]:
        return {
            "RequestType": request_type,
            "ResponseURL": f"http://127.0.0.1:{self.server.server_port}/answer",
            "StackId": STACK,
            "RequestId": "request-1",
            "LogicalResourceId": "Hour1",
            "ResourceProperties": PROPERTIES | properties,
        } | ({} if request_type == "Create" else {"PhysicalResourceId": "schema-migration-Hour1"})

    @property
    def answer(self) -> dict[str, Any]:
        (only,) = self.heard
        return only


@pytest.fixture
def cloudformation() -> Iterator[CloudFormation]:
    server = CloudFormation()
    yield server
    server.server.shutdown()
    server.server.server_close()


def context(milliseconds: int = 900_000) -> SimpleNamespace:
    return SimpleNamespace(
        get_remaining_time_in_millis=lambda: milliseconds,
        invoked_function_arn="arn:aws:lambda:eu-west-1:111122223333:function:migration",
    )


@pytest.mark.parametrize("request_type", ["Create", "Update"])
def test_it_runs_the_task_and_reports_its_success(
    request_type: str, handler: ModuleType, aws: Aws, cloudformation: CloudFormation
) -> None:
    aws.finds_stack(f"{request_type.upper()}_IN_PROGRESS")
    aws.starts_task()
    aws.shows_task("PROVISIONING")
    aws.shows_task("RUNNING")
    aws.shows_task("STOPPED", exit_code=0)
    handler.handler(cloudformation.event(request_type), context())
    assert cloudformation.answer == {
        "Status": "SUCCESS",
        "Reason": "",
        "PhysicalResourceId": "schema-migration-Hour1",
        "StackId": STACK,
        "RequestId": "request-1",
        "LogicalResourceId": "Hour1",
        "Data": {"Status": "SUCCEEDED", "TaskArn": TASK},
    }


def test_a_failure_tells_what_the_migration_said_last(
    handler: ModuleType, aws: Aws, cloudformation: CloudFormation
) -> None:
    aws.finds_stack("UPDATE_IN_PROGRESS")
    aws.starts_task()
    aws.shows_task("STOPPED", exit_code=3, reason="Essential container in task exited")
    aws.shows_log(
        '{"level": "ERROR", "message": "an earlier one"}',
        "not JSON",
        '{"level": "ERROR", "message": "the schema is newer than this MLflow"}',
        '{"level": "INFO", "message": "bye"}',
        "42",
    )
    handler.handler(cloudformation.event("Update"), context())
    assert cloudformation.answer["Status"] == "FAILED"
    assert cloudformation.answer["Reason"] == (
        "The schema migration failed with exit code 3: the schema is newer than this MLflow"
    )


def test_a_failure_without_a_log_tells_what_ecs_says(
    handler: ModuleType, aws: Aws, cloudformation: CloudFormation
) -> None:
    aws.finds_stack("UPDATE_IN_PROGRESS")
    aws.starts_task()
    aws.shows_task("STOPPED", exit_code=137, reason="OutOfMemoryError")
    aws.stubs["logs"].add_client_error("get_log_events", "ResourceNotFoundException")
    handler.handler(cloudformation.event("Update"), context())
    assert (
        cloudformation.answer["Reason"] == "The schema migration failed with exit code 137: OutOfMemoryError"
    )


def test_a_task_that_never_ran_is_told_apart(
    handler: ModuleType, aws: Aws, cloudformation: CloudFormation
) -> None:
    aws.finds_stack("CREATE_IN_PROGRESS")
    aws.starts_task()
    aws.shows_task("STOPPED", reason="CannotPullContainerError: not found")
    handler.handler(cloudformation.event(), context())
    assert cloudformation.answer["Status"] == "FAILED"
    assert (
        cloudformation.answer["Reason"]
        == "The schema migration did not run: CannotPullContainerError: not found"
    )


def test_no_room_for_the_task_is_a_failure(
    handler: ModuleType, aws: Aws, cloudformation: CloudFormation
) -> None:
    aws.finds_stack("CREATE_IN_PROGRESS")
    aws.starts_task(tasks=[], failures=[{"reason": "RESOURCE:CPU"}])
    handler.handler(cloudformation.event(), context())
    assert "could not be started: RESOURCE:CPU" in cloudformation.answer["Reason"]


def test_a_policy_that_is_not_known_yet_is_waited_for(
    handler: ModuleType, aws: Aws, cloudformation: CloudFormation
) -> None:
    aws.stubs["cloudformation"].add_client_error("describe_stacks", "AccessDenied")
    aws.finds_stack("CREATE_IN_PROGRESS")
    aws.stubs["ecs"].add_client_error("run_task", "AccessDeniedException")
    aws.starts_task()
    aws.shows_task("STOPPED", exit_code=0)
    handler.handler(cloudformation.event(), context())
    assert cloudformation.answer["Status"] == "SUCCESS"


def test_a_policy_that_stays_unknown_is_not_waited_for_for_ever(
    handler: ModuleType, aws: Aws, cloudformation: CloudFormation
) -> None:
    handler.NEW_POLICY_SECONDS = -1  # type: ignore[attr-defined]
    aws.finds_stack("CREATE_IN_PROGRESS")
    aws.stubs["ecs"].add_client_error(
        "run_task", "AccessDeniedException", "not authorized to perform ecs:RunTask"
    )
    handler.handler(cloudformation.event(), context())
    assert "not authorized to perform ecs:RunTask" in cloudformation.answer["Reason"]


@pytest.mark.parametrize("status", ["UPDATE_ROLLBACK_IN_PROGRESS", "ROLLBACK_IN_PROGRESS"])
def test_a_rollback_runs_nothing(
    status: str, handler: ModuleType, aws: Aws, cloudformation: CloudFormation
) -> None:
    aws.finds_stack(status)
    handler.handler(cloudformation.event("Update"), context())
    assert cloudformation.answer["Status"] == "SUCCESS"
    assert cloudformation.answer["Data"] == {"Status": "SKIPPED", "TaskArn": ""}


def test_deleting_does_nothing(handler: ModuleType, aws: Aws, cloudformation: CloudFormation) -> None:
    handler.handler(cloudformation.event("Delete"), context())
    assert cloudformation.answer["Status"] == "SUCCESS"
    assert cloudformation.answer["PhysicalResourceId"] == "schema-migration-Hour1"


@pytest.mark.parametrize("status", ["SUCCEEDED", "SKIPPED"])
def test_a_successor_passes_on_what_has_ended(
    status: str, handler: ModuleType, aws: Aws, cloudformation: CloudFormation
) -> None:
    handler.handler(cloudformation.event(Status=status, TaskArn=TASK), context())
    assert cloudformation.answer["Data"] == {"Status": status, "TaskArn": TASK}


def test_a_successor_waits_for_the_task_that_runs(
    handler: ModuleType, aws: Aws, cloudformation: CloudFormation
) -> None:
    aws.finds_stack("UPDATE_IN_PROGRESS")
    aws.shows_task("RUNNING")
    aws.shows_task("STOPPED", exit_code=0)
    handler.handler(cloudformation.event("Update", Status="RUNNING", TaskArn=TASK), context())
    assert cloudformation.answer["Data"] == {"Status": "SUCCEEDED", "TaskArn": TASK}


def test_it_hands_over_before_lambda_ends_and_goes_on_from_there(
    handler: ModuleType, aws: Aws, cloudformation: CloudFormation, monkeypatch: pytest.MonkeyPatch
) -> None:
    handed: list[dict[str, Any]] = []
    monkeypatch.setattr(aws.clients["lambda"], "invoke", lambda **arguments: handed.append(arguments))
    aws.finds_stack("UPDATE_IN_PROGRESS")
    aws.starts_task()
    aws.shows_task("RUNNING")
    handler.handler(cloudformation.event("Update"), context(milliseconds=30_000))
    assert cloudformation.heard == []
    (invocation,) = handed
    assert (invocation["FunctionName"], invocation["InvocationType"]) == (
        context().invoked_function_arn,
        "Event",
    )

    aws.shows_task("STOPPED", exit_code=0)
    handler.handler(json.loads(invocation["Payload"]), context())
    assert cloudformation.answer["Data"] == {"Status": "SUCCEEDED", "TaskArn": TASK}


@pytest.mark.parametrize("last", [False, True])
def test_after_an_hour_the_next_resource_waits_and_the_last_one_fails(
    last: bool, handler: ModuleType, aws: Aws, cloudformation: CloudFormation
) -> None:
    handler.PATIENCE_SECONDS = -1  # type: ignore[attr-defined]
    aws.finds_stack("UPDATE_IN_PROGRESS")
    aws.starts_task()
    aws.shows_task("RUNNING")
    handler.handler(cloudformation.event("Update", **({"Last": "true"} if last else {})), context())
    if last:
        assert cloudformation.answer["Status"] == "FAILED"
        assert f"{TASK} still runs" in cloudformation.answer["Reason"]
        assert "migration_timeout_hours" in cloudformation.answer["Reason"]
    else:
        assert cloudformation.answer["Data"] == {"Status": "RUNNING", "TaskArn": TASK}


def test_whatever_breaks_cloudformation_hears_of_it(
    handler: ModuleType, aws: Aws, cloudformation: CloudFormation, capsys: pytest.CaptureFixture[str]
) -> None:
    event = cloudformation.event()
    del event["ResourceProperties"]
    handler.handler(event, context())
    assert cloudformation.answer["Reason"] == "KeyError: 'ResourceProperties'"
    assert json.loads(capsys.readouterr().out)["level"] == "ERROR"


def test_a_long_reason_is_cut_to_what_cloudformation_reads(
    handler: ModuleType, aws: Aws, cloudformation: CloudFormation
) -> None:
    handler.respond(cloudformation.event(), "FAILED", reason="x" * 10_000)
    assert len(json.dumps(cloudformation.answer)) < 4096


def test_the_function_needs_nothing_but_the_runtime_of_lambda() -> None:
    imported = {
        line.split()[1].partition(".")[0]
        for line in SOURCE.read_text(encoding="utf-8").splitlines()
        if line.startswith(("import ", "from "))
    }
    assert imported - set(sys.stdlib_module_names) == {"boto3", "botocore"}
