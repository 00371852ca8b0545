"""What the server makes of host names, origins, secrets and the end of its life."""

from __future__ import annotations

import base64
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import requests
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from mlflow import MlflowClient
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from server_process import SEED, Backend, Server

API = "/api/2.0/mlflow"
PRINTABLE = "".join(chr(code) for code in range(32, 127))


@pytest.fixture(scope="module")
def backend(new_backend_once: Callable[..., Backend], migrated: Callable[[Backend], Backend]) -> Backend:
    return migrated(new_backend_once(password=PRINTABLE))


@pytest.fixture(scope="module")
def server(backend: Backend, start_once: Callable[..., Any]) -> Server:
    running: Server = start_once("serve", backend)
    return running.wait_until_healthy()


def search(server: Server, **headers: str) -> requests.Response:
    return requests.post(
        f"{server.url}{API}/experiments/search", json={"max_results": 1}, headers=headers, timeout=30
    )


@pytest.mark.parametrize("host", ["mlflow.example.com", "mlflow.example.com:443"])
def test_balancer_host_is_served(server: Server, host: str) -> None:
    assert search(server, Host=host).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        f"{API}/experiments/get?experiment_id=0",  # Flask
        "/api/2.0/mlflow-artifacts/artifacts/0/x",  # streamed by the kit
        "/api/3.0/mlflow/server-info",  # FastAPI
        "/",
    ],
)
@pytest.mark.parametrize("host", ["evil.example.com", "mlflow.example.com.evil.example.com", "10.0.0.1"])
def test_foreign_host_is_refused(server: Server, host: str, path: str) -> None:
    answer = requests.get(f"{server.url}{path}", headers={"Host": host}, timeout=30)
    assert (answer.status_code, answer.text[:19]) == (403, "Invalid Host header")


@pytest.mark.parametrize("host", ["evil.example.com", "10.1.2.3:5000", ""])
def test_health_answers_whatever_the_host(server: Server, host: str) -> None:
    answer = requests.get(f"{server.url}/health", headers={"Host": host}, timeout=30)
    assert (answer.status_code, answer.text) == (200, "OK")


def test_only_own_origin_may_change_things(server: Server) -> None:
    host = "mlflow.example.com"
    assert search(server, Host=host, Origin=f"http://{host}").status_code == 200
    assert search(server, Host=host, Origin="http://evil.example.com").status_code == 403
    assert search(server, Host=host, Origin="null").status_code == 403


def test_opentelemetry_spans_are_taken(server: Server) -> None:
    """A route that MLflow serves outside Flask."""
    spans = ExportTraceServiceRequest()
    span = (
        spans.resource_spans.add()
        .scope_spans.add()
        .spans.add(trace_id=uuid.uuid4().bytes, span_id=b"12345678", name="from otlp")
    )
    span.start_time_unix_nano = time.time_ns()
    span.end_time_unix_nano = span.start_time_unix_nano + 1000
    headers = {"Content-Type": "application/x-protobuf", "x-mlflow-experiment-id": "0"}
    sent = requests.post(
        f"{server.url}/v1/traces", data=spans.SerializeToString(), headers=headers, timeout=30
    )
    assert sent.status_code == 200, sent.text
    (trace,) = MlflowClient(server.url).search_traces(locations=["0"])
    assert [each.name for each in trace.data.spans] == ["from otlp"]


def test_assistant_is_off(server: Server) -> None:
    for path in ("config", "providers", "x"):
        url = f"{server.url}/ajax-api/3.0/mlflow/assistant/{path}"
        assert requests.get(url, timeout=30).status_code == 404


def test_answers_are_not_delayed(server: Server) -> None:
    """A keep-alive connection without TCP_NODELAY would wait 40 ms for each answer."""
    session = requests.Session()
    took = []
    for _ in range(20):
        begun = time.monotonic()
        assert session.get(f"{server.url}/version", timeout=30).status_code == 200
        took.append(time.monotonic() - begun)
    assert sorted(took)[5] < 0.03


def test_secrets_show_nowhere(server: Server, backend: Backend) -> None:
    """The password of every printable character works, and stands in no environment, command line or log."""
    assert search(server).status_code == 200
    hidden = {
        derived_key(name) for name in ("MLFLOW_CRYPTO_KEK_PASSPHRASE", "MLFLOW_FLASK_SERVER_SECRET_KEY")
    }
    hidden |= {PRINTABLE, quote(PRINTABLE, safe=""), quote(PRINTABLE), PRINTABLE[1:20], PRINTABLE[-20:], SEED}
    hidden |= {text.replace('"', '\\"') for text in hidden}
    places = {file: file.read_bytes() for file in process_files()}
    places[server.log_file] = server.log_file.read_bytes()
    assert any(b"DATABASE_SECRET_ARN" in content for content in places.values()), (
        "looked at the wrong processes"
    )
    for place, content in places.items():
        for text in hidden:
            assert text.encode() not in content, f"a secret stands in {place}"
    assert all(record["level"] for record in server.records), "every line is JSON"
    assert backend.password == PRINTABLE


def derived_key(name: str) -> str:
    """One of MLflow's own secrets, as it is defined: HKDF-SHA256 of the seed, in base64."""
    key = HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=name.encode()).derive(SEED.encode())
    return base64.urlsafe_b64encode(key).decode()


def process_files() -> Iterator[Path]:
    """Environment and command line of every process that may be looked at."""
    for name in ("environ", "cmdline"):
        for file in Path("/proc").glob(f"[0-9]*/{name}"):
            try:
                file.read_bytes()
            except OSError:
                continue
            yield file


def test_stop_loses_no_request(backend: Backend, start: Callable[..., Any]) -> None:
    """Health goes red first; requests in flight are answered; then the server ends by itself, with code 0."""
    server: Server = start("serve", backend, SERVER_DRAIN_SECONDS="3", MLFLOW_WORKERS="2")
    server.wait_until_healthy()
    red = threading.Event()
    outcomes: list[int | str] = []

    def slow_upload() -> None:
        def body() -> Iterator[bytes]:
            for _ in range(14):
                yield b"x" * 1000
                time.sleep(0.5)

        url = f"{server.url}/api/2.0/mlflow-artifacts/artifacts/0/slow.bin"
        outcomes.append(requests.put(url, data=body(), timeout=60).status_code)

    def keep_asking() -> None:
        session = requests.Session()
        while not red.is_set():  # as a balancer does: none to a target whose health is red
            answer = session.post(
                f"{server.url}{API}/experiments/search", json={"max_results": 1}, timeout=30
            )
            outcomes.append(answer.status_code)

    threads = [threading.Thread(target=slow_upload)] + [
        threading.Thread(target=keep_asking) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    time.sleep(1)
    begun = time.monotonic()
    server.terminate()
    while requests.get(f"{server.url}/health", timeout=5).status_code == 200:
        assert time.monotonic() - begun < 2, "health stayed green"
        time.sleep(0.05)
    answer = search(server)
    assert (answer.status_code, answer.headers["Connection"]) == (200, "close")
    time.sleep(1)
    red.set()
    for thread in threads:
        thread.join()
    assert server.wait() == 0, server.output
    assert 6 < time.monotonic() - begun < 30
    assert len(outcomes) > 10
    assert set(outcomes) == {200}
    stored = backend.client("s3").head_object(Bucket=backend.name, Key="artifacts/0/slow.bin")
    assert stored["ContentLength"] == 14000


def test_upload_that_breaks_off_stores_nothing(server: Server, backend: Backend) -> None:
    def body() -> Iterator[bytes]:
        yield b"x" * 20_000_000
        raise ConnectionAbortedError("the client goes away")

    url = f"{server.url}/api/2.0/mlflow-artifacts/artifacts/0/broken.bin"
    with pytest.raises(requests.ConnectionError):
        requests.put(url, data=body(), timeout=60)
    s3 = backend.client("s3")
    deadline = time.monotonic() + 20
    while s3.list_multipart_uploads(Bucket=backend.name).get("Uploads"):
        assert time.monotonic() < deadline, "the multipart upload was left open"
        time.sleep(0.2)
    assert "Contents" not in s3.list_objects_v2(Bucket=backend.name, Prefix="artifacts/0/broken.bin")


LARGEST = 32 * 1024 * 1024


def large(parts: int) -> Iterator[bytes]:
    for _ in range(parts):
        yield b" " * 1024 * 1024


@pytest.mark.parametrize(
    "path", [f"{API}/runs/log-batch", f"{API}/registered-models/create", "/v1/traces", "/graphql"]
)
@pytest.mark.parametrize("told", [True, False], ids=["its length is told", "in chunks"])
def test_a_body_is_no_larger_than_memory_bears(server: Server, path: str, told: bool) -> None:
    data = b" " * (LARGEST + 1) if told else large(33)
    kind = "application/x-protobuf" if path == "/v1/traces" else "application/json"
    headers = {"Content-Type": kind, "x-mlflow-experiment-id": "0"}
    answer = requests.post(f"{server.url}{path}", data=data, headers=headers, timeout=60)
    assert answer.status_code == 413
    assert answer.json()["error_code"] == "INVALID_PARAMETER_VALUE"
    assert "32 MiB" in answer.json()["message"]


def test_an_artifact_may_be_larger(server: Server) -> None:
    url = f"{server.url}/api/2.0/mlflow-artifacts/artifacts/0/large.bin"
    assert requests.put(url, data=large(33), timeout=60).status_code == 200


def test_a_body_in_chunks_is_read_whole(server: Server) -> None:
    body = [b'{"experiment_', b'ids": ["0"]}']
    answer = requests.post(
        f"{server.url}{API}/runs/search",
        data=iter(body),
        headers={"Content-Type": "application/json"},
        timeout=60,
    )
    assert answer.status_code == 200
