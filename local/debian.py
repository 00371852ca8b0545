"""Debian's packages as plain files: needs no root, and changes nothing on the machine."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
MIRROR = "http://deb.debian.org/debian"


class NotPossible(RuntimeError):
    """This way of getting something does not work on this machine; the message says why."""


def unpack(packages: Sequence[str], *, suite: str, target: Path, dependencies: bool) -> Path:
    """Unpack packages of a release, with all that they need or without, and return the root of their files.

    Replaces what is in `target`. Raises NotPossible.
    """
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb") and KEYRING.exists()):
        raise NotPossible("plain files come from Debian packages, and this is no Debian")
    shutil.rmtree(target, ignore_errors=True)
    options = _private_apt(target / "apt", suite)
    archives = target / "apt" / "cache" / "archives"
    run("apt-get", *options, "-qq", "update")
    if dependencies:
        run("apt-get", *options, "-y", "-qq", "--download-only", "install", *packages)
    else:
        run("apt-get", *options, "-qq", "download", *packages, directory=archives)
    root = target / "root"
    root.mkdir()
    for package in sorted(archives.glob("*.deb")):
        run("dpkg-deb", "-x", str(package), str(root))
    shutil.rmtree(target / "apt")
    return root


def _private_apt(directory: Path, suite: str) -> list[str]:
    """Options that make apt use lists, state and cache of its own, and so need no root and change nothing."""
    for name in ("etc/parts", "state/lists/partial", "cache/archives/partial"):
        (directory / name).mkdir(parents=True)
    (directory / "status").touch()
    (directory / "sources.list").write_text(f"deb [signed-by={KEYRING}] {_mirror()} {suite} main\n")
    settings = {
        "Dir::Etc::sourcelist": directory / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "Dir::Etc::parts": directory / "etc/parts",
        "Dir::State": directory / "state",
        "Dir::State::status": directory / "status",
        "Dir::Cache": directory / "cache",
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "",
        "Acquire::Languages": "none",
        "Debug::NoLocking": "true",
    }
    return [part for name, value in settings.items() for part in ("-o", f"{name}={value}")]


def _mirror() -> str:
    """The Debian mirror that this machine is set up for."""
    configured = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Origin: Debian"],
        capture_output=True,
        text=True,
    ).stdout.split()
    return next((uri.rstrip("/") for uri in configured if "security" not in uri), MIRROR)


def only(root: Path, pattern: str) -> Path:
    """The first file of unpacked packages whose name fits. Raises NotPossible when there is none."""
    found = sorted(path for path in root.rglob(pattern) if path.exists())
    if not found:
        raise NotPossible(f"the packages hold no {pattern}")
    return found[0]


def run(*command: str, directory: Path | None = None, environment: dict[str, str] | None = None) -> None:
    """Run a command to its end. Raises NotPossible with the last line that it printed."""
    done = subprocess.run(
        command,
        cwd=directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise NotPossible(f"`{' '.join(command[:3])} …` failed: {lines[-1] if lines else done.returncode}")
