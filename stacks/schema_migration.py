"""The step of a deployment that brings the database schema to the version of the image, before the service rolls."""

from __future__ import annotations

from pathlib import Path

import aws_cdk as cdk
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from constructs import Construct

from stacks.findings import accept
from stacks.log_groups import grant_write
from stacks.roles import service_role

FUNCTION = Path(__file__).parent.parent / "functions" / "schema_migration"


class SchemaMigration(Construct):
    """Runs `task_definition` once a deployment, and fails the deployment when it fails.

    CloudFormation waits an hour for one resource, so there are as many in a row as there are hours to wait. Whatever
    must not run against an old schema depends on this construct.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        cluster: ecs.ICluster,
        task_definition: ecs.FargateTaskDefinition,
        task_log_group: logs.ILogGroup,
        log_stream_prefix: str,
        subnets: list[str],
        security_group: ec2.ISecurityGroup,
        architecture: lambda_.Architecture,
        log_group: logs.ILogGroup,
        hours: int,
    ) -> None:
        super().__init__(scope, id)
        self.policy = iam.ManagedPolicy(self, "Policy", description="Run and watch the schema migration task")
        role = service_role(self, "Role", service="lambda.amazonaws.com", policies=(self.policy,))
        self._allow(cluster=cluster, task_definition=task_definition, logs=(log_group, task_log_group))
        function = lambda_.Function(
            self,
            "Function",
            description="Runs the schema migration of MLflow while CloudFormation waits",
            runtime=lambda_.Runtime.PYTHON_3_14,
            architecture=architecture,
            handler="handler.handler",
            code=lambda_.Code.from_asset(str(FUNCTION), exclude=["**/__pycache__"]),
            role=role.without_policy_updates(),
            log_group=log_group,
            timeout=cdk.Duration.minutes(15),
            memory_size=256,
        )
        accept(
            function,
            "LambdaConcurrency",
            "LambdaDLQ",
            "LambdaInsideVPC",
            "LambdaTracing",
            "CKV_AWS_115",
            "CKV_AWS_116",
            "CKV_AWS_117",
            "W3005",
            reason="Called by CloudFormation and itself during a deployment, which waits for its answer and shows it; "
            "it calls the APIs of AWS alone",
        )
        # A policy of its own: the function depends on its role, so its ARN cannot stand in the role's first policy.
        hand_over = iam.ManagedPolicy(
            self,
            "HandOver",
            description="Continue waiting in a further invocation",
            roles=[role],
            statements=[
                iam.PolicyStatement(actions=["lambda:InvokeFunction"], resources=[function.function_arn]),
            ],
        )
        properties = {
            "Cluster": cluster.cluster_arn,
            "TaskDefinition": task_definition.task_definition_arn,
            "Subnets": subnets,
            "SecurityGroups": [security_group.security_group_id],
            "LogGroup": task_log_group.log_group_name,
            "LogStreamPrefix": log_stream_prefix,
        }
        previous: cdk.CustomResource | None = None
        for hour in range(1, hours + 1):
            progress = (
                {"Status": previous.get_att_string("Status"), "TaskArn": previous.get_att_string("TaskArn")}
                if previous
                else {}
            )
            last = {"Last": "true"} if hour == hours else {}
            previous = cdk.CustomResource(
                self,
                f"Hour{hour}",
                resource_type="Custom::SchemaMigration",
                service_token=function.function_arn,
                service_timeout=cdk.Duration.hours(1),
                properties=properties | progress | last,
            )
            previous.node.add_dependency(hand_over)

    def _allow(
        self,
        *,
        cluster: ecs.ICluster,
        task_definition: ecs.FargateTaskDefinition,
        logs: tuple[logs.ILogGroup, logs.ILogGroup],
    ) -> None:
        own_log, task_log = logs
        grant_write(own_log, self.policy)
        in_cluster = {"ArnEquals": {"ecs:cluster": cluster.cluster_arn}}
        execution_role = task_definition.obtain_execution_role()
        self.policy.add_statements(
            iam.PolicyStatement(actions=["logs:GetLogEvents"], resources=[task_log.log_group_arn]),
            iam.PolicyStatement(
                actions=["ecs:RunTask"],
                resources=[task_definition.task_definition_arn],
                conditions=in_cluster,
            ),
            iam.PolicyStatement(actions=["ecs:DescribeTasks"], resources=["*"], conditions=in_cluster),
            iam.PolicyStatement(
                actions=["iam:PassRole"],
                resources=[task_definition.task_role.role_arn, execution_role.role_arn],
                conditions={"StringEquals": {"iam:PassedToService": "ecs-tasks.amazonaws.com"}},
            ),
            iam.PolicyStatement(
                actions=["cloudformation:DescribeStacks"], resources=[cdk.Stack.of(self).stack_id]
            ),
        )
        accept(
            self.policy,
            "AwsSolutions-IAM5[Resource::*]",
            reason="Tasks have no ARN before they run; the condition names their cluster",
        )
