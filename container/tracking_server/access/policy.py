"""IAM's policy language: what one identity-based policy says to a request.

Language: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements.html
Logic: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic.html

It fails closed. A document that is not understood in full is refused as a whole. A value of the request that is
not what its operator compares allows nothing and denies everything.
"""

from __future__ import annotations

import base64
import calendar
import ipaddress
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import Enum
from functools import partial
from typing import Literal, TypeVar

Values = str | Sequence[str]
"""What a request says of a condition key: text, or a sequence if AWS counts the key as multivalued."""

_Context = Mapping[str, Values]  # by key in lower case
_Listed = list[tuple[object, str]]  # values of a document, and where each stands in it


class PolicyError(ValueError):
    """The document is not an identity-based policy that can be evaluated; the message says where and why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What a policy says, and the statement that says it: its Sid, else its place (`Statement[0]`)."""

    allowed: bool
    effect: Literal["allow", "explicit deny", "implicit deny"]
    statement: str | None


_POLICY = frozenset({"Statement"})
_STATEMENT = frozenset({"Sid", "Action", "NotAction", "Resource", "NotResource", "Condition"})
_IMPLICIT_DENY = Decision(allowed=False, effect="implicit deny", statement=None)


class Policy:
    """An identity-based policy, compiled."""

    def __init__(self, statements: Sequence[_Statement]) -> None:
        # a denial decides whatever else is said, so it is looked for first
        self._statements = sorted(statements, key=lambda statement: not statement.denies)

    @classmethod
    def parse(cls, document: Mapping[str, object]) -> Policy:
        """Compiles a policy document as JSON gives it. Raises PolicyError."""
        content = _elements(document, "policy", required=_POLICY, optional=frozenset({"Version"}))
        version = content.get("Version", "2008-10-17")
        if version not in ("2008-10-17", "2012-10-17"):
            raise PolicyError(f"Version: {version!r} is neither 2012-10-17 nor 2008-10-17")
        statements = content["Statement"]
        listed: _Listed = [(statements, "Statement")]
        if not isinstance(statements, Mapping):
            listed = _list(statements, "Statement")
        names: set[str] = set()
        variables = version == "2012-10-17"
        return cls([_parse_statement(*item, names, variables=variables) for item in listed])

    def decide(self, action: str, resource: str, context: Mapping[str, Values]) -> Decision:
        """Whether an action (`service:Name`) may be done on a resource (an ARN, or `*` if the action has none).

        `context` has the condition keys of the request; the case of their names does not matter.
        """
        action = action.lower()
        keys = {name.lower(): value for name, value in context.items()}
        for statement in self._statements:
            if statement.applies(action, resource, keys):
                return statement.decision
        return _IMPLICIT_DENY


# --- statements


@dataclass(frozen=True, kw_only=True, slots=True)
class _Statement:
    decision: Decision
    denies: bool
    actions: _AnyOf
    not_action: bool
    resources: _AnyOf
    not_resource: bool
    conditions: tuple[_Condition | _NullCheck, ...]

    def applies(self, action: str, resource: str, context: _Context) -> bool:
        if self.actions.match(action, context) is self.not_action:
            return False
        if self.resources.match(resource, context) is self.not_resource:
            return False
        # what a variable without value would have left out is not known, so nothing is allowed
        if self.not_resource and not self.denies and not self.resources.have_values(context):
            return False
        return all(condition.holds(context) for condition in self.conditions)


def _parse_statement(statement: object, where: str, names: set[str], *, variables: bool) -> _Statement:
    content = _elements(statement, where, required=frozenset({"Effect"}), optional=_STATEMENT)
    effect = content["Effect"]
    if effect not in ("Allow", "Deny"):
        raise PolicyError(f"{where}.Effect: {effect!r} is neither Allow nor Deny")
    denies = effect == "Deny"
    actions, not_action = _one_of("Action", content, where)
    resources, not_resource = _one_of("Resource", content, where)
    return _Statement(
        decision=Decision(
            allowed=not denies,
            effect="explicit deny" if denies else "allow",
            statement=_parse_name(content.get("Sid", ""), where, names),
        ),
        denies=denies,
        actions=_AnyOf([_parse_action(*item) for item in actions]),
        not_action=not_action,
        resources=_AnyOf([_parse_resource(*item, variables=variables) for item in resources]),
        not_resource=not_resource,
        conditions=tuple(
            _parse_condition(name, key, values, place, variables=variables, denies=denies)
            for name, key, values, place in _conditions(content.get("Condition", {}), f"{where}.Condition")
        ),
    )


def _parse_name(sid: object, where: str, names: set[str]) -> str:
    if not isinstance(sid, str) or not re.fullmatch(r"[A-Za-z0-9]*", sid):
        raise PolicyError(f"{where}.Sid: {sid!r} has more than letters and digits")
    if sid in names:
        raise PolicyError(f"{where}.Sid: {sid!r} is the name of another statement too")
    if sid:
        names.add(sid)
    return sid or where


def _parse_action(action: object, where: str) -> _Parts:
    text = _text(action, where)
    if not re.fullmatch(r"\*|[A-Za-z0-9-]+:[A-Za-z0-9*?_-]+", text):
        raise PolicyError(
            f"{where}: {text!r} is neither * nor service:Action, with wildcards in the latter only"
        )
    return [_tokens(text.lower(), where, variables=False, wildcards=True)]


def _parse_resource(resource: object, where: str, *, variables: bool) -> _Parts:
    """A resource, as the six parts of its ARN, between which a wildcard does not reach.

    https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_resource.html
    """
    text = _text(resource, where)
    parts = _arn_parts(_tokens(text, where, variables=variables, wildcards=True))
    if text == "*":
        return parts
    if parts[0] != ["arn"]:
        raise PolicyError(f"{where}: {text!r} is neither * nor an ARN")
    if any(isinstance(token, _Variable) for part in parts[:5] for token in part):
        raise PolicyError(f"{where}: {text!r} has a variable before the fifth colon of the ARN")
    if len(parts) > 2 and not all(isinstance(token, str) for token in parts[2]):
        raise PolicyError(f"{where}: {text!r} has a wildcard for the service")
    if len(parts) < 6:
        # the last * of a part reaches over colons: certain only if it is the last character of all
        ends = [part[-1:] == [_Wildcard.ANY] for part in parts]
        if not ends[-1] or any(ends[:-1]):
            raise PolicyError(f"{where}: {text!r} has fewer than the six parts of an ARN")
        parts += [[_Wildcard.ANY]] * (6 - len(parts))
    return parts


# --- conditions


@dataclass(frozen=True, kw_only=True, slots=True)
class _Condition:
    """An operator, a key and the policy's values for it.

    https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_condition_operators.html
    https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_condition-single-vs-multi-valued-context-keys.html
    """

    key: str
    matches_one: _Matches
    negated: bool
    if_exists: bool
    quantifier: str
    denies: bool

    def holds(self, context: _Context) -> bool:
        given = context.get(self.key)
        if given is None:
            absent_holds = {"": self.negated, "forallvalues": True, "foranyvalue": False}
            return self.if_exists or absent_holds[self.quantifier]
        try:
            if not self.quantifier:
                # a key with several values meets no condition that does not say how to compare them
                return isinstance(given, str) and self._met(given, context)
            met = (self._met(value, context) for value in _present(given))
            return all(met) if self.quantifier == "forallvalues" else any(met)
        except ValueError:
            return self.denies

    def _met(self, value: str, context: _Context) -> bool:
        return self.matches_one(value, context) is not self.negated


@dataclass(frozen=True, kw_only=True, slots=True)
class _NullCheck:
    """Whether a key is absent or has no value but empty ones."""

    key: str
    wanted: frozenset[bool]

    def holds(self, context: _Context) -> bool:
        return (not _present(context.get(self.key, ""))) in self.wanted


def _present(given: Values) -> list[str]:
    """The values of a key; an empty string is none where values are counted."""
    return [value for value in ([given] if isinstance(given, str) else given) if value]


def _conditions(block: object, where: str) -> Iterator[tuple[str, str, object, str]]:
    for name, keys in _mapping(block, where).items():
        content = _mapping(keys, f"{where}.{name}")
        if not content:
            raise PolicyError(f"{where}.{name}: no condition key")
        for key, values in content.items():
            yield name, key, values, f"{where}.{name}[{key!r}]"


def _parse_condition(
    name: str, key: str, values: object, where: str, *, variables: bool, denies: bool
) -> _Condition | _NullCheck:
    if not re.fullmatch(_KEY, key):
        raise PolicyError(f"{where}: {key!r} is not a condition key")
    quantifier, _, operation = name.lower().rpartition(":")
    listed = [(_condition_value(value, place), place) for value, place in _list_or_one(values, where)]
    if (quantifier, operation) == ("", "null"):
        return _NullCheck(key=key.lower(), wanted=frozenset(_read(_boolean, *item) for item in listed))
    plain = operation.removesuffix("ifexists")
    compile_values = _OPERATORS.get(_NEGATIONS.get(plain, plain))
    if compile_values is None or quantifier not in ("", "forallvalues", "foranyvalue"):
        raise PolicyError(f"{where}: {name!r} is not a condition operator")
    return _Condition(
        key=key.lower(),
        matches_one=compile_values(listed, variables),
        negated=plain in _NEGATIONS,
        if_exists=plain != operation,
        quantifier=quantifier,
        denies=denies,
    )


def _condition_value(value: object, where: str) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float) else _text(value, where)


# --- operators: from the policy's values to whether one value of the request matches any of them

_Matches = Callable[[str, _Context], bool]
_Compile = Callable[[Sequence[tuple[str, str]], bool], _Matches]
_Given = TypeVar("_Given")
_Wanted = TypeVar("_Wanted")


def _texts(
    wanted: Sequence[tuple[str, str]],
    variables: bool,
    *,
    wildcards: bool = False,
    ignore_case: bool = False,
) -> _Matches:
    patterns = _AnyOf(
        [
            [_tokens(text, where, variables=variables, wildcards=wildcards, ignore_case=ignore_case)]
            for text, where in wanted
        ]
    )
    if ignore_case:
        return lambda given, context: patterns.match(given.lower(), context)
    return patterns.match


def _arns(wanted: Sequence[tuple[str, str]], variables: bool) -> _Matches:
    """ARNs, of which each of the six parts is compared with its own."""
    compiled = []
    for text, where in wanted:
        parts = _arn_parts(_tokens(text, where, variables=variables, wildcards=True))
        if len(parts) < 6:
            raise PolicyError(f"{where}: {text!r} has fewer than the six parts of an ARN")
        compiled.append(parts)
    patterns = _AnyOf(compiled)

    def match(given: str, context: _Context) -> bool:
        if given.count(":") < 5:
            raise ValueError(f"{given!r} is not an ARN")
        return patterns.match(given, context)

    return match


def _compared(
    compare: Callable[[_Given, _Wanted], bool],
    given_as: Callable[[str], _Given],
    wanted_as: Callable[[str], _Wanted],
) -> _Compile:
    """Values of another type than text, which have neither wildcards nor variables."""

    def compile_values(wanted: Sequence[tuple[str, str]], variables: bool) -> _Matches:
        values = [_read(wanted_as, *item) for item in wanted]

        def match(given: str, context: _Context) -> bool:
            value = given_as(given)
            return any(compare(value, other) for other in values)

        return match

    return compile_values


def _read(reader: Callable[[str], _Wanted], text: str, where: str) -> _Wanted:
    try:
        return reader(text)
    except ValueError as error:
        raise PolicyError(f"{where}: {error}") from None


def _number(text: str) -> Decimal:
    if not re.fullmatch(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?", text):
        raise ValueError(f"{text!r} is not a number")
    return Decimal(text)


_DATE = re.compile(
    r"(\d{4})-(\d{2})(?:-(\d{2})(?:T(\d{2}):(\d{2})(?::([0-5]\d(?:\.\d+)?))?"
    r"(?:Z|([+-])([01]\d|2[0-3]):([0-5]\d)))?)?",
    re.ASCII,
)


def _instant(text: str) -> Decimal:
    """Seconds of the epoch, written as such or in a form of https://www.w3.org/TR/NOTE-datetime.

    A year alone is refused: it could be either.
    """
    if re.fullmatch(r"[0-9]{5,15}", text):
        return Decimal(text)
    found = _DATE.fullmatch(text)
    if not found:
        raise ValueError(f"{text!r} is neither an ISO 8601 date nor seconds of the epoch")
    year, month, day, hour, minute, second, sign, hours, minutes = found.groups()
    start = datetime(int(year), int(month), int(day or 1), int(hour or 0), int(minute or 0))
    ahead = 3600 * int(hours or 0) + 60 * int(minutes or 0)
    return calendar.timegm(start.timetuple()) + Decimal(second or 0) + (ahead if sign == "-" else -ahead)


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(f"{text!r} is neither true nor false")
    return text.lower() == "true"


def _binary(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _address(text: str) -> _Address:
    address = ipaddress.ip_address(text)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _network(text: str) -> _Network:
    if not re.fullmatch(r"[0-9A-Fa-f.:]+(/[0-9]{1,3})?", text):
        raise ValueError(f"{text!r} is neither an address nor a range in CIDR notation")
    return ipaddress.ip_network(text, strict=False)


def _within(address: _Address, network: _Network) -> bool:
    return address in network


_OPERATORS: dict[str, _Compile] = {
    "stringequals": _texts,
    "stringequalsignorecase": partial(_texts, ignore_case=True),
    "stringlike": partial(_texts, wildcards=True),
    "numericequals": _compared(operator.eq, _number, _number),
    "numericlessthan": _compared(operator.lt, _number, _number),
    "numericlessthanequals": _compared(operator.le, _number, _number),
    "numericgreaterthan": _compared(operator.gt, _number, _number),
    "numericgreaterthanequals": _compared(operator.ge, _number, _number),
    "dateequals": _compared(operator.eq, _instant, _instant),
    "datelessthan": _compared(operator.lt, _instant, _instant),
    "datelessthanequals": _compared(operator.le, _instant, _instant),
    "dategreaterthan": _compared(operator.gt, _instant, _instant),
    "dategreaterthanequals": _compared(operator.ge, _instant, _instant),
    "bool": _compared(operator.eq, _boolean, _boolean),
    "binaryequals": _compared(operator.eq, _binary, _binary),
    "ipaddress": _compared(_within, _address, _network),
    "arnequals": _arns,
    "arnlike": _arns,
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


# --- patterns: text with wildcards and policy variables


class _Wildcard(Enum):
    ANY = "*"
    ONE = "?"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Variable:
    """A placeholder for a value of the request, which is text: a wildcard in it is none.

    https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_variables.html
    """

    key: str
    default: str | None
    ignore_case: bool

    def value(self, context: _Context) -> str | None:
        given = context.get(self.key)
        if not isinstance(given, str) or not given or "\0" in given:
            return self.default
        return given.lower() if self.ignore_case else given


_Token = str | _Wildcard | _Variable
_Parts = list[list[_Token]]

_KEY = r"[\w./-]+:[\w .:/=+@-]*[\w.:/=+@-]"
_PLACEHOLDER = re.compile(rf"\$\{{(?:(?P<special>[*?$])|(?P<key>{_KEY})(?:, '(?P<default>[^'\0]*)')?)\}}")


def _tokens(
    text: str, where: str, *, variables: bool, wildcards: bool, ignore_case: bool = False
) -> list[_Token]:
    """The pieces of a pattern: its text, its wildcards and its variables."""
    tokens: list[_Token] = []
    text = text.lower() if ignore_case else text
    pieces = re.split(r"(\$\{[^}]*\}?|[*?])" if variables else r"([*?])", text)
    for number, piece in enumerate(pieces):
        if number % 2 == 0 or (piece in "*?" and not wildcards):
            tokens += [piece] if piece else []
        elif piece in "*?":
            tokens.append(_Wildcard(piece))
        else:
            found = _PLACEHOLDER.fullmatch(piece)
            if not found:
                raise PolicyError(f"{where}: {piece!r} is not a policy variable")
            tokens.append(
                found["special"]
                or _Variable(key=found["key"].lower(), default=found["default"], ignore_case=ignore_case)
            )
    return tokens


def _arn_parts(tokens: list[_Token]) -> _Parts:
    """The six parts of an ARN, of which the last may have colons of its own; fewer if there are not that many."""
    parts: _Parts = [[]]
    for token in tokens:
        first, *others = token.split(":", 6 - len(parts)) if isinstance(token, str) else [token]
        parts[-1].append(first)
        parts += [[other] for other in others]
    return [[token for token in part if token != ""] for part in parts]


class _Pattern:
    """Parts of text with a colon between them, compiled once for all requests.

    A variable is a back-reference: what is searched begins with the values of all variables, a NUL after each.
    """

    def __init__(self, parts: _Parts) -> None:
        self._variables: list[_Variable] = []
        self._stars = 0
        values, expressions = "", []
        for number, part in enumerate(parts):
            other_than = "" if number == len(parts) - 1 else ":"
            before = len(self._variables)
            expressions.append(self._expression(part, f"[^{other_than}]" if other_than else "."))
            for variable in range(before, len(self._variables)):
                values += rf"(?P<v{variable}>[^\0{other_than}]*)\0"
        self._compiled = re.compile(values + ":".join(expressions), re.DOTALL)

    def _expression(self, part: list[_Token], one: str) -> str:
        """One part. What stands between two stars is taken where it is found first: nothing is gained later."""
        first, *others = self._chunks(part, one)
        for chunk in others[:-1]:
            self._stars += 1
            first += f"(?=(?P<s{self._stars}>{one}*?{chunk}))(?P=s{self._stars})"
        return first + "".join(f"{one}*{last}" for last in others[-1:])

    def _chunks(self, part: list[_Token], one: str) -> list[str]:
        """What stands before, between and after the stars."""
        chunks = [""]
        for token in part:
            if token is _Wildcard.ANY:
                chunks.append("")
            elif token is _Wildcard.ONE:
                chunks[-1] += one
            elif isinstance(token, _Variable):
                chunks[-1] += f"(?P=v{len(self._variables)})"
                self._variables.append(token)
            else:
                chunks[-1] += re.escape(str(token))
        return chunks

    def matches(self, text: str, context: _Context) -> bool:
        """Whether a text has this form; none has if a variable has no value."""
        if not self._variables:
            return self._compiled.fullmatch(text) is not None
        values = self._values(context)
        return values is not None and self._compiled.fullmatch("\0".join([*values, text])) is not None

    def has_values(self, context: _Context) -> bool:
        """Whether every variable has a value."""
        return self._values(context) is not None

    def _values(self, context: _Context) -> list[str] | None:
        values = [variable.value(context) for variable in self._variables]
        present = [value for value in values if value is not None]
        return present if len(present) == len(values) else None


class _AnyOf:
    """Patterns of which a text has to match one."""

    def __init__(self, patterns: Sequence[_Parts]) -> None:
        plain = [all(isinstance(token, str) for part in parts for token in part) for parts in patterns]
        self._everything = [[_Wildcard.ANY]] in patterns
        self._plain = frozenset(
            ":".join("".join(map(str, part)) for part in parts)
            for parts, is_plain in zip(patterns, plain, strict=True)
            if is_plain
        )
        self._patterns = [
            _Pattern(parts) for parts, is_plain in zip(patterns, plain, strict=True) if not is_plain
        ]

    def match(self, text: str, context: _Context) -> bool:
        if self._everything or text in self._plain:
            return True
        return any(pattern.matches(text, context) for pattern in self._patterns)

    def have_values(self, context: _Context) -> bool:
        """Whether every variable has a value."""
        return all(pattern.has_values(context) for pattern in self._patterns)


# --- the form of documents


def _elements(
    value: object, where: str, *, required: frozenset[str], optional: frozenset[str]
) -> Mapping[str, object]:
    content = _mapping(value, where)
    if missing := required - content.keys():
        raise PolicyError(f"{where}: {', '.join(sorted(missing))} is missing")
    if unknown := content.keys() - required - optional:
        raise PolicyError(f"{where}: {', '.join(sorted(unknown))} cannot stand here")
    return content


def _one_of(element: str, content: Mapping[str, object], where: str) -> tuple[_Listed, bool]:
    """The values of an element or of its opposite, and whether they are of the opposite."""
    names = [name for name in (element, f"Not{element}") if name in content]
    if len(names) != 1:
        raise PolicyError(f"{where}: one of {element} and Not{element} has to stand here")
    return _list_or_one(content[names[0]], f"{where}.{names[0]}"), names[0] != element


def _list_or_one(value: object, where: str) -> _Listed:
    return _list(value, where) if isinstance(value, list | tuple) else [(value, where)]


def _list(value: object, where: str) -> _Listed:
    if not isinstance(value, list | tuple) or not value:
        raise PolicyError(f"{where}: {value!r} instead of a list with at least one value")
    return [(item, f"{where}[{number}]") for number, item in enumerate(value)]


def _mapping(value: object, where: str) -> Mapping[str, object]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise PolicyError(f"{where}: {type(value).__name__} instead of an object")
    return value


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise PolicyError(f"{where}: {value!r} is not a string")
    return value
