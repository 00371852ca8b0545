"""An environment whose file changes, deployed again and again to one embedded AWS."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from ports import free_port

from local.aws import EmbeddedAws
from local.deploy import Cdk
from local.person import make_person


class Deployment:
    """An environment file that can be changed, and the embedded AWS that it is deployed to."""

    def __init__(self, aws: EmbeddedAws, directory: Path, **settings: Any) -> None:
        self.aws = aws
        self.file = directory / "environment.yaml"
        self.settings: dict[str, Any] = {
            "extends": "local",
            "front": {"kind": "internal", "port": free_port()},
            **settings,
        }
        self.cdk = Cdk(aws=aws, environment=str(self.file))
        self.outputs: dict[str, str] = {}
        self._person: dict[str, str] = {}

    def deploy(self, **changes: Any) -> str:
        self.settings |= changes
        self.file.write_text(yaml.safe_dump(self.settings))
        printed: list[str] = []
        self.cdk.progress = printed.append
        self.outputs = self.cdk.deploy()
        return "\n".join(printed)

    def variables(self, role: str) -> dict[str, str]:
        """What makes a process a client of the server in one of the roles."""
        if not self._person:
            self._person = make_person(self.aws, outputs=self.outputs)
        return self._person | {
            "MLFLOW_TRACKING_AUTH": "aws-iam",
            "MLFLOW_AWS_IAM_ROLE_ARN": self.outputs[f"{role}RoleArn"],
        }

    def stack(self, part: str) -> str:
        return f"{self.settings['name']}-{part}"

    def resources(self, part: str, type: str) -> list[str]:
        """Physical ids of the stack's resources of a type."""
        pages = self.aws.client("cloudformation").list_stack_resources(StackName=self.stack(part))
        return [
            item["PhysicalResourceId"]
            for item in pages["StackResourceSummaries"]
            if item["ResourceType"] == type
        ]

    def task_definition(self) -> str:
        """What the service runs."""
        ecs = self.aws.client("ecs")
        [cluster] = self.resources("tracking-server", "AWS::ECS::Cluster")
        [service] = self.resources("tracking-server", "AWS::ECS::Service")
        [description] = ecs.describe_services(cluster=cluster, services=[service])["services"]
        return str(description["taskDefinition"])

    def scaling(self) -> list[dict[str, Any]]:
        autoscaling = self.aws.client("application-autoscaling")
        targets: list[dict[str, Any]] = autoscaling.describe_scalable_targets(ServiceNamespace="ecs")[
            "ScalableTargets"
        ]
        return targets

    def databases(self) -> list[dict[str, Any]]:
        instances: list[dict[str, Any]] = self.aws.client("rds").describe_db_instances()["DBInstances"]
        return instances

    def snapshots(self) -> list[str]:
        found = self.aws.client("rds").describe_db_snapshots()["DBSnapshots"]
        return [snapshot["DBInstanceIdentifier"] for snapshot in found]

    def buckets(self) -> set[str]:
        return {bucket["Name"] for bucket in self.aws.client("s3").list_buckets()["Buckets"]}
