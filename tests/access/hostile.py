"""What an attacker sends: tokens of any making, and bytes that no HTTP library would write."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import socket
import time
from datetime import datetime, timezone
from typing import Any
from urllib.parse import quote

from guarded import Keys
from server_process import REGION

PREFIX = "mlflow-aws-v1."


def sign(
    keys: Keys,
    *,
    h: str = "localhost",
    at: float | None = None,
    region: str = REGION,
    action: str = "GetCallerIdentity",
    version: str = "2011-06-15",
    service: str = "sts",
    headers: tuple[str, ...] = ("host", "x-mlflow-server-id"),
    expires: str = "900",
    day: str = "",
    method: str = "GET",
) -> dict[str, Any]:
    """The fields of a token whose signature is right for what the arguments say, however wrong that is."""
    date = datetime.fromtimestamp(int(time.time() if at is None else at), timezone.utc).strftime(
        "%Y%m%dT%H%M%SZ"
    )
    scope = f"{day or date[:8]}/{region}/{service}/aws4_request"
    query = {
        "Action": action,
        "Version": version,
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
        "X-Amz-Credential": f"{keys.access_key}/{scope}",
        "X-Amz-Date": date,
        "X-Amz-Expires": expires,
        "X-Amz-SignedHeaders": ";".join(headers),
    } | ({"X-Amz-Security-Token": keys.token} if keys.token else {})
    values = {"host": f"sts.{region}.amazonaws.com", "x-mlflow-server-id": h}
    canonical = "\n".join(
        [
            method,
            "/",
            "&".join(
                f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in sorted(query.items())
            ),
            *(f"{name}:{values[name]}" for name in headers),
            "",
            ";".join(headers),
            hashlib.sha256(b"").hexdigest(),
        ]
    )
    text = f"AWS4-HMAC-SHA256\n{date}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = f"AWS4{keys.secret_key}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    fields = {
        "c": f"{keys.access_key}/{scope}",
        "d": date,
        "e": expires,
        "h": h,
        "s": hmac.digest(key, text.encode(), "sha256").hex(),
    }
    return fields | ({"t": keys.token} if keys.token else {})


def pack(content: object) -> str:
    """A token with this content: fields, JSON text or bytes."""
    if not isinstance(content, str | bytes):
        content = json.dumps(content, separators=(",", ":"))
    raw = content.encode() if isinstance(content, str) else content
    return PREFIX + base64.urlsafe_b64encode(raw).decode().rstrip("=")


def exchange(port: int, data: bytes, *, seconds: float = 5.0, quiet: float = 0.12) -> bytes:
    """Send bytes on a new connection; what comes back until the server closes it or is quiet for a while."""
    answer = b""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection:
        try:
            connection.sendall(data)
            while chunk := connection.recv(65536):
                answer += chunk
                connection.settimeout(quiet)
        except (TimeoutError, ConnectionError):
            pass
    return answer


def statuses(answer: bytes) -> list[int]:
    """The status of every HTTP answer in a stream."""
    return [int(status) for status in re.findall(rb"^HTTP/1\.[01] (\d{3})", answer, re.MULTILINE)]
