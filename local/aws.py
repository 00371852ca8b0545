"""The embedded AWS: a control plane on loopback, and behind it processes that do what the resources say."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import boto3
from botocore.config import Config
from moto.core.base_backend import BackendDict
from moto.core.config import default_user_config
from moto.utilities.utils import get_partition

from local.cloudformation.api import CloudFormation
from local.cloudformation.custom_resources import Answers
from local.cloudformation.provider import Environment
from local.endpoint import Endpoint

REPOSITORY = Path(__file__).resolve().parent.parent
ACCOUNT = "123456789012"
# the operator's key: what it signs is not restricted
ACCESS_KEY = "AKIAEMBEDDEDOPERATOR"
SECRET_KEY = "embedded"  # noqa: S105 - opens nothing: signatures are not checked

_running = threading.Lock()


class EmbeddedAws:
    """One region of one account on this machine, from `start()` to `close()`.

    Data (objects, database, secrets) are kept in `directory` and found again by the next start; everything
    else is made anew. Only one can run in a process. `progress` gets a line for what is worth telling.
    """

    def __init__(
        self,
        *,
        directory: Path,
        region: str = "eu-central-1",
        server_python: Path = REPOSITORY / ".venv-server" / "bin" / "python",
        container: Path = REPOSITORY / "container",
        balancer_name: str = "localhost",
        progress: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.directory = directory.resolve()
        self.region = region
        self.partition = str(get_partition(region))
        self.endpoint = ""
        self._progress = progress
        self._clients: dict[str, Any] = {}
        self._clients_lock = threading.Lock()

    def __enter__(self) -> EmbeddedAws:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Listen; a failure half way stops what was started."""
        if not _running.acquire(blocking=False):
            raise RuntimeError("an embedded AWS runs in this process already")
        BackendDict.reset()
        default_user_config["iam"]["load_aws_managed_policies"] = True
        self.directory.mkdir(parents=True, exist_ok=True)
        self._front = Endpoint()
        # moto tells bucket paths from bucket hosts by the word localhost
        self.endpoint = f"http://localhost:{self._front.start()}"
        answers = Answers(lambda token: f"{self.endpoint}/cloudformation-custom-resource-response/{token}")
        self._front.routes["cloudformation-custom-resource-response"] = (
            lambda method, token, environ, body: (200 if answers.deliver(token, body) else 404, b"")
        )
        self.cloudformation = CloudFormation(
            environment=Environment(
                client=self.client, region=self.region, partition=self.partition, account=ACCOUNT
            ),
            answers=answers,
            gave_up=lambda function: None,
        )
        self._front.operations["cloudformation"] = self.cloudformation.operations

    def close(self) -> None:
        """Stop everything that was started, in order."""
        self._front.stop()
        _running.release()

    def environment(self) -> dict[str, str]:
        """What a child process needs to talk to this AWS as its operator."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self, service: str) -> Any:
        """A boto3 client with the operator's rights."""
        with self._clients_lock:
            if service not in self._clients:
                self._clients[service] = self.session(ACCESS_KEY, SECRET_KEY).client(
                    service, endpoint_url=self.endpoint, config=Config(retries={"max_attempts": 1})
                )
            return self._clients[service]

    def session(self, access_key: str, secret_key: str, token: str | None = None) -> boto3.Session:
        """A boto3 session with the given credentials."""
        return boto3.Session(access_key, secret_key, token, region_name=self.region)
