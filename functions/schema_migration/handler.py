"""Runs the schema migration as a one-off ECS task while CloudFormation waits, and tells it how that ended.

CloudFormation sends an event for each `Custom::SchemaMigration` resource of the stack. The first one starts the
task; it and its successors wait for it, one hour each, since CloudFormation waits no longer than that for one
resource. Lambda waits no longer than 15 minutes, so the function invokes itself with what it knows so far.

Properties of the resource:
    Cluster, TaskDefinition, Subnets, SecurityGroups    where and what to run
    LogGroup, LogStreamPrefix                           where the container writes: <prefix>/<task id>
    Status, TaskArn                                     what the resource before this one returned; absent in the first
    Last                                                "true" for the resource after which patience ends

Data that it returns: Status (SUCCEEDED, RUNNING or SKIPPED) and TaskArn.

A running migration is never stopped: interrupted half-way, it leaves a schema that MLflow cannot repair.
"""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable
from typing import Any

import boto3
from botocore.exceptions import ClientError

#: Less than the hour for which CloudFormation waits, by enough to answer it.
PATIENCE_SECONDS = 55 * 60
#: What must be left of Lambda's time to hand over to the next invocation.
HANDOVER_MILLISECONDS = 60_000
POLL_SECONDS = 5
#: A policy that was created a moment ago is not yet known everywhere.
NEW_POLICY_SECONDS = 90
#: CloudFormation reads no more than 4 KB of an answer.
LONGEST_REASON = 2000

Event = dict[str, Any]


class MigrationFailedError(Exception):
    """The migration did not succeed; the message goes to whoever deploys."""


def handler(event: Event, context: Any) -> None:
    """Entry point for CloudFormation and for the function's own hand-overs."""
    try:
        data = answer(event, context)
    except MigrationFailedError as error:
        respond(event, "FAILED", reason=str(error))
    except Exception as error:  # whatever happens, CloudFormation must hear of it or it waits for an hour
        respond(event, "FAILED", reason=f"{type(error).__name__}: {error}")
    else:
        if data is not None:
            respond(event, "SUCCESS", data=data)


def answer(event: Event, context: Any) -> dict[str, str] | None:
    """Data for CloudFormation, or None when another invocation goes on waiting.

    Raises:
        MigrationFailedError: the migration failed, or did not end in the time that it has.
    """
    properties = event["ResourceProperties"]
    if event["RequestType"] == "Delete" or properties.get("Status") in ("SUCCEEDED", "SKIPPED"):
        return {"Status": properties.get("Status", "SKIPPED"), "TaskArn": properties.get("TaskArn", "")}
    if "Progress" not in event:
        if rolling_back(event["StackId"]):
            return {"Status": "SKIPPED", "TaskArn": ""}
        task_arn = properties.get("TaskArn") or start(properties, token=event["RequestId"])
        event["Progress"] = {"TaskArn": task_arn, "Until": time.time() + PATIENCE_SECONDS}

    progress = event["Progress"]
    while True:
        task = describe(properties["Cluster"], progress["TaskArn"])
        if task["lastStatus"] == "STOPPED":
            check(task, properties)
            return {"Status": "SUCCEEDED", "TaskArn": progress["TaskArn"]}
        if time.time() > progress["Until"]:
            return give_up(properties, progress["TaskArn"])
        if context.get_remaining_time_in_millis() < HANDOVER_MILLISECONDS:
            hand_over(event, context)
            return None
        time.sleep(POLL_SECONDS)


def rolling_back(stack_id: str) -> bool:
    """Whether CloudFormation is undoing a failed deployment: a schema is never taken back."""
    stacks = patiently(boto3.client("cloudformation").describe_stacks, StackName=stack_id)["Stacks"]
    return "ROLLBACK" in stacks[0]["StackStatus"]


def start(properties: dict[str, Any], *, token: str) -> str:
    """Starts the task and returns its ARN; the same `token` finds the same task again."""
    result = patiently(
        boto3.client("ecs").run_task,
        cluster=properties["Cluster"],
        taskDefinition=properties["TaskDefinition"],
        launchType="FARGATE",
        clientToken=token,
        startedBy="schema-migration",
        networkConfiguration={
            "awsvpcConfiguration": {
                "subnets": properties["Subnets"],
                "securityGroups": properties["SecurityGroups"],
                "assignPublicIp": "DISABLED",
            }
        },
    )
    if result["failures"]:
        reasons = ", ".join(failure.get("reason", "unknown") for failure in result["failures"])
        raise MigrationFailedError(f"The schema migration could not be started: {reasons}. Deploy again.")
    return str(result["tasks"][0]["taskArn"])


def patiently(call: Callable[..., Any], **arguments: Any) -> Any:
    """Calls AWS, and again while it denies what a policy made a moment ago allows."""
    until = time.time() + NEW_POLICY_SECONDS
    while True:
        try:
            return call(**arguments)
        except ClientError as error:
            if not error.response["Error"]["Code"].startswith("AccessDenied") or time.time() > until:
                raise
            time.sleep(POLL_SECONDS)


def describe(cluster: str, task_arn: str) -> dict[str, Any]:
    """The task as ECS shows it; a stopped one stays visible for an hour at least."""
    tasks = boto3.client("ecs").describe_tasks(cluster=cluster, tasks=[task_arn])["tasks"]
    if not tasks:
        raise MigrationFailedError(
            f"ECS no longer knows the schema migration {task_arn}. Read its log, then deploy again."
        )
    return dict(tasks[0])


def check(task: dict[str, Any], properties: dict[str, Any]) -> None:
    """Raises MigrationFailedError, with the reason, unless the stopped task succeeded."""
    container = task["containers"][0]
    exit_code = container.get("exitCode")
    if exit_code == 0:
        return
    if exit_code is None:
        reason = container.get("reason") or task.get("stoppedReason") or "unknown"
        raise MigrationFailedError(f"The schema migration did not run: {reason}")
    said = last_error(
        properties["LogGroup"], f"{properties['LogStreamPrefix']}/{task['taskArn'].split('/')[-1]}"
    )
    reason = (
        said
        or container.get("reason")
        or task.get("stoppedReason")
        or f"see log group {properties['LogGroup']}"
    )
    raise MigrationFailedError(f"The schema migration failed with exit code {exit_code}: {reason}")


def last_error(log_group: str, log_stream: str) -> str | None:
    """The last error that the container logged, as JSON with `level` and `message`."""
    try:
        events = boto3.client("logs").get_log_events(
            logGroupName=log_group, logStreamName=log_stream, startFromHead=False, limit=100
        )["events"]
    except ClientError:
        return None
    for event in reversed(events):
        try:
            line = json.loads(event["message"])
        except ValueError:
            continue
        if isinstance(line, dict) and line.get("level") == "ERROR":
            return str(line.get("message"))
    return None


def give_up(properties: dict[str, Any], task_arn: str) -> dict[str, str]:
    """Leaves the waiting to the next resource, if there is one."""
    if properties.get("Last") == "true":
        raise MigrationFailedError(
            f"The schema migration {task_arn} still runs and goes on; it was not interrupted. "
            "Wait until it ends, raise tracking_server.migration_timeout_hours and deploy again."
        )
    return {"Status": "RUNNING", "TaskArn": task_arn}


def hand_over(event: Event, context: Any) -> None:
    boto3.client("lambda").invoke(
        FunctionName=context.invoked_function_arn, InvocationType="Event", Payload=json.dumps(event).encode()
    )


def respond(event: Event, status: str, *, reason: str = "", data: dict[str, str] | None = None) -> None:
    """Answers CloudFormation at the presigned URL that came with the event."""
    body = {
        "Status": status,
        "Reason": reason[:LONGEST_REASON],
        # The same for ever: another id would make CloudFormation delete the "old" resource.
        "PhysicalResourceId": event.get("PhysicalResourceId")
        or f"schema-migration-{event['LogicalResourceId']}",
        "StackId": event["StackId"],
        "RequestId": event["RequestId"],
        "LogicalResourceId": event["LogicalResourceId"],
        "Data": data or {},
    }
    print(
        json.dumps(
            {"level": "INFO" if status == "SUCCESS" else "ERROR", "message": reason or f"{status} {data}"}
        )
    )
    request = urllib.request.Request(  # noqa: S310 - CloudFormation's own https URL
        event["ResponseURL"], data=json.dumps(body).encode(), method="PUT", headers={"Content-Type": ""}
    )
    with urllib.request.urlopen(request, timeout=30):  # noqa: S310
        pass
