"""Fills a database with runs, points and metrics, by SQL: a million of each in a few minutes."""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pymysql

CHUNK = 100_000
"""Rows of one statement, which is one transaction."""

RUN = "LEFT(SHA2(CONCAT('{part}-', {n}), 256), 32)"
START = 1_700_000_000_000
VALUE = "CRC32(n) / 4294967296"

METRICS_A_RUN = 10
"""So few that there are 100 runs, as many as a search answers, at the smallest size."""

KEYS_A_RUN = 5
_STEP = f"(n DIV {KEYS_A_RUN} % {METRICS_A_RUN // KEYS_A_RUN})"

Progressed = Callable[[str, int], None]


def run_id(part: str, number: int) -> str:
    """The id of a run that is seeded."""
    return hashlib.sha256(f"{part}-{number}".encode()).hexdigest()[:32]


@dataclass(kw_only=True)
class Seed:
    """What a database is filled with: experiments `runs`, `points` and `metrics`.

    Of size n, `runs` has n runs of one metric, two parameters and two tags; `points` one run with n points of one
    metric; `metrics` n ÷ 10 runs with 2 points of each of 5 metrics. What is there already is not done again.
    """

    host: str
    port: int
    username: str
    password: str
    database: str
    ca_bundle: str
    experiments: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._connection: pymysql.Connection[Any] = pymysql.connect(
            host=self.host,
            port=self.port,
            user=self.username,
            password=self.password,
            database=self.database,
            ssl=ssl.create_default_context(cafile=self.ca_bundle),
            charset="utf8mb4",
            autocommit=True,
        )
        for setting in ("sql_log_bin", "foreign_key_checks", "unique_checks"):
            self.run(f"SET SESSION {setting} = 0")
        self.run("CREATE TABLE IF NOT EXISTS growth_number (n INT PRIMARY KEY)")
        self.run("CREATE TABLE IF NOT EXISTS growth_done (part VARCHAR(64) PRIMARY KEY, size INT)")
        for part in ("runs", "points", "metrics"):
            self.run(
                "INSERT IGNORE INTO experiments (name, artifact_location, lifecycle_stage, creation_time,"
                " last_update_time, workspace) VALUES (%s, %s, 'active', 1, 1, 'default')",
                part,
                f"s3://b/{part}",
            )
            ((number,),) = self.run("SELECT experiment_id FROM experiments WHERE name = %s", part)
            self.experiments[part] = str(number)

    def grow(self, size: int, progressed: Progressed) -> None:
        """Fill up to `size`, telling of every statement the part and how many rows of it are there."""
        self._numbers(size)
        for part, statement, total in self._statements(size):
            self._fill(part, statement, total, progressed)
        for table in ("runs", "params", "tags", "metrics", "latest_metrics"):
            self.run(f"ANALYZE TABLE {table}")

    def rows(self, size: int) -> int:
        """How many rows `grow` is still to write, or to look at."""
        done = dict(self.run("SELECT part, size FROM growth_done"))
        return sum(max(0, total - done.get(part, 0)) for part, _, total in self._statements(size))

    def run(self, statement: str, *parameters: object) -> Any:
        """Run a statement; the rows of its result."""
        with self._connection.cursor() as cursor:
            cursor.execute(statement, parameters or None)
            return cursor.fetchall()

    def _numbers(self, size: int) -> None:
        self.run("INSERT IGNORE INTO growth_number VALUES (0)")
        ((have,),) = self.run("SELECT COUNT(*) FROM growth_number")
        while have < size:
            self.run(
                "INSERT INTO growth_number SELECT n + %s FROM growth_number WHERE n < %s", have, size - have
            )
            have = min(2 * have, size)

    def _fill(self, part: str, statement: str, total: int, progressed: Progressed) -> None:
        found = self.run("SELECT size FROM growth_done WHERE part = %s", part)
        done = found[0][0] if found else 0
        while done < total:
            last = min(done + CHUNK, total)
            self.run(statement.format(where=f"n >= {done} AND n < {last}"))
            self.run("REPLACE INTO growth_done VALUES (%s, %s)", part, last)
            progressed(part, last - done)
            done = last

    def _statements(self, size: int) -> list[tuple[str, str, int]]:
        """Part, statement and rows, of every part that a database of a size has."""
        runs = [
            *self._runs("runs", count=size),
            *self._runs("points", count=1),
            *self._runs("metrics", count=size // METRICS_A_RUN),
        ]
        return [
            *runs,
            *_points("runs", count=size, run="n", key="0", step="0", last="TRUE"),
            *_points("points", count=size, run="0", key="0", step="n", last=f"n = {size - 1}"),
            *_points(
                "metrics",
                count=size,
                run=f"(n DIV {METRICS_A_RUN})",
                key=f"(n % {KEYS_A_RUN})",
                step=_STEP,
                last=f"{_STEP} = {METRICS_A_RUN // KEYS_A_RUN - 1}",
            ),
        ]

    def _runs(self, part: str, *, count: int) -> list[tuple[str, str, int]]:
        run = RUN.format(part=part, n="n")
        rows = {
            "runs": (
                "runs (run_uuid, name, source_type, source_name, entry_point_name, user_id, status, start_time,"
                " end_time, source_version, lifecycle_stage, artifact_uri, experiment_id)",
                f"{run}, CONCAT('run-', n), 'UNKNOWN', '', '', 'someone', 'FINISHED', {START} + n * 1000,"
                f" {START} + n * 1000 + 500, '', 'active', CONCAT('s3://b/{part}/', {run}, '/artifacts'),"
                f" {self.experiments[part]}",
            ),
            "param_0": ("params (run_uuid, `key`, value)", f"{run}, 'param_0', CONCAT('p', n % 10)"),
            "param_1": ("params (run_uuid, `key`, value)", f"{run}, 'param_1', CONCAT('p', n)"),
            "user": ("tags (run_uuid, `key`, value)", f"{run}, 'mlflow.user', 'someone'"),
            "name": ("tags (run_uuid, `key`, value)", f"{run}, 'mlflow.runName', CONCAT('run-', n)"),
        }
        return [
            (f"{part} {name}", _insert(into, values, order=run), count)
            for name, (into, values) in rows.items()
        ]


def _points(part: str, *, count: int, run: str, key: str, step: str, last: str) -> list[tuple[str, str, int]]:
    """Points, and again those that are the last ones of their metric and run."""
    columns = "(run_uuid, `key`, value, timestamp, step, is_nan)"
    values = f"{RUN.format(part=part, n=run)}, CONCAT('metric_', {key}), {VALUE}, {START} + n, {step}, 0"
    return [
        (f"{part} points", _insert(f"metrics {columns}", values, order="2, 4, 5"), count),
        (f"{part} latest", _insert(f"latest_metrics {columns}", values, order="2, 1", only=last), count),
    ]


def _insert(into: str, values: str, *, order: str, only: str = "TRUE") -> str:
    # a row that is there was written by a statement that was cut short before it was noted as done
    return (
        f"INSERT IGNORE INTO {into} SELECT {values} FROM growth_number"  # noqa: S608
        f" WHERE {{where}} AND {only} ORDER BY {order}"
    )
