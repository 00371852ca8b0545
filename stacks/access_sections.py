"""The sections of an environment file about who may do what."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from stacks import values
from stacks.section import Section

Engine = Literal["iam", "roles", "open"]


class Access(Section):
    """How the server finds out who calls and what they may do."""

    engine: Engine | None = Field(
        None,
        description="`iam`: IAM is asked what the caller's own policies allow. `roles`: the policies of the four "
        "roles are evaluated in the server, which then needs nothing of AWS but STS. `open`: nobody is asked; for an "
        "internal front only. `roles` in a private_only network, else `iam`, when left out.",
    )
    audit_retention_days: values.RetentionDays = Field(
        365, description="Days that the record of every decision is kept."
    )
    web_identity_issuer: values.IssuerUrl | None = Field(
        None,
        description="Issuer of the account's STS web identity tokens (outbound identity federation): callers may then "
        "present such a token as well.",
    )
    web_identity_at_load_balancer: bool = Field(
        False,
        description="Let the load balancer verify these tokens too, before they reach the server. It needs HTTPS for "
        "that, and knows no other signature than RS256.",
    )
    experiment_permissions: bool = Field(
        False, description="Besides IAM, MLflow's own permissions for each experiment and model."
    )
    sts_regions: tuple[values.Region, ...] = Field(
        (),
        strict=False,
        description="Regions whose STS may vouch for callers. When left out, all regions of the partition; in a "
        "private_only network the server's own.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.web_identity_at_load_balancer and not self.web_identity_issuer:
            raise values.refuse(
                "missing, while web_identity_at_load_balancer is true",
                allowed="the issuer, such as https://abc.tokens.sts.global.api.aws",
                key="web_identity_issuer",
            )
        if self.engine == "open":
            self._only_without(
                "engine: open",
                "web_identity_issuer",
                "web_identity_at_load_balancer",
                "experiment_permissions",
            )
        return self


class OidcProvider(Section):
    """An identity provider whose tokens are traded for one of the four roles, such as that of a CI system."""

    provider_arn: values.OidcProviderArn = Field(description="The provider, as IAM of this account knows it.")
    audience: values.Audience = Field(
        description="What the tokens are made out to, such as sts.amazonaws.com."
    )
    subjects: tuple[values.SubjectPattern, ...] = Field(
        min_length=1, strict=False, description="Whom the provider may vouch for."
    )

    @property
    def issuer(self) -> str:
        """The issuer as condition keys of IAM spell it: without its scheme."""
        return self.provider_arn.partition("oidc-provider/")[2]


class Roles(Section):
    """Who may assume the four roles. Principals of the server's own account may when their own policies say so."""

    trusted_accounts: tuple[values.Account, ...] = Field(
        (), strict=False, description="Further AWS accounts."
    )
    trusted_principal_arns: tuple[values.PrincipalArn, ...] = Field(
        (), strict=False, description="Only these roles and users, instead of whole accounts."
    )
    organization_id: values.OrganizationId | None = Field(
        None,
        description="Callers must also belong to this AWS organization; tokens of oidc_providers belong to none.",
    )
    require_source_identity: bool = Field(
        False,
        description="Callers must name themselves with a SourceIdentity, which CloudTrail then shows for the whole "
        "session. A token of oidc_providers names its subject, and is not asked for more.",
    )
    oidc_providers: tuple[OidcProvider, ...] = Field(
        (), strict=False, description="Identity providers whose tokens are traded for a role."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.trusted_principal_arns and self.trusted_accounts:
            raise values.refuse(
                "trusts whole accounts beside single principals",
                allowed="trusted_accounts or trusted_principal_arns",
                key="trusted_accounts",
            )
        return self
