"""The stock client against a guarded server: allowed and refused as the role's policy says."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import requests
from guarded import Guarded, audit_lines, bearer
from mlflow import MlflowClient
from mlflow.exceptions import RestException
from server_process import Server


def test_scientist_may_create_a_run_and_reader_may_not(
    server: Server, as_role: Callable[[str], None]
) -> None:
    as_role("DataScientist")
    client = MlflowClient(server.url)
    run = client.create_run("0")
    client.log_metric(run.info.run_id, "loss", 0.5)
    as_role("Reader")
    client = MlflowClient(server.url)
    assert client.get_run(run.info.run_id).data.metrics == {"loss": 0.5}
    with pytest.raises(
        RestException,
        match=r"PERMISSION_DENIED: User: arn:aws:sts::\d+:assumed-role/.*Reader/person"
        r" is not authorized to perform: sagemaker-mlflow:CreateRun on resource: arn:aws:sagemaker",
    ):
        client.create_run("0")
    assert {(line["decision"], *line["actions"]) for line in audit_lines(server)} >= {
        ("allow", "sagemaker-mlflow:CreateRun"),
        ("deny", "sagemaker-mlflow:CreateRun"),
    }


def test_nobody_may_do_nothing(server: Server) -> None:
    answer = requests.post(
        f"{server.url}/api/2.0/mlflow/runs/create", json={"experiment_id": "0"}, timeout=30
    )
    assert answer.status_code == 401
    assert answer.json()["error_code"] == "UNAUTHENTICATED"


def test_bearer(server: Server, guarded: Guarded) -> None:
    keys = guarded.account.assume("Reader")
    answer = requests.post(f"{server.url}/iam/token", headers=bearer(keys, server.url), timeout=30)
    assert answer.status_code == 200, answer.text
    headers = {"Authorization": "Bearer " + answer.json()["access_token"]}
    who = requests.get(f"{server.url}/iam/whoami", headers=headers, timeout=30).json()
    assert (who["via"], who["principal"], who["session"]) == ("bearer", "role", "person")
    assert "CreateRun" not in who["actions"]
