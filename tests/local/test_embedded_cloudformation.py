"""Stacks: functions, updates, rollback, policies on deletion, protection, custom resources."""

from __future__ import annotations

import io
import json
import re
import zipfile
from typing import Any

import pytest
from botocore.exceptions import ClientError
from conftest import Stack, role

from local.aws import EmbeddedAws
from local.cloudformation.template import TemplateError, creation_order, parse

Resources = dict[str, Any]


def parameter(value: Any, **attributes: Any) -> dict[str, Any]:
    return {"Type": "AWS::SSM::Parameter", "Properties": {"Type": "String", "Value": value}, **attributes}


# something that always fails to be created: a role without a trust policy
BROKEN = {"Type": "AWS::KMS::Alias", "Properties": {"AliasName": "wrong", "TargetKeyId": "none"}}


def test_functions(aws: EmbeddedAws, stack: Stack) -> None:
    values = {
        "Ref": {"Ref": "Base"},
        "GetAtt": {"Fn::GetAtt": ["Base", "Value"]},
        "Sub": {"Fn::Sub": "${AWS::Region}/${Base.Value}/${!Literal}/${Word}"},
        "SubWithNames": {"Fn::Sub": ["${Name}-x", {"Name": {"Ref": "Word"}}]},
        "Join": {"Fn::Join": ["-", ["a", {"Ref": "Word"}]]},
        "Select": {"Fn::Select": [1, {"Fn::Split": [",", "a,b,c"]}]},
        "If": {"Fn::If": ["IsWord", "yes", "no"]},
        "Map": {"Fn::FindInMap": ["Table", {"Ref": "AWS::Region"}, "Name"]},
        "Zone": {"Fn::Select": [0, {"Fn::GetAZs": ""}]},
        "Cidr": {"Fn::Select": [1, {"Fn::Cidr": ["10.0.0.0/16", 4, 8]}]},
        "Base64": {"Fn::Base64": "x"},
        "Json": {"Fn::ToJsonString": {"a": {"Ref": "Word"}}},
        "Dynamic": "{{resolve:ssm:/functions/word}}",
    }
    aws.client("ssm").put_parameter(Name="/functions/word", Value="resolved", Type="String")
    status = stack.create(
        {
            "Base": parameter("base"),
            "Not": parameter("never", Condition="IsOther"),
            **{f"P{name}": parameter(value) for name, value in values.items()},
        },
        Parameters={"Word": {"Type": "String", "Default": "word"}},
        Conditions={
            "IsWord": {
                "Fn::And": [
                    {"Fn::Equals": [{"Ref": "Word"}, "word"]},
                    {"Fn::Not": [{"Condition": "IsOther"}]},
                ]
            },
            "IsOther": {"Fn::Or": [{"Fn::Equals": [{"Ref": "Word"}, "other"]}, {"Fn::Equals": ["a", "b"]}]},
        },
        Mappings={"Table": {aws.region: {"Name": "here"}}},
        Outputs={name: {"Value": {"Fn::GetAtt": [f"P{name}", "Value"]}} for name in values},
    )
    assert status == "CREATE_COMPLETE"
    outputs = stack.outputs()
    assert outputs.pop("Ref").startswith("test-functions-Base-")
    assert outputs == {
        "GetAtt": "base",
        "Sub": f"{aws.region}/base/${{Literal}}/word",
        "SubWithNames": "word-x",
        "Join": "a-word",
        "Select": "b",
        "If": "yes",
        "Map": "here",
        "Zone": f"{aws.region}a",
        "Cidr": "10.0.1.0/24",
        "Base64": "eA==",
        "Json": '{"a": "word"}',
        "Dynamic": "resolved",
    }
    assert "Not" not in json.dumps(stack.client.describe_stack_resources(StackName=stack.name), default=str)


def test_yaml_with_short_forms() -> None:
    template = parse("Resources:\n  A: {Type: T, Properties: {B: !Ref C, D: !GetAtt E.F, G: !Sub '${H}'}}\n")
    assert template["Resources"]["A"]["Properties"] == {
        "B": {"Ref": "C"},
        "D": {"Fn::GetAtt": "E.F"},
        "G": {"Fn::Sub": "${H}"},
    }


def test_order_follows_every_kind_of_reference() -> None:
    resources = {
        "Last": {"DependsOn": "Third"},
        "Third": {"Properties": {"X": {"Fn::Sub": "${Second.Arn}"}}},
        "Second": {"Properties": {"X": [{"Fn::GetAtt": ["First", "Arn"]}]}},
        "First": {},
    }
    assert creation_order(resources) == ["First", "Second", "Third", "Last"]
    with pytest.raises(TemplateError, match="Circular dependency"):
        creation_order({"A": {"DependsOn": "B"}, "B": {"DependsOn": "A"}})


def test_names_are_the_same_in_another_embedded_aws(stack: Stack) -> None:
    stack.create({"Bucket": {"Type": "AWS::S3::Bucket"}})
    assert stack.physical_id("Bucket") == "test-names-are-the-same-in-another-embedded-aws-bu-9539c5611982"


def test_failed_creation_rolls_back_and_tells_why(aws: EmbeddedAws, stack: Stack) -> None:
    status = stack.create({"Kept": parameter("x"), "Broken": {**BROKEN, "DependsOn": "Kept"}})
    assert status == "ROLLBACK_COMPLETE"
    assert "Invalid identifier" in stack.reasons("CREATE_FAILED")
    names = aws.client("ssm").describe_parameters()["Parameters"]
    assert not [item for item in names if item["Name"].startswith(stack.name)]
    with pytest.raises(ClientError, match="ROLLBACK_COMPLETE state and can not be updated"):
        stack.update({"Kept": parameter("y")})
    assert stack.delete() == "DELETE_COMPLETE"


def test_failed_update_restores_what_was(aws: EmbeddedAws, stack: Stack) -> None:
    before = {"Changed": parameter("old"), "Removed": parameter("kept")}
    assert stack.create(before) == "CREATE_COMPLETE"
    name = stack.physical_id("Changed")
    after = {
        "Changed": parameter("new"),
        "Added": parameter("x"),
        "Broken": {**BROKEN, "DependsOn": ["Changed", "Added"]},
    }
    assert stack.update(after) == "UPDATE_ROLLBACK_COMPLETE"
    assert aws.client("ssm").get_parameter(Name=name)["Parameter"]["Value"] == "old"
    resources = stack.client.describe_stack_resources(StackName=stack.name)["StackResources"]
    assert {item["LogicalResourceId"] for item in resources} == {"Changed", "Removed"}
    assert "Invalid identifier" in stack.reasons("CREATE_FAILED")
    assert stack.client.get_template(StackName=stack.name)["TemplateBody"]["Resources"] == before


def test_update_replaces_what_cannot_change_and_cleans_up(aws: EmbeddedAws, stack: Stack) -> None:
    alarm = {
        "Namespace": "N",
        "MetricName": "M",
        "Statistic": "Sum",
        "Period": 60,
        "EvaluationPeriods": 1,
        "Threshold": 1,
        "ComparisonOperator": "GreaterThanThreshold",
    }

    def alarms(**properties: Any) -> Resources:
        return {"Alarm": {"Type": "AWS::CloudWatch::Alarm", "Properties": {**alarm, **properties}}}

    stack.create(alarms())
    first = stack.physical_id("Alarm")
    assert stack.update(alarms(Threshold=2)) == "UPDATE_COMPLETE"
    assert stack.physical_id("Alarm") == first
    assert stack.update(alarms(Threshold=2, AlarmName="named")) == "UPDATE_COMPLETE"
    assert stack.physical_id("Alarm") == "named"
    found = aws.client("cloudwatch").describe_alarms()["MetricAlarms"]
    assert [item["AlarmName"] for item in found if item["Namespace"] == "N"] == ["named"]


def test_load_balancer_changes_in_place(aws: EmbeddedAws, stack: Stack) -> None:
    ec2 = aws.client("ec2")
    subnets = [item for item in ec2.describe_subnets()["Subnets"] if item["DefaultForAz"]]
    group = {"GroupDescription": "g", "VpcId": subnets[0]["VpcId"]}

    def balancer(number: int) -> Resources:
        properties = {
            "Type": "application",
            "Scheme": "internal",
            "Subnets": [item["SubnetId"] for item in subnets[number : number + 2]],
            "SecurityGroups": [{"Ref": f"Group{number}"}],
            "LoadBalancerAttributes": [{"Key": "idle_timeout.timeout_seconds", "Value": str(60 + number)}],
        }
        groups = {f"Group{n}": {"Type": "AWS::EC2::SecurityGroup", "Properties": group} for n in (0, 1)}
        return {
            **groups,
            "It": {"Type": "AWS::ElasticLoadBalancingV2::LoadBalancer", "Properties": properties},
        }

    stack.create(balancer(0))
    arn = stack.physical_id("It")
    assert stack.update(balancer(1)) == "UPDATE_COMPLETE"
    assert stack.physical_id("It") == arn
    [found] = aws.client("elbv2").describe_load_balancers(LoadBalancerArns=[arn])["LoadBalancers"]
    assert found["SecurityGroups"] == [stack.physical_id("Group1")]
    assert {zone["SubnetId"] for zone in found["AvailabilityZones"]} == {
        item["SubnetId"] for item in subnets[1:3]
    }


def test_update_without_a_change_is_refused(stack: Stack) -> None:
    stack.create({"A": parameter("x")})
    with pytest.raises(ClientError, match="No updates are to be performed"):
        stack.update({"A": parameter("x")})


def test_retained_resources_stay_and_a_new_stack_gets_other_names(aws: EmbeddedAws, stack: Stack) -> None:
    bucket = {"Type": "AWS::S3::Bucket", "DeletionPolicy": "Retain"}
    stack.create({"Bucket": bucket, "Gone": {"Type": "AWS::S3::Bucket"}})
    kept, gone = stack.physical_id("Bucket"), stack.physical_id("Gone")
    assert stack.delete() == "DELETE_COMPLETE"
    names = {item["Name"] for item in aws.client("s3").list_buckets()["Buckets"]}
    assert kept in names
    assert gone not in names
    assert stack.create({"Bucket": bucket}) == "CREATE_COMPLETE"
    assert stack.physical_id("Bucket") != kept


def test_bucket_with_objects_is_not_deleted(aws: EmbeddedAws, stack: Stack) -> None:
    stack.create({"Bucket": {"Type": "AWS::S3::Bucket"}})
    bucket = stack.physical_id("Bucket")
    aws.client("s3").put_object(Bucket=bucket, Key="x", Body=b"x")
    stack.client.delete_stack(StackName=stack.name)
    assert stack.wait() == "DELETE_FAILED"
    assert "The bucket you tried to delete is not empty" in stack.reasons("DELETE_FAILED")
    aws.client("s3").delete_object(Bucket=bucket, Key="x")
    assert stack.delete() == "DELETE_COMPLETE"


def test_protected_stack_is_not_deleted(stack: Stack) -> None:
    stack.create({"A": parameter("x")})
    protect = stack.client.update_termination_protection
    protect(StackName=stack.name, EnableTerminationProtection=True)
    with pytest.raises(ClientError, match="cannot be deleted while TerminationProtection is enabled"):
        stack.client.delete_stack(StackName=stack.name)
    protect(StackName=stack.name, EnableTerminationProtection=False)
    assert stack.delete() == "DELETE_COMPLETE"


def test_export_that_is_in_use_cannot_go(aws: EmbeddedAws, stack: Stack) -> None:
    exported = {"Value": {"Ref": "A"}, "Export": {"Name": "the-export"}}
    stack.create({"A": parameter("x")}, Outputs={"Out": exported})
    user = Stack(aws, "user-of-the-export")
    user.create(
        {"B": parameter({"Fn::ImportValue": "the-export"})},
        Outputs={"B": {"Value": {"Fn::GetAtt": "B.Value"}}},
    )
    assert user.outputs() == {"B": stack.physical_id("A")}
    stack.client.delete_stack(StackName=stack.name)
    assert stack.wait() == "DELETE_FAILED"
    assert "in use by user-of-the-export" in stack.reasons("DELETE_FAILED")
    missing = Stack(aws, "user-of-no-export")
    missing.create({"B": parameter({"Fn::ImportValue": "no-export"})})
    assert "No export named no-export found" in missing.reasons("CREATE_FAILED")


@pytest.mark.parametrize(
    ("resource", "reason"),
    [
        ({"Type": "AWS::No::Such"}, "does not support the resource type AWS::No::Such"),
        (
            {"Type": "AWS::S3::Bucket", "Properties": {"Analytics": {}}},
            "does not support the property Analytics",
        ),
        ({**parameter("x"), "Properties": {"Type": "String", "Values": "x"}}, "support the property Values"),
        (
            {
                "Type": "AWS::EC2::SecurityGroup",
                "Properties": {"GroupDescription": "d", "VpcId": "vpc-0123", "SecurityGroupEgress": []},
            },
            "vpc-0123.* does not exist",
        ),
        (parameter({"Ref": "Nothing"}), "Unresolved resource dependencies"),
        (parameter({"Fn::GetAtt": ["Self", "Nope"]}), "has no attribute Nope"),
        (parameter("{{resolve:ssm:/not/there}}"), "Could not resolve"),
    ],
)
def test_what_is_not_known_fails(aws: EmbeddedAws, resource: Resources, reason: str) -> None:
    stack = Stack(aws, "unknown-things")
    assert stack.create({"Self": parameter("self"), "Wrong": resource}) == "ROLLBACK_COMPLETE"
    reasons = stack.reasons("CREATE_FAILED")
    stack.delete()
    assert re.search(reason, reasons)


def test_change_set_of_an_unknown_type_is_refused(stack: Stack) -> None:
    with pytest.raises(ClientError, match=r"AWS::S3::Buckets; did you mean AWS::S3::Bucket\?"):
        stack.client.create_change_set(
            StackName=stack.name,
            ChangeSetName="c",
            ChangeSetType="CREATE",
            TemplateBody=json.dumps({"Resources": {"A": {"Type": "AWS::S3::Buckets"}}}),
        )


# --- custom resources

ANSWER = """
import json, os, urllib.request
def handler(event, context):
    wanted = event["ResourceProperties"]["Wanted"]
    print(event["RequestType"], wanted)
    if wanted == "crash": raise ValueError("crashed on purpose")
    if wanted == "silence": return
    if wanted == "hang":
        import time; time.sleep(60)
    body = {"Status": "FAILED" if wanted == "failure" else "SUCCESS", "Reason": "failed on purpose",
            "PhysicalResourceId": "custom-1", "Data": {"Seen": json.dumps(event, sort_keys=True)},
            **{key: event[key] for key in ("StackId", "RequestId", "LogicalResourceId")}}
    request = urllib.request.Request(event["ResponseURL"], data=json.dumps(body).encode(), method="PUT")
    urllib.request.urlopen(request).close()
"""


def custom(wanted: str, *, runtime: str = "python3.13", timeout: int = 10) -> Resources:
    return {
        "Role": role("lambda.amazonaws.com"),
        "Function": {
            "Type": "AWS::Lambda::Function",
            "Properties": {
                "Code": {"ZipFile": ANSWER},
                "Handler": "index.handler",
                "Runtime": runtime,
                "Timeout": timeout,
                "Role": {"Fn::GetAtt": "Role.Arn"},
            },
        },
        "Custom": {
            "Type": "Custom::Thing",
            "Properties": {
                "ServiceToken": {"Fn::GetAtt": "Function.Arn"},
                "Wanted": wanted,
                "Number": 3,
                "Flag": True,
            },
        },
    }


def test_custom_resource_runs_its_function(stack: Stack) -> None:
    outputs = {"Seen": {"Value": {"Fn::GetAtt": "Custom.Seen"}}, "Id": {"Value": {"Ref": "Custom"}}}
    assert stack.create(custom("one"), Outputs=outputs) == "CREATE_COMPLETE"
    event = json.loads(stack.outputs()["Seen"])
    assert event["RequestType"] == "Create"
    assert event["ResourceProperties"]["Number"] == "3"
    assert event["ResourceProperties"]["Flag"] == "true"
    assert stack.outputs()["Id"] == "custom-1"

    assert stack.update(custom("two"), Outputs=outputs) == "UPDATE_COMPLETE"
    event = json.loads(stack.outputs()["Seen"])
    assert (event["RequestType"], event["PhysicalResourceId"]) == ("Update", "custom-1")
    assert event["OldResourceProperties"]["Wanted"] == "one"

    assert stack.update(custom("failure"), Outputs=outputs) == "UPDATE_ROLLBACK_COMPLETE"
    assert "Message returned: failed on purpose" in stack.reasons("UPDATE_FAILED")
    assert stack.delete() == "DELETE_COMPLETE"


@pytest.mark.parametrize(
    ("wanted", "arguments", "reason"),
    [
        ("crash", {}, "ValueError: crashed on purpose"),
        ("silence", {}, "the function ended without an answer"),
        ("hang", {"timeout": 1}, "Task timed out after 1.00 seconds"),
        ("one", {"runtime": "nodejs22.x"}, "cannot run functions of the runtime nodejs22.x"),
    ],
)
def test_custom_resource_without_an_answer_fails(
    aws: EmbeddedAws, wanted: str, arguments: dict[str, Any], reason: str
) -> None:
    stack = Stack(aws, f"custom-{wanted}-{len(arguments)}")
    stack.create(custom(wanted, **arguments))
    assert reason in stack.reasons("CREATE_FAILED")


def test_function_from_the_asset_bucket_with_its_roles_rights(aws: EmbeddedAws, stack: Stack) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(
            "thing/main.py",
            "import boto3, os\n"
            "def run(event, context):\n"
            "    print('said by the function')\n"
            "    boto3.client('s3').put_object(Bucket=os.environ['BUCKET'], Key=event['key'], Body=b'')\n"
            "    return {'key': event['key'], 'left': context.get_remaining_time_in_millis()}\n",
        )
    s3 = aws.client("s3")
    s3.create_bucket(Bucket="assets", CreateBucketConfiguration={"LocationConstraint": aws.region})
    s3.put_object(Bucket="assets", Key="code.zip", Body=archive.getvalue())
    log = {"Effect": "Allow", "Action": "logs:*", "Resource": {"Fn::GetAtt": "Log.Arn"}}
    put = {"Effect": "Allow", "Action": "s3:PutObject", "Resource": "arn:aws:s3:::assets/allowed"}
    stack.create(
        {
            "Log": {"Type": "AWS::Logs::LogGroup"},
            "Role": role("lambda.amazonaws.com", log, put),
            "Function": {
                "Type": "AWS::Lambda::Function",
                "Properties": {
                    "Code": {"S3Bucket": "assets", "S3Key": "code.zip"},
                    "Handler": "thing/main.run",
                    "Runtime": "python3.13",
                    "Timeout": 20,
                    "Role": {"Fn::GetAtt": "Role.Arn"},
                    "Environment": {"Variables": {"BUCKET": "assets"}},
                    "LoggingConfig": {"LogGroup": {"Ref": "Log"}},
                },
            },
        }
    )
    invoke = aws.client("lambda").invoke
    name = stack.physical_id("Function")
    answer = json.loads(invoke(FunctionName=name, Payload=b'{"key": "allowed"}')["Payload"].read())
    assert answer["key"] == "allowed"
    assert 0 < answer["left"] <= 20_000
    refused = invoke(FunctionName=name, Payload=b'{"key": "other"}')
    assert refused["FunctionError"] == "Unhandled"
    assert (
        "is not authorized to perform: s3:PutObject" in json.loads(refused["Payload"].read())["errorMessage"]
    )
    logs = aws.client("logs")
    [stream, _] = logs.describe_log_streams(logGroupName=stack.physical_id("Log"))["logStreams"]
    events = logs.get_log_events(logGroupName=stack.physical_id("Log"), logStreamName=stream["logStreamName"])
    assert "said by the function" in [event["message"] for event in events["events"]]


def test_emptied_bucket_and_closed_security_group(aws: EmbeddedAws, stack: Stack) -> None:
    token = "arn:aws:lambda:::function:not-run-here"
    stack.create(
        {
            "Bucket": {
                "Type": "AWS::S3::Bucket",
                "Properties": {"VersioningConfiguration": {"Status": "Enabled"}},
            },
            "Empty": {
                "Type": "Custom::S3AutoDeleteObjects",
                "Properties": {"ServiceToken": token, "BucketName": {"Ref": "Bucket"}},
            },
            "Vpc": {"Type": "AWS::EC2::VPC", "Properties": {"CidrBlock": "10.1.0.0/16"}},
            "Close": {
                "Type": "Custom::VpcRestrictDefaultSG",
                "Properties": {
                    "ServiceToken": token,
                    "DefaultSecurityGroupId": {"Fn::GetAtt": "Vpc.DefaultSecurityGroup"},
                    "Account": "1",
                },
            },
        },
        Outputs={"Group": {"Value": {"Fn::GetAtt": "Vpc.DefaultSecurityGroup"}}},
    )
    [group] = aws.client("ec2").describe_security_groups(GroupIds=[stack.outputs()["Group"]])[
        "SecurityGroups"
    ]
    assert (group["IpPermissions"], group["IpPermissionsEgress"]) == ([], [])
    for body in (b"1", b"2"):
        aws.client("s3").put_object(Bucket=stack.physical_id("Bucket"), Key="x", Body=body)
    assert stack.delete() == "DELETE_COMPLETE"
