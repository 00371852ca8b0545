"""Log groups, all alike: encrypted with the kit's key, kept as long as the environment says."""

from __future__ import annotations

import aws_cdk as cdk
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_logs as logs
from constructs import Construct

from stacks.environment import Environment

_RETENTION = {
    1: logs.RetentionDays.ONE_DAY,
    3: logs.RetentionDays.THREE_DAYS,
    5: logs.RetentionDays.FIVE_DAYS,
    7: logs.RetentionDays.ONE_WEEK,
    14: logs.RetentionDays.TWO_WEEKS,
    30: logs.RetentionDays.ONE_MONTH,
    60: logs.RetentionDays.TWO_MONTHS,
    90: logs.RetentionDays.THREE_MONTHS,
    120: logs.RetentionDays.FOUR_MONTHS,
    150: logs.RetentionDays.FIVE_MONTHS,
    180: logs.RetentionDays.SIX_MONTHS,
    365: logs.RetentionDays.ONE_YEAR,
    400: logs.RetentionDays.THIRTEEN_MONTHS,
    545: logs.RetentionDays.EIGHTEEN_MONTHS,
    731: logs.RetentionDays.TWO_YEARS,
    1096: logs.RetentionDays.THREE_YEARS,
    1827: logs.RetentionDays.FIVE_YEARS,
    2192: logs.RetentionDays.SIX_YEARS,
    2557: logs.RetentionDays.SEVEN_YEARS,
    2922: logs.RetentionDays.EIGHT_YEARS,
    3288: logs.RetentionDays.NINE_YEARS,
    3653: logs.RetentionDays.TEN_YEARS,
}


def log_group(
    scope: Construct, id: str, *, environment: Environment, key: kms.IKey, retention_days: int | None = None
) -> logs.LogGroup:
    """A log group named by CloudFormation, so that one kept after a destroy is never in the way of a new one.

    Args:
        retention_days: how long lines are kept, when not as long as those of other log groups.
    """
    return logs.LogGroup(
        scope,
        id,
        encryption_key=key,
        retention=_RETENTION[retention_days or environment.logs.retention_days],
        removal_policy=cdk.RemovalPolicy.RETAIN if environment.protect else cdk.RemovalPolicy.DESTROY,
    )


def grant_write(log_group: logs.ILogGroup, policy: iam.ManagedPolicy) -> None:
    """Lets `policy` write to `log_group`."""
    policy.add_statements(
        iam.PolicyStatement(
            actions=["logs:CreateLogStream", "logs:PutLogEvents"], resources=[log_group.log_group_arn]
        )
    )
