"""nginx in front of guarded servers, as a load balancer stands there."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from guarded import Guarded, gate_variables
from ports import free_port
from programs import NGINX
from server_process import Server

# A process of its own that is easy to end; nothing outside of its directory is touched. It names each request as
# Application Load Balancers do, so that a line of its log can be compared with the server's line of audit.
CONFIGURATION = """\
daemon off;
master_process off;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{ worker_connections 256; }}
http {{
    log_format lines escape=json '{{"id":"Root=1-$request_id","address":"$remote_addr",'
        '"method":"$request_method","path":"$uri","status":$status,"upstream":"$upstream_addr"}}';
    access_log {directory}/access.log lines;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    client_max_body_size 0;
    upstream servers {{
        {servers}
    }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://servers;
            proxy_http_version 1.1;
            proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Amzn-Trace-Id Root=1-$request_id;
        }}
    }}
}}
"""


class Proxy:
    """A running nginx."""

    def __init__(self, *, directory: Path, ports: Sequence[int]) -> None:
        self.directory, self.port = directory, free_port()
        servers = "\n        ".join(f"server 127.0.0.1:{port};" for port in ports)
        configuration = directory / "nginx.conf"
        configuration.write_text(CONFIGURATION.format(directory=directory, servers=servers, port=self.port))
        self.process = subprocess.Popen(
            [NGINX.required(), "-p", directory, "-e", directory / "error.log", "-c", configuration]
        )

    @property
    def url(self) -> str:
        """The tracking URI."""
        return f"http://localhost:{self.port}"

    @property
    def requests(self) -> list[dict[str, Any]]:
        """Every request that nginx has answered so far."""
        log = self.directory / "access.log"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    @property
    def logs(self) -> str:
        """Both of its logs as they stand."""
        return "".join(path.read_text() for path in sorted(self.directory.glob("*.log")))

    def wait(self) -> None:
        """Wait until it listens."""
        deadline = time.monotonic() + 10
        while True:
            assert self.process.poll() is None, self.logs
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                assert time.monotonic() < deadline, self.logs
                time.sleep(0.05)


@contextmanager
def proxy(*, directory: Path, ports: Sequence[int]) -> Iterator[Proxy]:
    """nginx in front of the servers on `ports`, in turn; skips where there is no nginx."""
    directory.mkdir(parents=True)
    running = Proxy(directory=directory, ports=ports)
    try:
        running.wait()
        yield running
    finally:
        running.process.terminate()
        running.process.wait(10)


def serve(guarded: Guarded, **overrides: str) -> Server:
    """Start a guarded server that trusts the proxy in front of it, and wait until it is healthy."""
    variables = {**gate_variables(), "ACCESS_TRUSTED_PROXIES": "1", **overrides}
    server: Server = guarded.start("serve", guarded.backend, **variables)
    return server.wait_until_healthy()
