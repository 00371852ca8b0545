"""What is kept on disk: objects, secrets, databases; over restarts, and as deletion policies say."""

from __future__ import annotations

import hashlib
import json
import ssl
from pathlib import Path
from typing import Any

import pymysql
import pytest
from botocore.exceptions import ClientError
from conftest import Stack, embedded

from local.aws import EmbeddedAws
from local.database import find_server

MEBIBYTE = 1024 * 1024
STORED = {
    "Bucket": {"Type": "AWS::S3::Bucket", "Properties": {"VersioningConfiguration": {"Status": "Enabled"}}},
    "Seed": {
        "Type": "AWS::SecretsManager::Secret",
        "Properties": {
            "GenerateSecretString": {
                "SecretStringTemplate": "{}",
                "GenerateStringKey": "seed",
                "PasswordLength": 40,
            }
        },
    },
}
DATABASE = {
    "Parameters": {
        "Type": "AWS::RDS::DBParameterGroup",
        "Properties": {
            "Family": "mysql8.4",
            "Description": "for MLflow",
            "Parameters": {"log_bin_trust_function_creators": "1"},
        },
    },
    "Database": {
        "Type": "AWS::RDS::DBInstance",
        "DeletionPolicy": "Snapshot",
        "Properties": {
            "Engine": "mysql",
            "EngineVersion": "8.4.6",
            "DBInstanceClass": "db.t4g.micro",
            "AllocatedStorage": "20",
            "DBName": "mlflow",
            "MasterUsername": "owner",
            "ManageMasterUserPassword": True,
            "DBParameterGroupName": {"Ref": "Parameters"},
        },
    },
}
OUTPUTS = {
    name: {"Value": {"Fn::GetAtt": f"Database.{attribute}"}}
    for name, attribute in {
        "Host": "Endpoint.Address",
        "Port": "Endpoint.Port",
        "Secret": "MasterUserSecret.SecretArn",
    }.items()
}


def secret(aws: EmbeddedAws, name: str) -> dict[str, Any]:
    value = aws.client("secretsmanager").get_secret_value(SecretId=name)["SecretString"]
    return dict(json.loads(value))


def test_objects_and_secrets_are_found_again(tmp_path: Path) -> None:
    large = b"0123456789abcdef" * (20 * MEBIBYTE // 16)
    with embedded(tmp_path) as aws:
        stack = Stack(aws, "kept")
        assert stack.create(STORED) == "CREATE_COMPLETE"
        bucket, s3 = stack.physical_id("Bucket"), aws.client("s3")
        seed = secret(aws, stack.physical_id("Seed"))
        s3.put_object(
            Bucket=bucket, Key="a/b c", Body=b"one", Metadata={"k": "v"}, ContentType="text/x", Tagging="t=1"
        )
        first = s3.get_object(Bucket=bucket, Key="a/b c")
        s3.put_object(Bucket=bucket, Key="a/b c", Body=b"two")
        s3.put_object(Bucket=bucket, Key="deleted", Body=b"x")
        s3.delete_object(Bucket=bucket, Key="deleted")
        s3.put_object(Bucket=bucket, Key="gone", Body=b"x")
        version = s3.get_object(Bucket=bucket, Key="gone")["VersionId"]
        s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "gone", "VersionId": version}]})
        upload = s3.create_multipart_upload(Bucket=bucket, Key="large")["UploadId"]
        parts = []
        for number in (1, 2):
            half = large[(number - 1) * 10 * MEBIBYTE : number * 10 * MEBIBYTE]
            part = s3.upload_part(Bucket=bucket, Key="large", UploadId=upload, PartNumber=number, Body=half)
            parts.append({"PartNumber": number, "ETag": part["ETag"]})
        etag = s3.complete_multipart_upload(
            Bucket=bucket, Key="large", UploadId=upload, MultipartUpload={"Parts": parts}
        )["ETag"]

    with embedded(tmp_path) as aws:
        stack = Stack(aws, "kept")
        assert stack.create(STORED) == "CREATE_COMPLETE"
        assert stack.physical_id("Bucket") == bucket
        assert secret(aws, stack.physical_id("Seed")) == seed
        s3 = aws.client("s3")
        assert s3.get_object(Bucket=bucket, Key="a/b c")["Body"].read() == b"two"
        old = s3.get_object(Bucket=bucket, Key="a/b c", VersionId=first["VersionId"])
        assert old["Body"].read() == b"one"
        assert (old["Metadata"], old["ContentType"], old["ETag"]) == ({"k": "v"}, "text/x", first["ETag"])
        assert old["LastModified"] == first["LastModified"]
        listed = s3.list_objects_v2(Bucket=bucket)["Contents"]
        assert [(item["Key"], item["Size"]) for item in listed] == [("a/b c", 3), ("large", len(large))]
        markers = s3.list_object_versions(Bucket=bucket)["DeleteMarkers"]
        assert [item["Key"] for item in markers] == ["deleted"]
        answer = s3.get_object(Bucket=bucket, Key="large")
        assert answer["ETag"] == etag
        assert hashlib.sha256(answer["Body"].read()).digest() == hashlib.sha256(large).digest()
        ranged = s3.get_object(Bucket=bucket, Key="large", Range="bytes=10485760-10485775")
        assert ranged["Body"].read() == b"0123456789abcdef"

        for item in s3.list_object_versions(Bucket=bucket)["Versions"] + markers:
            s3.delete_object(Bucket=bucket, Key=item["Key"], VersionId=item["VersionId"])
        assert stack.delete() == "DELETE_COMPLETE"
    assert list((tmp_path / "s3").rglob("*.data")) == []
    assert list((tmp_path / "secrets").iterdir()) == []


def connect(aws: EmbeddedAws, outputs: dict[str, str]) -> Any:
    account = secret(aws, outputs["Secret"])
    assert aws.database is not None
    return pymysql.connect(
        host=outputs["Host"],
        port=int(outputs["Port"]),
        user=account["username"],
        password=account["password"],
        database="mlflow",
        ssl=ssl.create_default_context(cafile=str(aws.database.ca_bundle)),
        autocommit=True,
    )


def query(aws: EmbeddedAws, outputs: dict[str, str], statement: str) -> list[tuple[Any, ...]]:
    with connect(aws, outputs) as connection, connection.cursor() as cursor:
        cursor.execute(statement)
        return list(cursor.fetchall())


def test_database_is_real_and_kept(tmp_path: Path) -> None:
    assert find_server() is not None, "no MySQL-compatible server: `make` fetches one"
    with embedded(tmp_path) as aws:
        stack = Stack(aws, "data")
        assert stack.create(DATABASE, Outputs=OUTPUTS) == "CREATE_COMPLETE"
        outputs = stack.outputs()
        assert outputs["Host"] == "localhost"
        first = secret(aws, outputs["Secret"])
        query(aws, outputs, "CREATE TABLE kept (x INT)")
        assert query(aws, outputs, "SELECT @@log_bin_trust_function_creators") == [(1,)]
        aws.client("rds").modify_db_instance(
            DBInstanceIdentifier=stack.physical_id("Database"),
            RotateMasterUserPassword=True,
            ApplyImmediately=True,
        )
        assert secret(aws, outputs["Secret"])["password"] != first["password"]
        assert query(aws, outputs, "SHOW TABLES") == [("kept",)]

    with embedded(tmp_path) as aws:
        stack = Stack(aws, "data")
        stack.create(DATABASE, Outputs=OUTPUTS)
        outputs = stack.outputs()
        assert secret(aws, outputs["Secret"])["password"] != first["password"]
        assert query(aws, outputs, "SHOW TABLES") == [("kept",)]

        rds, name = aws.client("rds"), stack.physical_id("Database")
        rds.modify_db_instance(DBInstanceIdentifier=name, DeletionProtection=True)
        stack.client.delete_stack(StackName=stack.name)
        assert stack.wait() == "DELETE_FAILED"
        assert "Cannot delete protected DB Instance" in stack.reasons("DELETE_FAILED")
        assert query(aws, outputs, "SHOW TABLES") == [("kept",)]

        rds.modify_db_instance(DBInstanceIdentifier=name, DeletionProtection=False)
        assert stack.delete() == "DELETE_COMPLETE"
        assert not (tmp_path / "database" / name).exists()
        [snapshot] = rds.describe_db_snapshots()["DBSnapshots"]
        assert snapshot["DBInstanceIdentifier"] == name
        folder = tmp_path / "database" / "snapshots" / snapshot["DBSnapshotIdentifier"]
        assert (folder / "data").is_dir()
        rds.delete_db_snapshot(DBSnapshotIdentifier=snapshot["DBSnapshotIdentifier"])
        assert not folder.exists()


def test_other_engines_are_refused(tmp_path: Path) -> None:
    with embedded(tmp_path) as aws, pytest.raises(ClientError, match="MySQL and MariaDB only"):
        aws.client("rds").create_db_instance(
            DBInstanceIdentifier="pg", Engine="postgres", DBInstanceClass="db.t4g.micro", AllocatedStorage=20
        )


def test_machine_without_a_server_says_so_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("local.rds.find_server", lambda: None)
    said: list[str] = []
    with embedded(tmp_path, progress=said.append) as aws:
        for name in ("one", "two"):
            aws.client("rds").create_db_instance(
                DBInstanceIdentifier=name, Engine="mysql", DBInstanceClass="db.t4g.micro", AllocatedStorage=20
            )
        assert aws.database is None
        variables = aws._task_variables({"DATABASE_HOST": "localhost", "DATABASE_PORT": "3306"})
        assert variables["MLFLOW_BACKEND_STORE_URI"] == f"sqlite:///{tmp_path}/mlflow.db"
    assert len(said) == 1
    assert "SQLite" in said[0]
