"""What the stacks promise: who may touch what, what is kept, what the server is told."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cfnlint
import pytest
from aws_cdk import cx_api
from synth import Synthesis, changed, flattened, of, synthesise

from stacks.access import POLICIES, ROLES
from stacks.environment_files import load, names
from stacks.network import SERVER_PORT
from stacks.tracking_server import mlflow_version

OUTPUTS = {
    "TrackingUri",
    "TrackingServerArn",
    "ArtifactBucketName",
    "ReaderRoleArn",
    "DataScientistRoleArn",
    "ModelApproverRoleArn",
    "AdminRoleArn",
    "DatabaseEndpoint",
    "ImageUri",
    "MlflowVersion",
}
DATABASE_VARIABLES = {"DATABASE_HOST", "DATABASE_PORT", "DATABASE_NAME", "DATABASE_SECRET_ARN"}
SERVER_VARIABLES = DATABASE_VARIABLES | {
    "SERVER_SECRET_ARN",
    "MLFLOW_ARTIFACTS_DESTINATION",
    "ARTIFACT_ACCESS",
    "MLFLOW_SERVER_ALLOWED_HOSTS",
    "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS",
    "MLFLOW_WORKERS",
    "SERVER_THREADS",
    "DATABASE_POOL_SIZE",
    "SERVER_DRAIN_SECONDS",
    "ACCESS_ENGINE",
    "TRACKING_SERVER_ARN",
    "ACCESS_STS_REGIONS",
    "ACCESS_TRUSTED_PROXIES",
    "ACCESS_AUDIT_LOG_GROUP",
    "ACCESS_EXPERIMENT_PERMISSIONS",
}

every_environment = pytest.mark.parametrize("name", names())


def container(synthesis: Synthesis, command: str) -> dict[str, Any]:
    """The container that runs `command` of the image, its environment as a mapping."""
    for resource in synthesis.resources("AWS::ECS::TaskDefinition").values():
        (definition,) = resource["Properties"]["ContainerDefinitions"]
        if definition["Command"] == [command]:
            variables = {each["Name"]: flattened(each["Value"]) for each in definition["Environment"]}
            return {**definition, "Environment": variables}
    raise AssertionError(f"no task runs {command}")


def statements(synthesis: Synthesis, role: str) -> Iterator[tuple[str, str]]:
    """Action and resource of everything that the role with this logical id prefix may do."""
    (found,) = [
        resource for key, resource in synthesis.resources("AWS::IAM::Role").items() if f"/{role}" in key
    ]
    assert "Policies" not in found["Properties"]
    for reference in found["Properties"]["ManagedPolicyArns"]:
        policy = flattened(reference).strip("<>").rpartition(":")[2]
        (document,) = [
            resource["Properties"]["PolicyDocument"]
            for key, resource in synthesis.resources("AWS::IAM::ManagedPolicy").items()
            if key.endswith(f"/{policy}")
        ]
        for statement in document["Statement"]:
            assert statement["Effect"] == "Allow"
            actions, resources = statement["Action"], statement["Resource"]
            for action in actions if isinstance(actions, list) else [actions]:
                for resource in resources if isinstance(resources, list) else [resources]:
                    yield action, flattened(resource)


@every_environment
def test_outputs_are_also_parameters(name: str) -> None:
    synthesis = synthesise(name)
    outputs = {
        output: flattened(content["Value"])
        for template in synthesis.templates.values()
        for output, content in template.get("Outputs", {}).items()
        if not output.startswith("ExportsOutput")
    }
    parameters = {
        resource["Properties"]["Name"]: flattened(resource["Properties"]["Value"])
        for resource in synthesis.resources("AWS::SSM::Parameter").values()
    }
    assert set(outputs) == OUTPUTS
    assert parameters == {
        f"/mlflow/{synthesis.environment.name}/{key}": value for key, value in outputs.items()
    }
    assert outputs["MlflowVersion"] == mlflow_version()
    assert outputs["TrackingServerArn"].endswith(f":mlflow-tracking-server/{synthesis.environment.name}")


@every_environment
def test_the_server_and_the_migration_are_told_what_they_need_and_no_secret(name: str) -> None:
    synthesis = synthesise(name)
    serve, migrate = container(synthesis, "serve"), container(synthesis, "migrate")
    optional = {"ACCESS_ROLES"} if synthesis.environment.engine == "roles" else set()
    assert set(serve["Environment"]) == SERVER_VARIABLES | optional
    assert set(migrate["Environment"]) == DATABASE_VARIABLES
    assert migrate["Environment"].items() <= serve["Environment"].items()
    for definition in (serve, migrate):
        assert "Secrets" not in definition
        assert "resolve:" not in json.dumps(definition)
        assert definition["ReadonlyRootFilesystem"] is True
        assert definition["MountPoints"] == [
            {"ContainerPath": "/tmp", "ReadOnly": False, "SourceVolume": "tmp"}
        ]
        assert definition["LinuxParameters"] == {
            "Capabilities": {"Drop": ["ALL"]},
            "InitProcessEnabled": True,
        }
        assert definition["StopTimeout"] == 120
    sizing = synthesis.environment.sizing
    assert serve["Environment"]["MLFLOW_WORKERS"] == str(sizing.workers)
    assert serve["Environment"]["DATABASE_POOL_SIZE"] == str(sizing.pool_size)
    assert serve["PortMappings"] == [{"ContainerPort": SERVER_PORT, "Protocol": "tcp"}]


def test_who_may_touch_what() -> None:
    synthesis = synthesise("prod")
    migration = set(statements(synthesis, "MigrationRole"))
    server = set(statements(synthesis, "ServerRole"))
    assert {action for action, _ in migration} == {"secretsmanager:GetSecretValue", "kms:Decrypt"}
    assert migration < server
    assert {action for action, _ in server - migration} == {
        "secretsmanager:GetSecretValue",
        "s3:ListBucket",
        "s3:GetObject",
        "s3:PutObject",
        "s3:DeleteObject",
        "s3:AbortMultipartUpload",
        "s3:ListMultipartUploadParts",
        "kms:GenerateDataKey",
        "logs:CreateLogStream",
        "logs:PutLogEvents",
        "iam:GetRole",
        "iam:GetUser",
        "iam:SimulatePrincipalPolicy",
    }
    assert all(resource.endswith("/artifacts/*") for action, resource in server if "Object" in action)
    assert len({resource for action, resource in server if action.startswith("secretsmanager:")}) == 2
    assert not [resource for _, resource in server if resource == "*"]


def test_clients_touch_the_bucket_only_when_access_is_direct() -> None:
    proxied, direct = synthesise("prod"), synthesise("examples/bring-your-own")
    for role in ROLES.values():
        assert {action.split(":")[0] for action, _ in statements(proxied, f"{role}")} == {"sagemaker-mlflow"}
    assert "s3:GetObject" in dict(statements(direct, "Reader"))
    assert "s3:PutObject" not in dict(statements(direct, "Reader"))
    assert "s3:PutObject" in dict(statements(direct, "DataScientist"))


@every_environment
def test_no_role_has_rights_of_its_own_making(name: str) -> None:
    """Inline policies come after the role; everything is in managed policies, which come before."""
    synthesis = synthesise(name)
    assert synthesis.resources("AWS::IAM::Policy") == {}


def rules(synthesis: Synthesis, direction: str) -> list[dict[str, Any]]:
    inline = [
        rule
        for resource in synthesis.resources("AWS::EC2::SecurityGroup").values()
        for rule in resource["Properties"].get(f"SecurityGroup{direction}", [])
    ]
    apart = [
        each["Properties"] for each in synthesis.resources(f"AWS::EC2::SecurityGroup{direction}").values()
    ]
    return inline + apart


@every_environment
def test_connections_are_let_in_by_reference(name: str) -> None:
    synthesis = synthesise(name)
    blocks = [flattened(rule["CidrIp"]) for rule in rules(synthesis, "Ingress") if "CidrIp" in rule]
    if synthesis.environment.front_kind == "domain":
        assert set(blocks) == {"0.0.0.0/0"}
    elif synthesis.environment.front_kind == "cloudfront":
        assert {block for block in blocks if not block.endswith("Vpc.CidrBlock>")} == set()
    else:
        assert blocks == list(synthesis.environment.front.client_cidrs)
    assert not [rule for rule in rules(synthesis, "Ingress") if "CidrIpv6" in rule]
    blocks_out = [rule for rule in rules(synthesis, "Egress") if "CidrIp" in rule]
    # the second is what CDK puts where nothing may go out
    assert {(rule["CidrIp"], rule["ToPort"]) for rule in blocks_out} <= {
        ("0.0.0.0/0", 443),
        ("255.255.255.255/32", 86),
    }


@every_environment
def test_no_security_group_is_left_to_the_default_of_ec2(name: str) -> None:
    """A group without rules of its own may send anywhere."""
    for resource in synthesise(name).resources("AWS::EC2::SecurityGroup").values():
        assert resource["Properties"]["SecurityGroupEgress"]


def test_alarms_may_publish() -> None:
    document = synthesise("prod").the("AWS::SNS::TopicPolicy")["PolicyDocument"]
    effects = {(each["Effect"], json.dumps(each["Principal"])) for each in document["Statement"]}
    assert effects == {("Deny", '"*"'), ("Allow", '{"Service": "cloudwatch.amazonaws.com"}')}


def test_a_private_network_has_no_way_out_but_endpoints() -> None:
    synthesis = synthesise("examples/private-only")
    for type in ("InternetGateway", "NatGateway", "EIP", "EgressOnlyInternetGateway"):
        assert synthesis.resources(f"AWS::EC2::{type}") == {}
    services = [
        flattened(resource["Properties"]["ServiceName"])
        for resource in synthesis.resources("AWS::EC2::VPCEndpoint").values()
    ]
    ends = sorted(
        re.sub(r"^com\.amazonaws\.(us-east-1|<AWS::Region>)\.", "", service) for service in services
    )
    assert ends == ["ecr.api", "ecr.dkr", "logs", "s3", "secretsmanager", "sts"]


def test_what_is_brought_is_not_made() -> None:
    synthesis = synthesise("examples/bring-your-own")
    for type in (
        "EC2::VPC",
        "EC2::Subnet",
        "RDS::DBInstance",
        "RDS::DBSubnetGroup",
        "KMS::Key",
        "EC2::FlowLog",
    ):
        assert synthesis.resources(f"AWS::{type}") == {}
    assert len(synthesis.resources("AWS::S3::Bucket")) == 1
    variables = container(synthesis, "serve")["Environment"]
    assert variables["DATABASE_HOST"] == synthesis.environment.database.host
    assert variables["DATABASE_SECRET_ARN"] == synthesis.environment.database.secret_arn
    assert variables["MLFLOW_ARTIFACTS_DESTINATION"] == "s3://example-models/mlflow/artifacts"
    assert variables["ARTIFACT_ACCESS"] == "direct"
    listener = synthesis.the("AWS::ElasticLoadBalancingV2::Listener")
    assert (listener["Port"], listener["Protocol"]) == (443, "HTTPS")
    opened = [rule for rule in rules(synthesis, "Ingress") if rule.get("GroupId") == "sg-0123456789abcdef0"]
    assert [(rule["FromPort"], rule["ToPort"]) for rule in opened] == [(3306, 3306)]


@every_environment
def test_the_database_is_what_mlflow_needs(name: str) -> None:
    synthesis = synthesise(name)
    if synthesis.environment.database.imported:
        return
    instance = synthesis.the("AWS::RDS::DBInstance")
    group = synthesis.the("AWS::RDS::DBParameterGroup")
    assert group["Family"] == "mysql8.4"
    assert (
        group["Parameters"].items()
        >= {
            "log_bin_trust_function_creators": "1",
            "require_secure_transport": "1",
            "character_set_server": "utf8mb4",
            "max_connections": str(synthesis.environment.max_connections),
        }.items()
    )
    assert instance["EngineVersion"] == "8.4"
    assert instance["StorageEncrypted"] is True
    assert instance["ManageMasterUserPassword"] is True
    assert "MasterUserPassword" not in instance
    assert instance["PubliclyAccessible"] is False
    assert instance["BackupRetentionPeriod"] >= 1
    assert instance["MaxAllocatedStorage"] > int(instance["AllocatedStorage"])


@every_environment
def test_data_outlives_its_stack_exactly_when_protected(name: str) -> None:
    synthesis = synthesise(name)
    protect = synthesis.environment.protect
    kept = {
        "AWS::S3::Bucket": "Retain",
        "AWS::KMS::Key": "Retain",
        "AWS::SecretsManager::Secret": "Retain",
        "AWS::Logs::LogGroup": "Retain",
        "AWS::RDS::DBInstance": "Snapshot",
    }
    for type, policy in kept.items():
        for resource in synthesis.resources(type).values():
            expected = policy if protect else "Delete"
            assert (resource["DeletionPolicy"], resource["UpdateReplacePolicy"]) == (expected, expected)
    for resource in synthesis.resources("AWS::RDS::DBInstance").values():
        assert resource["Properties"]["DeletionProtection"] is protect
    assert bool(synthesis.resources("Custom::S3AutoDeleteObjects")) is not protect
    (storage,) = [stack for stack in synthesis.assembly.stacks if stack.stack_name.endswith("-storage")]
    assert bool(storage.termination_protection) is protect


def test_buckets_are_private_versioned_and_take_tls_only() -> None:
    synthesis = synthesise("prod")
    for resource in synthesis.resources("AWS::S3::Bucket").values():
        properties = resource["Properties"]
        assert set(properties["PublicAccessBlockConfiguration"].values()) == {True}
        assert properties["VersioningConfiguration"] == {"Status": "Enabled"}
    for resource in synthesis.resources("AWS::S3::BucketPolicy").values():
        refusal = resource["Properties"]["PolicyDocument"]["Statement"][0]
        assert (refusal["Effect"], refusal["Principal"]) == ("Deny", {"AWS": "*"})
        assert refusal["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    artifacts = next(
        resource["Properties"]
        for key, resource in synthesis.resources("AWS::S3::Bucket").items()
        if "/Artifacts" in key
    )
    (rule,) = artifacts["LifecycleConfiguration"]["Rules"]
    assert rule["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 7}
    assert rule["NoncurrentVersionExpiration"] == {"NoncurrentDays": 30}


def test_a_larger_size_replaces_neither_database_nor_bucket() -> None:
    small, medium = synthesise("dev"), of(changed(load("dev"), size="medium"), directory="dev-medium")
    before, after = small.templates["storage"]["Resources"], medium.templates["storage"]["Resources"]
    assert set(before) <= set(after)
    differences = {
        (before[id]["Type"], key)
        for id in before
        for key in before[id]["Properties"].keys() | after[id]["Properties"].keys()
        if before[id]["Properties"].get(key) != after[id]["Properties"].get(key)
    }
    # None of these replaces a resource.
    assert differences == {
        ("AWS::RDS::DBInstance", "DBInstanceClass"),
        ("AWS::RDS::DBInstance", "EnablePerformanceInsights"),
        ("AWS::RDS::DBInstance", "PerformanceInsightsKMSKeyId"),
        ("AWS::RDS::DBInstance", "PerformanceInsightsRetentionPeriod"),
        ("AWS::RDS::DBParameterGroup", "Parameters"),
    }


@every_environment
def test_the_service_waits_for_the_migration_and_is_rolled_back(name: str) -> None:
    synthesis = synthesise(name)
    resources = synthesis.templates["tracking-server"]["Resources"]
    hours = [id for id, resource in resources.items() if resource["Type"] == "Custom::SchemaMigration"]
    assert len(hours) == synthesis.environment.tracking_server.migration_timeout_hours
    (service,) = synthesis.resources("AWS::ECS::Service").values()
    assert set(hours) <= set(service["DependsOn"])
    assert service["Properties"]["DeploymentConfiguration"]["DeploymentCircuitBreaker"] == {
        "Enable": True,
        "Rollback": True,
    }
    assert "DesiredCount" not in service["Properties"]
    assert (
        service["Properties"]["NetworkConfiguration"]["AwsvpcConfiguration"]["AssignPublicIp"] == "DISABLED"
    )
    lasts = [resources[id]["Properties"].get("Last") for id in hours]
    assert lasts == [None] * (len(hours) - 1) + ["true"]
    assert [resources[id]["Properties"]["ServiceTimeout"] for id in hours] == ["3600"] * len(hours)


def test_the_permissions_boundary_is_on_every_role() -> None:
    synthesis = synthesise("examples/permissions-boundary")
    boundary = synthesis.environment.permissions_boundary_arn
    roles = synthesis.resources("AWS::IAM::Role")
    assert len(roles) > 10
    assert {resource["Properties"].get("PermissionsBoundary") for resource in roles.values()} == {boundary}


def test_policies_name_actions_that_exist_and_each_role_has_more_than_the_one_before() -> None:
    data = Path(cfnlint.__file__).parent / "data" / "AdditionalSpecs" / "Policies.json"
    known = set(json.loads(data.read_text(encoding="utf-8"))["sagemaker-mlflow"]["Actions"])
    allowed = {}
    for file in ROLES:
        document = json.loads((POLICIES / f"{file}.json").read_text(encoding="utf-8"))
        actions = [action for each in document["Statement"] for action in _list(each["Action"])]
        assert {each["Effect"] for each in document["Statement"]} == {"Allow"}
        assert {each["Resource"] for each in document["Statement"]} == {"*", "${TrackingServerArn}"}
        assert [each["Action"] for each in document["Statement"] if each["Resource"] == "*"] == [
            ["sagemaker-mlflow:AccessUI"]
        ]
        names = {action.removeprefix("sagemaker-mlflow:") for action in actions}
        allowed[file] = {name.lower() for name in known} if "*" in names else {name.lower() for name in names}
        assert allowed[file] <= {name.lower() for name in known}
    assert allowed["reader"] < allowed["data-scientist"] < allowed["admin"]
    assert allowed["reader"] < allowed["model-approver"] < allowed["admin"]
    assert "setregisteredmodelalias" not in allowed["data-scientist"]
    assert "createrun" not in allowed["model-approver"]
    assert not [name for name in allowed["reader"] if not re.match("access|get|list|search", name)]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


#: Service principals, which are spelled alike in all partitions.
PRINCIPALS = {
    "cloudwatch",
    "delivery.logs",
    "ecs-tasks",
    "lambda",
    "logging.s3",
    "monitoring.rds",
    "vpc-flow-logs",
}


@pytest.mark.parametrize("name", ["examples/china", "examples/govcloud"])
def test_other_partitions_hold_no_name_of_the_first(name: str) -> None:
    for stack, template in synthesise(name).templates.items():
        text = json.dumps(template)
        assert "arn:aws:" not in text, stack
        literals = set(re.findall(r"[\w.*-]*amazonaws\.com[\w.]*", text))
        assert literals <= {f"{principal}.amazonaws.com" for principal in PRINCIPALS}, stack


@every_environment
def test_a_region_whose_databases_the_image_does_not_trust_is_warned_of(name: str) -> None:
    synthesis = synthesise(name)
    warnings = [
        message.entry.data
        for stack in synthesis.assembly.stacks
        for message in stack.messages
        if message.level == cx_api.SynthesisMessageLevel.WARNING
    ]
    covered = synthesis.environment.region.split("-")[:2] not in (["cn", "north"], ["us", "gov"])
    assert len(warnings) == (0 if covered else 1)
    assert all("refresh_trust_bundle.py" in str(warning) for warning in warnings)


@every_environment
def test_every_alarm_says_what_to_do_and_tells_somebody(name: str) -> None:
    synthesis = synthesise(name)
    alarms = synthesis.resources("AWS::CloudWatch::Alarm").values()
    assert len(alarms) == (7 if synthesis.environment.database.imported else 11)
    for alarm in alarms:
        assert re.search(r"[:;.] |Read|Look|raise|choose", alarm["Properties"]["AlarmDescription"])
        assert len(alarm["Properties"]["AlarmActions"]) == len(alarm["Properties"]["OKActions"]) == 1


def test_tags_are_on_every_stack_and_so_on_everything_in_it() -> None:
    synthesis = synthesise("prod")
    assert [stack.tags for stack in synthesis.assembly.stacks] == [{"environment": "prod"}] * 5
    (service,) = synthesis.resources("AWS::ECS::Service").values()
    assert service["Properties"]["PropagateTags"] == "SERVICE"
