"""What a figure depends on besides the code, and where figures are kept."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).with_name("results")
SERVER_PYTHON = REPOSITORY / ".venv-server" / "bin" / "python"

_VERSIONS = """\
import importlib.metadata, json, platform
names = (
    "mlflow", "fastapi", "starlette", "uvicorn", "uvloop", "httptools", "gunicorn", "flask",
    "cachetools", "anyio", "orjson", "sqlalchemy", "pymysql", "mysqlclient",
)
found = {each.metadata["name"].lower(): each.version for each in importlib.metadata.distributions()}
print(json.dumps({"python": platform.python_version()} | {n: found[n] for n in names if n in found}))
"""


def describe() -> dict[str, Any]:
    """The machine, how busy it is, and the versions that the server runs."""
    found = subprocess.run([SERVER_PYTHON, "-c", _VERSIONS], capture_output=True, text=True, check=True)
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "machine": {
            "processor": models[0] if models else platform.machine(),
            "cores": os.cpu_count(),
            "kernel": platform.release(),
            "load_average_1_min": round(os.getloadavg()[0], 2),
        },
        "versions": json.loads(found.stdout),
    }


def keep(name: str, document: dict[str, Any]) -> Path:
    """Write a result file, named after the day and the benchmark; its path."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{datetime.now(timezone.utc):%Y-%m-%d}-{name}.json"
    path.write_text(json.dumps(document, indent=2) + "\n")
    return path


def newest(name: str) -> Path | None:
    """The newest result file of a benchmark."""
    found = sorted(RESULTS.glob(f"????-??-??-{name}.json"))
    return found[-1] if found else None
