"""Writes to a run: a few statements in one transaction each."""

# MLflow's functions bear no types
# mypy: allow-untyped-calls

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, TypeVar

from mlflow.utils.uri import append_to_uri_path
from mlflow.utils.validation import path_not_unique, validate_param_and_metric_name

from tracking_server.fast.reads import RUN_COLUMNS, run_of
from tracking_server.fast.transactions import Row, Statements, Transactions, Unusual

RUN_NAME = "mlflow.runName"

MAX_KEY_LENGTH = 250
MAX_PARAM_LENGTH = 6000
MAX_TAG_LENGTH = 8000
"""Characters (mlflow/utils/validation.py of 3.17.2)."""

LARGEST = 1.7976931348623157e308
"""What MLflow stores for an infinity, which SQL has no number for."""


Value = TypeVar("Value")


class Metric(NamedTuple):
    """A row of `metrics`, without its run."""

    key: str
    value: float
    timestamp: int
    step: int
    is_nan: bool

    @property
    def age(self) -> tuple[int, int, float]:
        """What makes one value of a metric newer than another."""
        return self.step, self.timestamp, self.value


class ModelMetric(NamedTuple):
    """A metric that belongs to a logged model as well."""

    model_id: str
    metric: Metric
    dataset_name: str | None
    dataset_digest: str | None


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What one call logs to a run."""

    metrics: Sequence[Metric] = ()
    model_metrics: Sequence[ModelMetric] = ()
    params: Sequence[tuple[str, str]] = ()
    tags: Sequence[tuple[str, str]] = ()


def metric_of(key: str, value: float, timestamp: int, step: int) -> Metric:
    """A metric as MLflow stores it. Raises Unusual when MLflow would refuse it."""
    if not is_key(key) or timestamp < 0:
        raise Unusual(f"metric {key!r}")
    is_nan = value != value
    if is_nan:
        value = 0.0
    elif value in (float("inf"), float("-inf")):
        value = LARGEST if value > 0 else -LARGEST
    return Metric(key, value, timestamp, step, is_nan)


@lru_cache(maxsize=8192)
def is_key(key: str) -> bool:
    """Whether a metric, a parameter or a tag may have this name."""
    return (
        bool(validate_param_and_metric_name(key)) and not path_not_unique(key) and len(key) <= MAX_KEY_LENGTH
    )


def check_pairs(pairs: Sequence[tuple[str, str]], *, longest: int) -> None:
    """Raises Unusual for a name or a value that MLflow would refuse, or cut."""
    for key, value in pairs:
        if not is_key(key) or len(value) > longest:
            raise Unusual(f"{key!r}")


class Writes:
    """Writes to runs. Every method raises Unusual, and has then written nothing."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions
        new = "VALUES(%s)" if transactions.is_mariadb else "new.%s"
        self._alias = "" if transactions.is_mariadb else "AS new"
        newer = "({}, {}, {}) > (latest_metrics.step, latest_metrics.timestamp, latest_metrics.value)".format(
            *(new % column for column in ("step", "timestamp", "value"))
        )
        # assignments see those before them: in this order the comparison stays true while its columns change
        self._newest = f"{self._alias} ON DUPLICATE KEY UPDATE " + ", ".join(
            f"{column} = IF({when}, {new % column}, latest_metrics.{column})"
            for column, when in (
                ("is_nan", newer),
                # the ORM takes 0.0 and -0.0 for the same, and leaves what is there
                ("value", f"{newer} AND {new % 'value'} <> latest_metrics.value"),
                ("timestamp", newer),
                ("step", newer),
            )
        )
        self._replace = f"{self._alias} ON DUPLICATE KEY UPDATE value = {new % 'value'}"
        # MLflow's set_tag takes over the spelling of the call, its log_batch keeps the one that is there
        self._replace_whole = f"{self._alias} ON DUPLICATE KEY UPDATE " + ", ".join(
            f"{column} = {new % column}" for column in ("run_uuid", "`key`", "value")
        )

    def log(self, run_id: str, batch: Batch) -> None:
        """Log all of a batch to an active run, or nothing of it."""
        metrics = list(dict.fromkeys(batch.metrics))

        def work(statements: Statements, careful: bool) -> None:
            experiment_id = _active_run(statements, run_id)
            self._params(statements, run_id, batch.params, careful=careful)
            self._metrics(statements, run_id, metrics, careful=careful)
            _model_metrics(statements, run_id, batch.model_metrics, experiment_id)
            self._tags(statements, run_id, batch.tags)

        self._transactions.write(work)

    def set_tag(self, run_id: str, key: str, value: str) -> None:
        """Set a tag of an active run."""

        def work(statements: Statements, _careful: bool) -> None:
            _active_run(statements, run_id)
            self._set_tag(statements, run_id, key, value, self._replace_whole)

        if key == RUN_NAME:
            raise Unusual("a tag that renames the run")
        self._transactions.write(work)

    def log_param(self, run_id: str, key: str, value: str) -> None:
        """Log a parameter that the run does not have."""

        def work(statements: Statements, _careful: bool) -> None:
            _active_run(statements, run_id)
            statements.insert("INSERT INTO params (run_uuid, `key`, value) VALUES", [(run_id, key, value)])

        # not again when it is there: MLflow compares the values as the database's collation does
        with self._transactions.begin(write=True) as statements:
            work(statements, False)

    def create_run(
        self,
        run_id: str,
        *,
        experiment_id: int,
        user_id: str,
        name: str,
        start_time: int,
        tags: Sequence[tuple[str, str]],
    ) -> dict[str, object]:
        """Create a run in an active experiment; what MLflow answers about it."""

        def work(statements: Statements, _careful: bool) -> str:
            found = statements.rows(
                "SELECT artifact_location, lifecycle_stage FROM experiments WHERE experiment_id = %s",
                (experiment_id,),
            )
            if len(found) != 1 or found[0][1] != "active":
                raise Unusual("no such experiment")
            uri = str(append_to_uri_path(found[0][0], run_id, "artifacts"))
            statements.run(
                "INSERT INTO runs (run_uuid, name, source_type, source_name, entry_point_name, user_id, status,"
                " start_time, source_version, lifecycle_stage, artifact_uri, experiment_id)"
                " VALUES (%s, %s, 'UNKNOWN', '', '', %s, 'RUNNING', %s, '', 'active', %s, %s)",
                (run_id, name, user_id, start_time, uri, experiment_id),
            )
            statements.insert(
                "INSERT INTO tags (run_uuid, `key`, value) VALUES", [(run_id, *tag) for tag in tags]
            )
            return uri

        uri = self._transactions.write(work)
        return run_of((run_id, name, experiment_id, user_id, "RUNNING", start_time, None, "active", uri))

    def update_run(
        self, run_id: str, *, status: str | None, end_time: int | None, name: str | None
    ) -> dict[str, object]:
        """Change what is not None of an active run; what MLflow answers about it."""

        def work(statements: Statements, _careful: bool) -> Row:
            found = statements.rows(
                f"SELECT {RUN_COLUMNS} FROM runs WHERE run_uuid = %s FOR UPDATE", (run_id,)
            )
            if len(found) != 1 or found[0][0] != run_id or found[0][7] != "active":
                raise Unusual("no such run")
            _, old_name, experiment, user, old_status, start, old_end, stage, uri = found[0]
            changed = (
                name or old_name,
                status or old_status,
                old_end if end_time is None else end_time,
            )
            if changed != (old_name, old_status, old_end):
                statements.run(
                    "UPDATE runs SET name = %s, status = %s, end_time = %s WHERE run_uuid = %s",
                    (*changed, run_id),
                )
            if name:
                self._set_tag(statements, run_id, RUN_NAME, name, self._replace)
            return run_id, changed[0], experiment, user, changed[1], start, changed[2], stage, uri

        return run_of(self._transactions.write(work))

    def _set_tag(self, statements: Statements, run_id: str, key: str, value: str, if_there: str) -> None:
        statements.insert(
            "INSERT INTO tags (run_uuid, `key`, value) VALUES", [(run_id, key, value)], if_there
        )

    def _params(
        self, statements: Statements, run_id: str, params: Sequence[tuple[str, str]], *, careful: bool
    ) -> None:
        if careful and params:
            logged = _existing(statements, "params", run_id, [key for key, _ in params])
            if any(logged.get(key, value) != value for key, value in params):
                raise Unusual("a parameter cannot change")
            params = [(key, value) for key, value in params if key not in logged]
        statements.insert(
            "INSERT INTO params (run_uuid, `key`, value) VALUES", [(run_id, *param) for param in params]
        )

    def _metrics(
        self, statements: Statements, run_id: str, metrics: Sequence[Metric], *, careful: bool
    ) -> None:
        if careful and metrics:
            logged = _logged(statements, run_id, metrics)
            metrics = [metric for metric in metrics if metric not in logged]
        if not metrics:
            return
        statements.insert(
            "INSERT INTO metrics (run_uuid, `key`, value, timestamp, step, is_nan) VALUES",
            [(run_id, *metric) for metric in metrics],
        )
        newest: dict[str, Metric] = {}
        for metric in metrics:
            if metric.key not in newest or metric.age > newest[metric.key].age:
                newest[metric.key] = metric
        current = _latest(statements, run_id, list(newest))
        # sorted: all transactions lock rows in one order
        rows = sorted((run_id, *metric) for metric in newest.values() if metric.key not in current)
        older = sorted(
            (run_id, *metric)
            for metric in newest.values()
            if metric.key in current and metric.age > current[metric.key]
        )
        into = "INSERT INTO latest_metrics (run_uuid, `key`, value, timestamp, step, is_nan) VALUES"
        statements.insert(into, older, self._newest)
        statements.insert(into, rows)

    def _tags(self, statements: Statements, run_id: str, tags: Sequence[tuple[str, str]]) -> None:
        if not tags:
            return
        wanted = dict(tags)  # the last one counts
        name = wanted.pop(RUN_NAME, None)
        if name is not None and sum(key == RUN_NAME for key, _ in tags) > 1:
            raise Unusual("several names for a run")
        if name:
            statements.run("UPDATE runs SET name = %s WHERE run_uuid = %s", (name, run_id))
            self._set_tag(statements, run_id, RUN_NAME, name, self._replace)
        if not wanted:
            return
        there = _existing(statements, "tags", run_id, list(wanted))
        into = "INSERT INTO tags (run_uuid, `key`, value) VALUES"
        statements.insert(
            into, sorted((run_id, *tag) for tag in wanted.items() if tag[0] in there), self._replace
        )
        statements.insert(into, sorted((run_id, *tag) for tag in wanted.items() if tag[0] not in there))


def _active_run(statements: Statements, run_id: str) -> int:
    """The experiment of an active run. Raises Unusual when there is no such run."""
    found = statements.rows(
        "SELECT run_uuid, lifecycle_stage, experiment_id FROM runs WHERE run_uuid = %s", (run_id,)
    )
    # the database compares without regard to case
    if len(found) != 1 or found[0][:2] != (run_id, "active"):
        raise Unusual("no such run, or it is deleted")
    return int(found[0][2])


def _existing(statements: Statements, table: str, run_id: str, keys: Sequence[str]) -> dict[str, str]:
    """Which of the keys a run has in a table, with their values. Raises Unusual for one in another spelling."""
    found = statements.rows(
        f"SELECT `key`, value FROM {table} WHERE run_uuid = %s AND `key` IN ({_places(keys)})",
        (run_id, *keys),
    )
    return _spelled({str(key): value for key, value in found}, keys)


def _latest(statements: Statements, run_id: str, keys: Sequence[str]) -> dict[str, tuple[int, int, float]]:
    found = statements.rows(
        "SELECT `key`, step, timestamp, value FROM latest_metrics"
        f" WHERE run_uuid = %s AND `key` IN ({_places(keys)})",
        (run_id, *keys),
    )
    return _spelled({str(key): (step, timestamp, value) for key, step, timestamp, value in found}, keys)


def _spelled(found: dict[str, Value], keys: Sequence[str]) -> dict[str, Value]:
    if not found.keys() <= set(keys):
        raise Unusual("a key that is there in another spelling, which is the same to the database")
    return found


def _logged(statements: Statements, run_id: str, metrics: Sequence[Metric]) -> set[Metric]:
    """Which of the metrics are there already."""
    found: set[Metric] = set()
    for start in range(0, len(metrics), 250):
        part = metrics[start : start + 250]
        rows = statements.rows(
            "SELECT `key`, value, timestamp, step, is_nan FROM metrics WHERE run_uuid = %s AND ("
            + " OR ".join(["(`key` = %s AND timestamp = %s AND step = %s AND value = %s)"] * len(part))
            + ")",
            [run_id, *(value for m in part for value in (m.key, m.timestamp, m.step, m.value))],
        )
        found.update(Metric(key, value, time, step, bool(nan)) for key, value, time, step, nan in rows)
    return found


def _model_metrics(
    statements: Statements, run_id: str, metrics: Sequence[ModelMetric], experiment_id: int
) -> None:
    statements.insert(
        "INSERT INTO logged_model_metrics (model_id, metric_name, metric_timestamp_ms, metric_step, metric_value,"
        " experiment_id, run_id, dataset_name, dataset_digest) VALUES",
        [
            (
                each.model_id,
                each.metric.key,
                each.metric.timestamp,
                each.metric.step,
                each.metric.value,
                experiment_id,
                run_id,
                each.dataset_name,
                each.dataset_digest,
            )
            for each in dict.fromkeys(metrics)
        ],
    )


def _places(values: Sequence[object]) -> str:
    return ",".join(["%s"] * len(values))
