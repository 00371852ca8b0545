"""Users, roles and clients of theirs, for the tests of who may do what."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from local.aws import ACCOUNT, EmbeddedAws

Statement = dict[str, Any]
Keys = dict[str, Any]  # AccessKeyId, SecretAccessKey, SessionToken

POLICIES = Path(__file__).parents[2] / "policies"

SERVER = f"arn:aws:sagemaker:eu-central-1:{ACCOUNT}:mlflow-tracking-server/mlflow"
ROOT = f"arn:aws:iam::{ACCOUNT}:root"


def document(*statements: Statement, **format: Any) -> str:
    """A policy document."""
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)}, **format)


def kit_policy(name: str) -> str:
    """One of the four policies, about the server."""
    return (POLICIES / f"{name}.json").read_text().replace("${TrackingServerArn}", SERVER)


def allow(*actions: str, on: str = "*", **more: Any) -> Statement:
    """A statement that allows."""
    return {"Effect": "Allow", "Action": list(actions), "Resource": on, **more}


def deny(*actions: str, on: str = "*", **more: Any) -> Statement:
    """A statement that denies."""
    return {**allow(*actions, on=on, **more), "Effect": "Deny"}


def trusting(principal: Any = None, *, action: Any = "sts:AssumeRole", **more: Any) -> Statement:
    """A statement of a trust policy; of the whole account unless it names others."""
    return {"Effect": "Allow", "Action": action, "Principal": principal or {"AWS": ROOT}, **more}


def user(aws: EmbeddedAws, name: str, *statements: Statement, path: str = "/") -> tuple[str, Keys]:
    """A new user with an inline policy, and an access key of it."""
    iam = aws.client("iam")
    made = iam.create_user(UserName=name, Path=path)["User"]
    if statements:
        iam.put_user_policy(UserName=name, PolicyName="own", PolicyDocument=document(*statements))
    return made["Arn"], iam.create_access_key(UserName=name)["AccessKey"]


def role(
    aws: EmbeddedAws, name: str, *statements: Statement, trust: list[Statement] | None = None, **more: Any
) -> str:
    """A new role with an inline policy."""
    iam = aws.client("iam")
    trusted = document(*(trust if trust is not None else [trusting()]))
    made = iam.create_role(RoleName=name, AssumeRolePolicyDocument=trusted, **more)["Role"]
    if statements:
        iam.put_role_policy(RoleName=name, PolicyName="own", PolicyDocument=document(*statements))
    return str(made["Arn"])


def client(aws: EmbeddedAws, service: str, keys: Keys) -> Any:
    """A client that signs with these keys, tries once, and leaves it to AWS to refuse parameters."""
    return boto3.client(
        service,
        region_name=aws.region,
        endpoint_url=aws.endpoint,
        aws_access_key_id=keys["AccessKeyId"],
        aws_secret_access_key=keys["SecretAccessKey"],
        aws_session_token=keys.get("SessionToken"),
        config=Config(retries={"total_max_attempts": 1}, parameter_validation=False),
    )


def session(aws: EmbeddedAws, role_arn: str, name: str = "me", **more: Any) -> Keys:
    """A session of a role, asked for by the operator."""
    answer = aws.client("sts").assume_role(RoleArn=role_arn, RoleSessionName=name, **more)
    return dict(answer["Credentials"])
