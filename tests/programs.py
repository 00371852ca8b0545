"""Programs that some tests need and Python packages do not bring: a reverse proxy and a browser."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True, kw_only=True)
class Program:
    """A program, how to find it, and what to install where it is missing."""

    name: str
    package: str
    """Debian's name of it."""

    find: Callable[[], Path | None]

    def required(self) -> Path:
        """The program; skips the test that needs it where there is none."""
        found = self.find()
        if found is None:
            pytest.skip(
                f"no {self.name} found: run `python -m tests.get_programs`, or install it ({self.package})"
            )
        return found


def on_path(*names: str) -> Path | None:
    """The first of `names` that is on the PATH, or where Debian keeps programs of the administrator."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])
    found = (shutil.which(name, path=path) for name in names)
    return next((Path(program) for program in found if program), None)


def find_chromium() -> Path | None:
    """Chromium or its kin on the PATH, else the one that playwright has downloaded."""
    return on_path("chromium", "chromium-browser", "google-chrome") or _downloaded_chromium()


def _downloaded_chromium() -> Path | None:
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return None
    with sync_playwright() as playwright:
        program = Path(playwright.chromium.executable_path)
    return program if program.exists() else None


NGINX = Program(name="nginx", package="nginx-light", find=lambda: on_path("nginx"))
CHROMIUM = Program(name="chromium", package="chromium", find=find_chromium)
PROGRAMS = (NGINX, CHROMIUM)
