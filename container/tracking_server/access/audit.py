"""One JSON line for each decision: who, what, on what, allowed or not, and why. Never a token, cookie or secret."""

from __future__ import annotations

import datetime
import json
import logging
import os
import socket
import sys
import threading
import uuid
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from tracking_server.access.caller import Caller

logger = logging.getLogger(__name__)

MAX_PATH = 512
QUEUED_LINES = 50_000
# https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_PutLogEvents.html: 10,000 events and 1 MiB,
# of which each event takes 26 bytes besides its text
BATCH_LINES, BATCH_BYTES, LINE_OVERHEAD = 5_000, 900_000, 26
FLUSH_SECONDS = 1.0


class Decision(NamedTuple):
    """What was decided on a request, `at` seconds since 1970.

    `actions` are without prefix; `reason` says why it was refused, or how allowed. Made on the way of each request,
    so it is a tuple, and its text is made later.
    """

    at: float
    request_id: str
    method: str
    path: str
    address: str
    caller: Caller | None
    via: str
    actions: tuple[str, ...]
    resource: str
    allowed: bool
    status: int
    reason: str

    def line(self) -> str:
        """The decision as a line of JSON without its end."""
        caller = self.caller
        return json.dumps(
            {
                "time": datetime.datetime.fromtimestamp(self.at, datetime.timezone.utc).isoformat(
                    timespec="milliseconds"
                ),
                "logger": "audit",
                "request_id": self.request_id,
                "source_ip": self.address,
                "method": self.method,
                "path": self.path[:MAX_PATH],
                "arn": caller and caller.arn,
                "unique_id": caller and caller.unique_id,
                "via": self.via,
                "actions": [f"sagemaker-mlflow:{action}" for action in self.actions],
                "resource": self.resource,
                "decision": "allow" if self.allowed else "deny",
                "status": self.status,
                "reason": self.reason,
            },
            separators=(",", ":"),
        )


class Audit(Protocol):
    """Where decisions go."""

    def write(self, decision: Decision) -> None:
        """Take a decision; does not wait."""

    def start(self) -> None:
        """Called in each server process, once."""

    def close(self) -> None:
        """Write what is left."""


class StandardOutput:
    """Decisions between the other log lines."""

    def write(self, decision: Decision) -> None:
        """See Audit."""
        print(decision.line(), flush=True)

    def start(self) -> None:
        """See Audit."""

    def close(self) -> None:
        """See Audit."""


class LogGroup:
    """Decisions in a CloudWatch log group of their own, sent each second by a thread.

    What cannot be sent goes to standard output, which is the server's own log, so that no decision is lost
    while CloudWatch does not answer.
    """

    def __init__(self, group: str) -> None:
        self._group = group
        # not a queue.Queue: each line would wake the thread, which costs more than the rest of the gate
        self._waiting: deque[Decision] = deque()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._stream = ""
        self._logs: Any = None

    def start(self) -> None:
        """See Audit."""
        self._stream = f"{socket.gethostname()}/{os.getpid()}/{uuid.uuid4().hex[:8]}"
        self._thread = threading.Thread(target=self._run, daemon=True, name="audit")
        self._thread.start()

    def write(self, decision: Decision) -> None:
        """See Audit."""
        if len(self._waiting) < QUEUED_LINES:
            self._waiting.append(decision)
        else:
            print(decision.line(), flush=True)

    def close(self) -> None:
        """See Audit."""
        if self._thread is not None:
            self._closing.set()
            self._thread.join(timeout=10)

    def _run(self) -> None:
        closing = False
        while not closing:
            closing = self._closing.wait(FLUSH_SECONDS)
            while batch := self._collect():
                self._send(batch)

    def _collect(self) -> list[tuple[int, str]]:
        """The oldest lines, as many as one call takes."""
        batch: list[tuple[int, str]] = []
        size = 0
        while self._waiting and len(batch) < BATCH_LINES and size < BATCH_BYTES:
            decision = self._waiting.popleft()
            batch.append((int(decision.at * 1000), decision.line()))
            size += len(batch[-1][1]) + LINE_OVERHEAD
        return batch

    def _send(self, batch: Sequence[tuple[int, str]]) -> None:
        events = [{"timestamp": at, "message": line} for at, line in sorted(batch)]
        try:
            if self._logs is None:
                self._open()
            self._logs.put_log_events(logGroupName=self._group, logStreamName=self._stream, logEvents=events)
        except (BotoCoreError, ClientError) as error:
            logger.error("the audit log group takes no lines, they follow here: %s", error)
            self._logs = None
            sys.stdout.writelines(f"{line}\n" for _, line in batch)
            sys.stdout.flush()

    def _open(self) -> None:
        config = Config(
            connect_timeout=3,
            read_timeout=5,
            retries={"mode": "standard", "max_attempts": 3},
            parameter_validation=False,  # of every line, which is most of what a call costs
        )
        logs = boto3.session.Session().client("logs", config=config)
        try:
            logs.create_log_stream(logGroupName=self._group, logStreamName=self._stream)
        except ClientError as error:
            if error.response["Error"]["Code"] != "ResourceAlreadyExistsException":
                raise
        self._logs = logs
