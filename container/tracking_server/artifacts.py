"""Artifacts through the server, streamed between client and S3.

MLflow's own server keeps each artifact in a temporary file on its way. A big one then fills the task's disk
(or memory, where /tmp is a tmpfs), and a download may begin only after the load balancer has given
up.
"""

# MLflow's functions bear no types
# mypy: allow-untyped-calls

from __future__ import annotations

import asyncio
import functools
import json
import posixpath
from collections.abc import AsyncIterable, Callable
from typing import Any, BinaryIO

from botocore.exceptions import ClientError
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST
from mlflow.server.handlers import _content_disposition_attachment
from mlflow.store.artifact.artifact_repo import StreamUploadMixin
from mlflow.store.artifact.s3_artifact_repo import S3ArtifactRepository
from mlflow.utils.mime_type_utils import _guess_mime_type
from mlflow.utils.uri import validate_path_is_safe
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

PART_BYTES = 8 * 1024 * 1024
"""Size of a part of a multipart upload; S3 takes 10,000 parts of at least 5 MiB."""

CHUNK_BYTES = 1024 * 1024

PATHS = ("/api/2.0/mlflow-artifacts/artifacts", "/ajax-api/2.0/mlflow-artifacts/artifacts")


class StreamingS3ArtifactRepository(S3ArtifactRepository, StreamUploadMixin):
    """MLflow's S3 repository, with uploads and downloads that hold one part in memory and nothing on disk.

    `uploads` is how many uploads run at a time; further ones wait before their body is read.
    """

    def __init__(self, artifact_uri: str, *, uploads: int) -> None:
        super().__init__(artifact_uri)
        self._slots = asyncio.Semaphore(uploads)

    def log_artifact_from_stream(
        self, stream: BinaryIO, artifact_file_name: str, artifact_path: str | None = None
    ) -> None:
        """Upload a binary stream."""
        self._client().upload_fileobj(
            stream,
            ExtraArgs=self._upload_arguments(artifact_file_name),
            **self._target(artifact_file_name, artifact_path),
        )

    async def log_artifact_from_async_stream(
        self, chunks: AsyncIterable[bytes], artifact_file_name: str, artifact_path: str | None = None
    ) -> None:
        """Upload chunks as they arrive; nothing is stored when the stream breaks off."""
        upload = _Upload(
            client=self._client(),
            target=self._target(artifact_file_name, artifact_path),
            arguments=self._upload_arguments(artifact_file_name),
        )
        async with self._slots:
            try:
                async for chunk in chunks:
                    await upload.add(chunk)
                await upload.complete()
            except BaseException:
                await upload.abort()
                raise

    def open(self, path: str) -> dict[str, Any]:
        """S3's answer to GetObject, whose "Body" streams. Raises MlflowException if there is no such key."""
        try:
            answer: dict[str, Any] = self._client().get_object(**self._target(path, None))
        except ClientError as error:
            if error.response["Error"]["Code"] not in ("NoSuchKey", "404"):
                raise
            raise MlflowException(f"No such artifact: '{path}'", error_code=RESOURCE_DOES_NOT_EXIST) from None
        return answer

    def _client(self) -> Any:
        return self._get_s3_client()

    def _target(self, name: str, directory: str | None) -> dict[str, str]:
        bucket, root = self.parse_s3_compliant_uri(self.artifact_uri)
        return {
            "Bucket": bucket,
            "Key": posixpath.join(root, directory or "", name),
            **self._bucket_owner_params,
        }

    def _upload_arguments(self, name: str) -> dict[str, str]:
        configured = self.get_s3_file_upload_extra_args() or {}
        return {"ContentType": _guess_mime_type(name), "ChecksumAlgorithm": "CRC32", **configured}


class _Upload:
    """One object on its way to S3: a single request when it fits into a part, else a multipart upload."""

    def __init__(self, *, client: Any, target: dict[str, str], arguments: dict[str, str]) -> None:
        self._client = client
        self._target = target
        self._arguments = arguments
        self._buffer = bytearray()
        self._checksum = f"Checksum{arguments['ChecksumAlgorithm']}"
        self._id: str | None = None
        self._parts: list[dict[str, Any]] = []

    async def add(self, chunk: bytes) -> None:
        self._buffer += chunk
        while len(self._buffer) >= PART_BYTES:
            part = bytes(self._buffer[:PART_BYTES])
            del self._buffer[:PART_BYTES]
            await self._send(part)

    async def complete(self) -> None:
        if self._id is None:
            body = bytes(self._buffer)
            await self._call(self._client.put_object, Body=body, **self._arguments)
            return
        if self._buffer:
            await self._send(bytes(self._buffer))
        await self._call(
            self._client.complete_multipart_upload, UploadId=self._id, MultipartUpload={"Parts": self._parts}
        )

    async def abort(self) -> None:
        if self._id is not None:
            await self._call(self._client.abort_multipart_upload, UploadId=self._id)

    async def _send(self, part: bytes) -> None:
        if self._id is None:
            answer = await self._call(self._client.create_multipart_upload, **self._arguments)
            self._id = answer["UploadId"]
        number = len(self._parts) + 1
        answer = await self._call(
            self._client.upload_part,
            UploadId=self._id,
            PartNumber=number,
            Body=part,
            ChecksumAlgorithm=self._arguments["ChecksumAlgorithm"],
        )
        self._parts.append(
            {"PartNumber": number, "ETag": answer["ETag"], self._checksum: answer[self._checksum]}
        )

    async def _call(self, operation: Callable[..., dict[str, Any]], **arguments: Any) -> dict[str, Any]:
        return await asyncio.to_thread(functools.partial(operation, **self._target, **arguments))


def download_routes(repository: StreamingS3ArtifactRepository) -> list[Route]:
    """Routes that stream an artifact from S3, to be tried before MLflow's own."""

    async def download(request: Request) -> Response:
        try:
            path = validate_path_is_safe(request.path_params["path"])
            answer = await asyncio.to_thread(repository.open, path)
        except MlflowException as error:
            return JSONResponse(
                json.loads(error.serialize_as_json()), status_code=error.get_http_status_code()
            )
        headers = {
            "Content-Type": _guess_mime_type(path),
            "Content-Length": str(answer["ContentLength"]),
            "Content-Disposition": _content_disposition_attachment(posixpath.basename(path)),
            "X-Content-Type-Options": "nosniff",
        }
        return StreamingResponse(answer["Body"].iter_chunks(CHUNK_BYTES), headers=headers)

    return [Route(f"{prefix}/{{path:path}}", download, methods=["GET"]) for prefix in PATHS]
