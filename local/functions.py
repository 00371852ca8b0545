"""Lambda: an invoked function's deployed code runs in a child process with its role's credentials."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
import zipfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from moto.awslambda.models import LambdaBackend, LambdaFunction, lambda_backends

from local.credentials import Credentials
from local.endpoint import ServiceError
from local.patches import Patches

_RUNTIME = Path(__file__).with_name("lambda_runtime.py")
_LONGEST_LOG_LINE = 200_000


class Functions:
    """Invocations of moto's functions; `directory` takes their unpacked code."""

    def __init__(
        self,
        *,
        directory: Path,
        credentials: Credentials,
        account: str,
        region: str,
        endpoint: Callable[[], str],
    ) -> None:
        self._directory, self._credentials = directory, credentials
        self._account, self._region, self._endpoint = account, region, endpoint
        self._children: set[subprocess.Popen[bytes]] = set()
        self._running: dict[str, int] = defaultdict(int)  # asynchronous invocations, by function
        self._last_end: dict[str, str] = {}
        self._threads: list[threading.Thread] = []
        self._log_groups: dict[str, str] = {}
        self._lock = threading.Lock()
        self._closed = False
        self.operations = {"Invoke": self.invoke}

    def start(self, patches: Patches) -> None:
        """Follow moto's functions from now on."""
        patches.wrap(LambdaBackend, "create_function", self._created)

    def close(self) -> None:
        """End the functions that still run."""
        self._closed = True
        for child in list(self._children):
            _kill(child)
        for thread in self._threads:
            thread.join()

    def gave_up(self, function: str) -> str | None:
        """Why nothing more can come from a function's asynchronous invocations; None while one runs."""
        name = function.split(":function:")[-1].split(":")[0]
        with self._lock:
            return None if self._running[name] else self._last_end.get(name, "the function was not run")

    def invoke(self, request: dict[str, Any]) -> dict[str, Any]:
        """Run a function; for an Event it runs on after the answer. A failed one is not tried again."""
        function = self._function(request["FunctionName"])
        event = json.loads(request.get("Payload") or b"{}")
        kind = request.get("InvocationType", "RequestResponse")
        if kind == "DryRun":
            return {"StatusCode": 204}
        if kind == "Event":
            with self._lock:
                self._running[function.function_name] += 1
            thread = threading.Thread(target=self._run_asynchronously, args=(function, event), daemon=True)
            self._threads.append(thread)
            thread.start()
            return {"StatusCode": 202}
        error, payload = self._run(function, event)
        answer = {"StatusCode": 200, "Payload": payload, "ExecutedVersion": "$LATEST"}
        return {**answer, "FunctionError": "Unhandled"} if error else answer

    def _created(self, original: Any, backend: LambdaBackend, spec: dict[str, Any]) -> Any:
        function = original(backend, spec)
        group = spec.get("LoggingConfig", {}).get("LogGroup")
        self._log_groups[function.function_name] = group or f"/aws/lambda/{function.function_name}"
        return function

    def _function(self, name: str) -> LambdaFunction:
        backend = lambda_backends[self._account][self._region]
        try:
            function: LambdaFunction = backend.get_function(name)
        except Exception as error:
            raise ServiceError("ResourceNotFoundException", f"Function not found: {name}") from error
        return function

    def _run_asynchronously(self, function: LambdaFunction, event: dict[str, Any]) -> None:
        end = "the function ended without an answer"
        try:
            end = self._run(function, event)[0] or end
        except Exception as error:
            end = str(error)
        finally:
            with self._lock:
                self._last_end[function.function_name] = end
                self._running[function.function_name] -= 1

    def _run(self, function: LambdaFunction, event: dict[str, Any]) -> tuple[str, bytes]:
        """Run a function and return what went wrong (empty if nothing) and its answer as JSON."""
        if not str(function.run_time).startswith("python"):
            message = f"the embedded AWS cannot run functions of the runtime {function.run_time}"
            return message, json.dumps({"errorMessage": message}).encode()
        request_id, started = str(uuid.uuid4()), time.time()
        with tempfile.TemporaryDirectory() as scratch:
            answer = Path(scratch) / "answer.json"
            process = subprocess.Popen(
                [sys.executable, str(_RUNTIME)],
                cwd=self._code(function),
                env=self._environment(function, answer, request_id),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C must not reach it before the ordered stop
            )
            self._children.add(process)
            if self._closed:
                _kill(process)
            try:
                output, _ = process.communicate(json.dumps(event).encode(), timeout=float(function.timeout))
                error = "" if process.returncode == 0 else f"exit status {process.returncode}"
            except subprocess.TimeoutExpired:
                _kill(process)
                output, _ = process.communicate()
                error = f"Task timed out after {float(function.timeout):.2f} seconds"
            finally:
                self._children.discard(process)
            payload = answer.read_bytes() if answer.exists() else b"null"
        lines = output.decode(errors="replace").splitlines()
        if error:
            details = json.loads(payload) or {"errorType": "Runtime.ExitError", "errorMessage": error}
            payload = json.dumps(details).encode()
            error = f"{details.get('errorType')}: {details.get('errorMessage')}"
        self._log(function, request_id, started, [*lines, *([error] if error else [])])
        return error, payload

    def _code(self, function: LambdaFunction) -> Path:
        folder = self._directory / function.code_sha_256.replace("/", "_")
        with self._lock:
            if not folder.exists():
                with zipfile.ZipFile(io.BytesIO(function.code_bytes)) as archive:
                    archive.extractall(folder)
        return folder

    def _environment(self, function: LambdaFunction, answer: Path, request_id: str) -> dict[str, str]:
        session = self._credentials.session(function.role, "lambda.amazonaws.com", function.function_name)
        inherited = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
        return {
            **inherited,
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "AWS_EXECUTION_ENV": f"AWS_Lambda_{function.run_time}",
            "AWS_LAMBDA_FUNCTION_NAME": function.function_name,
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(function.memory_size),
            "AWS_LAMBDA_LOG_GROUP_NAME": self._log_groups[function.function_name],
            "AWS_REGION": self._region,
            "AWS_DEFAULT_REGION": self._region,
            "AWS_ENDPOINT_URL": self._endpoint(),
            "AWS_ACCESS_KEY_ID": session.access_key_id,
            "AWS_SECRET_ACCESS_KEY": session.secret_access_key,
            "AWS_SESSION_TOKEN": session.session_token,
            "_HANDLER": str(function.handler),
            "_ANSWER": str(answer),
            "_REQUEST_ID": request_id,
            "_DEADLINE": str(time.time() + float(function.timeout)),
            "_FUNCTION_ARN": function.function_arn,
            **function.environment_vars,
        }

    def _log(self, function: LambdaFunction, request_id: str, started: float, lines: list[str]) -> None:
        """Write an invocation's output into the function's log group, with the function's own rights."""
        session = self._credentials.session(function.role, "lambda.amazonaws.com", function.function_name)
        logs = self._credentials.client_of(session, "logs")
        target = {
            "logGroupName": self._log_groups[function.function_name],
            "logStreamName": f"{time.strftime('%Y/%m/%d')}/[$LATEST]{request_id.replace('-', '')}",
        }
        frame = (f"START RequestId: {request_id} Version: $LATEST", f"END RequestId: {request_id}")
        events = [
            {"timestamp": int(started * 1000), "message": line[:_LONGEST_LOG_LINE] or " "}
            for line in (frame[0], *lines, frame[1])
        ]
        try:
            logs.create_log_stream(**target)
            logs.put_log_events(**target, logEvents=events)
        except Exception:  # noqa: S110 - as on AWS, a function that may not log runs all the same
            pass


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
