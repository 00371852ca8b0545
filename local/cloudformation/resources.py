"""The resource types that are plain calls of one service: keys, logs, alarms, topics, parameters, scaling."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from local.cloudformation.provider import ApiProvider, Created, Provider, ResourceRequest

Properties = dict[str, Any]
Old = Mapping[str, Any]


class Nothing:
    """A type that has nothing to make, such as the CDK's usage metadata."""

    def create(self, request: ResourceRequest) -> Created:
        """Only the name exists."""
        return Created(request.name())

    def update(self, request: ResourceRequest, physical_id: str, old: Old) -> Created | None:
        """Nothing to change."""
        return Created(physical_id)

    def delete(self, request: ResourceRequest, physical_id: str, *, snapshot: bool) -> None:
        """Nothing to delete."""


def _key_settings(client: Any, key: str, new: Properties, old: Old) -> None:
    if str(new.get("EnableKeyRotation", "false")).lower() == "true":
        client.enable_key_rotation(KeyId=key)
    if old and "KeyPolicy" in new:
        client.put_key_policy(KeyId=key, PolicyName="default", Policy=json.dumps(new["KeyPolicy"]))


def _log_retention(client: Any, group: str, new: Properties, old: Old) -> None:
    if "RetentionInDays" in new:
        client.put_retention_policy(logGroupName=group, retentionInDays=int(new["RetentionInDays"]))
    elif "RetentionInDays" in old:
        client.delete_retention_policy(logGroupName=group)


def _log_group_arn(client: Any, group: str) -> dict[str, Any]:
    groups = client.describe_log_groups(logGroupNamePrefix=group)["logGroups"]
    arn = next(item["arn"] for item in groups if item["logGroupName"] == group)
    return {"Arn": arn if arn.endswith(":*") else f"{arn}:*"}


def _alarm_arn(client: Any, name: str) -> dict[str, Any]:
    found = client.describe_alarms(AlarmNames=[name], AlarmTypes=["MetricAlarm", "CompositeAlarm"])
    return {"Arn": [*found["MetricAlarms"], *found["CompositeAlarms"]][0]["AlarmArn"]}


def _topic_attributes(client: Any, topic: str, new: Properties, old: Old) -> None:
    for subscription in new.get("Subscription", []) if not old else []:
        client.subscribe(TopicArn=topic, **subscription)
    for name in ("DisplayName", "KmsMasterKeyId"):
        if new.get(name) != old.get(name):
            client.set_topic_attributes(TopicArn=topic, AttributeName=name, AttributeValue=new.get(name, ""))


def _topic_policy(properties: Properties, request: ResourceRequest) -> Properties:
    [topic] = properties["Topics"]
    document = json.dumps(properties["PolicyDocument"])
    return {"TopicArn": topic, "AttributeName": "Policy", "AttributeValue": document}


def _scaling_policy(properties: Properties, request: ResourceRequest) -> Properties:
    if target := properties.pop("ScalingTargetId", None):
        resource, dimension, namespace = target.split("|")
        properties.update(ResourceId=resource, ScalableDimension=dimension, ServiceNamespace=namespace)
    return properties


def _scaling_policy_key(name: str, properties: Properties) -> Properties:
    resource, dimension, namespace = properties["ScalingTargetId"].split("|")
    return {
        "PolicyName": name,
        "ResourceId": resource,
        "ScalableDimension": dimension,
        "ServiceNamespace": namespace,
    }


def _rule_targets(client: Any, rule: str, new: Properties, old: Old) -> None:
    removed = {item["Id"] for item in old.get("Targets", [])} - {
        item["Id"] for item in new.get("Targets", [])
    }
    if removed:
        client.remove_targets(Rule=rule, Ids=sorted(removed))
    if new.get("Targets"):
        client.put_targets(Rule=rule, Targets=new["Targets"])


def _clear_rule(client: Any, rule: str, properties: Properties) -> None:
    if ids := [target["Id"] for target in properties.get("Targets", [])]:
        client.remove_targets(Rule=rule, Ids=ids)


def _repository(client: Any, name: str, new: Properties, old: Old) -> None:
    if "LifecyclePolicy" in new:
        text = new["LifecyclePolicy"]["LifecyclePolicyText"]
        client.put_lifecycle_policy(repositoryName=name, lifecyclePolicyText=text)
    if "RepositoryPolicyText" in new:
        client.set_repository_policy(repositoryName=name, policyText=json.dumps(new["RepositoryPolicyText"]))


_ALARM: dict[str, Any] = {
    "service": "cloudwatch",
    "id": "in.AlarmName",
    "key": "AlarmName",
    "name": "AlarmName",
    "name_limit": 255,
    "delete_call": "delete_alarms",
    "deleted_by": lambda physical_id, _: {"AlarmNames": [physical_id]},
    "fixed": frozenset({"AlarmName"}),
    "read": _alarm_arn,
}
_REPOSITORY_BY_AFTER = frozenset({"LifecyclePolicy", "RepositoryPolicyText", "EmptyOnDelete"})

TYPES: dict[str, Provider] = {
    "AWS::CDK::Metadata": Nothing(),
    "AWS::CloudFormation::WaitConditionHandle": Nothing(),
    "AWS::KMS::Key": ApiProvider(
        service="kms",
        create_call="create_key",
        id="out.KeyMetadata.KeyId",
        key="KeyId",
        delete_call="schedule_key_deletion",
        update_call="update_key_description",
        renamed={"KeyPolicy": "Policy"},
        attributes={"Arn": "out.KeyMetadata.Arn", "KeyId": "out.KeyMetadata.KeyId"},
        after=_key_settings,
        by_after=frozenset({"EnableKeyRotation", "PendingWindowInDays", "RotationPeriodInDays", "KeyPolicy"}),
    ),
    "AWS::KMS::Alias": ApiProvider(
        service="kms",
        create_call="create_alias",
        id="in.AliasName",
        key="AliasName",
        update_call="update_alias",
        delete_call="delete_alias",
        fixed=frozenset({"AliasName"}),
    ),
    "AWS::Logs::LogGroup": ApiProvider(
        service="logs",
        create_call="create_log_group",
        id="in.logGroupName",
        key="logGroupName",
        delete_call="delete_log_group",
        name="LogGroupName",
        name_limit=255,
        read=_log_group_arn,
        after=_log_retention,
        by_after=frozenset({"KmsKeyId", "RetentionInDays"}),
    ),
    "AWS::Logs::MetricFilter": ApiProvider(
        service="logs",
        create_call="put_metric_filter",
        id="in.filterName",
        key="filterName",
        update_call="put_metric_filter",
        delete_call="delete_metric_filter",
        name="FilterName",
        fixed=frozenset({"FilterName", "LogGroupName"}),
        deleted_by=lambda name, properties: {
            "filterName": name,
            "logGroupName": properties["LogGroupName"],
        },
    ),
    "AWS::CloudWatch::Alarm": ApiProvider(
        create_call="put_metric_alarm", update_call="put_metric_alarm", **_ALARM
    ),
    "AWS::CloudWatch::CompositeAlarm": ApiProvider(
        create_call="put_composite_alarm", update_call="put_composite_alarm", **_ALARM
    ),
    "AWS::CloudWatch::Dashboard": ApiProvider(
        service="cloudwatch",
        create_call="put_dashboard",
        id="in.DashboardName",
        key="DashboardName",
        update_call="put_dashboard",
        delete_call="delete_dashboards",
        name="DashboardName",
        fixed=frozenset({"DashboardName"}),
        deleted_by=lambda name, _: {"DashboardNames": [name]},
    ),
    "AWS::SNS::Topic": ApiProvider(
        service="sns",
        create_call="create_topic",
        id="out.TopicArn",
        key="TopicArn",
        delete_call="delete_topic",
        name="TopicName",
        attributes={"TopicArn": "out.TopicArn", "TopicName": "in.Name"},
        renamed={"TopicName": "Name"},
        after=_topic_attributes,
        by_after=frozenset({"DisplayName", "KmsMasterKeyId", "Subscription"}),
    ),
    "AWS::SNS::TopicPolicy": ApiProvider(
        service="sns",
        create_call="set_topic_attributes",
        id="in.TopicArn",
        key="TopicArn",
        before=_topic_policy,
    ),
    "AWS::SNS::Subscription": ApiProvider(
        service="sns",
        create_call="subscribe",
        id="out.SubscriptionArn",
        key="SubscriptionArn",
        delete_call="unsubscribe",
        attributes={"Arn": "out.SubscriptionArn"},
    ),
    "AWS::SSM::Parameter": ApiProvider(
        service="ssm",
        create_call="put_parameter",
        id="in.Name",
        key="Name",
        update_call="put_parameter",
        delete_call="delete_parameter",
        name="Name",
        fixed=frozenset({"Name"}),
        attributes={"Type": "in.Type", "Value": "in.Value"},
        before=lambda properties, _: {**properties, "Overwrite": True},
    ),
    "AWS::ApplicationAutoScaling::ScalableTarget": ApiProvider(
        service="application-autoscaling",
        create_call="register_scalable_target",
        id="join('|', [in.ResourceId, in.ScalableDimension, in.ServiceNamespace])",
        delete_call="deregister_scalable_target",
        update_call="register_scalable_target",
        fixed=frozenset({"ResourceId", "ScalableDimension", "ServiceNamespace"}),
        deleted_by=lambda physical_id, _: dict(
            zip(("ResourceId", "ScalableDimension", "ServiceNamespace"), physical_id.split("|"), strict=True)
        ),
    ),
    "AWS::ApplicationAutoScaling::ScalingPolicy": ApiProvider(
        service="application-autoscaling",
        create_call="put_scaling_policy",
        id="in.PolicyName",
        key="PolicyName",
        update_call="put_scaling_policy",
        delete_call="delete_scaling_policy",
        name="PolicyName",
        fixed=frozenset({"PolicyName", "ScalingTargetId"}),
        attributes={"Arn": "out.PolicyARN"},
        before=_scaling_policy,
        deleted_by=_scaling_policy_key,
    ),
    "AWS::Events::Rule": ApiProvider(
        service="events",
        create_call="put_rule",
        id="in.Name",
        key="Name",
        update_call="put_rule",
        delete_call="delete_rule",
        name="Name",
        fixed=frozenset({"Name", "EventBusName"}),
        attributes={"Arn": "out.RuleArn"},
        after=_rule_targets,
        by_after=frozenset({"Targets"}),
        cleared=_clear_rule,
    ),
    "AWS::ECR::Repository": ApiProvider(
        service="ecr",
        create_call="create_repository",
        id="out.repository.repositoryName",
        key="repositoryName",
        delete_call="delete_repository",
        name="RepositoryName",
        attributes={"Arn": "out.repository.repositoryArn", "RepositoryUri": "out.repository.repositoryUri"},
        after=_repository,
        by_after=_REPOSITORY_BY_AFTER,
        deleted_by=lambda name, _: {"repositoryName": name, "force": True},
    ),
}
