"""Signs the requests of the MLflow client with an AWS identity: `MLFLOW_TRACKING_AUTH=aws-iam`.

MLflow finds the plug-in by itself. The two functions here are for code that talks to the server without MLflow.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import botocore.session
    from requests.auth import AuthBase

    from mlflow_aws_iam.request_auth import AwsIamAuth

__all__ = ["auth", "token"]

NAME = "aws-iam"
"""The value of MLFLOW_TRACKING_AUTH."""


def token(
    tracking_uri: str,
    *,
    session: botocore.session.Session | None = None,
    role_arn: str | None = None,
    region: str | None = None,
    allow_http: bool | None = None,
) -> str:
    """A new token for the server at `tracking_uri`, to be sent as `Authorization: Bearer <token>`.

    It holds for 900 seconds. `session` gives the credentials, by default those of botocore's default chain.
    What is left out comes from the environment variables MLFLOW_AWS_IAM_*.

    Raises:
        mlflow.exceptions.MlflowException: no credentials, a role that cannot be assumed, or plain HTTP to another
            machine without leave; the message says what to do.
    """
    return _auth(session=session, role_arn=role_arn, region=region, allow_http=allow_http).token(tracking_uri)


def auth(
    *,
    session: botocore.session.Session | None = None,
    role_arn: str | None = None,
    region: str | None = None,
    allow_http: bool | None = None,
) -> AuthBase:
    """For `requests`: signs each request for the host in its URL. Keep it, it holds tokens and renews them.

    Takes what `token` takes. The requests that it signs raise what `token` raises.
    """
    return _auth(session=session, role_arn=role_arn, region=region, allow_http=allow_http)


def _auth(
    *,
    session: botocore.session.Session | None,
    role_arn: str | None,
    region: str | None,
    allow_http: bool | None,
) -> AwsIamAuth:
    # not at the top: MLflow imports this package at its own start, whether it is used or not
    from mlflow_aws_iam.identity import Identity
    from mlflow_aws_iam.request_auth import AwsIamAuth
    from mlflow_aws_iam.settings import Settings

    settings = Settings.from_environment(os.environ)
    settings = replace(
        settings,
        role_arn=role_arn or settings.role_arn,
        region=region or settings.region,
        allow_http=settings.allow_http if allow_http is None else allow_http,
    )
    return AwsIamAuth(Identity(settings, session=session))
