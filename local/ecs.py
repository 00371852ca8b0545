"""ECS: tasks that are started on request, and services that keep their desired count of healthy ones."""

from __future__ import annotations

import threading
from typing import Any

from moto.applicationautoscaling.models import ApplicationAutoscalingBackend
from moto.ecs.models import EC2ContainerServiceBackend

from local.balancer import Balancers
from local.endpoint import CURRENT_CALL, ServiceError
from local.patches import Patches
from local.services import Service
from local.tasks import Machine, Task, new_task_arn

_PATIENCE_SECONDS = 4
Request = dict[str, Any]
Answer = dict[str, Any]


class Ecs:
    """The operations of ECS behind which something runs; clusters and task definitions are moto's.

    `client` gives an operator's boto3 client for a service.
    """

    def __init__(self, *, machine: Machine, balancers: Balancers, client: Any) -> None:
        self._machine, self._balancers, self._client = machine, balancers, client
        self._tasks: dict[str, Task] = {}
        self._tokens: dict[str, list[Task]] = {}
        self._services: dict[str, Service] = {}
        self._lock = threading.RLock()
        self._closing = False
        self.operations = {
            "RunTask": self.run_task,
            "StopTask": self.stop_task,
            "DescribeTasks": self.describe_tasks,
            "ListTasks": self.list_tasks,
            "CreateService": self.create_service,
            "UpdateService": self.update_service,
            "DeleteService": self.delete_service,
            "DescribeServices": self.describe_services,
            "ListServices": self.list_services,
        }

    def start(self, patches: Patches) -> None:
        """Let the doubles of other services see the services that run here."""

        def describe_services(backend: Any, cluster: str, names: list[str]) -> tuple[list[Any], list[Any]]:
            answer = self.describe_services({"cluster": cluster, "services": names})
            return answer["services"], answer["failures"]

        patches.replace(EC2ContainerServiceBackend, "describe_services", describe_services)
        patches.wrap(ApplicationAutoscalingBackend, "register_scalable_target", self._scalable)

    def close(self) -> None:
        """Drain the services, then stop every task, and return when all processes have ended."""
        self._closing = True
        tasks = list(self._tasks.values())
        try:
            for service in self._services.values():
                service.retire()
            for task in tasks:
                if not task.group.startswith("service:"):
                    task.stop("the embedded AWS is closing")
            for service in self._services.values():
                service.join()
            for task in tasks:
                task.done.wait()
        except BaseException:  # a second Ctrl-C: no more waiting, and still nothing left behind
            for task in tasks:
                task.kill()
            raise

    def _scalable(self, original: Any, backend: Any, *args: Any, **kwargs: Any) -> Any:
        """Application Auto Scaling brings a service within its limits at once."""
        target = original(backend, *args, **kwargs)
        if target.service_namespace == "ecs":
            cluster, name = target.resource_id.split("/")[1:]
            service = self._service({"cluster": cluster, "service": name})
            service.desired_count = min(max(service.desired_count, target.min_capacity), target.max_capacity)
        return target

    def run_task(self, request: Request) -> Answer:
        """Start tasks; the same client token gives the same tasks again."""
        token = request.get("clientToken")
        with self._lock:
            if token and token in self._tokens:
                tasks = self._tokens[token]
            else:
                cluster = self._cluster(request)
                definition = self._definition(request["taskDefinition"])
                if definition["networkMode"] == "awsvpc" and "networkConfiguration" not in request:
                    raise ServiceError(
                        "InvalidParameterException",
                        "Network Configuration must be provided when networkMode 'awsvpc' is specified.",
                    )
                tasks = [
                    self.launch(
                        cluster,
                        definition,
                        group=request.get("group") or f"family:{definition['family']}",
                        started_by=request.get("startedBy", ""),
                        overrides=request.get("overrides") or {},
                        tags=request.get("tags", []),
                    )
                    for _ in range(request.get("count", 1))
                ]
                if token:
                    self._tokens[token] = tasks
        return {"tasks": [task.describe() for task in tasks], "failures": []}

    def launch(self, cluster_arn: str, definition: dict[str, Any], **attributes: Any) -> Task:
        """Start a task of a definition."""
        if self._closing:
            raise ServiceError("ServerException", "the embedded AWS is closing")
        if len(definition["containerDefinitions"]) != 1:
            raise ServiceError("InvalidParameterException", "the embedded AWS runs tasks of one container")
        task = Task(
            arn=new_task_arn(cluster_arn), cluster_arn=cluster_arn, definition=definition, **attributes
        )
        self._tasks[task.arn] = task
        task.run(self._machine)
        return task

    def stop_task(self, request: Request) -> Answer:
        """Stop a task."""
        task = self._task(request["task"])
        task.stop(request.get("reason", "Task stopped by user"))
        return {"task": task.describe()}

    def describe_tasks(self, request: Request) -> Answer:
        """Tasks as they are; unknown ones are failures."""
        self._cluster(request)
        self._spare_functions_a_wait(request["tasks"])
        found, failures = [], []
        for name in request["tasks"]:
            try:
                found.append(self._task(name).describe())
            except ServiceError:
                failures.append({"arn": name, "reason": "MISSING"})
        return {"tasks": found, "failures": failures}

    def _spare_functions_a_wait(self, names: list[str]) -> None:
        # a function that waits for a task asks again after some seconds: an answer at its end saves most of them
        if "exec-env/AWS_Lambda" in CURRENT_CALL.get().request.user_agent.string:
            for task in [self._tasks[name] for name in names if name in self._tasks]:
                task.done.wait(_PATIENCE_SECONDS)

    def list_tasks(self, request: Request) -> Answer:
        """ARNs of a cluster's tasks, running ones unless asked otherwise."""
        cluster = self._cluster(request)
        wanted = request.get("desiredStatus", "RUNNING")
        service, family = request.get("serviceName"), request.get("family")
        group = f"service:{service.split('/')[-1]}" if service else None
        return {
            "taskArns": [
                task.arn
                for task in list(self._tasks.values())
                if task.cluster_arn == cluster
                and task.desired_status == wanted
                and group in (None, task.group)
                and family in (None, task.definition["family"])
            ]
        }

    def create_service(self, request: Request) -> Answer:
        """Create a service; its tasks start at once."""
        cluster = self._cluster(request)
        arn = f"{cluster.replace(':cluster/', ':service/')}/{request['serviceName']}"
        if arn in self._services and self._services[arn].status == "ACTIVE":
            raise ServiceError("InvalidParameterException", "Creation of service was not idempotent.")
        definition = self._definition(request["taskDefinition"])
        service = Service(
            arn=arn,
            cluster_arn=cluster,
            settings=request,
            definition=definition,
            launch=self.launch,
            balancers=self._balancers,
        )
        self._services[arn] = service
        service.start()
        return {"service": service.describe()}

    def update_service(self, request: Request) -> Answer:
        """Change a service; another task definition rolls out."""
        service = self._service(request)
        if service.status != "ACTIVE":
            raise ServiceError("ServiceNotActiveException", "Service was not ACTIVE.")
        name = request.get("taskDefinition")
        service.update(request, self._definition(name) if name else None)
        return {"service": service.describe()}

    def delete_service(self, request: Request) -> Answer:
        """Drain and stop a service's tasks; it is INACTIVE when they are gone."""
        service = self._service(request)
        if service.desired_count and not request.get("force"):
            raise ServiceError(
                "InvalidParameterException", "The service cannot be stopped while it is scaled above 0."
            )
        service.retire()
        return {"service": service.describe()}

    def describe_services(self, request: Request) -> Answer:
        """Services as they are; unknown ones are failures."""
        found, failures = [], []
        for name in request["services"]:
            try:
                found.append(self._service({**request, "service": name}).describe())
            except ServiceError as error:
                if error.code != "ServiceNotFoundException":
                    raise
                failures.append({"arn": name, "reason": "MISSING"})
        return {"services": found, "failures": failures}

    def list_services(self, request: Request) -> Answer:
        """ARNs of a cluster's services."""
        cluster = self._cluster(request)
        return {
            "serviceArns": [
                arn
                for arn, service in self._services.items()
                if service.cluster_arn == cluster and service.status != "INACTIVE"
            ]
        }

    def _task(self, name: str) -> Task:
        for arn, task in self._tasks.items():
            if name == arn or arn.endswith(f"/{name}"):
                return task
        raise ServiceError("InvalidParameterException", "The referenced task was not found.")

    def _service(self, request: Request) -> Service:
        cluster, name = self._cluster(request), request["service"].split("/")[-1]
        for service in self._services.values():
            if service.cluster_arn == cluster and service.name == name:
                return service
        raise ServiceError("ServiceNotFoundException", "Service not found.")

    def _cluster(self, request: Request) -> str:
        name = request.get("cluster", "default")
        clusters = self._client("ecs").describe_clusters(clusters=[name])["clusters"]
        if not clusters:
            raise ServiceError("ClusterNotFoundException", "Cluster not found.")
        return str(clusters[0]["clusterArn"])

    def _definition(self, name: str) -> dict[str, Any]:
        try:
            answer = self._client("ecs").describe_task_definition(taskDefinition=name)
        except Exception as error:
            raise ServiceError("ClientException", "Unable to describe task definition.") from error
        definition: dict[str, Any] = answer["taskDefinition"]
        if definition.get("status") == "INACTIVE":
            raise ServiceError("ClientException", "TaskDefinition is inactive")
        return definition
