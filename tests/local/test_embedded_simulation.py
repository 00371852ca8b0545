"""The policy simulator answers from the policies that principals have."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from botocore.exceptions import ClientError
from callers import SERVER, Statement, allow, client, deny, document, kit_policy, role, session, user

from local.aws import ACCOUNT, EmbeddedAws
from local.simulation import positions

CREATE, GET, OPEN = (f"sagemaker-mlflow:{name}" for name in ("CreateRun", "GetRun", "AccessUI"))
_numbers = itertools.count()


def new(kind: str) -> str:
    """A name that no other test has."""
    return f"{kind}-{next(_numbers)}"


def simulate(aws: EmbeddedAws, arn: str, *actions: str, **more: Any) -> list[dict[str, Any]]:
    """What the simulator says about actions, on the server unless on something else."""
    request = {"ResourceArns": [SERVER], **more}
    found: list[dict[str, Any]] = (
        aws.client("iam")
        .get_paginator("simulate_principal_policy")
        .paginate(PolicySourceArn=arn, ActionNames=list(actions), **request)
        .build_full_result()["EvaluationResults"]
    )
    assert [item["EvalActionName"] for item in found] == list(actions)
    return found


def decisions(aws: EmbeddedAws, arn: str, *actions: str, **more: Any) -> list[str]:
    """The decisions alone."""
    return [item["EvalDecision"] for item in simulate(aws, arn, *actions, **more)]


def key(name: str, *values: str, type: str = "string") -> dict[str, Any]:
    """A context entry."""
    return {"ContextKeyName": name, "ContextKeyValues": list(values), "ContextKeyType": type}


# --- decisions


def test_policies_of_a_role_decide(aws: EmbeddedAws) -> None:
    arn = role(aws, new("role"), allow(GET, on=SERVER), deny(OPEN))
    assert decisions(aws, arn, GET, CREATE, OPEN) == ["allowed", "implicitDeny", "explicitDeny"]
    other = SERVER.replace("/mlflow", "/other")
    assert decisions(aws, arn, GET, ResourceArns=[other]) == ["implicitDeny"]
    assert decisions(aws, arn, GET, ResourceArns=["*"]) == ["implicitDeny"]


def test_policies_are_what_they_are_now(aws: EmbeddedAws) -> None:
    name = new("role")
    arn, iam = role(aws, name), aws.client("iam")
    assert decisions(aws, arn, GET) == ["implicitDeny"]
    policy = iam.create_policy(PolicyName=name, PolicyDocument=document(allow(GET)))["Policy"]["Arn"]
    iam.attach_role_policy(RoleName=name, PolicyArn=policy)
    assert decisions(aws, arn, GET) == ["allowed"]
    iam.create_policy_version(PolicyArn=policy, PolicyDocument=document(allow(CREATE)), SetAsDefault=True)
    assert decisions(aws, arn, GET, CREATE) == ["implicitDeny", "allowed"]
    iam.detach_role_policy(RoleName=name, PolicyArn=policy)
    assert decisions(aws, arn, GET, CREATE) == ["implicitDeny", "implicitDeny"]


def test_policies_of_groups_are_the_users(aws: EmbeddedAws) -> None:
    name = new("user")
    arn, _ = user(aws, name, allow(GET), path="/team/")
    iam = aws.client("iam")
    group = iam.create_group(GroupName=name)["Group"]["Arn"]
    iam.put_group_policy(GroupName=name, PolicyName="g", PolicyDocument=document(allow(CREATE)))
    assert decisions(aws, arn, GET, CREATE) == ["allowed", "implicitDeny"]
    iam.add_user_to_group(GroupName=name, UserName=name)
    assert decisions(aws, arn, GET, CREATE) == ["allowed", "allowed"]
    assert decisions(aws, group, GET, CREATE) == ["implicitDeny", "allowed"]
    [found] = simulate(aws, arn, CREATE)
    assert found["MatchedStatements"][0]["SourcePolicyId"] == f"group_{name}_g"


@pytest.mark.parametrize("kind", ["user", "role"])
def test_boundary_limits(aws: EmbeddedAws, kind: str) -> None:
    name = new(kind)
    arn = user(aws, name, allow("*"))[0] if kind == "user" else role(aws, name, allow("*"))
    iam = aws.client("iam")
    limits = document(allow(GET), deny(OPEN))
    boundary = iam.create_policy(PolicyName=name, PolicyDocument=limits)["Policy"]["Arn"]
    [found] = simulate(aws, arn, GET)
    assert "PermissionsBoundaryDecisionDetail" not in found
    named = {f"{kind.title()}Name": name, "PermissionsBoundary": boundary}
    getattr(iam, f"put_{kind}_permissions_boundary")(**named)
    results = simulate(aws, arn, GET, CREATE, OPEN)
    assert [item["EvalDecision"] for item in results] == ["allowed", "implicitDeny", "explicitDeny"]
    within = [item["PermissionsBoundaryDecisionDetail"]["AllowedByPermissionsBoundary"] for item in results]
    assert within == [True, False, False]
    inputs = {"PermissionsBoundaryPolicyInputList": [document(allow(CREATE))]}
    assert decisions(aws, arn, GET, CREATE, **inputs) == ["implicitDeny", "allowed"]


def test_context_decides(aws: EmbeddedAws) -> None:
    team = {"StringEquals": {"aws:PrincipalTag/Team": "green"}, "IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}
    outside = {"NotIpAddress": {"aws:SourceIp": "10.0.0.0/8"}}
    arn = role(aws, new("role"), allow(CREATE, Condition=team), allow(GET), deny(GET, Condition=outside))
    inside = [key("aws:principaltag/team", "green"), key("aws:SourceIp", "10.1.1.1", type="ip")]
    assert decisions(aws, arn, CREATE, GET, ContextEntries=inside) == ["allowed", "allowed"]
    assert decisions(aws, arn, CREATE, GET) == ["implicitDeny", "explicitDeny"]
    wrong = [key("aws:PrincipalTag/Team", "red"), key("aws:SourceIp", "10.1.1.1", type="ip")]
    assert decisions(aws, arn, CREATE, GET, ContextEntries=wrong) == ["implicitDeny", "allowed"]


def test_lists_are_context_too(aws: EmbeddedAws) -> None:
    condition = {"ForAllValues:StringEquals": {"aws:TagKeys": ["a", "b"]}}
    arn = role(aws, new("role"), allow(CREATE, Condition=condition))
    for values, expected in ((["a", "b"], "allowed"), (["a", "c"], "implicitDeny")):
        entries = [key("aws:TagKeys", *values, type="stringList")]
        assert decisions(aws, arn, CREATE, ContextEntries=entries) == [expected]


def test_missing_keys_are_named(aws: EmbeddedAws) -> None:
    statements = [
        allow(CREATE, Condition={"StringEquals": {"aws:PrincipalTag/Team": "green"}}),
        allow("s3:*", Condition={"Bool": {"aws:SecureTransport": "true"}}),
        allow("s3:GetObject", on="arn:aws:s3:::homes/${aws:username}/*"),
    ]
    arn = role(aws, new("role"), *statements)
    [found] = simulate(aws, arn, CREATE, ContextEntries=[key("AWS:SecureTransport", "true", type="boolean")])
    assert found["MissingContextValues"] == ["aws:PrincipalTag/Team", "aws:username"]
    assert found["ResourceSpecificResults"][0]["MissingContextValues"] == found["MissingContextValues"]


def test_additional_policies_count(aws: EmbeddedAws) -> None:
    arn = role(aws, new("role"))
    [found] = simulate(aws, arn, GET, PolicyInputList=[document(deny(CREATE)), document(allow(GET))])
    assert found["EvalDecision"] == "allowed"
    assert found["MatchedStatements"][0]["SourcePolicyId"] == "PolicyInputList.2"


def test_custom_policies_are_simulated(aws: EmbeddedAws) -> None:
    answer = aws.client("iam").simulate_custom_policy(
        PolicyInputList=[document(allow(GET), deny(OPEN))],
        ActionNames=[GET, CREATE, OPEN],
        PermissionsBoundaryPolicyInputList=[document(allow(GET))],
    )
    found = [item["EvalDecision"] for item in answer["EvaluationResults"]]
    assert found == ["allowed", "implicitDeny", "explicitDeny"]


@pytest.mark.parametrize("name", ["reader", "data-scientist", "model-approver", "admin"])
def test_policies_of_the_kit(aws: EmbeddedAws, name: str) -> None:
    iam, role_name = aws.client("iam"), new("role")
    arn = role(aws, role_name)
    text = kit_policy(name)
    policy = iam.create_policy(PolicyName=role_name, PolicyDocument=text)["Policy"]["Arn"]
    iam.attach_role_policy(RoleName=role_name, PolicyArn=policy)
    assert decisions(aws, arn, GET) == ["allowed"]
    assert decisions(aws, arn, OPEN, ResourceArns=["*"]) == ["allowed"]
    expected = "implicitDeny" if name == "reader" else "allowed"
    assert decisions(aws, arn, "sagemaker-mlflow:SearchRuns", CREATE)[0] == "allowed"
    if name in ("reader", "data-scientist", "admin"):
        assert decisions(aws, arn, CREATE) == [expected]


# --- the form of the answer


def test_each_resource_has_a_result(aws: EmbeddedAws) -> None:
    other = SERVER.replace("/mlflow", "/other")
    arn = role(aws, new("role"), allow(GET, on=SERVER), deny(OPEN, on=other))
    get, access = simulate(aws, arn, GET, OPEN, ResourceArns=[SERVER, other])
    results = get["ResourceSpecificResults"]
    assert [item["EvalResourceName"] for item in results] == [SERVER, other]
    assert [item["EvalResourceDecision"] for item in results] == ["allowed", "implicitDeny"]
    assert [len(item["MatchedStatements"]) for item in results] == [1, 0]
    # the strictest stands on top, with the form of the ARNs and not one of them
    assert (get["EvalDecision"], access["EvalDecision"]) == ("implicitDeny", "explicitDeny")
    assert get["EvalResourceName"].startswith("arn:${Partition}:sagemaker:")
    assert access["EvalResourceName"] == "*"
    assert len(access["MatchedStatements"]) == 1
    [anywhere] = simulate(aws, arn, GET, ResourceArns=["*"])
    assert "ResourceSpecificResults" not in anywhere


DOCUMENTS = [
    document(allow(GET), deny(CREATE)),
    document(allow(GET), deny(CREATE), indent=2),
    json.dumps({"Statement": allow(GET), "Version": "2012-10-17"}, indent=4),
    json.dumps({"Statement": [{**allow(GET), "Sid": 'a"}]{[,'}], "Version": "2012-10-17"}),
    '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}',
    '{ "Id" : "[{" , "Statement" : [ ] }',
]


@pytest.mark.parametrize("text", DOCUMENTS)
def test_positions_cut_the_statements_out(text: str) -> None:
    lines = text.split("\n")

    def cut(start: dict[str, int], end: dict[str, int]) -> Statement:
        part = lines[start["Line"] - 1 : end["Line"]]
        part[-1] = part[-1][: end["Column"] - 1]
        part[0] = part[0][start["Column"] - 1 :]
        found: Statement = json.loads("\n".join(part))
        return found

    statements = json.loads(text)["Statement"]
    expected = statements if isinstance(statements, list) else [statements]
    assert [cut(*place) for place in positions(text)] == expected


def test_positions_are_those_that_aws_gives() -> None:
    # AdministratorAccess, as the simulator answers for it
    text = json.dumps(
        {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]},
        indent=2,
    )
    assert positions(text) == [({"Line": 3, "Column": 17}, {"Line": 8, "Column": 6})]


def test_matched_statements_are_those_that_decide(aws: EmbeddedAws) -> None:
    name = new("role")
    text = document(allow(CREATE), allow(GET), allow("sagemaker-mlflow:*"), deny(OPEN), indent=2)
    arn, iam = role(aws, name), aws.client("iam")
    iam.put_role_policy(RoleName=name, PolicyName="own", PolicyDocument=text)
    policy = iam.create_policy(PolicyName=name, PolicyDocument=document(allow("*")))["Policy"]["Arn"]
    iam.attach_role_policy(RoleName=name, PolicyArn=policy)
    get, access = simulate(aws, arn, GET, OPEN)
    places = positions(text)
    own = {"SourcePolicyId": f"role_{name}_own", "SourcePolicyType": "IAM Policy"}
    assert get["MatchedStatements"][:2] == [
        {**own, "StartPosition": start, "EndPosition": end} for start, end in places[1:3]
    ]
    assert [item["SourcePolicyId"] for item in get["MatchedStatements"]][2:] == [name]
    start, end = places[3]
    assert access["MatchedStatements"] == [{**own, "StartPosition": start, "EndPosition": end}]


def test_results_come_in_pages(aws: EmbeddedAws) -> None:
    arn = role(aws, new("role"), allow("s3:*"))
    actions = [f"s3:Get{number}" for number in range(205)]
    iam = aws.client("iam")
    ask = {"PolicySourceArn": arn, "ActionNames": actions}
    pages = [iam.simulate_principal_policy(**ask)]
    while pages[-1]["IsTruncated"]:
        pages.append(iam.simulate_principal_policy(**ask, Marker=pages[-1]["Marker"]))
    assert [len(page["EvaluationResults"]) for page in pages] == [100, 100, 5]
    assert "Marker" not in pages[-1]
    page = iam.simulate_principal_policy(**ask, MaxItems=7)
    assert (len(page["EvaluationResults"]), page["IsTruncated"]) == (7, True)
    assert decisions(aws, arn, *actions) == ["allowed"] * 205


# --- refusals


def refused(aws: EmbeddedAws, **request: Any) -> tuple[str, int]:
    with pytest.raises(ClientError) as error:
        aws.client("iam").simulate_principal_policy(**request)
    answer = error.value.response
    return answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"]


def test_only_users_groups_and_roles_are_principals(aws: EmbeddedAws) -> None:
    name = new("role")
    arn = role(aws, name, Path="/kit/")
    account = f"arn:aws:iam::{ACCOUNT}"
    for other in (
        f"arn:aws:sts::{ACCOUNT}:assumed-role/{name}/me",
        f"{account}:root",
        f"{account}:policy/{name}",
        arn.replace(ACCOUNT, "999999999999"),
        arn.replace("arn:aws:", "arn:aws-cn:"),
        "x" * 30,
    ):
        assert refused(aws, PolicySourceArn=other, ActionNames=[GET]) == ("InvalidInput", 400)
    for absent in (f"{account}:role/{name}", f"{account}:role/other/{name}", f"{account}:user/kit/{name}"):
        assert refused(aws, PolicySourceArn=absent, ActionNames=[GET]) == ("NoSuchEntity", 404)
    assert decisions(aws, arn, GET) == ["implicitDeny"]


@pytest.mark.parametrize(
    "action",
    ["sagemaker-mlflow:*", "sagemaker-mlflow:Get?un", "s3:Get*", "***", "GetRun", "no-such-service:Get"],
)
def test_actions_are_whole_names(aws: EmbeddedAws, action: str) -> None:
    arn = role(aws, new("role"))
    assert refused(aws, PolicySourceArn=arn, ActionNames=[GET, action])[1] == 400


def test_other_parameters_have_a_form(aws: EmbeddedAws) -> None:
    arn = role(aws, new("role"))
    usual = {"PolicySourceArn": arn, "ActionNames": [GET]}
    several = [key("aws:SourceIp", "10.0.0.1", "10.0.0.2", type="ip")]
    session_arn = f"arn:aws:sts::{ACCOUNT}:assumed-role/r/s"
    for wrong in (
        {"ResourceArns": ["mlflow"]},
        {"Marker": "x"},
        {"ContextEntries": several},
        {"CallerArn": session_arn},
        {"ResourcePolicy": document(allow(GET))},
    ):
        assert refused(aws, **usual, **wrong) == ("InvalidInput", 400)


def test_not_everything_is_simulated(aws: EmbeddedAws) -> None:
    arn, _ = user(aws, new("user"))
    usual = {"PolicySourceArn": arn, "ActionNames": [GET]}
    assert refused(aws, **usual, ResourcePolicy=document(allow(GET))) == ("NotImplemented", 501)


def test_caller_needs_the_right_to_ask(aws: EmbeddedAws) -> None:
    about = role(aws, new("role"), allow(GET))
    server = role(aws, new("server"), allow("iam:SimulatePrincipalPolicy", on=about))
    iam = client(aws, "iam", session(aws, server))
    ask = {"ActionNames": [GET], "ResourceArns": [SERVER]}
    assert iam.simulate_principal_policy(PolicySourceArn=about, **ask)["EvaluationResults"]
    for other in (server, role(aws, new("role"))):
        with pytest.raises(ClientError, match=f"iam:SimulatePrincipalPolicy on resource: {other}"):
            iam.simulate_principal_policy(PolicySourceArn=other, **ask)


def test_asking_too_often_is_refused_on_order(aws: EmbeddedAws) -> None:
    arn = role(aws, new("role"), allow(GET))
    before = aws.calls["iam", "SimulatePrincipalPolicy"]
    aws.throttle("iam", "SimulatePrincipalPolicy", times=2)
    for _ in range(2):
        assert refused(aws, PolicySourceArn=arn, ActionNames=[GET]) == ("Throttling", 400)
    assert decisions(aws, arn, GET) == ["allowed"]
    assert aws.calls["iam", "SimulatePrincipalPolicy"] - before == 3
