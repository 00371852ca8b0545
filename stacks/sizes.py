"""What small, medium and large stand for.

The promised users and rates are those of the managed tracking server. What a task is made of was measured: of the
tasks that Fargate offers, the smallest for which the burst is at most half of what it can do, and that holds both
rates (`python -m benchmarks.calibrate`; its table is in `docs/performance.md`). Hence:

* One task alone bears the sustained rate and the burst of its size. More of them are there for a lost one.
* One worker process: it holds 310 MB when it has as much to do as it can, and what limits it is the task's CPU.
* Scaling out begins at four to seven tenths of what a task was measured to do at most, or at 60 % of its CPU,
  whichever comes first: cores differ, and the second follows them.
* Logging a batch in MLflow's own store holds one pooled connection and opens a second: a pool below twice the
  threads can wait for itself for ever. Hence `pool_size >= 2 * threads`, which the environment model enforces.
* During a deployment old and new tasks run side by side, so the database must bear twice the connections.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

SizeName = Literal["small", "medium", "large"]

#: Memory in MiB that Fargate offers for each number of CPU units (AWS::ECS::TaskDefinition, property Cpu).
FARGATE_MEMORY: dict[int, range | tuple[int, ...]] = {
    256: (512, 1024, 2048),
    512: range(1024, 4096 + 1, 1024),
    1024: range(2048, 8192 + 1, 1024),
    2048: range(4096, 16384 + 1, 1024),
    4096: range(8192, 30720 + 1, 1024),
    8192: range(16384, 61440 + 1, 4096),
    16384: range(32768, 122880 + 1, 8192),
}

#: Old and new tasks overlap during a deployment (ECS `maximumPercent` 200).
DEPLOYMENT_OVERLAP = 2

#: Connections kept for the migration task, an operator and the agents of RDS.
RESERVED_CONNECTIONS = 10

#: `max_connections` by instance class: memory in bytes / 12,582,880 (the formula of RDS for MySQL), less a tenth
#: that RDS keeps for itself, rounded down to a multiple of five. The parameter group of the kit sets the figure.
MAX_CONNECTIONS: dict[str, int] = {
    "db.t4g.micro": 75,
    "db.t4g.small": 150,
    "db.t4g.medium": 305,
    "db.t4g.large": 610,
    "db.m6g.large": 610,
    "db.m6g.xlarge": 1225,
    "db.m7g.large": 610,
    "db.m7g.xlarge": 1225,
    "db.m7g.2xlarge": 2455,
    "db.r7g.large": 1225,
    "db.r7g.xlarge": 2455,
}


class Size(BaseModel):
    """Everything that a size decides; each figure can be overridden in an environment file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    users: int = Field(description="Users that the size is meant for.")
    sustained_tps: int = Field(description="Requests a second that it bears all day.")
    burst_tps: int = Field(description="Requests a second that it bears with all tasks running.")
    cpu: int = Field(description="CPU units of one task (1024 = one vCPU).")
    memory_mib: int = Field(description="Memory of one task in MiB.")
    workers: int = Field(description="Server processes in one task.")
    threads: int = Field(description="Threads in one process.")
    pool_size: int = Field(description="Database connections of one process.")
    min_tasks: int = Field(description="Tasks that always run.")
    max_tasks: int = Field(description="Tasks at the peak.")
    requests_per_task_per_minute: int = Field(description="Scale out above this rate for each task.")
    cpu_percent: int = Field(description="Scale out above this average CPU use.")
    database_class: str = Field(description="RDS instance class.")


SIZES: dict[SizeName, Size] = {
    "small": Size(
        users=25,
        sustained_tps=25,
        burst_tps=50,
        cpu=256,
        memory_mib=1024,
        workers=1,
        threads=8,
        pool_size=16,
        min_tasks=1,
        max_tasks=2,
        requests_per_task_per_minute=5000,
        cpu_percent=60,
        database_class="db.t4g.small",
    ),
    "medium": Size(
        users=50,
        sustained_tps=50,
        burst_tps=100,
        cpu=512,
        memory_mib=1024,
        workers=1,
        threads=8,
        pool_size=16,
        min_tasks=2,
        max_tasks=4,
        requests_per_task_per_minute=12000,
        cpu_percent=60,
        database_class="db.t4g.medium",
    ),
    "large": Size(
        users=100,
        sustained_tps=100,
        burst_tps=200,
        cpu=1024,
        memory_mib=2048,
        workers=1,
        threads=8,
        pool_size=16,
        min_tasks=2,
        max_tasks=4,
        requests_per_task_per_minute=11000,
        cpu_percent=60,
        database_class="db.m7g.large",
    ),
}


def connections_needed(*, max_tasks: int, workers: int, pool_size: int) -> int:
    """Connections that the database must accept at the worst moment: a deployment at the peak."""
    return max_tasks * workers * pool_size * DEPLOYMENT_OVERLAP + RESERVED_CONNECTIONS
