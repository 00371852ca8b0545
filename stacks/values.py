"""Kinds of values that an environment file holds.

Each says what it allows when it refuses one, and in the docstring of its validator, for the reference page.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Iterable
from typing import Annotated, Literal

import botocore.session
from botocore.exceptions import UnknownRegionError
from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

#: Retention periods that CloudWatch Logs accepts (logs:PutRetentionPolicy), in days.
RetentionDays = Literal[
    1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653
]


def refuse(problem: str, *, allowed: str, key: str = "") -> PydanticCustomError:
    """An error that names what is allowed. `key` is relative to the model whose validator raises it."""
    return PydanticCustomError("refused", "{problem}", {"problem": problem, "allowed": allowed, "key": key})


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A clause for an error about `word`, when one of `known` looks like it."""
    match = difflib.get_close_matches(word, list(known), n=1)
    return f', did you mean "{match[0]}"?' if match else ""


def matching(pattern: str, *, allowed: str) -> AfterValidator:
    """A string that matches `pattern` from end to end; `allowed` says the same in words."""
    expression = re.compile(pattern)

    def check(value: str) -> str:
        if not expression.fullmatch(value):
            raise refuse(f'"{value}" does not fit', allowed=allowed)
        return value

    check.__doc__ = allowed
    return AfterValidator(check)


def _region(value: str) -> str:
    """a region of AWS, such as eu-central-1"""
    # By its form, since there are newer regions than those that botocore lists.
    if not re.fullmatch(r"[a-z]{2,4}-([a-z]{2,4}-)?(north|south|east|west|central){1,2}-\d", value):
        session = botocore.session.get_session()
        known = [
            region
            for partition in session.get_available_partitions()
            for region in session.get_available_regions("ecs", partition)
        ]
        hint = did_you_mean(value, known)
        raise refuse(f'"{value}" is no region{hint}', allowed="a region of AWS, such as eu-central-1")
    return value


def partition_of(region: str) -> str:
    """The partition of a region, such as `aws-cn`; `aws` for one that botocore does not know."""
    session = botocore.session.get_session()
    try:
        return str(session.get_partition_for_region(region))
    except UnknownRegionError:
        return "aws"


def _block(value: str) -> str:
    """an IPv4 block, such as 10.0.0.0/16"""
    try:
        ipaddress.IPv4Network(value)
    except ValueError as error:
        raise refuse(
            f"not an IPv4 block: {error}", allowed="address and prefix, such as 10.0.0.0/16"
        ) from error
    return value


def _vpc_block(value: str) -> str:
    """from /16 to /24"""
    if not 16 <= ipaddress.IPv4Network(value).prefixlen <= 24:
        raise refuse(f"a VPC cannot be as large or as small as {value}", allowed="blocks from /16 to /24")
    return value


def _client_block(value: str) -> str:
    """of /8 or smaller"""
    if ipaddress.IPv4Network(value).prefixlen < 8:
        raise refuse(
            f"{value} lets nearly everybody in",
            allowed="blocks of /8 or smaller, such as 10.0.0.0/8; no block at all where a front is open to all",
        )
    return value


_PARTITION = r"arn:aws(-[a-z-]+)?"

ServerName = Annotated[
    str,
    matching(
        r"(?!internal-)[a-z](?!.*--)[a-z0-9-]{1,19}[a-z0-9]",
        allowed="3 to 21 lower-case letters, digits and single hyphens, starting with a letter but not with internal-",
    ),
]
Region = Annotated[str, AfterValidator(_region)]
Account = Annotated[str, matching(r"\d{12}", allowed="12 digits in quotes")]
Cidr = Annotated[str, AfterValidator(_block), AfterValidator(_vpc_block)]
ClientCidr = Annotated[str, AfterValidator(_block), AfterValidator(_client_block)]
VpcId = Annotated[str, matching(r"vpc-[0-9a-f]{8,17}", allowed="a VPC id, such as vpc-0123456789abcdef0")]
SubnetId = Annotated[
    str, matching(r"subnet-[0-9a-f]{8,17}", allowed="a subnet id, such as subnet-0123456789abcdef0")
]
SecurityGroupId = Annotated[
    str, matching(r"sg-[0-9a-f]{8,17}", allowed="a security group id, such as sg-0123456789abcdef0")
]
HostName = Annotated[
    str,
    matching(
        r"([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]{2,63}",
        allowed="a lower-case DNS name without scheme and port, such as mlflow.example.com",
    ),
]
IssuerUrl = Annotated[
    str,
    matching(
        r"https://([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]{2,63}(/[\w.~-]+)*",
        allowed="an https:// URL without a slash at its end, such as https://abc.tokens.sts.global.api.aws",
    ),
]
BucketName = Annotated[
    str,
    matching(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", allowed="a bucket name, without s3:// and without a path"),
]
KeyPrefix = Annotated[
    str, matching(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*", allowed="a key prefix without a slash at either end")
]
DatabaseName = Annotated[
    str,
    matching(
        r"[A-Za-z][A-Za-z0-9_]{0,63}",
        allowed="1 to 64 letters, digits and underscores, starting with a letter",
    ),
]
InstanceClass = Annotated[
    str, matching(r"db\.[a-z0-9]+\.[a-z0-9]+", allowed="an RDS instance class, such as db.t4g.small")
]
EmailAddress = Annotated[str, matching(r"[^@\s]+@[^@\s]+\.[^@\s]+", allowed="an e-mail address")]
OrganizationId = Annotated[
    str, matching(r"o-[a-z0-9]{10,32}", allowed="an organization id, such as o-a1b2c3d4e5")
]
KeyArn = Annotated[
    str, matching(_PARTITION + r":kms:[a-z0-9-]+:\d{12}:key/[\w-]+", allowed="the ARN of a KMS key")
]
PolicyArn = Annotated[
    str, matching(_PARTITION + r":iam::(\d{12}|aws):policy/.+", allowed="the ARN of a managed policy")
]
CertificateArn = Annotated[
    str,
    matching(
        _PARTITION + r":acm:[a-z0-9-]+:\d{12}:certificate/[\w-]+", allowed="the ARN of an ACM certificate"
    ),
]
HostedZoneId = Annotated[
    str, matching(r"Z[A-Z0-9]{4,31}", allowed="the id of a hosted zone, such as Z0123456789ABCDEFGHIJ")
]
WebAclArn = Annotated[
    str,
    matching(
        _PARTITION + r":wafv2:[a-z0-9-]+:\d{12}:(global|regional)/webacl/[\w-]+/[\w-]+",
        allowed="the ARN of a web ACL of AWS WAF",
    ),
]
OidcProviderArn = Annotated[
    str,
    matching(
        _PARTITION + r":iam::\d{12}:oidc-provider/[\w.:/~-]+",
        allowed="the ARN of an OIDC provider of IAM, which ends in :iam::<account>:oidc-provider/<issuer without https://>",
    ),
]
Audience = Annotated[str, matching(r"[^\s*?]+", allowed="the aud claim as it stands, without wildcards")]
SubjectPattern = Annotated[
    str,
    matching(
        r"[\w-]+:[^\s*?/:]+[/:]\S*|[^\s*?]+",
        allowed="the sub claim as it stands, or with * and ? after a first part that is whole, such as "
        "repo:example/models:*",
    ),
]
SecretArn = Annotated[
    str,
    matching(
        _PARTITION + r":secretsmanager:[a-z0-9-]+:\d{12}:secret:.+-\w{6}",
        allowed="the full ARN of a secret, with the six characters at its end",
    ),
]
PrincipalArn = Annotated[
    str,
    matching(
        _PARTITION + r":iam::\d{12}:(role|user)/[\w+=,.@/-]+",
        allowed="the ARN of a role or user, without wildcards",
    ),
]
