"""Who may assume the four roles, and how they name themselves when they do."""

from __future__ import annotations

from typing import Any

from aws_cdk import aws_iam as iam

from stacks.access_sections import OidcProvider, Roles


def trusted(roles: Roles) -> iam.IPrincipal:
    """Who may assume a role: principals of AWS, and whom the OIDC providers vouch for."""
    aws: iam.IPrincipal = iam.CompositePrincipal(*_principals(roles))
    if conditions := _conditions(roles):
        aws = iam.PrincipalWithConditions(aws, conditions)
    return iam.CompositePrincipal(aws, *(_vouched_for(provider) for provider in roles.oidc_providers))


def allow_source_identity(role: iam.Role, roles: Roles) -> None:
    """Lets callers set a SourceIdentity; one that has it from an earlier role cannot assume `role` otherwise."""
    assert role.assume_role_policy  # noqa: S101 - every role that CDK makes has one
    role.assume_role_policy.add_statements(
        iam.PolicyStatement(
            actions=["sts:SetSourceIdentity"], principals=_principals(roles), conditions=_conditions(roles)
        )
    )


def _principals(roles: Roles) -> list[iam.IPrincipal]:
    """Those that the environment names, or the accounts whose administrators decide."""
    if roles.trusted_principal_arns:
        return [iam.ArnPrincipal(arn) for arn in roles.trusted_principal_arns]
    accounts = [iam.AccountPrincipal(account) for account in roles.trusted_accounts]
    return [iam.AccountRootPrincipal(), *accounts]


def _conditions(roles: Roles) -> dict[str, dict[str, Any]]:
    conditions: dict[str, dict[str, Any]] = {}
    if roles.organization_id:
        conditions["StringEquals"] = {"aws:PrincipalOrgID": roles.organization_id}
    if roles.require_source_identity:
        conditions["StringLike"] = {"sts:SourceIdentity": "?*"}
    return conditions


def _vouched_for(provider: OidcProvider) -> iam.WebIdentityPrincipal:
    return iam.WebIdentityPrincipal(
        provider.provider_arn,
        {
            "StringEquals": {f"{provider.issuer}:aud": provider.audience},
            "StringLike": {f"{provider.issuer}:sub": list(provider.subjects)},
        },
    )
