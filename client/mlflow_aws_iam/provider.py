"""What MLflow asks for with `MLFLOW_TRACKING_AUTH=aws-iam`."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from mlflow.tracking.request_auth.abstract_request_auth_provider import RequestAuthProvider

from mlflow_aws_iam import NAME

if TYPE_CHECKING:
    from mlflow_aws_iam.request_auth import AwsIamAuth


class AwsIamAuthProvider(RequestAuthProvider):
    """One for each process. MLflow calls `get_auth` for every request, from any thread."""

    def __init__(self) -> None:
        self._start()
        if hasattr(os, "register_at_fork"):
            # another thread may hold a lock at the moment of the fork, which then nobody in the child lets go
            os.register_at_fork(after_in_child=self._start)

    def _start(self) -> None:
        self._lock = threading.Lock()
        self._environment: dict[str, str] = {}
        self._auth: AwsIamAuth | None = None

    def get_name(self) -> str:
        """The value of MLFLOW_TRACKING_AUTH that chooses this provider."""
        return NAME

    def get_auth(self) -> AwsIamAuth:
        """What signs the request. Starts anew when a notebook changes a variable that tells who signs, and how.

        Raises:
            MlflowException: a variable MLFLOW_AWS_IAM_* has a value that it cannot have.
        """
        from mlflow_aws_iam.identity import Identity
        from mlflow_aws_iam.request_auth import AwsIamAuth
        from mlflow_aws_iam.settings import Settings

        prefixes = ("AWS_", "MLFLOW_AWS_IAM_")
        environment = {name: value for name, value in os.environ.items() if name.startswith(prefixes)}
        with self._lock:
            if self._auth is None or environment != self._environment:
                self._auth = AwsIamAuth(Identity(Settings.from_environment(environment)))
                self._environment = environment
            return self._auth
