"""The whole product on one machine: an embedded AWS, and an environment that the real CDK CLI deploys to it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from typing_extensions import Self

from local import state
from local.aws import EmbeddedAws
from local.deploy import Cdk
from local.person import make_person, write_role_files


class Product:
    """An environment, deployed to an embedded AWS of its own; a context manager that stops all it started.

    `region` must be the environment's own; `progress` is told, in a line each, what is going on.
    """

    def __init__(
        self,
        *,
        environment: str,
        region: str,
        directory: Path,
        progress: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.environment = environment
        self.directory = directory
        self.outputs: dict[str, str] = {}
        self._progress = progress
        self.aws = EmbeddedAws(directory=directory, region=region, progress=progress)
        self.cdk = Cdk(aws=self.aws, environment=environment, progress=progress)

    def __enter__(self) -> Self:
        """Start, deploy, and return when the server is healthy.

        Raises:
            local.deploy.CdkError: the deployment failed; the message has CloudFormation's reason.
        """
        self.aws.start()
        try:
            self.outputs = self._deploy()
            self._let_people_in()
        except BaseException:
            self.aws.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        state.withdraw(self.directory)
        self.aws.close()

    def _let_people_in(self) -> None:
        """Make a user, whom IAM forgets with each stop, and tell other processes how to be them."""
        person = make_person(self.aws, outputs=self.outputs)
        write_role_files(state.role_files(self.directory), person=person, outputs=self.outputs)
        state.announce(
            self.directory,
            endpoint=self.aws.endpoint,
            outputs=self.outputs,
            operator=self.aws.environment(),
            person=person,
        )

    def _deploy(self) -> dict[str, str]:
        with ThreadPoolExecutor(max_workers=1) as side:
            self._progress("synthesising the stacks, bootstrapping the embedded AWS")
            synthesis = side.submit(self.cdk.synth)  # needs nothing of the embedded AWS
            try:
                self.cdk.bootstrap()
                synthesis.result()
            except BaseException:
                self.cdk.stop()
                raise
        return self.cdk.deploy(synth=False)
