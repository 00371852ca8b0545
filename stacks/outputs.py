"""What a deployment tells: outputs for people, parameters for programs."""

from __future__ import annotations

from collections.abc import Mapping

import aws_cdk as cdk
from aws_cdk import aws_ssm as ssm


def publish(stack: cdk.Stack, name: str, outputs: Mapping[str, str]) -> None:
    """Adds each output to `stack`, and as the SSM parameter `/mlflow/<name>/<output>`."""
    for output, value in outputs.items():
        cdk.CfnOutput(stack, output, value=value)
        ssm.StringParameter(
            stack, f"{output}Parameter", parameter_name=f"/mlflow/{name}/{output}", string_value=value
        )
