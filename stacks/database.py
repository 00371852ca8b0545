"""RDS for MySQL as MLflow needs it."""

from __future__ import annotations

from typing import cast

import aws_cdk as cdk
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_kms as kms
from aws_cdk import aws_rds as rds
from aws_cdk import aws_secretsmanager as secretsmanager
from constructs import Construct

from stacks.environment import Environment
from stacks.findings import accept

#: Too small for Performance Insights of RDS for MySQL.
NO_PERFORMANCE_INSIGHTS = ("db.t4g.micro", "db.t4g.small", "db.t3.micro", "db.t3.small")


class MysqlDatabase(Construct):
    """An encrypted instance that takes TLS connections only.

    Attributes:
        instance: the instance.
        login: the secret with user name and password, which RDS makes and rotates.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        environment: Environment,
        key: kms.IKey,
        vpc: ec2.IVpc,
        subnets: ec2.SubnetSelection,
        security_group: ec2.ISecurityGroup,
    ) -> None:
        super().__init__(scope, id)
        database, sizing = environment.database, environment.sizing
        engine = rds.DatabaseInstanceEngine.mysql(
            version=rds.MysqlEngineVersion.of(database.engine_version, database.engine_version)
        )
        insights = sizing.database_class not in NO_PERFORMANCE_INSIGHTS
        self.instance = rds.DatabaseInstance(
            self,
            "Instance",
            engine=engine,
            parameter_group=self._parameters(engine, environment.max_connections),
            instance_type=ec2.InstanceType(sizing.database_class.removeprefix("db.")),
            database_name=database.name,
            port=database.port,
            credentials=rds.Credentials.from_username("mlflow", encryption_key=key),
            manage_master_user_password=True,
            iam_authentication=True,
            vpc=vpc,
            vpc_subnets=subnets,
            security_groups=[security_group],
            publicly_accessible=False,
            multi_az=database.multi_az,
            storage_type=rds.StorageType.GP3,
            allocated_storage=database.storage_gib,
            max_allocated_storage=database.max_storage_gib,
            storage_encrypted=True,
            storage_encryption_key=key,
            backup_retention=cdk.Duration.days(database.backup_days),
            copy_tags_to_snapshot=True,
            delete_automated_backups=not environment.protect,
            deletion_protection=environment.protect,
            removal_policy=cdk.RemovalPolicy.SNAPSHOT if environment.protect else cdk.RemovalPolicy.DESTROY,
            auto_minor_version_upgrade=True,
            cloudwatch_logs_exports=["error", "slowquery"],
            monitoring_interval=cdk.Duration.minutes(1),
            enable_performance_insights=insights,
            performance_insight_encryption_key=key if insights else None,
        )
        self.login = cast(secretsmanager.ISecret, self.instance.secret)
        self._accept_findings(environment)

    def _parameters(self, engine: rds.IInstanceEngine, max_connections: int) -> rds.ParameterGroup:
        return rds.ParameterGroup(
            self,
            "Parameters",
            engine=engine,
            description="MLflow",
            parameters={
                # A migration of MLflow creates a trigger, which RDS refuses otherwise (MySQL error 1419).
                "log_bin_trust_function_creators": "1",
                "require_secure_transport": "1",
                "character_set_server": "utf8mb4",
                "collation_server": "utf8mb4_0900_ai_ci",
                "max_connections": str(max_connections),
                "slow_query_log": "1",
                "log_output": "FILE",
            },
        )

    def _accept_findings(self, environment: Environment) -> None:
        accept(
            self.instance,
            "CloudFormation-Validate::E9006",
            "E3691",
            reason="A release track without a minor version lets RDS choose: a pinned minor is withdrawn one day",
        )
        accept(
            self.instance,
            "AwsSolutions-RDS11",
            reason="Only the security group of the server reaches the port, whatever its number",
        )
        accept(
            self.instance,
            "RDSLoggingEnabled[LogExport::audit]",
            "RDSLoggingEnabled[LogExport::general]",
            reason="These logs would hold every statement with its values; the server is the only one to log in",
        )
        accept(
            self.instance,
            "RDSInBackupPlan",
            reason="RDS itself takes the backups, with point-in-time restore; a plan of AWS Backup is the account's",
        )
        accept(
            self.instance,
            "AwsSolutions-IAM4[Policy::arn:<AWS::Partition>:iam::aws:policy/service-role/"
            "AmazonRDSEnhancedMonitoringRole]",
            reason="The policy that AWS makes for this purpose, on a role that only RDS monitoring assumes",
        )
        if not environment.protect:
            accept(
                self.instance,
                "AwsSolutions-RDS10",
                "RDSInstanceDeletionProtectionEnabled",
                reason="The environment file says protect: false, so that the environment can be destroyed",
            )
        if not environment.database.multi_az:
            accept(
                self.instance,
                "AwsSolutions-RDS3",
                "RDSMultiAZSupport",
                "CKV_AWS_157",
                reason="The environment file says database.multi_az: false",
            )
