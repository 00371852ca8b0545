"""Finds the programs that some tests need, or gets them: `python -m tests.get_programs`.

Debian's packages where this is root on Debian or its kin, and for the browser playwright's own download elsewhere.
Never fails: tests that need a program skip without it, and say what to install.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence

from tests.programs import CHROMIUM, PROGRAMS

SECONDS = 600


def get_programs() -> None:
    """Install what is missing, as far as this machine lets it."""
    missing = [program.package for program in PROGRAMS if program.find() is None]
    if missing and shutil.which("apt-get") and os.geteuid() == 0:
        command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing]
        if not _run(command) and _run(["apt-get", "update", "-qq"]):
            _run(command)
    if CHROMIUM.find() is None:
        _run([sys.executable, "-m", "playwright", "install", "chromium"])


def _run(command: Sequence[str]) -> bool:
    """Whether a command succeeded; says what it said last if it did not."""
    print(f"  {' '.join(command)} …", flush=True)
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        print(f"  {error}", flush=True)
        return False
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines()
        print(f"  {lines[-1] if lines else f'exit code {done.returncode}'}", flush=True)
    return done.returncode == 0


def main() -> int:
    """Print where each program is."""
    get_programs()
    for program in PROGRAMS:
        found = program.find()
        missing = f"not found: tests that need it are skipped (install {program.package})"
        print(f"{program.name}: {found or missing}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
