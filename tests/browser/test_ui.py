"""MLflow's UI in a real Chromium, behind the gate: one-use links, sessions, refusals, and pages of other sites."""

from __future__ import annotations

import functools
import http.server
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
from guarded import audit_lines
from people import HTTPS_ORIGIN, SECONDS, Person, Servers
from playwright.sync_api import Page, expect
from server_process import Server

from local.database import free_port

COOKIE = "mlflow-session"
NOT_HERE = {
    "/ajax-api/2.0/mlflow/users/current",
    "/ajax-api/3.0/mlflow/assistant/config",
    "/ajax-api/3.0/mlflow/assistant/providers",
}
"""What the UI asks for whether or not the server has it: MLflow's own passwords, and its assistant."""

ANOTHER_SITE = "a page of another site may not use this session"
REVOCATION_SECONDS = 2


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run of an experiment called `forecast`."""

    experiment: str
    id: str
    server: Server

    @property
    def page(self) -> str:
        return f"{self.server.url}/#/experiments/{self.experiment}/runs/{self.id}"


@pytest.fixture(scope="module")
def run(servers: Servers) -> Run:
    experiment = servers.call("DataScientist", "experiments/create", {"name": "forecast"})["experiment_id"]
    body = {"experiment_id": experiment, "run_name": "baseline", "start_time": int(time.time() * 1000)}
    info = servers.call("DataScientist", "runs/create", body)["run"]["info"]
    return Run(experiment=experiment, id=info["run_id"], server=servers.first)


def name_of(servers: Servers, run: Run) -> str:
    """The name of the run, as the API has it."""
    found = servers.call("Reader", "runs/search", {"experiment_ids": [run.experiment]})["runs"]
    return next(str(each["info"]["run_name"]) for each in found if each["info"]["run_id"] == run.id)


def rename(page: Page, name: str) -> None:
    """Rename the run whose page is open, as a person does."""
    page.get_by_test_id("overflow-menu-trigger").click()
    page.get_by_role("menuitem", name="Rename").click()
    dialog = page.get_by_role("dialog", name="Rename Run")
    dialog.get_by_role("textbox").fill(name)
    dialog.get_by_role("button", name="Save").click()


def status_with(server: Server, value: str, *, cookie: str = COOKIE) -> int:
    """What a server answers to a session's cookie."""
    answer = requests.get(
        f"{server.url}/iam/whoami", headers={"Cookie": f"{cookie}={value}"}, timeout=SECONDS
    )
    return answer.status_code


def session_of(person: Person) -> str:
    """The value of the session's cookie."""
    return next(cookie["value"] for cookie in person.context.cookies() if cookie["name"] == COOKIE)


def test_nobody_is_shown_how_to_sign_in(servers: Servers, person: Person) -> None:
    answer = person.page.goto(servers.first.url)
    assert answer is not None
    assert answer.status == 401
    expect(person.page.get_by_role("heading", name="Not signed in")).to_be_visible()
    expect(person.page.get_by_text("Run kit open with your AWS credentials")).to_be_visible()
    assert person.answers == {(401, "/")}
    assert person.complaints == [], "of the page's own policy, for example"


def test_link_opens_the_ui_once(servers: Servers, run: Run, new_person: Callable[[], Person]) -> None:
    link = servers.link("Reader")
    token = urlsplit(link).fragment
    person = new_person()
    page = person.sign_in(link)
    page.goto(f"{servers.first.url}/#/experiments")
    expect(page.get_by_role("link", name="forecast")).to_be_visible()
    assert token not in page.url
    (cookie,) = person.context.cookies()
    assert cookie["name"] == COOKIE
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Lax", "/")
    assert page.evaluate("document.cookie") == ""

    second = new_person()
    second.page.goto(link)
    assert "this link was used already" in second.said()
    assert "kit open" in second.said()
    assert second.context.cookies() == []
    for server in (servers.first, servers.second):
        assert token not in server.output
        assert token.rpartition(".")[2] not in server.output
        assert cookie["value"] not in server.output


def test_link_expires(servers: Servers, person: Person) -> None:
    link = servers.link("Reader", expires_in_seconds=5)
    time.sleep(6)
    person.page.goto(link)
    assert "this link has expired" in person.said()
    assert person.context.cookies() == []


def test_link_of_another_server(servers: Servers, new_person: Callable[[], Person]) -> None:
    link = servers.link("Reader")
    token = urlsplit(link).fragment
    for to, from_link in (
        (servers.other_key, link),
        (servers.first, servers.link("Reader", servers.https)),  # which has the same key, but another ARN
    ):
        person = new_person()
        person.page.goto(f"{to.url}/iam/open#{urlsplit(from_link).fragment}")
        assert "this link was not made by this server" in person.said()
    person = new_person()
    person.page.goto(f"http://127.0.0.1:{servers.first.port}/iam/open#{token}")
    assert "Invalid Host header: this is no name of the server" in person.said()
    new_person().sign_in(link)  # nothing of this has used it up


def test_reader_is_told_why_a_run_keeps_its_name(servers: Servers, run: Run, person: Person) -> None:
    page = person.sign_in(servers.link("Reader"))
    page.goto(run.page)
    expect(page.get_by_role("heading", name="baseline")).to_be_visible()
    rename(page, "stolen")
    expect(page.get_by_role("dialog", name="Rename Run").get_by_role("alert")).to_contain_text(
        "is not authorized to perform: sagemaker-mlflow:UpdateRun on resource: arn:aws:sagemaker:"
    )
    assert name_of(servers, run) == "baseline"
    refused = {(status, path) for status, path in person.answers if status in (401, 403)}
    assert refused == {(403, "/ajax-api/2.0/mlflow/runs/update")}


def test_scientist_renames_a_run(servers: Servers, run: Run, person: Person) -> None:
    page = person.sign_in(servers.link("DataScientist"))
    page.goto(run.page)
    rename(page, "champion")
    expect(page.get_by_role("heading", name="champion")).to_be_visible()
    assert name_of(servers, run) == "champion"
    assert person.complaints == []
    assert {path for status, path in person.answers if status >= 400} <= NOT_HERE
    assert person.asked == {urlsplit(run.server.url).netloc}


def test_session_holds_on_every_task_and_ends_on_every_task(servers: Servers, person: Person) -> None:
    page = person.sign_in(servers.link("Reader"))
    value = session_of(person)
    page.goto(f"{servers.second.url}/#/experiments")
    expect(page.get_by_role("link", name="Default")).to_be_visible()
    assert session_of(person) == value

    page.goto(f"{servers.first.url}/iam/logout")
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="Signed out")).to_be_visible()
    ended = time.monotonic()
    assert person.context.cookies() == []
    assert status_with(servers.first, value) == 401
    time.sleep(max(0.0, ended + REVOCATION_SECONDS - time.monotonic()))
    assert status_with(servers.second, value) == 401, "who kept a copy of the cookie has nothing"
    page.goto(servers.second.url)
    expect(page.get_by_role("heading", name="Not signed in")).to_be_visible()
    assert person.complaints == []


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int]]:
    """A folder that a web server of somebody else shows, and its port."""
    folder = tmp_path_factory.mktemp("elsewhere")
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", free_port()), handler) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        yield folder, web.server_port
        web.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


FORM = """\
<form method="post" enctype="text/plain" action="{url}/ajax-api/2.0/mlflow/runs/create">
<input name='{{"experiment_id": "{experiment}", "run_name": "' value='"}}'><button>Win a prize</button></form>"""

FETCH = """\
async ([url, experiment]) => {
  const create = url + "/ajax-api/2.0/mlflow/runs/create";
  const body = JSON.stringify({ experiment_id: experiment });
  const post = async (address, options) => {
    try { return await (await fetch(address, { method: "POST", credentials: "include", ...options })).text() }
    catch (error) { return error.name }
  };
  return [
    await post(create, { body }),
    await post(create, { body, mode: "no-cors" }),
    await post(create, { body, headers: { "Content-Type": "application/json" } }),
    await post(url + "/iam/session", { body: "{}" }),
    await post(url + "/iam/logout", {}),
  ];
}"""

READ = """\
async address => Promise.all(["cors", "no-cors"].map(mode =>
  fetch(address, { credentials: "include", mode }).then(answer => answer.text(), error => error.name)))"""


@pytest.mark.parametrize(
    ("host", "status"),
    [
        pytest.param("127.0.0.1", 401, id="another site: the cookie is not sent"),
        pytest.param("localhost", 403, id="another origin of the same site: the cookie is sent"),
    ],
)
def test_pages_of_others_change_nothing(
    servers: Servers, run: Run, person: Person, elsewhere: tuple[Path, int], host: str, status: int
) -> None:
    folder, port = elsewhere
    page = person.sign_in(servers.link("DataScientist"))
    value = session_of(person)
    (folder / "index.html").write_text(FORM.format(url=run.server.url, experiment=run.experiment))
    before = len(servers.call("Reader", "runs/search", {"experiment_ids": [run.experiment]})["runs"])
    seen = len(audit_lines(servers.first))

    page.goto(f"http://{host}:{port}/")
    answers = page.evaluate(FETCH, [run.server.url, run.experiment])
    assert answers == ["TypeError", "", "TypeError", "TypeError", "TypeError"]
    with page.expect_navigation() as navigation:
        page.get_by_role("button").click()
    assert navigation.value.status == status

    assert len(servers.call("Reader", "runs/search", {"experiment_ids": [run.experiment]})["runs"]) == before
    assert status_with(servers.first, value) == 200, "nobody was signed out either"
    tried = [line for line in audit_lines(servers.first)[seen:] if line["path"].endswith("/runs/create")]
    posted = [(line["decision"], line["status"]) for line in tried if line["method"] == "POST"]
    assert posted == [("deny", status)] * 3, tried  # the form, and what needs no preflight
    if status == 403:
        assert {line["reason"] for line in tried if line["method"] == "POST"} == {ANOTHER_SITE}


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_pages_of_others_read_nothing(
    servers: Servers, run: Run, person: Person, elsewhere: tuple[Path, int], host: str
) -> None:
    folder, port = elsewhere
    page = person.sign_in(servers.link("Reader"))
    (folder / "index.html").write_text("<!doctype html>")
    page.goto(f"http://{host}:{port}/")
    path = f"/ajax-api/2.0/mlflow/experiments/get?experiment_id={run.experiment}"
    assert page.evaluate(READ, run.server.url + path) == ["TypeError", ""]


def test_cookie_on_https(servers: Servers) -> None:
    link = servers.link("Reader", servers.https)
    assert link.startswith(f"{HTTPS_ORIGIN}/iam/open#")
    answer = requests.post(
        f"{servers.https.url}/iam/session",
        json={"token": urlsplit(link).fragment},
        headers={"Origin": HTTPS_ORIGIN},
        timeout=SECONDS,
    )
    assert answer.status_code == 204
    pair, *attributes = answer.headers["Set-Cookie"].split("; ")
    name, _, value = pair.partition("=")
    assert name == f"__Host-{COOKIE}"
    assert set(attributes) == {"Path=/", "Max-Age=43200", "HttpOnly", "SameSite=Lax", "Secure"}
    assert status_with(servers.https, value, cookie=name) == 200
    assert status_with(servers.https, value) == 401, "a cookie that another host could have set"
