"""Starting and stopping: one at a time, nothing left behind, whatever ends it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from botocore.exceptions import EndpointConnectionError
from conftest import TINY, embedded, eventually

from local.aws import REPOSITORY
from local.docker_stand_in import main as docker

PROGRAM = """
import signal, sys, time
from pathlib import Path
from conftest import Stack, embedded
from test_embedded_tasks import Cluster
from test_embedded_storage import DATABASE

signal.signal(signal.SIGTERM, signal.default_int_handler)
try:
    with embedded(Path(sys.argv[1])) as aws:
        if "database" in sys.argv:
            Stack(aws, "data").create(DATABASE)
        cluster = Cluster(aws)
        task = cluster.run(cluster.define("sleep", "import time; time.sleep(600)"))
        while cluster.task(task)["lastStatus"] != "RUNNING":
            time.sleep(0.1)
        print("up", flush=True)
        time.sleep(600)
except KeyboardInterrupt:
    print("stopped", flush=True)
"""


def start(directory: Path, *arguments: str) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(REPOSITORY), str(Path(__file__).parent)])
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), str(directory), *arguments],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    return process


def alive(directory: Path) -> list[int]:
    """The process ids of tasks and database of an embedded AWS in `directory` that still run."""
    files = [*(directory / "tasks").glob("*"), *(directory / "database").glob("*/server.pid")]
    pids = [int(file.name if file.name.isdigit() else file.read_text()) for file in files]
    return [
        pid for pid in pids if subprocess.run(["ps", "-p", str(pid)], capture_output=True).returncode == 0
    ]


def test_signal_stops_everything_and_nobody_shares_the_directory(tmp_path: Path) -> None:
    process = start(tmp_path, "database")
    assert len(alive(tmp_path)) == 2
    with pytest.raises(RuntimeError, match="another process runs an embedded AWS"):
        embedded(tmp_path).start()
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=30)
    assert output == "stopped\n"
    assert alive(tmp_path) == []


def test_leftovers_of_a_killed_one_are_stopped_by_the_next(tmp_path: Path) -> None:
    process = start(tmp_path)
    left = alive(tmp_path)
    process.kill()
    process.communicate()
    assert len(left) == 1
    assert alive(tmp_path) == left
    with embedded(tmp_path):
        assert alive(tmp_path) == []
    eventually(lambda: subprocess.run(["ps", "-p", str(left[0])], capture_output=True).returncode == 1)


def test_process_serves_one_at_a_time(tmp_path: Path) -> None:
    with embedded(tmp_path / "one"), pytest.raises(RuntimeError, match="runs in this process already"):
        embedded(tmp_path / "two").start()
    with embedded(tmp_path / "two"):
        pass


def test_start_that_fails_half_way_stops_what_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    aws = embedded(tmp_path)
    monkeypatch.setattr("local.aws.Functions", lambda **_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        aws.start()
    monkeypatch.undo()
    with pytest.raises(EndpointConnectionError):
        aws.client("sts").get_caller_identity()
    with embedded(tmp_path) as again:
        assert again.client("sts").get_caller_identity()["Account"]


def test_docker_stand_in(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    context = TINY / "container"
    assert docker(["build", "--tag", "t", "--platform", "linux/arm64", str(context)]) == 0
    assert docker(["build", "--tag", "t", str(tmp_path)]) == 1
    assert f"{tmp_path}/Dockerfile" in capsys.readouterr().err
    assert docker(["build", "--tag", "t", "--file", "Other", str(context)]) == 1
    assert docker(["inspect", "t"]) == 1
    assert docker(["tag", "a", "b"]) == docker(["push", "b"]) == 0
    assert docker(["run", "t"]) == 1
