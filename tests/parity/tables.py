"""What the databases hold, with the ids and clocks masked."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from server_process import Backend

from .masks import STARTED

Row = tuple[Any, ...]

_OF_RUNS = "run_uuid IN (SELECT run_uuid FROM {db}.runs WHERE experiment_id IN ({experiments}))"
_OF_EXPERIMENTS = "experiment_id IN ({experiments})"
_OF_INPUTS = "(source_id IN ({runs}) OR destination_id IN ({runs}))"

TABLES: Mapping[str, str] = {
    "experiments": _OF_EXPERIMENTS,
    "experiment_tags": _OF_EXPERIMENTS,
    "runs": _OF_EXPERIMENTS,
    "metrics": _OF_RUNS,
    "latest_metrics": _OF_RUNS,
    "params": _OF_RUNS,
    "tags": _OF_RUNS,
    "datasets": _OF_EXPERIMENTS,
    "logged_models": _OF_EXPERIMENTS,
    "logged_model_metrics": _OF_EXPERIMENTS,
    "logged_model_params": _OF_EXPERIMENTS,
    "logged_model_tags": _OF_EXPERIMENTS,
    "inputs": _OF_INPUTS,
    "input_tags": "input_uuid IN (SELECT input_uuid FROM {db}.inputs WHERE " + _OF_INPUTS + ")",
}
"""The tables that the compared calls write to, and which of their rows belong to some experiments."""

_ID = re.compile(r"(?i)(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])")


@dataclass(frozen=True, kw_only=True)
class TableDifference:
    """Rows of a table that only one of the databases has."""

    table: str
    columns: Sequence[str]
    left: list[Row]
    right: list[Row]

    def __str__(self) -> str:
        shown = [f"table {self.table} {tuple(self.columns)}"]
        for side, rows in (("left", self.left), ("right", self.right)):
            shown += [f"  only {side}: {str(row)[:1000]}" for row in rows[:5]]
        return "\n".join(shown)


def contents(backend: Backend, experiments: Iterable[int], ids: Mapping[str, str]) -> dict[str, Counter[Row]]:
    """The rows of the tables that belong to experiments, by table; `ids` says what ids and names stand for."""
    listed = ",".join(map(str, sorted(experiments)))
    runs = f"SELECT run_uuid FROM {{db}}.runs WHERE experiment_id IN ({listed})"
    links = _links(backend, runs, ids)
    found = {}
    for table, condition in TABLES.items():
        names = columns_of(backend, table)
        where = condition.replace("{runs}", runs).replace("{experiments}", listed)
        rows = backend.admin(f"SELECT * FROM {{db}}.`{table}` WHERE {where}")
        found[table] = Counter(_masked(names, row, ids, links) for row in rows)
    return found


def differences(
    left: Mapping[str, Counter[Row]], right: Mapping[str, Counter[Row]], backend: Backend
) -> list[TableDifference]:
    """Tables that do not have the same rows."""
    return [
        TableDifference(
            table=table,
            columns=columns_of(backend, table),
            left=list((left[table] - right[table]).elements()),
            right=list((right[table] - left[table]).elements()),
        )
        for table in TABLES
        if left[table] != right[table]
    ]


_columns: dict[str, list[str]] = {}


def columns_of(backend: Backend, table: str) -> list[str]:
    """The names of a table's columns."""
    if table not in _columns:
        _columns[table] = [row[0] for row in backend.admin(f"SHOW COLUMNS FROM {{db}}.`{table}`")]
    return _columns[table]


def _links(backend: Backend, runs: str, ids: Mapping[str, str]) -> dict[str, str]:
    """What the server's own ids stand for: a dataset, by name and digest; an input, by what it links."""
    datasets = backend.admin(
        "SELECT dataset_uuid, experiment_id, name, digest FROM {db}.datasets"
        " WHERE experiment_id IN (SELECT experiment_id FROM {db}.runs)"
    )
    links = {row[0]: f"<dataset {row[1:]}>" for row in datasets}
    where = _OF_INPUTS.replace("{runs}", runs)
    known = {**ids, **links, **{key.upper(): mask for key, mask in ids.items()}}
    for input_id, *ends in backend.admin(
        f"SELECT input_uuid, source_type, source_id, destination_type, destination_id FROM {{db}}.inputs WHERE {where}"
    ):
        links[input_id] = f"<input {[known.get(end, end) for end in ends]}>"
    return links


def _masked(names: Sequence[str], row: Row, ids: Mapping[str, str], links: Mapping[str, str]) -> Row:
    return tuple(_value(name, value, ids, links) for name, value in zip(names, row, strict=True))


def _value(name: str, value: Any, ids: Mapping[str, str], links: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        value = links.get(value) or ids.get(value) or value
        return _ID.sub(lambda found: ids.get(found[0]) or ids.get(found[0].lower(), found[0]), value)
    if isinstance(value, float):
        return repr(value)  # tells -0.0 from 0.0
    if isinstance(value, int) and value >= STARTED - 60_000 and name.endswith("_time"):
        return "<now>"
    return value
