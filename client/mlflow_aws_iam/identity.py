"""Whose identity signs: that of botocore's default credential chain, or a role assumed with it."""

from __future__ import annotations

import functools
import getpass
import os
import re
from typing import Any

import botocore.session
from botocore.credentials import (
    AssumeRoleCredentialFetcher,
    Credentials,
    DeferredRefreshableCredentials,
    ReadOnlyCredentials,
    RefreshableCredentials,
)
from botocore.exceptions import BotoCoreError, ClientError
from mlflow.exceptions import MlflowException

from mlflow_aws_iam.settings import Settings
from mlflow_aws_iam.signing import Token, sign, web_identity_token

_LOG_IN = (
    "Log in (for example `aws sso login` or `aws configure`), name a profile with AWS_PROFILE, set "
    "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or run where a role is attached."
)


class Identity:
    """Finds credentials, keeps them fresh and makes tokens with them. Not thread-safe."""

    def __init__(self, settings: Settings, *, session: botocore.session.Session | None = None) -> None:
        self.settings = settings
        self._given_session = session
        self._session: Any = None
        self._credentials: Credentials | None = None

    def credentials(self, *, anew: bool) -> ReadOnlyCredentials:
        """The credentials to sign with; may ask AWS.

        `anew` looks again where they were found, if they are of a kind that does not renew itself: files and
        variables change when a person logs in again. Raises MlflowException.
        """
        try:
            if self._credentials is None or (
                anew and not isinstance(self._credentials, RefreshableCredentials)
            ):
                self._credentials = self._find()
            return self._credentials.get_frozen_credentials()
        except (BotoCoreError, ClientError) as error:
            self._credentials = None
            role = self.settings.role_arn
            what = f"The role {role} could not be assumed" if role else "Your AWS credentials cannot be used"
            raise MlflowException(f"{what}: {error} {'' if role else _LOG_IN}".rstrip()) from error

    def token(self, credentials: ReadOnlyCredentials, *, host: str, now: float) -> Token:
        """A token for the server known as `host`, made with what `credentials` gave. Raises MlflowException."""
        if not self.settings.web_identity:
            return sign(credentials, host=host, region=self._region(), now=now)
        sts = self._session.create_client(
            "sts",
            region_name=self._region(),
            aws_access_key_id=credentials.access_key,
            aws_secret_access_key=credentials.secret_key,
            aws_session_token=credentials.token,
        )
        return web_identity_token(sts, host=host)

    def _find(self) -> Credentials:
        self._session = self._given_session or botocore.session.Session()
        found = self._session.get_credentials()
        if found is None:
            raise MlflowException(
                f"There are no AWS credentials to sign the request to MLflow with. {_LOG_IN}"
            )
        return self._assumed(found) if self.settings.role_arn else found

    def _assumed(self, source: Credentials) -> Credentials:
        extra = {
            "RoleSessionName": self.settings.role_session_name or default_session_name(),
            "SourceIdentity": self.settings.source_identity,
            "ExternalId": self.settings.external_id,
        }
        fetcher = AssumeRoleCredentialFetcher(
            functools.partial(self._session.create_client, region_name=self._region()),
            source,
            self.settings.role_arn,
            extra_args={name: value for name, value in extra.items() if value},
        )
        return DeferredRefreshableCredentials(fetcher.fetch_credentials, method="assume-role")

    def _region(self) -> str:
        return (
            self.settings.region
            or self._session.get_config_variable("region")
            or os.environ.get(
                "AWS_REGION"
            )  # what Lambda, ECS and the AWS CLI's newer kin set; botocore ignores it
            or "us-east-1"
        )


def default_session_name() -> str:
    """The name of the local user in the characters that STS allows, since CloudTrail and the server show it."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container whose user has no name
        user = ""
    name = re.sub(r"[^\w+=,.@-]", "-", user, flags=re.ASCII)[:64]
    return name if len(name) >= 2 else "mlflow"
