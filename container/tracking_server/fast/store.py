"""MLflow's tracking store with fast statements where they do the same."""

# MLflow's store bears few types
# mypy: allow-untyped-calls, disable-error-code="misc,no-untyped-def"

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlflow.entities import Metric as MetricEntity
from mlflow.store.tracking.dbmodels.models import SqlRun
from mlflow.store.tracking.sqlalchemy_store import (
    SqlAlchemyStore,
    _get_orderby_clauses,
    _get_sqlalchemy_filter_clauses,
)
from mlflow.utils.search_utils import SearchUtils
from mlflow.utils.validation import (
    _validate_batch_log_data,
    _validate_batch_log_limits,
    _validate_param_keys_unique,
    _validate_run_id,
)
from sqlalchemy import select

from tracking_server.fast.reads import NEWEST_FIRST, Reads
from tracking_server.fast.transactions import Transactions, Unusual
from tracking_server.fast.writes import (
    MAX_PARAM_LENGTH,
    MAX_TAG_LENGTH,
    Batch,
    ModelMetric,
    Writes,
    check_pairs,
    metric_of,
)

NEWEST_FIRST_ORDERS = (
    ["attributes.start_time DESC"],  # as the UI asks
    ["attribute.start_time DESC"],
    ["start_time DESC"],
)
"""What asks for the order that runs have without being asked."""


class FastStore(SqlAlchemyStore):
    """SqlAlchemyStore with a batch in one transaction, and searches and reads without the ORM."""

    def __init__(self, db_uri: str, default_artifact_root: str, read_db_uri: str | None = None) -> None:
        super().__init__(db_uri, default_artifact_root, read_db_uri)
        transactions = Transactions(self.engine)
        self.writes = Writes(transactions)
        self.reads = Reads(transactions)

    def log_batch(self, run_id, metrics, params, tags):
        """As MLflow's, in one transaction."""
        _validate_run_id(run_id)
        metrics, params, tags = _validate_batch_log_data(metrics, params, tags)
        _validate_batch_log_limits(metrics, params, tags)
        _validate_param_keys_unique(params)
        try:
            self.writes.log(run_id, _batch(metrics, params, tags))
        except Unusual:
            super().log_batch(run_id, metrics, params, tags)

    def log_metric(self, run_id, metric):
        """As MLflow's, in one transaction."""
        try:
            self.writes.log(run_id, _batch([metric], [], []))
        except Unusual:
            super().log_metric(run_id, metric)

    def search_json(
        self,
        experiments: Sequence[int],
        *,
        filter_string: str,
        stages: Sequence[str],
        limit: int,
        order_by: Sequence[str],
        page_token: str | None,
    ) -> tuple[list[dict[str, Any]], str | None]:
        """Runs as runs/search answers them, and the token of the next page. Raises Unusual and MlflowException."""
        offset = SearchUtils.parse_start_offset_from_page_token(page_token)
        if offset < 0:
            raise Unusual("a page before the first")
        if list(order_by) in NEWEST_FIRST_ORDERS:
            order_by = ()
        if filter_string or order_by:
            ids = self._run_ids(experiments, filter_string, stages, limit + 1, order_by, offset)
            runs = self.reads.runs(ids[:limit])
            more = len(ids) > limit
        else:
            runs = self.reads.search(experiments, stages=stages, limit=limit + 1, offset=offset)
            more = len(runs) > limit
        token = SearchUtils.create_page_token(offset + limit).decode() if more else None
        return runs[:limit], token

    def _run_ids(
        self,
        experiments: Sequence[int],
        filter_string: str,
        stages: Sequence[str],
        limit: int,
        order_by: Sequence[str],
        offset: int,
    ) -> Sequence[str]:
        """The runs that a filter finds, in order, by MLflow's own translation of both to SQL."""
        with self.ManagedSessionMaker() as session:
            filters = SearchUtils.parse_search_filter(filter_string)
            cases, orders, joins = _get_orderby_clauses(list(order_by), session)
            on_runs, on_others, on_datasets = _get_sqlalchemy_filter_clauses(
                filters, session, self._get_dialect()
            )
            statement = select(SqlRun.run_uuid, *cases, SqlRun.start_time).select_from(SqlRun)
            for other in on_others:
                statement = statement.join(other)
            for dataset in on_datasets:
                statement = statement.join(dataset, SqlRun.run_uuid == dataset.c.destination_id)
            for join in joins:
                statement = statement.outerjoin(join)
            if on_datasets:  # a run has one value of a key at most, but may have a dataset several times
                statement = statement.distinct()
            if not filter_string:
                statement = statement.prefix_with(NEWEST_FIRST)
            statement = (
                statement.filter(
                    SqlRun.experiment_id.in_(experiments), SqlRun.lifecycle_stage.in_(stages), *on_runs
                )
                .order_by(*orders)
                .offset(offset)
                .limit(limit)
            )
            return [str(row[0]) for row in session.execute(statement)]


def _batch(metrics: Sequence[MetricEntity], params: Sequence[Any], tags: Sequence[Any]) -> Batch:
    if not all(type(each.value) in (float, int) for each in metrics):
        raise Unusual("a value that is no number")
    rows = [(each, metric_of(each.key, float(each.value), each.timestamp, each.step)) for each in metrics]
    pairs = [(each.key, each.value) for each in params], [(each.key, each.value) for each in tags]
    if any(value is None for part in pairs for _, value in part):
        raise Unusual("a key without a value")
    check_pairs(pairs[0], longest=MAX_PARAM_LENGTH)
    check_pairs(pairs[1], longest=MAX_TAG_LENGTH)
    return Batch(
        metrics=[row for _, row in rows],
        model_metrics=[
            ModelMetric(each.model_id, row, each.dataset_name, each.dataset_digest)
            for each, row in rows
            if each.model_id is not None
        ],
        params=pairs[0],
        tags=pairs[1],
    )
