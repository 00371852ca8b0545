"""The fast store: what it answers itself, what it leaves to MLflow, and when it is not used at all."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest
import requests
from server_process import PYTHON, REPOSITORY, Backend, Server

MLFLOWS_OWN = "access-control-allow-credentials"
"""A header of every answer of MLflow's handlers, and of no fast one."""


@pytest.fixture(scope="module", params=["mysqlclient", "pymysql"])
def server(
    request: pytest.FixtureRequest, start_once: Callable[..., Any], migrated_backend: Backend
) -> Server:
    if request.param == "mysqlclient":
        found = subprocess.run([PYTHON, "-c", "import MySQLdb"], capture_output=True)
        if found.returncode != 0:
            pytest.skip("mysqlclient is not installed here: see `python -m local.get_mysqlclient`")
    server: Server = start_once("serve", migrated_backend, DATABASE_DRIVER=request.param)
    return server.wait_until_healthy()


def post(server: Server, path: str, body: dict[str, Any], *, fast: bool = True) -> Any:
    answer = requests.post(f"{server.url}/api/2.0/mlflow/{path}", json=body, timeout=30)
    assert answer.status_code == 200, answer.text
    assert (MLFLOWS_OWN not in answer.headers) is fast
    return answer.json()


def get_run(server: Server, run_id: str) -> Any:
    answer = requests.get(f"{server.url}/api/2.0/mlflow/runs/get", params={"run_id": run_id}, timeout=30)
    assert answer.status_code == 200, answer.text
    assert MLFLOWS_OWN not in answer.headers
    return answer.json()["run"]


@pytest.fixture
def run_id(server: Server) -> str:
    body = {"experiment_id": "0", "user_id": "someone", "start_time": int(time.time() * 1000)}
    return str(post(server, "runs/create", body)["run"]["info"]["run_id"])


def metric(key: str, value: float | str, step: int) -> dict[str, Any]:
    return {"key": key, "value": value, "timestamp": 1000 + step, "step": step}


def test_the_life_of_a_run_is_answered_fast(server: Server, run_id: str) -> None:
    batch = {
        "run_id": run_id,
        "metrics": [metric("loss", 0.1 * step, step) for step in (3, 1, 2)],
        "params": [{"key": "learning rate", "value": "1e-3"}],
        "tags": [{"key": "team", "value": "größe"}],
    }
    for _ in range(2):  # a client that has lost the answer sends its batch again
        post(server, "runs/log-batch", batch)
    post(server, "runs/log-metric", {"run_id": run_id, "run_uuid": run_id, **metric("accuracy", 1, 0)})
    post(server, "runs/log-parameter", {"run_id": run_id, "key": "depth", "value": "3"})
    post(server, "runs/set-tag", {"run_id": run_id, "key": "team", "value": "b"})
    ended = post(
        server, "runs/update", {"run_id": run_id, "status": "FINISHED", "end_time": 5, "run_name": "n"}
    )
    assert (ended["run_info"]["status"], ended["run_info"]["run_name"]) == ("FINISHED", "n")
    run = get_run(server, run_id)
    assert {each["key"]: (each["value"], each["step"]) for each in run["data"]["metrics"]} == {
        "loss": (pytest.approx(0.3), 3),
        "accuracy": (1.0, 0),
    }
    assert {each["key"]: each["value"] for each in run["data"]["params"]} == {
        "learning rate": "1e-3",
        "depth": "3",
    }
    tags = {each["key"]: each["value"] for each in run["data"]["tags"]}
    assert (tags["team"], tags["mlflow.runName"]) == ("b", "n")
    found = post(server, "runs/search", {"experiment_ids": ["0"], "max_results": 1000})["runs"]
    assert run in found


def test_a_tag_takes_over_the_spelling_that_it_is_set_with(server: Server, run_id: str) -> None:
    """The database takes both spellings for the same; MLflow's own store does this too."""
    for key, value in (("loss", "1"), ("LOSS", "2")):
        post(server, "runs/set-tag", {"run_id": run_id, "key": key, "value": value})
    # an id in capitals is left to MLflow, which writes it as it came
    post(server, "runs/set-tag", {"run_id": run_id.upper(), "key": "LOSS", "value": "3"}, fast=False)
    post(server, "runs/set-tag", {"run_id": run_id, "key": "Loss", "value": "4"})
    tags = {each["key"]: each["value"] for each in get_run(server, run_id)["data"]["tags"]}
    assert {key: value for key, value in tags.items() if key.lower() == "loss"} == {"Loss": "4"}


def test_a_search_goes_through_its_pages_fast(server: Server, run_id: str) -> None:
    for number in range(3):
        post(server, "runs/create", {"experiment_id": "0", "user_id": "u", "start_time": number})
    seen: list[str] = []
    token = ""
    while True:
        body = {"experiment_ids": ["0"], "max_results": 2, "page_token": token}
        page = post(server, "runs/search", body)
        seen += [run["info"]["run_id"] for run in page["runs"]]
        token = page.get("next_page_token", "")
        if not token:
            break
    assert run_id in seen
    assert len(seen) == len(set(seen)) > 3


def test_a_search_with_a_filter_and_an_order_is_answered_fast(server: Server, run_id: str) -> None:
    post(server, "runs/log-batch", {"run_id": run_id, "metrics": [metric("score", 7.5, 1)]})
    body = {
        "experiment_ids": ["0"],
        "filter": "metrics.score > 7 and attributes.status = 'RUNNING'",
        "order_by": ["metrics.score DESC"],
    }
    runs = post(server, "runs/search", body)["runs"]
    assert run_id in [run["info"]["run_id"] for run in runs]


def test_the_order_that_the_ui_asks_for_is_that_of_no_order(server: Server, run_id: str) -> None:
    plain = {"experiment_ids": ["0"], "max_results": 100}
    ordered = post(server, "runs/search", {**plain, "order_by": ["attributes.start_time DESC"]})
    assert run_id in [run["info"]["run_id"] for run in ordered["runs"]]
    assert ordered == post(server, "runs/search", plain)


def test_an_experiment_named_twice_is_searched_once(server: Server, run_id: str) -> None:
    runs = post(server, "runs/search", {"experiment_ids": ["0", "0"]})["runs"]
    assert [run["info"]["run_id"] for run in runs].count(run_id) == 1


def test_mlflow_does_what_is_unusual(server: Server, run_id: str) -> None:
    body = {"run_id": run_id, "metrics": [metric("diverged", "NaN", 1)]}
    post(server, "runs/log-batch", body, fast=False)
    assert get_run(server, run_id)["data"]["metrics"][0]["value"] == "NaN"


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        (
            "runs/log-batch",
            {"metrics": [{"key": "a", "value": 1, "timestamp": -1}]},
            "INVALID_PARAMETER_VALUE",
        ),
        ("runs/log-batch", {"params": [{"key": "../a", "value": "x"}]}, "INVALID_PARAMETER_VALUE"),
        ("runs/log-parameter", {"key": "p" * 251, "value": "x"}, "INVALID_PARAMETER_VALUE"),
        ("runs/set-tag", {"key": "a\u0000", "value": "x"}, "INVALID_PARAMETER_VALUE"),
    ],
)
def test_errors_are_mlflows(server: Server, run_id: str, path: str, body: dict[str, Any], code: str) -> None:
    url = f"{server.url}/api/2.0/mlflow/{path}"
    answer = requests.post(url, json={"run_id": run_id, **body}, timeout=30)
    assert (answer.status_code, answer.json()["error_code"]) == (400, code)
    assert MLFLOWS_OWN in answer.headers


def test_a_parameter_cannot_change(server: Server, run_id: str) -> None:
    url = f"{server.url}/api/2.0/mlflow/runs/log-batch"
    post(server, "runs/log-batch", {"run_id": run_id, "params": [{"key": "p", "value": "1"}]})
    body = {"run_id": run_id, "metrics": [metric("m", 1, 1)], "params": [{"key": "p", "value": "2"}]}
    answer = requests.post(url, json=body, timeout=30)
    assert answer.json()["error_code"] == "INVALID_PARAMETER_VALUE"
    assert "metrics" not in get_run(server, run_id)["data"]


@pytest.mark.parametrize("headers", [{"Host": "other.example.com"}, {"Origin": "https://other.example.com"}])
def test_fast_calls_stand_behind_mlflows_checks(server: Server, run_id: str, headers: dict[str, str]) -> None:
    url = f"{server.url}/api/2.0/mlflow/runs/set-tag"
    body = {"run_id": run_id, "key": "a", "value": "b"}
    assert requests.post(url, json=body, headers=headers, timeout=30).status_code == 403
    answer = requests.post(url, json=body, timeout=30)
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-frame-options"] == "SAMEORIGIN"


def test_the_stock_store_can_be_asked_for(start: Callable[..., Any], migrated_backend: Backend) -> None:
    server: Server = start("serve", migrated_backend, TRACKING_STORE="stock").wait_until_healthy()
    post(server, "runs/search", {"experiment_ids": ["0"]}, fast=False)


def test_another_mlflow_gets_its_own_store() -> None:
    program = (
        "import json, logging, mlflow, sqlalchemy\n"
        "logging.basicConfig(format='%(message)s')\n"
        "from tracking_server.fast import install\n"
        "engine = sqlalchemy.create_engine('mysql+pymysql://')\n"
        "known = install.is_supported(engine)\n"
        "mlflow.__version__ = '3.99.0'\n"
        "print(json.dumps([known, install.is_supported(engine)]))\n"
    )
    done = subprocess.run(
        [PYTHON, "-c", program], cwd=REPOSITORY / "container", capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == [True, False]
    assert "not 3.99.0: serving with MLflow's own" in done.stderr
