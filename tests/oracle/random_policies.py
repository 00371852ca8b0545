"""Random policies and requests that are close enough to each other for every rule to decide some of them.

They use what other evaluators know too: real actions, resources of these actions, real condition keys. Where
another evaluator is known to differ from AWS's documentation, a test leaves that out by naming it in `avoid`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any, Literal

Avoid = Literal[
    "a colon in the resource",  # the last part of an ARN may have colons of its own
    "defaults of variables",  # ${aws:username, 'nobody'}
    "empty sets",  # set operators and Null on a key whose value is an empty string
    "escapes",  # ${*} ${?} ${$}
    "escapes outside of patterns",  # the same in operators that know no wildcards
    "plain operators on multivalued keys",
    "set operators on absent keys",  # negated ForAnyValue; ForAnyValue with IfExists
    "several values of Null",
    "short ARNs of NotResource",
    "values of another type",  # a word for a number
    "values of another type in denials",
    "variables for a part of a condition's ARN",  # other than the last one
    "variables without value in negations",
    "variables without value in NotResource",
    "version 2008-10-17 with variables",
    "wildcards in the type of a resource",  # `*/prod` or `${aws:username}-queue`
    "wildcards in values",  # a request's value with * or ? in it
    "BinaryEquals",
    "addresses of the other family in NotIpAddress",
    "ranges of all addresses",  # /0
]

ACCOUNT = "123456789012"
ACTIONS = {
    f"arn:aws:sagemaker:eu-central-1:{ACCOUNT}:mlflow-tracking-server/prod": [
        f"sagemaker-mlflow:{name}"
        for name in ("CreateRun", "DeleteRun", "GetRun", "SearchRuns", "SetRegisteredModelAlias")
    ],
    f"arn:aws:sagemaker:us-east-1:{ACCOUNT}:mlflow-tracking-server/alice": ["sagemaker-mlflow:LogMetric"],
    "arn:aws:s3:::models/team-a/alice/1.json": ["s3:GetObject", "s3:PutObject"],
    "arn:aws:s3:::team-a": ["s3:ListBucket"],
    f"arn:aws:dynamodb:eu-central-1:{ACCOUNT}:table/team-a": ["dynamodb:GetItem", "dynamodb:PutItem"],
    f"arn:aws:sqs:eu-west-1:{ACCOUNT}:alice-queue": ["sqs:SendMessage"],
    f"arn:aws:logs:eu-central-1:{ACCOUNT}:log-group:alice:log-stream:web/1": ["logs:PutLogEvents"],
    "*": ["sagemaker-mlflow:AccessUI", "s3:ListAllMyBuckets"],
}
ARNS = [
    f"arn:aws:iam::{ACCOUNT}:role/alice",
    f"arn:aws:iam::{ACCOUNT}:role/team-a/Reader",
    "arn:aws-cn:iam::210987654321:role/Reader",
    f"arn:aws:sns:eu-central-1:{ACCOUNT}:team-a:web",
]
INSTANTS = [
    "2026-01-31T23:59:59Z",
    "2026-02-01T00:00:00Z",
    "2026-02-01T01:00:00+01:00",
    "2026-02-01T00:00:00.5Z",
    "2026-02-01",
    "2026-02-01T00:00Z",
]
KNOWN = ("aws:username", "aws:PrincipalTag/team")
"""Single-valued keys that every request has, and not empty."""

VALUES: dict[str, tuple[str, list[str]]] = {
    "aws:username": ("text", ["alice", "Alice", "bob", "al?ce", "a*"]),
    "aws:PrincipalTag/team": ("text", ["team-a", "TEAM-A", "team-b", "*", "${x}.+(1)"]),
    "aws:userid": ("text", ["AROAEXAMPLE:alice", "AROAEXAMPLE:bob"]),
    "aws:UserAgent": ("text", ["mlflow-python/3", "MLflow-Python/3", ""]),
    "aws:PrincipalTag/level": ("number", ["1", "2", "2.0", "10", "-1", "0.5"]),
    "aws:MultiFactorAuthAge": ("number", ["10", "3600"]),
    "aws:CurrentTime": ("date", INSTANTS),
    "aws:EpochTime": ("epoch", ["1769903999", "1769904000", "1769904001"]),
    "aws:SecureTransport": ("flag", ["true", "false", "True"]),
    "aws:PrincipalTag/key": ("binary", ["QUJD", "QUI=", "/+A="]),
    "aws:SourceIp": ("address", ["10.1.2.3", "10.1.2.255", "192.0.2.1", "2001:db8::1", "2001:db8:1::ffff"]),
    "aws:PrincipalArn": ("arn", ARNS),
    "aws:SourceArn": ("arn", ARNS),
}
MULTIVALUED: dict[str, list[str]] = {
    "aws:TagKeys": ["team-a", "team-b", "alice", "Alice", "owner"],
    "aws:PrincipalOrgPaths": ["o-1/r-1/ou-1/", "o-1/r-1/ou-2/", "o-2/r-1/"],
}
OPERATORS = {
    "text": ["StringEquals", "StringEqualsIgnoreCase", "StringLike"],
    "number": ["NumericEquals"] + [f"Numeric{way}" for way in ("LessThan", "LessThanEquals", "GreaterThan")],
    "date": ["DateEquals", "DateLessThan", "DateLessThanEquals", "DateGreaterThan", "DateGreaterThanEquals"],
    "flag": ["Bool"],
    "binary": ["BinaryEquals"],
    "address": ["IpAddress"],
    "arn": ["ArnEquals", "ArnLike"],
}
OPERATORS["epoch"] = OPERATORS["date"]
OPERATORS["number"] += ["NumericGreaterThanEquals"]
NEGATIONS = {
    "StringEquals": "StringNotEquals",
    "StringEqualsIgnoreCase": "StringNotEqualsIgnoreCase",
    "StringLike": "StringNotLike",
    "NumericEquals": "NumericNotEquals",
    "DateEquals": "DateNotEquals",
    "IpAddress": "NotIpAddress",
    "ArnEquals": "ArnNotEquals",
    "ArnLike": "ArnNotLike",
}

Values = dict[str, str | list[str]]


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked of a policy."""

    action: str
    resource: str
    context: Values


@dataclass(frozen=True, kw_only=True)
class Case:
    """A policy document and what is asked of it."""

    policy: dict[str, Any]
    requests: list[Request]


def cases(count: int, *, seed: int, avoid: Collection[Avoid] = ()) -> Iterator[Case]:
    """The same cases for the same seed."""
    generator = _Generator(Random(seed), avoid)  # noqa: S311 not for secrets
    for _ in range(count):
        yield generator.case()


class _Generator:
    def __init__(self, random: Random, avoid: Collection[Avoid]) -> None:
        self._random = random
        self._avoid = avoid

    def _chance(self, probability: float) -> bool:
        return self._random.random() < probability

    def _some(self, probability: float, unless: Avoid) -> bool:
        return unless not in self._avoid and self._chance(probability)

    def case(self) -> Case:
        requests = [self._request(ACTIONS)]
        for _ in range(2):
            requests.append(self._request([requests[0].resource] if self._chance(0.7) else ACTIONS))
        only_allows = self._chance(0.4)
        old = self._chance(0.1)
        variables = not old or "version 2008-10-17 with variables" not in self._avoid
        statements = [
            self._statement(
                self._random.choice(requests),
                effect="Allow" if only_allows or self._chance(0.6) else "Deny",
                only_allows=only_allows,
                variables=variables,
            )
            for _ in range(self._random.choice((1, 1, 2, 3)))
        ]
        version = (
            {"Version": "2012-10-17"} if not old else self._random.choice(({}, {"Version": "2008-10-17"}))
        )
        one = len(statements) == 1 and self._chance(0.3)
        return Case(policy={**version, "Statement": statements[0] if one else statements}, requests=requests)

    # --- requests

    def _request(self, resources: Iterable[str]) -> Request:
        allowed = "a colon in the resource" not in self._avoid
        resource = self._random.choice([name for name in resources if allowed or name.count(":") <= 5])
        context: Values = {}
        for key, (_, values) in VALUES.items():
            if "wildcards in values" in self._avoid:
                values = [value for value in values if not set(value) & set("*?")]
            if key in KNOWN or self._chance(0.7):
                context[self._case(key)] = self._random.choice(values)
        for key, values in MULTIVALUED.items():
            if self._chance(0.7):
                context[key] = self._random.sample(values, self._random.choice((1, 1, 2, 3)))
        return Request(action=self._random.choice(ACTIONS[resource]), resource=resource, context=context)

    def _case(self, key: str) -> str:
        return key.upper().replace("AWS:", "aws:") if "/" not in key and self._chance(0.1) else key

    # --- statements

    def _statement(self, near: Request, *, effect: str, only_allows: bool, variables: bool) -> dict[str, Any]:
        statement: dict[str, Any] = {"Effect": effect}
        actions = [self._action(near.action) for _ in range(self._random.choice((1, 1, 2)))]
        statement["NotAction" if self._chance(0.15) else "Action"] = self._listed(actions)
        excluded = self._chance(0.15)
        resources = [
            self._resource(near, excluded=excluded, variables=variables)
            for _ in range(self._random.choice((1, 1, 2)))
        ]
        statement["NotResource" if excluded else "Resource"] = self._listed(resources)
        if self._chance(0.6):
            statement["Condition"] = self._conditions(
                near, effect, only_allows=only_allows, variables=variables
            )
        return statement

    def _listed(self, values: list[Any]) -> Any:
        return values[0] if len(values) == 1 and self._chance(0.5) else values

    def _action(self, near: str) -> str:
        service, _, name = near.partition(":")
        if self._chance(0.2):
            service, _, name = self._random.choice(self._random.choice(list(ACTIONS.values()))).partition(":")
        pattern = f"{service}:{self._glob(name)}"
        return "*" if self._chance(0.1) else pattern.swapcase() if self._chance(0.1) else pattern

    def _glob(self, text: str) -> str:
        """A pattern that most likely matches a text."""
        start, end = sorted((self._random.randint(0, len(text)), self._random.randint(0, len(text))))
        return self._random.choice(
            (
                text,
                text,
                "*",
                f"{text[:start]}*",
                f"*{text[start:]}",
                f"{text[:start]}*{text[end:]}",
                f"{text[:start]}**{text[end:]}*",
                f"*{text[start:end]}*{text[-1:]}",
                re.sub(r"[a-z]", "?", text, count=2),
                f"{text}?",
            )
        )

    def _resource(self, near: Request, *, excluded: bool, variables: bool) -> str:
        resource = near.resource if self._chance(0.8) else self._random.choice(list(ACTIONS))
        if resource == "*" or self._chance(0.15):
            return "*"
        *first, last = resource.split(":", 5)
        unless: Avoid = "short ARNs of NotResource"
        if self._chance(0.1) and not (excluded and unless in self._avoid):
            kept = self._random.choice((3, 4, 5))
            return ":".join([*first[:kept], "*"])
        for number in (1, 3, 4):
            if self._chance(0.2):
                first[number] = self._glob(first[number])
        known_only = excluded and "variables without value in NotResource" in self._avoid
        return ":".join(
            [
                *first,
                self._last_part(last, s3=first[2:] == ["s3", "", ""], plain=not variables, known=known_only),
            ]
        )

    def _last_part(self, text: str, *, s3: bool, plain: bool, known: bool) -> str:
        if "wildcards in the type of a resource" not in self._avoid or s3:
            return self._glob(text) if plain else self._with_variables(self._glob(text), known=known)
        kind = re.match(r"[^:/]*[:/]", text)
        if not kind or self._chance(0.2):
            return self._glob(text.replace(":", "/").split("/")[0]) if kind else self._glob(text)
        rest = self._glob(text[kind.end() :])
        return kind[0] + (rest if plain else self._with_variables(rest, known=known))

    def _with_variables(self, text: str, *, known: bool = False, escapes: bool = True) -> str:
        """Puts variables in the place of their usual values, and escapes in that of wildcards."""
        places: dict[str, str] = {}
        for key in (*KNOWN, "aws:userid", "aws:SourceArn", "aws:TagKeys"):
            if self._chance(0.4) and (key in KNOWN or not known):
                value = VALUES[key][1][0] if key in VALUES else MULTIVALUED[key][0]
                default = f", '{value}'" if self._some(0.3, "defaults of variables") else ""
                places[value] = f"${{{self._case(key)}{default}}}"
        if escapes and self._some(0.1, "escapes"):
            places |= {character: f"${{{character}}}" for character in "*?"}
        pattern = "|".join(map(re.escape, places))
        return re.sub(pattern, lambda found: places[found[0]], text) if places else text

    # --- conditions

    def _conditions(
        self, near: Request, effect: str, *, only_allows: bool, variables: bool
    ) -> dict[str, dict[str, Any]]:
        conditions: dict[str, dict[str, Any]] = {}
        for _ in range(self._random.choice((1, 1, 2, 3))):
            operator, key, values = self._condition(
                near,
                odd=self._some(0.1, "values of another type")
                and (only_allows or "values of another type in denials" not in self._avoid),
                variables=variables,
            )
            conditions.setdefault(operator, {})[key] = self._listed(values)
        return conditions

    def _condition(self, near: Request, *, odd: bool, variables: bool) -> tuple[str, str, list[Any]]:
        if self._chance(0.1):
            keys = [key for key in (*VALUES, *MULTIVALUED) if key != "aws:UserAgent"]
            values: list[Any] = [self._random.choice(("true", "false", True, False))]
            values += ["false"] if self._some(0.1, "several values of Null") else []
            return "Null", self._random.choice(keys), values
        key = self._random.choice((*VALUES, *MULTIVALUED))
        kind, known = VALUES[key] if key in VALUES else ("text", MULTIVALUED[key])
        if odd and kind in ("text", "number"):
            others = [("number", ["1", "2"]), ("address", ["10.1.2.3", "192.0.2.1"]), ("arn", ARNS)]
            if key in KNOWN:  # numbers are dates too, and JavaScript finds a date in many a text
                others.append(("date", INSTANTS))
            kind, known = self._random.choice(others)
        if kind == "binary" and "BinaryEquals" in self._avoid:
            return "StringEquals", key, known[:1]
        operator = self._random.choice(OPERATORS[kind])
        negated = operator in NEGATIONS and self._chance(0.35)
        values = [
            self._value(operator, value, negated=negated, variables=variables)
            for value in self._near(key, [value for value in known if "$" not in value], near)
        ]
        return self._operator(operator, key, negated=negated), self._case(key), values

    def _near(self, key: str, known: list[str], near: Request) -> list[str]:
        """Values for a condition, most likely one that the request has among them."""
        values = self._random.sample(known, self._random.choice((1, 1, 2)))
        given = near.context.get(key, [])
        same = [value for value in ([given] if isinstance(given, str) else given) if value in known]
        return [self._random.choice(same), *values[1:]] if same and self._chance(0.6) else values

    def _operator(self, operator: str, key: str, *, negated: bool) -> str:
        name = NEGATIONS[operator] if negated else operator
        if_exists = "IfExists" if self._chance(0.2) else ""
        quantifiers = ["ForAllValues:", "ForAnyValue:"]
        may_be_absent = key not in KNOWN and "set operators on absent keys" in self._avoid
        if may_be_absent and (negated or if_exists):
            quantifiers.remove("ForAnyValue:")
        if key == "aws:UserAgent" and "empty sets" in self._avoid:
            quantifiers = []
        if key in MULTIVALUED:
            plain = self._some(0.2, "plain operators on multivalued keys")
            return ("" if plain else self._random.choice(quantifiers)) + name + if_exists
        set_operator = self._random.choice(quantifiers) if quantifiers and self._chance(0.1) else ""
        name = f"{set_operator}{name}{if_exists}"
        return name.lower() if self._chance(0.05) else name

    def _value(self, operator: str, value: str, *, negated: bool, variables: bool) -> Any:
        known = negated and "variables without value in negations" in self._avoid
        if operator.startswith("String"):
            value = self._glob(value) if operator == "StringLike" else value
            escapes = operator == "StringLike" or "escapes outside of patterns" not in self._avoid
            return self._with_variables(value, known=known, escapes=escapes) if variables else value
        if operator.startswith("Arn"):
            return self._arn(value, known=known, variables=variables)
        if operator == "IpAddress":
            return self._range(value, negated=negated)
        if operator.startswith("Numeric") and self._chance(0.3):
            return float(value) if "." in value else int(value)
        return self._random.choice((value, value == "true")) if operator == "Bool" else value

    def _arn(self, value: str, *, known: bool, variables: bool) -> str:
        *first, last = value.split(":", 5)
        for number in (1, 2, 3):
            if self._chance(0.3):
                first[number] = self._glob(first[number])
        if variables and self._some(0.2, "variables for a part of a condition's ARN"):
            first[4] = "${aws:PrincipalTag/team}"
        last = self._glob(last)
        return ":".join([*first, self._with_variables(last, known=known) if variables else last])

    def _range(self, value: str, *, negated: bool) -> str:
        lengths = [16, 32, 48, 128] if ":" in value else [8, 24, 32]
        lengths += [0] if self._some(0.2, "ranges of all addresses") else []
        if self._chance(0.2) and not (
            negated and "addresses of the other family in NotIpAddress" in self._avoid
        ):
            return value
        return f"{value}/{self._random.choice(lengths)}"
