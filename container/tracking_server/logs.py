"""Logging: one JSON object a line on standard output, whoever logs."""

from __future__ import annotations

import datetime
import json
import logging
import os
import sys
from types import TracebackType


class JsonFormatter(logging.Formatter):
    """Formats a record as {"time", "level", "logger", "process", "message"[, "exception"]}."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "time": datetime.datetime.fromtimestamp(record.created, datetime.timezone.utc).isoformat(
                timespec="milliseconds"
            ),
            "level": record.levelname,
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def configure_logging() -> None:
    """Send the logs, warnings and uncaught exceptions of every library to standard output as JSON."""
    # MLflow would otherwise install a plain-text handler of its own when imported
    os.environ["MLFLOW_CONFIGURE_LOGGING"] = "false"
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.captureWarnings(True)
    for noisy in ("botocore", "boto3", "urllib3", "s3transfer", "alembic.runtime.plugins"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    sys.excepthook = _log_uncaught


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    logging.getLogger("tracking_server").error("%s", error, exc_info=(kind, error, trace))
