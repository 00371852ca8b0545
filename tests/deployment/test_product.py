"""The product as deployed: what the stacks say is what the server gets, and it survives what happens to tasks."""

from __future__ import annotations

import concurrent.futures
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
import requests
from deployments import Deployment
from mlflow.entities import Metric
from mlflow_aws_iam import token

from local.aws import EmbeddedAws

BALANCER = "internal-mlflow.elb.example"


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Two tasks behind the balancer."""
    directory = tmp_path_factory.mktemp("product")
    with EmbeddedAws(directory=directory, region="us-east-1", balancer_name=BALANCER) as aws:
        deployment = Deployment(aws, directory, name="mlflow-product", tracking_server={"min_tasks": 2})
        deployment.cdk.bootstrap()
        deployment.deploy()
        scale(deployment, 2)
        yield deployment


@pytest.fixture(scope="module")
def uri(product: Deployment) -> str:
    """The balancer's listener on this machine; its own name is no name of this machine's."""
    return f"http://localhost:{product.settings['front']['port']}"


@pytest.fixture
def scientist(product: Deployment, monkeypatch: pytest.MonkeyPatch) -> str:
    """A data scientist's token for the server under the balancer's own name."""
    for name, value in product.variables("DataScientist").items():
        monkeypatch.setenv(name, value)
    return token(product.outputs["TrackingUri"], allow_http=True)


@pytest.fixture
def client(uri: str, scientist: str, monkeypatch: pytest.MonkeyPatch) -> mlflow.MlflowClient:
    """The stock client, which names the balancer as its host, as it would on AWS."""
    monkeypatch.delenv("MLFLOW_TRACKING_AUTH")  # it would sign for the name of this machine
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", scientist)
    monkeypatch.setattr("mlflow.tracking.request_header.registry.resolve_request_headers", balancer_host)
    monkeypatch.setattr("mlflow.utils.rest_utils.resolve_request_headers", balancer_host, raising=False)
    return mlflow.MlflowClient(uri)


def balancer_host(*_: Any) -> dict[str, str]:
    return {"Host": BALANCER}


def service(product: Deployment) -> dict[str, str]:
    [cluster] = product.resources("tracking-server", "AWS::ECS::Cluster")
    [name] = product.resources("tracking-server", "AWS::ECS::Service")
    return {"cluster": cluster, "service": name}


def running_tasks(product: Deployment) -> list[str]:
    where = service(product)
    arns: list[str] = product.aws.client("ecs").list_tasks(
        cluster=where["cluster"], serviceName=where["service"], desiredStatus="RUNNING"
    )["taskArns"]
    return arns


def scale(product: Deployment, count: int) -> None:
    ecs = product.aws.client("ecs")
    where = service(product)
    ecs.update_service(**where, desiredCount=count)
    ecs.get_waiter("services_stable").wait(
        cluster=where["cluster"], services=[where["service"]], WaiterConfig={"Delay": 1, "MaxAttempts": 180}
    )


def container(product: Deployment) -> tuple[dict[str, Any], dict[str, Any]]:
    """The deployed task definition of the server, and its container."""
    found = product.aws.client("ecs").describe_task_definition(taskDefinition=product.task_definition())
    definition: dict[str, Any] = found["taskDefinition"]
    return definition, definition["containerDefinitions"][0]


def run_once(product: Deployment, definition: dict[str, Any], variables: dict[str, str]) -> tuple[int, str]:
    """The exit code and log of one task of a changed definition."""
    ecs = product.aws.client("ecs")
    [original] = definition["containerDefinitions"]
    environment = [{"name": name, "value": value} for name, value in variables.items()]
    registered = ecs.register_task_definition(
        family=f"{definition['family']}-changed",
        taskRoleArn=definition["taskRoleArn"],
        executionRoleArn=definition["executionRoleArn"],
        networkMode="awsvpc",
        requiresCompatibilities=["FARGATE"],
        cpu=definition["cpu"],
        memory=definition["memory"],
        containerDefinitions=[{**original, "environment": environment}],
    )["taskDefinition"]
    cluster = service(product)["cluster"]
    [subnet, *_] = product.resources("network", "AWS::EC2::Subnet")
    [task] = ecs.run_task(
        cluster=cluster,
        taskDefinition=registered["taskDefinitionArn"],
        launchType="FARGATE",
        networkConfiguration={"awsvpcConfiguration": {"subnets": [subnet]}},
    )["tasks"]
    ecs.get_waiter("tasks_stopped").wait(
        cluster=cluster, tasks=[task["taskArn"]], WaiterConfig={"Delay": 1, "MaxAttempts": 120}
    )
    [stopped] = ecs.describe_tasks(cluster=cluster, tasks=[task["taskArn"]])["tasks"]
    [log] = (product.aws.directory / "logs").glob(f"*{task['taskArn'].rpartition('/')[2]}.log")
    return stopped["containers"][0]["exitCode"], log.read_text()


def test_every_variable_of_the_task_definition_is_needed(product: Deployment) -> None:
    definition, server = container(product)
    variables = {item["name"]: item["value"] for item in server["environment"]}
    assert len(variables) > 10
    # without it the record of decisions goes to standard output
    for name in variables.keys() - {"ACCESS_AUDIT_LOG_GROUP"}:
        rest = {key: value for key, value in variables.items() if key != name}
        code, log = run_once(product, definition, rest)
        assert code == 2, f"the server started without {name}:\n{log}"
        assert f"missing environment variables: {name}" in log


def test_the_secrets_need_the_rights_that_the_stack_grants(product: Deployment) -> None:
    definition, server = container(product)
    iam = product.aws.client("iam")
    role = definition["taskRoleArn"].rpartition("/")[2]
    attached = iam.list_attached_role_policies(RoleName=role)["AttachedPolicies"]
    variables = {item["name"]: item["value"] for item in server["environment"]}
    for policy in attached:
        iam.detach_role_policy(RoleName=role, PolicyArn=policy["PolicyArn"])
    try:
        code, log = run_once(product, definition, variables)
    finally:
        for policy in attached:
            iam.attach_role_policy(RoleName=role, PolicyArn=policy["PolicyArn"])
    assert code == 1
    assert "is not authorized to perform: secretsmanager:GetSecretValue" in log


@pytest.mark.parametrize(
    ("host", "path", "status"),
    [
        (BALANCER, "/", 200),
        (f"{BALANCER}:80", "/version", 200),
        (BALANCER, "/api/2.0/mlflow/experiments/get?experiment_id=0", 200),
        ("evil.example", "/", 403),
        ("evil.example", "/api/2.0/mlflow/experiments/get?experiment_id=0", 403),
        ("localhost", "/api/2.0/mlflow/experiments/get?experiment_id=0", 403),
        ("evil.example", "/health", 200),
    ],
)
def test_only_the_balancers_own_host_name_is_served(
    uri: str, scientist: str, host: str, path: str, status: int
) -> None:
    headers = {"Host": host, "Authorization": f"Bearer {scientist}"}
    assert requests.get(f"{uri}{path}", headers=headers, timeout=30).status_code == status


def test_nobody_is_served_without_an_identity(uri: str) -> None:
    answer = requests.get(
        f"{uri}/api/2.0/mlflow/experiments/get?experiment_id=0", headers={"Host": BALANCER}, timeout=30
    )
    assert answer.status_code == 401


def test_decisions_are_recorded_in_the_audit_log(product: Deployment, client: mlflow.MlflowClient) -> None:
    client.search_experiments()
    [group] = product.resources("access", "AWS::Logs::LogGroup")
    deadline = time.monotonic() + 30
    while True:
        events = product.aws.client("logs").filter_log_events(logGroupName=group)["events"]
        lines = [json.loads(event["message"]) for event in events]
        found = [line for line in lines if "sagemaker-mlflow:SearchExperiments" in line["actions"]]
        if found:
            break
        assert time.monotonic() < deadline, "the decision is not in the audit log"
        time.sleep(0.5)
    assert found[-1]["decision"] == "allow"
    assert found[-1]["resource"] == product.outputs["TrackingServerArn"]


def test_a_browser_on_the_balancers_name_may_post_and_one_from_elsewhere_may_not(
    product: Deployment, uri: str, scientist: str
) -> None:
    search = f"{uri}/ajax-api/2.0/mlflow/experiments/search"
    origin = product.outputs["TrackingUri"]
    for sent, status in ((origin, 200), ("http://evil.example", 403)):
        answer = requests.post(
            search,
            json={"max_results": 1},
            headers={"Host": BALANCER, "Origin": sent, "Authorization": f"Bearer {scientist}"},
            timeout=30,
        )
        assert answer.status_code == status


def test_what_one_task_wrote_the_other_reads(product: Deployment, client: mlflow.MlflowClient) -> None:
    assert len(running_tasks(product)) == 2
    experiment = client.create_experiment("two tasks")
    run = client.create_run(experiment).info.run_id
    for step in range(20):  # requests alternate between the tasks
        client.log_metric(run, "loss", 1 / (step + 1), step=step)
        assert client.get_run(run).data.metrics["loss"] == pytest.approx(1 / (step + 1))
    assert len(client.get_metric_history(run, "loss")) == 20


def test_a_lost_task_loses_nothing_that_was_acknowledged(
    product: Deployment, client: mlflow.MlflowClient
) -> None:
    run = client.create_run(client.create_experiment("lost task")).info.run_id
    before = set(running_tasks(product))

    def log(step: int) -> bool:
        try:
            client.log_batch(run, metrics=[Metric("loss", float(step), int(time.time() * 1000), step)])
        except mlflow.MlflowException:
            return False
        return True

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        results = pool.map(log, range(120))
        product.aws.client("ecs").stop_task(cluster=service(product)["cluster"], task=min(before))
        acknowledged = [step for step, done in enumerate(results) if done]
    kept = {metric.step for metric in client.get_metric_history(run, "loss")}
    assert set(acknowledged) <= kept
    assert len(acknowledged) == 120, "the client retries what a dying task refuses"

    deadline = time.monotonic() + 60
    while len(set(running_tasks(product)) - {min(before)}) < 2:
        assert time.monotonic() < deadline, "the service did not replace the task"
        time.sleep(0.5)


def test_a_large_artifact_streams_through_the_balancer(
    client: mlflow.MlflowClient, uri: str, tmp_path: Path
) -> None:
    run = client.create_run("0").info.run_id
    file = tmp_path / "model.bin"
    file.write_bytes(os.urandom(1 << 20) * 64)
    client.log_artifact(run, str(file))
    fetched = client.download_artifacts(run, "model.bin", str(tmp_path / "fetched"))
    assert Path(fetched).read_bytes() == file.read_bytes()


def test_no_secret_shows_in_processes_logs_or_templates(product: Deployment) -> None:
    secrets = product.aws.client("secretsmanager")
    values = set()
    for secret in secrets.list_secrets()["SecretList"]:
        document = json.loads(secrets.get_secret_value(SecretId=secret["ARN"])["SecretString"])
        values |= {str(value) for key, value in document.items() if key != "username"}
    assert len(values) >= 2
    places = {
        str(path): path.read_bytes()
        for path in [
            *(product.aws.directory / "logs").glob("*"),
            *(product.aws.directory / "cdk.out").glob("*.json"),
            *Path("/proc").glob("[0-9]*/cmdline"),
        ]
        if path.is_file()
    }
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if process.name != str(os.getpid()):
                places[str(process / "environ")] = (process / "environ").read_bytes()
        except OSError:
            continue  # it has ended
    assert any(path.endswith(".log") for path in places)
    for value in values:
        assert [path for path, content in places.items() if value.encode() in content] == []
