"""The calls that are answered without MLflow's handlers, from the request's bytes to the answer's.

A request that MLflow would not read the way it plainly reads raises Unusual: a field that is unknown here or of another
type, a second spelling of a field, a value outside of MLflow's limits.
"""

# MLflow's functions bear no types
# mypy: allow-untyped-calls

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Mapping
from typing import Any, cast
from urllib.parse import parse_qsl

import orjson  # type: ignore[import-not-found]
from mlflow.entities import ViewType
from mlflow.entities.lifecycle_stage import LifecycleStage
from mlflow.utils.name_utils import _generate_random_name

from tracking_server.fast.reads import Reads
from tracking_server.fast.store import FastStore
from tracking_server.fast.transactions import Unusual
from tracking_server.fast.writes import (
    MAX_PARAM_LENGTH,
    MAX_TAG_LENGTH,
    RUN_NAME,
    Batch,
    Metric,
    ModelMetric,
    Writes,
    check_pairs,
    metric_of,
)

Body = dict[str, Any]
Answer = Callable[[bytes], bytes]

EMPTY = b"{}"
MAX_METRICS, MAX_PAIRS, MAX_ENTITIES = 1000, 100, 1000
"""What one batch may hold (mlflow/utils/validation.py of 3.17.2)."""

MAX_RUNS = 50_000
"""What one search may ask for (mlflow/store/tracking/__init__.py of 3.17.2)."""

INT64 = range(-(2**63), 2**63)
EXACT = range(-(2**53), 2**53 + 1)
"""Whole numbers that a float holds exactly."""

STATUSES = frozenset({"RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED"})
VIEWS = {"ACTIVE_ONLY": ViewType.ACTIVE_ONLY, "DELETED_ONLY": ViewType.DELETED_ONLY, "ALL": ViewType.ALL}

_RUN_ID = re.compile(r"[0-9a-f]{32}").fullmatch
_EXPERIMENT_ID = re.compile(r"0|[1-9][0-9]{0,8}").fullmatch


def fast_calls(store: FastStore) -> Mapping[tuple[str, str], Answer]:
    """What answers a method and a path; the bytes are the body, or for GET the query string."""
    calls = _Calls(store)
    table: dict[tuple[str, str], Answer] = {
        ("POST", "runs/create"): calls.create_run,
        ("POST", "runs/update"): calls.update_run,
        ("POST", "runs/log-batch"): calls.log_batch,
        ("POST", "runs/log-metric"): calls.log_metric,
        ("POST", "runs/log-parameter"): calls.log_param,
        ("POST", "runs/set-tag"): calls.set_tag,
        ("POST", "runs/search"): calls.search_runs,
        ("GET", "runs/get"): calls.get_run,
    }
    return {
        (method, f"/{prefix}/2.0/mlflow/{path}"): answer
        for prefix in ("api", "ajax-api")
        for (method, path), answer in table.items()
    }


class _Calls:
    def __init__(self, store: FastStore) -> None:
        self._store = store
        self._writes: Writes = store.writes
        self._reads: Reads = store.reads

    def create_run(self, body: bytes) -> bytes:
        sent = _object(body, {"experiment_id", "user_id", "run_name", "start_time", "tags"})
        tags = _pairs(sent.get("tags", []), longest=MAX_TAG_LENGTH)
        tagged = dict(tags).get(RUN_NAME)
        name = _text(sent, "run_name", "")
        if name and tagged and name != tagged:
            raise Unusual("two names")
        name = name or tagged or _generate_random_name()
        if not tagged:
            tags.append((RUN_NAME, name))
        info = self._writes.create_run(
            uuid.uuid4().hex,
            experiment_id=_experiment(_text(sent, "experiment_id")),
            user_id=_text(sent, "user_id", ""),
            name=name,
            start_time=_integer(sent, "start_time", 0),
            tags=tags,
        )
        data = {"tags": [{"key": key, "value": value} for key, value in tags]}
        return _json({"run": {"info": info, "data": data, "inputs": {}}})

    def update_run(self, body: bytes) -> bytes:
        sent = _object(body, {"run_id", "run_uuid", "status", "end_time", "run_name"})
        status = _text(sent, "status") if "status" in sent else None
        if status is not None and status not in STATUSES:
            raise Unusual("no such status")
        info = self._writes.update_run(
            _run_id(sent),
            status=status,
            end_time=_integer(sent, "end_time") if "end_time" in sent else None,
            name=_text(sent, "run_name", "") or None,
        )
        return _json({"run_info": info})

    def log_batch(self, body: bytes) -> bytes:
        sent = _object(body, {"run_id", "metrics", "params", "tags"})
        found = [_metric(each) for each in _list(sent, "metrics")]
        batch = Batch(
            metrics=[metric for metric, _ in found],
            model_metrics=[model for _, model in found if model],
            params=_pairs(_list(sent, "params"), longest=MAX_PARAM_LENGTH),
            tags=_pairs(_list(sent, "tags"), longest=MAX_TAG_LENGTH),
        )
        sizes = len(batch.metrics), len(batch.params), len(batch.tags)
        if sizes[0] > MAX_METRICS or max(sizes[1:]) > MAX_PAIRS or sum(sizes) > MAX_ENTITIES:
            raise Unusual("too much for a batch")
        if len({key for key, _ in batch.params}) < sizes[1]:
            raise Unusual("a parameter twice")
        self._writes.log(_run_id(sent), batch)
        return EMPTY

    def log_metric(self, body: bytes) -> bytes:
        sent = _object(body, {"run_id", "run_uuid", *_METRIC_FIELDS})
        run_id = _run_id(sent)
        metric, model = _metric(sent, ignored=2 if "run_uuid" in sent else 1)
        self._writes.log(run_id, Batch(metrics=[metric], model_metrics=[model] if model else []))
        return EMPTY

    def log_param(self, body: bytes) -> bytes:
        sent = _object(body, {"run_id", "run_uuid", "key", "value"})
        pair = _text(sent, "key"), _text(sent, "value")
        check_pairs([pair], longest=MAX_PARAM_LENGTH)
        self._writes.log_param(_run_id(sent), *pair)
        return EMPTY

    def set_tag(self, body: bytes) -> bytes:
        sent = _object(body, {"run_id", "run_uuid", "key", "value"})
        pair = _text(sent, "key"), _text(sent, "value")
        check_pairs([pair], longest=MAX_TAG_LENGTH)
        self._writes.set_tag(_run_id(sent), *pair)
        return EMPTY

    def get_run(self, query: bytes) -> bytes:
        pairs = parse_qsl(query.decode("ascii", "replace"), keep_blank_values=True, max_num_fields=4)
        sent = dict(pairs)
        if len(sent) != len(pairs) or not sent.keys() <= {"run_id", "run_uuid"}:
            raise Unusual("other parameters")
        return _json({"run": self._reads.run(_run_id(sent))})

    def search_runs(self, body: bytes) -> bytes:
        sent = _object(
            body, {"experiment_ids", "filter", "run_view_type", "max_results", "order_by", "page_token"}
        )
        limit = _integer(sent, "max_results", 1000)
        view = _text(sent, "run_view_type", "ACTIVE_ONLY")
        experiments, order_by = _list(sent, "experiment_ids"), _list(sent, "order_by")
        if not 1 <= limit <= MAX_RUNS or view not in VIEWS or not _are_texts(experiments, order_by):
            raise Unusual("a limit, a view or a list")
        runs, token = self._store.search_json(
            [_experiment(each) for each in experiments],
            filter_string=_text(sent, "filter", ""),
            stages=LifecycleStage.view_type_to_stages(VIEWS[view]),
            limit=limit,
            order_by=order_by,
            page_token=_text(sent, "page_token", "") or None,
        )
        answer: Body = {"runs": runs} if runs else {}
        return _json(answer | ({"next_page_token": token} if token else {}))


_METRIC_FIELDS = frozenset(
    {"key", "value", "timestamp", "step", "model_id", "dataset_name", "dataset_digest"}
)


def _json(answer: Body) -> bytes:
    return cast(bytes, orjson.dumps(answer))


def _object(body: bytes, fields: set[str]) -> Body:
    try:
        sent = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Unusual("not JSON") from error
    if type(sent) is not dict or not sent.keys() <= fields:
        raise Unusual("other fields")
    return cast(Body, sent)


def _run_id(sent: Body) -> str:
    run_id = _text(sent, "run_id")
    if not _RUN_ID(run_id) or type(sent.get("run_uuid", "")) is not str:
        raise Unusual("an id that MLflow does not make")
    return run_id


def _experiment(value: str) -> int:
    if not _EXPERIMENT_ID(value):
        raise Unusual("an id that MLflow does not make")
    return int(value)


def _text(sent: Body, field: str, default: str | None = None) -> str:
    value = sent.get(field, default)
    if type(value) is not str:
        raise Unusual(field)
    return value


def _integer(sent: Body, field: str, default: int | None = None) -> int:
    value = sent.get(field, default)
    if type(value) is not int or value not in INT64:
        raise Unusual(field)
    return value


def _list(sent: Body, field: str) -> list[Any]:
    value = sent.get(field, [])
    if type(value) is not list:
        raise Unusual(field)
    return value


def _are_texts(*lists: list[Any]) -> bool:
    return all(type(each) is str for values in lists for each in values)


def _pairs(sent: list[Any], *, longest: int) -> list[tuple[str, str]]:
    """Keys and values as they are sent."""
    pairs = []
    for each in sent:
        if type(each) is not dict or len(each) != 2:
            raise Unusual("a key and a value")
        pairs.append((_text(each, "key"), _text(each, "value")))
    check_pairs(pairs, longest=longest)
    return pairs


def _metric(sent: Any, *, ignored: int = 0) -> tuple[Metric, ModelMetric | None]:
    """A metric, and the same for its logged model if it has one; `ignored` fields belong to something else."""
    if type(sent) is not dict or not sent.keys() >= {"key", "value", "timestamp"}:
        raise Unusual("a metric")
    value, known = sent["value"], 3 + ("step" in sent) + ignored
    if type(value) is not float and (type(value) is not int or value not in EXACT):
        raise Unusual("a value")
    metric = metric_of(
        _text(sent, "key"), float(value), _integer(sent, "timestamp"), _integer(sent, "step", 0)
    )
    if len(sent) == known:
        return metric, None
    if not sent.keys() <= _METRIC_FIELDS | {"run_id", "run_uuid"} or ("run_id" in sent) != bool(ignored):
        raise Unusual("other fields")
    model_id, name, digest = (
        _text(sent, field, "") or None for field in ("model_id", "dataset_name", "dataset_digest")
    )
    if (name is None) != (digest is None):
        raise Unusual("half a dataset")
    return metric, ModelMetric(model_id, metric, name, digest) if model_id else None
