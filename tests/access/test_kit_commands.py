"""`kit` against a guarded server, as if `kit up` ran it: links, bearers, who one is, what is allowed, and why."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
from guarded import ARN, NAME, Guarded
from server_process import Server
from typer.testing import CliRunner, Result

from kit.cli import app
from local import state

Kit = Callable[..., Result]


@pytest.fixture
def kit(server: Server, guarded: Guarded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kit:
    """Runs `kit` with an environment `local` that is the guarded server."""
    account = guarded.account
    monkeypatch.setattr(state, "STATE", tmp_path)
    state.announce(
        state.directory_of("local"),
        endpoint=account.aws.endpoint,
        outputs={"TrackingUri": server.url, "TrackingServerArn": ARN}
        | {f"{role}RoleArn": arn for role, arn in account.roles.items()},
        operator=account.aws.environment(),
        person=account.aws.environment() | account.person.environment(),
    )

    def run(*arguments: str) -> Result:
        before = dict(os.environ)
        try:  # the command acts as the person from there on, which a process of its own would take along
            return CliRunner().invoke(app, arguments)
        finally:
            os.environ.clear()
            os.environ.update(before)

    return run


def test_link_opens_a_session(kit: Kit, server: Server) -> None:
    done = kit("open", "--role", "Reader", "--print")
    assert done.exit_code == 0, done.stderr
    page, _, token = done.stdout.strip().partition("#")
    origin = page.removesuffix("/iam/open")  # what the server tells people it is called
    browser = requests.Session()
    opened = browser.post(
        f"{server.url}/iam/session", json={"token": token}, headers={"Origin": origin}, timeout=30
    )
    assert opened.status_code == 204, opened.text
    who = browser.get(f"{server.url}/iam/whoami", timeout=30).json()
    assert (who["via"], who["name"]) == ("session", f"{NAME}-Reader")


def test_link_is_opened_in_the_browser(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda url: opened.append(url) or True)
    assert kit("open", "--role", "Admin").exit_code == 0
    [url] = opened
    assert "/iam/open#" in url
    monkeypatch.setattr("webbrowser.open", lambda url: False)
    done = kit("open", "--role", "Admin")
    assert "/iam/open#" in done.stdout
    assert "No browser" in done.stderr


def test_who_has_no_role_is_told_to_choose_one(kit: Kit) -> None:
    done = kit("open", "--print")
    assert done.exit_code == 1
    assert done.stdout == ""
    assert "AccessUI" in done.stderr
    assert "--role" in done.stderr


def test_token_is_a_bearer(kit: Kit, server: Server) -> None:
    answer = json.loads(kit("token", "--role", "data-scientist", "--json").stdout)
    assert 0 < answer["expires_in"] <= 3600
    bearer = kit("token", "--role", "DataScientist").stdout.strip()
    created = requests.post(
        f"{server.url}/api/2.0/mlflow/runs/create",
        json={"experiment_id": "0"},
        headers={"Authorization": f"Bearer {bearer}"},
        timeout=30,
    )
    assert created.status_code == 200, created.text


def test_whoami(kit: Kit, guarded: Guarded) -> None:
    who = json.loads(kit("access", "whoami", "--role", guarded.account.roles["Reader"], "--json").stdout)
    assert who["name"] == f"{NAME}-Reader"
    assert who["tracking_server_arn"] == ARN
    assert "nothing" in kit("access", "whoami").stdout


@pytest.mark.parametrize(
    ("role", "action", "code"),
    [
        ("Reader", "CreateRun", 1),
        ("Reader", "AccessUI", 0),
        ("DataScientist", "CreateRun", 0),
        ("DataScientist", "SetRegisteredModelAlias", 1),
        ("ModelApprover", "sagemaker-mlflow:SetRegisteredModelAlias", 0),
        ("Admin", "CreateWebhook", 0),
    ],
)
def test_check_tells_by_its_exit_code(kit: Kit, role: str, action: str, code: int) -> None:
    done = kit("access", "check", "--as", role, "--action", action, "--json")
    assert done.exit_code == code, done.stderr
    assert json.loads(done.stdout)["allowed"] is (code == 0)


def test_explain_shows_the_statement(kit: Kit) -> None:
    done = kit("access", "explain", "--as", "DataScientist", "--action", "CreateRun", "--json")
    [statement] = json.loads(done.stdout)["statements"]
    assert (statement["policy"], statement["sid"]) == (f"role_{NAME}-DataScientist_access", "Track")
    assert "sagemaker-mlflow:CreateRun" in statement["statement"]["Action"]


def test_explain_says_who_may_instead(kit: Kit) -> None:
    done = kit("access", "explain", "--as", "Reader", "--action", "CreateRun")
    assert done.exit_code == 1
    assert "DataScientist, Admin" in done.stdout


def test_explain_shows_a_denial_and_what_it_depends_on(kit: Kit, guarded: Guarded) -> None:
    deny = {"Sid": "NotToday", "Effect": "Deny", "Action": "sagemaker-mlflow:Create*", "Resource": "*"}
    at_home = {
        "Effect": "Allow",
        "Action": "sagemaker-mlflow:GetRun",
        "Resource": "*",
        "Condition": {"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}},
    }
    arn = guarded.account.role("denied", {"Version": "2012-10-17", "Statement": [at_home, deny]})
    denied = json.loads(kit("access", "explain", "--as", arn, "--action", "CreateRun", "--json").stdout)
    assert denied["decision"] == "explicitDeny"
    assert [item["statement"] for item in denied["statements"]] == [deny]
    depends = kit("access", "explain", "--as", arn, "--action", "GetRun")
    assert depends.exit_code == 1
    assert "aws:SourceIp" in depends.stdout


def test_flush_needs_the_right_to(kit: Kit) -> None:
    assert kit("access", "flush").exit_code == 0
    done = kit("access", "flush", "--role", "Reader")
    assert done.exit_code == 1
    assert "--action FlushAccess" in done.stderr
