"""STS: who signed a request, and who may have a session of which role."""

from __future__ import annotations

import json
import re
from typing import Any

from moto.iam.models import Role

from local.authorization import denied
from local.credentials import Caller, Credentials, Session
from local.endpoint import CURRENT_CALL, ApiCall, Operation, ServiceError
from local.iam import Statement, effect_of, trust
from local.identity_providers import verify
from local.principals import SourcePolicy
from local.signatures import Verifier
from local.token_issuer import TokenIssuer

# calls that a web identity or an assertion authenticates instead of a signature
_UNSIGNED = ("AssumeRoleWithWebIdentity", "AssumeRoleWithSAML")
# calls to which moto's answer would be credentials that nothing here knows
_ABSENT = ("AssumeRoleWithSAML", "GetFederationToken", "GetSessionToken")
_LONGEST_CHAINED = 3600
# limits of parameters: https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html
_PATTERNS = {
    "RoleSessionName": r"[\w+=,.@-]{2,64}",
    "SourceIdentity": r"[\w+=,.@-]{2,64}",
    "ExternalId": r"[\w+=,.@:\\/-]{2,1224}",
}


class Sts:
    """STS's own answers, in moto's place: moto believes every signature and asks no trust policy."""

    def __init__(self, credentials: Credentials) -> None:
        self.signatures = Verifier("sts", credentials)
        self.issuer = TokenIssuer(credentials)
        self._credentials = credentials

    @property
    def operations(self) -> dict[str, Operation]:
        """By name."""
        return {
            "GetCallerIdentity": self._get_caller_identity,
            "AssumeRole": self._assume_role,
            "AssumeRoleWithWebIdentity": self._assume_role_with_web_identity,
            **dict.fromkeys(_ABSENT, _not_implemented),
            "GetWebIdentityToken": lambda request: self.issuer.token(self.caller(), request),
        }

    def authenticate(self, call: ApiCall) -> None:
        """Check the signature of a call of STS. Raises ServiceError."""
        if call.service == "sts" and call.name not in _UNSIGNED:
            call.access_key = self.signatures.verify(call.request).id

    def caller(self) -> Caller:
        """Who signed the call under way."""
        key = self._credentials.key(CURRENT_CALL.get().access_key)
        assert key is not None  # noqa: S101 - its signature was checked
        return key.caller

    def _get_caller_identity(self, request: dict[str, Any]) -> dict[str, Any]:
        caller = self.caller()
        return {"UserId": caller.user_id, "Account": self._credentials.account, "Arn": caller.arn}

    def _assume_role(self, request: dict[str, Any]) -> dict[str, Any]:
        _check(request)
        call, caller = CURRENT_CALL.get(), self.caller()
        request = {**request, **_inherited(caller, request)}
        role = self._role(request["RoleArn"])
        if self._credentials.restricted(call.access_key):
            for action in _actions(request):
                self._require(call, caller, action, request, role)
        if role is None:
            raise denied(call, caller.arn, "sts:AssumeRole", request["RoleArn"], "")
        source = request.get("SourceIdentity")
        session = self._credentials.open(
            role,
            request["RoleSessionName"],
            seconds=_duration(request, role, chained=caller.session is not None),
            source_identity=source,
            tags=_labels(request),
            transitive=frozenset(request.get("TransitiveTagKeys", [])) & _labels(request).keys(),
            limits=self._session_policies(request),
        )
        answer = {**_answer(session), **({"SourceIdentity": source} if source else {})}
        return {**answer, "PackedPolicySize": 1} if session.tags or session.limits is not None else answer

    def _assume_role_with_web_identity(self, request: dict[str, Any]) -> dict[str, Any]:
        _check(request)
        principals = self._credentials.principals
        identity = verify(principals, request["WebIdentityToken"], own_issuer=self.issuer.url)
        role = self._role(request["RoleArn"])
        trusted = role is not None and trust(
            json.loads(role.assume_role_policy_document),
            kind="Federated",
            principals={identity.provider_arn},
            accounts=(),
            action="sts:AssumeRoleWithWebIdentity",
            context={**_keys(request), **identity.keys},
        )
        if role is None or trusted != "allowed":
            error = ServiceError("AccessDenied", "Not authorized to perform sts:AssumeRoleWithWebIdentity")
            error.status = 403
            raise error
        session = self._credentials.open(
            role,
            request["RoleSessionName"],
            seconds=_duration(request, role, chained=False),
            limits=self._session_policies(request),
        )
        return {
            **_answer(session),
            "SubjectFromWebIdentityToken": identity.subject,
            "Provider": identity.provider_arn,
            "Audience": identity.audience,
        }

    def _role(self, arn: str) -> Role | None:
        try:
            found = self._credentials.principals.find(arn)
        except ServiceError:
            return None
        return found if isinstance(found, Role) else None

    def _require(
        self,
        call: ApiCall,
        caller: Caller,
        action: str,
        request: dict[str, Any],
        role: Role | None,
    ) -> None:
        """Raise ServiceError unless the role trusts the caller, itself or by way of its account's policies."""
        try:
            policies = self._credentials.policies(caller)
            context = {**self._credentials.context(caller, call.region), **_keys(request)}
        except ServiceError:
            raise denied(call, caller.arn, action, request["RoleArn"], "") from None
        trusted = "implicitDeny" if role is None else self._trust(role, caller, action, context)
        session = caller.session
        identity = effect_of(policies.statements, action, request["RoleArn"], context)[0]
        limits = {
            effect_of(statements, action, request["RoleArn"], context)[0]
            for statements in (policies.limits, session.limits if session else None)
            if statements is not None
        }
        if "explicitDeny" in {identity, *limits}:
            reason = "with an explicit deny in an identity-based policy"
            raise denied(call, caller.arn, action, request["RoleArn"], reason)
        # who is trusted by name needs no policy of its own; a user then is not held to its boundary either
        by_name = trusted == "allowed" and (session is None or limits <= {"allowed"})
        by_account = trusted == "delegated" and {identity, *limits} == {"allowed"}
        if not by_name and not by_account:
            raise denied(call, caller.arn, action, request["RoleArn"], "")

    def _trust(self, role: Role, caller: Caller, action: str, context: dict[str, Any]) -> str:
        account, partition = self._credentials.account, self._credentials.partition
        return trust(
            json.loads(role.assume_role_policy_document),
            kind="AWS",
            principals={"*", caller.arn, caller.principal, caller.user_id.split(":")[0]},
            accounts={account, f"arn:{partition}:iam::{account}:root"},
            action=action,
            context=context,
        )

    def _session_policies(self, request: dict[str, Any]) -> list[Statement] | None:
        texts = [request["Policy"]] if request.get("Policy") else []
        texts += [
            self._credentials.principals.document(item["arn"]) for item in request.get("PolicyArns", [])
        ]
        if not texts:
            return None
        return [statement for text in texts for statement in SourcePolicy("session", text).statements]


def _check(request: dict[str, Any]) -> None:
    for name, pattern in _PATTERNS.items():
        if name in request and re.fullmatch(pattern, request[name]) is None:
            member = name[0].lower() + name[1:]
            raise _invalid(
                f"1 validation error detected: Value '{request[name]}' at '{member}' failed to satisfy "
                f"constraint: Member must satisfy regular expression pattern: {pattern}"
            )


def _duration(request: dict[str, Any], role: Role, *, chained: bool) -> int:
    """The length of a session in seconds. Raises ServiceError where it may not be that long."""
    seconds, longest = int(request.get("DurationSeconds", 3600)), int(role.max_session_duration or 3600)
    if not 900 <= seconds <= 43200:
        limit = "greater than or equal to 900" if seconds < 900 else "less than or equal to 43200"
        raise _invalid(
            f"1 validation error detected: Value '{seconds}' at 'durationSeconds' failed to satisfy "
            f"constraint: Member must have value {limit}"
        )
    if chained and seconds > _LONGEST_CHAINED:
        raise _invalid(
            "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining"
        )
    if seconds > longest:
        raise _invalid("The requested DurationSeconds exceeds the MaxSessionDuration set for this role.")
    return seconds


def _invalid(message: str) -> ServiceError:
    error = ServiceError("ValidationError", message)
    error.status = 400
    return error


def _not_implemented(request: dict[str, Any]) -> dict[str, Any]:
    error = ServiceError("NotImplemented", "The embedded STS has no such sessions")
    error.status = 501  # which no SDK tries again
    raise error


def _inherited(caller: Caller, request: dict[str, Any]) -> dict[str, Any]:
    """What goes on from a session to those that it opens: its source identity, and its transitive tags.

    Raises ServiceError where the request would change them.
    """
    session = caller.session
    if session is None:
        return {}
    source = request.get("SourceIdentity") or session.source_identity
    passed = {key: session.tags[key] for key in session.transitive}
    if (session.source_identity and source != session.source_identity) or passed.keys() & _labels(request):
        raise _invalid("The source identity and the transitive tags of a session cannot be changed")
    tags = [*request.get("Tags", []), *({"Key": key, "Value": value} for key, value in passed.items())]
    transitive = [*request.get("TransitiveTagKeys", []), *passed]
    return {"SourceIdentity": source, "Tags": tags, "TransitiveTagKeys": transitive}


def _labels(request: dict[str, Any]) -> dict[str, str]:
    return {item["Key"]: item["Value"] for item in request.get("Tags", [])}


def _actions(request: dict[str, Any]) -> list[str]:
    """What has to be allowed: the assumption, and what comes with it."""
    return [
        "sts:AssumeRole",
        *(["sts:SetSourceIdentity"] if request.get("SourceIdentity") else []),
        *(["sts:TagSession"] if request.get("Tags") else []),
    ]


def _keys(request: dict[str, Any]) -> dict[str, Any]:
    """The condition keys of an assumption."""
    keys: dict[str, Any] = {"sts:rolesessionname": request["RoleSessionName"]}
    for name in ("ExternalId", "SourceIdentity", "TransitiveTagKeys"):
        if request.get(name):
            keys[f"sts:{name.lower()}"] = request[name]
    labels = _labels(request)
    if labels:
        keys["aws:tagkeys"] = list(labels)
    return keys | {f"aws:requesttag/{key.lower()}": value for key, value in labels.items()}


def _answer(session: Session) -> dict[str, Any]:
    return {
        "Credentials": {
            "AccessKeyId": session.access_key_id,
            "SecretAccessKey": session.secret_access_key,
            "SessionToken": session.session_token,
            "Expiration": session.expiration,
        },
        "AssumedRoleUser": {"AssumedRoleId": session.user_id, "Arn": session.arn},
    }
