"""The table of routes: its form, its actions against AWS's own list, and how a request is found in it."""

from __future__ import annotations

import csv
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tracking_server.access.routes import ROUTES_FILE, Route, Routes, Rule

ROOT = Path(__file__).parents[2]
TABLE: dict[str, Any] = json.loads(ROUTES_FILE.read_text(encoding="utf-8"))
ROUTES = Routes.load()

METHODS = {"DELETE", "GET", "PATCH", "POST", "PUT"}

READS_SENT_AS_POST = {
    "/ajax-api/2.0/mlflow/experiments/search-datasets",
    "/ajax-api/3.0/jobs/search",
    "/graphql",
    "/iam/presigned-url",
} | {
    f"/{api}/{path}"
    for api in ("api", "ajax-api")
    for path in (
        "2.0/mlflow/artifacts/presigned-download-url",
        "2.0/mlflow/experiments/search",
        "2.0/mlflow/logged-models/search",
        "2.0/mlflow/registered-models/get-latest-versions",
        "2.0/mlflow/runs/search",
        "3.0/mlflow/datasets/search",
        "3.0/mlflow/issues/search",
        "3.0/mlflow/prompt-optimization/jobs/search",
        "3.0/mlflow/traces/batchGetInfos",
        "3.0/mlflow/traces/calculate-filter-correlation",
        "3.0/mlflow/traces/metrics",
        "3.0/mlflow/traces/search",
    )
}
"""What changes nothing on the server although its method is POST."""


def access_levels() -> dict[str, str]:
    """AWS's own list: action to `Read`, `List` or `Write`."""
    file = Path(__file__).with_name("data") / "sagemaker_mlflow_actions.tsv"
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return {row["action"]: row["access_level"] for row in csv.DictReader(lines, delimiter="\t")}


def reads(action: str) -> bool:
    """Whether an action only reads: by AWS's level, and by its verb if it is an extension."""
    level = access_levels().get(action)
    return level in ("Read", "List") if level else action.startswith(("Get", "List", "Search"))


def granted(role: str) -> set[str]:
    """The actions that a role's policy names, without the prefix."""
    policy = json.loads((ROOT / "policies" / f"{role}.json").read_text(encoding="utf-8"))
    statements = [statement["Action"] for statement in policy["Statement"]]
    names = [name for names in statements for name in ([names] if isinstance(names, str) else names)]
    assert all(name.startswith("sagemaker-mlflow:") for name in names)
    return {name.removeprefix("sagemaker-mlflow:") for name in names}


# --- the file


def test_the_file_is_sorted_and_has_one_route_a_line() -> None:
    routes = sorted(TABLE["routes"], key=lambda route: (route["path"], route["method"]))
    lines = [
        "{",
        f'  "mlflow": {json.dumps(TABLE["mlflow"])},',
        '  "official_actions": [',
        ",\n".join(f"    {json.dumps(action)}" for action in sorted(TABLE["official_actions"])),
        "  ],",
        '  "routes": [',
        ",\n".join(f"    {json.dumps(route)}" for route in routes),
        "  ]",
        "}",
    ]
    assert ROUTES_FILE.read_text(encoding="utf-8") == "\n".join(lines) + "\n"


def test_the_file_is_of_the_pinned_mlflow() -> None:
    lock = (ROOT / "container" / "requirements.txt").read_text(encoding="utf-8")
    assert f"\nmlflow=={TABLE['mlflow']} " in lock


def test_every_route_is_well_formed() -> None:
    action = re.compile(r"[A-Z][A-Za-z]+")
    segment = re.compile(r"[A-Za-z0-9._-]+|<path:[a-z_]+>|<[a-z_]+>(:[A-Za-z]+)?")
    for route in TABLE["routes"]:
        if "action" in route:
            assert set(route) <= {"method", "path", "action", "also"}, route
            assert all(action.fullmatch(name) for name in (route["action"], *route.get("also", ()))), route
        else:
            assert set(route) == {"method", "path", "decision", "why"}, route
            assert route["decision"] in ("public", "denied", "authenticated"), route
            assert route["why"], route
        assert route["method"] in METHODS, route
        assert all(map(segment.fullmatch, route["path"].strip("/").split("/"))) or route["path"] == "/", route


def test_no_route_is_there_twice() -> None:
    shapes = [
        (route["method"], re.sub(r"<(path:)?\w+>", r"<\1>", route["path"])) for route in TABLE["routes"]
    ]
    assert len(set(shapes)) == len(shapes)


def test_only_what_must_be_is_public() -> None:
    assert {route.path for route in ROUTES.entries if route.rule.decision == "public"} == {
        "/ajax-api/3.0/mlflow/server-info",
        "/api/3.0/mlflow/server-info",
        "/health",
        "/iam/logout",
        "/iam/open",
        "/iam/session",
    }


def test_the_assistant_is_denied() -> None:
    assistant = [route.rule.decision for route in ROUTES.entries if "/assistant" in route.path]
    assert set(assistant) == {"denied"}


# --- the actions


def test_the_official_actions_are_those_of_aws_and_each_is_used() -> None:
    assert set(access_levels()) == ROUTES.official_actions
    assert ROUTES.official_actions <= ROUTES.all_actions()
    assert len(ROUTES.official_actions) == 61


def test_no_two_actions_are_one_to_iam_which_ignores_case() -> None:
    actions = ROUTES.all_actions()
    assert len({action.lower() for action in actions}) == len(actions)


def test_no_write_is_allowed_by_an_action_that_only_reads() -> None:
    writes = [
        route
        for route in ROUTES.entries
        if route.rule.actions and route.method != "GET" and route.path not in READS_SENT_AS_POST
    ]
    assert len(writes) > 200
    assert [route for route in writes if any(map(reads, route.rule.actions))] == []


def test_no_read_needs_an_action_that_writes() -> None:
    looks = [route for route in ROUTES.entries if route.method == "GET" or route.path in READS_SENT_AS_POST]
    assert [route for route in looks if not all(map(reads, route.rule.actions))] == []


def test_rpcs_that_bear_the_name_of_an_action_need_it() -> None:
    for method, path, action in [
        ("POST", "/api/2.0/mlflow/runs/create", "CreateRun"),
        ("POST", "/api/2.0/mlflow/experiments/delete", "DeleteExperiment"),
        ("DELETE", "/api/2.0/mlflow/registered-models/alias", "DeleteRegisteredModelAlias"),
        ("POST", "/api/2.0/mlflow/model-versions/transition-stage", "TransitionModelVersionStage"),
        ("GET", "/ajax-api/2.0/mlflow/runs/get", "GetRun"),
    ]:
        assert ROUTES.find(method, path) == Rule("action", (action,))


@pytest.mark.parametrize("role", ["reader", "data-scientist", "model-approver"])
def test_what_a_policy_names_is_an_official_action(role: str) -> None:
    assert granted(role) <= ROUTES.official_actions


def test_the_roles_are_what_they_are_called() -> None:
    readable = set(filter(reads, ROUTES.official_actions))
    assert granted("reader") == readable
    assert granted("data-scientist") > readable
    assert granted("model-approver") > readable
    assert granted("admin") == {"AccessUI", "*"}


# --- how a request is found


def filled(path: str) -> str:
    """A path that a route answers to."""
    return re.sub(r"<\w+>", "some", re.sub(r"<path:\w+>", "some/where", path))


def test_what_the_file_says_of_a_route_is_what_it_needs() -> None:
    found = {route: ROUTES.find(route.method, filled(route.path)) for route in ROUTES.entries}
    assert {route: rule for route, rule in found.items() if rule != route.rule} == {}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/2.0/mlflow/runs/Create"),
        ("POST", "/api/2.0/mlflow/runs/create/"),
        ("POST", "//api/2.0/mlflow/runs/create"),
        ("POST", "/api/2.0/mlflow//runs/create"),
        ("POST", "/api/2.0/mlflow/./runs/create"),
        ("POST", "/api/2.0/mlflow/runs/../runs/create"),
        ("POST", "/api/2.0/mlflow/runs/create;x"),
        ("POST", "/api/2.0/mlflow/runs%2Fcreate"),
        ("POST", "/api/2.0/mlflow/runs/create\n"),
        ("POST", "api/2.0/mlflow/runs/create"),
        ("POST", ""),
        ("GET", ""),
        ("GET", "//"),
        ("GET", "/health/"),
        ("GET", "/api/3.0/mlflow/traces/"),
        ("GET", "/api/3.0/mlflow/traces/a\n"),
        ("GET", "/api/3.0/mlflow/traces/a\x00"),
        ("GET", "/api/3.0/mlflow/traces/a\\b"),
        ("GET", "/api/3.0/mlflow/traces/.."),
        ("GET", "/api/2.0/mlflow-artifacts/artifacts/"),
        ("GET", "/api/2.0/mlflow-artifacts/artifacts/a/"),
        ("GET", "/api/2.0/mlflow-artifacts/artifacts//a"),
        ("GET", "/api/2.0/mlflow-artifacts/artifacts/a/../b"),
        ("GET", "/api/2.0/mlflow-artifacts/artifacts/a/./b"),
        ("GET", "/api/2.0/mlflow-artifacts/artifacts/a\\..\\b"),
        ("GET", "/api/2.0/mlflow-artifacts/artifacts/a\x85b"),
        ("POST", "/gateway/gemini/v1beta/models/:generateContent"),
        ("POST", "/gateway/gemini/v1beta/models/a:generatecontent"),
        ("GET", "/api/2.0/mlflow/runs/create"),
        ("get", "/health"),
        ("OPTIONS", "/health"),
        ("TRACE", "/health"),
        ("CONNECT", "/health"),
        ("", "/health"),
    ],
)
def test_what_is_not_listed_as_it_stands_is_not_found(method: str, path: str) -> None:
    assert ROUTES.find(method, path) is None


@pytest.mark.parametrize(
    ("method", "path", "actions"),
    [
        ("GET", "/api/2.0/mlflow-artifacts/artifacts/1/ab/artifacts/a b/100%.txt", ("ListArtifacts",)),
        ("GET", "/api/2.0/mlflow-artifacts/artifacts/1/ab/artifacts/ä\u00a0🙂/...", ("ListArtifacts",)),
        ("PUT", "/api/2.0/mlflow-artifacts/artifacts/a;b", ("LogModel",)),
        ("POST", "/gateway/gemini/v1beta/models/a:b:generateContent", ("InvokeGatewayEndpoint",)),
        ("PATCH", "/api/3.0/mlflow/mcp-servers/io.github.someone/versions/versions/1", ("UpdateMcpServer",)),
        ("HEAD", "/static-files/static/js/main.js", ("AccessUI",)),
        ("HEAD", "/", ("AccessUI",)),
    ],
)
def test_parameters_take_what_names_are_made_of(method: str, path: str, actions: tuple[str, ...]) -> None:
    rule = ROUTES.find(method, path)
    assert rule is not None
    assert rule.actions == actions


def table(*routes: tuple[str, Rule]) -> Routes:
    entries = tuple(Route(method="GET", path=path, rule=rule) for path, rule in routes)
    return Routes(entries, frozenset())


A, B = Rule("action", ("A",)), Rule("action", ("B",))
PUBLIC, DENIED, AUTHENTICATED = Rule("public"), Rule("denied"), Rule("authenticated")


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ((A, B), Rule("action", ("A", "B"))),
        ((A, PUBLIC), A),
        ((A, AUTHENTICATED), A),
        ((A, DENIED), DENIED),
        ((PUBLIC, DENIED), DENIED),
        ((PUBLIC, AUTHENTICATED), AUTHENTICATED),
        ((PUBLIC, PUBLIC), PUBLIC),
    ],
)
@pytest.mark.parametrize(
    "paths", [("/x/y", "/x/<name>"), ("/x/<name>", "/x/<path:tail>"), ("/<path:a>/y", "/x/y")]
)
def test_where_several_routes_match_the_strictest_counts(
    rules: tuple[Rule, Rule], expected: Rule, paths: tuple[str, str]
) -> None:
    for first, second in (rules, rules[::-1]):
        assert table((paths[0], first), (paths[1], second)).find("GET", "/x/y") == expected


WORDS = st.sampled_from(["a", "b", "c", "a:d"])


def by_expression(path: str) -> str:
    """What a route's path means, said as a regular expression."""
    repeated = re.sub(r"<path:\w+>", "[^/]+(?:/[^/]+)*", re.escape(path))
    return re.sub(r"<\w+>", "[^/]+", repeated)


@given(
    st.lists(
        st.lists(st.one_of(WORDS, st.sampled_from(["<n>", "<path:p>", "<n>:d"])), min_size=1, max_size=5),
        min_size=1,
        max_size=6,
        unique_by=tuple,
    ),
    st.lists(WORDS, min_size=1, max_size=7),
)
def test_the_matcher_finds_what_regular_expressions_find(patterns: list[list[str]], words: list[str]) -> None:
    routes = [("/" + "/".join(p), Rule("action", (f"A{i}",))) for i, p in enumerate(patterns)]
    path = "/" + "/".join(words)
    expected = {rule.actions[0] for route, rule in routes if re.fullmatch(by_expression(route), path)}
    rule = table(*routes).find("GET", path)
    assert set(rule.actions if rule else ()) == expected


def test_a_long_path_is_no_way_to_keep_the_server_busy() -> None:
    path = "/api/3.0/mlflow/mcp-servers/" + "versions/tags/" * 5_000 + "x"
    start = time.monotonic()
    assert ROUTES.find("DELETE", path) is not None
    assert time.monotonic() - start < 1
