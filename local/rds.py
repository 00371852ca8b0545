"""RDS: every instance is a real MySQL-compatible server on loopback, if the machine has one."""

from __future__ import annotations

import json
import secrets
import shutil
import string
import threading
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from moto.rds.models import DBInstance, MasterUserSecret, RDSBackend

from local.database import DatabaseServer, find_server
from local.endpoint import ServiceError
from local.patches import Patches

_ENGINES = ("mysql", "mariadb")
# what RDS never puts into a password that it manages
_PASSWORD_CHARACTERS = string.ascii_letters + string.digits + "!#$%&()*+,-.:;<=>?[]^_{|}~"
_NO_SERVER = (
    "No MySQL-compatible server on this machine (KIT_MYSQLD, mysqld, mariadbd): MLflow runs on SQLite instead, "
    "one process at a time. `python -m local.get_database` fetches one."
)


class Databases:
    """The servers behind the DB instances of moto, by identifier. Data are kept under `directory`.

    `progress` is told once when there is no server to run.
    """

    def __init__(self, directory: Path, progress: Callable[[str], None]) -> None:
        self._directory = directory
        self._progress = progress
        self._binary = find_server()
        self.servers: dict[str, DatabaseServer] = {}
        self._declared_ports: dict[str, int] = {}
        self._lock = threading.Lock()
        self._told = False

    @property
    def available(self) -> bool:
        """Whether instances have a server."""
        return self._binary is not None

    def start(self, patches: Patches) -> None:
        """Follow moto's DB instances from now on."""
        patches.wrap(RDSBackend, "create_db_instance", self._created)
        patches.wrap(RDSBackend, "delete_db_instance", self._deleted)
        patches.wrap(RDSBackend, "delete_db_snapshot", self._snapshot_deleted)
        patches.replace(DBInstance, "address", property(lambda instance: "localhost"))
        patches.replace(MasterUserSecret, "rotate_secret", lambda secret: self._rotate(secret))
        patches.replace(MasterUserSecret, "_generate_secret_string", _managed_account)

    def close(self) -> None:
        """Shut every server down; the data stay."""
        for server in list(self.servers.values()):
            server.stop()
        self.servers.clear()

    def server(self, port: int) -> DatabaseServer | None:
        """The server of the instance with a port: its endpoint's, or the one that its template declares."""
        for name, server in self.servers.items():
            if port in (server.port, self._declared_ports[name]):
                return server
        return None

    def _created(self, original: Any, backend: RDSBackend, db_kwargs: Mapping[str, Any]) -> Any:
        if db_kwargs.get("engine") not in _ENGINES:
            raise ServiceError("InvalidParameterValue", "the embedded AWS runs MySQL and MariaDB only")
        instance = original(backend, db_kwargs)
        try:
            self._serve(backend, instance)
        except Exception as error:
            instance.deletion_protection = False
            del backend.databases[instance.db_instance_identifier]
            raise ServiceError("InternalFailure", f"the database did not start: {error}") from error
        return instance

    def _serve(self, backend: RDSBackend, instance: DBInstance) -> None:
        if self._binary is None:
            if not self._told:
                self._progress(_NO_SERVER)
                self._told = True
            return
        name = instance.db_instance_identifier
        directory = self._directory / name
        self._progress(f"starting {self._binary.kind} {self._binary.version} for the database {name}")
        group = backend.db_parameter_groups.get(instance.db_parameter_group_name or "")
        trust = str(_parameter(group, "log_bin_trust_function_creators")) in ("1", "ON")
        server = DatabaseServer(
            directory=directory, binary=self._binary, log_bin_trust_function_creators=trust
        )
        server.start()
        with self._lock:
            self.servers[name], self._declared_ports[name] = server, int(instance.port or 0)
        username, password = _account(backend, instance)
        server.set_account(username, password, instance.db_name)
        instance.port = server.port

    def _rotate(self, secret: MasterUserSecret) -> None:
        """Give the master account another password, in the database first, as RDS does."""
        account = _managed_account(secret)
        instance = secret.resource
        if server := self.servers.get(instance.resource_id):
            server.set_account(**json.loads(account))
        token = str(uuid.uuid4())
        store: Any = secret.secretsmanager
        store.put_secret_value(secret.secret_arn, account, None, token, ["AWSCURRENT"])

    def _deleted(self, original: Any, backend: RDSBackend, **request: Any) -> Any:
        instance = original(backend, **request)
        final = request.get("final_db_snapshot_identifier")
        with self._lock:
            server = self.servers.pop(request["db_instance_identifier"], None)
        if server is not None:
            server.stop()
            if final:
                self._snapshots.mkdir(parents=True, exist_ok=True)
                shutil.move(server.directory, self._snapshots / final)
            else:
                shutil.rmtree(server.directory, ignore_errors=True)
        return instance

    def _snapshot_deleted(self, original: Any, backend: RDSBackend, name: str) -> Any:
        snapshot = original(backend, name)
        shutil.rmtree(self._snapshots / name, ignore_errors=True)
        return snapshot

    @property
    def _snapshots(self) -> Path:
        return self._directory / "snapshots"


def _parameter(group: Any, name: str) -> Any:
    found = group.parameters.get(name, {}) if group is not None else {}
    return found.get("ParameterValue", found.get("parameter_value"))


def _managed_account(secret: MasterUserSecret) -> str:
    password = "".join(secrets.choice(_PASSWORD_CHARACTERS) for _ in range(28))
    return json.dumps({"username": secret.resource.master_username, "password": password})


def _account(backend: RDSBackend, instance: DBInstance) -> tuple[str, str]:
    if not instance.manage_master_user_password:
        return str(instance.master_username), str(instance.master_user_password)
    value = backend.secretsmanager.get_secret_value(instance.master_user_secret.secret_arn, "", "")
    account = json.loads(value["SecretString"])
    return account["username"], account["password"]
