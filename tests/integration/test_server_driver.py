"""Both drivers keep the same promises: TLS, credentials, time limits, and values that come back as they went."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from server_process import PYTHON, REPOSITORY, Backend, Process, Server

from local.certificates import issue_certificates
from local.database import DatabaseServer

PROBE = Path(__file__).with_name("driver_probe.py")
LOST, UNVERIFIED = 2013, 2026

PASSWORDS = {
    "ASCII": "".join(chr(code) for code in range(32, 127)),
    "URL": "p@ss:w/r?d#%41%00[x]&y=z+ ",
    "other letters": "Ünïcødé £ пароль 密码 🔑",
    "long": "x" * 79,
}


def has_mysqlclient() -> bool:
    return subprocess.run([PYTHON, "-c", "import MySQLdb"], capture_output=True).returncode == 0


needs_mysqlclient = pytest.mark.skipif(
    not has_mysqlclient(),
    reason="mysqlclient is not installed in .venv-server: `python -m local.get_mysqlclient` says why",
)


@pytest.fixture(params=[pytest.param("mysqlclient", marks=needs_mysqlclient), "pymysql"])
def driver(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def backend(new_backend: Callable[..., Backend], driver: str) -> Backend:
    return new_backend(overrides={"DATABASE_DRIVER": driver})


def start_probe(backend: Backend, what: str, *arguments: object, **overrides: str) -> subprocess.Popen[str]:
    environment = backend.environment(PYTHONPATH=str(REPOSITORY / "container"), **overrides)
    command = [str(PYTHON), str(PROBE), what, *(json.dumps(argument) for argument in arguments)]
    return subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/"
    )


def probe(backend: Backend, what: str, *arguments: object, **overrides: str) -> Any:
    """What `driver_probe.py` finds."""
    process = start_probe(backend, what, *arguments, **overrides)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    return json.loads(output.splitlines()[-1])


def test_the_driver_is_in_the_log_and_answers(
    migrated: Callable[[Backend], Backend], backend: Backend, start: Callable[..., Any], driver: str
) -> None:
    server: Server = start("serve", migrated(backend)).wait_until_healthy()
    name = {"mysqlclient": "mysqlclient", "pymysql": "PyMySQL"}[driver]
    assert any(re.match(rf"database driver: {name} \d", message) for message in server.messages())
    check: Process = start("check", backend)
    assert check.wait() == 0, check.output
    assert re.search(r"ok    TLS +TLSv1\.[23], certificate verified for localhost", check.output)


@needs_mysqlclient
def test_the_faster_driver_is_the_default(new_backend: Callable[..., Backend]) -> None:
    found = probe(new_backend(), "connect", DATABASE_DRIVER="")
    assert found["url"].startswith("mysql+mysqldb://")


@pytest.mark.parametrize("kind", PASSWORDS)
def test_passwords(new_backend: Callable[..., Backend], driver: str, kind: str) -> None:
    backend = new_backend(password=PASSWORDS[kind], overrides={"DATABASE_DRIVER": driver})
    found = probe(backend, "connect")
    assert found["value"] == f"{backend.username}@% {backend.name}"
    assert PASSWORDS[kind] not in found["visible"] + found["url"]
    assert backend.username not in found["url"]


def test_wrong_password(backend: Backend) -> None:
    backend.set_database_password("another")
    found = probe(backend, "connect")
    assert (found["type"], found["number"]) == ("OperationalError", 1045)
    assert found["seconds"] < 30, "a rotation's time is over"


def test_rotation(backend: Backend) -> None:
    process = start_probe(backend, "rotate")
    assert process.stdout is not None
    assert process.stdout.readline() == "connected\n"
    backend.set_database_password("rotated")
    backend.set_secret_password("rotated")
    output, _ = process.communicate("go\n", timeout=60)
    assert [found.get("value") for found in json.loads(output)] == [1, 1, 1]


def test_certificate_of_another_authority(backend: Backend, tmp_path: Path) -> None:
    issue_certificates(tmp_path)
    found = probe(backend, "connect", DATABASE_CA_BUNDLE=str(tmp_path / "ca.pem"))
    assert found["number"] == UNVERIFIED
    assert found["seconds"] < 5


def test_no_authority_at_all(backend: Backend, tmp_path: Path) -> None:
    """An empty bundle must not mean that everybody is trusted, nor those that the operating system trusts."""
    (tmp_path / "empty.pem").touch()
    process = start_probe(backend, "connect", DATABASE_CA_BUNDLE=str(tmp_path / "empty.pem"))
    output, _ = process.communicate(timeout=60)
    assert process.returncode != 0 or json.loads(output)["number"] == UNVERIFIED


@pytest.mark.parametrize("command", ["serve", "migrate"])
def test_certificate_of_another_host(backend: Backend, start: Callable[..., Any], command: str) -> None:
    """127.1 is the same address as 127.0.0.1, under a name that the certificate does not bear."""
    assert probe(backend, "connect", DATABASE_HOST="127.1")["number"] == UNVERIFIED
    assert probe(backend, "connect", DATABASE_HOST="127.0.0.1")["value"]
    process = start(command, backend, DATABASE_HOST="127.1")
    assert process.wait() == 1
    assert "does not verify with DATABASE_CA_BUNDLE" in process.records[-1]["message"]


@contextmanager
def greeter(greeting: bytes) -> Iterator[tuple[int, list[bytes]]]:
    """A server that greets like MySQL and then only listens: its port and what clients have sent to it."""
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                with client:
                    client.settimeout(2)
                    client.sendall(greeting)
                    try:
                        while data := client.recv(4096):
                            heard.append(data)
                    except OSError:
                        pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1], heard
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(10)


def greeting(*, tls: bool) -> bytes:
    """MySQL's first packet: https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_connection_phase_packets_protocol_handshake_v10.html"""
    capabilities = 0x000FF7FF | (1 << 19)  # the protocol of MySQL 4.1 and later, log-in by plug-in
    capabilities = capabilities | 0x800 if tls else capabilities & ~0x800
    low, high = (capabilities & 0xFFFF).to_bytes(2, "little"), (capabilities >> 16).to_bytes(2, "little")
    payload = (
        b"\x0a8.4.0\0"
        + (1).to_bytes(4, "little")
        + b"saltsalt\0"
        + low
        + b"\xff\x02\x00"
        + high
        + b"\x15"
        + bytes(10)
        + b"saltsaltsalt\0"
        + b"mysql_clear_password\0"
    )
    return len(payload).to_bytes(3, "little") + b"\0" + payload


@pytest.mark.parametrize("tls", [False, True])
def test_nothing_is_told_without_tls(backend: Backend, tls: bool) -> None:
    """A server that offers no TLS, or offers it and then does not speak it, hears no name and no password."""
    with greeter(greeting(tls=tls)) as (port, heard):
        found = probe(backend, "connect", DATABASE_PORT=str(port))
    assert found["number"] in ({UNVERIFIED} if not tls else {UNVERIFIED, LOST, 2003})
    assert found["seconds"] < 15
    everything = b"".join(heard)
    assert backend.username.encode() not in everything
    assert backend.password.encode() not in everything
    assert bool(everything) is tls, "only the wish for TLS"


def test_hung_database(backend: Backend, database_server: DatabaseServer) -> None:
    before, during, after = probe(backend, "hang", database_server.pid)
    assert before["value"] == after["value"] == 1
    assert during["type"] == "OperationalError"
    assert 9 < during["seconds"] < 13, "5 s for the ping, 5 s for a new connection"


def test_query_time_limit(backend: Backend) -> None:
    over, next_one, migration = probe(backend, "wait")
    assert (over["type"], over["number"], over["invalidated"]) == ("OperationalError", LOST, True)
    assert 1.5 < over["seconds"] < 4
    assert next_one["value"] == 1
    assert migration["value"] == 0, "a migration's statement takes as long as it needs"


def test_connection_ended_by_the_database(backend: Backend) -> None:
    found = probe(backend, "kill")
    assert found["pooled"]["value"] == found["after"]["value"] == 1
    for when in ("query", "commit"):
        assert found[when]["type"] == "OperationalError"
        assert found[when]["number"] in (LOST, 2006, 4031)
        assert found[when]["invalidated"] is True


VALUES: dict[str, list[Any]] = {
    "float": [
        *(0.0, -0.0, 0.1, -0.1, 1 / 3, 1e308, 1.7976931348623157e308, 5e-324, 2.2250738585072014e-308),
        *(1e16, 1e22, 123456789.123456789, 0.30000000000000004, 4.35, None),
    ],
    "int": [0, -1, 2**31, 2**53 + 1, 2**63 - 1, -(2**63), None],
    "text": [
        *("", "plain", "Zoë 北京 العربية", "👩‍🚀🇪🇺", "a\0b\x01\x1a\r\n\t", "'\"\\%s %(x)s %%; -- `"),
        *("\u2028\ufeff\U0010ffff", "x" * 20_000, None),
    ],
    "json": [{"a": [1, "ü👍", None, True]}, []],
    "boolean": [True, False, None],
}


def test_values_come_back_as_they_went(backend: Backend) -> None:
    found = probe(backend, "round_trip", VALUES)
    for kind, column in found.items():
        assert column["read"] == column["written"], kind
    for kind in ("float", "int", "text", "bytes"):
        assert found[kind]["raw"] == found[kind]["written"], kind


@needs_mysqlclient
@pytest.mark.parametrize("what", ["session", "errors"])
def test_the_drivers_agree(new_backend: Callable[..., Backend], what: str) -> None:
    backend = new_backend()
    found = [probe(backend, what, DATABASE_DRIVER=name) for name in ("mysqlclient", "pymysql")]
    assert found[0] == found[1]


def test_a_driver_that_is_not_there_is_refused(backend: Backend, start: Callable[..., Any]) -> None:
    process: Process = start("migrate", backend, DATABASE_DRIVER="odbc")
    assert process.wait() == 2
    assert "DATABASE_DRIVER='odbc' must be one of mysqlclient, pymysql" in process.output
    # a module of that name that cannot be imported
    broken = Path(process.log_file.parent / "MySQLdb.py")
    broken.write_text("raise ImportError('libmariadb.so.3: cannot open shared object file')")
    process = start("migrate", backend, DATABASE_DRIVER="mysqlclient", PYTHONPATH=str(broken.parent))
    assert process.wait() == 2
    assert "cannot be used here: libmariadb.so.3: cannot open shared object file" in process.output
    process = start("migrate", backend, DATABASE_DRIVER="", PYTHONPATH=str(broken.parent))
    assert process.wait() == 0
    assert "database driver: PyMySQL" in process.output
