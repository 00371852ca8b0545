"""The typed model of one environment file, and the figures that follow from it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator
from typing_extensions import Self

from stacks import values
from stacks.access_sections import Access, Engine, Roles
from stacks.front_section import VPC_ORIGIN_REGIONS, Front, FrontKind
from stacks.section import Section
from stacks.sections import Alarms, Artifacts, Database, Logs, Network, TrackingServer
from stacks.sizes import FARGATE_MEMORY, MAX_CONNECTIONS, SIZES, Size, SizeName, connections_needed


class Environment(Section):
    """One environment: one tracking server in one account and region."""

    name: values.ServerName = Field(
        description="Name of the tracking server; stacks and roles start with it."
    )
    region: values.Region = Field(description="Region to deploy to.")
    account: values.Account | None = Field(
        None, description="Account to deploy to. When left out, that of the credentials at hand."
    )
    size: SizeName = Field("small", description="`small`, `medium` or `large`: see the table of sizes.")
    protect: bool = Field(
        True,
        description="Keep database and bucket when stacks are destroyed, and refuse to delete what holds data.",
    )
    tags: dict[Annotated[str, Field(min_length=1, max_length=128)], Annotated[str, Field(max_length=256)]] = (
        Field(default_factory=dict, description="Tags of every resource.")
    )
    permissions_boundary_arn: values.PolicyArn | None = Field(
        None, description="Managed policy that bounds every role of the kit."
    )
    kms_key_arn: values.KeyArn | None = Field(
        None,
        description="An existing key for all data; its policy must let CloudWatch Logs and CloudWatch alarms use it.",
    )
    network: Network = Field(default_factory=Network, description="The VPC.")
    front: Front = Field(default_factory=Front, description="How clients reach the server.")
    database: Database = Field(default_factory=Database, description="The database of MLflow.")
    artifacts: Artifacts = Field(default_factory=Artifacts, description="The artifact store.")
    tracking_server: TrackingServer = Field(default_factory=TrackingServer, description="The MLflow tasks.")
    access: Access = Field(default_factory=Access, description="Who calls, and what they may do.")
    roles: Roles = Field(default_factory=Roles, description="Who may assume the four roles.")
    alarms: Alarms = Field(default_factory=Alarms, description="Who is told of alarms.")
    logs: Logs = Field(default_factory=Logs, description="How long logs are kept.")

    @property
    def sizing(self) -> Size:
        """The figures of the size with the overrides of this file."""
        figures = self.tracking_server.model_dump(exclude_none=True, include=set(Size.model_fields))
        if self.database.instance_class:
            figures["database_class"] = self.database.instance_class
        return SIZES[self.size].model_copy(update=figures)

    @property
    def front_kind(self) -> FrontKind:
        """`front.kind`, or what suits region and network."""
        if self.front.kind or self.front.domain_name:
            return self.front.kind or "domain"
        # what an existing VPC has for a way to the internet is not known
        reachable = not self.network.private_only and not self.network.imported
        return "cloudfront" if reachable and self.region in VPC_ORIGIN_REGIONS else "internal"

    @property
    def engine(self) -> Engine:
        """What decides on requests: `access.engine`, or what suits the network."""
        return self.access.engine or ("roles" if self.network.private_only else "iam")

    @property
    def sts_regions(self) -> str:
        """Where callers may have signed: regions with commas between them, or `partition` for all of them."""
        own = (self.region,) if self.network.private_only else ()
        return ",".join(self.access.sts_regions or own) or "partition"

    @property
    def max_connections(self) -> int:
        """Connections that the database accepts; for an existing one that does not say, those of the size's class."""
        return self.database.max_connections or MAX_CONNECTIONS[self.sizing.database_class]

    @model_validator(mode="after")
    def _in_one_region(self) -> Self:
        elsewhere = {
            "kms_key_arn": self.kms_key_arn,
            "front.certificate_arn": self.front.certificate_arn,
            "database.secret_arn": self.database.secret_arn,
            "database.secret_kms_key_arn": self.database.secret_kms_key_arn,
            "artifacts.bucket_kms_key_arn": self.artifacts.bucket_kms_key_arn,
        }
        for key, arn in elsewhere.items():
            if arn and arn.split(":")[3] != self.region:
                raise values.refuse(f"{arn} is in another region", allowed=f"one in {self.region}", key=key)
        return self

    @model_validator(mode="after")
    def _front_fits(self) -> Self:
        kind, network = self.front_kind, self.network
        if kind == "cloudfront" and self.region not in VPC_ORIGIN_REGIONS:
            raise values.refuse(
                f"CloudFront reaches no VPC in {self.region}", allowed="domain, internal", key="front.kind"
            )
        if kind != "internal" and network.private_only:
            raise values.refuse(
                f"a front of the kind {kind} needs an internet gateway, and network.private_only has none",
                allowed="internal",
                key="front.kind",
            )
        self.front.check(kind, region=self.region)
        if kind == "domain" and network.imported and not network.public_subnet_ids:
            raise values.refuse(
                "missing: the load balancer of a domain front has public addresses",
                allowed="a public subnet in each zone of private_subnet_ids",
                key="network.public_subnet_ids",
            )
        if kind != "domain" and network.public_subnet_ids:
            raise values.refuse(
                f"has no meaning for a front of the kind {kind}",
                allowed="leave it out, or front.kind: domain",
                key="network.public_subnet_ids",
            )
        return self

    @model_validator(mode="after")
    def _access_fits(self) -> Self:
        access, kind = self.access, self.front_kind
        if access.engine == "open" and kind != "internal":
            raise values.refuse(
                f"a front of the kind {kind} is on the internet, and engine: open asks nobody who is calling",
                allowed="iam, roles; or front.kind: internal",
                key="access.engine",
            )
        if access.engine == "iam" and self.network.private_only:
            raise values.refuse(
                "a private_only network has no way to IAM, which has no endpoint for VPCs outside us-east-1",
                allowed="roles, open",
                key="access.engine",
            )
        if access.web_identity_issuer and self.network.private_only:
            raise values.refuse(
                "a private_only network has no way to the keys of the issuer",
                allowed="leave it out",
                key="access.web_identity_issuer",
            )
        if access.web_identity_at_load_balancer and (kind == "cloudfront" or self.front.scheme == "http"):
            raise values.refuse(
                "the load balancer verifies tokens over HTTPS alone, and speaks HTTP here",
                allowed="false; or front.kind: domain, or internal with front.certificate_arn",
                key="access.web_identity_at_load_balancer",
            )
        for region in access.sts_regions:
            if values.partition_of(region) != values.partition_of(self.region):
                raise values.refuse(
                    f"{region} is in another partition than {self.region}",
                    allowed=f"regions of the partition {values.partition_of(self.region)}",
                    key="access.sts_regions",
                )
        return self

    @model_validator(mode="after")
    def _figures_fit_together(self) -> Self:
        sizing = self.sizing
        memory = FARGATE_MEMORY.get(sizing.cpu)
        if memory is None:
            raise values.refuse(
                f"Fargate has no task with {sizing.cpu} CPU units",
                allowed=", ".join(map(str, FARGATE_MEMORY)),
                key="tracking_server.cpu",
            )
        if sizing.memory_mib not in memory:
            raise values.refuse(
                f"Fargate has no task with {sizing.cpu} CPU units and {sizing.memory_mib} MiB",
                allowed=", ".join(map(str, memory)),
                key="tracking_server.memory_mib",
            )
        if sizing.min_tasks > sizing.max_tasks:
            raise values.refuse(
                f"{sizing.min_tasks} tasks at least, {sizing.max_tasks} at most",
                allowed=f"1 to {sizing.max_tasks}",
                key="tracking_server.min_tasks",
            )
        if sizing.pool_size < 2 * sizing.threads:
            raise values.refuse(
                f"a request may hold two connections, so {sizing.threads} threads could wait for each other for ever",
                allowed=f"{2 * sizing.threads} or more",
                key="tracking_server.pool_size",
            )
        needed = connections_needed(
            max_tasks=sizing.max_tasks, workers=sizing.workers, pool_size=sizing.pool_size
        )
        if needed > self.max_connections:
            raise values.refuse(
                f"{sizing.max_tasks} tasks x {sizing.workers} workers x {sizing.pool_size} connections, twice during "
                f"a deployment, need {needed} connections and the database accepts {self.max_connections}",
                allowed="fewer tasks, workers or connections, or a larger database.instance_class",
                key="tracking_server.max_tasks",
            )
        return self
