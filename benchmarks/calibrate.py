"""What each size's task bears: `python -m benchmarks.calibrate`, and with `--probe` which task is the smallest.

The image of the kit runs in a container with the CPU and memory of one task, with access control and the audit log on;
the database and the load share the machine's cores with it.
Requests of the session mix arrive at random at the sustained rate of the size for ten minutes, and at its burst rate
for one. A size holds when no request fails and the 99th percentile stays under the bound. Then so many clients that the
task is always busy show what it can do at most, from which the scaling targets follow.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress
from rich.table import Table

from benchmarks.container import CPU_UNITS, Container, find_engine, image_id
from benchmarks.load import Load, run
from benchmarks.machine import describe, keep
from benchmarks.processes import cpu_seconds, pss_mb
from benchmarks.scenarios import Mix
from benchmarks.servers import AUDIT_GROUP, Signer, Site, Stage
from kit.console import Json, err, out, print_json
from stacks.sizes import SIZES, Size, SizeName

P99_BOUND_MS = 250
"""Of all requests of the mix, a search of 100 runs among them, counted from when a request was due."""

CONNECTIONS = 64
"""At most, of an open loop: the rate decides how many are busy."""

FULL_CONNECTIONS = 16
"""Of the closed loop that keeps a task busy: twice the threads of a process."""

TARGET_SHARE = 0.6
"""Of what a task can do: where scaling out begins. The rest bears what comes until a new task is there."""

CANDIDATES = (
    {"cpu": 256, "memory_mib": 512},
    {"cpu": 256, "memory_mib": 1024},
    {"cpu": 512, "memory_mib": 1024},
    {"cpu": 1024, "memory_mib": 2048, "workers": 1},
    {"cpu": 1024, "memory_mib": 2048, "workers": 2},
)
"""Tasks that `--probe` tries, smallest first."""


class Task:
    """A task that runs, and its load."""

    def __init__(self, stage: Stage, *, engine: str, image: str, size: Size) -> None:
        self.size = size
        self._stage = stage
        self._container = Container(
            stage.migrated(),
            engine=engine,
            image=image,
            size=size,
            directory=stage.directory,
            group=AUDIT_GROUP,
        )
        self._site = Site(name=self._container.name, server=self._container, loader=stage.loader)  # type: ignore[arg-type]

    def start(self) -> dict[str, Any]:
        """Wait until it answers, and fill it; seconds to healthy, and its memory then."""
        self._site.wait_until_healthy()
        healthy = time.perf_counter() - self._container.begun
        self._pid = int(self._container.state()["Pid"])
        found = {"healthy_seconds": round(healthy, 1), "idle_mb": round(pss_mb(self._pid), 1)}
        self._site.sign = Signer(keys=self._stage.account.assume("DataScientist"), url=self._container.url)
        self._site.seed()
        return found

    def bear(self, *, seconds: float, rate: float | None = None) -> dict[str, Any]:
        """Requests at a rate, or from as many clients as keep it busy; what came of it."""
        load = Load(
            port=self._container.port,
            scenario=Mix(seeded=self._site.seeded),
            seconds=seconds,
            connections=CONNECTIONS if rate else FULL_CONNECTIONS,
            rate=rate,
            sign=self._site.sign,
        )
        before = cpu_seconds(self._pid)
        found = self._stage.loader.submit(run, load).result()
        taken = cpu_seconds(self._pid) - before
        state = self._container.state()
        if not state["Running"]:
            raise RuntimeError(f"the server has ended: {state}\n{self._container.output[-2000:]}")
        return {
            "rate": rate,
            **found,
            "cpu_ms": round(taken / max(1, found["requests"]) * 1000, 3),
            "cpu_share": round(taken / found["seconds"] / (self.size.cpu / CPU_UNITS), 3),
            "memory_mb": round(pss_mb(self._pid), 1),
        }

    def end(self) -> None:
        """Remove it."""
        self._container.kill()


def holds(borne: dict[str, Any]) -> bool:
    """Whether nothing failed, everything that was due came, and in time."""
    return borne["errors"] == 0 and borne["requests"] > 0 and borne["p99_ms"] <= P99_BOUND_MS


def measure(task: Task, *, seconds: tuple[float, float, float], progress: Progress) -> dict[str, Any]:
    """A size at its sustained rate, its burst rate and with as much as it can do, for so many seconds each."""
    size = task.size
    bar = progress.add_task(f"{size.cpu} CPU units, {size.memory_mib} MiB: starting", total=4)
    started = task.start()
    progress.update(bar, advance=1, description=f"{size.sustained_tps} requests a second, {seconds[0]:.0f} s")
    sustained = task.bear(seconds=seconds[0], rate=size.sustained_tps)
    progress.update(bar, advance=1, description=f"{size.burst_tps} requests a second, {seconds[1]:.0f} s")
    burst = task.bear(seconds=seconds[1], rate=size.burst_tps)
    progress.update(bar, advance=1, description=f"as many as it can, {seconds[2]:.0f} s")
    full = task.bear(seconds=seconds[2])
    progress.advance(bar)
    return {
        **{key: getattr(size, key) for key in ("cpu", "memory_mib", "workers", "threads")},
        **started,
        "sustained": sustained,
        "burst": burst,
        "full": full,
        "burst_to_capacity_ratio": round(size.burst_tps / full["throughput"], 3),
        "holds": holds(sustained) and holds(burst),
        "requests_per_task_per_minute": target(full["throughput"]),
    }


def target(throughput: float) -> int:
    """Requests a minute of one task above which another one is started, to two digits."""
    exact = throughput * 60 * TARGET_SHARE
    step = 10 ** (len(str(int(exact))) - 2)
    return int(exact // step * step)


def table(sizes: dict[str, dict[str, Any]]) -> Table:
    """For a person at a terminal."""
    shown = Table(
        "size", "vCPU", "MiB", "workers", "healthy s", "idle MB", "load", "errors", "p50 ms", "p99 ms", "CPU", "MB",
        "holds",
    )  # fmt: skip
    for name, found in sizes.items():
        first = [name, f"{found['cpu'] / CPU_UNITS:g}", str(found["memory_mib"]), str(found["workers"])]
        first += [f"{found['healthy_seconds']:.1f}", f"{found['idle_mb']:.0f}"]
        for kind in ("sustained", "burst", "full"):
            borne = found[kind]
            shown.add_row(
                *(first if kind == "sustained" else [""] * len(first)),
                f"{borne['rate'] or borne['throughput']:.0f}/s, {borne['seconds']:.0f} s",
                f"{borne['errors']} of {borne['requests']}",
                f"{borne['p50_ms']:.1f}",
                f"{borne['p99_ms']:.0f}",
                f"{borne['cpu_share'] * 100:.0f} %",
                f"{borne['memory_mb']:.0f}",
                "" if kind == "full" else "yes" if holds(borne) else "NO",
            )
    return shown


def probes(name: SizeName) -> dict[str, Size]:
    """The candidates with the rates of a size."""
    return {
        f"{name}, {each['cpu']}/{each['memory_mib']}/{each.get('workers', 1)}": SIZES[name].model_copy(
            update={"workers": 1, **each}
        )
        for each in CANDIDATES
    }


def main(
    *,
    only: Annotated[
        list[str] | None, typer.Option(help=f"One of {', '.join(SIZES)}; may be repeated.")
    ] = None,
    seconds: Annotated[
        tuple[float, float, float],
        typer.Option(help="Of the sustained rate, of the burst, and of full load."),
    ] = (600, 60, 30),
    probe: Annotated[bool, typer.Option(help="Try other tasks as well, and write nothing.")] = False,
    image: str = "mlflow-aws-kit:local",
    as_json: Json = False,
) -> None:
    """Measure what the sizes bear."""
    names = [name for name in SIZES if not only or name in only]
    if not names:
        raise typer.BadParameter(f"--only: one of {', '.join(SIZES)}")
    engine = find_engine()
    about = describe() | {"image": image_id(engine, image)}
    tried: dict[str, Size] = {
        label: size
        for name in names
        for label, size in (probes(name) if probe else {name: SIZES[name]}).items()
    }
    found = {}
    with tempfile.TemporaryDirectory(prefix="benchmark-") as temporary, Progress(console=err) as progress:
        directory = Path(temporary)
        directory.chmod(0o755)  # the database runs as another user
        with Stage(directory, share_cores=True) as stage:
            for label, size in tried.items():
                task = Task(stage, engine=engine, image=image, size=size)
                try:
                    found[label] = measure(task, seconds=seconds, progress=progress)
                finally:
                    task.end()
            database = stage.database_version
    document = about | {
        "database": database,
        "rounds": 1,
        "p99_bound_ms": P99_BOUND_MS,
        "sizes": found,
    }
    if as_json:
        print_json(document)
    else:
        out.print(table(found))
    if probe or only:
        err.print("not the sizes as they are, all of them: nothing is written")
    else:
        err.print(f"written to {keep('calibrate', document).name}")
    if not probe and not all(each["holds"] for each in found.values()):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
