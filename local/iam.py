"""Whether IAM allows a call: policy statements, a permissions boundary, trust policies, and the call's context."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timezone
from functools import cache
from typing import Any, Literal

Statement = Mapping[str, Any]
Context = Mapping[str, Any]  # condition keys, in lower case, to a value or a list of values
Effect = Literal["allowed", "explicitDeny", "implicitDeny"]  # as the policy simulator names them


def decide(
    *,
    statements: Iterable[Statement],
    boundary: Iterable[Statement] | None,
    action: str,
    resource: str,
    context: Context,
) -> tuple[bool, str]:
    """Whether a request is allowed, and if not, why, in AWS's words.

    Logic: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic.html
    """
    statements = list(statements)
    limits = None if boundary is None else list(boundary)
    for statement in [*statements, *(limits or [])]:
        if statement["Effect"] == "Deny" and applies(statement, action, resource, context):
            return False, "with an explicit deny in an identity-based policy"
    if not _allowed(statements, action, resource, context):
        return False, f"because no identity-based policy allows the {action} action"
    if limits is not None and not _allowed(limits, action, resource, context):
        return False, f"because no permissions boundary allows the {action} action"
    return True, ""


def _allowed(statements: Iterable[Statement], action: str, resource: str, context: Context) -> bool:
    return any(
        statement["Effect"] == "Allow" and applies(statement, action, resource, context)
        for statement in statements
    )


def applies(statement: Statement, action: str, resource: str, context: Context) -> bool:
    """Whether a statement is about a request."""
    return (
        _names(statement, "Action", action.lower(), lower=True)
        and _names(statement, "Resource", resource, context=context)
        and _conditions_hold(statement, context)
    )


def effect_of(
    statements: Iterable[Statement], action: str, resource: str, context: Context
) -> tuple[Effect, list[Statement]]:
    """What the statements say about a request, and those of them that say it: the denials, else the permissions."""
    about = [statement for statement in statements if applies(statement, action, resource, context)]
    denials = [statement for statement in about if statement["Effect"] == "Deny"]
    if denials:
        return "explicitDeny", denials
    return ("allowed", about) if about else ("implicitDeny", [])


def condition_keys(statement: Statement) -> set[str]:
    """The condition keys that a statement uses, in conditions and as policy variables, as it writes them."""
    named = {key for keys in statement.get("Condition", {}).values() for key in keys}
    values = [value for keys in statement.get("Condition", {}).values() for value in keys.values()]
    for value in [*values, statement.get("Resource", []), statement.get("NotResource", [])]:
        for text in _list(value):
            named.update(name for name in re.findall(r"\$\{([^},]+)", str(text)) if name not in "*?$")
    return named


Trust = Literal["allowed", "delegated", "explicitDeny", "implicitDeny"]


def trust(
    trust_policy: Mapping[str, Any],
    *,
    kind: str,
    principals: Iterable[str],
    accounts: Iterable[str],
    action: str,
    context: Context,
) -> Trust:
    """What a role's trust policy says to a caller of a kind (`AWS`, `Federated`).

    `principals` are the ways to name the caller, `accounts` those to name its account. Where only the account
    is trusted, the decision is delegated to the policies of the caller.
    """
    found: Trust = "implicitDeny"
    for statement in _list(trust_policy["Statement"]):
        denies = statement["Effect"] == "Deny"
        wanted = statement.get("Principal", {})
        values = {"*"} if wanted == "*" else set(map(str, _list(wanted.get(kind, []))))
        itself = not values.isdisjoint(principals) or (denies and "NotPrincipal" in statement)
        if not itself and values.isdisjoint(accounts):
            continue
        if not _names(statement, "Action", action.lower(), lower=True) or not _conditions_hold(
            statement, context
        ):
            continue
        if denies:
            return "explicitDeny"
        if found != "allowed":
            found = "allowed" if itself else "delegated"
    return found


def trusts(trust_policy: Mapping[str, Any], service: str) -> bool:
    """Whether a role's trust policy lets a service assume it; conditions on who asks are taken as met."""
    for statement in _list(trust_policy["Statement"]):
        principal = statement.get("Principal", {})
        named = _list(principal.get("Service", [])) if isinstance(principal, dict) else []
        if statement["Effect"] == "Allow" and service in named:
            return _names(statement, "Action", "sts:assumerole", lower=True)
    return False


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


@cache
def _pattern(text: str) -> re.Pattern[str]:
    parts = (re.escape(part) for part in re.split(r"([*?])", text))
    return re.compile("".join({r"\*": ".*", r"\?": "."}.get(part, part) for part in parts), re.DOTALL)


def _matches(pattern: str, text: str) -> bool:
    return _pattern(pattern).fullmatch(text) is not None


def _names(
    statement: Statement, element: str, value: str, *, lower: bool = False, context: Context | None = None
) -> bool:
    for key, wanted in ((element, True), (f"Not{element}", False)):
        if key in statement:
            patterns = [_substitute(str(item), context or {}) for item in _list(statement[key])]
            found = any(_matches(item.lower() if lower else item, value) for item in patterns)
            return found is wanted
    return False


def _substitute(text: str, context: Context) -> str:
    """Policy variables; one that has no value matches nothing."""

    def value(found: re.Match[str]) -> str:
        name = found[1].lower()
        return {"*": "*", "?": "?", "$": "$"}.get(name) or str(context.get(name, "\0"))

    return re.sub(r"\$\{([^}]+)\}", value, text)


def _number(compare: Callable[[float, float], bool]) -> Callable[[str, str], bool]:
    return lambda wanted, given: compare(float(given), float(wanted))


def _address(wanted: str, given: str) -> bool:
    return ipaddress.ip_address(given) in ipaddress.ip_network(wanted, strict=False)


def _instant(text: str) -> float:
    """Seconds of the epoch, of either form that a policy may have."""
    if text.isdigit():
        return float(text)
    instant = datetime.fromisoformat(text.replace("Z", "+00:00"))
    return (instant if instant.tzinfo else instant.replace(tzinfo=timezone.utc)).timestamp()


def _date(compare: Callable[[float, float], bool]) -> Callable[[str, str], bool]:
    return lambda wanted, given: compare(_instant(given), _instant(wanted))


def _arn(wanted: str, given: str) -> bool:
    parts, others = wanted.split(":", 5), given.split(":", 5)
    return len(parts) == len(others) and all(map(_matches, parts, others))


# operator: how a wanted value meets a given one
_OPERATORS: dict[str, Callable[[str, str], bool]] = {
    "stringequals": lambda wanted, given: wanted == given,
    "stringequalsignorecase": lambda wanted, given: wanted.lower() == given.lower(),
    "stringlike": _matches,
    "numericequals": _number(lambda given, wanted: given == wanted),
    "numericlessthan": _number(lambda given, wanted: given < wanted),
    "numericlessthanequals": _number(lambda given, wanted: given <= wanted),
    "numericgreaterthan": _number(lambda given, wanted: given > wanted),
    "numericgreaterthanequals": _number(lambda given, wanted: given >= wanted),
    "dateequals": _date(lambda given, wanted: given == wanted),
    "datelessthan": _date(lambda given, wanted: given < wanted),
    "datelessthanequals": _date(lambda given, wanted: given <= wanted),
    "dategreaterthan": _date(lambda given, wanted: given > wanted),
    "dategreaterthanequals": _date(lambda given, wanted: given >= wanted),
    "bool": lambda wanted, given: wanted.lower() == given.lower(),
    "ipaddress": _address,
    "arnequals": _arn,
    "arnlike": _arn,
}
_NEGATIONS = {
    "stringnotequals": "stringequals",
    "stringnotequalsignorecase": "stringequalsignorecase",
    "stringnotlike": "stringlike",
    "numericnotequals": "numericequals",
    "datenotequals": "dateequals",
    "notipaddress": "ipaddress",
    "arnnotequals": "arnequals",
    "arnnotlike": "arnlike",
}


def _conditions_hold(statement: Statement, context: Context) -> bool:
    return all(
        _holds(operator, key, wanted, context, denies=statement["Effect"] == "Deny")
        for operator, keys in statement.get("Condition", {}).items()
        for key, wanted in keys.items()
    )


def _holds(operator: str, key: str, wanted: Any, context: Context, *, denies: bool) -> bool:
    name = operator.lower()
    given = context.get(key.lower())
    if name == "null":
        return (given is None) is (str(_list(wanted)[0]).lower() == "true")
    qualifier, _, name = name.rpartition(":")
    optional = name.endswith("ifexists")
    name = name.removesuffix("ifexists")
    negated = name in _NEGATIONS
    compare = _OPERATORS.get(_NEGATIONS.get(name, name))
    if compare is None:
        return denies  # fail closed: an operator that is not known here allows nothing and denies everything
    if given is None:
        return optional or negated or qualifier == "forallvalues"
    values = [str(item).lower() if isinstance(item, bool) else str(item) for item in _list(given)]
    texts = [
        _substitute(str(item).lower() if isinstance(item, bool) else str(item), context)
        for item in _list(wanted)
    ]
    try:
        met = [any(compare(text, value) for text in texts) is not negated for value in values]
    except ValueError:  # a text where the operator wants a number, a date or an address
        return denies
    return all(met) if qualifier == "forallvalues" else any(met)
