"""`kit outputs`: what a deployment gives to those who use it, from where the deployment itself left it."""

from __future__ import annotations

from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from kit.console import Json, fail, print_json, print_rows
from kit.environments import Name, load
from local import state


def deployed_outputs(*, name: str, region: str) -> dict[str, str]:
    """The SSM parameters below `/mlflow/<name>/`, in the order of their names.

    Raises:
        botocore.exceptions.ClientError, BotoCoreError: AWS refuses or cannot be reached.
    """
    ssm: Any = boto3.client("ssm", region_name=region)
    pages = ssm.get_paginator("get_parameters_by_path").paginate(Path=f"/mlflow/{name}/")
    found = {item["Name"].rpartition("/")[2]: item["Value"] for page in pages for item in page["Parameters"]}
    return dict(sorted(found.items()))


def outputs(env: Name = "local", json: Json = False) -> None:
    """The tracking URI, role ARNs, bucket and the rest of a deployed environment.

    Answers from a running `kit up` of that environment if there is one, else from the SSM parameters in the
    account and region that your AWS credentials and the environment file name.
    """
    environment = load(env)
    found = state.running_outputs(env)
    if found is None:
        try:
            found = deployed_outputs(name=environment.name, region=environment.region)
        except (ClientError, BotoCoreError) as error:
            fail(
                f"AWS did not answer for {environment.name} in {environment.region}: {error}",
                todo=f"Start it here with `kit up {env}`, or log in to the account that it is deployed to.",
            )
    if not found:
        fail(
            f"{environment.name} is not deployed in {environment.region}.",
            todo=f"Deploy it with `npx cdk deploy --all -c env={env}`.",
        )
    if json:
        print_json(found)
    else:
        print_rows(found)
