"""Puts the token on a request."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any

from botocore.credentials import ReadOnlyCredentials
from requests import PreparedRequest, Response
from requests.auth import AuthBase

from mlflow_aws_iam.identity import Identity
from mlflow_aws_iam.signing import Token
from mlflow_aws_iam.urls import signed_host

RENEW_SECONDS = 240
"""Tokens with less to live are replaced. MLflow retries a request for about that long with the token it has."""


@dataclass(frozen=True)
class _Held:
    token: Token
    credentials: ReadOnlyCredentials


class AwsIamAuth(AuthBase):
    """Signs each request for the host in its URL. Thread-safe.

    MLflow builds that URL from the tracking URI before any server has spoken, so the token is bound to a name that
    the user chose. `requests` calls this once for each request, never for the redirects that follow it, and takes
    the header off when a redirect leads to another server. The one place where a server names another is the
    location of artifacts: see `mlflow_aws_iam.artifacts`.
    """

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._held: dict[str, _Held] = {}
        self._lock = threading.Lock()

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        """Sets the header. Raises MlflowException."""
        # MLFLOW_TRACKING_TOKEN names an identity more closely than the machine's credentials do. A user name and
        # password, often a leftover for another server, mean nothing to this one.
        if not request.headers.get("Authorization", "").lower().startswith("bearer "):
            request.headers["Authorization"] = f"Bearer {self.token(str(request.url))}"
            request.register_hook("response", self._forget_refused)  # type: ignore[no-untyped-call]
        return request

    def token(self, url: str) -> str:
        """A token with at least `RENEW_SECONDS` to live for the server at `url`. Raises MlflowException."""
        host = signed_host(url, allow_http=self._identity.settings.allow_http)
        with self._lock:
            now = time.time()
            held = self._held.get(host)
            due = held is None or held.token.expires_at - now < RENEW_SECONDS
            credentials = self._identity.credentials(anew=due)
            if held is None or due or held.credentials != credentials:
                token = self._identity.token(credentials, host=host, now=now)
                held = self._held[host] = _Held(token, credentials)
            return held.token.value

    def _forget_refused(self, response: Response, *_: Any, **__: Any) -> None:
        """A person whose token is refused logs in again or sets the clock, and must not wait for the next renewal."""
        if response.status_code == 401:
            with self._lock:
                self._held.clear()
