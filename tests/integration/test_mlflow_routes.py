"""The table of routes against the application itself, as the server loads it."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from server_process import PYTHON, REPOSITORY
from tracking_server.access.routes import ROUTES_FILE, Routes, Rule

ROUTES = Routes.load()
OWN = "/iam/"
"""Where the server's own routes are, which MLflow knows nothing of."""

GRAPHQL_CALLS = {
    "get_experiment_impl": "GetExperiment",
    "get_metric_history_bulk_interval_impl": "GetMetricHistory",
    "get_run_impl": "GetRun",
    "list_artifacts_impl": "ListArtifacts",
    "search_datasets_impl": "SearchRuns",
    "search_model_versions_impl": "SearchModelVersions",
    "search_runs_impl": "SearchRuns",
}
"""The functions of MLflow behind the fields of its GraphQL schema, and the action that each is worth."""

GRAPHQL_FIELDS = {
    "mutation mlflowSearchDatasets",
    "mutation mlflowSearchRuns",
    "mutation testMutation",
    "query mlflowGetExperiment",
    "query mlflowGetMetricHistoryBulkInterval",
    "query mlflowGetRun",
    "query mlflowListArtifacts",
    "query mlflowSearchModelVersions",
    "query mlflowSearchRuns",
    "query test",
}


class Live:
    """The application in a process of the server's own Python, which tells what its frameworks would do."""

    def __init__(self, process: subprocess.Popen[str], *, log: Path) -> None:
        self._process = process
        self._log = log
        self.inventory: dict[str, Any] = json.loads(self._read())

    @property
    def routes(self) -> dict[tuple[str, str], str]:
        """The handler of each (method, path), whose parameters have lost their names."""
        return {(method, shape(path)): handler for method, path, handler in self.inventory["routes"]}

    def found(self, method: str, path: str) -> list[str]:
        """The paths of the routes that answer a request."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([method, path]) + "\n")
        self._process.stdin.flush()
        answer: list[str] = json.loads(self._read())
        return answer

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, self._log.read_text()
        return line


@contextmanager
def running(variant: str, directory: Path) -> Iterator[Live]:
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(REPOSITORY / "container"),
        "PYTHONWARNINGS": "ignore",
        "ACCESS_ENGINE": "open",
        "ARTIFACT_ACCESS": "server",
        "AWS_DEFAULT_REGION": "eu-west-1",
        "DATABASE_POOL_SIZE": "4",
        "MLFLOW_ARTIFACTS_DESTINATION": "s3://bucket/artifacts",
        "MLFLOW_AUTH_ADMIN_PASSWORD": "of-no-account",
        "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{directory / 'mlflow.db'}",
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "k" * 32,
        "MLFLOW_HOST": "127.0.0.1",
        "MLFLOW_PORT": "5000",
        "MLFLOW_SERVER_ALLOWED_HOSTS": "localhost",
        "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": "http://localhost",
        "MLFLOW_WORKERS": "1",
        "SERVER_DRAIN_SECONDS": "0",
        "SERVER_SECRET_ARN": "arn:aws:secretsmanager:eu-west-1:123456789012:secret:server",
        "SERVER_THREADS": "2",
        "_MLFLOW_SGI_NAME": "uvicorn",
    }
    command = [PYTHON, Path(__file__).with_name("live_routes.py"), variant]
    log = directory / f"{variant}.log"
    with (
        log.open("w") as errors,
        subprocess.Popen(
            command,
            env=environment,
            cwd=directory,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):
        try:
            yield Live(process, log=log)
        finally:
            process.kill()


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with running("served", tmp_path_factory.mktemp("live")) as application:
        yield application


def shape(path: str) -> str:
    """A path whose parameters have lost their names: frameworks call the same one differently."""
    return re.sub(r"<(path:)?\w+>", r"<\1>", path)


def filled(path: str) -> str:
    return re.sub(r"<\w+>", "some", re.sub(r"<path:\w+>", "some/where", path))


TABLE = {(route.method, shape(route.path)): route.rule for route in ROUTES.entries}


def test_every_route_of_mlflow_is_listed_and_nothing_else_is(live: Live, tmp_path: Path) -> None:
    served = set(live.routes)
    with running("permissions", tmp_path) as other:
        possible = served | set(other.routes)
    listed = {(method, path) for method, path in TABLE if not path.startswith(OWN)}
    assert {"to be listed": possible - listed, "to be dropped": listed - possible} == {
        "to be listed": set(),
        "to be dropped": set(),
    }
    table = json.loads(ROUTES_FILE.read_text(encoding="utf-8"))
    assert live.inventory["mlflow"] == table["mlflow"]


def test_mlflow_has_no_route_where_the_servers_own_are(live: Live) -> None:
    own = [route for route in ROUTES.entries if route.path.startswith(OWN)]
    assert own
    assert [route for route in own if live.found(route.method, route.path)] == []


def test_flask_is_the_only_application_inside_the_application(live: Live) -> None:
    assert live.inventory["mounts"] == [""]


def test_graphql_needs_the_actions_of_all_its_fields(live: Live) -> None:
    assert set(live.inventory["graphql"]["fields"]) == GRAPHQL_FIELDS
    assert set(live.inventory["graphql"]["calls"]) == set(GRAPHQL_CALLS)
    for method in ("GET", "POST"):
        rule = ROUTES.find(method, "/graphql")
        assert rule is not None
        assert set(rule.actions) == set(GRAPHQL_CALLS.values())


def test_the_frameworks_find_each_route_where_the_table_does(live: Live) -> None:
    served = {key for key in TABLE if key in live.routes}
    lost = [
        (route.method, route.path)
        for route in ROUTES.entries
        if (route.method, shape(route.path)) in served
        and shape(route.path) not in map(shape, live.found(route.method, filled(route.path)))
    ]
    assert lost == []


LITERALS = sorted(
    {word for route in ROUTES.entries for word in route.path.split("/") if word and "<" not in word}
)
ODD = ["", ".", "..", "...", "a;b", "%2F", "%2e%2e", "a\n", "\x00", "\\", "é", "\x85", "\u2028"]
LIKE_PLACEHOLDERS = ["a:generateContent", ":generateContent", "<path:x>", "{x}"]
PLAIN = st.sampled_from(["some", *LITERALS])
ANY = st.one_of(
    PLAIN, st.sampled_from(ODD + LIKE_PLACEHOLDERS), st.text(st.characters(exclude_categories=["Cs"]))
)
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "get", "Post"]
INSERTED = ["/", "//", "/.", "/..", "\n", "\x00", ";x", "%2F", "\\", "?", "#", " "]


@st.composite
def requests_near_the_table(draw: st.DrawFn) -> tuple[str, str]:
    """A route's method or another, and its path with anything for its parameters."""
    route = draw(st.sampled_from(ROUTES.entries))
    method = draw(st.one_of(st.just(route.method), st.sampled_from(METHODS)))
    segment = draw(st.sampled_from([PLAIN, ANY]))
    path = re.sub(
        r"<(path:)?\w+>",
        lambda match: "/".join(draw(st.lists(segment, min_size=1, max_size=4 if match[1] else 1))),
        route.path,
    )
    return method, path


@st.composite
def requests_beside_the_table(draw: st.DrawFn) -> tuple[str, str]:
    """The same with something put into the path, or in other letters."""
    method, path = draw(requests_near_the_table())
    place, inserted = draw(st.integers(0, len(path))), draw(st.sampled_from(INSERTED))
    changed = [
        path[:place] + inserted + path[place:],
        path.upper(),
        path + "\n",
        path + "/",
        "/" + path,
        path[1:],
    ]
    return method, draw(st.sampled_from(changed))


REQUESTS = st.one_of(
    requests_near_the_table(),
    requests_beside_the_table(),
    st.tuples(st.sampled_from(METHODS), st.lists(ANY, max_size=9).map(lambda words: "/" + "/".join(words))),
)


def test_the_table_finds_every_route_that_a_framework_finds_or_none(live: Live) -> None:
    """So a handler is never reached for less than its own route needs, whichever route a framework prefers."""
    named = Routes(
        tuple(
            replace(route, rule=Rule("action", (f"{route.method} {shape(route.path)}",)))
            for route in ROUTES.entries
        ),
        frozenset(),
    )
    reached = {"found": 0, "refused": 0}

    @settings(max_examples=3_000, deadline=None, suppress_health_check=list(HealthCheck))
    @given(REQUESTS)
    def ask(request: tuple[str, str]) -> None:
        method, path = request
        rule = named.find(method, path)
        for route in live.found(method, path):
            reached["refused" if rule is None else "found"] += 1
            asked_as = "GET" if method == "HEAD" else method
            assert rule is None or f"{asked_as} {shape(route)}" in rule.actions

    ask()
    assert min(reached.values()) > 100, reached
