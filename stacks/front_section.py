"""The section of an environment file about how clients reach the server."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from stacks import values
from stacks.section import Section

FrontKind = Literal["cloudfront", "domain", "internal"]

#: Regions whose VPCs CloudFront reaches without the internet. It is in no other partition than `aws`. In us-east-1,
#: us-west-1, ap-northeast-1 and ca-central-1 one zone is left out: use1-az3, usw1-az2, apne1-az3 and cac1-az3.
#: https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/private-content-vpc-origins.html as of 2026.
VPC_ORIGIN_REGIONS = frozenset(
    {
        "af-south-1",
        "ap-east-1",
        "ap-east-2",
        "ap-northeast-1",
        "ap-northeast-2",
        "ap-northeast-3",
        "ap-south-1",
        "ap-south-2",
        "ap-southeast-1",
        "ap-southeast-2",
        "ap-southeast-3",
        "ap-southeast-4",
        "ap-southeast-5",
        "ap-southeast-7",
        "ca-central-1",
        "ca-west-1",
        "eu-central-1",
        "eu-central-2",
        "eu-north-1",
        "eu-south-1",
        "eu-south-2",
        "eu-west-1",
        "eu-west-2",
        "eu-west-3",
        "il-central-1",
        "me-central-1",
        "me-south-1",
        "mx-central-1",
        "sa-east-1",
        "us-east-1",
        "us-east-2",
        "us-west-1",
        "us-west-2",
    }
)

#: Kinds for which a key has a meaning.
KINDS: dict[str, tuple[FrontKind, ...]] = {
    "port": ("internal",),
    "certificate_arn": ("domain", "internal"),
    "domain_name": ("domain",),
    "hosted_zone_id": ("domain",),
    "hosted_zone_name": ("domain",),
    "host_names": ("domain", "internal"),
    "client_security_group_ids": ("internal",),
    "client_cidrs": ("domain", "internal"),
    "web_acl_arn": ("cloudfront", "domain"),
}


class Front(Section):
    """How clients reach the server. `cloudfront` and `domain` are open to the internet, over HTTPS, and every request
    must prove who is calling.
    """

    kind: FrontKind | None = Field(
        None,
        description="`cloudfront`: a CloudFront distribution, which brings a name and a certificate, before a load "
        "balancer inside the VPC. `domain`: a load balancer with a public address under a name of your own. "
        "`internal`: a load balancer inside the VPC, without a public address. When left out: `domain` with a "
        "domain_name; else `cloudfront` in a VPC of the kit's own that has a way to the internet, in regions with "
        "CloudFront VPC origins; else `internal`.",
    )
    port: int | None = Field(
        None,
        ge=1,
        le=65535,
        description="Port of an internal load balancer. 80, or 443 with a certificate, when left out.",
    )
    certificate_arn: values.CertificateArn | None = Field(
        None,
        description="ACM certificate of the load balancer; an internal one speaks HTTPS only if it has one. A "
        "`domain` front makes one when it is left out.",
    )
    domain_name: values.HostName | None = Field(None, description="Name of a `domain` front.")
    hosted_zone_id: values.HostedZoneId | None = Field(
        None,
        description="Public hosted zone of Route 53: the kit points the domain name to the load balancer and proves "
        "to ACM that it is yours. Needed unless there is a certificate_arn; the record is then yours to make.",
    )
    hosted_zone_name: values.HostName | None = Field(
        None, description="Name of this zone, such as `example.com`."
    )
    host_names: tuple[values.HostName, ...] = Field(
        (), strict=False, description="Further names that clients use, such as a private DNS record of yours."
    )
    client_security_group_ids: tuple[values.SecurityGroupId, ...] = Field(
        (), strict=False, description="Existing security groups whose members may connect."
    )
    client_cidrs: tuple[values.ClientCidr, ...] = Field(
        (),
        strict=False,
        description="Address blocks that may connect, such as that of a VPN. A `domain` front is open to all when "
        "there are none.",
    )
    web_acl_arn: values.WebAclArn | None = Field(
        None,
        description="A web ACL of AWS WAF: of the scope CLOUDFRONT for `cloudfront`, REGIONAL for `domain`.",
    )

    @property
    def scheme(self) -> Literal["http", "https"]:
        """What the load balancer speaks."""
        return "https" if self.certificate_arn or self.domain_name else "http"

    @property
    def listener_port(self) -> int:
        """Where the load balancer listens."""
        return self.port or (443 if self.scheme == "https" else 80)

    @model_validator(mode="after")
    def _zone(self) -> Self:
        if self._all_or_none("hosted_zone_id", "hosted_zone_name"):
            for name in filter(None, (self.domain_name, *self.host_names)):
                if name != self.hosted_zone_name and not name.endswith(f".{self.hosted_zone_name}"):
                    raise values.refuse(
                        f"{name} is not in {self.hosted_zone_name}",
                        allowed=f"{self.hosted_zone_name} and what ends in .{self.hosted_zone_name}",
                        key="domain_name" if name == self.domain_name else "host_names",
                    )
        return self

    def check(self, kind: FrontKind, *, region: str) -> None:
        """Whether the keys go with `kind`.

        Raises:
            PydanticCustomError: one does not, or one is missing.
        """
        for key, kinds in KINDS.items():
            if key in self.model_fields_set and kind not in kinds:
                raise values.refuse(
                    f"has no meaning for a front of the kind {kind}",
                    allowed=f"leave it out, or front.kind: {' or '.join(kinds)}",
                    key=f"front.{key}",
                )
        if kind == "domain":
            self._check_domain()
        elif self.certificate_arn and not self.host_names:
            raise values.refuse(
                "missing: no certificate covers the name of the load balancer itself",
                allowed="the names on the certificate",
                key="front.host_names",
            )
        if self.web_acl_arn:
            place = ("us-east-1", "global") if kind == "cloudfront" else (region, "regional")
            fields = self.web_acl_arn.split(":")
            if (fields[3], fields[5].partition("/")[0]) != place:
                raise values.refuse(
                    f"{self.web_acl_arn} is of another scope or region",
                    allowed=f"a {place[1]} web ACL in {place[0]}",
                    key="front.web_acl_arn",
                )

    def _check_domain(self) -> None:
        if not self.domain_name:
            raise values.refuse(
                "missing, while front.kind is domain",
                allowed="a name of yours, such as mlflow.example.com",
                key="front.domain_name",
            )
        if not self.certificate_arn and not self.hosted_zone_id:
            raise values.refuse(
                "missing: without a certificate_arn the kit makes a certificate, and proves in your zone that the "
                "name is yours",
                allowed="hosted_zone_id and hosted_zone_name, or certificate_arn",
                key="front.hosted_zone_id",
            )
