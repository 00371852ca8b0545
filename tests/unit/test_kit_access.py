"""`kit access`, `kit open` and `kit token` where no server is needed: the matrix, and refusals that say what to do."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
from tracking_server.access.routes import Routes
from typer.testing import CliRunner, Result

from kit import matrix
from kit.cli import app
from kit.deployment import ROLES, Deployment
from local import state
from local.person import write_role_files
from stacks.access import ROLES as STACK_ROLES

OUTPUTS = {
    "TrackingUri": "http://localhost:9",
    "TrackingServerArn": "arn:aws:sagemaker:us-east-1:123456789012:mlflow-tracking-server/mlflow-local",
    "DataScientistRoleArn": "arn:aws:iam::123456789012:role/scientist",
    "ReaderRoleArn": "arn:aws:iam::123456789012:role/reader",
}
KEYS = {"AWS_ACCESS_KEY_ID": "AKIAEXAMPLE", "AWS_SECRET_ACCESS_KEY": "it's secret", "AWS_REGION": "us-east-1"}


def kit(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "200", "TERM": "dumb"})


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment that seems to run here, where nothing listens."""
    monkeypatch.setattr(state, "STATE", tmp_path)
    for name in [name for name in os.environ if name.startswith(("AWS_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    directory = state.directory_of("local")
    state.announce(directory, endpoint="http://127.0.0.1:9", outputs=OUTPUTS, operator=KEYS, person=KEYS)
    return directory


@pytest.mark.parametrize(
    "command",
    [["open"], ["token"], ["access"]]
    + [["access", name] for name in ("whoami", "check", "explain", "flush", "matrix")],
)
def test_help_teaches(command: list[str]) -> None:
    done = kit(*command, "--help")
    assert done.exit_code == 0
    assert "Usage: kit" in done.stdout or "Usage: root" in done.stdout


def test_the_page_is_up_to_date() -> None:
    assert matrix.PAGE.read_text(encoding="utf-8") == matrix.page(), "run `make docs`"
    assert kit("access", "matrix", "--markdown").stdout == matrix.page()


def test_matrix_has_every_route_and_what_the_gate_asks_for_it() -> None:
    rows = json.loads(kit("access", "matrix", "--json").stdout)["routes"]
    table = Routes.load()
    assert [(row["method"], row["path"]) for row in rows] == [
        (entry.method, entry.path) for entry in table.entries
    ]
    for row, entry in zip(rows, table.entries, strict=True):
        assert sorted(row["actions"]) == list(entry.rule.actions)
        assert row.get("decision", "action") == entry.rule.decision
        assert row["verdicts"].keys() == set(ROLES)
        if "action" in row:
            assert row["actions"] == [row["action"], *row.get("also", [])]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/", set(ROLES)),
        ("GET", "/health", set(ROLES)),
        ("POST", "/api/2.0/mlflow/runs/search", set(ROLES)),
        ("POST", "/api/2.0/mlflow/runs/create", {"DataScientist", "Admin"}),
        ("POST", "/api/2.0/mlflow/registered-models/alias", {"ModelApprover", "Admin"}),
        ("POST", "/iam/flush", {"Admin"}),
        ("GET", "/signup", set()),
    ],
)
def test_matrix_judges_as_the_policies_do(method: str, path: str, allowed: set[str]) -> None:
    [row] = [row for row in matrix.rows() if (row.method, row.path) == (method, path)]
    assert {role for role, verdict in row.verdicts.items() if verdict == "allow"} == allowed


def test_the_roles_are_those_of_the_stacks() -> None:
    assert set(ROLES) == set(STACK_ROLES.values())


def test_matrix_for_people_has_a_line_for_each_route() -> None:
    lines = kit("access", "matrix").stdout.splitlines()
    assert len(lines) == 1 + len(matrix.rows())


def test_a_typo_in_an_action_says_what_is_near_and_is_no_denial() -> None:
    done = kit("access", "check", "--as", "Reader", "--action", "CreateRum")
    assert done.exit_code == 2
    assert "Did you mean CreateRun?" in done.stderr


@pytest.mark.usefixtures("running")
def test_a_role_that_is_not_there_is_no_denial() -> None:
    done = kit("access", "check", "--as", "Boss", "--action", "CreateRun")
    assert done.exit_code == 2
    assert "Reader, DataScientist" in done.stderr


@pytest.mark.usefixtures("running")
def test_a_session_has_no_policies_to_look_at() -> None:
    session = "arn:aws:sts::123456789012:assumed-role/scientist/me"
    done = kit("access", "check", "--as", session, "--action", "CreateRun")
    assert done.exit_code == 2
    assert "no role and no user" in done.stderr


@pytest.mark.usefixtures("running")
@pytest.mark.parametrize(
    "command", [["open", "--print"], ["token"], ["access", "whoami"]], ids=lambda command: command[-1]
)
def test_a_server_that_cannot_be_reached(command: list[str]) -> None:
    done = kit(*command, "--json")
    assert done.exit_code == 1
    assert done.stdout == ""
    assert "cannot be reached" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("running")
def test_iam_that_cannot_be_reached_is_no_denial() -> None:
    done = kit("access", "check", "--as", "Reader", "--action", "CreateRun")
    assert done.exit_code == 2
    assert "iam:SimulatePrincipalPolicy" in done.stderr


@pytest.mark.parametrize("name", ["DataScientist", "data-scientist", "datascientist"])
def test_roles_are_found_by_name(name: str) -> None:
    deployment = Deployment(env="local", region="us-east-1", outputs=OUTPUTS, running=None)
    assert deployment.role_arn(name) == OUTPUTS["DataScientistRoleArn"]
    assert deployment.role_arn("arn:aws:iam::1:role/x") == "arn:aws:iam::1:role/x"


def test_only_the_embedded_accounts_credentials_are_used_on_this_machine(
    running: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "AWS_PROFILE": "work",
        "AWS_SESSION_TOKEN": "t",
        "AWS_ENDPOINT_URL_STS": "https://sts.example",
        "MLFLOW_AWS_IAM_ROLE_ARN": "arn:aws:iam::210987654321:role/at-work",
    }.items():
        monkeypatch.setitem(os.environ, name, value)
    deployment = Deployment(env="local", region="us-east-1", outputs=OUTPUTS, running=state.running("local"))
    deployment.act_as_person()
    assert {name: value for name, value in os.environ.items() if name.startswith("AWS_")} == KEYS
    assert "MLFLOW_AWS_IAM_ROLE_ARN" not in os.environ
    monkeypatch.setitem(os.environ, "MLFLOW_AWS_IAM_ROLE_ARN", OUTPUTS["ReaderRoleArn"])
    deployment.act_as_person()
    assert os.environ["MLFLOW_AWS_IAM_ROLE_ARN"] == OUTPUTS["ReaderRoleArn"]


def test_role_files_are_private_and_go_with_the_announcement(running: Path) -> None:
    write_role_files(state.role_files(running), person=KEYS, outputs=OUTPUTS)
    files = {file.name: file for file in state.role_files(running).iterdir()}
    assert files.keys() == {"data-scientist.env", "reader.env"}
    for file in [*files.values(), running / "running.json"]:
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    lines = files["reader.env"].read_text().splitlines()
    assert f"export MLFLOW_AWS_IAM_ROLE_ARN={OUTPUTS['ReaderRoleArn']}" in lines
    assert "export MLFLOW_TRACKING_AUTH=aws-iam" in lines
    state.withdraw(running)
    assert not state.role_files(running).exists()
    assert state.running("local") is None
