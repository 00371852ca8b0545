"""What must never be lost: the database, the artifacts, the secrets and the key that encrypts them."""

from __future__ import annotations

from typing import cast

import aws_cdk as cdk
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_rds as rds
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_secretsmanager as secretsmanager
from constructs import Construct

from stacks.environment import Environment

#: Too small for Performance Insights of RDS for MySQL.
NO_PERFORMANCE_INSIGHTS = ("db.t4g.micro", "db.t4g.small", "db.t3.micro", "db.t3.small")


class StorageStack(cdk.Stack):
    """The state of the tracking server.

    Attributes:
        key: encrypts everything below, and the log groups and topics of the other stacks.
        bucket: the artifacts. access_logs: who fetched them, and what the load balancer served.
        database: the instance, or None when an existing one is used.
        database_host: the endpoint. login: the secret with user name and password.
        seed: the secret from which the server derives its session and encryption keys.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        env: cdk.Environment,
        environment: Environment,
        vpc: ec2.IVpc,
        subnets: ec2.SubnetSelection,
        security_group: ec2.ISecurityGroup,
    ) -> None:
        super().__init__(
            scope,
            id,
            env=env,
            description="MLflow AWS Kit: storage",
            termination_protection=environment.protect,
        )
        self._environment = environment
        self._keep = cdk.RemovalPolicy.RETAIN if environment.protect else cdk.RemovalPolicy.DESTROY
        self.key = self._key()
        self.access_logs = self._access_logs()
        self.bucket = self._bucket()
        self.seed = secretsmanager.Secret(
            self,
            "Seed",
            description="Session and encryption keys of the MLflow server are derived from it",
            encryption_key=self.key,
            generate_secret_string=secretsmanager.SecretStringGenerator(
                secret_string_template="{}",
                generate_string_key="seed",
                password_length=64,
                exclude_punctuation=True,
            ),
            removal_policy=self._keep,
        )
        self.login: secretsmanager.ISecret
        self.database: rds.DatabaseInstance | None = None
        if environment.database.imported:
            self.database_host = str(environment.database.host)
            self.login = secretsmanager.Secret.from_secret_complete_arn(
                self, "Login", str(environment.database.secret_arn)
            )
        else:
            self.database = self._database(vpc=vpc, subnets=subnets, security_group=security_group)
            self.database_host = self.database.db_instance_endpoint_address
            self.login = cast(secretsmanager.ISecret, self.database.secret)  # RDS made it

    def grant_login(self, policy: iam.ManagedPolicy) -> None:
        """Lets `policy` log in to the database."""
        key_arn = self._environment.database.secret_kms_key_arn or self.key.key_arn
        policy.add_statements(
            iam.PolicyStatement(actions=["secretsmanager:GetSecretValue"], resources=[self.login.secret_arn]),
            iam.PolicyStatement(actions=["kms:Decrypt"], resources=[key_arn]),
        )

    def grant_seed(self, policy: iam.ManagedPolicy) -> None:
        """Lets `policy` read the seed of the server's own keys."""
        policy.add_statements(
            iam.PolicyStatement(actions=["secretsmanager:GetSecretValue"], resources=[self.seed.secret_arn]),
            iam.PolicyStatement(actions=["kms:Decrypt"], resources=[self.key.key_arn]),
        )

    def grant_artifacts(self, policy: iam.ManagedPolicy) -> None:
        """Lets `policy` list, read, write and delete artifacts, and nothing else in the bucket."""
        prefix = self._environment.artifacts.prefix
        policy.add_statements(
            iam.PolicyStatement(
                actions=["s3:ListBucket"],
                resources=[self.bucket.bucket_arn],
                conditions={"StringLike": {"s3:prefix": [prefix, f"{prefix}/*"]}},
            ),
            iam.PolicyStatement(
                actions=[
                    "s3:GetObject",
                    "s3:PutObject",
                    "s3:DeleteObject",
                    "s3:AbortMultipartUpload",
                    "s3:ListMultipartUploadParts",
                ],
                resources=[self.bucket.arn_for_objects(f"{prefix}/*")],
            ),
            iam.PolicyStatement(actions=["kms:Decrypt", "kms:GenerateDataKey"], resources=[self.key.key_arn]),
        )

    @property
    def artifacts_uri(self) -> str:
        return f"s3://{self.bucket.bucket_name}/{self._environment.artifacts.prefix}"

    def _key(self) -> kms.IKey:
        environment = self._environment
        if environment.kms_key_arn:
            return kms.Key.from_key_arn(self, "Key", environment.kms_key_arn)
        key = kms.Key(
            self,
            "Key",
            description=f"Data of the MLflow tracking server {environment.name}",
            enable_key_rotation=True,
            removal_policy=self._keep,
        )
        log_groups = self.format_arn(
            service="logs",
            resource="log-group",
            resource_name="*",
            arn_format=cdk.ArnFormat.COLON_RESOURCE_NAME,
        )
        key.add_to_resource_policy(
            iam.PolicyStatement(
                sid="LogGroupsOfThisAccount",
                principals=[iam.ServicePrincipal(f"logs.{self.region}.{self.url_suffix}")],
                actions=[
                    "kms:Encrypt",
                    "kms:Decrypt",
                    "kms:ReEncrypt*",
                    "kms:GenerateDataKey*",
                    "kms:DescribeKey",
                ],
                resources=["*"],
                conditions={"ArnLike": {"kms:EncryptionContext:aws:logs:arn": log_groups}},
            )
        )
        key.add_to_resource_policy(
            iam.PolicyStatement(
                sid="AlarmsOfThisAccount",
                principals=[iam.ServicePrincipal("cloudwatch.amazonaws.com")],
                actions=["kms:Decrypt", "kms:GenerateDataKey*"],
                resources=["*"],
                conditions={"StringEquals": {"aws:SourceAccount": self.account}},
            )
        )
        return key

    def _access_logs(self) -> s3.Bucket:
        # S3 keys, not KMS: load balancers and S3 itself cannot write logs to a KMS-encrypted bucket.
        return s3.Bucket(
            self,
            "AccessLogs",
            encryption=s3.BucketEncryption.S3_MANAGED,
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            enforce_ssl=True,
            lifecycle_rules=[
                s3.LifecycleRule(expiration=cdk.Duration.days(self._environment.logs.retention_days))
            ],
            object_ownership=s3.ObjectOwnership.BUCKET_OWNER_ENFORCED,
            removal_policy=self._keep,
            auto_delete_objects=not self._environment.protect,
        )

    def _bucket(self) -> s3.IBucket:
        artifacts = self._environment.artifacts
        if artifacts.bucket_name:
            return s3.Bucket.from_bucket_name(self, "Artifacts", artifacts.bucket_name)
        return s3.Bucket(
            self,
            "Artifacts",
            encryption=s3.BucketEncryption.KMS,
            encryption_key=self.key,
            bucket_key_enabled=True,
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            enforce_ssl=True,
            versioned=True,
            lifecycle_rules=[
                s3.LifecycleRule(
                    abort_incomplete_multipart_upload_after=cdk.Duration.days(7),
                    noncurrent_version_expiration=cdk.Duration.days(artifacts.noncurrent_days),
                    expired_object_delete_marker=True,
                )
            ],
            server_access_logs_bucket=self.access_logs,
            server_access_logs_prefix="artifacts/",
            removal_policy=self._keep,
            auto_delete_objects=not self._environment.protect,
        )

    def _database(
        self, *, vpc: ec2.IVpc, subnets: ec2.SubnetSelection, security_group: ec2.ISecurityGroup
    ) -> rds.DatabaseInstance:
        environment = self._environment
        database, sizing = environment.database, environment.sizing
        engine = rds.DatabaseInstanceEngine.mysql(
            version=rds.MysqlEngineVersion.of(database.engine_version, database.engine_version)
        )
        parameters = rds.ParameterGroup(
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
                "max_connections": str(environment.max_connections),
            },
        )
        insights = sizing.database_class not in NO_PERFORMANCE_INSIGHTS
        instance = rds.DatabaseInstance(
            self,
            "Database",
            engine=engine,
            instance_type=ec2.InstanceType(sizing.database_class.removeprefix("db.")),
            parameter_group=parameters,
            database_name=database.name,
            port=database.port,
            credentials=rds.Credentials.from_username("mlflow", encryption_key=self.key),
            manage_master_user_password=True,
            vpc=vpc,
            vpc_subnets=subnets,
            security_groups=[security_group],
            publicly_accessible=False,
            multi_az=database.multi_az,
            storage_type=rds.StorageType.GP3,
            allocated_storage=database.storage_gib,
            max_allocated_storage=database.max_storage_gib,
            storage_encrypted=True,
            storage_encryption_key=self.key,
            backup_retention=cdk.Duration.days(database.backup_days),
            copy_tags_to_snapshot=True,
            delete_automated_backups=not environment.protect,
            deletion_protection=environment.protect,
            removal_policy=cdk.RemovalPolicy.SNAPSHOT if environment.protect else cdk.RemovalPolicy.DESTROY,
            auto_minor_version_upgrade=True,
            iam_authentication=True,
            monitoring_interval=cdk.Duration.minutes(1),
            enable_performance_insights=insights,
            performance_insight_encryption_key=self.key if insights else None,
            cloudwatch_logs_exports=["error", "slowquery"],
        )
        cdk.Validations.of(instance).acknowledge(
            cdk.Acknowledgment(
                id="CloudFormation-Validate::E9006",
                reason="A release track without a minor version lets RDS choose: a pinned minor is withdrawn one day",
            )
        )
        return instance
