"""IAM's policy language as the server evaluates it for the engine `roles`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from tracking_server.access.policy import Policy, PolicyError

from local.iam import decide
from stacks.access import POLICIES, ROLES, policy_document

sys.path.insert(0, str(Path(__file__).parent.parent / "oracle"))

from random_policies import Avoid, cases

ARN = "arn:aws:sagemaker:eu-central-1:123456789012:mlflow-tracking-server/prod"
CREATE = "sagemaker-mlflow:CreateRun"


def policy(*statements: dict[str, Any], version: str = "2012-10-17") -> Policy:
    return Policy.parse({"Version": version, "Statement": list(statements)})


def allow(**elements: Any) -> dict[str, Any]:
    statement = {"Effect": "Allow", **elements}
    if not {"Action", "NotAction"} & statement.keys():
        statement["Action"] = "sagemaker-mlflow:*"
    if not {"Resource", "NotResource"} & statement.keys():
        statement["Resource"] = "*"
    return statement


def decides(*statements: dict[str, Any], context: dict[str, Any] | None = None, **options: Any) -> str:
    return policy(*statements, **options).decide(CREATE, ARN, context or {}).effect


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ({"Action": "sagemaker-mlflow:CreateRun"}, "allow"),
        ({"Action": "SAGEMAKER-MLFLOW:createrun"}, "allow"),
        ({"Action": "sagemaker-mlflow:Create*"}, "allow"),
        ({"Action": "sagemaker-mlflow:?reateRun"}, "allow"),
        ({"Action": "*"}, "allow"),
        ({"Action": "sagemaker:*"}, "implicit deny"),
        ({"Action": "sagemaker-mlflow:CreateRu?"}, "allow"),
        ({"Action": "sagemaker-mlflow:CreateRun?"}, "implicit deny"),
        ({"NotAction": "sagemaker-mlflow:DeleteRun"}, "allow"),
        ({"NotAction": "sagemaker-mlflow:Create*"}, "implicit deny"),
        ({"Resource": ARN}, "allow"),
        ({"Resource": ARN.replace("prod", "Prod")}, "implicit deny"),
        ({"Resource": f"{ARN}uction"}, "implicit deny"),
        ({"Resource": "arn:aws:sagemaker:*:123456789012:mlflow-tracking-server/*"}, "allow"),
        ({"Resource": "arn:aws:sagemaker:*:*:*-server/prod"}, "allow"),
        ({"NotResource": ARN}, "implicit deny"),
        ({"NotResource": "arn:aws:s3:::*"}, "allow"),
    ],
)
def test_actions_and_resources(elements: dict[str, Any], expected: str) -> None:
    assert decides(allow(**elements)) == expected


def test_a_denial_wins_over_everything() -> None:
    denial = {"Sid": "Never", "Effect": "Deny", "Action": "sagemaker-mlflow:Create*", "Resource": "*"}
    decision = policy(allow(), denial).decide(CREATE, ARN, {})
    assert (decision.allowed, decision.effect, decision.statement) == (False, "explicit deny", "Never")
    decision = policy(allow(), denial).decide("sagemaker-mlflow:GetRun", ARN, {})
    assert (decision.allowed, decision.statement) == (True, "Statement[0]")


@pytest.mark.parametrize(
    ("condition", "context", "holds"),
    [
        ({"StringEquals": {"aws:username": "alice"}}, {"AWS:UserName": "alice"}, True),
        ({"StringEquals": {"aws:username": "alice"}}, {"aws:username": "Alice"}, False),
        ({"StringEquals": {"aws:username": ["bob", "alice"]}}, {"aws:username": "alice"}, True),
        ({"StringEquals": {"aws:username": "alice"}}, {}, False),
        ({"StringEqualsIfExists": {"aws:username": "alice"}}, {}, True),
        ({"StringNotEquals": {"aws:username": "alice"}}, {}, True),
        ({"StringNotEquals": {"aws:username": ["bob", "alice"]}}, {"aws:username": "alice"}, False),
        ({"StringLike": {"aws:userid": "*:ali?e"}}, {"aws:userid": "AROA:alice"}, True),
        ({"StringLike": {"aws:username": "a${*}"}}, {"aws:username": "abc"}, False),
        ({"StringLike": {"aws:username": "a${*}"}}, {"aws:username": "a*"}, True),
        ({"NumericLessThan": {"aws:MultiFactorAuthAge": 3600}}, {"aws:MultiFactorAuthAge": "10"}, True),
        ({"NumericLessThan": {"aws:MultiFactorAuthAge": "10"}}, {"aws:MultiFactorAuthAge": "9.5"}, True),
        (
            {"DateLessThan": {"aws:CurrentTime": "2026-02-01T00:00:00Z"}},
            {"aws:CurrentTime": "2026-01-31T23:59:59Z"},
            True,
        ),
        ({"DateGreaterThan": {"aws:EpochTime": "1769904000"}}, {"aws:EpochTime": "1769904001"}, True),
        ({"Bool": {"aws:SecureTransport": "true"}}, {"aws:SecureTransport": "true"}, True),
        ({"Bool": {"aws:SecureTransport": True}}, {"aws:SecureTransport": "false"}, False),
        ({"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}, {"aws:SourceIp": "10.1.2.3"}, True),
        ({"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}, {"aws:SourceIp": "192.0.2.1"}, False),
        ({"NotIpAddress": {"aws:SourceIp": "10.0.0.0/8"}}, {"aws:SourceIp": "2001:db8::1"}, True),
        (
            {"ArnLike": {"aws:PrincipalArn": "arn:aws:iam::*:role/team-a/*"}},
            {"aws:PrincipalArn": "arn:aws:iam::123456789012:role/team-a/x"},
            True,
        ),
        ({"Null": {"aws:TokenIssueTime": "true"}}, {}, True),
        ({"Null": {"aws:TokenIssueTime": "false"}}, {}, False),
        ({"ForAnyValue:StringEquals": {"aws:TagKeys": ["a", "b"]}}, {"aws:TagKeys": ["b", "c"]}, True),
        ({"ForAllValues:StringEquals": {"aws:TagKeys": ["a", "b"]}}, {"aws:TagKeys": ["b", "c"]}, False),
        ({"ForAllValues:StringEquals": {"aws:TagKeys": ["a", "b"]}}, {}, True),
        ({"ForAnyValue:StringEquals": {"aws:TagKeys": ["a", "b"]}}, {}, False),
        (
            {"StringEquals": {"aws:username": "alice"}, "Bool": {"aws:SecureTransport": "true"}},
            {"aws:username": "alice", "aws:SecureTransport": "false"},
            False,
        ),
        (
            {"StringEquals": {"aws:PrincipalTag/team": "${aws:username}"}},
            {"aws:PrincipalTag/team": "a", "aws:username": "a"},
            True,
        ),
        (
            {"StringEquals": {"aws:PrincipalTag/team": "${aws:username, 'nobody'}"}},
            {"aws:PrincipalTag/team": "nobody"},
            True,
        ),
    ],
)
def test_conditions(condition: dict[str, Any], context: dict[str, Any], holds: bool) -> None:
    assert decides(allow(Condition=condition), context=context) == ("allow" if holds else "implicit deny")


def test_variables_mean_something_in_the_newer_version_alone() -> None:
    statement = allow(Resource="arn:aws:sagemaker:*:*:mlflow-tracking-server/${aws:username}")
    assert decides(statement, context={"aws:username": "prod"}) == "allow"
    assert decides(statement, context={"aws:username": "prod"}, version="2008-10-17") == "implicit deny"
    assert decides(statement) == "implicit deny"


def test_a_value_that_cannot_be_compared_allows_nothing_and_denies_everything() -> None:
    condition = {"NumericLessThan": {"aws:MultiFactorAuthAge": "10"}}
    context = {"aws:MultiFactorAuthAge": "soon"}
    assert decides(allow(Condition=condition), context=context) == "implicit deny"
    denial = {**allow(Condition=condition), "Effect": "Deny"}
    assert decides(allow(), denial, context=context) == "explicit deny"


@pytest.mark.parametrize(
    ("document", "place"),
    [
        ({}, "Statement"),
        ({"Version": "2020-01-01", "Statement": []}, "Version"),
        ({"Statement": [{"Effect": "allow", "Action": "*", "Resource": "*"}]}, "Effect"),
        ({"Statement": [{"Effect": "Allow", "Resource": "*"}]}, "Action"),
        ({"Statement": [{"Effect": "Allow", "Action": "*", "NotAction": "*", "Resource": "*"}]}, "Action"),
        ({"Statement": [{"Effect": "Allow", "Action": "*", "Resource": 1}]}, "Resource"),
        ({"Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*", "Principal": "*"}]}, "Principal"),
        ({"Statement": [allow(Condition={"StringIsh": {"a": "b"}})]}, "StringIsh"),
        ({"Statement": [allow(Condition={"StringEquals": "x"})]}, "StringEquals"),
        ({"Statement": "x"}, "Statement"),
    ],
)
def test_a_document_that_is_not_understood_is_refused_whole(document: dict[str, Any], place: str) -> None:
    with pytest.raises(PolicyError, match=place):
        Policy.parse(document)


@pytest.mark.parametrize("file", ROLES)
def test_the_policies_of_the_roles_decide_as_their_text_says(file: str) -> None:
    document = json.loads((POLICIES / f"{file}.json").read_text(encoding="utf-8"))
    compiled = Policy.parse(policy_document(file, ARN))
    for statement in document["Statement"]:
        actions = statement["Action"]
        for action in actions if isinstance(actions, list) else [actions]:
            resource = "*" if action.endswith(":AccessUI") else ARN
            name = action.replace("*", "Anything")
            assert compiled.decide(name, resource, {}).allowed
            assert not compiled.decide(name, f"{ARN}2", {}).allowed or resource == "*"
    assert compiled.decide("sagemaker-mlflow:DeleteRegisteredModel", ARN, {}).allowed is (file == "admin")


def test_two_evaluators_agree() -> None:
    """The embedded AWS has another one, so that a double shares no mistake with what it tests."""
    avoid: tuple[Avoid, ...] = (
        "a colon in the resource",
        "defaults of variables",
        "empty sets",
        "escapes",
        "escapes outside of patterns",
        "plain operators on multivalued keys",
        "set operators on absent keys",
        "several values of Null",
        "short ARNs of NotResource",
        "values of another type",
        "values of another type in denials",
        "variables for a part of a condition's ARN",
        "variables without value in negations",
        "variables without value in NotResource",
        "version 2008-10-17 with variables",
        "wildcards in values",
        "BinaryEquals",
        "addresses of the other family in NotIpAddress",
        "ranges of all addresses",
    )
    known = 0
    for case in cases(1500, seed=7, avoid=avoid):
        statements = case.policy["Statement"]
        statements = statements if isinstance(statements, list) else [statements]
        if "Date" in json.dumps(statements):
            continue  # operators that the embedded AWS does not know
        compiled = Policy.parse(case.policy)
        for request in case.requests:
            ours = compiled.decide(request.action, request.resource, request.context).allowed
            theirs, _ = decide(
                statements=statements,
                boundary=None,
                action=request.action,
                resource=request.resource,
                context={key.lower(): value for key, value in request.context.items()},
            )
            assert ours == theirs, (case.policy, request)
            known += 1
    assert known > 3000
