"""Destroying a protected environment: refused at first, and then without a loss."""

from __future__ import annotations

from pathlib import Path

import pytest
import requests
from deployments import Deployment

from local.aws import EmbeddedAws
from local.deploy import CdkError


def test_destroy_keeps_the_data_of_a_protected_environment(tmp_path: Path) -> None:
    with EmbeddedAws(directory=tmp_path, region="us-east-1") as aws:
        production = Deployment(aws, tmp_path, extends="prod", name="mlflow-prod")
        production.cdk.bootstrap()
        production.deploy()
        bucket = production.outputs["ArtifactBucketName"]
        [database] = production.databases()
        assert database["MultiAZ"]

        with pytest.raises(CdkError, match=r"[Tt]ermination ?[Pp]rotection"):
            production.cdk.destroy()
        assert requests.get(f"{production.outputs['TrackingUri']}/health", timeout=10).status_code == 200
        assert len(production.resources("observability", "AWS::CloudWatch::Alarm")) > 0

        # what docs/platform-engineers.md says about tearing down on purpose
        for part in ("network", "storage", "tracking-server", "access", "observability"):
            aws.client("cloudformation").update_termination_protection(
                StackName=production.stack(part), EnableTerminationProtection=False
            )
        aws.client("rds").modify_db_instance(
            DBInstanceIdentifier=database["DBInstanceIdentifier"], DeletionProtection=False
        )
        for balancer in aws.client("elbv2").describe_load_balancers()["LoadBalancers"]:
            aws.client("elbv2").modify_load_balancer_attributes(
                LoadBalancerArn=balancer["LoadBalancerArn"],
                Attributes=[{"Key": "deletion_protection.enabled", "Value": "false"}],
            )
        production.cdk.destroy()

        assert production.databases() == []
        assert production.snapshots() == [database["DBInstanceIdentifier"]]
        assert bucket in production.buckets()
