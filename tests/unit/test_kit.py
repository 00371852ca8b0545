"""The `kit` command as its user meets it: exit codes, what goes to which stream, and JSON that a machine can read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from local import state

ROOT = Path(__file__).parents[2]
ENVIRONMENTS = {"dev", "local", "prod", "staging"}


def kit(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).with_name("kit"), *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "200", "TERM": "dumb"} | environment,
        check=False,
    )


@pytest.fixture
def broken(tmp_path: Path) -> str:
    file = tmp_path / "broken.yaml"
    file.write_text("extends: dev\nsize: smal\n")
    return str(file)


@pytest.mark.parametrize("command", [[], ["up"], ["outputs"], ["env"], ["env", "list"], ["env", "validate"]])
def test_help_teaches(command: list[str]) -> None:
    done = kit(*command, "--help")
    assert done.returncode == 0
    assert "Usage: kit" in done.stdout


def test_env_list_names_every_environment_and_its_region() -> None:
    rows = json.loads(kit("env", "list", "--json").stdout)
    assert {row["environment"] for row in rows} >= ENVIRONMENTS
    assert all(row["region"] for row in rows)
    lines = kit("env", "list").stdout.splitlines()
    assert len(lines) == len(rows)


def test_env_show_is_the_environment_with_every_default() -> None:
    shown = yaml.safe_load(kit("env", "show", "prod").stdout)
    assert shown == json.loads(kit("env", "show", "prod", "--json").stdout)
    assert shown["name"] == "mlflow-prod"
    assert shown["database"]["multi_az"] is True


def test_env_show_of_a_typo_says_what_is_near() -> None:
    done = kit("env", "show", "prdo")
    assert done.returncode == 1
    assert done.stdout == ""
    assert 'did you mean "prod"?' in done.stderr
    assert "Traceback" not in done.stderr


def test_env_validate_finds_all_of_them_sound() -> None:
    done = kit("env", "validate", "--json")
    assert done.returncode == 0
    assert all(result["valid"] for result in json.loads(done.stdout))


def test_env_validate_fails_for_a_broken_file_and_says_why(broken: str) -> None:
    done = kit("env", "validate", "dev", broken, "--json")
    assert done.returncode == 1
    sound, refused = json.loads(done.stdout)
    assert sound == {"environment": "dev", "valid": True, "errors": []}
    assert "size" in refused["errors"][0]
    assert "small" in refused["errors"][0]
    assert "size" in kit("env", "validate", broken).stderr


def test_outputs_come_from_a_running_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "STATE", tmp_path)
    directory = state.directory_of("examples/china")
    assert state.running("examples/china") is None
    outputs = {"TrackingUri": "http://localhost:2"}
    state.announce(directory, endpoint="http://localhost:1", outputs=outputs, operator={}, person={})
    running = state.running("examples/china")
    assert running is not None
    assert running.outputs == outputs
    state.withdraw(directory)
    assert state.running("examples/china") is None


def test_an_announcement_of_a_process_that_died_counts_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "STATE", tmp_path)
    directory = state.directory_of("local")
    directory.mkdir()
    gone = subprocess.Popen(["true"])
    gone.wait()
    (directory / "running.json").write_text(
        json.dumps({"pid": gone.pid, "endpoint": "", "outputs": {}, "operator": {}, "person": {}})
    )
    assert state.running("local") is None


def test_outputs_without_an_answer_from_aws_say_what_to_do(tmp_path: Path) -> None:
    nobody = {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
    }
    done = kit("outputs", "staging", "--json", **nobody)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "kit up staging" in done.stderr
    assert "Traceback" not in done.stderr
