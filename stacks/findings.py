"""Findings of rule packs and linters that are accepted, each with the reason, beside the construct they are about."""

from __future__ import annotations

from collections.abc import Iterator

import aws_cdk as cdk
from constructs import IConstruct

#: Packs of cdk-nag that name a rule alike.
COMPLIANCE_PACKS = ("HIPAA.Security", "NIST.800.53.R5", "PCI.DSS.321", "Serverless")


def accept(construct: IConstruct, *rules: str, reason: str, type: str | None = None) -> None:
    """Accepts the findings of `rules` on `construct`.

    Args:
        rules: `AwsSolutions-…` as cdk-nag reports it; a name such as `LambdaInsideVPC` for the rule that the other
            packs share; `CKV_…` of checkov; `E…` or `W…` of cfn-lint; `CloudFormation-Validate::…` of CDK itself.
        reason: why the finding does no harm here, for an auditor.
        type: for checkov and cfn-lint, which look at resources: those of this CloudFormation type below
            `construct`, when it is not one itself.
    """
    for rule in rules:
        if rule.startswith("CKV_"):
            for resource in _resources(construct, type):
                skipped = (resource.get_metadata("checkov") or {}).get("skip", [])
                resource.add_metadata("checkov", {"skip": [*skipped, {"id": rule, "comment": reason}]})
        elif rule[1:].isdigit():
            for resource in _resources(construct, type):
                ignored = (resource.get_metadata("cfn-lint") or {}).get("config", {}).get("ignore_checks", [])
                resource.add_metadata("cfn-lint", {"config": {"ignore_checks": [*ignored, rule]}})
        else:
            acknowledge(construct, *_ids(rule), reason=reason)


def accept_functions_of_cdk(stack: cdk.Stack) -> None:
    """Accepts how CDK makes the functions behind its own custom resources, such as the one that empties a bucket."""
    accept(
        stack,
        "CKV_AWS_115",
        "CKV_AWS_116",
        "CKV_AWS_117",
        "W3005",
        type="AWS::Lambda::Function",
        reason="Made by CDK and called by CloudFormation alone, when the stack is created, updated or deleted",
    )


def acknowledge(construct: IConstruct, *ids: str, reason: str) -> None:
    """Tells CDK and the packs of cdk-nag; a pack knows only full ids."""
    cdk.Validations.of(construct).acknowledge(*(cdk.Acknowledgment(id=id, reason=reason) for id in ids))


def _ids(rule: str) -> Iterator[str]:
    if rule.startswith("AwsSolutions-") or "::" in rule.partition("[")[0]:
        yield rule
    else:
        yield from (f"{pack}-{rule}" for pack in COMPLIANCE_PACKS)


def _resources(construct: IConstruct, type: str | None) -> Iterator[cdk.CfnResource]:
    candidates = construct.node.find_all() if type else [construct, construct.node.default_child]
    for child in candidates:
        if isinstance(child, cdk.CfnResource) and child.cfn_resource_type == (
            type or child.cfn_resource_type
        ):
            yield child
