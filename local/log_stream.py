"""The awslogs driver: a container's output goes into a file and into CloudWatch Logs."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any


class LogStream:
    """A container's output: at once into a file, within a moment into its CloudWatch log stream."""

    _INTERVAL = 0.2

    def __init__(self, file: Path, client: Any, group: str, stream: str) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._file = file.open("a", buffering=1)
        self._target = {"logGroupName": group, "logStreamName": stream}
        self._client = client
        self._events: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._sender = threading.Thread(target=self._send, daemon=True)
        if client is not None:
            self._sender.start()

    def write(self, line: str) -> None:
        """Add a line."""
        self._file.write(line + "\n")
        with self._lock:
            self._events.append({"timestamp": int(time.time() * 1000), "message": line or " "})

    def close(self) -> None:
        """Send what is left; the lines are readable in CloudWatch when this returns."""
        self._closing.set()
        if self._client is not None:
            self._sender.join()
        self._file.close()

    def _send(self) -> None:
        last = False
        while not last:
            last = self._closing.wait(self._INTERVAL)
            with self._lock:
                events, self._events = self._events, []
            if events:
                try:
                    self._client.put_log_events(**self._target, logEvents=events)
                except Exception as error:  # the process must not end for want of a log
                    self._file.write(f"(not sent to CloudWatch: {error})\n")
