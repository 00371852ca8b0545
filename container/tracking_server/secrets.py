"""Secrets: read from Secrets Manager when needed, held in memory only."""

from __future__ import annotations

import base64
import json
import threading
import time
from dataclasses import dataclass, field

import boto3
from botocore.exceptions import BotoCoreError, ClientError
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

FETCH_INTERVAL_SECONDS = 1.0


class SecretError(RuntimeError):
    """A secret could not be read or does not hold what it should; the message never holds its value."""


@dataclass(frozen=True, kw_only=True)
class Account:
    """A database account."""

    username: str
    password: str = field(repr=False)


class DatabaseCredentials:
    """The database account in a secret, fetched when first needed and again when the database refuses it."""

    def __init__(self, *, secret_arn: str) -> None:
        self._secret_arn = secret_arn
        self._lock = threading.Lock()
        self._account: Account | None = None
        self._fetched_at = 0.0

    def current(self) -> Account:
        """The account as last fetched. Raises SecretError."""
        with self._lock:
            return self._account or self._fetch()

    def after(self, refused: Account) -> Account:
        """The account to try once the database has refused one: fetched again unless another thread just did.

        Fetches at most once a second, for callers that try until a rotation is complete. Raises SecretError.
        """
        with self._lock:
            if self._account is not None and self._account != refused:
                return self._account
            time.sleep(max(0.0, self._fetched_at + FETCH_INTERVAL_SECONDS - time.monotonic()))
            return self._fetch()

    def _fetch(self) -> Account:
        value = read_secret(self._secret_arn)
        self._fetched_at = time.monotonic()
        self._account = Account(
            username=_text(value, "username", self._secret_arn),
            password=_text(value, "password", self._secret_arn),
        )
        return self._account


@dataclass(frozen=True, kw_only=True)
class ServerKeys:
    """Secrets that are the same for every server of one seed.

    `mlflow` holds MLflow's own by environment variable; `access` signs what the gate gives out.
    """

    mlflow: dict[str, str] = field(repr=False)
    access: str = field(repr=False)


def server_keys(secret_arn: str) -> ServerKeys:
    """The keys, all derived by HKDF-SHA256 from the secret's "seed", with the variable's name as info.

    Raises SecretError.
    """
    seed = _text(read_secret(secret_arn), "seed", secret_arn)
    if len(seed) < 32:
        raise SecretError(f"the seed in secret {secret_arn} must be at least 32 characters long")
    names = (
        "MLFLOW_FLASK_SERVER_SECRET_KEY",
        "MLFLOW_CRYPTO_KEK_PASSPHRASE",
        "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY",
    )
    return ServerKeys(mlflow={name: _derive(seed, name) for name in names}, access=_derive(seed, "access"))


def _derive(seed: str, name: str) -> str:
    """32 bytes in URL-safe base64, which is what a Fernet key is."""
    key = HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=name.encode()).derive(seed.encode())
    return base64.urlsafe_b64encode(key).decode()


def read_secret(arn: str) -> dict[str, object]:
    """The JSON object in a secret. Raises SecretError."""
    try:
        # a client of its own for each call: calls are rare, and a client must not be shared over a fork
        text = boto3.session.Session().client("secretsmanager").get_secret_value(SecretId=arn)["SecretString"]
        value = json.loads(text)
    except (BotoCoreError, ClientError) as error:
        raise SecretError(f"secret {arn} cannot be read: {error}") from error
    except (KeyError, ValueError):
        raise SecretError(f"secret {arn} does not hold JSON") from None
    if not isinstance(value, dict):
        raise SecretError(f"secret {arn} does not hold a JSON object")
    return value


def _text(value: dict[str, object], key: str, arn: str) -> str:
    text = value.get(key)
    if not isinstance(text, str) or not text:
        raise SecretError(f'secret {arn} holds no "{key}"')
    return text
