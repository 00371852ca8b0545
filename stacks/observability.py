"""Alarms, each of which says what to do, a dashboard, and the flow log of the VPC."""

from __future__ import annotations

from dataclasses import dataclass

import aws_cdk as cdk
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as actions
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_elasticloadbalancingv2 as elbv2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_rds as rds
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sns_subscriptions as subscriptions
from constructs import Construct

from stacks.environment import Environment
from stacks.findings import accept
from stacks.log_groups import grant_write, log_group
from stacks.roles import service_role
from stacks.tracking_server import TrackingServerStack

MIB = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Watch:
    """One alarm: it rings when `metric` has been beyond `threshold` for `minutes`.

    Attributes:
        metric: a metric with a period of one minute.
        below: ring under the threshold instead of over it.
        silence: what no data means.
        advice: what happened and what to do, for whoever is woken.
    """

    name: str
    metric: cloudwatch.Metric
    threshold: float
    minutes: int
    advice: str
    below: bool = False
    silence: cloudwatch.TreatMissingData = cloudwatch.TreatMissingData.NOT_BREACHING


class ObservabilityStack(cdk.Stack):
    """Watches the other stacks; nothing depends on it.

    Attributes:
        topic: is told of every alarm, and when it is over.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        env: cdk.Environment,
        environment: Environment,
        vpc: ec2.IVpc,
        key: kms.IKey,
        tracking_server: TrackingServerStack,
        database: rds.DatabaseInstance | None,
    ) -> None:
        super().__init__(scope, id, env=env, description="MLflow AWS Kit: observability")
        self.topic = sns.Topic(self, "Alarms", master_key=key, enforce_ssl=True)
        # The policy that refuses plain HTTP takes the place of the one that lets the account's alarms publish.
        self.topic.add_to_resource_policy(
            iam.PolicyStatement(
                sid="AlarmsOfThisAccount",
                principals=[iam.ServicePrincipal("cloudwatch.amazonaws.com")],
                actions=["sns:Publish"],
                resources=[self.topic.topic_arn],
                conditions={"StringEquals": {"aws:SourceAccount": self.account}},
            )
        )
        if environment.alarms.email:
            self.topic.add_subscription(subscriptions.EmailSubscription(environment.alarms.email))
            accept(
                self.topic, "SNSRedrivePolicy", reason="Mail cannot be delivered a second time from a queue"
            )
        watched = server_watches(tracking_server, environment)
        if database:
            watched += database_watches(database, environment)
        self._dashboard(environment.name, [(watch, self._alarm(watch)) for watch in watched])
        if environment.network.flow_logs and not environment.network.imported:
            self._flow_log(environment=environment, vpc=vpc, key=key)

    def _alarm(self, watch: Watch) -> cloudwatch.Alarm:
        operator = cloudwatch.ComparisonOperator
        alarm = cloudwatch.Alarm(
            self,
            watch.name,
            alarm_description=watch.advice,
            metric=watch.metric,
            threshold=watch.threshold,
            comparison_operator=operator.LESS_THAN_THRESHOLD
            if watch.below
            else operator.GREATER_THAN_THRESHOLD,
            evaluation_periods=watch.minutes,
            treat_missing_data=watch.silence,
        )
        action = actions.SnsAction(self.topic)
        alarm.add_alarm_action(action)
        alarm.add_ok_action(action)
        return alarm

    def _dashboard(self, name: str, watched: list[tuple[Watch, cloudwatch.Alarm]]) -> None:
        dashboard = cloudwatch.Dashboard(self, "Dashboard", dashboard_name=name)
        dashboard.add_widgets(
            cloudwatch.AlarmStatusWidget(
                title=name, alarms=[alarm for _, alarm in watched], width=24, height=3
            )
        )
        dashboard.add_widgets(
            *(
                cloudwatch.GraphWidget(
                    title=watch.name,
                    left=[watch.metric],
                    left_annotations=[alarm.to_annotation()],
                    width=8,
                )
                for watch, alarm in watched
            )
        )

    def _flow_log(self, *, environment: Environment, vpc: ec2.IVpc, key: kms.IKey) -> None:
        log = log_group(self, "FlowLog", environment=environment, key=key)
        policy = iam.ManagedPolicy(self, "FlowLogPolicy", description="Write the flow log of the VPC")
        grant_write(log, policy)
        policy.add_statements(
            iam.PolicyStatement(actions=["logs:DescribeLogStreams"], resources=[log.log_group_arn])
        )
        role = service_role(self, "FlowLogRole", service="vpc-flow-logs.amazonaws.com", policies=(policy,))
        ec2.FlowLog(
            self,
            "VpcFlowLog",
            resource_type=ec2.FlowLogResourceType.from_vpc(vpc),
            destination=ec2.FlowLogDestination.to_cloud_watch_logs(log, role.without_policy_updates()),
        )


def server_watches(server: TrackingServerStack, environment: Environment) -> list[Watch]:
    """What is watched of the load balancer and the tasks."""
    minute = cdk.Duration.minutes(1)
    balancer, targets, service = (
        server.front.load_balancer.metrics,
        server.target_group.metrics,
        server.service,
    )
    return [
        Watch(
            name="ServerErrors",
            metric=targets.http_code_target(elbv2.HttpCodeTarget.TARGET_5XX_COUNT, period=minute),
            threshold=5,
            minutes=5,
            advice="MLflow answers with errors. Read the errors in the log group of the tracking server; when they name "
            "the database, look at its alarms first.",
        ),
        Watch(
            name="LoadBalancerErrors",
            metric=balancer.http_code_elb(elbv2.HttpCodeElb.ELB_5XX_COUNT, period=minute),
            threshold=5,
            minutes=5,
            advice="The load balancer found no task to answer. Look at the events of the ECS service: tasks that fail "
            "their health check or are being replaced say why.",
        ),
        Watch(
            name="UnhealthyTasks",
            metric=targets.unhealthy_host_count(period=minute, statistic="Maximum"),
            threshold=0,
            minutes=5,
            advice="A task fails its health check and ECS will replace it. If it comes back, read the last lines of "
            "its log stream.",
        ),
        Watch(
            name="TooFewTasks",
            metric=targets.healthy_host_count(period=minute, statistic="Minimum"),
            threshold=environment.sizing.min_tasks,
            minutes=10,
            below=True,
            silence=cloudwatch.TreatMissingData.BREACHING,
            advice="Fewer tasks answer than should. Read why tasks stopped in the ECS service; a task that cannot "
            "reach the database says so in its log.",
        ),
        Watch(
            name="SlowAnswers",
            metric=targets.target_response_time(period=minute, statistic="p95"),
            threshold=3,
            minutes=15,
            advice="One request in twenty takes more than three seconds. If the tasks or the database are busy, choose "
            "a larger size; if not, look for searches over very many runs in the access log.",
        ),
        Watch(
            name="TaskCpu",
            metric=service.metric_cpu_utilization(period=minute),
            threshold=85,
            minutes=15,
            advice="All tasks are busy and no more are added: raise tracking_server.max_tasks or the size.",
        ),
        Watch(
            name="TaskMemory",
            metric=service.metric_memory_utilization(period=minute),
            threshold=85,
            minutes=15,
            advice="Tasks may be killed for want of memory: raise tracking_server.memory_mib or lower workers.",
        ),
    ]


def database_watches(database: rds.DatabaseInstance, environment: Environment) -> list[Watch]:
    """What is watched of the database."""
    minute = cdk.Duration.minutes(1)
    return [
        Watch(
            name="DatabaseCpu",
            metric=database.metric_cpu_utilization(period=minute),
            threshold=80,
            minutes=15,
            advice="The database is busy. Look for slow statements in its slow query log; if there are none, choose a "
            "larger database.instance_class.",
        ),
        Watch(
            name="DatabaseMemory",
            metric=database.metric_freeable_memory(period=minute),
            threshold=128 * MIB,
            minutes=15,
            below=True,
            advice="The database is short of memory: choose a larger database.instance_class.",
        ),
        Watch(
            name="DatabaseStorage",
            metric=database.metric_free_storage_space(period=minute),
            threshold=2048 * MIB,
            minutes=15,
            below=True,
            advice="Storage runs out although RDS grows it by itself: raise database.max_storage_gib. A full database "
            "stops.",
        ),
        Watch(
            name="DatabaseConnections",
            metric=database.metric_database_connections(period=minute, statistic="Maximum"),
            threshold=round(0.9 * environment.max_connections),
            minutes=5,
            advice="Nearly all connections are taken. If something besides MLflow holds them, end it; otherwise lower "
            "tracking_server.pool_size or choose a larger database.instance_class.",
        ),
    ]
