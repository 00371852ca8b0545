"""What the resources of an environment cost a month: its synthesised templates, priced by `kit.price_table`.

Every resource type of the templates is in `PRICED` or in `FREE`. A type that is in neither is reported as unknown.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kit.price_table import Price, PriceTable
from stacks.environment import Environment
from stacks.values import partition_of

Properties = dict[str, Any]
Resources = dict[str, list[Properties]]
"""The properties of everything that the stacks of an environment make, by resource type."""

#: Hours of a month as the price pages of AWS count them, and those of a week.
HOURS, WEEK = 730, 168
DAYS = HOURS / 24

# The figures down to INSIGHTS are as the authors know these pages of AWS, and to be checked there.

#: What a capacity unit of a load balancer bears in an hour: 25 new connections a second, or 1 GB.
#: https://aws.amazon.com/elasticloadbalancing/pricing
CONNECTIONS_PER_LCU_HOUR, GB_PER_LCU_HOUR = 25 * 3600, 1

#: What CloudWatch keeps of a log line, which it compresses, as its price page reckons.
#: https://aws.amazon.com/cloudwatch/pricing
KEPT_SHARE_OF_LOGS = 0.15

#: What Container Insights publishes as custom metrics. The first are there for the cluster, the service and the family
#: of task definitions, the others for what the key says.
#: https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/Container-Insights-metrics-ECS.html
INSIGHTS = {
    "each": (
        "CpuReserved",
        "CpuUtilized",
        "MemoryReserved",
        "MemoryUtilized",
        "NetworkRxBytes",
        "NetworkTxBytes",
        "StorageReadBytes",
        "StorageWriteBytes",
        "EphemeralStorageReserved",
        "EphemeralStorageUtilized",
    ),
    "cluster": ("ContainerInstanceCount", "ServiceCount", "TaskCount"),
    "service": (
        "DeploymentCount",
        "DesiredTaskCount",
        "PendingTaskCount",
        "RestartCount",
        "RunningTaskCount",
        "TaskSetCount",
    ),
}
INSIGHTS_METRICS = 3 * len(INSIGHTS["each"]) + len(INSIGHTS["cluster"]) + len(INSIGHTS["service"])

MANAGED_SIZES = ("small", "medium", "large")


@dataclass(frozen=True, kw_only=True)
class Use:
    """How an environment is used.

    Attributes:
        sustained_share: average rate of requests, as a share of what the size sustains.
        burst_share: share of the running hours in which all tasks of the size run.
        hours_per_week: hours in which tasks and database run; the rest of the environment cannot be stopped.
        stored_gb, files_written, files_read: artifacts kept, and files written and read in a month.
        out_gb, in_gb: what clients fetch and send in a month.
        api_gb: what tasks exchange with the APIs of AWS in a month, besides logs.
        log_kb: what one request leaves in the logs, audit included. flow_log_gb: the flow log of a month.
        database_gb: storage of the database; that which it starts with when None.
        backup_gb: backups beyond the size of the database, which are free.
        spot: price the tasks as Fargate Spot.
    """

    sustained_share: float = 0.1
    burst_share: float = 0.05
    hours_per_week: float = WEEK
    stored_gb: float = 100
    files_written: int = 50_000
    files_read: int = 200_000
    out_gb: float = 100
    in_gb: float = 100
    api_gb: float = 5
    log_kb: float = 1.5
    flow_log_gb: float = 1
    database_gb: float | None = None
    backup_gb: float = 0
    spot: bool = False

    @property
    def running(self) -> float:
        """Hours of a month in which tasks and database run."""
        return HOURS * self.hours_per_week / WEEK


@dataclass(frozen=True, kw_only=True)
class Line:
    """So much of what has the price `key`, for one kind of resource. `unit` is for keys that the table may not know."""

    resource: str
    what: str
    key: str
    quantity: float
    unit: str | None = None


@dataclass(frozen=True, kw_only=True)
class Item:
    """A line with its price, or without one. `monthly` is rounded to cents, so that the column adds up."""

    line: Line
    unit: str
    price: Price | None

    @property
    def monthly(self) -> float | None:
        if self.line.quantity == 0:
            return 0.0
        return round(self.line.quantity * self.price.price, 2) if self.price else None

    def document(self) -> dict[str, Any]:
        """As JSON; `source` is a key of the estimate's `sources`."""
        return {
            "resource": self.line.resource,
            "what": self.line.what,
            "quantity": round(self.line.quantity, 4),
            "unit": self.unit,
            "unit_price": self.price.price if self.price else None,
            "monthly": self.monthly,
            "source": self.price.source if self.price else None,
        }


@dataclass(frozen=True, kw_only=True)
class Alternative:
    """A managed MLflow and its price; `hourly` and `monthly` are None where the table has none for the region."""

    name: str
    hourly: float | None
    monthly: float | None
    note: str
    price: Price | None

    def document(self) -> dict[str, Any]:
        """As JSON; `source` is a key of the estimate's `sources`."""
        return {
            "name": self.name,
            "hourly": self.hourly,
            "monthly": self.monthly,
            "note": self.note,
            "source": self.price.source if self.price else None,
            "as_of": str(self.price.as_of) if self.price else None,
        }


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What one environment costs a month.

    Attributes:
        requests: those of a month, on which the items rest. unknown: what has no price, in words.
    """

    environment: Environment
    use: Use
    requests: float
    items: list[Item]
    alternatives: list[Alternative]
    unknown: list[str]
    table: PriceTable

    @property
    def known(self) -> float:
        """The sum of what has a price."""
        return round(sum(item.monthly or 0 for item in self.items), 2)

    @property
    def total(self) -> float | None:
        """US dollars a month, or None where something has no price."""
        return None if self.unknown else self.known

    @property
    def per_million_requests(self) -> float | None:
        """US dollars for a million requests, everything included; None without a total or without requests."""
        if self.total is None or not self.requests:
            return None
        return round(self.total / (self.requests / 1e6), 2)

    @property
    def as_of(self) -> str | None:
        """Date of the oldest price that the total rests on."""
        return min((str(item.price.as_of) for item in self.items if item.price), default=None)

    @property
    def sources(self) -> dict[str, dict[str, str]]:
        """The sources in use: title, address and the date of the oldest price taken from each."""
        priced = [item.price for item in self.items] + [other.price for other in self.alternatives]
        prices = [price for price in priced if price]
        return {
            key: {
                "title": self.table.sources[key].title,
                "address": self.table.sources[key].address,
                "as_of": min(str(price.as_of) for price in prices if price.source == key),
            }
            for key in sorted({price.source for price in prices})
        }

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "total": self.total,
            "items": [item.document() for item in self.items],
            "as_of": self.as_of,
            "sources": self.sources,
            "per_million_requests": self.per_million_requests,
            "alternatives": [alternative.document() for alternative in self.alternatives],
            "unknown": self.unknown,
        }


@dataclass(frozen=True)
class Inventory:
    """The resources of an environment, by type, and how they are used."""

    environment: Environment
    use: Use
    table: PriceTable
    types: Resources = field(repr=False)

    @property
    def requests(self) -> float:
        """Those of a month."""
        a_second = self.environment.sizing.sustained_tps * self.use.sustained_share
        return a_second * 3600 * self.use.running

    def has_price(self, key: str) -> bool:
        return self.table.find(key, region=self.environment.region) is not None


def estimate(
    environment: Environment, use: Use, *, table: PriceTable, resources: Resources | None = None
) -> Estimate:
    """What `environment` costs a month when it is used like `use`; `resources` are its own, if they are at hand."""
    if resources is None:
        resources = resources_of(environment)
    inventory = Inventory(environment, use, table, resources)
    region = environment.region
    items = [
        Item(line=line, unit=line.unit or table.unit(line.key), price=table.find(line.key, region=region))
        for type_, price in PRICED.items()
        if type_ in inventory.types
        for line in price(inventory, inventory.types[type_])
    ]
    order = list(dict.fromkeys(item.line.resource for item in items))
    items.sort(key=lambda item: order.index(item.line.resource))
    return Estimate(
        environment=environment,
        use=use,
        requests=inventory.requests,
        items=items,
        alternatives=_alternatives(inventory),
        unknown=_unknown(inventory, items),
        table=table,
    )


def resources_of(environment: Environment) -> Resources:
    """What the stacks of `environment` make. Nothing is deployed, and AWS is not asked."""
    os.environ.setdefault("CDK_VALIDATION", "false")  # `cdk synth` is there to show what CDK finds
    os.environ.setdefault("NODE_NO_WARNINGS", "1")
    # not at the top: it takes two seconds to import, which the other commands need not wait for
    import aws_cdk as cdk

    from stacks.composition import compose
    from stacks.findings import acknowledge

    context = json.loads((Path(__file__).parent.parent / "cdk.json").read_text(encoding="utf-8"))["context"]
    found: dict[str, list[Properties]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as directory:
        app = cdk.App(
            context=context | {"@aws-cdk/core:validateAgainstDefaultRules": False}, outdir=directory
        )
        acknowledge(app, "Annotation::mlflow-aws-kit:rds-trust-bundle", reason="Nothing is deployed")
        compose(app, environment)
        app.synth()
        for file in sorted(Path(directory).glob("*.template.json")):
            for resource in json.loads(file.read_text(encoding="utf-8"))["Resources"].values():
                found[resource["Type"]].append(resource.get("Properties", {}))
    return dict(found)


def _tasks(inventory: Inventory, services: list[Properties]) -> Iterator[Line]:
    sizing, use = inventory.environment.sizing, inventory.use
    architecture = inventory.environment.tracking_server.architecture
    spot = ".spot" if use.spot else ""
    kinds = {
        "always": sizing.min_tasks * use.running,
        "in bursts": (sizing.max_tasks - sizing.min_tasks) * use.running * use.burst_share,
    }
    for when, hours in kinds.items():
        for what, key, each in (
            ("vCPU", "vcpu", sizing.cpu / 1024),
            ("memory", "memory", sizing.memory_mib / 1024),
        ):
            yield Line(
                resource="Tasks",
                what=f"{what}, {when} ({architecture}{', Spot' if spot else ''})",
                key=f"fargate.{architecture}.{key}{spot}",
                quantity=hours * each * len(services),
            )


def _insights(inventory: Inventory, clusters: list[Properties]) -> Iterator[Line]:
    watched = [
        cluster
        for cluster in clusters
        if {"Name": "containerInsights", "Value": "enabled"} in cluster.get("ClusterSettings", [])
    ]
    yield Line(
        resource="Monitoring",
        what="Container Insights",
        key="cloudwatch.metric",
        quantity=len(watched) * INSIGHTS_METRICS * inventory.use.running / HOURS,
    )


def _databases(inventory: Inventory, instances: list[Properties]) -> Iterator[Line]:
    use = inventory.use
    for instance in instances:
        class_, standby = instance["DBInstanceClass"], instance.get("MultiAZ", False)
        pair = standby and inventory.has_price(f"rds.{class_}.multi_az")
        yield Line(
            resource="Database",
            what=f"{class_}{' and standby' if standby else ''}",
            key=f"rds.{class_}.multi_az" if pair else f"rds.{class_}",
            quantity=use.running * (2 if standby and not pair else 1),
            unit="hour",
        )
        yield Line(
            resource="Database",
            what=f"storage{', twice' if standby else ''}",
            key=f"rds.storage{'.multi_az' if standby else ''}",
            quantity=use.database_gb or float(instance["AllocatedStorage"]),
        )
        yield Line(
            resource="Database",
            what="backups beyond its size",
            key="rds.backup",
            quantity=use.backup_gb,
        )
        if instance.get("ManageMasterUserPassword"):
            yield Line(resource="Secrets", what="login, which RDS keeps", key="secret", quantity=1)


def _load_balancers(inventory: Inventory, balancers: list[Properties]) -> Iterator[Line]:
    use = inventory.use
    yield Line(resource="Load balancer", what="hours", key="alb.hour", quantity=HOURS * len(balancers))
    yield Line(
        resource="Load balancer",
        what="capacity at most",  # were each request a connection of its own
        key="alb.capacity",
        quantity=max(
            inventory.requests / CONNECTIONS_PER_LCU_HOUR, (use.out_gb + use.in_gb) / GB_PER_LCU_HOUR
        ),
    )
    for balancer in balancers:
        if balancer["Scheme"] == "internet-facing":
            yield Line(
                resource="Addresses",
                what="of the load balancer",
                key="address.hour",
                quantity=HOURS * len(balancer["Subnets"]),
            )
            yield Line(resource="Internet", what="sent to clients", key="internet.out", quantity=use.out_gb)


def _distributions(inventory: Inventory, distributions: list[Properties]) -> Iterator[Line]:
    use = inventory.use
    for what, key, quantity in (
        ("HTTPS requests", "cloudfront.requests", inventory.requests / 10_000),
        ("sent to clients", "cloudfront.out", use.out_gb),
        ("received from clients", "cloudfront.in", use.in_gb),
    ):
        yield Line(resource="CloudFront", what=what, key=key, quantity=quantity)
    if any("WebACLId" in each["DistributionConfig"] for each in distributions):
        yield from _filters(inventory, distributions)


def _filters(inventory: Inventory, filtered: list[Properties]) -> Iterator[Line]:
    yield Line(
        resource="WAF",
        what="requests",
        key="waf.requests",
        quantity=len(filtered) * inventory.requests / 1e6,
    )


def _nat_gateways(inventory: Inventory, gateways: list[Properties]) -> Iterator[Line]:
    yield Line(resource="NAT gateways", what="hours", key="nat.hour", quantity=HOURS * len(gateways))
    yield Line(
        resource="NAT gateways",
        what="logs, calls of AWS",
        key="nat.data",
        quantity=_log_gb(inventory) + inventory.use.api_gb,
    )


def _addresses(inventory: Inventory, addresses: list[Properties]) -> Iterator[Line]:
    yield Line(
        resource="Addresses",
        what="of the NAT gateways",
        key="address.hour",
        quantity=HOURS * len(addresses),
    )


def _endpoints(inventory: Inventory, endpoints: list[Properties]) -> Iterator[Line]:
    interfaces = [endpoint for endpoint in endpoints if endpoint.get("VpcEndpointType") == "Interface"]
    if interfaces:
        zones = sum(len(endpoint["SubnetIds"]) for endpoint in interfaces)
        yield Line(
            resource="VPC endpoints",
            what=f"{len(interfaces)} in each zone",
            key="endpoint.hour",
            quantity=HOURS * zones,
        )
        yield Line(
            resource="VPC endpoints",
            what="logs, calls of AWS",
            key="endpoint.data",
            quantity=_log_gb(inventory) + inventory.use.api_gb,
        )


def _log_gb(inventory: Inventory) -> float:
    """What requests leave in the logs in a month."""
    return inventory.requests * inventory.use.log_kb / 1e6


def _logs(inventory: Inventory, groups: list[Properties]) -> Iterator[Line]:
    return _logged(inventory, "server, audit", _log_gb(inventory))


def _flow_logs(inventory: Inventory, logs: list[Properties]) -> Iterator[Line]:
    return _logged(inventory, "flow log", inventory.use.flow_log_gb)


def _logged(inventory: Inventory, what: str, gb: float) -> Iterator[Line]:
    months = inventory.environment.logs.retention_days / DAYS
    yield Line(resource="Logs", what=f"{what}, written", key="logs.ingest", quantity=gb)
    yield Line(
        resource="Logs",
        what=f"{what}, kept",
        key="logs.storage",
        quantity=gb * months * KEPT_SHARE_OF_LOGS,
    )


def _buckets(inventory: Inventory, buckets: list[Properties]) -> Iterator[Line]:
    use = inventory.use
    if inventory.environment.artifacts.bucket_name:
        return
    yield Line(resource="S3", what="artifacts", key="s3.storage", quantity=use.stored_gb)
    yield Line(resource="S3", what="files written", key="s3.write", quantity=use.files_written / 1000)
    yield Line(resource="S3", what="files read", key="s3.read", quantity=use.files_read / 1000)


def _keys(inventory: Inventory, keys: list[Properties]) -> Iterator[Line]:
    use = inventory.use
    yield Line(resource="Key", what="KMS key", key="kms.key", quantity=len(keys))
    yield Line(
        resource="Key",
        what="requests at most",  # one a file: the bucket key saves most of them
        key="kms.requests",
        quantity=(use.files_written + use.files_read) / 10_000,
    )


def _counted(resource: str, what: str, key: str) -> Callable[[Inventory, list[Properties]], Iterator[Line]]:
    """So many resources, so many units."""

    def count(inventory: Inventory, found: list[Properties]) -> Iterator[Line]:
        yield Line(resource=resource, what=what, key=key, quantity=len(found))

    return count


#: How resources are priced, by type, in the order of the bill.
PRICED: dict[str, Callable[[Inventory, list[Properties]], Iterator[Line]]] = {
    "AWS::ECS::Service": _tasks,
    "AWS::RDS::DBInstance": _databases,
    "AWS::ElasticLoadBalancingV2::LoadBalancer": _load_balancers,
    "AWS::CloudFront::Distribution": _distributions,
    "AWS::WAFv2::WebACLAssociation": _filters,
    "AWS::EC2::NatGateway": _nat_gateways,
    "AWS::EC2::EIP": _addresses,
    "AWS::EC2::VPCEndpoint": _endpoints,
    "AWS::S3::Bucket": _buckets,
    "AWS::SecretsManager::Secret": _counted("Secrets", "seed of the server", "secret"),
    "AWS::KMS::Key": _keys,
    "AWS::Logs::LogGroup": _logs,
    "AWS::EC2::FlowLog": _flow_logs,
    "AWS::CloudWatch::Alarm": _counted("Monitoring", "alarms", "cloudwatch.alarm"),
    "AWS::CloudWatch::Dashboard": _counted("Monitoring", "dashboard", "cloudwatch.dashboard"),
    "AWS::ECS::Cluster": _insights,
}

_NO_CHARGE = "AWS charges nothing for it"
_IN_DEPLOYMENTS = "runs while a deployment does, for less than a cent"

#: Resource types that add nothing to a bill, and why.
FREE: dict[str, str] = {
    "AWS::ApplicationAutoScaling::ScalableTarget": _NO_CHARGE,
    "AWS::ApplicationAutoScaling::ScalingPolicy": "its alarms are AWS's own, and free",
    "AWS::CDK::Metadata": _NO_CHARGE,
    "AWS::CertificateManager::Certificate": "public certificates are free",
    "AWS::CloudFront::VpcOrigin": _NO_CHARGE,
    "AWS::EC2::InternetGateway": "its traffic is priced where it is sent",
    "AWS::EC2::Route": _NO_CHARGE,
    "AWS::EC2::RouteTable": _NO_CHARGE,
    "AWS::EC2::SecurityGroup": _NO_CHARGE,
    "AWS::EC2::SecurityGroupEgress": _NO_CHARGE,
    "AWS::EC2::SecurityGroupIngress": _NO_CHARGE,
    "AWS::EC2::Subnet": _NO_CHARGE,
    "AWS::EC2::SubnetRouteTableAssociation": _NO_CHARGE,
    "AWS::EC2::VPC": _NO_CHARGE,
    "AWS::EC2::VPCGatewayAttachment": _NO_CHARGE,
    "AWS::ECS::TaskDefinition": "its tasks are priced with the service; the schema migration runs for minutes",
    "AWS::ElasticLoadBalancingV2::Listener": "part of the load balancer",
    "AWS::ElasticLoadBalancingV2::ListenerRule": "ten rules are part of the load balancer",
    "AWS::ElasticLoadBalancingV2::TargetGroup": "part of the load balancer",
    "AWS::IAM::ManagedPolicy": _NO_CHARGE,
    "AWS::IAM::Policy": _NO_CHARGE,
    "AWS::IAM::Role": _NO_CHARGE,
    "AWS::Lambda::Function": _IN_DEPLOYMENTS,
    "AWS::RDS::DBParameterGroup": _NO_CHARGE,
    "AWS::RDS::DBSubnetGroup": _NO_CHARGE,
    "AWS::Route53::RecordSet": "an alias of a load balancer in a zone of yours, whose queries are free",
    "AWS::S3::BucketPolicy": _NO_CHARGE,
    "AWS::SNS::Subscription": "a thousand mails a month are free",
    "AWS::SNS::Topic": "alarms are few: a million messages cost half a dollar",
    "AWS::SNS::TopicPolicy": _NO_CHARGE,
    "AWS::SSM::Parameter": "standard parameters are free",
    "Custom::S3AutoDeleteObjects": _IN_DEPLOYMENTS,
    "Custom::SchemaMigration": _IN_DEPLOYMENTS,
    "Custom::VpcOriginSecurityGroup": _IN_DEPLOYMENTS,
    "Custom::VpcRestrictDefaultSG": _IN_DEPLOYMENTS,
}


def _unknown(inventory: Inventory, items: list[Item]) -> list[str]:
    """What has no price, in words: the whole region, or each thing."""
    region = inventory.environment.region
    partition = partition_of(region)
    strange = sorted(type_ for type_ in inventory.types if type_ not in PRICED and type_ not in FREE)
    words = [f"{type_}: neither priced nor known to be free" for type_ in strange]
    if partition == "aws-cn":
        return [f"{region}: another operator sells there, in CNY, and the table is in US dollars", *words]
    if partition != inventory.table.partition:
        return [f"{region}: the table has no prices of the partition {partition}", *words]
    if region not in inventory.table.regions:
        return [f"{region}: the table has prices of {', '.join(inventory.table.regions)} alone", *words]
    missing = [
        f"{item.line.resource}, {item.line.what}: no price in {region}"
        for item in items
        if item.monthly is None
    ]
    return [*missing, *words]


def _alternatives(inventory: Inventory) -> list[Alternative]:
    """What SageMaker offers, priced for the same hours and, where the table can, the same region."""
    region = inventory.environment.region
    served = partition_of(region) == "aws"
    found = []
    for size in MANAGED_SIZES:
        price = inventory.table.find(f"sagemaker.mlflow.{size}", region=region)
        hourly = price.price if price else None
        found.append(
            Alternative(
                name=f"SageMaker MLflow tracking server, {size}",
                hourly=hourly,
                monthly=None if hourly is None else round(hourly * inventory.use.running, 2),
                note="and the storage of its metadata" if price else f"no price in the table for {region}",
                price=price,
            )
        )
    app = inventory.table.find("sagemaker.mlflow.app", region=region) if served else None
    found.append(
        Alternative(
            name="SageMaker MLflow App, serverless",
            hourly=app.price if app else None,
            monthly=app.price if app else None,
            note="no charge besides S3; one IAM action for its whole API"
            if app
            else "not offered in China and GovCloud"
            if not served
            else f"no price in the table for {region}",
            price=app,
        )
    )
    return found
