"""The kit's image under the limits that a Fargate task has."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import typer

from benchmarks.servers import gate_variables
from local.database import free_port
from stacks.sizes import Size

from server_process import Backend  # isort: skip

CPU_UNITS = 1024
"""Of one vCPU (AWS::ECS::TaskDefinition, property Cpu)."""

HARDENED = [
    *("--read-only", "--tmpfs", "/tmp"),  # noqa: S108 - the only place that the image can write to
    *("--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
]
"""What the task definition asks for besides CPU and memory."""

CERTIFICATE = "/opt/ca.pem"


def find_engine() -> str:
    """A container engine that works. Raises typer.BadParameter."""
    for name in ("docker", "podman"):
        if shutil.which(name) and subprocess.run([name, "info"], capture_output=True).returncode == 0:
            return name
    raise typer.BadParameter(
        "no container engine works here: `docker info` and `podman info` fail. Install or start one."
    )


class Container:
    """A server in a container with a size's CPU and memory; the same members as the native server."""

    def __init__(
        self, backend: Backend, *, engine: str, image: str, size: Size, directory: Path, group: str
    ) -> None:
        self.port = free_port()
        self.name = f"kit-calibrate-{self.port}"
        self._engine = engine
        self._log = directory / f"{self.name}.log"
        variables = backend.environment(
            MLFLOW_PORT=str(self.port),
            MLFLOW_WORKERS=str(size.workers),
            SERVER_THREADS=str(size.threads),
            DATABASE_POOL_SIZE=str(size.pool_size),
            DATABASE_CA_BUNDLE=CERTIFICATE,
            ACCESS_AUDIT_LOG_GROUP=group,
            **gate_variables(),
        )
        variables.pop("PATH")  # the image has its own
        command = [
            *(engine, "run", "--name", self.name, "--network", "host", *HARDENED),
            *("--cpus", str(size.cpu / CPU_UNITS)),
            *("--memory", f"{size.memory_mib}m", "--memory-swap", f"{size.memory_mib}m"),
            *(f"--env={name}={value}" for name, value in variables.items()),
            *("--volume", f"{backend.database_server.ca_bundle}:{CERTIFICATE}:ro"),
            image,
        ]
        self.begun = time.perf_counter()
        with self._log.open("wb") as output:
            self.popen = subprocess.Popen(command, stdout=output, stderr=output)

    @property
    def output(self) -> str:
        """Everything that the server has printed so far."""
        return self._log.read_text(errors="replace")

    @property
    def url(self) -> str:
        """The tracking URI."""
        return f"http://localhost:{self.port}"

    def state(self) -> dict[str, Any]:
        """What the engine says of it: `Pid`, `Running`, `OOMKilled` and more."""
        done = subprocess.run(
            [self._engine, "inspect", self.name], capture_output=True, text=True, check=True
        )
        (details,) = json.loads(done.stdout)
        return dict(details["State"])

    def kill(self) -> None:
        """Remove it."""
        subprocess.run([self._engine, "rm", "--force", self.name], capture_output=True, check=False)
        self.popen.wait()


def image_id(engine: str, image: str) -> str:
    """The id of an image. Raises typer.BadParameter when it is not there."""
    done = subprocess.run(
        [engine, "image", "inspect", "--format", "{{.Id}}", image], capture_output=True, text=True
    )
    if done.returncode:
        raise typer.BadParameter(f"there is no image {image}: run `make image`")
    return done.stdout.strip()
