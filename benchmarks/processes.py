"""CPU, memory and cores of a process and all that it has started, from Linux."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def family(pid: int) -> list[int]:
    """A process and all its descendants that live."""
    found = [pid]
    for member in found:
        for children in Path(f"/proc/{member}/task").glob("*/children"):
            with suppress(FileNotFoundError, ProcessLookupError):
                found += map(int, children.read_text().split())
    return found


def cpu_seconds(pid: int) -> float:
    """Time that a process and its descendants have had on a CPU, with that of threads that have ended.

    https://man7.org/linux/man-pages/man3/clock_getcpuclockid.3.html: the clock of another process, in ns.
    """
    taken = 0
    for member in family(pid):
        with suppress(OSError):  # it has ended meanwhile
            taken += time.clock_gettime_ns((~member << 3) | 2)
    return taken / 1e9


def pss_mb(pid: int) -> float:
    """Memory of a process and its descendants in MB, what several share counted once between them."""
    kib = 0
    for member in family(pid):
        with suppress(FileNotFoundError, ProcessLookupError):
            text = Path(f"/proc/{member}/smaps_rollup").read_text()
            kib += int(re.findall(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)[0])
    return kib * 1024 / 1e6


def pin(pid: int, core: int) -> None:
    """Keep a process, its descendants and all their threads to one core."""
    for member in family(pid):
        for task in Path(f"/proc/{member}/task").glob("*"):
            with suppress(ProcessLookupError):
                os.sched_setaffinity(int(task.name), {core})


@contextmanager
def pinned(core: int) -> Iterator[None]:
    """Keep what this thread starts meanwhile to one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    yield
    os.sched_setaffinity(0, before)


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process and its descendants."""
    for member in family(pid):
        with suppress(ProcessLookupError):
            os.kill(member, number)
