"""Calls of the routes that the tracking server has of its own, below /iam, signed with an AWS identity."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

import requests

from kit.console import err, fail
from kit.deployment import ROLES, Deployment

_TIMEOUT_SECONDS = 60


def call(
    deployment: Deployment,
    method: str,
    path: str,
    *,
    role: str | None,
    body: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The server's JSON answer; ends the command with what to do when it refuses or cannot be reached."""
    role_arn = deployment.role_arn(role) if role else None
    deployment.act_as_person()
    # not at the top: MLflow takes seconds to import, which the other commands need not wait for
    with err.status("signing in"):
        from mlflow.exceptions import MlflowException
        from mlflow_aws_iam import auth

    region = os.environ.get("MLFLOW_AWS_IAM_REGION") or deployment.region
    url = f"{deployment.tracking_uri}{path}"
    try:
        answer = requests.request(
            method,
            url,
            json=body,
            auth=auth(role_arn=role_arn, region=region),
            allow_redirects=False,
            timeout=_TIMEOUT_SECONDS,
        )
    except MlflowException as error:
        fail(str(error.message), todo="Nothing was sent to the server.")
    except requests.RequestException as error:
        fail(
            f"{url} cannot be reached: {error}",
            todo="Check that you are in the network that its front is open to, and that the server runs.",
        )
    return _content(deployment, answer, role)


def _content(deployment: Deployment, answer: requests.Response, role: str | None) -> dict[str, Any]:
    try:
        content = answer.json()
    except ValueError:
        content = None
    said: dict[str, Any] = content if isinstance(content, dict) else {}
    if answer.status_code != 200 or not isinstance(content, dict):
        fail(
            f"{deployment.tracking_uri} answered {answer.status_code} {said.get('error_code', '')}: "
            f"{said.get('message', answer.text[:200])}",
            todo=_todo(deployment, answer.status_code, role, said.get("message", "")),
        )
    return said


def _todo(deployment: Deployment, status: int, role: str | None, message: str) -> str:
    if status == 401:
        return "Check the credentials with `aws sts get-caller-identity`, and the clock of this machine."
    if status == 403 and role is None:
        return f"Choose a role with --role ({', '.join(ROLES)}), or have its policy attached."
    if status == 403:
        named = re.search(r"sagemaker-mlflow:(\w+)", message)
        action = named[1] if named else "…"
        return f"`kit access explain {deployment.env} --as {role} --action {action}` shows what decides."
    if status in (429, 503):
        return "Try again in a moment."
    return f"Is it a server with access.engine iam or roles? `kit env show {deployment.env}` tells."
