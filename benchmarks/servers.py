"""Servers side by side on one machine: the kit's and MLflow's own, each with a database of its own on one MySQL."""

from __future__ import annotations

import http.client
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import typer

from benchmarks.load import Answer, Load, Request, Scenario, run
from benchmarks.machine import REPOSITORY, SERVER_PYTHON
from benchmarks.processes import cpu_seconds, pin, send
from benchmarks.scenarios import Seeded, seed

sys.path[:0] = [
    str(REPOSITORY / "tests"),
    str(REPOSITORY / "tests/access"),
    str(REPOSITORY / "tests/integration"),
]

from guarded import Account, Keys, bearer, gate_variables  # noqa: E402
from server_process import REGION, Backend, Process, Server  # noqa: E402

from local.aws import EmbeddedAws  # noqa: E402
from local.database import DatabaseServer, find_server, free_port  # noqa: E402

AUDIT_GROUP = "/benchmark/audit"

STOCK_PYTHON = REPOSITORY / ".cache" / "stock" / "bin" / "python"

RECIPE = ("mlflow", "pymysql", "boto3")
"""What the recipe's Dockerfile installs: no uvloop, no httptools, no C driver."""

START_SECONDS = 300
"""The recipe needs most of a minute for itself on two cores that are free."""


def install_stock() -> None:
    """Make the environment of the stock recipe, with the versions of the kit's lock; a few seconds, once."""
    uv = REPOSITORY / ".venv" / "bin" / "uv"
    place = STOCK_PYTHON.parent.parent
    subprocess.run([uv, "venv", "--quiet", "--allow-existing", "--python", sys.executable, place], check=True)
    lock = REPOSITORY / "container" / "requirements.txt"
    subprocess.run(
        [uv, "pip", "install", "--quiet", "--python", STOCK_PYTHON, *RECIPE, "--constraints", lock],
        check=True,
    )


@dataclass(frozen=True, kw_only=True)
class Signer:
    """Makes the header of a client with these credentials."""

    keys: Keys
    url: str

    def __call__(self) -> Mapping[str, str]:
        """A new token."""
        header: dict[str, str] = bearer(self.keys, self.url)
        return header


class Program:
    """A server that is not the kit's; the same members as the kit's Server."""

    def __init__(
        self, command: Sequence[str | Path], *, port: int, variables: Mapping[str, str], directory: Path
    ) -> None:
        self.port = port
        self._log = directory / f"program-{port}.log"
        with self._log.open("wb") as output:
            self.popen = subprocess.Popen(
                command,
                env=dict(variables),
                cwd=directory,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        """Everything that the server has printed so far."""
        return self._log.read_text(errors="replace")

    @property
    def url(self) -> str:
        """The tracking URI."""
        return f"http://localhost:{self.port}"

    def kill(self) -> None:
        """Kill the processes, some of which have sessions of their own."""
        send(self.popen.pid, signal.SIGKILL)
        self.popen.wait()


AWS_VARIABLES = (
    "AWS_ENDPOINT_URL",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
)


def database_uri(backend: Backend, driver: str) -> str:
    """As `--backend-store-uri` takes it. The database takes TLS connections only; the recipe itself has no ssl_ca."""
    database = backend.database_server
    # libmariadb takes "localhost" for a socket; the certificate, whose name only PyMySQL checks, bears it
    host = "127.0.0.1" if driver == "mysqldb" else database.host
    return (
        f"mysql+{driver}://{backend.username}:{backend.password}@{host}:{database.port}/{backend.name}"
        f"?ssl_ca={database.ca_bundle}"
    )


def mlflow_server(
    backend: Backend,
    *,
    directory: Path,
    program: Sequence[str | Path] = (STOCK_PYTHON, "-m", "mlflow"),
    driver: str = "pymysql",
    options: Sequence[str] = (),
    artifacts_through_server: bool = False,
    more: Mapping[str, str] | None = None,
) -> Program:
    """`mlflow server`, or a program with the same options, with a database of its own."""
    port = free_port()
    place = f"s3://{backend.name}/artifacts"
    through = ("--artifacts-destination", place) if artifacts_through_server else ()
    command = [
        *(*program, "server", "--host", "127.0.0.1", "--port", str(port)),
        *("--backend-store-uri", database_uri(backend, driver)),
        *("--default-artifact-root", place, *through, *options),
    ]
    given = backend.environment()
    variables = {
        "PATH": f"{Path(program[0]).parent}:{os.environ['PATH']}",
        "HOME": str(directory),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_S3_ENDPOINT_URL": backend.aws_endpoint,
        **{name: given[name] for name in AWS_VARIABLES},
        **(more or {}),
    }
    return Program(command, port=port, variables=variables, directory=directory)


@dataclass(kw_only=True)
class Site:
    """A server that runs, and what is in it. `paused` while it has work of its own and is not measured."""

    name: str
    server: Server | Program
    loader: ProcessPoolExecutor
    sign: Signer | None = None
    seeded: Seeded = field(default_factory=lambda: Seeded(searched="", logged="", run="", artifacts=""))
    busy_by_itself: bool = False

    def wait_until_healthy(self, *, timeout: float = START_SECONDS) -> float:
        """Wait for /health; seconds waited. Raises RuntimeError with the server's output."""
        started = time.perf_counter()
        while True:
            try:
                if self.ask(Request(name="", method="GET", path="/health")).good:
                    return time.perf_counter() - started
            except OSError:
                pass
            if self.server.popen.poll() is not None or time.perf_counter() - started > timeout:
                raise RuntimeError(f"{self.name} does not start:\n{self.server.output[-3000:]}")
            time.sleep(0.02)

    def ask(self, request: Request) -> Answer:
        """One request over a connection of its own."""
        connection = http.client.HTTPConnection("localhost", self.server.port, timeout=120)
        headers = dict(line.split(": ", 1) for line in request.headers.splitlines())
        signature = dict(self.sign()) if self.sign else {}
        connection.request(request.method, request.path, request.body or None, headers | signature)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return Answer(status=answer.status, body=body)

    def seed(self) -> None:
        """Fill it."""
        self.seeded = seed(self.ask)

    def pause(self) -> None:
        """Stop it where it would take time from others while it has nothing to do."""
        if self.busy_by_itself:
            send(self.server.popen.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        if self.busy_by_itself:
            send(self.server.popen.pid, signal.SIGCONT)

    def measure(self, scenario: Scenario, *, seconds: float, connections: int, **how: Any) -> dict[str, Any]:
        """A load on it, and the CPU that its processes needed for a request of it in milliseconds."""
        load = Load(
            port=self.server.port,
            scenario=scenario,
            seconds=seconds,
            connections=connections,
            sign=self.sign,
            **how,
        )
        self.resume()
        before = cpu_seconds(self.server.popen.pid)
        found = self.loader.submit(run, load).result()
        taken = cpu_seconds(self.server.popen.pid) - before
        self.pause()
        return {"cpu_ms": round(taken / max(1, found["requests"]) * 1000, 4)} | found


class Stage:
    """The MySQL, the embedded AWS and the load that servers are measured with.

    They keep off the servers' core, or with `share_cores` run on any: for servers that have limits of their own.
    """

    def __init__(self, directory: Path, *, share_cores: bool = False) -> None:
        self.directory = directory
        self.sites: dict[str, Site] = {}
        self._stack = ExitStack()
        *others, self.core = sorted(os.sched_getaffinity(0))
        self._others = {*others, self.core} if share_cores or not others else set(others)

    def __enter__(self) -> Stage:
        binary = find_server()
        if binary is None:
            raise typer.BadParameter("no MySQL-compatible server found: run `python -m local.get_database`")
        signal.signal(signal.SIGTERM, _stop)  # the servers must not outlive this process
        with ExitStack() as stack:
            before = os.sched_getaffinity(0)
            stack.callback(os.sched_setaffinity, 0, before)
            os.sched_setaffinity(0, self._others)
            (self.directory / "database").mkdir()
            self.database = stack.enter_context(
                DatabaseServer(
                    directory=self.directory / "database", binary=binary, log_bin_trust_function_creators=True
                )
            )
            # every worker of the recipe has a pool of its own
            self.database.admin("SET GLOBAL max_connections = 1000")
            self.loader = stack.enter_context(
                ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
            )
            self.aws = stack.enter_context(EmbeddedAws(directory=self.directory / "aws", region=REGION))
            self.aws.client("logs").create_log_group(logGroupName=AUDIT_GROUP)
            self.account = Account(self.aws)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def database_version(self) -> str:
        """The kind and version of the database."""
        binary = self.database.binary
        return f"{binary.kind} {binary.version}"

    def backend(self) -> Backend:
        """A database and a bucket of its own."""
        return Backend(database_server=self.database, aws_endpoint=self.aws.endpoint)

    def migrated(self) -> Backend:
        """The same, with the schema that the kit's server needs."""
        backend = self.backend()
        migration = Process("migrate", environment=backend.environment(), directory=self.directory)
        self._stack.callback(migration.kill)
        if migration.wait() != 0:
            raise RuntimeError(migration.output)
        return backend

    def kit(self, name: str, *, guarded: bool = False, backend: Backend | None = None, **more: str) -> Site:
        """The kit's server; with `guarded` the access gate is on, and audit lines are sent."""
        gate = gate_variables() | {"ACCESS_AUDIT_LOG_GROUP": AUDIT_GROUP} if guarded else {}
        backend = backend or self.migrated()
        site = self.open(name, lambda: Server(backend, directory=self.directory, **{**gate, **more}))
        if guarded:
            site.sign = Signer(keys=self.account.assume("DataScientist"), url=site.server.url)
        return site

    def stock(self, name: str, *, busy_by_itself: bool = False, **how: Any) -> Site:
        """MLflow's own server; `how` as in mlflow_server()."""
        backend = self.backend()
        site = self.open(name, lambda: mlflow_server(backend, directory=self.directory, **how))
        site.busy_by_itself = busy_by_itself
        return site

    @contextmanager
    def all_cores(self) -> Iterator[None]:
        """Let what this thread starts meanwhile run on every core."""
        os.sched_setaffinity(0, self._others | {self.core})
        try:
            yield
        finally:
            os.sched_setaffinity(0, self._others)

    def open(self, name: str, start: Callable[[], Server | Program]) -> Site:
        """Start a server on all cores, and keep it to its own when it is up. Raises RuntimeError with its output."""
        with self.all_cores():
            server = start()
        self._stack.callback(server.kill)
        site = Site(name=name, server=server, loader=self.loader)
        site.wait_until_healthy()
        pin(server.popen.pid, self.core)
        self.sites[name] = site
        return site


def _stop(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def stock_options(*, workers: int = 1) -> tuple[str, ...]:
    """Options of `mlflow server` for so many workers."""
    return ("--workers", str(workers))


JOBS_OFF: dict[str, str] = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def start_recipe(stage: Stage) -> Site:
    """As the recipe starts it: four workers, and the job runner that is on by default."""
    return stage.stock("recipe", busy_by_itself=True)


def start_stock(stage: Stage, name: str = "stock", **how: Any) -> Site:
    """One worker, no jobs: what one core costs."""
    return stage.stock(name, options=stock_options(), more=JOBS_OFF, **how)


TUNED_THREADS = 8


def start_tuned(stage: Stage) -> Site:
    """The best that settings can do: gunicorn's threads without the bridge, a pool that cannot lock itself, a C driver.

    OTLP and other native routes are not served so.
    """
    driver = "mysqldb" if _imports(SERVER_PYTHON, "MySQLdb") else "pymysql"
    return stage.stock(
        "tuned",
        program=(SERVER_PYTHON, "-m", "mlflow"),
        driver=driver,
        options=(*stock_options(), "--gunicorn-opts", f"--worker-class gthread --threads {TUNED_THREADS}"),
        more={"MLFLOW_SQLALCHEMYSTORE_POOL_SIZE": str(2 * TUNED_THREADS), **JOBS_OFF},
    )


def _imports(python: Path, module: str) -> bool:
    return subprocess.run([python, "-c", f"import {module}"], capture_output=True).returncode == 0
