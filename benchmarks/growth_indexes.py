"""What each of the kit's indexes gives to a read and costs a write, in a database that has been filled."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.growth_seed import Seed, run_id

WRITES = 300
READS = 3

_SEARCH = (
    "SELECT DISTINCT runs.* FROM runs {join} WHERE runs.experiment_id IN ({experiment})"
    " AND runs.lifecycle_stage IN ('active') ORDER BY runs.start_time DESC, runs.run_uuid LIMIT 0, 101"
)
_FILTER = (
    "JOIN (SELECT * FROM {table} WHERE (`key` = '{key}' AND BINARY `key` = '{key}') AND (value = '{value}'"
    " AND BINARY value = '{value}')) AS found ON runs.run_uuid = found.run_uuid"
)
"""As MLflow 3.17.2 writes a search and a filter (mlflow/store/tracking/sqlalchemy_store.py)."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A read that an index is for, and rows of a write that has to keep it."""

    table: str
    join: str
    columns: str
    rows: Callable[[int], list[str]]


def _pairs(key: str, count: int) -> Callable[[int], list[str]]:
    return lambda n: [
        f"('{key}_{n}_{i}', '{n * 7919 % 1000 / 1000}', '{run_id('runs', n)}')" for i in range(count)
    ]


TRIALS = {
    "kit_runs_newest": Trial(
        table="runs",
        join="",
        columns="run_uuid, name, user_id, status, start_time, lifecycle_stage, artifact_uri, experiment_id",
        rows=lambda n: [
            f"('{run_id('trial', n)}', 'trial', 'u', 'RUNNING', {n}, 'active', 's3://b', {{experiment}})"
        ],
    ),
    "kit_params_value": Trial(
        table="params",
        join=_FILTER.format(table="params", key="param_1", value="p777"),
        columns="`key`, value, run_uuid",
        rows=_pairs("trial", 5),
    ),
    "kit_tags_value": Trial(
        table="tags",
        join=_FILTER.format(table="tags", key="mlflow.runName", value="run-777"),
        columns="`key`, value, run_uuid",
        rows=_pairs("trial", 3),
    ),
}


def measure(seed: Seed, database_cpu: Callable[[], float]) -> dict[str, Any]:
    """Reads in ms, writes in ms of the database's CPU, with and without each index."""
    return {name: _measure(seed, name, trial, database_cpu) for name, trial in TRIALS.items()}


def _measure(seed: Seed, name: str, trial: Trial, database_cpu: Callable[[], float]) -> dict[str, Any]:
    definition = _definition(seed, name, trial.table)
    reads: dict[bool, list[float]] = {True: [], False: []}
    writes: dict[bool, list[float]] = {True: [], False: []}
    build = 0.0
    number = 0
    for present in (True, False, False, True):
        has = _has(seed, name, trial.table)
        if has and not present:
            seed.run(f"DROP INDEX {name} ON {trial.table}")
        elif present and not has:
            started = time.perf_counter()
            seed.run(f"ALTER TABLE {trial.table} ADD {definition}, ALGORITHM=INPLACE, LOCK=NONE")
            build = time.perf_counter() - started
        reads[present].append(_read(seed, trial))
        writes[present].append(_write(seed, trial, number, database_cpu))
        number += WRITES
    return {
        "definition": definition,
        "build_seconds": round(build, 2),
        **_both("read_ms", reads),
        **_both("write_database_cpu_ms", writes),
        "read_gain_ratio": round(statistics.mean(reads[False]) / statistics.mean(reads[True]), 2),
        "write_cost_ratio": round(statistics.mean(writes[True]) / statistics.mean(writes[False]), 3),
    }


def _both(what: str, found: dict[bool, list[float]]) -> dict[str, float]:
    return {
        f"{what}_without": round(statistics.mean(found[False]), 4),
        f"{what}_with": round(statistics.mean(found[True]), 4),
    }


def _definition(seed: Seed, name: str, table: str) -> str:
    ((_, text),) = seed.run(f"SHOW CREATE TABLE {table}")
    found = re.search(rf"KEY `{name}` \(.*\)", text)
    if found is None:
        raise RuntimeError(f"the migration has not made {name}")
    return found.group()


def _has(seed: Seed, name: str, table: str) -> bool:
    return bool(seed.run(f"SHOW INDEX FROM {table} WHERE key_name = %s", name))


def _read(seed: Seed, trial: Trial) -> float:
    statement = _SEARCH.format(join=trial.join, experiment=seed.experiments["runs"])
    taken = []
    for _ in range(READS):
        started = time.perf_counter()
        seed.run(statement)
        taken.append((time.perf_counter() - started) * 1000)
    return min(taken)


def _write(seed: Seed, trial: Trial, first: int, database_cpu: Callable[[], float]) -> float:
    into = f"INSERT INTO {trial.table} ({trial.columns}) VALUES "  # noqa: S608
    statements = [
        (into + ", ".join(trial.rows(first + n))).replace("{experiment}", seed.experiments["runs"])
        for n in range(WRITES)
    ]
    before = database_cpu()
    for statement in statements:
        seed.run(statement)
    return (database_cpu() - before) / WRITES * 1000
