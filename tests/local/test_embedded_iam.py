"""The policy evaluator, and that role sessions are held to it by the endpoint."""

from __future__ import annotations

import json
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from local.aws import ACCOUNT, EmbeddedAws
from local.iam import decide, trusts

Policy = dict[str, Any]

READ = {"Effect": "Allow", "Action": "s3:Get*", "Resource": "arn:aws:s3:::data/*"}
EVERYTHING = {"Effect": "Allow", "Action": "*", "Resource": "*"}


def allowed(
    statements: list[Policy],
    action: str = "s3:GetObject",
    resource: str = "arn:aws:s3:::data/x",
    boundary: list[Policy] | None = None,
    **context: Any,
) -> bool:
    keys = {key.replace("__", ":"): value for key, value in context.items()}
    return decide(statements=statements, boundary=boundary, action=action, resource=resource, context=keys)[0]


def condition(operator: str, key: str, value: Any, effect: str = "Allow") -> list[Policy]:
    statement = {**EVERYTHING, "Effect": effect, "Condition": {operator: {key: value}}}
    return [statement] if effect == "Allow" else [EVERYTHING, statement]


@pytest.mark.parametrize(
    ("statements", "action", "resource", "expected"),
    [
        ([], "s3:GetObject", "arn:aws:s3:::data/x", False),
        ([READ], "s3:GetObject", "arn:aws:s3:::data/x/y", True),
        ([READ], "s3:getobject", "arn:aws:s3:::data/x", True),
        ([READ], "s3:PutObject", "arn:aws:s3:::data/x", False),
        ([READ], "s3:GetObject", "arn:aws:s3:::other/x", False),
        ([READ], "s3:GetObject", "arn:aws:s3:::Data/x", False),
        ([READ, {**EVERYTHING, "Effect": "Deny"}], "s3:GetObject", "arn:aws:s3:::data/x", False),
        ([EVERYTHING, {**READ, "Effect": "Deny"}], "s3:GetObject", "arn:aws:s3:::data/x", False),
        ([EVERYTHING, {**READ, "Effect": "Deny"}], "s3:PutObject", "arn:aws:s3:::data/x", True),
        ([{"Effect": "Allow", "NotAction": "iam:*", "Resource": "*"}], "iam:GetRole", "*", False),
        ([{"Effect": "Allow", "NotAction": "iam:*", "Resource": "*"}], "ecs:RunTask", "*", True),
        ([{"Effect": "Allow", "Action": "*", "NotResource": "arn:a"}], "s3:GetObject", "arn:a", False),
        ([{"Effect": "Allow", "Action": "*", "NotResource": "arn:a"}], "s3:GetObject", "arn:b", True),
        ([{**READ, "Resource": "arn:aws:s3:::dat?/*"}], "s3:GetObject", "arn:aws:s3:::data/x", True),
        ([{**READ, "Resource": "arn:aws:s3:::dat?/*"}], "s3:GetObject", "arn:aws:s3:::data2/x", False),
        ([{**READ, "Resource": "arn:aws:s3:::data.x"}], "s3:GetObject", "arn:aws:s3:::data-x", False),
    ],
)
def test_actions_and_resources(statements: list[Policy], action: str, resource: str, expected: bool) -> None:
    assert allowed(statements, action, resource) is expected


@pytest.mark.parametrize(
    ("operator", "wanted", "given", "expected"),
    [
        ("StringEquals", "a", "a", True),
        ("StringEquals", "a", "A", False),
        ("StringEquals", ["a", "b"], "b", True),
        ("StringEqualsIgnoreCase", "a", "A", True),
        ("StringNotEquals", "a", "b", True),
        ("StringNotEquals", ["a", "b"], "b", False),
        ("StringLike", "a*", "abc", True),
        ("StringNotLike", "a*", "abc", False),
        ("NumericLessThan", "10", "9", True),
        ("NumericLessThan", "10", "10", False),
        ("NumericGreaterThanEquals", "10", "10", True),
        ("Bool", True, "true", True),
        ("Bool", "false", "true", False),
        ("IpAddress", "10.0.0.0/8", "10.1.2.3", True),
        ("NotIpAddress", "10.0.0.0/8", "10.1.2.3", False),
        ("ArnEquals", "arn:aws:ecs:*:1:cluster/c", "arn:aws:ecs:eu-west-1:1:cluster/c", True),
        ("ArnLike", "arn:aws:ecs:*:1:cluster/c", "arn:aws:ecs:eu-west-1:2:cluster/c", False),
        ("Null", "true", "a", False),
        ("Null", "false", "a", True),
        ("ForAllValues:StringEquals", ["a", "b"], ["a", "c"], False),
        ("ForAnyValue:StringEquals", ["a", "b"], ["a", "c"], True),
        ("SomethingNew", "a", "a", False),
    ],
)
def test_conditions(operator: str, wanted: Any, given: Any, expected: bool) -> None:
    assert allowed(condition(operator, "aws:Key", wanted), aws__key=given) is expected


@pytest.mark.parametrize(
    ("operator", "expected"),
    [
        ("StringEquals", False),
        ("StringEqualsIfExists", True),
        ("StringNotEquals", True),
        ("ArnLike", False),
        ("ForAllValues:StringEquals", True),
        ("ForAnyValue:StringEquals", False),
    ],
)
def test_conditions_on_keys_that_the_request_lacks(operator: str, expected: bool) -> None:
    assert allowed(condition(operator, "aws:Key", "a")) is expected


def test_unknown_operator_denies() -> None:
    assert not allowed(condition("SomethingNew", "aws:Key", "a", effect="Deny"), aws__key="b")


def test_boundary_limits_and_denies() -> None:
    assert allowed([EVERYTHING], boundary=[READ])
    assert not allowed([EVERYTHING], "s3:PutObject", boundary=[READ])
    assert not allowed([], boundary=[EVERYTHING])
    assert not allowed([EVERYTHING], boundary=[EVERYTHING, {**READ, "Effect": "Deny"}])


def test_policy_variables() -> None:
    home = [{**READ, "Resource": "arn:aws:s3:::data/${aws:userid}/*"}]
    assert allowed(home, resource="arn:aws:s3:::data/me/x", aws__userid="me")
    assert not allowed(home, resource="arn:aws:s3:::data/you/x", aws__userid="me")
    assert not allowed(home, resource="arn:aws:s3:::data/me/x")


def test_trust_names_the_service() -> None:
    trust = {
        "Statement": [
            {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"Service": ["a.com", "b.com"]}}
        ]
    }
    assert trusts(trust, "a.com")
    assert not trusts(trust, "c.com")
    assert not trusts({"Statement": {**trust["Statement"][0], "Principal": {"AWS": "*"}}}, "a.com")


# --- at the endpoint: one call for each way to name a resource


class Caller:
    """A role whose one policy can be changed, and clients with its credentials."""

    def __init__(self, aws: EmbeddedAws) -> None:
        self._aws = aws
        iam = aws.client("iam")
        trust = json.dumps({"Version": "2012-10-17", "Statement": []})
        self.arn = iam.create_role(RoleName="caller", AssumeRolePolicyDocument=trust)["Role"]["Arn"]
        keys = aws.client("sts").assume_role(RoleArn=self.arn, RoleSessionName="me")["Credentials"]
        self._session = boto3.Session(
            keys["AccessKeyId"], keys["SecretAccessKey"], keys["SessionToken"], region_name=aws.region
        )

    def may(self, *statements: Policy) -> None:
        document = {"Version": "2012-10-17", "Statement": [*statements, {**READ, "Action": "none:None"}]}
        self._aws.client("iam").put_role_policy(
            RoleName="caller", PolicyName="only", PolicyDocument=json.dumps(document)
        )

    def call(self, service: str, operation: str, **parameters: Any) -> Any:
        client = self._session.client(service, endpoint_url=self._aws.endpoint)
        return getattr(client, operation)(**parameters)


@pytest.fixture(scope="module")
def caller(aws: EmbeddedAws) -> Caller:
    aws.client("s3").create_bucket(
        Bucket="data", CreateBucketConfiguration={"LocationConstraint": aws.region}
    )
    aws.client("s3").put_object(Bucket="data", Key="x", Body=b"content")
    aws.client("secretsmanager").create_secret(Name="login", SecretString="{}")
    aws.client("logs").create_log_group(logGroupName="log")
    aws.client("ssm").put_parameter(Name="/mlflow/Uri", Value="v", Type="String")
    aws.client("ecs").create_cluster(clusterName="c")
    return Caller(aws)


def arn(service: str, resource: str, region: str = "eu-central-1", account: str = ACCOUNT) -> str:
    return f"arn:aws:{service}:{region}:{account}:{resource}"


CALLS = [
    ("s3", "get_object", {"Bucket": "data", "Key": "x"}, "s3:GetObject", "arn:aws:s3:::data/x"),
    ("s3", "head_object", {"Bucket": "data", "Key": "x"}, "s3:GetObject", "arn:aws:s3:::data/x"),
    ("s3", "put_object", {"Bucket": "data", "Key": "y", "Body": b""}, "s3:PutObject", "arn:aws:s3:::data/y"),
    ("s3", "list_objects_v2", {"Bucket": "data"}, "s3:ListBucket", "arn:aws:s3:::data"),
    ("s3", "list_buckets", {}, "s3:ListAllMyBuckets", "*"),
    (
        "s3",
        "create_multipart_upload",
        {"Bucket": "data", "Key": "m"},
        "s3:PutObject",
        "arn:aws:s3:::data/m",
    ),
    (
        "s3",
        "delete_objects",
        {"Bucket": "data", "Delete": {"Objects": [{"Key": "y"}]}},
        "s3:DeleteObject",
        "arn:aws:s3:::data/y",
    ),
    (
        "secretsmanager",
        "get_secret_value",
        {"SecretId": "login"},
        "secretsmanager:GetSecretValue",
        arn("secretsmanager", "secret:login-*"),
    ),
    (
        "logs",
        "create_log_stream",
        {"logGroupName": "log", "logStreamName": "s"},
        "logs:CreateLogStream",
        arn("logs", "log-group:log:*"),
    ),
    (
        "logs",
        "put_log_events",
        {"logGroupName": "log", "logStreamName": "s", "logEvents": [{"timestamp": 0, "message": "m"}]},
        "logs:PutLogEvents",
        arn("logs", "log-group:log:log-stream:s"),
    ),
    ("ssm", "get_parameter", {"Name": "/mlflow/Uri"}, "ssm:GetParameter", arn("ssm", "parameter/mlflow/Uri")),
    (
        "ecs",
        "describe_clusters",
        {"clusters": ["c"]},
        "ecs:DescribeClusters",
        arn("ecs", "cluster/c"),
    ),
    ("ecs", "describe_tasks", {"cluster": "c", "tasks": ["t"]}, "ecs:DescribeTasks", arn("ecs", "task/c/t")),
    ("iam", "get_role", {"RoleName": "caller"}, "iam:GetRole", arn("iam", "role/caller", region="")),
    (
        "cloudformation",
        "list_stacks",
        {},
        "cloudformation:ListStacks",
        "*",
    ),
    ("kms", "list_keys", {}, "kms:ListKeys", "*"),
    ("lambda", "list_functions", {}, "lambda:ListFunctions", "*"),
    ("ec2", "describe_vpcs", {}, "ec2:DescribeVpcs", "*"),
]


@pytest.mark.parametrize(("service", "operation", "parameters", "action", "resource"), CALLS)
def test_call_needs_its_action_on_its_resource(
    caller: Caller, service: str, operation: str, parameters: dict[str, Any], action: str, resource: str
) -> None:
    refused = {
        "other action": {"Effect": "Allow", "Action": "none:Other", "Resource": "*"},
        "other resource": {"Effect": "Allow", "Action": action, "Resource": "arn:aws:none:::other"},
        "denied": {"Effect": "Deny", "Action": action, "Resource": resource},
    }
    for statement in refused.values():
        caller.may(*([EVERYTHING] if statement["Effect"] == "Deny" else []), statement)
        with pytest.raises(ClientError) as error:
            caller.call(service, operation, **parameters)
        answer = error.value.response
        if operation != "head_object":  # whose refusal has no body
            assert answer["Error"]["Code"] in ("AccessDenied", "AccessDeniedException")
            message = answer["Error"]["Message"]
            assert message.startswith(
                f"User: arn:aws:sts::{ACCOUNT}:assumed-role/caller/me is not authorized"
            )
            assert f"to perform: {action}" in message
        assert answer["ResponseMetadata"]["HTTPStatusCode"] in (400, 403)
    caller.may({"Effect": "Allow", "Action": action, "Resource": resource})
    caller.call(service, operation, **parameters)


def test_caller_identity_is_free(caller: Caller) -> None:
    caller.may()
    assert caller.call("sts", "get_caller_identity")["Arn"].endswith(":assumed-role/caller/me")


def test_copy_needs_both_ends(caller: Caller) -> None:
    copy = {"Bucket": "data", "Key": "copy", "CopySource": "data/x"}
    put = {"Effect": "Allow", "Action": "s3:PutObject", "Resource": "arn:aws:s3:::data/copy"}
    caller.may(put)
    with pytest.raises(ClientError, match="s3:GetObject"):
        caller.call("s3", "copy_object", **copy)
    caller.may(put, READ)
    caller.call("s3", "copy_object", **copy)


def test_boundary_of_the_role_holds(aws: EmbeddedAws, caller: Caller) -> None:
    document = json.dumps({"Version": "2012-10-17", "Statement": [READ]})
    boundary = aws.client("iam").create_policy(PolicyName="boundary", PolicyDocument=document)["Policy"][
        "Arn"
    ]
    aws.client("iam").put_role_permissions_boundary(RoleName="caller", PermissionsBoundary=boundary)
    try:
        caller.may(EVERYTHING)
        caller.call("s3", "get_object", Bucket="data", Key="x")
        with pytest.raises(ClientError, match="no permissions boundary allows the s3:PutObject action"):
            caller.call("s3", "put_object", Bucket="data", Key="x", Body=b"")
    finally:
        aws.client("iam").delete_role_permissions_boundary(RoleName="caller")


def test_bucket_policy_that_denies_everyone_holds(aws: EmbeddedAws, caller: Caller) -> None:
    caller.may(EVERYTHING)
    deny = {"Effect": "Deny", "Principal": "*", "Action": "s3:*", "Resource": "arn:aws:s3:::data/*"}
    tls = {**deny, "Condition": {"Bool": {"aws:SecureTransport": "false"}}}
    s3 = aws.client("s3")
    for statement, refused in ((tls, False), (deny, True)):
        document = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        s3.put_bucket_policy(Bucket="data", Policy=document)
        if refused:
            with pytest.raises(ClientError, match="with an explicit deny"):
                caller.call("s3", "get_object", Bucket="data", Key="x")
        else:
            caller.call("s3", "get_object", Bucket="data", Key="x")
    s3.delete_bucket_policy(Bucket="data")


def test_attached_policies_count(aws: EmbeddedAws, caller: Caller) -> None:
    caller.may()
    iam = aws.client("iam")
    policy = "arn:aws:iam::aws:policy/AmazonS3ReadOnlyAccess"
    iam.attach_role_policy(RoleName="caller", PolicyArn=policy)
    try:
        caller.call("s3", "get_object", Bucket="data", Key="x")
    finally:
        iam.detach_role_policy(RoleName="caller", PolicyArn=policy)


def test_operation_that_is_not_known_is_refused(aws: EmbeddedAws, caller: Caller) -> None:
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest

    caller.may(EVERYTHING)
    credentials = caller._session.get_credentials()
    assert credentials is not None
    request = AWSRequest("POST", aws.endpoint, data=b"{}", headers={"X-Amz-Target": "Nothing.Known"})
    SigV4Auth(credentials, "ecs", aws.region).add_auth(request)
    import requests

    answer = requests.post(aws.endpoint, data=b"{}", headers=dict(request.headers), timeout=10)
    assert answer.status_code == 403
