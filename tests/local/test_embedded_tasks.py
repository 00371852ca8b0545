"""ECS: what a task definition says is what the process gets, and services keep and roll their tasks."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest
import requests
from botocore.exceptions import ClientError
from conftest import eventually

from local.aws import ACCOUNT, EmbeddedAws
from local.database import free_port

LOGS = {"Effect": "Allow", "Action": "logs:*", "Resource": "*"}
SECRET = {"Effect": "Allow", "Action": "secretsmanager:GetSecretValue", "Resource": "*"}


class Cluster:
    """A cluster, roles and task definitions for it."""

    def __init__(self, aws: EmbeddedAws) -> None:
        self.aws = aws
        self.ecs = aws.client("ecs")
        self.ecs.create_cluster(clusterName="cluster")
        aws.client("logs").create_log_group(logGroupName="tasks")
        self.secret = aws.client("secretsmanager").create_secret(
            Name="words", SecretString=json.dumps({"first": "hush", "second": 'with "quotes" and $igns'})
        )["ARN"]
        self.execution_role = self.role("execution", LOGS, SECRET)
        self.task_role = self.role("task", {"Effect": "Allow", "Action": "s3:List*", "Resource": "*"})
        ec2 = aws.client("ec2")
        vpc = ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
        subnets = ec2.describe_subnets(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["Subnets"]
        self.vpc, self.subnets = vpc, [subnet["SubnetId"] for subnet in subnets][:2]
        self.network = {"awsvpcConfiguration": {"subnets": self.subnets, "securityGroups": []}}

    def role(self, name: str, *statements: dict[str, Any], service: str = "ecs-tasks.amazonaws.com") -> str:
        iam = self.aws.client("iam")
        trust = {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"Service": service}}
        document = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
        created = iam.create_role(RoleName=name, AssumeRolePolicyDocument=document)["Role"]["Arn"]
        if statements:
            policy = json.dumps({"Version": "2012-10-17", "Statement": statements})
            iam.put_role_policy(RoleName=name, PolicyName="p", PolicyDocument=policy)
        return str(created)

    def define(self, family: str, code: str, **container: Any) -> str:
        """A task definition whose container runs a piece of Python."""
        definition = {
            "name": "main",
            "image": f"{ACCOUNT}.dkr.ecr.eu-central-1.amazonaws.com/kit:tag",
            "essential": True,
            "entryPoint": ["python", "-c"],
            "command": [code],
            "stopTimeout": 2,
            "logConfiguration": {
                "logDriver": "awslogs",
                "options": {"awslogs-group": "tasks", "awslogs-stream-prefix": family, "awslogs-region": "x"},
            },
            **container,
        }
        return str(
            self.ecs.register_task_definition(
                family=family,
                requiresCompatibilities=["FARGATE"],
                networkMode="awsvpc",
                cpu="256",
                memory="512",
                taskRoleArn=self.task_role,
                executionRoleArn=container.pop("role", self.execution_role),
                containerDefinitions=[{key: value for key, value in definition.items() if key != "role"}],
            )["taskDefinition"]["taskDefinitionArn"]
        )

    def run(self, definition: str, **arguments: Any) -> str:
        answer = self.ecs.run_task(
            cluster="cluster",
            taskDefinition=definition,
            launchType="FARGATE",
            networkConfiguration=self.network,
            **arguments,
        )
        return str(answer["tasks"][0]["taskArn"])

    def task(self, arn: str) -> dict[str, Any]:
        [task] = self.ecs.describe_tasks(cluster="cluster", tasks=[arn])["tasks"]
        return dict(task)

    def stopped(self, arn: str) -> dict[str, Any]:
        def found() -> dict[str, Any] | None:
            task = self.task(arn)
            return task if task["lastStatus"] == "STOPPED" else None

        return dict(eventually(found))

    def lines(self, family: str, arn: str) -> list[str]:
        events = self.aws.client("logs").get_log_events(
            logGroupName="tasks", logStreamName=f"{family}/main/{arn.rsplit('/', 1)[1]}"
        )["events"]
        return [event["message"] for event in events]


@pytest.fixture(scope="module")
def cluster(aws: EmbeddedAws) -> Cluster:
    return Cluster(aws)


def test_task_gets_what_its_definition_says(cluster: Cluster) -> None:
    code = """
import boto3, json, os
print(json.dumps(dict(os.environ)))
print(boto3.client("sts").get_caller_identity()["Arn"])
raise SystemExit(7)
"""
    definition = cluster.define(
        "says",
        code,
        environment=[{"name": "PLAIN", "value": "a b"}, {"name": "OVER", "value": "definition"}],
        secrets=[
            {"name": "FIRST", "valueFrom": f"{cluster.secret}:first::"},
            {"name": "WHOLE", "valueFrom": cluster.secret},
        ],
    )
    override = {"name": "main", "environment": [{"name": "OVER", "value": "run"}]}
    arn = cluster.run(definition, overrides={"containerOverrides": [override]})
    task = cluster.stopped(arn)
    assert task["containers"][0]["exitCode"] == 7
    assert (task["stopCode"], task["stoppedReason"]) == (
        "EssentialContainerExited",
        "Essential container in task exited",
    )
    environment, identity = cluster.lines("says", arn)
    values = json.loads(environment)
    assert (values["PLAIN"], values["OVER"], values["FIRST"]) == ("a b", "run", "hush")
    assert json.loads(values["WHOLE"])["second"] == 'with "quotes" and $igns'
    assert "AWS_SECRET_ACCESS_KEY" not in values
    assert f":{ACCOUNT}:assumed-role/task/" in identity


def test_same_client_token_is_the_same_task(cluster: Cluster) -> None:
    definition = cluster.define("token", "pass")
    assert cluster.run(definition, clientToken="t") == cluster.run(definition, clientToken="t")
    assert cluster.run(definition, clientToken="u") != cluster.run(definition, clientToken="v")


def test_stop_asks_and_then_insists(cluster: Cluster) -> None:
    polite = (
        "import signal, sys, time\nsignal.signal(15, lambda *_: sys.exit(0))\nprint('up')\ntime.sleep(60)"
    )
    deaf = "import signal, time\nsignal.signal(15, signal.SIG_IGN)\nprint('up')\ntime.sleep(60)"
    expected = {"polite": (polite, 0), "deaf": (deaf, 128 + signal.SIGKILL)}
    for family, (code, exit_code) in expected.items():
        arn = cluster.run(cluster.define(family, code))
        eventually(
            lambda family=family, arn=arn: (
                cluster.task(arn)["lastStatus"] == "RUNNING" and cluster.lines(family, arn)
            )
        )
        cluster.ecs.stop_task(cluster="cluster", task=arn, reason="enough")
        task = cluster.stopped(arn)
        assert (task["containers"][0]["exitCode"], task["stoppedReason"]) == (exit_code, "enough")


@pytest.mark.parametrize(
    ("container", "reason"),
    [
        ({"secrets": [{"name": "X", "valueFrom": "nothing"}]}, "unable to pull secrets"),
        (
            {
                "logConfiguration": {
                    "logDriver": "awslogs",
                    "options": {"awslogs-group": "none", "awslogs-stream-prefix": "p"},
                }
            },
            "failed to create Cloudwatch log stream",
        ),
        ({"entryPoint": ["no-such-program"]}, "No such file or directory"),
    ],
)
def test_task_that_cannot_start_says_why(cluster: Cluster, container: dict[str, Any], reason: str) -> None:
    task = cluster.stopped(cluster.run(cluster.define("cannot", "pass", **container)))
    assert task["stopCode"] == "TaskFailedToStart"
    assert reason in task["stoppedReason"]
    assert "exitCode" not in task["containers"][0]


def test_task_without_the_rights_does_not_start(cluster: Cluster) -> None:
    poor = cluster.role("poor", LOGS)
    secrets = [{"name": "FIRST", "valueFrom": f"{cluster.secret}:first::"}]
    task = cluster.stopped(cluster.run(cluster.define("poor", "pass", secrets=secrets, role=poor)))
    assert "is not authorized to perform: secretsmanager:GetSecretValue" in task["stoppedReason"]
    mute = cluster.role("mute", SECRET)
    task = cluster.stopped(cluster.run(cluster.define("mute", "pass", role=mute)))
    assert "is not authorized to perform: logs:CreateLogStream" in task["stoppedReason"]
    foreign = cluster.role("foreign", LOGS, service="lambda.amazonaws.com")
    task = cluster.stopped(cluster.run(cluster.define("foreign", "pass", role=foreign)))
    assert "cannot be assumed by ecs-tasks.amazonaws.com" in task["stoppedReason"]


def test_unknown_things_are_refused(cluster: Cluster) -> None:
    with pytest.raises(ClientError, match="ClusterNotFoundException"):
        cluster.ecs.list_tasks(cluster="none")
    with pytest.raises(ClientError, match="Unable to describe task definition"):
        cluster.run("none:1")
    with pytest.raises(ClientError, match="Network Configuration must be provided"):
        cluster.ecs.run_task(cluster="cluster", taskDefinition=cluster.define("network", "pass"))
    assert cluster.ecs.describe_tasks(cluster="cluster", tasks=["none"])["failures"]


# --- services behind a load balancer

SERVER = """
import http.server, os, signal, sys, threading
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = (os.environ["COLOUR"] + " " + str(os.getpid())).encode()
        self.send_response(int(os.environ.get("STATUS", "200")) if self.path == "/health" else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args): pass
if os.environ["COLOUR"] == "broken": sys.exit("no such colour")
server = http.server.ThreadingHTTPServer((os.environ["MLFLOW_HOST"], int(os.environ["MLFLOW_PORT"])), Handler)
signal.signal(15, lambda *_: threading.Thread(target=server.shutdown).start())
server.serve_forever()
"""


class Service:
    """A service with a load balancer."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        elbv2 = cluster.aws.client("elbv2")
        balancer = elbv2.create_load_balancer(Name="front", Subnets=cluster.subnets, Type="application")
        self.group = elbv2.create_target_group(
            Name="targets",
            Protocol="HTTP",
            Port=5000,
            VpcId=cluster.vpc,
            TargetType="ip",
            HealthCheckPath="/health",
            HealthCheckIntervalSeconds=5,
            UnhealthyThresholdCount=2,
        )["TargetGroups"][0]["TargetGroupArn"]
        port = free_port()
        elbv2.create_listener(
            LoadBalancerArn=balancer["LoadBalancers"][0]["LoadBalancerArn"],
            Protocol="HTTP",
            Port=port,
            DefaultActions=[{"Type": "forward", "TargetGroupArn": self.group}],
        )
        self.url = f"http://{balancer['LoadBalancers'][0]['DNSName']}:{port}"
        cluster.ecs.create_service(
            cluster="cluster",
            serviceName="service",
            taskDefinition=self.define("blue"),
            desiredCount=2,
            launchType="FARGATE",
            networkConfiguration=cluster.network,
            loadBalancers=[{"targetGroupArn": self.group, "containerName": "main", "containerPort": 5000}],
            deploymentConfiguration={
                "deploymentCircuitBreaker": {"enable": True, "rollback": True},
                "minimumHealthyPercent": 100,
                "maximumPercent": 200,
            },
        )

    def define(self, colour: str, **environment: str) -> str:
        values = {"COLOUR": colour, **environment}
        return self.cluster.define(
            "server",
            SERVER,
            environment=[{"name": name, "value": value} for name, value in values.items()],
            portMappings=[{"containerPort": 5000}],
        )

    def describe(self) -> dict[str, Any]:
        answer = self.cluster.ecs.describe_services(cluster="cluster", services=["service"])
        return dict(answer["services"][0])

    def update(self, **arguments: Any) -> None:
        self.cluster.ecs.update_service(cluster="cluster", service="service", **arguments)

    def settled(self) -> bool:
        return [item["rolloutState"] for item in self.describe()["deployments"]] == ["COMPLETED"]

    def seen(self, requests_to_make: int = 8) -> set[str]:
        return {requests.get(self.url, timeout=10).text for _ in range(requests_to_make)}

    def tasks(self) -> list[str]:
        answer = self.cluster.ecs.list_tasks(cluster="cluster", serviceName="service")
        return list(answer["taskArns"])


@pytest.fixture(scope="module")
def service(cluster: Cluster) -> Service:
    made = Service(cluster)
    eventually(made.settled)
    return made


def colours(seen: set[str]) -> set[str]:
    return {item.split()[0] for item in seen}


def test_service_spreads_requests_over_its_tasks(service: Service) -> None:
    assert len(service.seen()) == 2
    described = service.describe()
    assert (described["runningCount"], described["status"]) == (2, "ACTIVE")
    health = service.cluster.aws.client("elbv2").describe_target_health(TargetGroupArn=service.group)
    assert [item["TargetHealth"]["State"] for item in health["TargetHealthDescriptions"]] == ["healthy"] * 2


def test_stopped_task_is_replaced(service: Service) -> None:
    before = service.tasks()
    service.cluster.ecs.stop_task(cluster="cluster", task=before[0], reason="test")
    eventually(lambda: len(set(service.tasks()) - {before[0]}) == 2 and len(service.seen()) == 2)


def test_new_definition_rolls_without_losing_a_request(service: Service) -> None:
    service.update(taskDefinition=service.define("green"))
    answers = set()
    while not service.settled():
        answers |= colours(service.seen(4))
    assert answers <= {"blue", "green"}
    assert colours(service.seen()) == {"green"}
    assert len(service.tasks()) == 2


def test_broken_definition_trips_the_breaker_and_rolls_back(service: Service) -> None:
    good = service.describe()["taskDefinition"]
    service.update(taskDefinition=service.define("broken"))
    failed = eventually(
        lambda: [item for item in service.describe()["deployments"] if item["rolloutState"] == "FAILED"], 30
    )
    assert "Circuit Breaker was triggered" in failed[0]["rolloutStateReason"]
    assert "no such colour" in failed[0]["rolloutStateReason"]
    assert failed[0]["failedTasks"] == 3
    assert service.describe()["taskDefinition"] == good
    assert colours(service.seen()) == {"green"}
    service.update(taskDefinition=good)
    eventually(service.settled)


def test_tasks_that_fail_health_checks_do_not_take_over(service: Service) -> None:
    good = service.describe()["taskDefinition"]
    service.update(taskDefinition=service.define("red", STATUS="500"))
    eventually(
        lambda: any("ELB health checks" in event["message"] for event in service.describe()["events"]), 40
    )
    assert colours(service.seen()) == {"green"}
    service.update(taskDefinition=good)
    eventually(service.settled, 30)


def test_desired_count_is_kept(service: Service) -> None:
    service.update(desiredCount=1)
    eventually(lambda: len(service.tasks()) == 1 and service.settled())
    service.update(desiredCount=3)
    eventually(lambda: len(service.seen(12)) == 3 and service.settled())


def test_scaling_target_brings_the_count_within_its_limits(service: Service) -> None:
    scaling = service.cluster.aws.client("application-autoscaling")
    scaling.register_scalable_target(
        ServiceNamespace="ecs",
        ResourceId="service/cluster/service",
        ScalableDimension="ecs:service:DesiredCount",
        MinCapacity=1,
        MaxCapacity=2,
    )
    eventually(lambda: len(service.tasks()) == 2)
    assert service.describe()["desiredCount"] == 2


def test_service_is_deleted_when_its_tasks_are_gone(service: Service) -> None:
    with pytest.raises(ClientError, match="scaled above 0"):
        service.cluster.ecs.delete_service(cluster="cluster", service="service")
    service.cluster.ecs.delete_service(cluster="cluster", service="service", force=True)
    eventually(lambda: service.describe()["status"] == "INACTIVE")
    assert requests.get(service.url, timeout=10).status_code == 503
