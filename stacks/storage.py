"""What must never be lost: the database, the artifacts, the secrets and the key that encrypts them."""

from __future__ import annotations

import aws_cdk as cdk
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_secretsmanager as secretsmanager
from constructs import Construct

from stacks.database import MysqlDatabase
from stacks.environment import Environment
from stacks.findings import accept, accept_functions_of_cdk


class StorageStack(cdk.Stack):
    """The state of the tracking server.

    Attributes:
        key: encrypts everything below, and the log groups and topics of the other stacks.
        bucket: the artifacts. access_logs: who fetched them, and what the load balancer served.
        database: the database, or None when an existing one is used.
        database_host: its endpoint. login: the secret with its user name and password.
        seed: the secret from which the server derives its session and encryption keys.
        log_in, read_seed, read_artifacts, write_artifacts: policies for the roles of others.
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
        )
        self._environment = environment
        self._removal = cdk.RemovalPolicy.RETAIN if environment.protect else cdk.RemovalPolicy.DESTROY
        self.key = self._key()
        self.access_logs = self._access_logs()
        self.bucket = self._bucket()
        self.seed = self._seed()
        self.database: MysqlDatabase | None = None
        self.login: secretsmanager.ISecret
        if environment.database.imported:
            self.database_host = str(environment.database.host)
            self.login = secretsmanager.Secret.from_secret_complete_arn(
                self, "Login", str(environment.database.secret_arn)
            )
        else:
            self.database = MysqlDatabase(
                self,
                "Database",
                environment=environment,
                key=self.key,
                vpc=vpc,
                subnets=subnets,
                security_group=security_group,
            )
            self.database_host = self.database.instance.db_instance_endpoint_address
            self.login = self.database.login
        self._policies()
        accept_functions_of_cdk(self)

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
            removal_policy=self._removal,
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
        bucket = s3.Bucket(
            self,
            "AccessLogs",
            encryption=s3.BucketEncryption.S3_MANAGED,
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            enforce_ssl=True,
            object_ownership=s3.ObjectOwnership.BUCKET_OWNER_ENFORCED,
            versioned=True,
            lifecycle_rules=[
                s3.LifecycleRule(
                    expiration=cdk.Duration.days(self._environment.logs.retention_days),
                    noncurrent_version_expiration=cdk.Duration.days(1),
                )
            ],
            removal_policy=self._removal,
            auto_delete_objects=not self._environment.protect,
        )
        accept(
            bucket,
            "S3DefaultEncryptionKMS",
            reason="Load balancers and S3 write their logs only to buckets that are encrypted with S3's own keys",
        )
        accept(bucket, "S3BucketReplicationEnabled", reason="Logs are kept for a time, not for ever")
        accept(bucket, "CKV_AWS_18", reason="Logging reads of the log would feed itself")
        if self._environment.artifacts.bucket_name:
            accept(
                bucket,
                "AwsSolutions-S1",
                "S3BucketLoggingEnabled",
                reason="Logging reads of the log would feed itself",
            )
        return bucket

    def _bucket(self) -> s3.IBucket:
        artifacts = self._environment.artifacts
        if artifacts.bucket_name:
            return s3.Bucket.from_bucket_name(self, "Artifacts", artifacts.bucket_name)
        bucket = s3.Bucket(
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
            removal_policy=self._removal,
            auto_delete_objects=not self._environment.protect,
        )
        accept(
            bucket,
            "S3BucketReplicationEnabled",
            reason="Versions protect against deletion; a copy in a second region doubles the cost and is for the owner",
        )
        return bucket

    def _seed(self) -> secretsmanager.Secret:
        seed = secretsmanager.Secret(
            self,
            "Seed",
            description="Session and encryption keys of the MLflow server are derived from it",
            generate_secret_string=secretsmanager.SecretStringGenerator(
                secret_string_template="{}",  # noqa: S106 - the seed is generated into it
                generate_string_key="seed",
                password_length=64,
                exclude_punctuation=True,
            ),
            removal_policy=self._removal,
        )
        # Not by `encryption_key`, which would add a statement to the key that names a host of the aws partition.
        resource = seed.node.default_child
        assert isinstance(resource, secretsmanager.CfnSecret)  # noqa: S101 - what an L2 is made of
        resource.kms_key_id = self.key.key_arn
        accept(
            seed,
            "AwsSolutions-SMG4",
            "SecretsManagerRotationEnabled",
            reason="It encrypts what is in the database: a new one would make stored webhook secrets unreadable",
        )
        return seed

    def _policies(self) -> None:
        """What others may be allowed here, in portions that make sense; `composition` hands them out."""
        artifacts, database = self._environment.artifacts, self._environment.database
        prefix = artifacts.prefix
        objects = self.bucket.arn_for_objects(f"{prefix}/*")
        login_key = database.secret_kms_key_arn if database.imported else self.key.key_arn
        bucket_key = artifacts.bucket_kms_key_arn if artifacts.bucket_name else self.key.key_arn
        self.log_in = self._policy(
            "LogIn",
            "Log in to the MLflow database",
            iam.PolicyStatement(actions=["secretsmanager:GetSecretValue"], resources=[self.login.secret_arn]),
            *self._use_key(login_key, "kms:Decrypt", by="secretsmanager"),
        )
        self.read_seed = self._policy(
            "ReadSeed",
            "Derive the keys of the MLflow server",
            iam.PolicyStatement(actions=["secretsmanager:GetSecretValue"], resources=[self.seed.secret_arn]),
            *self._use_key(self.key.key_arn, "kms:Decrypt", by="secretsmanager"),
        )
        self.read_artifacts = self._policy(
            "ReadArtifacts",
            "List and read the artifacts of MLflow",
            iam.PolicyStatement(
                actions=["s3:ListBucket"],
                resources=[self.bucket.bucket_arn],
                conditions={"StringLike": {"s3:prefix": [prefix, f"{prefix}/*"]}},
            ),
            iam.PolicyStatement(actions=["s3:GetObject"], resources=[objects]),
            *self._use_key(bucket_key, "kms:Decrypt", by="s3"),
        )
        self.write_artifacts = self._policy(
            "WriteArtifacts",
            "Write and delete artifacts of MLflow",
            iam.PolicyStatement(
                actions=[
                    "s3:PutObject",
                    "s3:DeleteObject",
                    "s3:AbortMultipartUpload",
                    "s3:ListMultipartUploadParts",
                ],
                resources=[objects],
            ),
            *self._use_key(bucket_key, "kms:Decrypt", "kms:GenerateDataKey", by="s3"),
        )
        for policy in (self.read_artifacts, self.write_artifacts):
            accept(
                policy,
                f"AwsSolutions-IAM5[Resource::{self._shown_bucket()}/{prefix}/*]",
                reason="All artifacts are under this prefix",
            )

    def _shown_bucket(self) -> str:
        """The ARN of the bucket as cdk-nag writes it."""
        name = self._environment.artifacts.bucket_name
        if name:
            return f"arn:<AWS::Partition>:s3:::{name}"
        resource = self.bucket.node.default_child
        assert isinstance(resource, s3.CfnBucket)  # noqa: S101 - what an L2 is made of
        return f"<{self.get_logical_id(resource)}.Arn>"

    def _policy(self, id: str, description: str, *statements: iam.PolicyStatement) -> iam.ManagedPolicy:
        return iam.ManagedPolicy(self, f"{id}Policy", description=description, statements=list(statements))

    def _use_key(self, key_arn: str | None, *actions: str, by: str) -> list[iam.PolicyStatement]:
        """The use of a key for what the service `by` keeps, and for nothing else; none without a key of one's own."""
        if key_arn is None:
            return []
        return [
            iam.PolicyStatement(
                actions=list(actions),
                resources=[key_arn],
                conditions={"StringLike": {"kms:ViaService": f"{by}.{self.region}.*"}},
            )
        ]
