"""The database server on loopback that stands in for RDS."""

from __future__ import annotations

import os
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pymysql
import pytest

from local.certificates import issue_certificates
from local.database import DatabaseServer, DatabaseServerError, ServerBinary, find_server

PRINTABLE = "".join(chr(code) for code in range(32, 127))


@pytest.fixture(scope="module")
def binary() -> ServerBinary:
    found = find_server()
    assert found is not None, "no MySQL-compatible server found: run `python -m local.get_database`"
    return found


@pytest.fixture(scope="module")
def server(binary: ServerBinary, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DatabaseServer]:
    # deeper than the longest path that a socket may have
    directory = tmp_path_factory.mktemp("database") / ("x" * 60) / ("y" * 60)
    with DatabaseServer(directory=directory, binary=binary) as running:
        running.set_account("mlflow", PRINTABLE, "mlflow")
        yield running


def connect(
    server: DatabaseServer, *, ca_bundle: Path | None = None
) -> pymysql.Connection[pymysql.cursors.Cursor]:
    return pymysql.connect(
        host="localhost",
        port=server.port,
        user="mlflow",
        password=PRINTABLE,
        database="mlflow",
        ssl=ssl.create_default_context(cafile=str(ca_bundle or server.ca_bundle)),
    )


def test_data_outlive_a_restart(server: DatabaseServer) -> None:
    with connect(server) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE kept (id INT)")
    port = server.port
    server.stop()
    with pytest.raises(pymysql.OperationalError):
        connect(server)
    server.start()
    assert server.port == port
    assert server.admin("SHOW TABLES FROM mlflow") == [("kept",)]


def test_settings_are_those_of_rds(server: DatabaseServer) -> None:
    names = ("log_bin", "require_secure_transport", "character_set_server", "log_bin_trust_function_creators")
    assert server.admin(f"SELECT {', '.join('@@' + name for name in names)}") == [(1, 1, "utf8mb4", 0)]


def test_account_may_not_create_triggers_unless_the_parameter_is_set(server: DatabaseServer) -> None:
    """As on RDS, whose master user has no SUPER."""
    with connect(server) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE watched (id INT)")
        with pytest.raises(pymysql.OperationalError, match="1419"):
            cursor.execute("CREATE TRIGGER t BEFORE INSERT ON watched FOR EACH ROW SET NEW.id = 1")
        server.admin("SET GLOBAL log_bin_trust_function_creators = 1")
        cursor.execute("CREATE TRIGGER t BEFORE INSERT ON watched FOR EACH ROW SET NEW.id = 1")
        server.admin("SET GLOBAL log_bin_trust_function_creators = 0")


def test_only_its_own_authority_is_good_and_tls_is_required(server: DatabaseServer, tmp_path: Path) -> None:
    issue_certificates(tmp_path)
    with pytest.raises(pymysql.OperationalError, match="CERTIFICATE_VERIFY_FAILED"):
        connect(server, ca_bundle=tmp_path / "ca.pem")
    with pytest.raises(pymysql.OperationalError, match=r"3159|1045"):
        pymysql.connect(
            host="localhost", port=server.port, user="mlflow", password=PRINTABLE, ssl_disabled=True
        )


def test_listens_on_loopback_only(server: DatabaseServer) -> None:
    assert server.admin("SELECT @@bind_address") == [("127.0.0.1",)]


def test_server_left_behind_is_stopped_first(server: DatabaseServer, binary: ServerBinary) -> None:
    """Whoever started it was killed; its next start on the same directory must not fail for the lock."""
    left_behind = server.pid
    assert left_behind is not None
    with DatabaseServer(directory=server.directory, binary=binary, port=server.port) as successor:
        assert successor.pid != left_behind
        assert successor.admin("SELECT 1") == [(1,)]
    server.stop()
    server.start()


def test_passwords_stand_in_no_command_line(server: DatabaseServer) -> None:
    commands = subprocess.run(
        ["ps", "-eww", "-o", "args="], capture_output=True, text=True, check=True
    ).stdout
    assert str(server.directory) in commands
    assert PRINTABLE not in commands
    assert (server.directory / "admin-password").read_text() not in commands
    for name in ("admin-password", "init.sql", "server-key.pem"):
        assert (server.directory / name).stat().st_mode & 0o077 == 0


def test_wrong_choice_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "mysqld"
    program.write_text("#!/bin/sh\necho no server\n")
    program.chmod(0o755)
    for choice in (program, tmp_path / "missing", Path(os.devnull)):
        monkeypatch.setenv("KIT_MYSQLD", str(choice))
        with pytest.raises(DatabaseServerError, match="is not a MySQL or MariaDB server program"):
            find_server()
