"""Secrets on disk: one of the same name has its value again after a restart, as what it encrypted is kept too."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from moto.secretsmanager.models import SecretsManagerBackend

from local.patches import Patches


class SecretStore:
    """The values of secrets in files under `directory` that only their owner can read."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def start(self, patches: Patches) -> None:
        """Follow moto's secrets from now on."""
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        patches.wrap(SecretsManagerBackend, "_add_secret", self._added)
        patches.wrap(SecretsManagerBackend, "delete_secret", self._deleted)

    def _added(
        self, original: Any, backend: SecretsManagerBackend, secret_id: str, *args: Any, **kwargs: Any
    ) -> Any:
        exists = secret_id in backend.secrets
        kept = None if exists else self._read(secret_id)
        if kept is not None and kwargs.get("secret_string") is not None:
            kwargs["secret_string"] = kept
        answer = original(backend, secret_id, *args, **kwargs)
        secret = backend.secrets[secret_id]
        current = secret.versions.get(secret.default_version_id or "", {})
        # what a service manages, such as the password of a database, is made anew with what it opens
        if "secret_string" in current and "!" not in secret.name:
            self._write(secret.name, current["secret_string"])
        return answer

    def _deleted(
        self, original: Any, backend: SecretsManagerBackend, secret_id: str, *args: Any, **kwargs: Any
    ) -> Any:
        name = backend.secrets[secret_id].name if secret_id in backend.secrets else secret_id
        answer = original(backend, secret_id, *args, **kwargs)
        if name not in backend.secrets:
            self._file(name).unlink(missing_ok=True)
        return answer

    def _file(self, name: str) -> Path:
        return self._directory / f"{hashlib.sha256(name.encode()).hexdigest()}.json"

    def _read(self, name: str) -> str | None:
        file = self._file(name)
        return str(json.loads(file.read_text())["value"]) if file.exists() else None

    def _write(self, name: str, value: str) -> None:
        file = self._file(name)
        file.touch(mode=0o600)
        file.write_text(json.dumps({"name": name, "value": value}))
