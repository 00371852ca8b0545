"""Whether IAM allows a call: the policies of a role, its permission boundary, and the call's context."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

Statement = Mapping[str, Any]
Context = Mapping[str, Any]  # condition keys, in lower case, to a value or a list of values


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


def trusts(trust_policy: Mapping[str, Any], service: str) -> bool:
    """Whether a role's trust policy lets a service assume it; conditions on who asks are taken as met."""
    statements = trust_policy["Statement"]
    for statement in statements if isinstance(statements, list) else [statements]:
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
    met = [any(compare(text, value) for text in texts) is not negated for value in values]
    return all(met) if qualifier == "forallvalues" else any(met)
