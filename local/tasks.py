"""One ECS task: the process that its task definition describes, with its logs, secrets and credentials."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from local.database import free_port
from local.log_stream import LogStream

# https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task_definition_parameters.html#container_definition_timeout
_DEFAULT_STOP_TIMEOUT = 30
# what the image's Dockerfile says
_DEFAULT_COMMAND = ["serve"]
_LAST_LINES = 12


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What every task gets from the machine it runs on.

    `client(service, role_arn)` gives a boto3 client with a role's credentials, `credentials(role_arn)` the URL of
    a container credentials endpoint for it; `variables(environment)` what is put over a task's own environment.
    """

    python: Path
    container: Path
    logs: Path
    home: Path
    pids: Path
    region: str
    client: Callable[[str, str], Any]
    credentials: Callable[[str], str]
    variables: Callable[[Mapping[str, str]], dict[str, str]]


class CannotStart(Exception):
    """A task could not be started; the message is its stoppedReason."""


@dataclass
class Task:
    """A task and its single container; `describe` gives it in the ECS API's shape."""

    arn: str
    cluster_arn: str
    definition: dict[str, Any]
    group: str
    started_by: str = ""
    overrides: dict[str, Any] = field(default_factory=dict)
    tags: list[dict[str, str]] = field(default_factory=list)
    launch_type: str = "FARGATE"
    status: str = "PROVISIONING"
    desired_status: str = "RUNNING"
    stopped_reason: str = ""
    stop_code: str = ""
    exit_code: int | None = None
    port: int = 0
    created: datetime = field(default_factory=lambda: datetime.now(timezone.utc))
    started: datetime | None = None
    stopped: datetime | None = None
    last_lines: deque[str] = field(default_factory=lambda: deque(maxlen=_LAST_LINES))
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    done: threading.Event = field(default_factory=threading.Event, repr=False)

    @property
    def id(self) -> str:
        """The last part of the ARN."""
        return self.arn.rsplit("/", 1)[1]

    @property
    def container(self) -> dict[str, Any]:
        """The definition of the task's container, overrides applied."""
        [definition] = self.definition["containerDefinitions"]
        merged = dict(definition)
        for override in self.overrides.get("containerOverrides", []):
            if override.get("name") == merged["name"]:
                environment = {
                    item["name"]: item
                    for item in [*merged.get("environment", []), *override.get("environment", [])]
                }
                merged.update({key: value for key, value in override.items() if key != "environment"})
                merged["environment"] = list(environment.values())
        return merged

    def describe(self) -> dict[str, Any]:
        """The task as DescribeTasks returns it."""
        container = {
            "containerArn": f"{self.arn}/{self.container['name']}".replace(":task/", ":container/"),
            "taskArn": self.arn,
            "name": self.container["name"],
            "image": self.container["image"],
            "lastStatus": self.status if self.status in ("RUNNING", "STOPPED") else "PENDING",
            "exitCode": self.exit_code,
            "reason": self.stopped_reason if self.exit_code is None and self.stopped else None,
        }
        described = {
            "taskArn": self.arn,
            "clusterArn": self.cluster_arn,
            "taskDefinitionArn": self.definition["taskDefinitionArn"],
            "group": self.group,
            "startedBy": self.started_by,
            "launchType": self.launch_type,
            "lastStatus": self.status,
            "desiredStatus": self.desired_status,
            "createdAt": self.created,
            "startedAt": self.started,
            "stoppedAt": self.stopped,
            "stoppedReason": self.stopped_reason or None,
            "stopCode": self.stop_code or None,
            "overrides": self.overrides,
            "tags": self.tags,
            "cpu": self.definition.get("cpu"),
            "memory": self.definition.get("memory"),
            "containers": [{key: value for key, value in container.items() if value is not None}],
        }
        return {key: value for key, value in described.items() if value is not None}

    def run(self, machine: Machine) -> None:
        """Start the process and follow it to its end, in a thread of its own."""
        threading.Thread(target=self._run, args=(machine,), daemon=True, name=f"task {self.id}").start()

    def stop(self, reason: str, code: str = "UserInitiated") -> None:
        """Ask the process to end (SIGTERM), and make it end after the stop timeout; returns at once."""
        if self.desired_status == "STOPPED":
            return
        self.desired_status, self.stopped_reason, self.stop_code = "STOPPED", reason, code
        threading.Thread(target=self._stop, daemon=True, name=f"stop task {self.id}").start()

    def kill(self) -> None:
        """End the process now."""
        self.desired_status = "STOPPED"
        if self.process is not None:
            _signal(self.process, signal.SIGKILL)

    def _stop(self) -> None:
        if self.process is None:
            return
        _signal(self.process, signal.SIGTERM)
        timeout = float(self.container.get("stopTimeout") or _DEFAULT_STOP_TIMEOUT)
        if not self.done.wait(timeout):
            _signal(self.process, signal.SIGKILL)

    def _run(self, machine: Machine) -> None:
        log = None
        try:
            self.status = "PENDING"
            environment = self._environment(machine)
            log = self._log(machine)
            if self.desired_status == "STOPPED":
                return
            self.process = subprocess.Popen(
                self._command(machine),
                cwd=machine.container,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C must not reach it before the ordered stop
            )
            _remember(machine.pids, self.process)
            if self.desired_status == "STOPPED":  # asked to stop while it was being started
                threading.Thread(target=self._stop, daemon=True).start()
            self.status, self.started = "RUNNING", datetime.now(timezone.utc)
            assert self.process.stdout is not None  # noqa: S101 - it was asked for above
            for line in self.process.stdout:
                text = line.decode(errors="replace").rstrip("\n")
                self.last_lines.append(text)
                log.write(text)
            code = self.process.wait()
            self.exit_code = code if code >= 0 else 128 - code  # as a container reports a signal
            if self.desired_status != "STOPPED":
                self.stopped_reason = "Essential container in task exited"
                self.stop_code = "EssentialContainerExited"
        except Exception as error:  # whatever it is, the task has to say so
            self.stopped_reason, self.stop_code = str(error), "TaskFailedToStart"
        finally:
            if log is not None:
                log.close()
            if self.process is not None:
                (machine.pids / str(self.process.pid)).unlink(missing_ok=True)
            self.desired_status = self.status = "STOPPED"
            self.stopped = datetime.now(timezone.utc)
            self.done.set()

    def _command(self, machine: Machine) -> list[str]:
        container = self.container
        entry_point = container.get("entryPoint") or ["python", "-m", "tracking_server"]
        command = [*entry_point, *(container.get("command") or _DEFAULT_COMMAND)]
        return [str(machine.python) if command[0] == "python" else command[0], *command[1:]]

    def _environment(self, machine: Machine) -> dict[str, str]:
        if not machine.python.exists():
            raise CannotStart(f"CannotStartContainerError: {machine.python} does not exist: run `make up`")
        container = self.container
        declared = {item["name"]: item["value"] for item in container.get("environment", [])}
        secrets = {item["name"]: self._secret(machine, item) for item in container.get("secrets", [])}
        environment = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
        environment |= {"HOME": str(machine.home), "PYTHONUNBUFFERED": "1"}
        environment |= declared | secrets
        environment["AWS_REGION"] = environment["AWS_DEFAULT_REGION"] = machine.region
        if role := self.definition.get("taskRoleArn"):
            environment["AWS_CONTAINER_CREDENTIALS_FULL_URI"] = machine.credentials(role)
        if container.get("portMappings"):
            self.port = free_port()
            environment |= {"MLFLOW_HOST": "127.0.0.1", "MLFLOW_PORT": str(self.port)}
        return environment | machine.variables(declared)

    def _secret(self, machine: Machine, item: Mapping[str, str]) -> str:
        source = item["valueFrom"]
        role = self._execution_role()
        try:
            if ":secretsmanager:" in source:
                parts = [*source.split(":"), "", ""]  # seven of the ARN, then JSON key, stage, version
                answer = machine.client("secretsmanager", role).get_secret_value(SecretId=":".join(parts[:7]))
                return str(
                    json.loads(answer["SecretString"])[parts[7]] if parts[7] else answer["SecretString"]
                )
            name = source.split(":parameter", 1)[-1]
            answer = machine.client("ssm", role).get_parameter(Name=name, WithDecryption=True)
            return str(answer["Parameter"]["Value"])
        except (ClientError, KeyError) as error:
            raise CannotStart(
                f"ResourceInitializationError: unable to pull secrets or registry auth: {item['name']}: {error}"
            ) from error

    def _log(self, machine: Machine) -> LogStream:
        settings = self.container.get("logConfiguration", {})
        options = settings.get("options", {})
        file = machine.logs / f"{self.container['name']}-{self.id}.log"
        if settings.get("logDriver") != "awslogs":
            return LogStream(file, None, "", "")
        stream = f"{options['awslogs-stream-prefix']}/{self.container['name']}/{self.id}"
        client = machine.client("logs", self._execution_role())
        try:
            client.create_log_stream(logGroupName=options["awslogs-group"], logStreamName=stream)
        except ClientError as error:
            raise CannotStart(
                "ResourceInitializationError: failed to validate logger args: "
                f"failed to create Cloudwatch log stream: {error}"
            ) from error
        return LogStream(file, client, options["awslogs-group"], stream)

    def _execution_role(self) -> str:
        role = self.definition.get("executionRoleArn")
        if role is None:
            raise CannotStart("the task definition has no execution role, which its logs and secrets need")
        return str(role)


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _remember(pids: Path, process: subprocess.Popen[bytes]) -> None:
    pids.mkdir(parents=True, exist_ok=True)
    (pids / str(process.pid)).write_text(_command_line(process.pid))


def _command_line(pid: int) -> str:
    command = ["ps", "-ww", "-p", str(pid), "-o", "command="]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def stop_leftovers(pids: Path) -> None:
    """End the processes of tasks that outlived an embedded AWS which was killed."""
    for file in pids.glob("*"):
        command = file.read_text()
        if command and _command_line(int(file.name)) == command:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(int(file.name), signal.SIGKILL)
        file.unlink()


def new_task_arn(cluster_arn: str) -> str:
    """The ARN of a new task of a cluster."""
    return f"{cluster_arn.replace(':cluster/', ':task/')}/{uuid.uuid4().hex}"
