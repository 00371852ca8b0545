"""Reads of runs, as what MLflow's JSON says of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from tracking_server.fast.transactions import Row, Statements, Transactions, Unusual

RUN_COLUMNS = (
    "run_uuid, name, experiment_id, user_id, status, start_time, end_time, lifecycle_stage, artifact_uri"
)

_QUALIFIED = ", ".join(f"runs.{name.strip()}" for name in RUN_COLUMNS.split(","))

NEWEST_FIRST = "/*+ INDEX(runs kit_runs_newest) */"
"""A hint to read runs from the index that `migrate` makes. Where it is missing, MySQL plans without it; to MariaDB
the hint is a comment."""

MAX_BRANCHES = 8
"""Experiments times stages up to which each is searched for itself."""

CHUNK = 500
"""Runs whose metrics, parameters and tags one statement reads: the ORM's figure, and so the ORM's order of rows."""


def run_of(row: Row) -> dict[str, Any]:
    """The `info` of a run from its RUN_COLUMNS, in the order of MLflow's fields. Raises Unusual."""
    run_id, name, experiment_id, user_id, status, start_time, end_time, stage, uri = row
    if not name or user_id is None or start_time is None:
        raise Unusual("a run without a name, a user or a start")
    info = {
        "run_uuid": run_id,
        "experiment_id": str(experiment_id),
        "run_name": name,
        "user_id": user_id,
        "status": status,
        "start_time": start_time,
        "end_time": end_time,
        "artifact_uri": uri,
        "lifecycle_stage": stage,
        "run_id": run_id,
    }
    if not end_time:
        del info["end_time"]
    if not uri:
        del info["artifact_uri"]
    return info


class Reads:
    """Reads of runs. Every method raises Unusual."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    def run(self, run_id: str) -> dict[str, Any]:
        """A run as runs/get answers it."""
        with self._transactions.begin() as statements:
            found = statements.rows(f"SELECT {RUN_COLUMNS} FROM runs WHERE run_uuid = %s", (run_id,))
            if len(found) != 1 or found[0][0] != run_id:
                raise Unusual("no such run")
            return _runs(statements, found, one=True)[0]

    def search(
        self, experiments: Sequence[int], *, stages: Sequence[str], limit: int, offset: int
    ) -> list[dict[str, Any]]:
        """Runs of experiments, the newest first, as runs/search answers them."""
        experiments = list(dict.fromkeys(experiments))  # a run is found once, however often one is named
        branches = [(experiment, stage) for experiment in experiments for stage in stages]
        if not branches:
            return []
        if len(branches) > MAX_BRANCHES:
            return self._search_many(experiments, stages=stages, limit=limit, offset=offset)
        # each branch is read from the index in its order, and whole rows are looked up for those that remain
        branch = (
            f"(SELECT {NEWEST_FIRST} run_uuid, start_time FROM runs WHERE experiment_id = %s AND"
            " lifecycle_stage = %s ORDER BY start_time DESC, run_uuid LIMIT %s)"
        )
        values = [value for each in branches for value in (*each, limit + offset)]
        with self._transactions.begin() as statements:
            found = statements.rows(
                f"SELECT {_QUALIFIED} FROM (SELECT run_uuid, start_time FROM"
                f" ({' UNION ALL '.join([branch] * len(branches))}) AS branches"
                " ORDER BY start_time DESC, run_uuid LIMIT %s OFFSET %s) AS page"
                " JOIN runs ON runs.run_uuid = page.run_uuid"
                " ORDER BY page.start_time DESC, page.run_uuid",
                (*values, limit, offset),
            )
            return _runs(statements, found)

    def _search_many(
        self, experiments: Sequence[int], *, stages: Sequence[str], limit: int, offset: int
    ) -> list[dict[str, Any]]:
        with self._transactions.begin() as statements:
            found = statements.rows(
                f"SELECT {RUN_COLUMNS} FROM runs WHERE experiment_id IN ({_places(experiments)})"
                f" AND lifecycle_stage IN ({_places(stages)})"
                " ORDER BY start_time DESC, run_uuid LIMIT %s OFFSET %s",
                (*experiments, *stages, limit, offset),
            )
            return _runs(statements, found)

    def runs(self, ids: Sequence[str]) -> list[dict[str, Any]]:
        """Runs in the order of their ids, as runs/search answers them."""
        if not ids:
            return []
        with self._transactions.begin() as statements:
            rows = statements.rows(f"SELECT {RUN_COLUMNS} FROM runs WHERE run_uuid IN ({_places(ids)})", ids)
            by_id = {row[0]: row for row in rows}
            if len(by_id) != len(ids):
                raise Unusual("a run that has just gone")
            return _runs(statements, [by_id[run_id] for run_id in ids])


def _runs(statements: Statements, rows: Sequence[Row], *, one: bool = False) -> list[dict[str, Any]]:
    runs: list[dict[str, Any]] = []
    for start in range(0, len(rows), CHUNK):
        runs += _chunk(statements, rows[start : start + CHUNK], one=one)
    return runs


def _chunk(statements: Statements, rows: Sequence[Row], *, one: bool) -> list[dict[str, Any]]:
    ids = [row[0] for row in rows]
    places = _places(ids)
    metrics: defaultdict[str, list[Any]] = defaultdict(list)
    for run_id, key, value, timestamp, step, is_nan in statements.rows(
        "SELECT run_uuid, `key`, value, timestamp, step, is_nan FROM latest_metrics"
        f" WHERE run_uuid IN ({places})",
        ids,
    ):
        metrics[run_id].append(
            {"key": key, "value": "NaN" if is_nan else value, "timestamp": timestamp, "step": step}
        )
    pairs: tuple[defaultdict[str, list[Any]], ...] = (defaultdict(list), defaultdict(list))
    for kind, run_id, key, value in statements.rows(
        f"SELECT 0, run_uuid, `key`, value FROM params WHERE run_uuid IN ({places})"
        f" UNION ALL SELECT 1, run_uuid, `key`, value FROM tags WHERE run_uuid IN ({places})",
        (*ids, *ids),
    ):
        pairs[kind][run_id].append({"key": key} if value is None else {"key": key, "value": value})
    inputs, outputs = _links(statements, ids, one=one)
    for found in (metrics, *pairs, inputs, outputs):
        if not found.keys() <= set(ids):
            raise Unusual("rows whose run is spelled in another way, which is the same to the database")
    return [_run(row, metrics, pairs, inputs, outputs) for row in rows]


def _run(row: Row, metrics: Any, pairs: Any, inputs: Any, outputs: Any) -> dict[str, Any]:
    run_id = row[0]
    data = {}
    if found := metrics.get(run_id):
        data["metrics"] = found
    if found := pairs[0].get(run_id):
        data["params"] = found
    if found := pairs[1].get(run_id):
        data["tags"] = found
    return {
        "info": run_of(row),
        "data": data,
        "inputs": inputs.get(run_id, {}),
        "outputs": outputs.get(run_id, {}),
    }


def _links(statements: Statements, ids: Sequence[str], *, one: bool) -> tuple[Any, Any]:
    """The datasets and models that runs have used and made."""
    places = _places(ids)
    found = statements.rows(
        "SELECT 0, destination_id, source_id, 0 FROM inputs"
        f" WHERE destination_type = 'RUN' AND destination_id IN ({places})"
        " UNION ALL SELECT 1, source_id, destination_id, step FROM inputs"
        f" WHERE source_type = 'RUN_OUTPUT' AND source_id IN ({places}) AND destination_type = 'MODEL_OUTPUT'"
        " UNION ALL SELECT 2, source_id, destination_id, step FROM inputs"
        f" WHERE source_type = 'RUN_INPUT' AND source_id IN ({places}) AND destination_type = 'MODEL_INPUT'",
        (*ids, *ids, *ids),
    )
    inputs: defaultdict[str, dict[str, Any]] = defaultdict(dict)
    outputs: defaultdict[str, dict[str, Any]] = defaultdict(dict)
    if not found:
        return inputs, outputs
    if any(row[0] == 0 for row in found):
        raise Unusual("datasets")
    for kind, run_id, model_id, step in found:
        if kind == 1:
            outputs[run_id].setdefault("model_outputs", []).append({"model_id": model_id, "step": step})
        elif one:  # a search does not tell of them
            inputs[run_id].setdefault("model_inputs", []).append({"model_id": model_id})
    return inputs, outputs


def _places(values: Sequence[object]) -> str:
    return ",".join(["%s"] * len(values))
