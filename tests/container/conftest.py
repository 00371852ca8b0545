"""Fixtures of the image's tests: the same real parts as the integration tests use."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))

from server_parts import aws_endpoint, database_server, new_backend_once

__all__ = ["aws_endpoint", "database_server", "new_backend_once"]
