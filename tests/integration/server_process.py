"""Starts the real server and its real parts for the integration tests."""

from __future__ import annotations

import json
import os
import secrets
import signal
import string
import subprocess
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import requests

from local.database import DatabaseServer, free_port

REPOSITORY = Path(__file__).resolve().parents[2]
PYTHON = REPOSITORY / ".venv-server" / "bin" / "python"
REGION = "eu-west-1"
SEED = "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(64))


@dataclass(kw_only=True)
class Backend:
    """A database, a bucket and the secrets that one tracking server (of one or more processes) uses."""

    database_server: DatabaseServer
    aws_endpoint: str
    name: str = field(default_factory=lambda: f"t{uuid.uuid4().hex[:12]}")
    password: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    overrides: dict[str, str] = field(default_factory=dict)
    database_secret: str = ""
    server_secret: str = ""

    def __post_init__(self) -> None:
        self.username = f"u_{self.name}"
        self.database_server.set_account(self.username, self.password, self.name)
        self.client("s3").create_bucket(
            Bucket=self.name, CreateBucketConfiguration={"LocationConstraint": REGION}
        )
        manager = self.client("secretsmanager")
        self.database_secret = manager.create_secret(Name=f"{self.name}-db", SecretString=self._account())[
            "ARN"
        ]
        self.server_secret = manager.create_secret(
            Name=f"{self.name}-server", SecretString=json.dumps({"seed": SEED})
        )["ARN"]

    def _account(self) -> str:
        return json.dumps({"username": self.username, "password": self.password})

    def client(self, service: str) -> Any:
        """A boto3 client of the AWS double."""
        return boto3.client(
            service,
            endpoint_url=self.aws_endpoint,
            region_name=REGION,
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )

    def set_database_password(self, password: str) -> None:
        """The database's half of a rotation."""
        self.database_server.set_account(self.username, password)

    def set_secret_password(self, password: str) -> None:
        """The secret's half of a rotation."""
        self.password = password
        self.client("secretsmanager").put_secret_value(
            SecretId=self.database_secret, SecretString=self._account()
        )

    def admin(self, statement: str) -> list[tuple[Any, ...]]:
        """Run SQL in this database as the administrator."""
        return self.database_server.admin(statement.replace("{db}", f"`{self.name}`"))

    def environment(self, **overrides: str) -> dict[str, str]:
        """What the task definition and the image give to the process."""
        return {
            "PATH": os.environ["PATH"],
            "AWS_ENDPOINT_URL": self.aws_endpoint,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "DATABASE_HOST": self.database_server.host,
            "DATABASE_PORT": str(self.database_server.port),
            "DATABASE_NAME": self.name,
            "DATABASE_SECRET_ARN": self.database_secret,
            "DATABASE_CA_BUNDLE": str(self.database_server.ca_bundle),
            "SERVER_SECRET_ARN": self.server_secret,
            "MLFLOW_ARTIFACTS_DESTINATION": f"s3://{self.name}/artifacts",
            "ARTIFACT_ACCESS": "server",
            "MLFLOW_SERVER_ALLOWED_HOSTS": "localhost:*,mlflow.example.com,mlflow.example.com:*",
            "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": "http://mlflow.example.com",
            "MLFLOW_HOST": "127.0.0.1",
            "MLFLOW_PORT": "5000",
            "MLFLOW_WORKERS": "1",
            "SERVER_THREADS": "8",
            "DATABASE_POOL_SIZE": "16",
            "SERVER_DRAIN_SECONDS": "0",
            "ACCESS_ENGINE": "open",
            # to run these tests with the driver that is not the default
            "DATABASE_DRIVER": os.environ.get("DATABASE_DRIVER", ""),
            **self.overrides,
            **overrides,
        }


class Process:
    """A `python -m tracking_server` process; its log goes to a file."""

    def __init__(self, command: str, *, environment: Mapping[str, str], directory: Path) -> None:
        self.log_file = directory / f"{command}-{uuid.uuid4().hex[:8]}.log"
        with self.log_file.open("wb") as output:
            self.popen = subprocess.Popen(
                [PYTHON, "-m", "tracking_server", command],
                cwd=REPOSITORY / "container",
                env=dict(environment),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        """Everything that the process has printed so far."""
        return self.log_file.read_text()

    @property
    def records(self) -> list[dict[str, Any]]:
        """The log as objects; fails on any line that is not JSON."""
        return [json.loads(line) for line in self.output.splitlines()]

    def messages(self) -> list[str]:
        """The messages of the log."""
        return [str(record["message"]) for record in self.records]

    def wait_for_log(self, text: str, *, timeout: float = 60) -> None:
        """Wait until `text` stands in the log."""
        self.wait_until(lambda: text in self.output, what=f"{text!r} in the log", timeout=timeout)

    def wait_until(self, condition: Any, *, what: str, timeout: float = 60) -> None:
        """Wait for a condition, as long as the process lives."""
        deadline = time.monotonic() + timeout
        while not condition():
            assert self.popen.poll() is None, f"exited with {self.popen.returncode}:\n{self.output}"
            assert time.monotonic() < deadline, f"no {what} after {timeout} s:\n{self.output}"
            time.sleep(0.1)

    def wait(self, timeout: float = 120) -> int:
        """Wait for the end and return the exit code."""
        return self.popen.wait(timeout)

    def terminate(self, number: int = signal.SIGTERM) -> None:
        """Send a signal, SIGTERM as ECS does."""
        self.popen.send_signal(number)

    def kill(self) -> None:
        """Kill the process and all that it started."""
        if self.popen.poll() is None:
            os.killpg(self.popen.pid, signal.SIGKILL)
            self.popen.wait()


class Server(Process):
    """A running `serve` process."""

    def __init__(self, backend: Backend, *, directory: Path, **overrides: str) -> None:
        self.port = free_port()
        environment = backend.environment(MLFLOW_PORT=str(self.port), **overrides)
        super().__init__("serve", environment=environment, directory=directory)

    @property
    def url(self) -> str:
        """The tracking URI."""
        return f"http://localhost:{self.port}"

    def healthy(self) -> bool:
        """Whether /health answers 200."""
        try:
            return requests.get(f"{self.url}/health", timeout=5).status_code == 200
        except requests.ConnectionError:
            return False

    def wait_until_healthy(self, *, timeout: float = 60) -> Server:
        """Wait for the server and return it."""
        self.wait_until(self.healthy, what="healthy server", timeout=timeout)
        return self
