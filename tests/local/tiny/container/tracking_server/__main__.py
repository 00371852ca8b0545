"""A server as small as can be: tells what it got from its task definition, and takes bytes."""

import json
import os
import signal
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import boto3
from botocore.exceptions import ClientError


class Handler(BaseHTTPRequestHandler):
    """/health, / (the environment), /slow, /s3/<key>, POST counts bytes."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/health":
            return self.answer({"status": "ok"})
        if self.path.startswith("/slow"):
            time.sleep(3)
            return self.answer({"slow": True})
        if self.path.startswith("/s3/"):
            try:
                boto3.client("s3").put_object(Bucket=os.environ["BUCKET"], Key=self.path[4:], Body=b"x")
            except ClientError as error:
                return self.answer({"error": error.response["Error"]})
            return self.answer({"written": self.path[4:]})
        if self.path.startswith("/bytes/"):
            size = int(self.path[7:])
            self.send_response(200)
            self.send_header("Content-Length", str(size))
            self.end_headers()
            for _ in range(size // 65536):
                self.wfile.write(b"\0" * 65536)
            return None
        names = ("COLOUR", "SEED", "DATABASE_HOST", "DATABASE_PORT", "DATABASE_CA_BUNDLE", "AWS_REGION")
        return self.answer(
            {
                **{name: os.environ.get(name) for name in names},
                "pid": os.getpid(),
                "headers": dict(self.headers),
                "names": sorted(os.environ),
            }
        )

    def do_POST(self) -> None:
        total = 0
        if "Content-Length" in self.headers:
            left = int(self.headers["Content-Length"])
            while left:
                chunk = self.rfile.read(min(left, 65536))
                total += len(chunk)
                left -= len(chunk)
        else:
            while size := int(self.rfile.readline(), 16):
                total += len(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
        self.answer({"bytes": total})

    def answer(self, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


def main() -> int:
    if os.environ["COLOUR"] == "broken":
        print(json.dumps({"level": "ERROR", "message": "this colour cannot be served"}), flush=True)
        return 3
    socket.create_connection((os.environ["DATABASE_HOST"], int(os.environ["DATABASE_PORT"])), 5).close()
    server = ThreadingHTTPServer((os.environ["MLFLOW_HOST"], int(os.environ["MLFLOW_PORT"])), Handler)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    print(json.dumps({"level": "INFO", "message": f"serving {os.environ['COLOUR']}"}), flush=True)
    server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
