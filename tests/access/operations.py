"""What people do with the stock MLflow client, and the IAM actions that each of it needs."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Dataset as RunDataset
from mlflow.entities import (
    DatasetInput,
    Feedback,
    LoggedModelInput,
    LoggedModelOutput,
    Metric,
    Param,
    RunTag,
    SpanType,
    TraceInfo,
    TraceLocation,
    TraceState,
)
from mlflow.entities.span import create_mlflow_span
from mlflow.entities.trace_status import TraceStatus
from mlflow.utils.rest_utils import http_request, verify_rest_response
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext

GRAPHQL = '{ mlflowGetExperiment(input: {experimentId: "0"}) { experiment { name } } }'
"""A question that MLflow's interface asks."""

HOOK = "https://1.1.1.1/"
"""MLflow takes public addresses alone, and looks names up, which tests cannot. Nothing is ever sent there."""


class Client:
    """The stock client, and what it is made of for requests that it has no method for."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.mlflow = MlflowClient(url)
        self.store: Any = self.mlflow._tracking_client.store

    def http(self, method: str, path: str, **options: Any) -> Any:
        """A request as the client's own stores make it. Raises MlflowException."""
        answer = http_request(self.store.get_host_creds(), path, method, **options)
        return verify_rest_response(answer, path)

    def reach(self, method: str, path: str, *, status: int, **options: Any) -> None:
        """A request that MLflow itself, once it gets there, answers with `status`: it is not set up for it."""
        answer = http_request(self.store.get_host_creds(), path, method, **options)
        if answer.status_code != status:
            verify_rest_response(answer, path)
            raise AssertionError(f"{path} was answered with {answer.status_code}")

    def trace(self, experiment: str) -> str:
        """Record a trace without spans; its id."""
        identifier = f"tr-{uuid.uuid4().hex}"
        self.store.start_trace(
            TraceInfo(
                trace_id=identifier,
                trace_location=TraceLocation.from_experiment_id(experiment),
                request_time=int(time.time() * 1000),
                state=TraceState.OK,
                execution_duration=1,
            )
        )
        return identifier

    def span(self, experiment: str) -> None:
        """Send a span as OpenTelemetry does."""
        number = uuid.uuid4().int
        span = ReadableSpan(
            name="question",
            context=SpanContext(trace_id=number, span_id=number >> 64, is_remote=False),
            start_time=time.time_ns(),
            end_time=time.time_ns(),
            attributes={"mlflow.traceRequestId": f'"tr-{number:032x}"'},
        )
        made = create_mlflow_span(span, f"tr-{number:032x}", SpanType.UNKNOWN)
        self.store.log_spans(experiment, [made])

    def old_trace(self, experiment: str) -> str:
        """Begin a trace as clients before MLflow 3 do; its id."""
        now = int(time.time() * 1000)
        return str(self.store.deprecated_start_trace_v2(experiment, now, {}, {}).request_id)

    def end_old_trace(self, trace: str) -> None:
        """End a trace as clients before MLflow 3 do."""
        now = int(time.time() * 1000)
        self.store.deprecated_end_trace_v2(trace, now, TraceStatus.OK, {}, {})

    def upload(self, run: str) -> None:
        """Log a small file."""
        with TemporaryDirectory() as directory:
            file = Path(directory, "uploaded.txt")
            file.write_text("text")
            self.mlflow.log_artifact(run, str(file))

    def download(self, run: str) -> None:
        """Fetch the file that stands in `World.run`."""
        with TemporaryDirectory() as directory:
            assert Path(self.mlflow.download_artifacts(run, "file.txt", directory)).read_text() == "text"


def new_name() -> str:
    """A name that nothing has."""
    return f"n-{uuid.uuid4().hex}"


def run_input() -> list[DatasetInput]:
    """A data set that a run has read."""
    return [DatasetInput(RunDataset(new_name(), "digest", "local", "source"))]


@dataclass
class World:
    """Things on the server, made by someone who may do everything, for one caller to work on.

    What an operation takes away from those that follow is a thing of its own.
    """

    admin: Client

    def __post_init__(self) -> None:
        client = self.admin.mlflow
        self.experiment_name = new_name()
        self.experiment = client.create_experiment(self.experiment_name)
        self.experiment_to_delete = client.create_experiment(new_name())
        self.deleted_experiment = client.create_experiment(new_name())
        client.delete_experiment(self.deleted_experiment)
        client.set_experiment_tag(self.experiment, "old", "1")
        self._make_runs(client)
        self._make_logged_models(client)
        self._make_registry(client)
        self._make_traces()
        self.dataset = client.create_dataset(new_name(), self.experiment, {"old": "1"}).dataset_id
        self.dataset_to_delete = client.create_dataset(new_name(), self.experiment).dataset_id
        self.prompt = new_name()
        client.register_prompt(self.prompt, "Say {{word}}")
        self._wait_for_the_client()

    @staticmethod
    def _wait_for_the_client() -> None:
        """The client tags a new prompt from a thread of its own, whose request may come at any time later."""
        for thread in threading.enumerate():
            if thread.name.startswith("link_prompt"):
                thread.join()

    def _make_runs(self, client: MlflowClient) -> None:
        self.run = client.create_run(self.experiment).info.run_id
        self.run_to_delete = client.create_run(self.experiment).info.run_id
        self.deleted_run = client.create_run(self.experiment).info.run_id
        client.delete_run(self.deleted_run)
        client.log_batch(self.run, [Metric("loss", 0.5, 1, 1)], [], [RunTag("old", "1")])
        client.log_text(self.run, "text", "file.txt")
        client.log_text(self.run, "text", "unwanted.txt")

    def _make_logged_models(self, client: MlflowClient) -> None:
        self.logged_model = client.create_logged_model(self.experiment, tags={"old": "1"}).model_id
        self.pending_model = client.create_logged_model(self.experiment).model_id
        self.logged_model_to_delete = client.create_logged_model(self.experiment).model_id
        client.finalize_logged_model(self.logged_model, "READY")

    def _make_registry(self, client: MlflowClient) -> None:
        self.model, self.model_to_rename, self.model_to_delete = new_name(), new_name(), new_name()
        client.create_registered_model(self.model, tags={"old": "1"})
        client.create_registered_model(self.model_to_rename)
        client.create_registered_model(self.model_to_delete)
        for tags in ({"old": "1"}, {}):
            client.create_model_version(self.model, self.artifacts, self.run, tags=tags)
        client.set_registered_model_alias(self.model, "champion", "1")
        client.set_registered_model_alias(self.model, "unwanted", "1")

    @property
    def artifacts(self) -> str:
        """Where the files of the run are."""
        return f"mlflow-artifacts:/{self.experiment}/{self.run}/artifacts/model"

    def _make_traces(self) -> None:
        self.trace, self.trace_to_delete = (
            self.admin.trace(self.experiment),
            self.admin.trace(self.experiment),
        )
        self.old_trace = self.admin.old_trace(self.experiment)
        self.admin.mlflow.set_trace_tag(self.trace, "old", "1")
        made = [self.assess(self.admin) for _ in range(2)]
        self.assessment, self.assessment_to_delete = made

    def assess(self, client: Client) -> str:
        """Have a client say what it thinks of the trace; the assessment's id."""
        feedback = Feedback(name="correct", value=True, trace_id=self.trace)
        return str(client.store.create_assessment(feedback).assessment_id)


@dataclass(frozen=True)
class Operation:
    """One thing that a person does; it needs every one of `actions`, in the order in which the server asks.

    The stock client looks things up first: whether a model is a prompt, where the files of a run are.
    """

    name: str
    actions: tuple[str, ...]
    call: Callable[[Client, World], object]


def _operation(name: str, actions: str, call: Callable[[Client, World], object]) -> Operation:
    return Operation(name, tuple(actions.split()), call)


EXPERIMENTS = (
    _operation("create experiment", "CreateExperiment", lambda c, w: c.mlflow.create_experiment(new_name())),
    _operation("get experiment", "GetExperiment", lambda c, w: c.mlflow.get_experiment(w.experiment)),
    _operation(
        "get experiment by name",
        "GetExperimentByName",
        lambda c, w: c.mlflow.get_experiment_by_name(w.experiment_name),
    ),
    _operation("search experiments", "SearchExperiments", lambda c, w: c.mlflow.search_experiments()),
    _operation(
        "rename experiment",
        "UpdateExperiment",
        lambda c, w: c.mlflow.rename_experiment(w.experiment, new_name()),
    ),
    _operation(
        "tag experiment",
        "SetExperimentTag",
        lambda c, w: c.mlflow.set_experiment_tag(w.experiment, "a", "b"),
    ),
    _operation(
        "delete tag of experiment",
        "SetExperimentTag",
        lambda c, w: c.mlflow.delete_experiment_tag(w.experiment, "old"),
    ),
    _operation(
        "delete experiment",
        "DeleteExperiment",
        lambda c, w: c.mlflow.delete_experiment(w.experiment_to_delete),
    ),
    _operation(
        "restore experiment",
        "RestoreExperiment",
        lambda c, w: c.mlflow.restore_experiment(w.deleted_experiment),
    ),
)

RUNS = (
    _operation("create run", "CreateRun", lambda c, w: c.mlflow.create_run(w.experiment)),
    _operation("get run", "GetRun", lambda c, w: c.mlflow.get_run(w.run)),
    _operation("search runs", "SearchRuns", lambda c, w: c.mlflow.search_runs([w.experiment])),
    _operation(
        "update run", "UpdateRun", lambda c, w: c.store.update_run_info(w.run, None, None, run_name="new")
    ),
    _operation("tag run", "SetTag", lambda c, w: c.mlflow.set_tag(w.run, "a", "b")),
    _operation("delete tag of run", "DeleteTag", lambda c, w: c.mlflow.delete_tag(w.run, "old")),
    _operation("log metric", "LogMetric", lambda c, w: c.mlflow.log_metric(w.run, "m", 1.0)),
    _operation("metric history", "GetMetricHistory", lambda c, w: c.mlflow.get_metric_history(w.run, "loss")),
    _operation("log parameter", "LogParam", lambda c, w: c.mlflow.log_param(w.run, "p", 1)),
    _operation("log batch", "LogBatch", lambda c, w: c.mlflow.log_batch(w.run, params=[Param("b", "1")])),
    _operation("log inputs", "LogInputs", lambda c, w: c.mlflow.log_inputs(w.run, run_input())),
    _operation(
        "log model inputs",
        "LogInputs",
        lambda c, w: c.mlflow.log_inputs(w.run, models=[LoggedModelInput(w.logged_model)]),
    ),
    _operation(
        "log outputs",
        "LogOutputs",
        lambda c, w: c.mlflow.log_outputs(w.run, [LoggedModelOutput(w.logged_model, 1)]),
    ),
    _operation("upload artifact", "GetRun LogModel", lambda c, w: c.upload(w.run)),
    _operation("list artifacts", "GetRun ListArtifacts", lambda c, w: c.mlflow.list_artifacts(w.run)),
    _operation(
        "download artifact", "GetRun SearchLoggedModels ListArtifacts", lambda c, w: c.download(w.run)
    ),
    _operation(
        "presign download",
        "ListArtifacts",
        lambda c, w: c.http(
            "GET", f"/api/2.0/mlflow-artifacts/presigned/{w.experiment}/{w.run}/artifacts/file.txt"
        ),
    ),
    _operation(
        "presign artifact download",
        "ListArtifacts",
        lambda c, w: c.reach(
            "POST",
            "/api/2.0/mlflow/artifacts/presigned-download-url",
            json={"run_id": w.run, "path": "file.txt"},
            status=400,
        ),
    ),
    _operation(
        "presign artifact upload",
        "LogModel",
        lambda c, w: c.reach(
            "POST",
            "/api/2.0/mlflow/artifacts/presigned-upload-url",
            json={"run_id": w.run, "path": "new.txt"},
            status=400,
        ),
    ),
    _operation(
        "delete artifact",
        "DeleteRun",
        lambda c, w: c.http(
            "DELETE",
            f"/api/2.0/mlflow-artifacts/artifacts/{w.experiment}/{w.run}/artifacts/unwanted.txt",
        ),
    ),
    _operation("delete run", "DeleteRun", lambda c, w: c.mlflow.delete_run(w.run_to_delete)),
    _operation("restore run", "RestoreRun", lambda c, w: c.mlflow.restore_run(w.deleted_run)),
)

LOGGED_MODELS = (
    _operation("create logged model", "LogModel", lambda c, w: c.mlflow.create_logged_model(w.experiment)),
    _operation(
        "finalize logged model",
        "FinalizeLoggedModel",
        lambda c, w: c.mlflow.finalize_logged_model(w.pending_model, "READY"),
    ),
    _operation("get logged model", "GetLoggedModel", lambda c, w: c.mlflow.get_logged_model(w.logged_model)),
    _operation(
        "search logged models",
        "SearchLoggedModels",
        lambda c, w: c.mlflow.search_logged_models([w.experiment]),
    ),
    _operation(
        "tag logged model",
        "GetLoggedModel SetLoggedModelTags",
        lambda c, w: c.mlflow.set_logged_model_tags(w.logged_model, {"a": "b"}),
    ),
    _operation(
        "delete tag of logged model",
        "DeleteLoggedModelTag",
        lambda c, w: c.mlflow.delete_logged_model_tag(w.logged_model, "old"),
    ),
    _operation(
        "log parameters of logged model",
        "GetLoggedModel LogLoggedModelParams",
        lambda c, w: c.mlflow.log_model_params(w.logged_model, {"p": "1"}),
    ),
    _operation(
        "list files of logged model",
        "ListLoggedModelArtifacts",
        lambda c, w: c.http("GET", f"/api/2.0/mlflow/logged-models/{w.logged_model}/artifacts/directories"),
    ),
    _operation(
        "delete logged model",
        "DeleteLoggedModel",
        lambda c, w: c.mlflow.delete_logged_model(w.logged_model_to_delete),
    ),
)

REGISTRY = (
    _operation(
        "create registered model",
        "CreateRegisteredModel",
        lambda c, w: c.mlflow.create_registered_model(new_name()),
    ),
    _operation(
        "get registered model",
        "GetRegisteredModel",
        lambda c, w: c.mlflow.get_registered_model(w.model),
    ),
    _operation(
        "search registered models",
        "SearchRegisteredModels",
        lambda c, w: c.mlflow.search_registered_models(),
    ),
    _operation(
        "rename registered model",
        "GetRegisteredModel RenameRegisteredModel",
        lambda c, w: c.mlflow.rename_registered_model(w.model_to_rename, new_name()),
    ),
    _operation(
        "update registered model",
        "GetRegisteredModel UpdateRegisteredModel",
        lambda c, w: c.mlflow.update_registered_model(w.model, "new"),
    ),
    _operation(
        "tag registered model",
        "GetRegisteredModel SetRegisteredModelTag",
        lambda c, w: c.mlflow.set_registered_model_tag(w.model, "a", "b"),
    ),
    _operation(
        "delete tag of registered model",
        "GetRegisteredModel DeleteRegisteredModelTag",
        lambda c, w: c.mlflow.delete_registered_model_tag(w.model, "old"),
    ),
    _operation(
        "create model version",
        "CreateModelVersion",
        lambda c, w: c.mlflow.create_model_version(w.model, w.artifacts, w.run),
    ),
    _operation("get model version", "GetModelVersion", lambda c, w: c.mlflow.get_model_version(w.model, "1")),
    _operation("search model versions", "SearchModelVersions", lambda c, w: c.mlflow.search_model_versions()),
    _operation(
        "update model version",
        "GetRegisteredModel UpdateModelVersion",
        lambda c, w: c.mlflow.update_model_version(w.model, "1", "new"),
    ),
    _operation(
        "tag model version",
        "GetRegisteredModel SetModelVersionTag",
        lambda c, w: c.mlflow.set_model_version_tag(w.model, "1", "a", "b"),
    ),
    _operation(
        "delete tag of model version",
        "GetRegisteredModel DeleteModelVersionTag",
        lambda c, w: c.mlflow.delete_model_version_tag(w.model, "1", "old"),
    ),
    _operation(
        "move model version to a stage",
        "GetRegisteredModel TransitionModelVersionStage",
        lambda c, w: c.mlflow.transition_model_version_stage(w.model, "1", "Production"),
    ),
    _operation(
        "latest model versions",
        "GetRegisteredModel GetLatestModelVersions",
        lambda c, w: c.mlflow.get_latest_versions(w.model),
    ),
    _operation(
        "where a model version is",
        "GetRegisteredModel GetDownloadURIForModelVersionArtifacts",
        lambda c, w: c.mlflow.get_model_version_download_uri(w.model, "1"),
    ),
    _operation(
        "set alias",
        "GetRegisteredModel SetRegisteredModelAlias",
        lambda c, w: c.mlflow.set_registered_model_alias(w.model, "challenger", "1"),
    ),
    _operation(
        "get version by alias",
        "GetModelVersionByAlias",
        lambda c, w: c.mlflow.get_model_version_by_alias(w.model, "champion"),
    ),
    _operation(
        "delete alias",
        "GetRegisteredModel DeleteRegisteredModelAlias",
        lambda c, w: c.mlflow.delete_registered_model_alias(w.model, "unwanted"),
    ),
    _operation(
        "delete model version",
        "GetRegisteredModel DeleteModelVersion",
        lambda c, w: c.mlflow.delete_model_version(w.model, "2"),
    ),
    _operation(
        "delete registered model",
        "GetRegisteredModel DeleteRegisteredModel",
        lambda c, w: c.mlflow.delete_registered_model(w.model_to_delete),
    ),
)

TRACES = (
    _operation("record trace", "StartTrace", lambda c, w: c.trace(w.experiment)),
    _operation("start trace of MLflow 2", "StartTrace", lambda c, w: c.old_trace(w.experiment)),
    _operation("end trace of MLflow 2", "EndTrace", lambda c, w: c.end_old_trace(w.old_trace)),
    _operation("send spans", "EndTrace StartTrace", lambda c, w: c.span(w.experiment)),
    _operation("get trace", "GetTraceInfo", lambda c, w: c.store.get_trace_info(w.trace)),
    _operation(
        "search traces",
        "SearchTraces",
        lambda c, w: c.mlflow.search_traces(locations=[w.experiment], include_spans=False),
    ),
    _operation("tag trace", "SetTraceTag", lambda c, w: c.mlflow.set_trace_tag(w.trace, "a", "b")),
    _operation(
        "delete tag of trace", "DeleteTraceTag", lambda c, w: c.mlflow.delete_trace_tag(w.trace, "old")
    ),
    _operation("assess trace", "SetTraceTag", lambda c, w: w.assess(c)),
    _operation("get assessment", "GetTraceInfo", lambda c, w: c.store.get_assessment(w.trace, w.assessment)),
    _operation(
        "update assessment",
        "SetTraceTag",
        lambda c, w: c.store.update_assessment(w.trace, w.assessment, rationale="new"),
    ),
    _operation(
        "delete assessment",
        "DeleteTraceTag",
        lambda c, w: c.store.delete_assessment(w.trace, w.assessment_to_delete),
    ),
    _operation(
        "link trace to run", "SetTraceTag", lambda c, w: c.mlflow.link_traces_to_run([w.trace], w.run)
    ),
    _operation(
        "delete traces",
        "DeleteTraces",
        lambda c, w: c.mlflow.delete_traces(w.experiment, trace_ids=[w.trace_to_delete]),
    ),
)

DATA_AND_PROMPTS = (
    _operation(
        "create evaluation data set",
        "LogInputs",
        lambda c, w: c.mlflow.create_dataset(new_name(), w.experiment),
    ),
    _operation("get evaluation data set", "GetExperiment", lambda c, w: c.mlflow.get_dataset(w.dataset)),
    _operation(
        "search evaluation data sets",
        "SearchExperiments",
        lambda c, w: c.mlflow.search_datasets([w.experiment]),
    ),
    _operation(
        "tag evaluation data set",
        "SetExperimentTag",
        lambda c, w: c.mlflow.set_dataset_tags(w.dataset, {"a": "b"}),
    ),
    _operation(
        "delete evaluation data set",
        "DeleteExperiment",
        lambda c, w: c.mlflow.delete_dataset(w.dataset_to_delete),
    ),
    _operation("create prompt", "CreateRegisteredModel", lambda c, w: c.mlflow.create_prompt(new_name())),
    _operation(
        "create prompt version",
        "GetRegisteredModel CreateModelVersion",
        lambda c, w: c.mlflow.create_prompt_version(w.prompt, "Shout {{word}}"),
    ),
    _operation("search prompts", "SearchRegisteredModels", lambda c, w: c.mlflow.search_prompts()),
)

ADMINISTRATION = (
    _operation(
        "create webhook",
        "CreateWebhook",
        lambda c, w: c.mlflow.create_webhook(new_name(), HOOK, ["prompt.created"], status="DISABLED"),
    ),
    _operation("list webhooks", "ListWebhooks", lambda c, w: c.mlflow.list_webhooks()),
    _operation(
        "list gateway endpoints", "ListGatewayEndpoints", lambda c, w: c.store.list_gateway_endpoints()
    ),
    _operation(
        "list users", "ListUsers", lambda c, w: c.reach("GET", "/api/2.0/mlflow/users/list", status=404)
    ),
    _operation("forget access", "FlushAccess", lambda c, w: c.http("POST", "/iam/flush")),
)

INTERFACE = (
    _operation("open the interface", "AccessUI", lambda c, w: c.http("GET", "/")),
    _operation(
        "ask GraphQL",
        "GetExperiment GetMetricHistory GetRun ListArtifacts SearchModelVersions SearchRuns",
        lambda c, w: c.http("POST", "/graphql", json={"query": GRAPHQL}),
    ),
    _operation("make a link", "AccessUI", lambda c, w: c.http("POST", "/iam/presigned-url", json={})),
    _operation("who am I", "", lambda c, w: c.http("GET", "/iam/whoami")),
    _operation("trade for a bearer", "", lambda c, w: c.http("POST", "/iam/token")),
    _operation("version", "", lambda c, w: c.http("GET", "/version")),
)

OPERATIONS = (
    *EXPERIMENTS,
    *RUNS,
    *LOGGED_MODELS,
    *REGISTRY,
    *TRACES,
    *DATA_AND_PROMPTS,
    *ADMINISTRATION,
    *INTERFACE,
)
