"""An ECS service: keeps its tasks running, and rolls to a new task definition without losing a request."""

from __future__ import annotations

import math
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from local.balancer import Balancers
from local.tasks import Task

_TICK = 0.1
# https://docs.aws.amazon.com/AmazonECS/latest/developerguide/deployment-circuit-breaker.html
_FEWEST_FAILURES, _MOST_FAILURES = 3, 200
_EVENTS = 100


@dataclass
class Deployment:
    """One rollout of a task definition."""

    definition: dict[str, Any]
    id: str = field(default_factory=lambda: f"ecs-svc/{uuid.uuid4().int % 10**19:019d}")
    state: str = "IN_PROGRESS"
    reason: str = ""
    failures: int = 0
    tasks: list[Task] = field(default_factory=list)
    created: datetime = field(default_factory=lambda: datetime.now(timezone.utc))
    next_launch: float = 0.0
    launches: int = 0

    def __post_init__(self) -> None:
        self.reason = self.reason or f"ECS deployment {self.id} in progress."


class Service:
    """A service of the REPLICA strategy with rolling deployments; one thread of its own looks after it.

    `settings` is the CreateService request; `launch` starts a task.
    """

    def __init__(
        self,
        *,
        arn: str,
        cluster_arn: str,
        settings: dict[str, Any],
        definition: dict[str, Any],
        launch: Callable[..., Task],
        balancers: Balancers,
    ) -> None:
        self.arn, self.cluster_arn = arn, cluster_arn
        self.name = arn.rsplit("/", 1)[1]
        self.settings = dict(settings)
        self.desired_count: int = settings.get("desiredCount", 1)
        self.status = "ACTIVE"
        self._launch, self._balancers = launch, balancers
        self._deployments = [Deployment(definition)]  # the primary one first
        self._settled: Deployment | None = None  # the last that reached its steady state
        self._leaving: list[threading.Thread] = []
        self._events: list[dict[str, Any]] = []
        self._created = datetime.now(timezone.utc)
        self._lock = threading.RLock()
        self._thread = threading.Thread(target=self._run, daemon=True, name=f"service {self.name}")

    def start(self) -> None:
        """Begin to look after the tasks."""
        self._thread.start()

    def update(self, request: dict[str, Any], definition: dict[str, Any] | None) -> None:
        """Apply an UpdateService request; a new task definition starts a deployment."""
        with self._lock:
            self.settings.update({key: value for key, value in request.items() if value is not None})
            self.desired_count = request.get("desiredCount", self.desired_count)
            primary = self._deployments[0]
            self._deployments = [item for item in self._deployments if item.state != "FAILED" or item.tasks]
            current = primary.definition["taskDefinitionArn"]
            wanted = (definition or primary.definition)["taskDefinitionArn"]
            if request.get("forceNewDeployment") or wanted != current:
                self._deploy(Deployment(definition or primary.definition))
            elif primary.state == "COMPLETED":
                primary.state = "IN_PROGRESS"  # until the desired count runs again

    def retire(self) -> None:
        """Begin to stop all tasks, drained; the service is INACTIVE when they are gone."""
        with self._lock:
            if self.status == "ACTIVE":
                self.status, self.desired_count = "DRAINING", 0

    def join(self) -> None:
        """Wait until a retired service is INACTIVE."""
        self._thread.join()

    def describe(self) -> dict[str, Any]:
        """The service as DescribeServices returns it."""
        with self._lock:
            deployments = [
                {
                    "id": item.id,
                    "status": "PRIMARY" if number == 0 else "ACTIVE",
                    "taskDefinition": item.definition["taskDefinitionArn"],
                    "desiredCount": self.desired_count if number == 0 else 0,
                    "runningCount": len(_running(item)),
                    "pendingCount": len(item.tasks) - len(_running(item)),
                    "failedTasks": item.failures,
                    "rolloutState": item.state,
                    "rolloutStateReason": item.reason,
                    "createdAt": item.created,
                    "updatedAt": item.created,
                    "launchType": "FARGATE",
                }
                for number, item in enumerate(self._deployments)
            ]
            copied = (
                "loadBalancers",
                "deploymentConfiguration",
                "networkConfiguration",
                "healthCheckGracePeriodSeconds",
                "schedulingStrategy",
                "propagateTags",
                "enableExecuteCommand",
                "tags",
            )
            return {
                **{key: self.settings[key] for key in copied if key in self.settings},
                "serviceArn": self.arn,
                "serviceName": self.name,
                "clusterArn": self.cluster_arn,
                "status": self.status,
                "desiredCount": self.desired_count,
                "runningCount": sum(item["runningCount"] for item in deployments),
                "pendingCount": sum(item["pendingCount"] for item in deployments),
                "launchType": "FARGATE",
                "taskDefinition": self._deployments[0].definition["taskDefinitionArn"],
                "deployments": deployments,
                "events": self._events[::-1],
                "createdAt": self._created,
            }

    # --- what the thread does

    def _run(self) -> None:
        while True:
            with self._lock:
                self._reap()
                self._fill()
                self._shrink()
                self._conclude()
                gone = not any(item.tasks for item in self._deployments) and not self._leaving
                if self.status == "DRAINING" and gone:
                    self.status, self._deployments = "INACTIVE", self._deployments[:1]
                    return
            time.sleep(_TICK)

    def _reap(self) -> None:
        """Notice tasks that ended or fail their health checks."""
        self._leaving = [thread for thread in self._leaving if thread.is_alive()]
        for deployment in self._deployments:
            for task in list(deployment.tasks):
                if task.status == "STOPPED":
                    deployment.tasks.remove(task)
                    self._leave(task)
                    self._failed(deployment, task, task.stopped_reason)
                elif task.status == "RUNNING":
                    self._enter(task)
                    problem = self._unhealthy(task)
                    if problem:
                        deployment.tasks.remove(task)
                        self._leave(task, problem)
                        self._failed(deployment, task, problem)

    def _fill(self) -> None:
        """Start what the primary deployment lacks, within the upper limit."""
        primary = self._deployments[0]
        total = sum(len(item.tasks) for item in self._deployments)
        upper = math.floor(self.desired_count * self._limit("maximumPercent", 200) / 100)
        wanting = primary.state != "FAILED" and time.monotonic() >= primary.next_launch
        if wanting and len(primary.tasks) < self.desired_count and total < max(upper, 1):
            task = self._launch(
                self.cluster_arn,
                primary.definition,
                group=f"service:{self.name}",
                started_by=primary.id,
            )
            primary.tasks.append(task)
            primary.launches += 1
            self._event(f"(service {self.name}) has started 1 tasks: (task {task.id}).")

    def _shrink(self) -> None:
        """Stop what is too much or of an older deployment, within the lower limit of healthy tasks."""
        primary = self._deployments[0]
        lower = math.ceil(self.desired_count * self._limit("minimumHealthyPercent", 100) / 100)
        healthy = sum(1 for item in self._deployments for task in item.tasks if self._healthy(task))
        surplus = [(primary, task) for task in primary.tasks[self.desired_count :]]
        old = [(item, task) for item in self._deployments[1:] for task in item.tasks]
        for deployment, task in [*surplus, *old]:
            if self._healthy(task):
                if healthy - 1 < lower:
                    continue
                healthy -= 1
            deployment.tasks.remove(task)
            self._leave(task, "Scaling activity initiated by deployment")

    def _conclude(self) -> None:
        primary = self._deployments[0]
        ready = len(primary.tasks) == self.desired_count and all(map(self._healthy, primary.tasks))
        others = [item for item in self._deployments[1:] if item.tasks or item.state == "FAILED"]
        if ready and not any(item.tasks for item in others) and primary.state == "IN_PROGRESS":
            primary.state = "COMPLETED"
            primary.reason = f"ECS deployment {primary.id} completed."
            self._settled = primary
            self._event(f"(service {self.name}) has reached a steady state.")
        self._deployments = [primary, *others]

    def _failed(self, deployment: Deployment, task: Task, reason: str) -> None:
        """Count a task that a deployment lost, and let the circuit breaker judge."""
        said = "\n".join(task.last_lines)
        code = f" (exit code {task.exit_code})" if task.exit_code is not None else ""
        self._event(f"(service {self.name}) (task {task.id}) stopped: {reason}{code}")
        deployment.next_launch = time.monotonic() + min(2.0 ** min(deployment.failures, 4) - 1, 10)
        if self.status != "ACTIVE" or deployment.state != "IN_PROGRESS":
            return
        deployment.failures += 1
        breaker = self.settings.get("deploymentConfiguration", {}).get("deploymentCircuitBreaker", {})
        threshold = min(max(_FEWEST_FAILURES, math.ceil(self.desired_count / 2)), _MOST_FAILURES)
        if not breaker.get("enable") or deployment.failures < threshold:
            return
        deployment.state = "FAILED"
        deployment.reason = (
            "ECS Deployment Circuit Breaker was triggered: tasks failed to start. "
            f"The last one: {reason}{code}" + (f"\n{said}" if said else "")
        )
        self._event(
            f"(service {self.name}) deployment {deployment.id} deployment failed: tasks failed to start."
        )
        last = self._settled
        if breaker.get("rollback") and last is not None and last is not deployment:
            self._deploy(Deployment(last.definition, tasks=last.tasks))
            last.tasks = []

    def _deploy(self, deployment: Deployment) -> None:
        # an older deployment that never settled has nothing to tell any more
        self._deployments = [deployment, *self._deployments]
        self._event(f"(service {self.name}) has begun deployment {deployment.id}.")

    # --- targets of the load balancer

    def _target_groups(self) -> list[str]:
        return [item["targetGroupArn"] for item in self.settings.get("loadBalancers", [])]

    def _enter(self, task: Task) -> None:
        for group in self._target_groups():
            if self._balancers.health(group, "127.0.0.1", task.port) is None:
                self._balancers.register(group, "127.0.0.1", task.port)

    def _leave(self, task: Task, reason: str | None = None) -> None:
        """Take a task out of its target groups, drained, and then stop it."""

        def leave() -> None:
            for group in self._target_groups():
                self._balancers.deregister(group, "127.0.0.1", task.port)
            if reason is not None:
                task.stop(reason, "ServiceSchedulerInitiated")
                task.done.wait()

        thread = threading.Thread(target=leave, daemon=True, name=f"drain {task.id}")
        thread.start()
        self._leaving.append(thread)

    def _healthy(self, task: Task) -> bool:
        if task.status != "RUNNING":
            return False
        found = [self._balancers.health(group, "127.0.0.1", task.port) for group in self._target_groups()]
        return all(target is not None and target.state == "healthy" for target in found)

    def _unhealthy(self, task: Task) -> str | None:
        """Why a task has to be replaced, if it has."""
        grace = float(self.settings.get("healthCheckGracePeriodSeconds", 0))
        age = (datetime.now(timezone.utc) - (task.started or task.created)).total_seconds()
        for group in self._target_groups():
            target = self._balancers.health(group, "127.0.0.1", task.port)
            # one that was never healthy gets its grace period, and the checks that would make it unhealthy
            patience = grace + self._balancers.patience(group)
            late = target is not None and target.state == "initial" and target.failed and age > patience
            if target is not None and (late or (target.state == "unhealthy" and age > grace)):
                return f"Task failed ELB health checks in (target-group {group}): {target.reason}"
        return None

    def _limit(self, name: str, default: int) -> int:
        return int(self.settings.get("deploymentConfiguration", {}).get(name, default))

    def _event(self, message: str) -> None:
        now = datetime.now(timezone.utc)
        self._events.append({"id": str(uuid.uuid4()), "createdAt": now, "message": message})
        del self._events[:-_EVENTS]


def _running(deployment: Deployment) -> list[Task]:
    return [task for task in deployment.tasks if task.status == "RUNNING"]
