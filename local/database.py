"""A MySQL-compatible server on loopback, standing in for RDS on the engineer's machine and in the tests.

The server is a real one (MySQL or MariaDB), found on the machine, with the settings of the kit's RDS
instance that matter to MLflow: TLS required, binary log on, utf8mb4. Its certificate is signed by an
authority made for it alone, so clients verify it exactly as they verify RDS.
"""

from __future__ import annotations

import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import pymysql

from local.certificates import issue_certificates

REPOSITORY = Path(__file__).resolve().parent.parent
PLAIN_FILES_SERVER = REPOSITORY / ".cache" / "mysql" / "mysqld"
ADMIN = "kit_admin"

# What RDS grants to the master user of a MySQL instance: what an owner of databases needs, and no SUPER.
# https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/UsingWithRDS.MasterAccounts.html
MASTER_PRIVILEGES = (
    "SELECT, INSERT, UPDATE, DELETE, CREATE, DROP, RELOAD, PROCESS, REFERENCES, INDEX, ALTER, "
    "SHOW DATABASES, CREATE TEMPORARY TABLES, LOCK TABLES, EXECUTE, REPLICATION SLAVE, REPLICATION CLIENT, "
    "CREATE VIEW, SHOW VIEW, CREATE ROUTINE, ALTER ROUTINE, CREATE USER, EVENT, TRIGGER"
)


class DatabaseServerError(RuntimeError):
    """The server could not be initialised or started; the message ends with the tail of its log."""


@dataclass(frozen=True, kw_only=True)
class ServerBinary:
    """A server program found on this machine."""

    kind: Literal["mysql", "mariadb"]
    path: Path
    version: str


def find_server() -> ServerBinary | None:
    """Look for a server: KIT_MYSQLD, the repository's .cache, then `mysqld` and `mariadbd` on the PATH.

    KIT_MYSQLD names a mysqld or a launcher script that passes its arguments on to one.
    Raises DatabaseServerError when KIT_MYSQLD is set but does not name a working server.
    """
    if chosen := os.environ.get("KIT_MYSQLD"):
        binary = _identify(Path(chosen))
        if binary is None:
            raise DatabaseServerError(f"KIT_MYSQLD={chosen} is not a MySQL or MariaDB server program")
        return binary
    # sbin is where Debian and Homebrew keep servers, and is not on every user's PATH
    path = os.pathsep.join(
        [os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin"]
    )
    found = (shutil.which(name, path=path) for name in ("mysqld", "mariadbd"))
    for candidate in (PLAIN_FILES_SERVER, *(Path(name) for name in found if name)):
        if binary := _identify(candidate):
            return binary
    return None


def _identify(path: Path) -> ServerBinary | None:
    try:
        answer = subprocess.run(
            [path, "--version"], capture_output=True, text=True, check=True, timeout=30
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    version = re.search(r"Ver (\d+(?:\.\d+)+)", answer)
    if version is None:
        return None
    return ServerBinary(
        kind="mariadb" if "MariaDB" in answer else "mysql", path=path, version=version.group(1)
    )


def free_port() -> int:
    """A TCP port on loopback that nothing listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _command_of(pid: int) -> str:
    """The command line of a process, empty when there is none."""
    file = Path(f"/proc/{pid}/cmdline")
    if Path("/proc/self").exists():
        return file.read_text() if file.exists() else ""
    return subprocess.run(
        ["ps", "-ww", "-p", str(pid), "-o", "command="], capture_output=True, text=True
    ).stdout


class DatabaseServer:
    """A server process on 127.0.0.1 whose data live in `directory`, kept from one start to the next.

    `port` 0 takes a free one, the same over the restarts of one object. As root the server runs as `nobody`,
    unless `directory` or the program stands where `nobody` cannot go. `log_bin_trust_function_creators` is
    the parameter that MLflow's migrations need where the binary log is on, as it is on RDS.
    """

    def __init__(
        self,
        *,
        directory: Path,
        binary: ServerBinary,
        port: int = 0,
        log_bin_trust_function_creators: bool = False,
    ) -> None:
        self.directory = directory.resolve()
        self.binary = binary
        self.port = port
        self.log_bin_trust_function_creators = log_bin_trust_function_creators
        self._process: subprocess.Popen[bytes] | None = None
        self._data = self.directory / "data"
        self._log = self.directory / "server.log"
        self._pid_file = self.directory / "server.pid"

    def __enter__(self) -> DatabaseServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def host(self) -> str:
        """The name that the server's certificate bears."""
        return "localhost"

    @property
    def ca_bundle(self) -> Path:
        """PEM file of the authority that signed the server's certificate."""
        return self.directory / "ca.pem"

    @property
    def pid(self) -> int | None:
        """Process id of the running server."""
        return self._process.pid if self._process else None

    def start(self, *, timeout: float = 60) -> None:
        """Start the server, initialising its data the first time, and wait until it answers.

        `timeout` is in seconds. Raises DatabaseServerError when it does not come up.
        """
        if self._process is not None:
            return
        self._prepare_directory()
        self._stop_leftover()
        self.port = self.port or free_port()
        if not (self._data / "mysql").is_dir():
            self._initialise()
        self._process = self._spawn([*self._program(), *self._settings()])
        self._pid_file.write_text(str(self._process.pid))
        deadline = time.monotonic() + timeout
        while True:
            try:
                self.admin("SELECT 1")
                return
            except pymysql.MySQLError as error:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    self.stop()
                    raise DatabaseServerError(
                        f"the database server did not start: {error}\n{self._tail()}"
                    ) from error
            time.sleep(0.05)

    def stop(self, *, timeout: float = 60) -> None:
        """Shut the server down cleanly; kill it when that takes more than `timeout` seconds."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._pid_file.unlink(missing_ok=True)

    def admin(self, statement: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Run one SQL statement as the server's administrator and return its rows."""
        connection = pymysql.connect(
            host=self.host,
            port=self.port,
            user=ADMIN,
            password=self._admin_password(),
            ssl=ssl.create_default_context(cafile=str(self.ca_bundle)),
            charset="utf8mb4",
            autocommit=True,
            connect_timeout=5,
        )
        with connection, connection.cursor() as cursor:
            cursor.execute(statement, tuple(parameters) or None)
            return list(cursor.fetchall())

    def set_account(self, username: str, password: str, database: str | None = None) -> None:
        """Create an account with an RDS master user's rights, or change its password; and its database."""
        self.admin("CREATE USER IF NOT EXISTS %s@'%%' IDENTIFIED BY %s", (username, password))
        self.admin("ALTER USER %s@'%%' IDENTIFIED BY %s", (username, password))
        self.admin(f"GRANT {MASTER_PRIVILEGES} ON *.* TO %s@'%%' WITH GRANT OPTION", (username,))
        if database is not None:
            name = database.replace("`", "``")
            self.admin(f"CREATE DATABASE IF NOT EXISTS `{name}` CHARACTER SET utf8mb4")

    def _prepare_directory(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        if not self.ca_bundle.exists():
            issue_certificates(self.directory)
        password = self._admin_password()
        init_file = self.directory / "init.sql"
        init_file.touch(mode=0o600)
        init_file.write_text(
            f"CREATE USER IF NOT EXISTS '{ADMIN}'@'127.0.0.1' IDENTIFIED BY '{password}';\n"
            f"GRANT ALL ON *.* TO '{ADMIN}'@'127.0.0.1' WITH GRANT OPTION;\n"
            f"ALTER USER 'root'@'localhost' IDENTIFIED BY '{secrets.token_hex(16)}';\n"
        )
        if account := self._account():
            for path in (self.directory, *(self.directory / name for name in ("server-key.pem", "init.sql"))):
                os.chown(path, account.pw_uid, account.pw_gid)

    def _admin_password(self) -> str:
        file = self.directory / "admin-password"
        if not file.exists():
            file.touch(mode=0o600)
            file.write_text(secrets.token_hex(16))
        return file.read_text()

    def _account(self) -> pwd.struct_passwd | None:
        """The unprivileged account to run as: for root only, and only if it can reach the files."""
        if os.geteuid() != 0:
            return None
        reachable = all(
            parent.stat().st_mode & 0o001
            for path in (self.directory, self.binary.path.resolve())
            for parent in path.parents
        )
        return pwd.getpwnam("nobody") if reachable else None

    def _program(self) -> list[str]:
        # --no-defaults must come first; --user makes the choice explicit where the server has to run as root
        user = ["--user=root"] if os.geteuid() == 0 and self._account() is None else []
        return [str(self.binary.path), "--no-defaults", f"--datadir={self._data}", *user]

    def _settings(self) -> list[str]:
        settings = [
            "--bind-address=127.0.0.1",
            f"--port={self.port}",
            "--socket=server.sock",  # relative to the data directory: a socket's path may hold 107 bytes only
            "--skip-name-resolve",
            f"--init-file={self.directory / 'init.sql'}",
            f"--log-error={self._log}",
            f"--ssl-ca={self.ca_bundle}",
            f"--ssl-cert={self.directory / 'server.pem'}",
            f"--ssl-key={self.directory / 'server-key.pem'}",
            "--require-secure-transport=ON",
            "--character-set-server=utf8mb4",
            "--server-id=1",
            "--log-bin=binlog",
            "--max-binlog-size=64M",
            "--binlog-expire-logs-seconds=3600",
            f"--log-bin-trust-function-creators={int(self.log_bin_trust_function_creators)}",
            # a laptop's disk: losing the last second of a power cut is fine here
            "--innodb-flush-log-at-trx-commit=2",
            "--sync-binlog=0",
            "--performance-schema=OFF",
        ]
        return (
            [*settings, "--mysqlx=OFF", "--secure-file-priv=NULL"]
            if self.binary.kind == "mysql"
            else settings
        )

    def _initialise(self) -> None:
        shutil.rmtree(self._data, ignore_errors=True)  # what an interrupted initialisation left
        if self.binary.kind == "mysql":
            command = [*self._program(), "--initialize-insecure"]
        else:
            installer = shutil.which("mariadb-install-db") or str(
                self.binary.path.resolve().parent.parent / "bin" / "mariadb-install-db"
            )
            self._data.mkdir()
            command = [
                installer,
                *self._program()[1:],
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
                "--skip-name-resolve",
            ]
            if account := self._account():
                os.chown(self._data, account.pw_uid, account.pw_gid)
        process = self._spawn(command)
        if process.wait(timeout=300) != 0:
            raise DatabaseServerError(f"the database could not be initialised\n{self._tail()}")

    def _spawn(self, command: list[str]) -> subprocess.Popen[bytes]:
        account = self._account()
        identity: dict[str, Any] = {}
        if account:
            identity = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        with (self.directory / "output.log").open("wb") as output:
            # a session of its own: Ctrl-C must reach the owner of this object first, not the database
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=self.directory,
                **identity,
            )

    def _stop_leftover(self) -> None:
        """Stop a server on this directory that outlived the process which started it."""
        if not self._pid_file.exists():
            return
        pid = int(self._pid_file.read_text() or 0)
        while pid and f"--datadir={self._data}" in _command_of(pid):
            os.kill(pid, signal.SIGTERM)
            time.sleep(0.2)
        self._pid_file.unlink()

    def _tail(self) -> str:
        texts = [
            file.read_text(errors="replace")
            for file in (self.directory / "output.log", self._log)
            if file.exists()
        ]
        return "\n".join("\n".join(text.splitlines()[-15:]) for text in texts if text)
