"""S3 objects on disk: what is written is also kept in files, and a bucket of the same name finds them again."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from datetime import datetime
from pathlib import Path
from typing import Any

from moto.iam.access_control import PermissionResult
from moto.s3.models import FakeBucket, FakeDeleteMarker, FakeKey, S3Backend, s3_backends

from local.endpoint import ApiCall
from local.patches import Patches

# the attributes of moto's object that come back after a restart, as they are
_KEPT = (
    "_etag",
    "_version_id",
    "_is_versioned",
    "_storage_class",
    "encryption",
    "kms_key_id",
    "bucket_key_enabled",
    "checksum_algorithm",
    "checksum_value",
    "checksum_type",
    "checksum_parts",
    "contentsize",
)
_WRITES = {"PUT", "POST", "DELETE"}


class StoredContent:
    """An object's bytes, read from their file when they are wanted; what moto needs of a file object."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._position = 0

    def seek(self, position: int) -> None:
        """Go to a position."""
        self._position = position

    def read(self, size: int = -1) -> bytes:
        """Read from the position on."""
        with self.path.open("rb") as file:
            file.seek(self._position)
            content = file.read(size)
        self._position += len(content)
        return content

    def close(self) -> None:
        """Nothing is open between two reads."""


class ObjectStore:
    """Buckets under `directory`: a folder each, in it a folder for each key, in it a pair of files a version."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.RLock()
        self._backend: S3Backend | None = None

    def start(self, patches: Patches) -> None:
        """Follow moto's buckets from now on."""
        patches.wrap(S3Backend, "create_bucket", self._created)
        patches.wrap(S3Backend, "delete_bucket", self._deleted)
        # moto knows no conditions: it would deny everything for want of TLS
        patches.replace(FakeBucket, "get_permission", lambda *_: PermissionResult.NEUTRAL)
        # access logs come hours later on AWS, and never here; only then does S3 look at the target's policy
        patches.replace(S3Backend, "log_incoming_request", lambda *_, **__: None)
        patches.replace(FakeBucket, "_log_permissions_enabled_policy", staticmethod(lambda *_, **__: True))

    def written(self, call: ApiCall) -> None:
        """Keep what a call changed, before it is answered."""
        bucket = call.path_parameters.get("Bucket")
        if call.request.method not in _WRITES or bucket is None or self._backend is None:
            return
        found = self._backend.buckets.get(bucket)
        if found is None:
            return
        if call.name == "DeleteObjects":
            self._sync_all(found)
        elif "Key" in call.path_parameters:
            self._sync(found, call.path_parameters["Key"])

    def _created(self, original: Any, backend: S3Backend, bucket_name: str, *args: Any, **kwargs: Any) -> Any:
        bucket = original(backend, bucket_name, *args, **kwargs)
        self._backend = backend
        with self._lock:
            for folder in sorted((self._directory / bucket_name).glob("*")):
                self._load(bucket, folder)
        return bucket

    def _deleted(self, original: Any, backend: S3Backend, bucket_name: str, *args: Any, **kwargs: Any) -> Any:
        result = original(backend, bucket_name, *args, **kwargs)
        if bucket_name not in backend.buckets:
            shutil.rmtree(self._directory / bucket_name, ignore_errors=True)
        return result

    def _folder(self, bucket: FakeBucket, key: str) -> Path:
        # keys are longer than file names may be, and hold anything
        return self._directory / bucket.name / hashlib.sha256(key.encode()).hexdigest()

    def _sync_all(self, bucket: FakeBucket) -> None:
        folders = [folder for folder in (self._directory / bucket.name).glob("*") if folder.is_dir()]
        names = {json.loads(next(folder.glob("*.json")).read_text())["name"] for folder in folders}
        for name in names:
            self._sync(bucket, name)

    def _sync(self, bucket: FakeBucket, key: str) -> None:
        with self._lock:
            folder = self._folder(bucket, key)
            versions = {version.version_id: version for version in bucket.keys.getlist(key, [])}
            if not versions:
                shutil.rmtree(folder, ignore_errors=True)
                return
            folder.mkdir(parents=True, exist_ok=True)
            for file in folder.glob("*.json"):
                if file.stem not in versions:
                    file.unlink()
                    file.with_suffix(".data").unlink(missing_ok=True)
            for number, version in enumerate(versions.values()):
                self._save(folder, number, version)

    def _save(self, folder: Path, number: int, version: FakeKey | FakeDeleteMarker) -> None:
        described: dict[str, Any] = {
            "name": version.name,
            "number": number,
            "version": version.version_id,
            "last_modified": version.last_modified.isoformat(),
            "marker": isinstance(version, FakeDeleteMarker),
        }
        if isinstance(version, FakeKey):
            content = folder / f"{version.version_id}.data"
            if not isinstance(version._value_buffer, StoredContent):
                version.etag  # noqa: B018 - computes it while the content is at hand
                temporary = content.with_suffix(".part")
                buffer = version._value_buffer
                with version.lock, temporary.open("wb") as file:
                    buffer.seek(0)
                    shutil.copyfileobj(buffer, file, 1024 * 1024)
                    version._value_buffer = StoredContent(content)  # type: ignore[assignment]
                temporary.replace(content)
                buffer.close()
            described |= {
                "metadata": dict(version.metadata),
                "tags": _tagger(version).get_tag_dict_for_resource(version.arn),
                **{name: getattr(version, name) for name in _KEPT},
            }
        text = json.dumps(described, default=str)
        file_name = folder / f"{version.version_id}.json"
        if not file_name.exists() or file_name.read_text() != text:
            temporary = file_name.with_suffix(".tmp")
            temporary.write_text(text)
            temporary.replace(file_name)

    def _load(self, bucket: FakeBucket, folder: Path) -> None:
        described = [json.loads(file.read_text()) for file in folder.glob("*.json")]
        versions: list[FakeKey | FakeDeleteMarker] = []
        for item in sorted(described, key=lambda item: int(item["number"])):
            key = FakeKey(
                name=item["name"],
                value=b"",
                account_id=bucket.account_id,
                region_name=bucket.region_name,
                bucket_name=bucket.name,
                version_id=item["version"],
                is_versioned=True,
            )
            key.last_modified = datetime.fromisoformat(item["last_modified"])
            if item["marker"]:
                marker = FakeDeleteMarker(key)
                marker._version_id, marker.last_modified = item["version"], key.last_modified
                versions.append(marker)
                continue
            for name in _KEPT:
                setattr(key, name, item[name])
            key.set_metadata(item["metadata"], replace=True)
            key._value_buffer.close()
            key._value_buffer = StoredContent(  # type: ignore[assignment]
                folder / f"{item['version']}.data"
            )
            if item["tags"]:
                _tagger(key).tag_resource(
                    key.arn, [{"Key": name, "Value": value} for name, value in item["tags"].items()]
                )
            versions.append(key)
        if versions:
            bucket.keys.setlist(versions[0].name, versions)


def _tagger(key: FakeKey) -> Any:
    return s3_backends[key.account_id][key.partition].tagger
