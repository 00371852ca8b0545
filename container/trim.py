"""Removes from an installation what a running server never opens: `python trim.py SITE_PACKAGES`.

For the Dockerfile's build stage, after pip. Every rule says why nothing is lost; tests/container looks into the
image for what must still be there.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

# Test suites, by the names that packages give to them, and the two kits for writing SQLAlchemy dialects' own.
TESTS = ("**/tests", "*/test", "sqlalchemy/testing", "alembic/testing")

# What compilers and type checkers read: Python itself opens none of these.
SOURCES = ("**/*.pyi", "**/*.pxd", "**/*.pyx", "**/*.c", "**/*.cpp", "**/*.h", "**/*.hpp", "**/*.a")

# botocore has a model for each of AWS's 400 services, a tenth of which ends here, and examples for its documentation.
# Kept is what the server calls, what MLflow calls (its gateway and its SageMaker commands), what finding credentials
# takes, and what a plug-in or an event of the server may reasonably need.
SERVICES = frozenset(
    (
        *("s3", "s3control", "secretsmanager", "sts"),
        *("bedrock", "bedrock-runtime", "ecr", "iam", "sagemaker", "sagemaker-runtime", "sagemaker-mlflow"),
        *("signin", "sso", "sso-oidc"),
        *("cloudwatch", "dynamodb", "ecs", "events", "kms", "lambda", "logs", "rds", "sns", "sqs", "ssm"),
    )
)

# Libraries that a wheel brings from elsewhere have been edited by the tool that put them in: strip may break those.
EDITED = ".libs"


def unneeded(site_packages: Path) -> Iterator[Path]:
    """Files and directories to remove."""
    for pattern in TESTS + SOURCES:
        yield from site_packages.glob(pattern)
    for service in (site_packages / "botocore" / "data").iterdir():
        if service.is_dir() and service.name not in SERVICES:
            yield service
        yield from service.glob("*/examples-1.json")


def strip(site_packages: Path) -> None:
    """Remove from the libraries what only a debugger reads: a third of their size."""
    for library in site_packages.rglob("*.so"):
        if not any(part.endswith(EDITED) for part in library.parts):
            subprocess.run(["strip", "--strip-unneeded", library], check=True)


def main() -> None:
    """Trim the installation that the command line names."""
    site_packages = Path(sys.argv[1])
    for path in list(unneeded(site_packages)):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    strip(site_packages)


if __name__ == "__main__":
    main()
