"""What is replaced on every deployment: the image, the schema migration, the service and its load balancer."""

from __future__ import annotations

import re
from pathlib import Path

import aws_cdk as cdk
from aws_cdk import aws_certificatemanager as acm
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_ecr_assets as ecr_assets
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_elasticloadbalancingv2 as elbv2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from constructs import Construct

from stacks.environment import Environment
from stacks.log_groups import grant_write, log_group
from stacks.network import SERVER_PORT, NetworkStack
from stacks.roles import service_role
from stacks.schema_migration import SchemaMigration
from stacks.storage import StorageStack

CONTAINER = Path(__file__).parent.parent / "container"
CONTAINER_NAME = "tracking-server"

#: How long the load balancer keeps sending to a task that is being stopped.
DEREGISTRATION_SECONDS = 30
#: The longest that Fargate waits between SIGTERM and SIGKILL.
STOP_SECONDS = 120
#: MLflow waits this long for a database that is not there yet, and a health check must not kill it meanwhile.
GRACE_SECONDS = 180


def mlflow_version() -> str:
    """The version of MLflow that the image pins.

    Raises:
        ValueError: container/requirements.txt pins none.
    """
    pinned = re.search(r"^mlflow==([^\s;]+)", (CONTAINER / "requirements.txt").read_text(), re.MULTILINE)
    if not pinned:
        raise ValueError("container/requirements.txt pins no mlflow")
    return pinned[1]


class TrackingServerStack(cdk.Stack):
    """The MLflow tasks behind a load balancer.

    Attributes:
        server_policy: rights of the server. migration_policy: rights of the schema migration.
        load_balancer, target_group, service, log_group: for alarms.
        tracking_uri: what clients give to MLflow.
        image_uri: the image that runs.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        env: cdk.Environment,
        environment: Environment,
        network: NetworkStack,
        storage: StorageStack,
    ) -> None:
        super().__init__(scope, id, env=env, description="MLflow AWS Kit: tracking server")
        self._environment = environment
        self._network = network
        self._storage = storage
        self._image = ecr_assets.DockerImageAsset(
            self,
            "Image",
            directory=str(CONTAINER),
            exclude=["**/__pycache__", "**/*.pyc"],
            platform={"arm64": ecr_assets.Platform.LINUX_ARM64, "amd64": ecr_assets.Platform.LINUX_AMD64}[
                environment.tracking_server.architecture
            ],
        )
        self.image_uri = self._image.image_uri
        self.log_group = log_group(self, "Log", environment=environment, key=storage.key)
        self.cluster = ecs.Cluster(
            self, "Cluster", vpc=network.vpc, container_insights_v2=ecs.ContainerInsights.ENABLED
        )
        self.load_balancer = self._load_balancer()
        self.tracking_uri = f"{environment.front.scheme}://{self._authorities()[0]}"

        execution_policy = iam.ManagedPolicy(
            self, "ExecutionPolicy", description="Pull the image, write logs"
        )
        self._execution_role = service_role(
            self, "ExecutionRole", service="ecs-tasks.amazonaws.com", policy=execution_policy
        )
        execution_policy.add_statements(
            iam.PolicyStatement(actions=["ecr:GetAuthorizationToken"], resources=["*"]),
            iam.PolicyStatement(
                actions=[
                    "ecr:BatchCheckLayerAvailability",
                    "ecr:GetDownloadUrlForLayer",
                    "ecr:BatchGetImage",
                ],
                resources=[self._image.repository.repository_arn],
            ),
        )
        grant_write(self.log_group, execution_policy)

        self.migration_policy = iam.ManagedPolicy(
            self, "MigrationPolicy", description="MLflow schema migration"
        )
        self.server_policy = iam.ManagedPolicy(self, "ServerPolicy", description="MLflow tracking server")
        migration = self._migration()
        self.service, self.target_group = self._service()
        self.service.node.add_dependency(migration)

    def _load_balancer(self) -> elbv2.ApplicationLoadBalancer:
        load_balancer = elbv2.ApplicationLoadBalancer(
            self,
            "LoadBalancer",
            # The DNS name starts with this name. One that CloudFormation makes up has capital letters, which
            # browsers lower, and MLflow compares host names as they stand. The kind is part of it because a change
            # of kind creates a second load balancer before it deletes the first.
            load_balancer_name=f"{self._environment.name}-{self._environment.front.kind}",
            vpc=self._network.vpc,
            vpc_subnets=self._network.subnets,
            internet_facing=False,
            security_group=self._network.load_balancer,
            deletion_protection=self._environment.protect,
            drop_invalid_header_fields=True,
            idle_timeout=cdk.Duration.seconds(60),
        )
        load_balancer.log_access_logs(self._storage.access_logs, prefix="load-balancer")
        return load_balancer

    def _authorities(self) -> list[str]:
        """Host names under which clients reach the server, the first choice first, with the port where it shows."""
        front = self._environment.front
        port = (
            ""
            if front.listener_port == {"http": 80, "https": 443}[front.scheme]
            else f":{front.listener_port}"
        )
        hosts = [*front.host_names, self.load_balancer.load_balancer_dns_name]
        return [f"{host}{port}" for host in hosts]

    def _server_environment(self) -> dict[str, str]:
        environment = self._environment
        sizing, front = environment.sizing, environment.front
        hosts = [*front.host_names, self.load_balancer.load_balancer_dns_name]
        return self._database_environment() | {
            "SERVER_SECRET_ARN": self._storage.seed.secret_arn,
            "MLFLOW_ARTIFACTS_DESTINATION": self._storage.artifacts_uri,
            "ARTIFACT_ACCESS": environment.artifacts.access,
            "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join(form for host in hosts for form in (host, f"{host}:*")),
            "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": ",".join(
                f"{front.scheme}://{authority}" for authority in self._authorities()
            ),
            "MLFLOW_WORKERS": str(sizing.workers),
            "SERVER_THREADS": str(sizing.threads),
            "DATABASE_POOL_SIZE": str(sizing.pool_size),
            "SERVER_DRAIN_SECONDS": str(environment.tracking_server.drain_seconds),
        }

    def _database_environment(self) -> dict[str, str]:
        database = self._environment.database
        return {
            "DATABASE_HOST": self._storage.database_host,
            "DATABASE_PORT": str(database.port),
            "DATABASE_NAME": database.name,
            "DATABASE_SECRET_ARN": self._storage.login.secret_arn,
        }

    def _task_definition(
        self,
        id: str,
        *,
        policy: iam.ManagedPolicy,
        command: str,
        cpu: int,
        memory_mib: int,
        variables: dict[str, str],
    ) -> ecs.FargateTaskDefinition:
        """A task with one container that runs `command` of the image, cannot write but to /tmp, and is not root."""
        architecture = self._environment.tracking_server.architecture
        task_definition = ecs.FargateTaskDefinition(
            self,
            id,
            cpu=cpu,
            memory_limit_mib=memory_mib,
            execution_role=self._execution_role.without_policy_updates(),
            task_role=service_role(self, f"{id}Role", service="ecs-tasks.amazonaws.com", policy=policy),
            runtime_platform=ecs.RuntimePlatform(
                operating_system_family=ecs.OperatingSystemFamily.LINUX,
                cpu_architecture={"arm64": ecs.CpuArchitecture.ARM64, "amd64": ecs.CpuArchitecture.X86_64}[
                    architecture
                ],
            ),
            volumes=[ecs.Volume(name="tmp")],
        )
        container = task_definition.add_container(
            CONTAINER_NAME,
            image=ecs.ContainerImage.from_docker_image_asset(self._image),
            command=[command],
            environment=variables,
            readonly_root_filesystem=True,
            linux_parameters=ecs.LinuxParameters(self, f"{id}Linux", init_process_enabled=True),
            stop_timeout=cdk.Duration.seconds(STOP_SECONDS),
            logging=ecs.LogDrivers.aws_logs(log_group=self.log_group, stream_prefix=command),
        )
        container.add_mount_points(
            ecs.MountPoint(source_volume="tmp", container_path="/tmp", read_only=False)
        )  # noqa: S108
        return task_definition

    def _migration(self) -> SchemaMigration:
        command = "migrate"
        return SchemaMigration(
            self,
            "SchemaMigration",
            cluster=self.cluster,
            task_definition=self._task_definition(
                "Migration",
                policy=self.migration_policy,
                command=command,
                cpu=512,
                memory_mib=2048,
                variables=self._database_environment(),
            ),
            task_log_group=self.log_group,
            log_stream_prefix=f"{command}/{CONTAINER_NAME}",
            subnets=self._network.vpc.select_subnets(
                subnet_type=self._network.subnets.subnet_type
            ).subnet_ids,
            security_group=self._network.server,
            architecture={"arm64": lambda_.Architecture.ARM_64, "amd64": lambda_.Architecture.X86_64}[
                self._environment.tracking_server.architecture
            ],
            log_group=log_group(self, "MigrationLog", environment=self._environment, key=self._storage.key),
            hours=self._environment.tracking_server.migration_timeout_hours,
        )

    def _service(self) -> tuple[ecs.FargateService, elbv2.ApplicationTargetGroup]:
        sizing = self._environment.sizing
        task_definition = self._task_definition(
            "Server",
            policy=self.server_policy,
            command="serve",
            cpu=sizing.cpu,
            memory_mib=sizing.memory_mib,
            variables=self._server_environment(),
        )
        assert task_definition.default_container
        task_definition.default_container.add_port_mappings(ecs.PortMapping(container_port=SERVER_PORT))
        service = ecs.FargateService(
            self,
            "Service",
            cluster=self.cluster,
            task_definition=task_definition,
            vpc_subnets=self._network.subnets,
            security_groups=[self._network.server],
            assign_public_ip=False,
            min_healthy_percent=100,
            max_healthy_percent=200,
            circuit_breaker=ecs.DeploymentCircuitBreaker(enable=True, rollback=True),
            health_check_grace_period=cdk.Duration.seconds(GRACE_SECONDS),
            propagate_tags=ecs.PropagatedTagSource.SERVICE,
        )
        target_group = elbv2.ApplicationTargetGroup(
            self,
            "Targets",
            vpc=self._network.vpc,
            port=SERVER_PORT,
            protocol=elbv2.ApplicationProtocol.HTTP,
            targets=[service],
            deregistration_delay=cdk.Duration.seconds(DEREGISTRATION_SECONDS),
            health_check=elbv2.HealthCheck(
                path="/health",
                healthy_http_codes="200",
                interval=cdk.Duration.seconds(10),
                timeout=cdk.Duration.seconds(5),
                healthy_threshold_count=2,
                unhealthy_threshold_count=3,
            ),
        )
        front = self._environment.front
        self.load_balancer.add_listener(
            "Listener",
            port=front.listener_port,
            protocol=elbv2.ApplicationProtocol[front.scheme.upper()],
            certificates=[acm.Certificate.from_certificate_arn(self, "Certificate", front.certificate_arn)]
            if front.certificate_arn
            else None,
            open=False,
            default_target_groups=[target_group],
        )
        scaling = service.auto_scale_task_count(min_capacity=sizing.min_tasks, max_capacity=sizing.max_tasks)
        self._scale(scaling, target_group)
        return service, target_group

    def _scale(self, scaling: ecs.ScalableTaskCount, target_group: elbv2.ApplicationTargetGroup) -> None:
        """Out within a minute, in after ten quiet ones."""
        sizing = self._environment.sizing
        cooldown = {
            "scale_out_cooldown": cdk.Duration.minutes(1),
            "scale_in_cooldown": cdk.Duration.minutes(10),
        }
        scaling.scale_on_request_count(
            "Requests",
            target_group=target_group,
            requests_per_target=sizing.requests_per_task_per_minute,
            **cooldown,
        )
        scaling.scale_on_cpu_utilization("Cpu", target_utilization_percent=sizing.cpu_percent, **cooldown)
