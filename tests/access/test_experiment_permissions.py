"""MLflow's permissions below the gate: a request needs both the IAM action and the permission."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import requests
from guarded import ARN, NAME, Guarded, bearer
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from server_process import Server

from local.aws import ACCOUNT
from stacks.access import policy_document


@pytest.fixture(scope="module")
def stacked(guarded: Guarded) -> Server:
    for team in ("TeamA", "TeamB"):
        guarded.account.role(team, policy_document("data-scientist", ARN))
    return guarded.serve(ACCESS_EXPERIMENT_PERMISSIONS="true")


def test_who_creates_an_experiment_manages_it_and_others_read_it(
    stacked: Server, as_role: Callable[[str], None]
) -> None:
    client = MlflowClient(stacked.url)
    as_role("TeamA")
    experiment = client.create_experiment("of team a")
    run = client.create_run(experiment)
    client.log_metric(run.info.run_id, "loss", 1.0)
    client.log_text(run.info.run_id, "text", "a.txt")

    as_role("TeamB")
    assert client.get_run(run.info.run_id).data.metrics == {"loss": 1.0}
    for act in (
        lambda: client.create_run(experiment),
        lambda: client.log_metric(run.info.run_id, "loss", 2.0),
        lambda: client.delete_experiment(experiment),
        lambda: client.log_text(run.info.run_id, "text", "b.txt"),
    ):
        with pytest.raises((MlflowException, requests.HTTPError), match="ermission"):
            act()
    assert client.create_run(client.create_experiment("of team b"))

    as_role("Reader")  # IAM comes first, whatever MLflow would permit
    with pytest.raises(MlflowException, match="sagemaker-mlflow:CreateRun"):
        client.create_run(experiment)

    as_role("Admin")  # who administers by IAM is an administrator of MLflow's
    client.log_metric(run.info.run_id, "loss", 3.0)
    assert client.get_metric_history(run.info.run_id, "loss")[-1].value == 3.0


def test_an_administrator_gives_permissions_and_takes_them(
    stacked: Server, guarded: Guarded, as_role: Callable[[str], None]
) -> None:
    client = MlflowClient(stacked.url)
    as_role("TeamA")
    experiment = client.create_experiment("shared")
    identifier = guarded.account.iam.get_role(RoleName=f"{NAME}-TeamB")["Role"]["RoleId"]
    name = f"role/{NAME}-TeamB/{identifier}"
    as_role("TeamB")
    assert client.get_experiment(experiment).name == "shared"  # MLflow knows the user from here on

    def grant(role: str, permission: str) -> requests.Response:
        content = {
            "username": name,
            "resource_type": "experiment",
            "resource_id": experiment,
            "permission": permission,
        }
        url = f"{stacked.url}/api/3.0/mlflow/users/permissions/grant"
        headers = bearer(guarded.account.assume(role), stacked.url)
        return requests.post(url, json=content, headers=headers, timeout=30)

    assert grant("Admin", "EDIT").status_code == 200
    as_role("TeamB")
    assert client.create_run(experiment)
    as_role("TeamA")
    answer = grant("TeamA", "MANAGE")
    assert answer.status_code == 403
    assert "sagemaker-mlflow:GrantUserPermission" in answer.json()["message"]


def test_no_password_opens_anything(stacked: Server) -> None:
    answer = requests.get(
        f"{stacked.url}/api/2.0/mlflow/experiments/get?experiment_id=0",
        auth=("admin", "password"),
        timeout=30,
    )
    assert answer.status_code == 401
    assert json.loads(answer.text)["error_code"] == "UNAUTHENTICATED"
    assert ACCOUNT not in answer.text
