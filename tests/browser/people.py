"""What the browser tests drive: servers whose origins the browser knows, and people who sit at it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import requests
from guarded import Guarded, bearer, gate_variables
from playwright.sync_api import BrowserContext, ConsoleMessage, Page, expect
from server_process import Process, Server

SECONDS = 30
HTTPS_ORIGIN = "https://mlflow.example.com"


class OnPort(Server):
    """A server whose port is known before it starts, since its origins name it."""

    def __init__(self, guarded: Guarded, *, port: int, **overrides: str) -> None:
        self.port = port
        variables = {**gate_variables(), "MLFLOW_PORT": str(port), **overrides}
        environment = guarded.backend.environment(**variables)
        Process.__init__(self, "serve", environment=environment, directory=guarded.directory)


@dataclass(frozen=True, kw_only=True)
class Servers:
    """Two processes of one server, and two that are not that server."""

    guarded: Guarded
    first: Server
    second: Server
    other_key: Server
    """As `first`, and on its database, but with a secret of its own."""

    https: Server
    """With the secret of `first`, but an ARN of its own; behind a front at HTTPS_ORIGIN that is not there."""

    def link(self, role: str, server: Server | None = None, **options: int) -> str:
        """A one-use link for a session of `role`."""
        server = server or self.first
        headers = bearer(self.guarded.account.assume(role), server.url)
        url = f"{server.url}/iam/presigned-url"
        answer = requests.post(url, headers=headers, json=options, timeout=SECONDS)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["authorized_url"])

    def call(self, role: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Call MLflow's API as a session of `role`."""
        headers = bearer(self.guarded.account.assume(role), self.first.url)
        url = f"{self.first.url}/api/2.0/mlflow/{path}"
        answer = requests.post(url, headers=headers, json=body, timeout=SECONDS)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())


@dataclass(kw_only=True)
class Person:
    """A browser profile with one tab, and what happened in it."""

    context: BrowserContext
    page: Page
    complaints: list[str] = field(default_factory=list)
    """Uncaught errors, and what the console complained of but for answers that are errors."""

    answers: set[tuple[int, str]] = field(default_factory=set)
    """Status and path of every answer."""

    asked: set[str] = field(default_factory=set)
    """Every host and port that was asked for something."""

    def __post_init__(self) -> None:
        self.page.on("console", self._note)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.asked.add(urlsplit(request.url).netloc))
        self.page.on("response", lambda answer: self.answers.add((answer.status, urlsplit(answer.url).path)))

    def _note(self, said: ConsoleMessage) -> None:
        if said.type == "error" and not said.text.startswith("Failed to load resource: the server responded"):
            self.complaints.append(said.text)

    def sign_in(self, link: str) -> Page:
        """Open a link and wait for the UI."""
        self.page.goto(link)
        self.page.wait_for_url(lambda url: "/iam/" not in url)
        return self.page

    def said(self) -> str:
        """What the gate's page says, once it no longer says that it is at work."""
        said = self.page.locator(".said")
        expect(said).not_to_contain_text("Signing you in")
        return said.inner_text()
