"""Keeps the identity at home when a server says that artifacts lie elsewhere.

A run's artifact location comes from the server, and there from whoever made the experiment. MLflow follows it with
the credentials of the tracking server. Signing for such a host would bind a token to a name that the user never
chose, and let one server have files written to another in the user's name. So with this plug-in, artifacts that go
through a server must go through the one that was configured; `s3://` and the like are not concerned.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from mlflow_aws_iam import NAME

if TYPE_CHECKING:
    from mlflow.store.artifact.http_artifact_repo import HttpArtifactRepository


def http_artifacts(artifact_uri: str, **uris: Any) -> HttpArtifactRepository:
    """MLflow's repository for `http://` and `https://`. Raises MlflowException."""
    from mlflow.store.artifact.http_artifact_repo import HttpArtifactRepository

    repository = HttpArtifactRepository(artifact_uri, **uris)  # type: ignore[no-untyped-call]
    return _at_home(repository, **uris)


def proxied_artifacts(artifact_uri: str, **uris: Any) -> HttpArtifactRepository:
    """MLflow's repository for `mlflow-artifacts:`, which can name a host, too. Raises MlflowException."""
    from mlflow.store.artifact.mlflow_artifacts_repo import MlflowArtifactsRepository

    return _at_home(MlflowArtifactsRepository(artifact_uri, **uris), **uris)


def _at_home(
    repository: HttpArtifactRepository, *, tracking_uri: str | None = None, registry_uri: str | None = None
) -> HttpArtifactRepository:
    if os.environ.get("MLFLOW_TRACKING_AUTH") != NAME:
        return repository
    import mlflow
    from mlflow.exceptions import MlflowException

    from mlflow_aws_iam.urls import origin

    configured = [tracking_uri or mlflow.get_tracking_uri(), registry_uri or mlflow.get_registry_uri()]
    homes = [origin(uri) for uri in configured if uri.lower().startswith(("http://", "https://"))]
    scheme, host, port = found = origin(repository.artifact_uri)
    if found in homes:
        return repository
    raise MlflowException(
        f"The artifacts are said to lie at {scheme}://{host}:{port}, which is not your tracking server. With "
        "MLFLOW_TRACKING_AUTH=aws-iam your AWS identity goes to that server alone, so nothing was sent. If the "
        "location is yours and needs no identity, use it without MLFLOW_TRACKING_AUTH."
    )
