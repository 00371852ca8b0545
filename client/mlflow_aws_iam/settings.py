"""What a user can choose, from the environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mlflow.exceptions import MlflowException


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to sign; the README of the package has the variables."""

    role_arn: str | None = None
    role_session_name: str | None = None
    source_identity: str | None = None
    external_id: str | None = None
    region: str | None = None
    allow_http: bool = False
    web_identity: bool = False

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        """The variables MLFLOW_AWS_IAM_*; an empty one counts as absent. Raises MlflowException."""

        def text(name: str) -> str | None:
            return environment.get(f"MLFLOW_AWS_IAM_{name}", "").strip() or None

        def switch(name: str) -> bool:
            value = (text(name) or "false").lower()
            if value not in {"true", "1", "false", "0"}:
                raise MlflowException(f"MLFLOW_AWS_IAM_{name} must be true or false, but is {value!r}.")
            return value in {"true", "1"}

        return cls(
            role_arn=text("ROLE_ARN"),
            role_session_name=text("ROLE_SESSION_NAME"),
            source_identity=text("SOURCE_IDENTITY"),
            external_id=text("EXTERNAL_ID"),
            region=text("REGION"),
            allow_http=switch("ALLOW_HTTP"),
            web_identity=switch("WEB_IDENTITY"),
        )
