"""Finds the deployment of an environment: on this machine, or in AWS from where the deployment itself left it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import boto3
import typer
from botocore.exceptions import BotoCoreError, ClientError

from kit.console import fail
from kit.environments import load
from local import state

ROLES = ("Reader", "DataScientist", "ModelApprover", "Admin")

Role = Annotated[
    str | None,
    typer.Option(
        "--role",
        metavar="ROLE",
        help="Assume this role first: Reader, DataScientist, ModelApprover, Admin, or the ARN of another. "
        "Without it you call as who your AWS credentials say you are.",
    ),
]


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """What a deployed environment told of itself; `running` if it is on this machine."""

    env: str
    region: str
    outputs: Mapping[str, str]
    running: state.Running | None

    @property
    def tracking_uri(self) -> str:
        """Where the server is, without a slash at the end."""
        return self.outputs["TrackingUri"].rstrip("/")

    @property
    def tracking_server_arn(self) -> str:
        """What policies about the server name."""
        return self.outputs["TrackingServerArn"]

    def role_arn(self, role: str, *, code: int = 1) -> str:
        """The ARN of a role of the environment, or `role` if it is an ARN; ends the command for other names."""
        if role.startswith("arn:"):
            return role
        wanted = role.lower().replace("-", "")
        output = next((f"{name}RoleArn" for name in ROLES if name.lower() == wanted), "")
        if output not in self.outputs:
            fail(
                f"{self.env} has no role {role}.",
                todo=f"It has {', '.join(ROLES)}; for another principal give its whole ARN.",
                code=code,
            )
        return self.outputs[output]

    def act_as_person(self) -> None:
        """On this machine, be the embedded account's user from here on, whatever credentials this process began with."""
        if self.running is None:
            return
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            del os.environ[name]
        os.environ.update(self.running.person)
        if os.environ.get("MLFLOW_AWS_IAM_ROLE_ARN") not in self.outputs.values():
            os.environ.pop("MLFLOW_AWS_IAM_ROLE_ARN", None)  # of another account

    def client(self, service: str) -> Any:
        """A boto3 client: of the operator on this machine, of the default credential chain in AWS."""
        if self.running is None:
            return boto3.client(service, region_name=self.region)
        operator = self.running.operator
        return boto3.client(
            service,
            region_name=self.region,
            endpoint_url=self.running.endpoint,
            aws_access_key_id=operator["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=operator["AWS_SECRET_ACCESS_KEY"],
        )


def find(env: str, *, code: int = 1) -> Deployment:
    """The deployment of `env`; ends the command with `code` and what to do when there is none."""
    environment = load(env)
    if running := state.running(env):
        return Deployment(env=env, region=environment.region, outputs=running.outputs, running=running)
    try:
        outputs = deployed_outputs(name=environment.name, region=environment.region)
    except (ClientError, BotoCoreError) as error:
        fail(
            f"AWS did not answer for {environment.name} in {environment.region}: {error}",
            todo=f"Start it here with `kit up {env}`, or log in to the account that it is deployed to.",
            code=code,
        )
    if not outputs:
        fail(
            f"{environment.name} is not deployed in {environment.region}.",
            todo=f"Deploy it with `npx cdk deploy --all -c env={env}`.",
            code=code,
        )
    return Deployment(env=env, region=environment.region, outputs=outputs, running=None)


def deployed_outputs(*, name: str, region: str) -> dict[str, str]:
    """The SSM parameters below `/mlflow/<name>/`, in the order of their names.

    Raises:
        botocore.exceptions.ClientError, BotoCoreError: AWS refuses or cannot be reached.
    """
    ssm: Any = boto3.client("ssm", region_name=region)
    pages = ssm.get_paginator("get_parameters_by_path").paginate(Path=f"/mlflow/{name}/")
    found = {item["Name"].rpartition("/")[2]: item["Value"] for page in pages for item in page["Parameters"]}
    return dict(sorted(found.items()))
