"""The resource types behind which something runs here: tasks, load balancers, functions."""

from __future__ import annotations

import io
import time
import zipfile
from collections.abc import Mapping
from typing import Any

from local.cloudformation.provider import (
    ApiProvider,
    Created,
    Provider,
    ResourceFailure,
    ResourceRequest,
    call,
)

Properties = dict[str, Any]
Old = Mapping[str, Any]
STEADY_STATE_SECONDS = 1800


class Service:
    """An ECS service: creation and update end when its deployment does, as on AWS."""

    _api = ApiProvider(
        service="ecs",
        create_call="create_service",
        id="out.service.serviceArn",
        key="service",
        update_call="update_service",
        name="ServiceName",
        attributes={"Name": "out.service.serviceName", "ServiceArn": "out.service.serviceArn"},
        fixed=frozenset({"Cluster"}),
    )

    def create(self, request: ResourceRequest) -> Created:
        """Create the service and wait for its steady state."""
        created = self._api.create(request)
        try:
            self._wait(request, created.physical_id)
        except ResourceFailure:
            self.delete(request, created.physical_id, snapshot=False)
            raise
        return created

    def update(self, request: ResourceRequest, physical_id: str, old: Old) -> Created | None:
        """Update the service and wait for its steady state."""
        created = self._api.update(request, physical_id, old)
        if created is not None:
            self._wait(request, physical_id)
        return created

    def delete(self, request: ResourceRequest, physical_id: str, *, snapshot: bool) -> None:
        """Stop the tasks, drained, and delete the service."""
        cluster = request.properties.get("Cluster", "default")
        ecs = request.environment.client("ecs")
        call(ecs, "delete_service", cluster=cluster, service=physical_id, force=True)
        self._until(request, physical_id, lambda service: service["status"] == "INACTIVE")

    def _wait(self, request: ResourceRequest, service: str) -> None:
        def settled(found: dict[str, Any]) -> bool:
            states = [deployment["rolloutState"] for deployment in found["deployments"]]
            return "FAILED" in states or (states == ["COMPLETED"])

        found = self._until(request, service, settled)
        failed = [item for item in found["deployments"] if item["rolloutState"] == "FAILED"]
        if failed:
            raise ResourceFailure(failed[0]["rolloutStateReason"])

    def _until(self, request: ResourceRequest, service: str, reached: Any) -> dict[str, Any]:
        client, cluster = request.environment.client("ecs"), request.properties.get("Cluster", "default")
        deadline = time.monotonic() + STEADY_STATE_SECONDS
        while time.monotonic() < deadline:
            [found] = call(client, "describe_services", cluster=cluster, services=[service])["services"]
            if reached(found):
                return dict(found)
            request.pause(0.2)
        raise ResourceFailure(f"the service {service} did not reach a steady state in time")


def _attributes(method: str, parameter: str, key: str) -> Any:
    def after(client: Any, arn: str, new: Properties, old: Old) -> None:
        if attributes := new.get(key):
            getattr(client, method)(**{parameter: arn}, Attributes=attributes)

    return after


def _load_balancer(client: Any, arn: str, new: Properties, old: Old) -> None:
    if old and old.get("SecurityGroups") != new.get("SecurityGroups"):
        client.set_security_groups(LoadBalancerArn=arn, SecurityGroups=new["SecurityGroups"])
    if old and old.get("Subnets") != new.get("Subnets"):
        client.set_subnets(LoadBalancerArn=arn, Subnets=new["Subnets"])
    if attributes := new.get("LoadBalancerAttributes"):
        client.modify_load_balancer_attributes(LoadBalancerArn=arn, Attributes=attributes)


def _function(properties: Properties, request: ResourceRequest) -> Properties:
    code = properties.get("Code", {})
    if "ZipFile" in code:
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as file:
            name = "index.py" if properties["Runtime"].startswith("python") else "index.js"
            file.writestr(name, code["ZipFile"])
        properties["Code"] = {"ZipFile": archive.getvalue()}
    return properties


def _function_code(client: Any, name: str, new: Properties, old: Old) -> None:
    if old and old["Code"] != new["Code"]:
        client.update_function_code(FunctionName=name, **new["Code"])


TYPES: dict[str, Provider] = {
    "AWS::ECS::Cluster": ApiProvider(
        service="ecs",
        create_call="create_cluster",
        id="out.cluster.clusterName",
        key="cluster",
        update_call="update_cluster",
        delete_call="delete_cluster",
        name="ClusterName",
        renamed={"ClusterSettings": "settings"},
        attributes={"Arn": "out.cluster.clusterArn"},
    ),
    "AWS::ECS::ClusterCapacityProviderAssociations": ApiProvider(
        service="ecs",
        create_call="put_cluster_capacity_providers",
        id="in.cluster",
        key="cluster",
        update_call="put_cluster_capacity_providers",
    ),
    "AWS::ECS::TaskDefinition": ApiProvider(
        service="ecs",
        create_call="register_task_definition",
        id="out.taskDefinition.taskDefinitionArn",
        key="taskDefinition",
        delete_call="deregister_task_definition",
        name="Family",
        attributes={"TaskDefinitionArn": "out.taskDefinition.taskDefinitionArn"},
    ),
    "AWS::ECS::Service": Service(),
    "AWS::ElasticLoadBalancingV2::LoadBalancer": ApiProvider(
        service="elbv2",
        create_call="create_load_balancer",
        id="out.LoadBalancers[0].LoadBalancerArn",
        key="LoadBalancerArn",
        delete_call="delete_load_balancer",
        name="Name",
        name_limit=32,
        attributes={
            "LoadBalancerArn": "out.LoadBalancers[0].LoadBalancerArn",
            "DNSName": "out.LoadBalancers[0].DNSName",
            "CanonicalHostedZoneID": "out.LoadBalancers[0].CanonicalHostedZoneId",
            "LoadBalancerName": "out.LoadBalancers[0].LoadBalancerName",
        },
        read=lambda _, arn: {"LoadBalancerFullName": arn.split(":loadbalancer/")[1]},
        after=_load_balancer,
        by_after=frozenset({"LoadBalancerAttributes", "SecurityGroups", "Subnets"}),
    ),
    "AWS::ElasticLoadBalancingV2::TargetGroup": ApiProvider(
        service="elbv2",
        create_call="create_target_group",
        id="out.TargetGroups[0].TargetGroupArn",
        key="TargetGroupArn",
        update_call="modify_target_group",
        delete_call="delete_target_group",
        name="Name",
        name_limit=32,
        attributes={
            "TargetGroupArn": "out.TargetGroups[0].TargetGroupArn",
            "TargetGroupName": "out.TargetGroups[0].TargetGroupName",
        },
        read=lambda _, arn: {"TargetGroupFullName": arn.split(":")[-1]},
        after=_attributes("modify_target_group_attributes", "TargetGroupArn", "TargetGroupAttributes"),
        by_after=frozenset({"TargetGroupAttributes"}),
    ),
    "AWS::ElasticLoadBalancingV2::Listener": ApiProvider(
        service="elbv2",
        create_call="create_listener",
        id="out.Listeners[0].ListenerArn",
        key="ListenerArn",
        update_call="modify_listener",
        delete_call="delete_listener",
        fixed=frozenset({"LoadBalancerArn"}),
        attributes={"ListenerArn": "out.Listeners[0].ListenerArn"},
        after=_attributes("modify_listener_attributes", "ListenerArn", "ListenerAttributes"),
        by_after=frozenset({"ListenerAttributes"}),
    ),
    "AWS::ElasticLoadBalancingV2::ListenerRule": ApiProvider(
        service="elbv2",
        create_call="create_rule",
        id="out.Rules[0].RuleArn",
        key="RuleArn",
        update_call="modify_rule",
        delete_call="delete_rule",
        fixed=frozenset({"ListenerArn", "Priority"}),
        attributes={"RuleArn": "out.Rules[0].RuleArn"},
    ),
    "AWS::Lambda::Function": ApiProvider(
        service="lambda",
        create_call="create_function",
        id="out.FunctionName",
        key="FunctionName",
        update_call="update_function_configuration",
        delete_call="delete_function",
        name="FunctionName",
        fixed=frozenset({"FunctionName", "Architectures"}),
        attributes={"Arn": "out.FunctionArn"},
        before=_function,
        after=_function_code,
        by_after=frozenset({"Code", "RecursiveLoop", "ReservedConcurrentExecutions"}),
    ),
    "AWS::Lambda::Permission": ApiProvider(
        service="lambda",
        create_call="add_permission",
        id="in.StatementId",
        name="StatementId",
        delete_call="remove_permission",
        deleted_by=lambda statement, properties: {
            "FunctionName": properties["FunctionName"],
            "StatementId": statement,
        },
    ),
    "AWS::Lambda::EventInvokeConfig": ApiProvider(
        service="lambda",
        create_call="put_function_event_invoke_config",
        id="in.FunctionName",
        key="FunctionName",
        update_call="put_function_event_invoke_config",
        delete_call="delete_function_event_invoke_config",
        fixed=frozenset({"FunctionName"}),
    ),
}
