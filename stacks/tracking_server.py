"""What is replaced on every deployment: the image, the schema migration, the service and its front."""

from __future__ import annotations

import re
from pathlib import Path

import aws_cdk as cdk
from aws_cdk import aws_applicationautoscaling as applicationautoscaling
from aws_cdk import aws_ecr_assets as ecr_assets
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_elasticloadbalancingv2 as elbv2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from constructs import Construct

from stacks.access import ROLES, AccessStack, policy_document, tracking_server_arn
from stacks.cloudfront_front import CloudFrontFront
from stacks.domain_front import DomainFront
from stacks.environment import Environment
from stacks.findings import accept
from stacks.front import InternalFront, LoadBalancedFront
from stacks.front_section import FrontKind
from stacks.log_groups import grant_write, log_group
from stacks.network import SERVER_PORT, NetworkStack
from stacks.roles import service_role
from stacks.schema_migration import SchemaMigration
from stacks.storage import StorageStack

CONTAINER = Path(__file__).parent.parent / "container"
CONTAINER_NAME = "tracking-server"

PLATFORM = {"arm64": ecr_assets.Platform.LINUX_ARM64, "amd64": ecr_assets.Platform.LINUX_AMD64}
TASK_ARCHITECTURE = {"arm64": ecs.CpuArchitecture.ARM64, "amd64": ecs.CpuArchitecture.X86_64}
FUNCTION_ARCHITECTURE = {"arm64": lambda_.Architecture.ARM_64, "amd64": lambda_.Architecture.X86_64}

FRONTS: dict[FrontKind, type[CloudFrontFront | DomainFront | InternalFront]] = {
    "cloudfront": CloudFrontFront,
    "domain": DomainFront,
    "internal": InternalFront,
}

#: How long the load balancer keeps sending to a task that is being stopped.
DEREGISTRATION_SECONDS = 30
#: The longest that Fargate waits between SIGTERM and SIGKILL.
STOP_SECONDS = 120
#: MLflow waits this long for a database that is not there yet, and a health check must not end it meanwhile.
GRACE_SECONDS = 180
#: The migration runs alone in one process.
MIGRATION_CPU, MIGRATION_MEMORY_MIB = 512, 2048


def mlflow_version() -> str:
    """The version of MLflow that the image pins.

    Raises:
        ValueError: container/requirements.txt pins none.
    """
    pinned = re.search(r"^mlflow==([^\s;]+)", (CONTAINER / "requirements.txt").read_text(), re.MULTILINE)
    if not pinned:
        raise ValueError("container/requirements.txt pins no mlflow")
    return pinned[1]


def trusts_databases_of(region: str) -> bool:
    """Whether the image holds the authorities that sign the certificates of RDS in `region`.

    The bundle names each authority, as in `# Amazon RDS eu-west-1 Root CA RSA2048 G1`, above its certificate.
    """
    return f"\n# Amazon RDS {region} Root CA" in "\n" + (CONTAINER / "rds-trust-bundle.pem").read_text()


class TrackingServerStack(cdk.Stack):
    """The MLflow tasks behind a load balancer.

    Attributes:
        server_role, migration_role: what the server and the schema migration act as; without rights so far.
        front: the load balancer and its names.
        service, target_group, log_group: for alarms.
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
        access: AccessStack,
    ) -> None:
        super().__init__(scope, id, env=env, description="MLflow AWS Kit: tracking server")
        if not trusts_databases_of(environment.region):
            cdk.Annotations.of(self).add_warning_v2(
                "mlflow-aws-kit:rds-trust-bundle",
                f"The image does not know the authorities of RDS in {environment.region}: its server would refuse "
                "the database. Run `.venv/bin/python container/refresh_trust_bundle.py` once before deploying.",
            )
        self._environment = environment
        self._network = network
        self._storage = storage
        self._access = access
        self._image = ecr_assets.DockerImageAsset(
            self,
            "Image",
            directory=str(CONTAINER),
            exclude=["**/__pycache__", "**/*.pyc"],
            platform=PLATFORM[environment.tracking_server.architecture],
        )
        self.image_uri = self._image.image_uri
        self.log_group = log_group(self, "Log", environment=environment, key=storage.key)
        self._cluster = ecs.Cluster(
            self, "Cluster", vpc=network.vpc, container_insights_v2=ecs.ContainerInsights.ENABLED
        )
        self.front: LoadBalancedFront = FRONTS[environment.front_kind](
            self, "Front", environment=environment, network=network, storage=storage
        )
        self._execution_role = self._role_of_the_agent()
        self.migration_role = service_role(self, "MigrationRole", service="ecs-tasks.amazonaws.com")
        self.server_role = service_role(self, "ServerRole", service="ecs-tasks.amazonaws.com")

        migration = self._migration()
        self.service = self._service()
        self.service.node.add_dependency(migration)
        self.target_group = self._target_group()
        self.front.serve(self.target_group)
        self._scale()

    def _role_of_the_agent(self) -> iam.Role:
        """What ECS itself may do to start a task; the task has a role of its own."""
        policy = iam.ManagedPolicy(self, "ExecutionPolicy", description="Pull the image, write logs")
        grant_write(self.log_group, policy)
        policy.add_statements(
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
        accept(
            policy, "AwsSolutions-IAM5[Resource::*]", reason="ecr:GetAuthorizationToken has no resource type"
        )
        return service_role(self, "ExecutionRole", service="ecs-tasks.amazonaws.com", policies=(policy,))

    def _database_environment(self) -> dict[str, str]:
        database = self._environment.database
        return {
            "DATABASE_HOST": self._storage.database_host,
            "DATABASE_PORT": str(database.port),
            "DATABASE_NAME": database.name,
            "DATABASE_SECRET_ARN": self._storage.login.secret_arn,
        }

    def _server_environment(self) -> dict[str, str]:
        environment = self._environment
        sizing = environment.sizing
        return (
            self._database_environment()
            | self._access_environment()
            | {
                "SERVER_SECRET_ARN": self._storage.seed.secret_arn,
                "MLFLOW_ARTIFACTS_DESTINATION": self._storage.artifacts_uri,
                "ARTIFACT_ACCESS": environment.artifacts.access,
                "MLFLOW_SERVER_ALLOWED_HOSTS": self.front.allowed_hosts,
                "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": ",".join(self.front.origins),
                "MLFLOW_WORKERS": str(sizing.workers),
                "SERVER_THREADS": str(sizing.threads),
                "DATABASE_POOL_SIZE": str(sizing.pool_size),
                "SERVER_DRAIN_SECONDS": str(environment.tracking_server.drain_seconds),
            }
        )

    def _access_environment(self) -> dict[str, str]:
        """What the server needs to tell who calls and what they may do."""
        environment = self._environment
        variables = {
            "ACCESS_ENGINE": environment.engine,
            "TRACKING_SERVER_ARN": tracking_server_arn(self, environment.name),
            "ACCESS_STS_REGIONS": environment.sts_regions,
            "ACCESS_TRUSTED_PROXIES": str(self.front.trusted_proxies),
            "ACCESS_AUDIT_LOG_GROUP": self._access.audit_log.log_group_name,
            "ACCESS_EXPERIMENT_PERMISSIONS": str(environment.access.experiment_permissions).lower(),
        }
        if environment.engine == "roles":
            variables["ACCESS_ROLES"] = self._policies_by_role()
        if environment.access.web_identity_issuer:
            variables["ACCESS_WEB_IDENTITY_ISSUER"] = environment.access.web_identity_issuer
        return variables

    def _policies_by_role(self) -> str:
        """The policy of each role of the kit, by the id that STS gives as the start of its callers' `UserId`."""
        arn = tracking_server_arn(self, self._environment.name)
        return self.to_json_string(
            {
                self._access.roles[role].role_id: {
                    "name": role,
                    "arn": self._access.roles[role].role_arn,
                    "policy": policy_document(file, arn),
                }
                for file, role in ROLES.items()
            }
        )

    def _task_definition(
        self,
        id: str,
        *,
        command: str,
        cpu: int,
        memory_mib: int,
        role: iam.Role,
        variables: dict[str, str],
        ports: list[int],
    ) -> ecs.FargateTaskDefinition:
        """A task that runs `command` of the image as `role`, and can write nowhere but to /tmp."""
        task_definition = ecs.FargateTaskDefinition(
            self,
            id,
            cpu=cpu,
            memory_limit_mib=memory_mib,
            execution_role=self._execution_role.without_policy_updates(),
            task_role=role,
            runtime_platform=ecs.RuntimePlatform(
                operating_system_family=ecs.OperatingSystemFamily.LINUX,
                cpu_architecture=TASK_ARCHITECTURE[self._environment.tracking_server.architecture],
            ),
            volumes=[ecs.Volume(name="tmp")],
        )
        linux = ecs.LinuxParameters(self, f"{id}Linux", init_process_enabled=True)
        linux.drop_capabilities(ecs.Capability.ALL)
        container = task_definition.add_container(
            CONTAINER_NAME,
            image=ecs.ContainerImage.from_docker_image_asset(self._image),
            command=[command],
            environment=variables,
            port_mappings=[ecs.PortMapping(container_port=port) for port in ports],
            readonly_root_filesystem=True,
            linux_parameters=linux,
            stop_timeout=cdk.Duration.seconds(STOP_SECONDS),
            logging=ecs.LogDrivers.aws_logs(log_group=self.log_group, stream_prefix=command),
        )
        accept(
            task_definition,
            "AwsSolutions-ECS2",
            reason="The variables are settings and ARNs of secrets; the process itself reads the secrets",
        )
        container.add_mount_points(
            ecs.MountPoint(source_volume="tmp", container_path="/tmp", read_only=False)  # noqa: S108
        )
        return task_definition

    def _migration(self) -> SchemaMigration:
        command = "migrate"
        return SchemaMigration(
            self,
            "SchemaMigration",
            cluster=self._cluster,
            task_definition=self._task_definition(
                "Migration",
                command=command,
                cpu=MIGRATION_CPU,
                memory_mib=MIGRATION_MEMORY_MIB,
                role=self.migration_role,
                variables=self._database_environment(),
                ports=[],
            ),
            task_log_group=self.log_group,
            log_stream_prefix=f"{command}/{CONTAINER_NAME}",
            subnets=self._network.vpc.select_subnets(
                subnet_type=self._network.subnets.subnet_type
            ).subnet_ids,
            security_group=self._network.server,
            architecture=FUNCTION_ARCHITECTURE[self._environment.tracking_server.architecture],
            log_group=log_group(self, "MigrationLog", environment=self._environment, key=self._storage.key),
            hours=self._environment.tracking_server.migration_timeout_hours,
        )

    def _service(self) -> ecs.FargateService:
        sizing = self._environment.sizing
        return ecs.FargateService(
            self,
            "Service",
            cluster=self._cluster,
            task_definition=self._task_definition(
                "Server",
                command="serve",
                cpu=sizing.cpu,
                memory_mib=sizing.memory_mib,
                role=self.server_role,
                variables=self._server_environment(),
                ports=[SERVER_PORT],
            ),
            vpc_subnets=self._network.subnets,
            security_groups=[self._network.server],
            assign_public_ip=False,
            min_healthy_percent=100,
            max_healthy_percent=200,
            circuit_breaker=ecs.DeploymentCircuitBreaker(enable=True, rollback=True),
            health_check_grace_period=cdk.Duration.seconds(GRACE_SECONDS),
            propagate_tags=ecs.PropagatedTagSource.SERVICE,
        )

    def _target_group(self) -> elbv2.ApplicationTargetGroup:
        return elbv2.ApplicationTargetGroup(
            self,
            "Targets",
            vpc=self._network.vpc,
            port=SERVER_PORT,
            protocol=elbv2.ApplicationProtocol.HTTP,
            targets=[self.service],
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

    def _scale(self) -> None:
        """Out within a minute, in after ten quiet ones."""
        sizing = self._environment.sizing
        out, back = cdk.Duration.minutes(1), cdk.Duration.minutes(10)
        scaling = self.service.auto_scale_task_count(
            min_capacity=sizing.min_tasks, max_capacity=sizing.max_tasks
        )
        for target in scaling.node.find_all():
            if isinstance(target, applicationautoscaling.CfnScalableTarget):
                # The service-linked role is found by itself, and its ARN differs in more than the partition.
                target.add_property_deletion_override("RoleARN")
        scaling.scale_on_request_count(
            "Requests",
            target_group=self.target_group,
            requests_per_target=sizing.requests_per_task_per_minute,
            scale_out_cooldown=out,
            scale_in_cooldown=back,
        )
        scaling.scale_on_cpu_utilization(
            "Cpu",
            target_utilization_percent=sizing.cpu_percent,
            scale_out_cooldown=out,
            scale_in_cooldown=back,
        )
