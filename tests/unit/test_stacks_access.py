"""Who may assume the four roles, and what the server itself may ask."""

from __future__ import annotations

import json
from typing import Any

import pytest
from synth import Synthesis, changed, flattened, of, synthesise

from stacks.access import ROLES
from stacks.environment_files import load

OWN = "arn:<AWS::Partition>:iam::<AWS::AccountId>:root"
CI = "arn:aws:iam::111122223333:role/ci"
PROVIDER = "arn:aws:iam::111122223333:oidc-provider/token.actions.githubusercontent.com"
every_role = pytest.mark.parametrize("role", ROLES.values())

Trust = dict[str, tuple[list[str], Any]]


def trust(synthesis: Synthesis, role: str) -> Trust:
    """By action: the principals that may, and on which conditions."""
    (found,) = [
        resource
        for resource in synthesis.resources("AWS::IAM::Role").values()
        if resource["Properties"].get("Description") == f"MLflow {role}"
    ]
    trusts: Trust = {}
    for statement in found["Properties"]["AssumeRolePolicyDocument"]["Statement"]:
        assert statement["Effect"] == "Allow"
        ((_, named),) = statement["Principal"].items()
        principals = sorted(flattened(each) for each in (named if isinstance(named, list) else [named]))
        actions = statement["Action"]
        for action in actions if isinstance(actions, list) else [actions]:
            trusts[action] = (principals, statement.get("Condition"))
    return trusts


@every_role
def test_by_default_the_own_account_decides(role: str) -> None:
    assert trust(synthesise("dev"), role) == {
        "sts:AssumeRole": ([OWN], None),
        "sts:SetSourceIdentity": ([OWN], None),
    }


@every_role
def test_further_accounts_of_one_organization(role: str) -> None:
    accounts = [OWN.replace("<AWS::AccountId>", account) for account in ("111122223333", "444455556666")]
    expected = (accounts, {"StringEquals": {"aws:PrincipalOrgID": "o-a1b2c3d4e5"}})
    assert trust(synthesise("examples/permissions-boundary"), role)["sts:AssumeRole"] == expected


def test_single_principals_take_the_place_of_the_account() -> None:
    environment = changed(load("dev"), roles={"trusted_principal_arns": [CI]})
    trusts = trust(of(environment, directory="trust-principals"), "Reader")
    assert trusts["sts:AssumeRole"] == ([CI], None)


def test_callers_can_be_made_to_name_themselves() -> None:
    environment = changed(load("dev"), roles={"require_source_identity": True})
    trusts = trust(of(environment, directory="trust-source-identity"), "Admin")
    condition = {"StringLike": {"sts:SourceIdentity": "?*"}}
    assert trusts == {
        "sts:AssumeRole": ([OWN], condition),
        "sts:SetSourceIdentity": ([OWN], condition),
    }


def test_tokens_of_a_ci_system_are_traded_for_a_role() -> None:
    provider = {
        "provider_arn": PROVIDER,
        "audience": "sts.amazonaws.com",
        "subjects": ["repo:example/models:*"],
    }
    environment = changed(load("dev"), roles={"oidc_providers": [provider]})
    trusts = trust(of(environment, directory="trust-oidc"), "DataScientist")
    issuer = "token.actions.githubusercontent.com"
    assert trusts["sts:AssumeRoleWithWebIdentity"] == (
        [PROVIDER],
        {
            "StringEquals": {f"{issuer}:aud": "sts.amazonaws.com"},
            "StringLike": {f"{issuer}:sub": ["repo:example/models:*"]},
        },
    )
    assert trusts["sts:AssumeRole"] == ([OWN], None)


def server_actions(synthesis: Synthesis) -> set[str]:
    """Actions of IAM and STS that the server's own role has."""
    (role,) = [
        resource for key, resource in synthesis.resources("AWS::IAM::Role").items() if "/ServerRole" in key
    ]
    attached = {
        flattened(reference).strip("<>").rpartition(":")[2]
        for reference in role["Properties"]["ManagedPolicyArns"]
    }
    actions: set[str] = set()
    for key, policy in synthesis.resources("AWS::IAM::ManagedPolicy").items():
        if key.rpartition("/")[2] in attached:
            for statement in policy["Properties"]["PolicyDocument"]["Statement"]:
                found = statement["Action"]
                actions |= set(found if isinstance(found, list) else [found])
    return {action for action in actions if action.startswith(("iam:", "sts:"))}


def test_the_server_asks_iam_only_where_iam_decides() -> None:
    assert server_actions(synthesise("prod")) == {
        "iam:SimulatePrincipalPolicy",
        "iam:GetRole",
        "iam:GetUser",
    }
    assert server_actions(synthesise("examples/private-only")) == set()


def test_the_engine_roles_is_told_the_policies_by_the_ids_of_the_roles() -> None:
    synthesis = synthesise("examples/private-only")
    (container,) = [
        container
        for resource in synthesis.resources("AWS::ECS::TaskDefinition").values()
        for container in resource["Properties"]["ContainerDefinitions"]
        if container["Command"] == ["serve"]
    ]
    told = {each["Name"]: flattened(each["Value"]) for each in container["Environment"]}
    roles = json.loads(told["ACCESS_ROLES"])
    assert {role["name"] for role in roles.values()} == set(ROLES.values())
    assert all("RoleId" in identifier for identifier in roles)
    assert all(role["policy"]["Statement"] for role in roles.values())
    assert told["ACCESS_ENGINE"] == "roles"
