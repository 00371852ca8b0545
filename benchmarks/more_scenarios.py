"""What clients send besides runs: the registry, traces, artifacts, and the pages of the UI."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from benchmarks.load import Request, Scenario, Session
from benchmarks.scenarios import API, Seeded, get, now, post

V3 = "/api/3.0/mlflow"
AJAX = "/ajax-api"

MEGABYTE = os.urandom(1_000_000)

CHILD_SPANS = 4


@dataclass(frozen=True, kw_only=True)
class Registry:
    """A registered model from its first version to its alias."""

    seeded: Seeded

    def __call__(self) -> Session:
        """One session of 6 requests."""
        name = f"model-{uuid.uuid4().hex}"
        yield post("create model", f"{API}/registered-models/create", **{"name": name})
        yield post(
            "create version",
            f"{API}/model-versions/create",
            **{"name": name, "source": f"{self.seeded.artifacts}/model"},
            run_id=self.seeded.run,
        )
        yield get("get version", f"{API}/model-versions/get?name={name}&version=1")
        alias = {"name": name, "alias": "champion", "version": "1"}
        yield post("set alias", f"{API}/registered-models/alias", **alias)
        yield get("get by alias", f"{API}/registered-models/alias?name={name}&alias=champion")
        yield get("search models", f"{API}/registered-models/search?max_results=100")


@dataclass(frozen=True, kw_only=True)
class Traces:
    """A trace of five spans as MLflow's client sends it, each span when it ends; then it is read and searched."""

    seeded: Seeded

    def __call__(self) -> Session:
        """One session of 10 requests."""
        trace = uuid.uuid4()
        root = os.urandom(8)
        for number in range(CHILD_SPANS):
            yield self._span(trace, os.urandom(8), name=f"child {number}", parent=root)
        yield self._span(trace, root, name="root")
        trace_id = f"tr-{trace.hex}"
        yield post("start trace", f"{V3}/traces", trace={"trace_info": self._information(trace_id)})
        yield get("get trace", f"{V3}/traces/{trace_id}")
        yield get("get trace with spans", f"{V3}/traces/get?trace_id={trace_id}")
        location = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": self.seeded.logged}}
        yield post("search 10 traces", f"{V3}/traces/search", locations=[location], max_results=10)
        yield get("get spans of traces", f"{V3}/traces/batchGet?trace_ids={trace_id}")

    def _information(self, trace_id: str) -> dict[str, Any]:
        location = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": self.seeded.logged}}
        return {
            "trace_id": trace_id,
            "trace_location": location,
            "request_time": datetime.now(timezone.utc)
            .isoformat(timespec="milliseconds")
            .replace("+00:00", "Z"),
            "execution_duration": "0.334s",
            "state": "OK",
            "request_preview": '{"question": "what?"}',
            "trace_metadata": {"mlflow.trace_schema.version": "3", "mlflow.user": "someone"},
            "tags": {"mlflow.traceName": "root"},
        }

    def _span(self, trace: uuid.UUID, span_id: bytes, *, name: str, parent: bytes = b"") -> Request:
        export = ExportTraceServiceRequest()
        span = (
            export.resource_spans.add()
            .scope_spans.add()
            .spans.add(
                trace_id=trace.bytes,
                span_id=span_id,
                parent_span_id=parent,
                name=name,
                start_time_unix_nano=now() * 1_000_000,
                end_time_unix_nano=(now() + 1) * 1_000_000,
            )
        )
        for key, value in {
            "mlflow.traceRequestId": json.dumps(f"tr-{trace.hex}"),
            "mlflow.spanType": '"LLM"',
            "mlflow.spanInputs": json.dumps({"question": "what?" * 40}),
            "mlflow.spanOutputs": json.dumps({"answer": "that!" * 40}),
        }.items():
            span.attributes.add(key=key).value.string_value = value
        headers = f"Content-Type: application/x-protobuf\r\nx-mlflow-experiment-id: {self.seeded.logged}\r\n"
        return Request(
            name="log span",
            method="POST",
            path="/v1/traces",
            body=export.SerializeToString(),
            headers=headers,
        )


@dataclass(frozen=True, kw_only=True)
class Artifacts:
    """A file of 1 MB through the server and back."""

    seeded: Seeded

    def __call__(self) -> Session:
        """One session of 2 requests."""
        path = f"/api/2.0/mlflow-artifacts/artifacts/1/{self.seeded.run}/artifacts/{uuid.uuid4().hex}.bin"
        headers = "Content-Type: application/octet-stream\r\n"
        yield Request(name="upload 1 MB", method="PUT", path=path, body=MEGABYTE, headers=headers)
        yield get("download 1 MB", path)


PAGES: dict[str, list[dict[str, Any]]] = json.loads(Path(__file__).with_name("pages.json").read_text())[
    "pages"
]
"""The requests of each page of the UI, in the order in which a browser sends them."""


@dataclass(frozen=True, kw_only=True)
class Pages:
    """A page of the UI being opened; a whole page counts as so many requests of one name."""

    seeded: Seeded
    page: str

    def __call__(self) -> Session:
        """One page."""
        for recorded in PAGES[self.page]:
            body = json.dumps(recorded["body"]) if "body" in recorded else ""
            yield Request(
                name=self.page,
                method=recorded["method"],
                path=self._filled(recorded["path"]),
                body=self._filled(body).encode(),
            )

    def _filled(self, text: str) -> str:
        return text.replace("{run}", self.seeded.run).replace("{experiment}", self.seeded.searched)


MORE: dict[str, Callable[[Seeded], Scenario]] = {
    "registry": lambda seeded: Registry(seeded=seeded),
    "traces": lambda seeded: Traces(seeded=seeded),
    "artifacts": lambda seeded: Artifacts(seeded=seeded),
    **{page: (lambda seeded, page=page: Pages(seeded=seeded, page=page)) for page in PAGES},
}
