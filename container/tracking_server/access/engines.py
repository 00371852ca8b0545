"""The two ways to decide: ask IAM, or evaluate the policies of the kit's four roles."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from tracking_server.access.caller import Caller
from tracking_server.access.errors import Unavailable
from tracking_server.access.permissions import Grants, Throttled
from tracking_server.access.policy import Policy
from tracking_server.access.routes import Routes

logger = logging.getLogger(__name__)

SERVICE = "sagemaker-mlflow"
ACCESS_UI = "AccessUI"
"""The one action that AWS gives no resource type, so that policies allow it on `*`:
https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonsagemakerwithmlflow.html"""

ACTIONS_A_CALL = 50
"""How many actions one SimulatePrincipalPolicy is asked about; AWS states no limit."""

BY_CALL = frozenset({"aws:SourceIp", "aws:userid"})
"""Condition keys that differ between calls of one role. They are told only for policies that look at them."""

TYPES = {
    "aws:SourceIp": "ip",
    "aws:SecureTransport": "boolean",
    "aws:CurrentTime": "date",
    "aws:EpochTime": "numeric",
}

THROTTLING = frozenset(
    {"Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequestsException"}
)


class IamEngine:
    """Asks IAM what the caller's own policies allow: identity policies, groups, permission boundary, SCPs.

    Session policies are not seen by IAM's simulator.
    """

    name = "iam"

    def __init__(self, *, routes: Routes, tracking_server_arn: str, secure: bool) -> None:
        self._arn, self._secure = tracking_server_arn, secure
        known = routes.all_actions() - {ACCESS_UI}
        self._official = sorted(known & routes.official_actions)
        self._extensions = sorted(known - routes.official_actions)
        self._local = threading.local()

    def ask(self, caller: Caller, *, address: str | None) -> Grants:
        """See Engine."""
        try:
            principal = self._principal(caller)
            if principal is None:
                return Grants(allowed=frozenset())
            known, arn, tags = principal
            return self._simulate(
                arn, context_of(known, arn=arn, tags=tags, address=address, secure=self._secure)
            )
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code in THROTTLING:
                raise Throttled from None
            logger.error("IAM cannot be asked what %s may do: %s", caller.arn, error)
        except BotoCoreError as error:
            logger.error("IAM cannot be asked what %s may do: %s", caller.arn, error)
        raise Unavailable("IAM cannot be asked what is allowed; try again")

    @property
    def _iam(self) -> Any:
        if not hasattr(self._local, "iam"):
            config = Config(
                connect_timeout=2, read_timeout=5, retries={"mode": "standard", "max_attempts": 3}
            )
            # one a thread: made after the workers were forked, and never shared while it is being made
            self._local.iam = boto3.session.Session().client("iam", config=config)
        return self._local.iam

    def _principal(self, caller: Caller) -> tuple[Caller, str, Mapping[str, str]] | None:
        """The caller by unique id, the true ARN with its path, and the tags.

        None when the principal is gone or is another one by now.
        """
        try:
            if caller.kind == "role":
                found = self._iam.get_role(RoleName=caller.name)["Role"]
                identifier = found["RoleId"]
            else:
                found = self._iam.get_user(UserName=caller.name)["User"]
                identifier = found["UserId"]
        except ClientError as error:
            if error.response["Error"]["Code"] == "NoSuchEntity":
                return None
            raise
        if caller.unique_id not in (identifier, found["Arn"]):  # web identity tokens name the ARN alone
            return None
        if caller.unique_id != identifier:
            # policies may deny by aws:userid, which for a role has a session behind it
            session = "web-identity" if caller.kind == "role" else ""
            caller = replace(caller, unique_id=identifier, session=session)
        return caller, found["Arn"], {tag["Key"]: tag["Value"] for tag in found.get("Tags", [])}

    def _simulate(self, arn: str, context: Mapping[str, str]) -> Grants:
        results = list(self._results(arn, self._official, self._arn, context))
        results += self._results(arn, [ACCESS_UI], "*", context)
        try:
            results += self._results(arn, self._extensions, self._arn, context)
        except ClientError as error:
            # the simulator may refuse names that AWS has not published; then they are not allowed
            if error.response["Error"]["Code"] not in ("InvalidInput", "ValidationError"):
                raise
            logger.warning("IAM does not simulate actions beyond those that AWS publishes: they are denied")
        return Grants(
            allowed=frozenset(_names(results, "allowed")),
            explicitly_denied=frozenset(_names(results, "explicitDeny")),
            by_call=BY_CALL - context.keys() != set() and any(map(_misses, results)),
        )

    def _results(
        self, arn: str, actions: Sequence[str], resource: str, context: Mapping[str, str]
    ) -> Iterator[dict[str, Any]]:
        pages = self._iam.get_paginator("simulate_principal_policy")
        for start in range(0, len(actions), ACTIONS_A_CALL):
            for page in pages.paginate(
                PolicySourceArn=arn,
                ActionNames=[f"{SERVICE}:{name}" for name in actions[start : start + ACTIONS_A_CALL]],
                ResourceArns=[resource],
                ContextEntries=[
                    {
                        "ContextKeyName": key,
                        "ContextKeyType": TYPES.get(key, "string"),
                        "ContextKeyValues": [value],
                    }
                    for key, value in context.items()
                ],
            ):
                yield from page["EvaluationResults"]


def _names(results: Iterable[Mapping[str, Any]], decision: str) -> Iterator[str]:
    for result in results:
        if result["EvalDecision"] == decision:
            yield result["EvalActionName"].removeprefix(f"{SERVICE}:")


def _misses(result: Mapping[str, Any]) -> bool:
    missing = list(result.get("MissingContextValues", []))
    for specific in result.get("ResourceSpecificResults", []):
        missing += specific.get("MissingContextValues", [])
    return not {key.lower() for key in BY_CALL}.isdisjoint(map(str.lower, missing))


class RolesEngine:
    """Evaluates the policies of the kit's roles, which are known by unique id and ARN, without asking anyone.

    Whoever is not one of these roles may do nothing. Policies that were changed by hand in IAM do not count.
    """

    name = "roles"

    def __init__(
        self,
        *,
        routes: Routes,
        tracking_server_arn: str,
        policies: Mapping[str, Mapping[str, Any]],
        secure: bool,
    ) -> None:
        self._arn, self._secure = tracking_server_arn, secure
        self._actions = sorted(routes.all_actions())
        self._policies = {identifier: Policy.parse(document) for identifier, document in policies.items()}
        self._conditional = {
            identifier
            for identifier, document in policies.items()
            if "Condition" in json.dumps(document) or "${" in json.dumps(document)
        }

    def ask(self, caller: Caller, *, address: str | None) -> Grants:
        """See Engine."""
        policy = self._policies.get(caller.unique_id)
        if policy is None:
            return Grants(allowed=frozenset())
        partition = self._arn.split(":")[1]
        arn = f"arn:{partition}:iam::{caller.account}:role/{caller.name}"
        context = context_of(caller, arn=arn, tags={}, address=address, secure=self._secure)
        allowed, denied = set(), set()
        for action in self._actions:
            resource = "*" if action == ACCESS_UI else self._arn
            decision = policy.decide(f"{SERVICE}:{action}", resource, context)
            if decision.allowed:
                allowed.add(action)
            elif decision.effect == "explicit deny":
                denied.add(action)
        return Grants(
            allowed=frozenset(allowed),
            explicitly_denied=frozenset(denied),
            by_call=address is None and caller.unique_id in self._conditional,
        )


def context_of(
    caller: Caller, *, arn: str, tags: Mapping[str, str], address: str | None, secure: bool
) -> dict[str, str]:
    """Values of the condition keys that a policy may look at; a `Deny` on a key that is not told would be skipped.

    https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_condition-keys.html
    """
    now = time.time()
    context = {
        "aws:PrincipalArn": arn,
        "aws:PrincipalAccount": caller.account,
        "aws:PrincipalType": "AssumedRole" if caller.kind == "role" else "User",
        "aws:ResourceAccount": caller.account,
        "aws:SecureTransport": str(secure).lower(),
        "aws:CurrentTime": datetime.fromtimestamp(now, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "aws:EpochTime": str(int(now)),
    }
    if caller.kind == "user":
        context["aws:username"] = caller.name
    if address is not None:
        context |= {"aws:SourceIp": address, "aws:userid": caller.user_id}
    return context | {f"aws:PrincipalTag/{key}": value for key, value in tags.items()}
