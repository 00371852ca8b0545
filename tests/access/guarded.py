"""A guarded server and the AWS around it: the kit's roles with their real policies, and users who may assume them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import botocore.session
from botocore.credentials import Credentials
from mlflow_aws_iam import token
from server_process import REGION, Backend, Server

from local.aws import ACCOUNT, EmbeddedAws
from stacks.access import ROLES, policy_document

NAME = "mlflow-test"
ARN = f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:mlflow-tracking-server/{NAME}"
ANYONE_HERE = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:root"},
            "Action": "sts:AssumeRole",
        }
    ],
}


@dataclass(frozen=True, kw_only=True)
class Keys:
    """Credentials of a user or of a role's session."""

    access_key: str
    secret_key: str = field(repr=False)
    token: str | None = field(default=None, repr=False)

    def session(self) -> botocore.session.Session:
        """A botocore session with these credentials."""
        session = botocore.session.Session()
        session.set_credentials(self.access_key, self.secret_key, self.token)
        session.set_config_variable("region", REGION)
        return session

    def botocore(self) -> Credentials:
        """As botocore holds them."""
        return Credentials(self.access_key, self.secret_key, self.token)

    def environment(self) -> dict[str, str]:
        """As environment variables."""
        variables = {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
        }
        return variables | ({"AWS_SESSION_TOKEN": self.token} if self.token else {})


class Account:
    """The account in the embedded AWS: the four roles, and users made as tests need them."""

    def __init__(self, aws: EmbeddedAws) -> None:
        self.aws = aws
        self.iam: Any = aws.client("iam")
        self.roles = {role: self.role(role, policy_document(file, ARN)) for file, role in ROLES.items()}
        self.role_ids = {
            role: self.iam.get_role(RoleName=f"{NAME}-{role}")["Role"]["RoleId"] for role in self.roles
        }
        self.person = self.user("person", {"sts:AssumeRole": "*"})

    def role(self, name: str, document: dict[str, Any] | None, **options: Any) -> str:
        """Make a role that any principal of the account may assume, with one inline policy; its ARN."""
        options = {"AssumeRolePolicyDocument": json.dumps(ANYONE_HERE), **options}
        arn: str = self.iam.create_role(RoleName=f"{NAME}-{name}", **options)["Role"]["Arn"]
        if document is not None:
            self.put_policy(name, document)
        return arn

    def put_policy(self, role: str, document: dict[str, Any]) -> None:
        """Replace the policy of a role."""
        self.iam.put_role_policy(
            RoleName=f"{NAME}-{role}", PolicyName="access", PolicyDocument=json.dumps(document)
        )

    def user(self, name: str, actions: dict[str, str], path: str = "/") -> Keys:
        """Make a user who may do `actions`, each on a resource; an access key of theirs."""
        self.iam.create_user(UserName=name, Path=path)
        document = {
            "Version": "2012-10-17",
            "Statement": [
                {"Effect": "Allow", "Action": action, "Resource": resource}
                for action, resource in actions.items()
            ],
        }
        if actions:
            self.iam.put_user_policy(UserName=name, PolicyName="access", PolicyDocument=json.dumps(document))
        key = self.iam.create_access_key(UserName=name)["AccessKey"]
        return Keys(access_key=key["AccessKeyId"], secret_key=key["SecretAccessKey"])

    def assume(self, role: str, *, session: str = "person") -> Keys:
        """Credentials of a session of a role."""
        sts = self.person.session().create_client("sts", endpoint_url=self.aws.endpoint)
        arn = role if role.startswith("arn:") else f"arn:aws:iam::{ACCOUNT}:role/{NAME}-{role}"
        found = sts.assume_role(RoleArn=arn, RoleSessionName=session)["Credentials"]
        return Keys(
            access_key=found["AccessKeyId"],
            secret_key=found["SecretAccessKey"],
            token=found["SessionToken"],
        )


@dataclass(kw_only=True)
class Guarded:
    """One guarded server or more on one database."""

    account: Account
    backend: Backend
    start: Callable[..., Any]
    directory: Path
    servers: list[Server] = field(default_factory=list)

    def serve(self, **overrides: str) -> Server:
        """Start a server process with the gate on, and wait until it is healthy."""
        server: Server = self.start("serve", self.backend, **{**gate_variables(), **overrides})
        self.servers.append(server)
        return server.wait_until_healthy()

    def policies(self) -> str:
        """ACCESS_ROLES, for the engine `roles`."""
        account = self.account
        return json.dumps(
            {
                account.role_ids[role]: {
                    "name": role,
                    "arn": account.roles[role],
                    "policy": policy_document(file, ARN),
                }
                for file, role in ROLES.items()
            }
        )


def gate_variables() -> dict[str, str]:
    """The gate's variables as the stack sets them, for a server that is reached directly."""
    return {
        "ACCESS_ENGINE": "iam",
        "TRACKING_SERVER_ARN": ARN,
        "ACCESS_STS_REGIONS": "partition",
        "ACCESS_TRUSTED_PROXIES": "0",
        "ACCESS_EXPERIMENT_PERMISSIONS": "false",
    }


def bearer(keys: Keys, uri: str) -> dict[str, str]:
    """The Authorization header of a client with these credentials."""
    return {"Authorization": f"Bearer {token(uri, session=keys.session())}"}


def audit_lines(server: Server) -> list[dict[str, Any]]:
    """The decisions that a server has written to its log."""
    return [record for record in server.records if record["logger"] == "audit"]
