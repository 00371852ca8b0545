"""A small app with one of each thing behind which something runs; `-c port=` is the listener's."""

import aws_cdk as cdk
from aws_cdk import (
    aws_ec2 as ec2,
)
from aws_cdk import (
    aws_ecr_assets as ecr_assets,
)
from aws_cdk import (
    aws_ecs as ecs,
)
from aws_cdk import (
    aws_elasticloadbalancingv2 as elbv2,
)
from aws_cdk import (
    aws_iam as iam,
)
from aws_cdk import (
    aws_lambda as lambda_,
)
from aws_cdk import (
    aws_logs as logs,
)
from aws_cdk import (
    aws_rds as rds,
)
from aws_cdk import (
    aws_s3 as s3,
)
from aws_cdk import (
    aws_secretsmanager as secretsmanager,
)
from aws_cdk import (
    aws_ssm as ssm,
)
from constructs import Construct


class Tiny(cdk.Stack):
    """A network, a database, a bucket, a custom resource and a service behind a load balancer."""

    def __init__(self, scope: Construct, id: str, **properties: object) -> None:
        super().__init__(scope, id, **properties)
        vpc = ec2.Vpc(self, "Vpc", max_azs=2, nat_gateways=1, restrict_default_security_group=True)
        database = rds.DatabaseInstance(
            self,
            "Database",
            engine=rds.DatabaseInstanceEngine.mysql(version=rds.MysqlEngineVersion.VER_8_4_6),
            vpc=vpc,
            database_name="tiny",
            manage_master_user_password=True,
            credentials=rds.Credentials.from_username("tiny_admin"),
            parameters={"log_bin_trust_function_creators": "1"},
            instance_type=ec2.InstanceType("t4g.micro"),
            deletion_protection=False,
            removal_policy=cdk.RemovalPolicy.DESTROY,
        )
        bucket = s3.Bucket(
            self,
            "Bucket",
            versioned=True,
            enforce_ssl=True,
            removal_policy=cdk.RemovalPolicy.DESTROY,
            auto_delete_objects=True,
        )
        secret = secretsmanager.Secret(
            self,
            "Seed",
            generate_secret_string=secretsmanager.SecretStringGenerator(
                secret_string_template="{}", generate_string_key="seed", exclude_punctuation=True
            ),
        )
        log_group = logs.LogGroup(self, "Log", removal_policy=cdk.RemovalPolicy.DESTROY)

        definition = ecs.FargateTaskDefinition(self, "Task", cpu=256, memory_limit_mib=512)
        definition.add_container(
            "main",
            image=ecs.ContainerImage.from_docker_image_asset(
                ecr_assets.DockerImageAsset(self, "Image", directory="container")
            ),
            command=["serve"],
            environment={
                "DATABASE_HOST": database.db_instance_endpoint_address,
                "DATABASE_PORT": database.db_instance_endpoint_port,
                "BUCKET": bucket.bucket_name,
                "COLOUR": "blue",
            },
            secrets={"SEED": ecs.Secret.from_secrets_manager(secret, "seed")},
            port_mappings=[ecs.PortMapping(container_port=5000)],
            stop_timeout=cdk.Duration.seconds(5),
            logging=ecs.LogDrivers.aws_logs(log_group=log_group, stream_prefix="serve"),
        )
        bucket.grant_put(definition.task_role, "allowed/*")

        function = lambda_.Function(
            self,
            "Function",
            runtime=lambda_.Runtime.PYTHON_3_13,
            handler="handler.handler",
            code=lambda_.Code.from_asset("functions"),
            timeout=cdk.Duration.seconds(20),
            environment={"LOG_GROUP": log_group.log_group_name},
        )
        custom = cdk.CustomResource(
            self,
            "Greeting",
            resource_type="Custom::Greeting",
            service_token=function.function_arn,
            properties={
                "Name": "world",
                "TaskRole": definition.task_role.role_arn,
                "Number": 5,
            },
        )
        ssm.StringParameter(
            self, "Parameter", parameter_name="/tiny/Greeting", string_value=custom.get_att_string("Text")
        )

        service = ecs.FargateService(
            self,
            "Service",
            cluster=ecs.Cluster(self, "Cluster", vpc=vpc),
            task_definition=definition,
            desired_count=1,
            min_healthy_percent=100,
            circuit_breaker=ecs.DeploymentCircuitBreaker(rollback=True),
        )
        balancer = elbv2.ApplicationLoadBalancer(self, "Balancer", vpc=vpc, internet_facing=False)
        port = int(self.node.try_get_context("port"))
        listener = balancer.add_listener(
            "Listener", port=port, open=False, protocol=elbv2.ApplicationProtocol.HTTP
        )
        listener.add_targets(
            "Targets",
            port=5000,
            protocol=elbv2.ApplicationProtocol.HTTP,
            targets=[service],
            deregistration_delay=cdk.Duration.seconds(10),
            health_check=elbv2.HealthCheck(
                path="/health",
                interval=cdk.Duration.seconds(5),
                timeout=cdk.Duration.seconds(2),
                unhealthy_threshold_count=2,
            ),
        )
        service.node.add_dependency(custom)
        database.connections.allow_default_port_from(service)
        reader = iam.Role(self, "Reader", assumed_by=iam.AccountRootPrincipal())
        bucket.grant_read(reader)

        for name, value in {
            "Uri": f"http://{balancer.load_balancer_dns_name}:{port}",
            "Greeting": custom.get_att_string("Text"),
            "BucketName": bucket.bucket_name,
            "DatabaseEndpoint": database.instance_endpoint.socket_address,
            "ReaderRoleArn": reader.role_arn,
            "SecretArn": secret.secret_arn,
        }.items():
            cdk.CfnOutput(self, f"{name}Output", key=name, value=value)


app = cdk.App()
Tiny(app, "tiny")
app.synth()
