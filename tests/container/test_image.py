"""The image: built as it is for AWS, looked into, and run as Fargate runs it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
import requests
from mlflow import MlflowClient
from server_process import REPOSITORY, Backend

from local.database import free_port

TAG = "mlflow-aws-kit-tracking-server:test"
MEBIBYTE = 1024 * 1024

# What a hardened Fargate task gives: half a GB, a read-only root file system, no privileges.
HARDENED = [
    *("--read-only", "--tmpfs", "/tmp", "--network", "host"),
    *("--memory", "512m", "--memory-swap", "512m"),
    *("--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
]


[BASE] = set(
    re.findall(r"^FROM (\S+:\S+)", (REPOSITORY / "container" / "Dockerfile").read_text(), re.MULTILINE)
)


def engine() -> tuple[str | None, str]:
    """A container engine that can build here, or None and why there is none."""
    reasons = []
    for name in ("docker", "podman"):
        if not shutil.which(name):
            reasons.append(f"{name} is not installed")
        elif not _succeeds(name, "info"):
            reasons.append(f"`{name} info` fails")
        elif not _succeeds(name, "image", "inspect", BASE) and not _succeeds(name, "pull", BASE):
            reasons.append(f"{name} cannot pull {BASE}")
        else:
            return name, ""
    return None, "no container engine that can build here: " + ", ".join(reasons)


def _succeeds(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, timeout=600).returncode == 0


ENGINE, _reason = engine()
pytestmark = pytest.mark.skipif(ENGINE is None, reason=_reason)


def run(*arguments: str, check: bool = True) -> str:
    """Run the engine and return what it prints."""
    assert ENGINE is not None
    done = subprocess.run([ENGINE, *arguments], capture_output=True, text=True)
    assert done.returncode == 0 or not check, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout + done.stderr


def shell(script: str) -> str:
    """Run a shell script in the image as its own user."""
    return run("run", "--rm", *HARDENED, "--entrypoint", "sh", TAG, "-c", script)


@pytest.fixture(scope="module")
def image() -> dict[str, Any]:
    run("build", "-t", TAG, str(REPOSITORY / "container"))
    (details,) = json.loads(run("image", "inspect", TAG))
    print(f"\nimage size: {details['Size'] / 1e6:.0f} MB")
    return dict(details)


def test_runs_as_a_numeric_user_that_is_not_root(image: dict[str, Any]) -> None:
    assert image["Config"]["User"] == "10001:10001"
    assert shell("id -u").strip() == "10001"


def test_configuration(image: dict[str, Any]) -> None:
    assert image["Config"]["Entrypoint"] == ["python", "-m", "tracking_server"]
    assert image["Config"]["Cmd"] == ["serve"]
    assert list(image["Config"]["Volumes"]) == ["/tmp"]  # what makes Fargate's volume writable for the user
    assert "Healthcheck" not in image["Config"], "ECS brings its own"
    assert not any("PASSWORD" in entry or "SECRET" in entry for entry in image["Config"]["Env"])


def test_holds_no_compiler_and_no_cache(image: dict[str, Any]) -> None:
    assert shell("command -v gcc cc g++ clang ld make rustc pkg-config strip || echo none").strip() == "none"
    caches = "find / -xdev -type d \\( -path '*/.cache/pip' -o -path '*/pip/http*' \\) 2>/dev/null | wc -l"
    assert int(shell(caches)) == 0
    assert "No module named pip" in shell("/opt/venv/bin/python -m pip 2>&1 || true")


def test_size(image: dict[str, Any]) -> None:
    assert image["Size"] < 450e6


def python(script: str) -> str:
    """Run a Python program in the image as its own user."""
    return run("run", "--rm", "-i", *HARDENED, "--entrypoint", "python", TAG, "-c", script)


def test_every_library_loads(image: dict[str, Any]) -> None:
    """What was stripped still loads: all compiled modules but those for the tests of their packages."""
    found = json.loads(python(LOAD_EVERYTHING).splitlines()[-1])
    assert found["failed"] == {}
    assert found["loaded"] > 50


LOAD_EVERYTHING = """
import importlib, json, pathlib, sysconfig
import numpy, pandas
site = pathlib.Path(sysconfig.get_path("platlib"))
failed, loaded = {}, 0
for file in sorted(site.rglob("*.so")):
    if file.parts[len(site.parts)].endswith(".libs"):
        continue
    name = ".".join([*file.relative_to(site).parent.parts, file.name.partition(".")[0]])
    if "_tests" in name:
        continue
    try:
        importlib.import_module(name)
        loaded += 1
    except Exception as error:
        failed[name] = repr(error)
print(json.dumps({"failed": failed, "loaded": loaded}))
"""


def test_both_drivers_are_there(image: dict[str, Any]) -> None:
    script = "from tracking_server.drivers import load; print(load('mysqlclient').version(), load('pymysql').version())"
    assert re.match(r"mysqlclient \d.* \(client library \d.*\) PyMySQL \d", python(script))
    assert shell("find / -name caching_sha2_password.so 2>/dev/null || true").strip()


def test_models_of_the_services_that_are_used(image: dict[str, Any]) -> None:
    script = """
import boto3
session = boto3.session.Session(region_name="eu-west-1")
for name in ("s3", "sts", "secretsmanager", "iam", "logs", "events", "sagemaker", "bedrock-runtime"):
    session.client(name)
print(len(session.get_available_services()))
"""
    assert 15 < int(python(script)) < 50


def test_missing_settings_are_named(image: dict[str, Any]) -> None:
    answer = run("run", "--rm", *HARDENED, TAG, check=False)
    assert "missing environment variables: DATABASE_HOST" in answer
    assert "MLFLOW_HOST" not in answer
    assert "DATABASE_CA_BUNDLE" not in answer, "the image brings these"


def test_trust_bundle_is_readable(image: dict[str, Any]) -> None:
    context = "ssl.create_default_context(cafile=os.environ['DATABASE_CA_BUNDLE'])"
    script = f"import os, ssl; print(len({context}.get_ca_certs()))"
    assert int(shell(f'python -c "{script}"')) > 50


@pytest.fixture
def container(image: dict[str, Any], new_backend_once: Callable[..., Backend]) -> Iterator[tuple[str, str]]:
    """The image migrating and then serving, with a real database: its name and its tracking URI."""
    backend = new_backend_once()
    port = free_port()
    keep = ("ACCESS_", "AWS_", "DATABASE_", "SERVER_", "MLFLOW_", "ARTIFACT_")
    environment = backend.environment(
        MLFLOW_PORT=str(port), DATABASE_CA_BUNDLE="/tmp/ca.pem", SERVER_THREADS="4", DATABASE_POOL_SIZE="8"
    )
    options = [f"--env={name}={value}" for name, value in environment.items() if name.startswith(keep)]
    options += ["-v", f"{backend.database_server.ca_bundle}:/tmp/ca.pem:ro"]
    migration = run("run", "--rm", *HARDENED, *options, TAG, "migrate")
    assert "migrated on an empty database" in migration
    name = f"kit-image-test-{port}"
    begun = time.monotonic()
    run("run", "-d", "--name", name, *HARDENED, *options, TAG)
    try:
        url = f"http://localhost:{port}"
        while not healthy(url):
            assert time.monotonic() - begun < 60, run("logs", name)
            time.sleep(0.1)
        print(f"\nhealthy after {time.monotonic() - begun:.1f} s")
        yield name, url
    finally:
        run("rm", "-f", name)


def healthy(url: str) -> bool:
    try:
        return requests.get(f"{url}/health", timeout=5).status_code == 200
    except requests.ConnectionError:
        return False


def memory(name: str) -> float:
    """Memory of a container in MiB, page cache left out, as the engine counts it."""
    usage = run("stats", "--no-stream", "--format", "{{.MemUsage}}", name).split("/")[0].strip()
    factor = {"MiB": 1, "GiB": 1024, "MB": 1e6 / MEBIBYTE, "GB": 1e9 / MEBIBYTE}
    unit = next(unit for unit in factor if usage.endswith(unit))
    return float(usage.removesuffix(unit)) * factor[unit]


def test_serves_in_half_a_gigabyte(container: tuple[str, str], tmp_path: Path) -> None:
    name, url = container
    print(f"idle memory: {memory(name):.0f} MiB")
    mlflow.set_tracking_uri(url)
    client = MlflowClient(url)
    run_ = client.create_run("0")
    client.log_metric(run_.info.run_id, "loss", 0.5)
    large = tmp_path / "large.bin"
    with large.open("wb") as output:
        for _ in range(200):
            output.write(os.urandom(MEBIBYTE))
    client.log_artifact(run_.info.run_id, str(large))
    copy = Path(client.download_artifacts(run_.info.run_id, large.name, str(tmp_path / "..")))
    assert copy.read_bytes() == large.read_bytes()
    print(f"memory after 200 MB up and down: {memory(name):.0f} MiB")
    check_features(client, url, run_.info.run_id)
    assert "database driver: mysqlclient" in run("logs", name)

    begun = time.monotonic()
    run("stop", "--time", "60", name)
    assert time.monotonic() - begun < 30
    (state,) = json.loads(run("inspect", name))
    assert (state["State"]["ExitCode"], state["State"]["OOMKilled"]) == (0, False)
    for line in run("logs", name).splitlines():
        json.loads(line)


def check_features(client: MlflowClient, url: str, run_id: str) -> None:
    """The UI with all that its page names, and the parts of MLflow beside runs and artifacts."""
    page = requests.get(url, timeout=30).text
    assert "<!doctype html>" in page
    assets = re.findall(r'(?:src|href)="\.?/?(static-files/[^"]+)"', page)
    assert assets
    for asset in assets:
        assert requests.get(f"{url}/{asset}", timeout=30).status_code == 200
    client.create_registered_model("model")
    version = client.create_model_version("model", f"runs:/{run_id}/model", run_id)
    client.set_registered_model_alias("model", "champion", version.version)
    assert client.get_model_version_by_alias("model", "champion").version == version.version
    client.register_prompt("prompt", "Say {{ word }}")
    span = client.start_trace("call", experiment_id="0")
    client.end_trace(span.trace_id)
    mlflow.flush_trace_async_logging()
    traces = client.search_traces(locations=["0"])
    assert [trace.info.trace_id for trace in traces] == [span.trace_id]
    answer = requests.post(
        f"{url}/graphql",
        json={"query": '{mlflowSearchRuns(input: {experimentIds: ["0"]}) {runs {info {runId}}}}'},
        timeout=30,
    )
    assert answer.status_code == 200, answer.text
    for path in (
        "ajax-api/3.0/mlflow/scorers/list?experiment_id=0",
        "ajax-api/3.0/mlflow/gateway/supported-providers",
    ):
        assert requests.get(f"{url}/{path}", timeout=30).status_code == 200, path
