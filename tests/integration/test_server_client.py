"""The stock MLflow client against the running server, its database and S3."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
import requests
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from server_process import REGION, Backend, Server

MEBIBYTE = 1024 * 1024


@pytest.fixture(scope="module")
def backend(migrated_backend: Backend) -> Backend:
    return migrated_backend


@pytest.fixture(scope="module")
def servers(backend: Backend, start_once: Callable[..., Any]) -> list[Server]:
    """Two servers of one database, as two tasks of a service, with two worker processes each."""
    servers = [start_once("serve", backend, MLFLOW_WORKERS="2") for _ in range(2)]
    return [server.wait_until_healthy() for server in servers]


@pytest.fixture
def client(servers: list[Server], monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    """A client with a tracking URI and nothing else: no rights on S3."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    mlflow.set_tracking_uri(servers[0].url)
    return MlflowClient(servers[0].url)


def test_run_with_a_thousand_metrics_by_batch(client: MlflowClient, servers: list[Server]) -> None:
    experiment = client.create_experiment("Umlaut-ä-和-🚀")
    run = client.create_run(experiment, tags={"emoji": "🐬"})
    metrics = [Metric(f"loss-{i % 10}", i / 7, 1700000000000 + i, i) for i in range(1000)]
    client.log_batch(
        run.info.run_id, metrics=metrics, params=[Param("lr", "0.1")], tags=[RunTag("kind", "batch")]
    )
    client.log_metric(run.info.run_id, "nan", float("nan"))
    client.set_terminated(run.info.run_id)

    elsewhere = MlflowClient(servers[1].url)
    read = elsewhere.get_run(run.info.run_id)
    assert read.info.status == "FINISHED"
    assert read.data.params == {"lr": "0.1"}
    assert read.data.tags["kind"] == "batch"
    assert read.data.tags["emoji"] == "🐬"
    assert sum(len(elsewhere.get_metric_history(run.info.run_id, f"loss-{i}")) for i in range(10)) == 1000
    found = elsewhere.search_runs([experiment], "metrics.`loss-9` > 142 and params.lr = '0.1'")
    assert [each.info.run_id for each in found] == [run.info.run_id]


def test_artifacts_through_the_server(
    client: MlflowClient, servers: list[Server], backend: Backend, tmp_path: Path
) -> None:
    run = client.create_run("0")
    assert run.info.artifact_uri.startswith("mlflow-artifacts:/")
    source = tmp_path / "größe & co.txt"
    source.write_text("hello")
    client.log_artifact(run.info.run_id, str(source), "a/b")

    elsewhere = MlflowClient(servers[1].url)
    assert [entry.path for entry in elsewhere.list_artifacts(run.info.run_id, "a/b")] == [
        f"a/b/{source.name}"
    ]
    copy = elsewhere.download_artifacts(run.info.run_id, f"a/b/{source.name}", str(tmp_path))
    assert Path(copy).read_text() == "hello"
    stored = backend.client("s3").list_objects_v2(Bucket=backend.name)["Contents"]
    assert any(entry["Key"].endswith(source.name) for entry in stored)

    url = f"{servers[0].url}/api/2.0/mlflow-artifacts/artifacts"
    assert requests.get(f"{url}/0/missing.txt", timeout=30).status_code == 404
    assert requests.get(f"{url}/..%2f..%2fetc/passwd", timeout=30).status_code == 400


def test_large_artifact_streams_through_the_server(
    client: MlflowClient, servers: list[Server], large_file: Path, tmp_path: Path
) -> None:
    before = {pid: peak_memory(pid) for pid in workers(servers[0])}
    run = client.create_run("0")
    client.log_artifact(run.info.run_id, str(large_file))
    copy = Path(client.download_artifacts(run.info.run_id, large_file.name, str(tmp_path)))
    assert digest(copy) == digest(large_file)
    for pid, peak in before.items():
        assert peak_memory(pid) - peak < 100 * MEBIBYTE, "the server held the artifact in memory"


def test_large_artifact_direct_to_s3(
    backend: Backend,
    start: Callable[..., Any],
    large_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = start("serve", backend, ARTIFACT_ACCESS="direct").wait_until_healthy()
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", backend.aws_endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    client = MlflowClient(server.url)
    run = client.create_run(client.create_experiment("direct"))
    assert run.info.artifact_uri.startswith(f"s3://{backend.name}/artifacts/")
    client.log_artifact(run.info.run_id, str(large_file))
    copy = Path(client.download_artifacts(run.info.run_id, large_file.name, str(tmp_path)))
    assert digest(copy) == digest(large_file)
    # the server reads it too, for the UI
    client.log_text(run.info.run_id, "shown in the UI", "note.txt")
    query = {"run_id": run.info.run_id, "path": "note.txt"}
    assert requests.get(f"{server.url}/get-artifact", params=query, timeout=60).text == "shown in the UI"


def test_registry_with_aliases(client: MlflowClient, servers: list[Server]) -> None:
    client.create_registered_model("prices")
    run = client.create_run("0")
    first = client.create_model_version("prices", f"{run.info.artifact_uri}/model", run.info.run_id)
    second = client.create_model_version("prices", f"{run.info.artifact_uri}/model", run.info.run_id)
    client.set_registered_model_alias("prices", "champion", first.version)
    client.set_registered_model_alias("prices", "champion", second.version)

    elsewhere = MlflowClient(servers[1].url)
    assert elsewhere.get_model_version_by_alias("prices", "champion").version == second.version
    elsewhere.delete_registered_model_alias("prices", "champion")
    assert client.get_registered_model("prices").aliases == {}


def test_logged_model(client: MlflowClient, servers: list[Server], tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"\0" * 1000)
    model = client.create_logged_model("0", name="net", params={"depth": "3"}, tags={"stage": "try"})
    client.log_model_artifact(model.model_id, str(tmp_path / "weights.bin"))
    client.finalize_logged_model(model.model_id, "READY")

    elsewhere = MlflowClient(servers[1].url)
    read = elsewhere.get_logged_model(model.model_id)
    assert (read.name, str(read.status), read.params) == ("net", "READY", {"depth": "3"})
    assert [entry.path for entry in elsewhere.list_logged_model_artifacts(model.model_id)] == ["weights.bin"]


def test_traces(client: MlflowClient, servers: list[Server]) -> None:
    experiment = client.create_experiment("traces")
    mlflow.set_experiment(experiment_id=experiment)
    with mlflow.start_span("outer") as outer:
        outer.set_inputs({"question": "why?"})
        with mlflow.start_span("inner"):
            pass
        outer.set_outputs({"answer": 42})
    mlflow.flush_trace_async_logging()

    elsewhere = MlflowClient(servers[1].url)
    (trace,) = elsewhere.search_traces(locations=[experiment])
    assert [span.name for span in trace.data.spans] == ["outer", "inner"]
    mlflow.log_feedback(trace_id=trace.info.trace_id, name="useful", value=True)
    assert client.get_trace(trace.info.trace_id).info.assessments[0].name == "useful"


def test_one_session_over_two_servers(client: MlflowClient, servers: list[Server]) -> None:
    """A browser that is sent now to one task and now to the other; what one encrypts the other can read."""
    session = requests.Session()
    assert "<!doctype html>" in session.get(servers[0].url, timeout=30).text
    webhook = {
        "name": "hook",
        "url": "https://1.1.1.1/hook",  # an address, for a machine without DNS; disabled, so never called
        "status": "DISABLED",
        "events": [{"entity": "REGISTERED_MODEL", "action": "CREATED"}],
        "secret": "shared-secret",
    }
    created = session.post(f"{servers[0].url}/api/2.0/mlflow/webhooks", json=webhook, timeout=30)
    assert created.status_code == 200, created.text
    for server in servers:
        answer = session.get(f"{server.url}/ajax-api/2.0/mlflow/webhooks", timeout=30)
        assert answer.status_code == 200, answer.text
        assert [hook["name"] for hook in answer.json()["webhooks"]] == ["hook"]


@pytest.fixture(scope="module")
def large_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 MB that cannot be compressed away or mistaken for one another's parts."""
    file = tmp_path_factory.mktemp("large") / "large.bin"
    with file.open("wb") as output:
        for index in range(200):
            output.write(hashlib.shake_128(str(index).encode()).digest(MEBIBYTE))
    return file


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def workers(server: Server) -> list[int]:
    """The worker processes of a server."""
    children = Path(f"/proc/{server.popen.pid}/task/{server.popen.pid}/children")
    return [int(pid) for pid in children.read_text().split()]


def peak_memory(pid: int) -> int:
    """Highest resident memory of a process so far, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))
