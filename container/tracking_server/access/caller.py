"""Who calls: an IAM role's session or an IAM user."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from tracking_server.access.errors import Unauthenticated

# https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_identifiers.html
_ROLE = re.compile(
    r"arn:(?P<partition>aws[a-z-]*):sts::(?P<account>[0-9]{12}):assumed-role"
    r"/(?P<name>[A-Za-z0-9_+=,.@-]{1,64})/(?P<session>[A-Za-z0-9_+=,.@-]{2,64})"
)
_USER = re.compile(
    r"arn:(?P<partition>aws[a-z-]*):iam::(?P<account>[0-9]{12}):user"
    r"/(?:[\x21-\x7e]{1,510}/)?(?P<name>[A-Za-z0-9_+=,.@-]{1,64})"
)
_ROLE_ID = re.compile(r"(?P<id>AROA[A-Z0-9]{12,124}):(?P<session>[A-Za-z0-9_+=,.@-]{2,64})")
_USER_ID = re.compile(r"AIDA[A-Z0-9]{12,124}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Caller:
    """A principal of AWS as STS names it.

    `arn` is that of the session or user, `unique_id` that of the role (AROA…) or user (AIDA…): another role that
    is made under an old name is not the old one. `session` is chosen by whoever assumed the role, so nothing is
    ever decided by it.
    """

    arn: str
    unique_id: str
    account: str
    kind: Literal["role", "user"]
    name: str
    session: str = ""

    @property
    def user_id(self) -> str:
        """What IAM calls aws:userid."""
        return f"{self.unique_id}:{self.session}" if self.session else self.unique_id


def identify(*, arn: str, user_id: str, account: str, own_arn: str) -> Caller:
    """The caller that STS describes, who must belong to the account of the tracking server `own_arn`.

    Raises Unauthenticated for root, federated users, other accounts, and answers that contradict themselves.
    """
    _, partition, _, _, own_account, _ = own_arn.split(":", 5)
    role, user = _ROLE.fullmatch(arn), _USER.fullmatch(arn)
    found = role or user
    if found is None:
        raise Unauthenticated(
            "only IAM roles and IAM users may call, not the root user and no federated user"
        )
    if account != found["account"] or partition != found["partition"]:
        raise Unauthenticated("the identity could not be confirmed")
    if account != own_account:
        raise Unauthenticated(
            f"the caller belongs to account {account}: assume a role of account {own_account}, "
            "as MLFLOW_AWS_IAM_ROLE_ARN does"
        )
    if role:
        identifier = _ROLE_ID.fullmatch(user_id)
        if identifier is None or identifier["session"] != role["session"]:
            raise Unauthenticated("the identity could not be confirmed")
        return Caller(
            arn=arn,
            unique_id=identifier["id"],
            account=account,
            kind="role",
            name=role["name"],
            session=role["session"],
        )
    if _USER_ID.fullmatch(user_id) is None:
        raise Unauthenticated("the identity could not be confirmed")
    return Caller(arn=arn, unique_id=user_id, account=account, kind="user", name=found["name"])
