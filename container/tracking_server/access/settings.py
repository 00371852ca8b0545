"""The gate's settings."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tracking_server.variables import Reader

EngineName = Literal["iam", "roles"]

_ARN = re.compile(
    r"arn:(?P<partition>aws[a-z-]*):sagemaker:(?P<region>[a-z0-9-]+):[0-9]{12}:mlflow-tracking-server/\S+"
)


@dataclass(frozen=True, kw_only=True)
class AccessSettings:
    """What the gate goes by.

    `names` are the host names of this server, `origins` the same as web origins, the one that people are told
    first. `regions` are those whose STS it asks. `policies` are the policy documents of the kit's roles by unique
    id and by ARN, for the engine `roles`. `proxies` is how many trusted proxies append to X-Forwarded-For.
    """

    engine: EngineName
    tracking_server_arn: str
    names: frozenset[str]
    origins: tuple[str, ...]
    regions: frozenset[str]
    policies: Mapping[str, Mapping[str, Any]]
    proxies: int
    audit_log_group: str | None
    web_identity_issuer: str | None
    experiment_permissions: bool

    @property
    def secure(self) -> bool:
        """Whether people reach the server over HTTPS alone."""
        return all(origin.startswith("https://") for origin in self.origins)


def read_access(reader: Reader, *, hosts: tuple[str, ...], origins: tuple[str, ...]) -> AccessSettings | None:
    """The settings in the variables ACCESS_*; None when ACCESS_ENGINE is `open`."""
    engine = reader.choice("ACCESS_ENGINE", "iam", "roles", "open")
    if engine == "open":
        return None
    arn = reader.text("TRACKING_SERVER_ARN")
    parts = _ARN.fullmatch(arn)
    if arn and parts is None:
        reader.refuse(f"TRACKING_SERVER_ARN={arn!r} is no ARN of a tracking server")
    names = frozenset(host.lower().removesuffix(":*") for host in hosts)
    if any("*" in name for name in names):
        reader.refuse("MLFLOW_SERVER_ALLOWED_HOSTS must hold whole names: a token is bound to one of them")
    issuer = reader.optional("ACCESS_WEB_IDENTITY_ISSUER") or None
    if issuer and not issuer.startswith(("https://", "http://localhost:")):
        reader.refuse(f"ACCESS_WEB_IDENTITY_ISSUER={issuer!r} must be an https:// URL")
    return AccessSettings(
        engine="roles" if engine == "roles" else "iam",
        tracking_server_arn=arn,
        names=names,
        origins=origins,
        regions=_regions(reader, parts["partition"] if parts else "aws"),
        policies=_policies(reader) if engine == "roles" else {},
        proxies=reader.number("ACCESS_TRUSTED_PROXIES", minimum=0, maximum=8),
        audit_log_group=reader.optional("ACCESS_AUDIT_LOG_GROUP") or None,
        web_identity_issuer=issuer,
        experiment_permissions=reader.choice("ACCESS_EXPERIMENT_PERMISSIONS", "true", "false") == "true",
    )


def _regions(reader: Reader, partition: str) -> frozenset[str]:
    listed = reader.listed("ACCESS_STS_REGIONS")
    if listed != ("partition",):
        return frozenset(listed)
    # not above: it takes a tenth of a second
    import botocore.session

    session = botocore.session.get_session()
    return frozenset(session.get_available_regions("sts", partition_name=partition))


def _policies(reader: Reader) -> dict[str, dict[str, Any]]:
    text = reader.text("ACCESS_ROLES")
    try:
        roles = json.loads(text or "{}")
        by_id = {identifier: role["policy"] for identifier, role in roles.items()}
        return by_id | {role["arn"]: role["policy"] for role in roles.values()}
    except (AttributeError, KeyError, TypeError, ValueError):
        reader.refuse('ACCESS_ROLES must be JSON: {"<RoleId>": {"name": "…", "arn": "…", "policy": {…}}}')
        return {}
