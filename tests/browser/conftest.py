"""Fixtures of the browser tests: guarded servers, and a real Chromium that people of each role sit at."""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent.parent
sys.path[:0] = [str(TESTS / "access"), str(TESTS / "integration")]

from access.conftest import account, aws, database_server, guarded  # noqa: E402
from guarded import ARN, Guarded  # noqa: E402
from people import HTTPS_ORIGIN, SECONDS, OnPort, Person, Servers  # noqa: E402
from playwright.sync_api import Browser, BrowserContext, expect, sync_playwright  # noqa: E402
from programs import CHROMIUM  # noqa: E402

from local.database import free_port  # noqa: E402

__all__ = ["account", "aws", "database_server", "guarded"]

# nothing that asks the makers of the browser for anything
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--disable-sync",
)

expect.set_options(timeout=SECONDS * 1000)


@pytest.fixture(scope="module")
def servers(chromium: Browser, guarded: Guarded) -> Iterator[Servers]:
    """Every server of the module, started at once."""
    ports = [free_port() for _ in range(4)]
    origins = [f"http://localhost:{port}" for port in ports]
    both = {"MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": ",".join(origins[:2])}
    secret = guarded.backend.client("secretsmanager").create_secret(
        Name="another-server", SecretString=json.dumps({"seed": secrets.token_hex(32)})
    )
    started = [
        OnPort(guarded, port=ports[0], **both),
        OnPort(guarded, port=ports[1], **both),
        OnPort(
            guarded,
            port=ports[2],
            MLFLOW_SERVER_CORS_ALLOWED_ORIGINS=origins[2],
            SERVER_SECRET_ARN=secret["ARN"],
        ),
        OnPort(
            guarded,
            port=ports[3],
            MLFLOW_SERVER_CORS_ALLOWED_ORIGINS=HTTPS_ORIGIN,
            TRACKING_SERVER_ARN=f"{ARN}-another",
        ),
    ]
    try:
        first, second, other_key, https = (server.wait_until_healthy() for server in started)
        yield Servers(guarded=guarded, first=first, second=second, other_key=other_key, https=https)
    finally:
        for server in started:
            server.kill()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    program = CHROMIUM.required()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(ARGUMENTS))
        yield browser
        browser.close()


@pytest.fixture
def new_person(chromium: Browser) -> Iterator[Callable[[], Person]]:
    """Makes people, each with a browser profile of their own."""
    contexts: list[BrowserContext] = []

    def new() -> Person:
        contexts.append(chromium.new_context(viewport={"width": 1100, "height": 620}))
        contexts[-1].set_default_timeout(SECONDS * 1000)
        return Person(context=contexts[-1], page=contexts[-1].new_page())

    yield new
    for context in contexts:
        context.close()


@pytest.fixture
def person(new_person: Callable[[], Person]) -> Person:
    return new_person()
