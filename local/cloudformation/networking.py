"""The EC2 resource types of a network: what they hold is checked and kept, no packet is filtered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from local.cloudformation.provider import ApiProvider, Provider, ResourceRequest, call

Properties = dict[str, Any]


def _tagged(kind: str) -> Callable[[Properties, ResourceRequest], Properties]:
    def before(properties: Properties, request: ResourceRequest) -> Properties:
        if tags := properties.pop("Tags", None):
            properties["TagSpecifications"] = [{"ResourceType": kind, "Tags": tags}]
        return properties

    return before


def _true(value: Any) -> bool:
    return str(value).lower() == "true"


def _vpc_dns(client: Any, vpc: str, new: Properties, old: Mapping[str, Any]) -> None:
    for attribute in ("EnableDnsSupport", "EnableDnsHostnames"):
        if attribute in new:
            client.modify_vpc_attribute(VpcId=vpc, **{attribute: {"Value": _true(new[attribute])}})


def _vpc_defaults(client: Any, vpc: str) -> dict[str, Any]:
    inside = [{"Name": "vpc-id", "Values": [vpc]}]
    groups = client.describe_security_groups(Filters=inside)["SecurityGroups"]
    acls = client.describe_network_acls(Filters=inside)["NetworkAcls"]
    return {
        "DefaultSecurityGroup": next(item["GroupId"] for item in groups if item["GroupName"] == "default"),
        "DefaultNetworkAcl": acls[0]["NetworkAclId"],
    }


def _public_addresses(client: Any, subnet: str, new: Properties, old: Mapping[str, Any]) -> None:
    wanted = _true(new.get("MapPublicIpOnLaunch", False))
    client.modify_subnet_attribute(SubnetId=subnet, MapPublicIpOnLaunch={"Value": wanted})


def _flow_log(properties: Properties, request: ResourceRequest) -> Properties:
    properties["ResourceIds"] = [properties.pop("ResourceId")]
    return _tagged("vpc-flow-log")(properties, request)


def _group(properties: Properties, request: ResourceRequest) -> Properties:
    if "VpcId" in properties:  # moto takes any id for a VPC here
        call(request.environment.client("ec2"), "describe_vpcs", VpcIds=[properties["VpcId"]])
    return _tagged("security-group")(properties, request)


def _permission(rule: Mapping[str, Any]) -> dict[str, Any]:
    """The EC2 API's IpPermission for a rule as CloudFormation writes it."""
    described = {"Description": rule["Description"]} if "Description" in rule else {}
    result: dict[str, Any] = {"IpProtocol": str(rule["IpProtocol"])}
    result.update({key: int(rule[key]) for key in ("FromPort", "ToPort") if key in rule})
    for key, (holder, member) in {
        "CidrIp": ("IpRanges", "CidrIp"),
        "CidrIpv6": ("Ipv6Ranges", "CidrIpv6"),
        "SourceSecurityGroupId": ("UserIdGroupPairs", "GroupId"),
        "DestinationSecurityGroupId": ("UserIdGroupPairs", "GroupId"),
        "SourcePrefixListId": ("PrefixListIds", "PrefixListId"),
        "DestinationPrefixListId": ("PrefixListIds", "PrefixListId"),
    }.items():
        if key in rule:
            result[holder] = [{member: rule[key], **described}]
    return result


def _rules(client: Any, group: str, new: Properties, old: Mapping[str, Any]) -> None:
    if not old and "SecurityGroupEgress" in new:
        everything = _permission({"IpProtocol": "-1", "CidrIp": "0.0.0.0/0"})
        client.revoke_security_group_egress(GroupId=group, IpPermissions=[everything])
    for direction in ("ingress", "egress"):
        key = f"SecurityGroup{direction.capitalize()}"
        wanted, existing = new.get(key, []), old.get(key, [])
        changes = {
            "revoke": [rule for rule in existing if rule not in wanted],
            "authorize": [rule for rule in wanted if rule not in existing],
        }
        for verb, rules in changes.items():
            method = getattr(client, f"{verb}_security_group_{direction}")
            for rule in rules:
                method(GroupId=group, IpPermissions=[_permission(rule)])


def _rule(direction: str) -> ApiProvider:
    def request_of(properties: Mapping[str, Any]) -> Properties:
        return {"GroupId": properties["GroupId"], "IpPermissions": [_permission(properties)]}

    return ApiProvider(
        service="ec2",
        create_call=f"authorize_security_group_{direction}",
        id="out.SecurityGroupRules[0].SecurityGroupRuleId",
        delete_call=f"revoke_security_group_{direction}",
        before=lambda properties, _: request_of(properties),
        deleted_by=lambda _, properties: request_of(properties),
    )


def _route_key(_: str, properties: Properties) -> Properties:
    return {
        key: value
        for key, value in properties.items()
        if key == "RouteTableId" or key.startswith("Destination")
    }


TYPES: dict[str, Provider] = {
    "AWS::EC2::VPC": ApiProvider(
        service="ec2",
        create_call="create_vpc",
        id="out.Vpc.VpcId",
        key="VpcId",
        delete_call="delete_vpc",
        attributes={"VpcId": "out.Vpc.VpcId", "CidrBlock": "out.Vpc.CidrBlock"},
        read=_vpc_defaults,
        before=_tagged("vpc"),
        after=_vpc_dns,
        by_after=frozenset({"EnableDnsSupport", "EnableDnsHostnames"}),
    ),
    "AWS::EC2::Subnet": ApiProvider(
        service="ec2",
        create_call="create_subnet",
        id="out.Subnet.SubnetId",
        key="SubnetId",
        delete_call="delete_subnet",
        attributes={
            name: f"out.Subnet.{name}" for name in ("SubnetId", "VpcId", "AvailabilityZone", "CidrBlock")
        },
        before=_tagged("subnet"),
        after=_public_addresses,
        by_after=frozenset({"MapPublicIpOnLaunch"}),
    ),
    "AWS::EC2::InternetGateway": ApiProvider(
        service="ec2",
        create_call="create_internet_gateway",
        id="out.InternetGateway.InternetGatewayId",
        key="InternetGatewayId",
        delete_call="delete_internet_gateway",
        attributes={"InternetGatewayId": "out.InternetGateway.InternetGatewayId"},
        before=_tagged("internet-gateway"),
    ),
    "AWS::EC2::VPCGatewayAttachment": ApiProvider(
        service="ec2",
        create_call="attach_internet_gateway",
        id="join('|', ['IGW', in.VpcId])",
        delete_call="detach_internet_gateway",
        deleted_by=lambda _, properties: properties,
    ),
    "AWS::EC2::RouteTable": ApiProvider(
        service="ec2",
        create_call="create_route_table",
        id="out.RouteTable.RouteTableId",
        key="RouteTableId",
        delete_call="delete_route_table",
        attributes={"RouteTableId": "out.RouteTable.RouteTableId"},
        before=_tagged("route-table"),
    ),
    "AWS::EC2::Route": ApiProvider(
        service="ec2",
        create_call="create_route",
        id="join('|', [in.RouteTableId, not_null(in.DestinationCidrBlock, in.DestinationIpv6CidrBlock)])",
        delete_call="delete_route",
        deleted_by=_route_key,
    ),
    "AWS::EC2::SubnetRouteTableAssociation": ApiProvider(
        service="ec2",
        create_call="associate_route_table",
        id="out.AssociationId",
        key="AssociationId",
        delete_call="disassociate_route_table",
        attributes={"Id": "out.AssociationId"},
    ),
    "AWS::EC2::EIP": ApiProvider(
        service="ec2",
        create_call="allocate_address",
        id="out.PublicIp",
        key="PublicIp",
        delete_call="release_address",
        attributes={"AllocationId": "out.AllocationId", "PublicIp": "out.PublicIp"},
        before=_tagged("elastic-ip"),
    ),
    "AWS::EC2::NatGateway": ApiProvider(
        service="ec2",
        create_call="create_nat_gateway",
        id="out.NatGateway.NatGatewayId",
        key="NatGatewayId",
        delete_call="delete_nat_gateway",
        attributes={"NatGatewayId": "out.NatGateway.NatGatewayId"},
        before=_tagged("natgateway"),
    ),
    "AWS::EC2::VPCEndpoint": ApiProvider(
        service="ec2",
        create_call="create_vpc_endpoint",
        id="out.VpcEndpoint.VpcEndpointId",
        delete_call="delete_vpc_endpoints",
        attributes={"Id": "out.VpcEndpoint.VpcEndpointId"},
        before=_tagged("vpc-endpoint"),
        deleted_by=lambda physical_id, _: {"VpcEndpointIds": [physical_id]},
    ),
    "AWS::EC2::FlowLog": ApiProvider(
        service="ec2",
        create_call="create_flow_logs",
        id="out.FlowLogIds[0]",
        delete_call="delete_flow_logs",
        attributes={"Id": "out.FlowLogIds[0]"},
        before=_flow_log,
        deleted_by=lambda physical_id, _: {"FlowLogIds": [physical_id]},
    ),
    "AWS::EC2::SecurityGroup": ApiProvider(
        service="ec2",
        create_call="create_security_group",
        id="out.GroupId",
        key="GroupId",
        delete_call="delete_security_group",
        name="GroupName",
        renamed={"GroupDescription": "Description"},
        attributes={"GroupId": "out.GroupId", "VpcId": "in.VpcId"},
        before=_group,
        after=_rules,
        by_after=frozenset({"SecurityGroupIngress", "SecurityGroupEgress"}),
    ),
    "AWS::EC2::SecurityGroupIngress": _rule("ingress"),
    "AWS::EC2::SecurityGroupEgress": _rule("egress"),
}
