"""Finds a MySQL-compatible server for this machine, or gets one: `python -m local.get_database`.

In this order: one that is already there; a real MySQL as plain files in .cache/mysql, which touches nothing
else (Debian and its derivatives); the package manager's server. Needs the network for the last two.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable

from local.database import PLAIN_FILES_SERVER, ServerBinary, find_server
from local.debian import NotPossible, only, run, unpack

ADVICE = """\
No MySQL-compatible server was found and none could be installed. Install one and run this again:
  Debian, Ubuntu   apt-get install mariadb-server-core
  macOS            brew install mysql
  elsewhere        any MySQL 8.0+ or MariaDB 10.6+ whose `mysqld` or `mariadbd` is on the PATH,
                   or named by KIT_MYSQLD"""

# The release that Debian's developers build on is the only one of Debian's that has MySQL itself.
SUITE = "sid"
PACKAGE = "mysql-server-core"

# Runs the server with the C library that it was built for, which need not be this machine's.
LAUNCHER = """\
#!/bin/sh
root=$(cd "$(dirname "$0")/root" && pwd)
libraries=$root{libraries}:$root/usr/lib/mysql/private
exec "$root{loader}" --library-path "$libraries" "$root/usr/sbin/mysqld" "$@" \\
  --basedir="$root/usr" --lc-messages-dir="$root/usr/share/mysql" \\
  --character-sets-dir="$root/usr/share/mysql/charsets" --plugin-dir="$root/usr/lib/mysql/plugin"
"""


def plain_files() -> None:
    """Unpack Debian's MySQL packages, with all that they need, into .cache/mysql. Raises NotPossible."""
    root = unpack([PACKAGE], suite=SUITE, target=PLAIN_FILES_SERVER.parent, dependencies=True)
    loader = only(root, "ld-linux*.so.*")
    libraries = only(root, "libc.so.6").parent
    launcher = LAUNCHER.format(
        loader=f"/{loader.relative_to(root)}", libraries=f"/{libraries.relative_to(root)}"
    )
    PLAIN_FILES_SERVER.write_text(launcher)
    PLAIN_FILES_SERVER.chmod(0o755)


def package_manager() -> None:
    """Install a server with apt-get (as root or through sudo) or Homebrew. Raises NotPossible."""
    if shutil.which("apt-get"):
        command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "mariadb-server-core"]
        if os.geteuid() != 0:
            if not shutil.which("sudo"):
                raise NotPossible("apt-get needs root, and there is no sudo")
            command = ["sudo", "-n", *command]
    elif shutil.which("brew"):
        command = ["brew", "install", "--quiet", "mysql"]
    else:
        raise NotPossible(f"no package manager known for {platform.system()}")
    run(*command)


def get_server() -> ServerBinary | None:
    """A server, got if need be; None when there is no way."""
    if server := find_server():
        return server
    ways: list[Callable[[], None]] = [plain_files, package_manager]
    for way in ways:
        print(f"no MySQL-compatible server found: trying {way.__name__.replace('_', ' ')} …", flush=True)
        try:
            way()
        except NotPossible as reason:
            print(f"  {reason}", flush=True)
        if server := find_server():
            return server
    return None


def main() -> int:
    """Print which server is there in the end and return the exit code."""
    server = get_server()
    if server is None:
        print(ADVICE, file=sys.stderr)
        return 1
    print(f"{server.kind} {server.version} at {server.path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
