"""The sections of an environment file; those about clients are in `front_section` and `access_sections`.

Every field has a type, a default where one makes sense, and a description, from which the reference page is
made. Unknown keys and impossible combinations are refused before anything is synthesised.
"""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from stacks import values
from stacks.section import Section
from stacks.sizes import MAX_CONNECTIONS


class Network(Section):
    """A VPC of the kit's own, or an existing one: give `vpc_id` and `private_subnet_ids`."""

    cidr: values.Cidr = Field("10.0.0.0/16", description="Address block of the VPC.")
    availability_zones: int = Field(2, ge=2, le=3, description="Availability zones to spread over.")
    nat_gateways: int | None = Field(
        None,
        ge=1,
        le=3,
        description="NAT gateways: one is cheapest, one a zone survives a zone. 1 when left out.",
    )
    private_only: bool = Field(
        False, description="No internet gateway, no NAT: AWS is reached through VPC endpoints alone."
    )
    flow_logs: bool = Field(True, description="Record accepted and rejected connections of the VPC.")
    vpc_id: values.VpcId | None = Field(
        None, description="An existing VPC to use; its endpoints and routes are yours."
    )
    private_subnet_ids: tuple[values.SubnetId, ...] = Field(
        (), strict=False, description="Two or more of its private subnets, each in a zone of its own."
    )
    public_subnet_ids: tuple[values.SubnetId, ...] = Field(
        (),
        strict=False,
        description="As many of its public subnets, in the same zones, for a front of the kind `domain`.",
    )

    @property
    def imported(self) -> bool:
        return self.vpc_id is not None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self._all_or_none("vpc_id", "private_subnet_ids"):
            self._only_without(
                "vpc_id", "cidr", "availability_zones", "nat_gateways", "private_only", "flow_logs"
            )
            if len(set(self.private_subnet_ids)) < 2:
                raise values.refuse(
                    "a load balancer and a database need two zones",
                    allowed="two or more subnets",
                    key="private_subnet_ids",
                )
            if self.public_subnet_ids and len(self.public_subnet_ids) != len(self.private_subnet_ids):
                raise values.refuse(
                    f"{len(self.public_subnet_ids)} public subnets for {len(self.private_subnet_ids)} private ones",
                    allowed="one for each zone of private_subnet_ids",
                    key="public_subnet_ids",
                )
        elif self.public_subnet_ids:
            raise values.refuse("belongs to an existing VPC", allowed="leave it out", key="public_subnet_ids")
        if self.private_only:
            self._only_without("private_only", "nat_gateways")
        if self.nat_gateways and self.nat_gateways > self.availability_zones:
            raise values.refuse(
                "more NAT gateways than zones", allowed=f"1 to {self.availability_zones}", key="nat_gateways"
            )
        return self


class Database(Section):
    """An RDS for MySQL of the kit's own, or an existing one: give `host`, `secret_arn` and `security_group_id`."""

    engine_version: Literal["8.4"] = Field(
        "8.4", description="MySQL release track; RDS picks and patches the minor version."
    )
    instance_class: values.InstanceClass | None = Field(None, description="That of the size when left out.")
    storage_gib: int = Field(
        20,
        ge=20,
        le=65536,
        description="Storage to start with. Never lower it: RDS cannot shrink what has grown.",
    )
    max_storage_gib: int = Field(500, ge=22, le=65536, description="Storage that RDS may grow to by itself.")
    multi_az: bool = Field(True, description="A standby in a second zone.")
    backup_days: int = Field(14, ge=1, le=35, description="Days that point-in-time restore reaches back.")
    max_connections: int | None = Field(
        None, ge=20, le=16000, description="Connections that the database accepts; known for common classes."
    )
    name: values.DatabaseName = Field("mlflow", description="Name of the database.")
    port: int = Field(3306, ge=1150, le=65535, description="Port of the database.")
    host: str | None = Field(None, min_length=1, description="Endpoint of an existing MySQL database.")
    secret_arn: values.SecretArn | None = Field(
        None, description='Secret of the existing database: JSON with "username" and "password".'
    )
    secret_kms_key_arn: values.KeyArn | None = Field(
        None, description="Key that encrypts this secret, when it is one of yours."
    )
    security_group_id: values.SecurityGroupId | None = Field(
        None, description="Security group of the existing database; the kit adds a rule for its tasks."
    )

    @property
    def imported(self) -> bool:
        return self.host is not None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self._all_or_none("host", "secret_arn", "security_group_id"):
            self._only_without(
                "host",
                "engine_version",
                "instance_class",
                "storage_gib",
                "max_storage_gib",
                "multi_az",
                "backup_days",
            )
        elif self.secret_kms_key_arn:
            raise values.refuse(
                "belongs to the secret of an existing database",
                allowed="leave it out",
                key="secret_kms_key_arn",
            )
        least = math.ceil(1.1 * self.storage_gib)  # RDS wants a tenth of headroom
        if self.max_storage_gib < least:
            raise values.refuse(
                f"too little above storage_gib ({self.storage_gib})",
                allowed=f"{least} or more",
                key="max_storage_gib",
            )
        if self.instance_class and self.instance_class not in MAX_CONNECTIONS and not self.max_connections:
            hint = values.did_you_mean(self.instance_class, MAX_CONNECTIONS)
            raise values.refuse(
                f'the kit does not know how many connections "{self.instance_class}" bears{hint}',
                allowed=f"{', '.join(MAX_CONNECTIONS)}; or another one with max_connections beside it",
                key="instance_class",
            )
        return self


class Artifacts(Section):
    """Where models and files go."""

    bucket_name: values.BucketName | None = Field(
        None, description="An existing bucket; one is created when left out."
    )
    prefix: values.KeyPrefix = Field("artifacts", description="Key prefix of all artifacts.")
    access: Literal["server", "direct"] = Field(
        "server",
        description="`server`: files go through the server and clients need no S3 rights. "
        "`direct`: clients read and write the bucket with rights of their own.",
    )
    bucket_kms_key_arn: values.KeyArn | None = Field(
        None, description="Key that encrypts the existing bucket, when it is one of yours."
    )
    noncurrent_days: int = Field(
        30, ge=1, le=3650, description="Days that overwritten and deleted files stay restorable."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.bucket_name:
            self._only_without("bucket_name", "noncurrent_days")
        elif self.bucket_kms_key_arn:
            raise values.refuse(
                "belongs to an existing bucket", allowed="leave it out", key="bucket_kms_key_arn"
            )
        return self


class TrackingServer(Section):
    """The MLflow tasks. Figures that are left out are those of the size."""

    architecture: Literal["arm64", "amd64"] = Field(
        "arm64", description="Processor of the image and of the functions."
    )
    cpu: int | None = Field(None, description="CPU units of a task (1024 = one vCPU).")
    memory_mib: int | None = Field(None, description="Memory of a task in MiB.")
    workers: int | None = Field(None, ge=1, le=64, description="Server processes in a task.")
    threads: int | None = Field(None, ge=1, le=256, description="Threads in a process.")
    pool_size: int | None = Field(None, ge=2, le=512, description="Database connections of a process.")
    min_tasks: int | None = Field(None, ge=1, le=100, description="Tasks that always run.")
    max_tasks: int | None = Field(None, ge=1, le=100, description="Tasks at the peak.")
    requests_per_task_per_minute: int | None = Field(
        None, ge=1, description="Scale out above this rate for each task."
    )
    cpu_percent: int | None = Field(None, ge=10, le=90, description="Scale out above this average CPU use.")
    drain_seconds: int = Field(
        10, ge=0, le=60, description="How long a stopping task answers after its health check went red."
    )
    migration_timeout_hours: int = Field(
        3,
        ge=1,
        le=24,
        description="How long a deployment waits for the schema migration of a large database.",
    )


class Alarms(Section):
    email: values.EmailAddress | None = Field(
        None, description="Address that is told of alarms, after it has confirmed the subscription."
    )


class Logs(Section):
    retention_days: values.RetentionDays = Field(90, description="Days that logs are kept.")
