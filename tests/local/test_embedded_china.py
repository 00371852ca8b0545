"""In another partition, ARNs and the hosts of STS are that partition's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from callers import allow, client, role, trusting, user
from conftest import embedded
from test_embedded_sts import presign, refusal

from local.aws import ACCOUNT, EmbeddedAws

REGION = "cn-northwest-1"


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedAws]:
    """An embedded AWS in China."""
    with embedded(tmp_path_factory.mktemp("aws"), region=REGION) as embedded_aws:
        yield embedded_aws


def test_callers_are_of_the_partition(aws: EmbeddedAws) -> None:
    arn, keys = user(aws, "ann", allow("sts:AssumeRole"))
    assert arn == f"arn:aws-cn:iam::{ACCOUNT}:user/ann"
    signed = presign(keys, region=REGION)
    assert dict(signed.headers)["Host"] == f"sts.{REGION}.amazonaws.com.cn"
    assert f"<Arn>{arn}</Arn>" in signed.send(aws).text
    assert refusal(presign(keys, region="eu-central-1").send(aws))[:2] == (403, "InvalidClientTokenId")
    target = role(aws, "reader", trust=[trusting({"AWS": f"arn:aws-cn:iam::{ACCOUNT}:root"})])
    answer = client(aws, "sts", keys).assume_role(RoleArn=target, RoleSessionName="me")
    assert answer["AssumedRoleUser"]["Arn"] == f"arn:aws-cn:sts::{ACCOUNT}:assumed-role/reader/me"
    identity = client(aws, "sts", answer["Credentials"]).get_caller_identity()
    assert identity["Arn"] == answer["AssumedRoleUser"]["Arn"]


def test_principals_are_simulated(aws: EmbeddedAws) -> None:
    server = f"arn:aws-cn:sagemaker:{REGION}:{ACCOUNT}:mlflow-tracking-server/mlflow"
    arn = role(aws, "scientist", allow("sagemaker-mlflow:*", on=server), trust=[])
    answer = aws.client("iam").simulate_principal_policy(
        PolicySourceArn=arn, ActionNames=["sagemaker-mlflow:GetRun"], ResourceArns=[server]
    )
    assert [item["EvalDecision"] for item in answer["EvaluationResults"]] == ["allowed"]
