"""A person of the embedded account: a user who may assume an environment's roles, and files that make a shell one.

Their keys open nothing but the embedded AWS that made them, and only as long as it runs.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path

from local import state
from local.aws import EmbeddedAws

NAME = "person"

_HEAD = """\
# Makes this shell {role} of the server that `kit up` runs on this machine. The keys are of its embedded AWS.
unset AWS_PROFILE AWS_SESSION_TOKEN AWS_SECURITY_TOKEN MLFLOW_TRACKING_TOKEN
"""


def make_person(aws: EmbeddedAws, *, outputs: Mapping[str, str]) -> dict[str, str]:
    """Make the user, with no right but to assume the roles of `outputs`; variables that act as them."""
    iam = aws.client("iam")
    iam.create_user(UserName=NAME)
    assume = {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": list(role_arns(outputs).values())}
        ],
    }
    iam.put_user_policy(UserName=NAME, PolicyName="assume-roles", PolicyDocument=json.dumps(assume))
    key = iam.create_access_key(UserName=NAME)["AccessKey"]
    return aws.environment() | {
        "AWS_ACCESS_KEY_ID": key["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"],
    }


def role_arns(outputs: Mapping[str, str]) -> dict[str, str]:
    """The roles of an environment: `DataScientist` to its ARN, and so on."""
    return {
        name.removesuffix("RoleArn"): value for name, value in outputs.items() if name.endswith("RoleArn")
    }


def write_role_files(directory: Path, *, person: Mapping[str, str], outputs: Mapping[str, str]) -> None:
    """A file to source for each role in `directory`, such as `data-scientist.env`, for this user of the machine."""
    for role, arn in role_arns(outputs).items():
        variables = {
            "MLFLOW_TRACKING_URI": outputs["TrackingUri"],
            "MLFLOW_TRACKING_AUTH": "aws-iam",
            "MLFLOW_AWS_IAM_ROLE_ARN": arn,
            **person,
        }
        lines = [f"export {name}={shlex.quote(value)}\n" for name, value in variables.items()]
        file = directory / f"{re.sub(r'(?<=[a-z])(?=[A-Z])', '-', role).lower()}.env"
        state.write_private(file, _HEAD.format(role=role) + "".join(lines))
