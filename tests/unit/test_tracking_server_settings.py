"""What the container takes from its environment, and what it refuses."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from tracking_server.secrets import Account, _derive
from tracking_server.settings import MySQLSettings, SettingsError, SQLiteSettings, read_database, read_server


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    bundle = tmp_path / "ca.pem"
    bundle.touch()
    return {
        "DATABASE_HOST": "db.example.com",
        "DATABASE_PORT": "3306",
        "DATABASE_NAME": "mlflow",
        "DATABASE_SECRET_ARN": "arn:aws:secretsmanager:eu-west-1:123456789012:secret:db",
        "DATABASE_CA_BUNDLE": str(bundle),
        "DATABASE_DRIVER": "pymysql",
        "MLFLOW_HOST": "0.0.0.0",  # noqa: S104
        "MLFLOW_PORT": "5000",
        "SERVER_SECRET_ARN": "arn:aws:secretsmanager:eu-west-1:123456789012:secret:server",
        "MLFLOW_ARTIFACTS_DESTINATION": "s3://bucket/prefix",
        "ARTIFACT_ACCESS": "direct",
        "MLFLOW_SERVER_ALLOWED_HOSTS": "mlflow.example.com",
        "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": "http://mlflow.example.com",
        "MLFLOW_WORKERS": "2",
        "SERVER_THREADS": "8",
        "DATABASE_POOL_SIZE": "16",
        "SERVER_DRAIN_SECONDS": "0",
        "ACCESS_ENGINE": "iam",
        "TRACKING_SERVER_ARN": "arn:aws:sagemaker:eu-west-1:123456789012:mlflow-tracking-server/mlflow",
        "ACCESS_STS_REGIONS": "partition",
        "ACCESS_TRUSTED_PROXIES": "1",
        "ACCESS_EXPERIMENT_PERMISSIONS": "false",
    }


def test_complete_environment(environ: dict[str, str]) -> None:
    database, server = read_server(environ)
    assert isinstance(database, MySQLSettings)
    assert str(database.url) == "mysql+pymysql://db.example.com:3306/mlflow?charset=utf8mb4"
    assert (server.workers, server.threads, server.pool_size, server.drain_seconds) == (2, 8, 16, 0)
    assert (server.artifact_access, server.artifacts_destination) == ("direct", "s3://bucket/prefix")


def test_tracking_store(environ: dict[str, str]) -> None:
    assert read_server(environ)[1].tracking_store == "fast"
    assert read_server(environ | {"TRACKING_STORE": "stock"})[1].tracking_store == "stock"
    with pytest.raises(SettingsError, match="TRACKING_STORE='slow' must be 'fast' or 'stock'"):
        read_server(environ | {"TRACKING_STORE": "slow"})


def test_driver(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    # None in place of a module: importing it fails
    monkeypatch.setitem(sys.modules, "MySQLdb", None)
    monkeypatch.delitem(sys.modules, "tracking_server.drivers.mysqlclient", raising=False)
    with pytest.raises(SettingsError, match=r"DATABASE_DRIVER='mysqlclient' cannot be used here: .*MySQLdb"):
        read_database(environ | {"DATABASE_DRIVER": "mysqlclient"})
    with pytest.raises(SettingsError, match="must be one of mysqlclient, pymysql"):
        read_database(environ | {"DATABASE_DRIVER": "odbc"})
    database = read_database(environ | {"DATABASE_DRIVER": ""})
    assert isinstance(database, MySQLSettings)
    assert database.driver == "pymysql", "what is left"


def test_the_gate_is_on_unless_the_environment_says_open(environ: dict[str, str]) -> None:
    _, server = read_server(environ)
    assert server.access is not None
    assert server.access.names == {"mlflow.example.com"}
    assert {"eu-west-1", "us-east-1"} <= server.access.regions
    assert not {"cn-north-1", "us-gov-west-1"} & server.access.regions
    assert not server.access.secure
    without = {name: value for name, value in environ.items() if not name.startswith("ACCESS_")}
    with pytest.raises(SettingsError, match="ACCESS_ENGINE"):
        read_server(without)
    _, server = read_server(without | {"ACCESS_ENGINE": "open"})
    assert server.access is None


def test_policies_of_the_roles_are_known_by_id_and_arn(environ: dict[str, str]) -> None:
    policy = {"Version": "2012-10-17", "Statement": []}
    role = {"name": "Reader", "arn": "arn:aws:iam::123456789012:role/r", "policy": policy}
    environ |= {"ACCESS_ENGINE": "roles", "ACCESS_ROLES": json.dumps({"AROAEXAMPLE": role})}
    _, server = read_server(environ)
    assert server.access is not None
    assert server.access.policies == {"AROAEXAMPLE": policy, role["arn"]: policy}


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("ACCESS_ENGINE", "cedar", "must be one of iam, roles, open"),
        ("ACCESS_ENGINE", "roles", "ACCESS_ROLES"),
        ("TRACKING_SERVER_ARN", "arn:aws:s3:::bucket", "is no ARN of a tracking server"),
        ("MLFLOW_SERVER_ALLOWED_HOSTS", "*.example.com", "must hold whole names"),
        ("ACCESS_WEB_IDENTITY_ISSUER", "http://issuer.example.com", "must be an https:// URL"),
        ("ACCESS_TRUSTED_PROXIES", "-1", "must be a whole number"),
    ],
)
def test_a_gate_that_cannot_be_understood_is_refused(
    environ: dict[str, str], name: str, value: str, expected: str
) -> None:
    with pytest.raises(SettingsError, match=re.escape(expected)):
        read_server(environ | {name: value})


def test_every_missing_variable_is_named_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        read_server({})
    message = str(caught.value)
    assert message.startswith("missing environment variables: DATABASE_HOST, DATABASE_PORT")
    assert message.count(",") == 20


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("DATABASE_PORT", "mysql", "DATABASE_PORT='mysql' must be a whole number from 1 to 65535"),
        ("DATABASE_PORT", "70000", "from 1 to 65535"),
        ("DATABASE_CA_BUNDLE", "/no/such.pem", "is not a file"),
        ("MLFLOW_WORKERS", "0", "MLFLOW_WORKERS='0' must be a whole number from 1 to 64"),
        ("SERVER_THREADS", "-1", "SERVER_THREADS"),
        ("DATABASE_POOL_SIZE", "15", "DATABASE_POOL_SIZE=15 must be at least twice SERVER_THREADS=8"),
        ("SERVER_DRAIN_SECONDS", "1.5", "SERVER_DRAIN_SECONDS"),
        ("ARTIFACT_ACCESS", "proxy", "ARTIFACT_ACCESS='proxy' must be 'server' or 'direct'"),
        ("MLFLOW_ARTIFACTS_DESTINATION", "/mnt/x", "must be s3://bucket/prefix"),
        ("MLFLOW_SERVER_ALLOWED_HOSTS", " ", "missing environment variables: MLFLOW_SERVER_ALLOWED_HOSTS"),
        ("MLFLOW_BACKEND_STORE_URI", "mysql+pymysql://u:hunter2@h/d", "may only name an SQLite file"),
        ("MLFLOW_BACKEND_STORE_URI", "sqlite://u:hunter2@h/d", "may only name an SQLite file"),
        ("MLFLOW_BACKEND_STORE_URI", "no uri: hunter2", "may only name an SQLite file"),
    ],
)
def test_wrong_value_is_refused(environ: dict[str, str], name: str, value: str, expected: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read_server({**environ, name: value})
    assert expected in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_sqlite_replaces_the_database_variables(tmp_path: Path) -> None:
    database = read_database({"MLFLOW_BACKEND_STORE_URI": f"sqlite:///{tmp_path}/mlflow.db"})
    assert isinstance(database, SQLiteSettings)
    assert database.file == tmp_path / "mlflow.db"


def test_keys_are_the_same_for_every_server_of_a_seed() -> None:
    keys = {name: _derive("s" * 64, name) for name in ("A", "B")}
    assert keys == {name: _derive("s" * 64, name) for name in ("A", "B")}
    assert len({*keys.values(), _derive("t" * 64, "A")}) == 3
    assert Fernet(keys["A"]).decrypt(Fernet(keys["A"]).encrypt(b"x")) == b"x"


def test_account_hides_its_password() -> None:
    assert "hunter2" not in repr(Account(username="u", password="hunter2"))
