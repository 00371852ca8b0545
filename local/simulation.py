"""IAM's policy simulator: what the policies of a principal say about actions, and which statements say it.

Facts of its answers that the API reference leaves open are from answers that people published: the names of
policies (`role_<role>_<policy>`), their type (`IAM Policy`), and positions, where a statement starts behind the
bracket or the comma before it.
"""

from __future__ import annotations

import base64
import binascii
import functools
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import botocore.session
from moto.iam.models import User

from local.credentials import Credentials
from local.endpoint import Operation, ServiceError
from local.iam import Effect, Statement, condition_keys, effect_of
from local.principals import Policies, SourcePolicy

_PAGE = 100  # results, unless MaxItems says otherwise
_SEVERITY: tuple[Effect, ...] = ("allowed", "implicitDeny", "explicitDeny")
_ACTION = re.compile(r"([a-z0-9-]+):[A-Za-z0-9]+")
_ARN = re.compile(r"arn:[^:]+:[^:]+:[^:]*:[^:]*:.+")
# prefixes of actions for which there is no service of botocore's
_OTHER_PREFIXES = frozenset({"elasticloadbalancing", "kafka-cluster", "sagemaker-mlflow", "ssmmessages"})
# ARNs of resource types, as the service authorization reference writes them, by the actions that have no other
_SERVER_ARN = (
    "arn:${Partition}:sagemaker:${Region}:${Account}:mlflow-tracking-server/${MlflowTrackingServerName}"
)
_ARN_TEMPLATES = {"sagemaker-mlflow": _SERVER_ARN}
_WITHOUT_RESOURCE = frozenset({"sagemaker-mlflow:AccessUI"})


@dataclass(frozen=True)
class _Verdict:
    effect: Effect
    matched: list[dict[str, Any]]
    missing: list[str]
    within_boundary: bool | None


class Simulator:
    """The simulator's two operations."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials, self._principals = credentials, credentials.principals

    @property
    def operations(self) -> dict[str, Operation]:
        """By name."""
        return {"SimulatePrincipalPolicy": self._principal, "SimulateCustomPolicy": self._custom}

    def _principal(self, request: dict[str, Any]) -> dict[str, Any]:
        entity = self._principals.find(request["PolicySourceArn"])
        if request.get("ResourcePolicy") and not isinstance(entity, User):
            raise _invalid("Invalid caller - Caller must be an IAM user in this context.")
        policies = self._principals.policies(entity)
        identity = (*policies.identity, *_inputs(request, "PolicyInputList"))
        boundary = next(iter(_inputs(request, "PermissionsBoundaryPolicyInputList")), policies.boundary)
        return self._simulate(request, Policies(identity, boundary))

    def _custom(self, request: dict[str, Any]) -> dict[str, Any]:
        boundary = next(iter(_inputs(request, "PermissionsBoundaryPolicyInputList")), None)
        return self._simulate(request, Policies(tuple(_inputs(request, "PolicyInputList")), boundary))

    def _simulate(self, request: dict[str, Any], policies: Policies) -> dict[str, Any]:
        for name in ("ResourcePolicy", "PolicyExclusionList", "OrderedOrganizationPolicyInputList"):
            if request.get(name):
                raise _not_implemented(name)
        if request.get("CallerArn"):
            self._principals.find(request["CallerArn"])
        resources = request.get("ResourceArns") or ["*"]
        for action in request["ActionNames"]:
            _check_action(action)
        for resource in resources:
            if resource != "*" and _ARN.fullmatch(resource) is None:
                raise _invalid(f"Invalid Resource Arn: {resource}")
        context = _context(request.get("ContextEntries", []))
        start, size = _offset(request.get("Marker")), int(request.get("MaxItems", _PAGE))
        if not 1 <= size <= 1000:
            raise _invalid(f"Invalid MaxItems: {size}")
        actions = request["ActionNames"][start : start + size]
        results = [self._result(policies, action, resources, context) for action in actions]
        more = start + size < len(request["ActionNames"])
        page = {"Marker": _marker(start + size)} if more else {}
        return {"EvaluationResults": results, "IsTruncated": more, **page}

    def _result(
        self, policies: Policies, action: str, resources: list[str], context: Mapping[str, Any]
    ) -> dict[str, Any]:
        verdicts = {resource: _judge(policies, action, resource, context) for resource in resources}
        effect = max((verdict.effect for verdict in verdicts.values()), key=_SEVERITY.index)
        matched: list[dict[str, Any]] = []
        for verdict in verdicts.values():
            if verdict.effect == effect:
                matched += [statement for statement in verdict.matched if statement not in matched]
        result: dict[str, Any] = {
            "EvalActionName": action,
            "EvalResourceName": _template(action),
            "EvalDecision": effect,
            "MatchedStatements": matched,
            "MissingContextValues": next(iter(verdicts.values())).missing,
        }
        if policies.boundary is not None:
            within = all(verdict.within_boundary for verdict in verdicts.values())
            result["PermissionsBoundaryDecisionDetail"] = {"AllowedByPermissionsBoundary": within}
        if self._credentials.organization is not None:
            result["OrganizationsDecisionDetail"] = {"AllowedByOrganizations": True}
        if resources != ["*"]:
            result["EvalDecisionDetails"] = {}
            result["ResourceSpecificResults"] = [
                _specific(resource, verdict) for resource, verdict in verdicts.items()
            ]
        return result


def _specific(resource: str, verdict: _Verdict) -> dict[str, Any]:
    found: dict[str, Any] = {
        "EvalResourceName": resource,
        "EvalResourceDecision": verdict.effect,
        "MatchedStatements": verdict.matched,
        "MissingContextValues": verdict.missing,
    }
    if verdict.within_boundary is not None:
        detail = {"AllowedByPermissionsBoundary": verdict.within_boundary}
        found["PermissionsBoundaryDecisionDetail"] = detail
    return found


def _judge(policies: Policies, action: str, resource: str, context: Mapping[str, Any]) -> _Verdict:
    """What the policies and the boundary say about one action on one resource."""
    effect, matched = _look(policies.identity, action, resource, context)
    limit, limiting = "allowed", list[dict[str, Any]]()
    if policies.boundary is not None:
        limit, limiting = _look([policies.boundary], action, resource, context)
    if "explicitDeny" in (effect, limit):
        denials = [
            *(matched if effect == "explicitDeny" else []),
            *(limiting if limit == "explicitDeny" else []),
        ]
        effect, matched = "explicitDeny", denials
    elif limit != "allowed":
        effect, matched = "implicitDeny", []
    statements = [*policies.statements, *(policies.limits or [])]
    used = {key for statement in statements for key in condition_keys(statement)}
    missing = sorted(key for key in used if key.lower() not in context)
    within = None if policies.boundary is None else limit == "allowed"
    return _Verdict(effect, matched, missing, within)


def _look(
    policies: Iterable[SourcePolicy], action: str, resource: str, context: Mapping[str, Any]
) -> tuple[Effect, list[dict[str, Any]]]:
    """What some policies say together, and where the statements that say it stand."""
    places: dict[int, dict[str, Any]] = {}
    statements: list[Statement] = []
    for policy in policies:
        for statement, place in zip(policy.statements, positions(policy.text), strict=True):
            statements.append(statement)
            places[id(statement)] = {
                "SourcePolicyId": policy.id,
                "SourcePolicyType": "IAM Policy",
                "StartPosition": place[0],
                "EndPosition": place[1],
            }
    effect, found = effect_of(statements, action, resource, context)
    return effect, [places[id(statement)] for statement in found]


def positions(document: str) -> list[tuple[dict[str, int], dict[str, int]]]:
    """Where each statement of a policy document starts and ends: lines and columns count from one."""
    members = _items(document, _space(document, 0))
    start, end = next(place for key, place in members if key == "Statement")
    places = [place for _, place in _items(document, _space(document, start))]
    if document[_space(document, start)] == "{":
        places = [(start, end)]
    return [(_position(document, first), _position(document, last)) for first, last in places]


def _items(text: str, start: int) -> list[tuple[str | None, tuple[int, int]]]:
    """The values of the JSON object or array at `start`, with their keys, and from where to where they stand."""
    decode, found, at = json.JSONDecoder().raw_decode, [], start
    while text[_space(text, at + 1)] not in "}]":
        begin, key = at + 1, None
        if text[start] == "{":
            key, after = decode(text, _space(text, begin))
            begin = _space(text, after) + 1
        _, end = decode(text, _space(text, begin))
        found.append((key, (begin, end)))
        at = _space(text, end)
        if text[at] != ",":
            break
    return found


def _space(text: str, start: int) -> int:
    """Where what follows the blanks from `start` on begins."""
    return len(text) - len(text[start:].lstrip())


def _position(text: str, offset: int) -> dict[str, int]:
    before = text[:offset]
    return {"Line": before.count("\n") + 1, "Column": offset - (before.rfind("\n") + 1) + 1}


def _inputs(request: dict[str, Any], name: str) -> list[SourcePolicy]:
    """Policies that came with the request."""
    return [
        SourcePolicy(f"{name}.{number}", text) for number, text in enumerate(request.get(name, []), start=1)
    ]


def _context(entries: list[dict[str, Any]]) -> dict[str, Any]:
    context: dict[str, Any] = {}
    for entry in entries:
        values = entry.get("ContextKeyValues", [])
        several = str(entry.get("ContextKeyType", "")).endswith("List")
        if len(values) > 1 and not several:
            raise _invalid(f"{entry['ContextKeyName']} has one value of type {entry.get('ContextKeyType')}")
        context[entry["ContextKeyName"].lower()] = values if several else "".join(values)
    return context


@functools.cache
def _prefixes() -> frozenset[str]:
    """The prefixes of actions, as far as botocore knows them."""
    session = botocore.session.get_session()
    endpoints = [name for part in session.get_data("endpoints")["partitions"] for name in part["services"]]
    return frozenset({*session.get_available_services(), *endpoints, *_OTHER_PREFIXES})


def _check_action(action: str) -> None:
    if not 3 <= len(action) <= 128:
        message = f"Value '{action}' at 'actionNames' failed to satisfy constraint: Member must have length"
        raise _invalid(f"1 validation error detected: {message} between 3 and 128", code="ValidationError")
    match = _ACTION.fullmatch(action)
    if match is None or match[1] not in _prefixes():
        raise _invalid(f"Invalid Action Name: {action}")


def _template(action: str) -> str:
    """The form of the ARNs that an action is about."""
    return "*" if action in _WITHOUT_RESOURCE else _ARN_TEMPLATES.get(action.split(":")[0], "*")


def _marker(offset: int) -> str:
    return base64.urlsafe_b64encode(str(offset).encode()).decode()


def _offset(marker: str | None) -> int:
    try:
        return int(base64.urlsafe_b64decode(marker)) if marker else 0
    except (ValueError, binascii.Error):
        raise _invalid(f"Invalid Marker: {marker}") from None


def _invalid(message: str, *, code: str = "InvalidInput") -> ServiceError:
    error = ServiceError(code, message)
    error.status = 400
    return error


def _not_implemented(name: str) -> ServiceError:
    error = ServiceError("NotImplemented", f"The embedded AWS simulates no {name}")
    error.status = 501
    return error
