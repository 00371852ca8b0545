"""Compiles MySQL's driver in C for the server's Python environment, where this machine can.

`python -m local.get_mysqlclient`. Against the client library that is installed, else (on Debian) against one as
plain files in .cache/mariadb, which touches nothing else. Needs a C compiler and Python's headers. Never fails:
the server has PyMySQL as well.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from local.database import REPOSITORY
from local.debian import NotPossible, only, run, unpack

ENVIRONMENT = REPOSITORY / ".venv-server"
PYTHON = ENVIRONMENT / "bin" / "python"
REQUIREMENTS = REPOSITORY / "container" / "requirements-compiled.txt"
PLAIN_FILES = REPOSITORY / ".cache" / "mariadb"
PACKAGES = ("libmariadb3", "libmariadb-dev")
PATHS_FILE = "mariadb_plugins.pth"


def install() -> None:
    """Compile the driver and install it in .venv-server. Raises NotPossible."""
    variables = {} if _is_installed() else _plain_files()
    with tempfile.TemporaryDirectory() as directory:
        # no cache: a cached wheel may look for its library in another directory
        wheel = [sys.executable, "-m", "pip", "wheel", "--no-cache-dir", "--wheel-dir", directory]
        hashed = ["--no-deps", "--no-binary", ":all:", "--require-hashes", "--requirement", str(REQUIREMENTS)]
        run(*wheel, "--no-build-isolation", *hashed, environment={**os.environ, **variables})
        install = [sys.executable, "-m", "uv", "pip", "install", "--no-deps", "--reinstall"]
        run(*install, "--python", str(PYTHON), *(str(path) for path in Path(directory).glob("*.whl")))
    run(str(PYTHON), "-c", "import MySQLdb")


def _is_installed() -> bool:
    """Whether a client library and its headers are there, under a name that the driver's build looks for."""
    names = ("mysqlclient", "mariadb", "libmariadb", "perconaserverclient")
    try:
        return any(subprocess.run(["pkg-config", "--exists", name]).returncode == 0 for name in names)
    except OSError:
        return False


def _plain_files() -> dict[str, str]:
    """Unpack this release's client library; returns the variables that lead the driver's build to it."""
    root = unpack(PACKAGES, suite=_release(), target=PLAIN_FILES, dependencies=False)
    library = only(root, "libmariadb.so").parent
    plugins = only(root, "caching_sha2_password.so").parent
    # the library itself knows only where the plugins of an installed package are
    line = f"import os; os.environ.setdefault('MARIADB_PLUGIN_DIR', {str(plugins)!r})\n"
    next(ENVIRONMENT.glob("lib/python*/site-packages")).joinpath(PATHS_FILE).write_text(line)
    return {
        "MYSQLCLIENT_CFLAGS": f"-I{only(root, 'mysql.h').parent}",
        "MYSQLCLIENT_LDFLAGS": f"-L{library} -lmariadb -Wl,-rpath,{library}",
    }


def _release() -> str:
    """The name of this Debian release. Raises NotPossible."""
    file = Path("/etc/os-release")
    for line in file.read_text().splitlines() if file.exists() else []:
        name, _, value = line.partition("=")
        if name == "VERSION_CODENAME":
            return value.strip('"')
    raise NotPossible("no MySQL client library with headers is installed, and this is no Debian release")


def main() -> int:
    """Say which driver the server has."""
    try:
        install()
    except NotPossible as reason:
        print(f"The server uses PyMySQL here, and tests of mysqlclient are skipped: {reason}")
    else:
        print("The server uses mysqlclient here")
    return 0


if __name__ == "__main__":
    sys.exit(main())
