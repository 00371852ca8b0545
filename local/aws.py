"""The embedded AWS: a control plane on loopback, and behind it processes that do what the resources say."""

from __future__ import annotations

import fcntl
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from moto.backends import SERVICE_NAMES, get_backend
from moto.core.base_backend import BackendDict
from moto.utilities.utils import get_partition

from local.authorization import Authorization
from local.balancer import Balancers
from local.cloudformation.api import CloudFormation
from local.cloudformation.custom_resources import EQUIVALENTS, Answers, CustomResource
from local.cloudformation.provider import Environment
from local.cloudformation.stacks import Stacks
from local.credentials import Credentials, client
from local.database import DatabaseServer
from local.ecs import Ecs
from local.endpoint import ApiCall, Endpoint, ServiceError
from local.functions import Functions
from local.patches import Patches
from local.principals import Principals
from local.rds import Databases
from local.s3 import ObjectStore
from local.secrets_manager import SecretStore
from local.simulation import Simulator
from local.sts import Sts
from local.tasks import Machine, stop_leftovers
from local.token_issuer import ROUTE
from local.traffic import Traffic

REPOSITORY = Path(__file__).resolve().parent.parent
ACCOUNT = "123456789012"
# the operator's key, which is the account's root: what it signs is not restricted
ACCESS_KEY = "AKIAEMBEDDEDOPERATOR"
SECRET_KEY = "embedded"  # noqa: S105 - opens nothing but this

# moto's names of the services that the kit's stacks are made of
_DEPLOYED_SERVICES: tuple[SERVICE_NAMES, ...] = (
    "ec2",
    "iam",
    "s3",
    "kms",
    "ssm",
    "logs",
    "rds",
    "secretsmanager",
    "ecs",
    "elbv2",
    "lambda",
    "cloudwatch",
    "sns",
)

_running = threading.Lock()


class EmbeddedAws:
    """One region of one account on this machine, from `start()` to `close()`.

    Data (objects, database, secrets) are kept in `directory` and found again by the next start; everything
    else is made anew. Only one can run in a process. `progress` gets a line for what is worth telling.
    """

    def __init__(
        self,
        *,
        directory: Path,
        region: str = "eu-central-1",
        server_python: Path = REPOSITORY / ".venv-server" / "bin" / "python",
        container: Path = REPOSITORY / "container",
        balancer_name: str = "localhost",
        progress: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.directory = directory.resolve()
        self.region = region
        self.partition = str(get_partition(region))
        self.endpoint = ""
        self._progress = progress
        self._server_python, self._container = server_python, container
        self._balancer_name = balancer_name
        self._clients: dict[str, Any] = {}
        self._clients_lock = threading.Lock()
        self._stops: list[Callable[[], None]] = []

    def __enter__(self) -> EmbeddedAws:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Listen; a failure half way stops what was started."""
        if not _running.acquire(blocking=False):
            raise RuntimeError("an embedded AWS runs in this process already")
        self._stops = [_running.release]
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    def _start(self) -> None:
        self._lock_directory()
        stop_leftovers(self.directory / "tasks")
        BackendDict.reset()
        patches = Patches()
        self._stops.append(patches.undo)
        front = Endpoint()
        self._stops.append(front.stop)
        # moto tells bucket paths from bucket hosts by the word localhost
        self.endpoint = f"http://localhost:{front.start()}"

        credentials = self._start_access(front, patches)
        objects = ObjectStore(self.directory / "s3")
        objects.start(patches)
        front.written = objects.written
        SecretStore(self.directory / "secrets").start(patches)
        self.databases = Databases(self.directory / "database", self._progress)
        self._stops.append(self.databases.close)
        self.databases.start(patches)
        balancers = Balancers(dns_name=self._balancer_name)
        self._stops.append(balancers.close)
        balancers.start(patches)
        front.operations["elbv2"] = balancers.operations
        functions = Functions(
            directory=self.directory / "functions",
            credentials=credentials,
            account=ACCOUNT,
            region=self.region,
            endpoint=lambda: self.endpoint,
        )
        self._stops.append(functions.close)
        functions.start(patches)
        front.operations["lambda"] = functions.operations
        machine = Machine(
            python=self._server_python,
            container=self._container,
            logs=self.directory / "logs",
            home=self.directory / "home",
            pids=self.directory / "tasks",
            region=self.region,
            client=credentials.client,
            credentials=credentials.url,
            variables=self._task_variables,
        )
        ecs = Ecs(machine=machine, balancers=balancers, client=self.client)
        self._stops.append(ecs.close)
        ecs.start(patches)
        front.operations["ecs"] = ecs.operations

        answers = Answers(lambda token: f"{self.endpoint}/cloudformation-custom-resource-response/{token}")
        front.routes["cloudformation-custom-resource-response"] = lambda method, token, environ, body: (
            200 if answers.deliver(token, body) else 404,
            b"",
        )
        stacks = Stacks(
            environment=Environment(
                client=self.client, region=self.region, partition=self.partition, account=ACCOUNT
            ),
            custom=CustomResource(answers=answers, gave_up=functions.gave_up, equivalents=EQUIVALENTS),
        )
        self._stops.append(stacks.close)
        front.operations["cloudformation"] = CloudFormation(stacks).operations
        threading.Thread(target=self._warm_up, daemon=True, name="warm up").start()

    def _start_access(self, front: Endpoint, patches: Patches) -> Credentials:
        """Who calls, and what they may: IAM, STS, and the endpoint's questions to both."""
        principals = Principals(account=ACCOUNT, partition=self.partition)
        principals.start(patches)
        credentials = Credentials(
            account=ACCOUNT,
            partition=self.partition,
            region=self.region,
            operator=(ACCESS_KEY, SECRET_KEY),
            principals=principals,
        )
        credentials.endpoint = self.endpoint
        front.routes["task-credentials"] = lambda method, token, environ, body: credentials.serve(
            method, token
        )
        front.restricted = credentials.restricted
        front.authorize = Authorization(credentials)
        self.sts = Sts(credentials)
        self.traffic = Traffic()

        def arrived(call: ApiCall) -> None:
            self.traffic(call)
            self.sts.authenticate(call)

        front.arrived = arrived
        front.operations["sts"] = self.sts.operations
        front.operations["iam"] = {
            **principals.operations,
            **Simulator(credentials).operations,
            **self.sts.issuer.iam_operations,
        }
        front.routes[ROUTE] = lambda method, path, environ, body: self.sts.issuer.serve(method, path)
        return credentials

    def _warm_up(self) -> None:
        """Load what the first calls of a deployment would wait for, while the CLI is still starting."""
        for service in _DEPLOYED_SERVICES:
            get_backend(service)
            self.client(service)

    def close(self) -> None:
        """Stop what was started, last first: services drained, functions, balancers, databases, the endpoint."""
        failure: BaseException | None = None
        while self._stops:
            try:
                self._stops.pop()()
            except BaseException as error:  # the others have to stop all the same
                failure = failure or error
        if failure is not None:
            raise failure

    def _lock_directory(self) -> None:
        """Keep others off the directory for as long as this process lives."""
        self.directory.mkdir(parents=True, exist_ok=True)
        lock = (self.directory / "lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.close()
            raise RuntimeError(f"another process runs an embedded AWS in {self.directory}") from error
        self._stops.append(lock.close)

    def _task_variables(self, declared: Mapping[str, str]) -> dict[str, str]:
        """What this machine puts over a task's own environment."""
        variables = {"AWS_ENDPOINT_URL": self.endpoint, "MLFLOW_S3_ENDPOINT_URL": self.endpoint}
        server = self.databases.server(int(declared.get("DATABASE_PORT") or 0))
        if server is not None:
            # many a machine has a server on MySQL's own port already, so this one has another
            return variables | {
                "DATABASE_CA_BUNDLE": str(server.ca_bundle),
                "DATABASE_PORT": str(server.port),
            }
        if self.databases.available:
            return variables
        return variables | {"MLFLOW_BACKEND_STORE_URI": f"sqlite:///{self.directory}/mlflow.db"}

    @property
    def database(self) -> DatabaseServer | None:
        """The server of the DB instance, if there is one; of the oldest, if there are more."""
        return next(iter(self.databases.servers.values()), None)

    @property
    def calls(self) -> Counter[tuple[str, str]]:
        """How many calls arrived, by service and operation, such as `("sts", "GetCallerIdentity")`."""
        return self.traffic.calls

    def throttle(self, service: str, operation: str, *, times: int) -> None:
        """Have AWS refuse the next calls of an operation because there are too many."""
        self.fail(service, operation, times=times, code="Throttling", message="Rate exceeded", status=400)

    def fail(
        self, service: str, operation: str, *, times: int, code: str, message: str = "", status: int = 500
    ) -> None:
        """Have the next calls of an operation answered with an error of AWS."""

        def error() -> ServiceError:
            made = ServiceError(code, message)
            made.status = status
            return made

        self.traffic.refuse(service, operation, error, times=times)

    def environment(self) -> dict[str, str]:
        """What a child process needs to talk to this AWS as its operator."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self, service: str) -> Any:
        """A boto3 client with the operator's rights."""
        with self._clients_lock:
            if service not in self._clients:
                self._clients[service] = client(
                    service, ACCESS_KEY, SECRET_KEY, region=self.region, endpoint=self.endpoint
                )
            return self._clients[service]
