"""What each request asks for: the table from (method, path) to IAM actions.

`routes.json` beside this module lists every route of the pinned MLflow and of the server itself. A request that
it does not list asks for nothing that can be granted. MLflow is two frameworks in one: FastAPI (Starlette) has
routes of its own and passes everything else to Flask (Werkzeug). Each has its own idea of which of two matching
routes is meant, so the table takes no side: when several of its routes match, all their actions are needed.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

ROUTES_FILE = Path(__file__).with_name("routes.json")

Decision = Literal["action", "public", "denied", "authenticated"]

_PLACEHOLDER = re.compile(r"<(path:)?[a-z_]+>")

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")

_ODD_SEGMENTS = frozenset(("", ".", ".."))
"""Segments that servers, proxies and object stores disagree about."""


@dataclass(frozen=True)
class Rule:
    """What a request needs: every one of `actions`, or what `decision` says when there are none."""

    decision: Decision
    actions: tuple[str, ...] = ()
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class Route:
    """One line of the table; `path` has `<name>` for one segment and `<path:name>` for one or more."""

    method: str
    path: str
    rule: Rule

    @classmethod
    def read(cls, entry: dict[str, Any]) -> Route:
        if "action" in entry:
            rule = Rule("action", tuple(sorted({entry["action"], *entry.get("also", ())})))
        else:
            rule = Rule(entry["decision"], why=entry["why"])
        return cls(method=entry["method"], path=entry["path"], rule=rule)


class _Node:
    """A state of the matcher: what may follow the segments that have been read so far."""

    __slots__ = ("literals", "parameters", "repeats", "rules", "tail")

    def __init__(self, *, repeats: bool = False) -> None:
        self.repeats = repeats
        self.literals: dict[str, _Node] = {}
        self.parameters: dict[tuple[str, str], _Node] = {}
        self.tail: _Node | None = None
        self.rules: list[Rule] = []

    def child(self, segment: str) -> _Node:
        """The node that a segment of a route's path leads to."""
        placeholder = _PLACEHOLDER.search(segment)
        if placeholder is None:
            return self.literals.setdefault(segment, _Node())
        if placeholder[1] is None:
            around = (segment[: placeholder.start()], segment[placeholder.end() :])
            return self.parameters.setdefault(around, _Node())
        if self.tail is None:
            self.tail = _Node(repeats=True)
        return self.tail


@dataclass(frozen=True)
class Routes:
    """The table, ready to be asked."""

    entries: tuple[Route, ...]
    official_actions: frozenset[str]
    """The 61 actions of IAM's `sagemaker-mlflow` prefix, without the prefix.

    AWS Service Authorization Reference, "Actions, resources, and condition keys for Amazon SageMaker with MLflow",
    as of September 2026. Every other action of the table is an extension of this server: IAM policies can name it,
    and `sagemaker-mlflow:*` contains it, but AWS's own list does not.
    """
    _exact: dict[str, dict[str, Rule]] = field(init=False, repr=False)
    _patterns: dict[str, _Node] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        patterns: dict[str, _Node] = {}
        for route in self.entries:
            node = patterns.setdefault(route.method, _Node())
            for segment in route.path.split("/")[1:]:
                node = node.child(segment)
            node.rules.append(route.rule)
        exact: dict[str, dict[str, Rule]] = {method: {} for method in patterns}
        for route in self.entries:
            if "<" not in route.path:
                rules = _match(patterns[route.method], route.path.split("/")[1:])
                exact[route.method][route.path] = _all_of(rules)
        # both frameworks answer HEAD where they answer GET
        exact["HEAD"], patterns["HEAD"] = exact["GET"], patterns["GET"]
        object.__setattr__(self, "_exact", exact)
        object.__setattr__(self, "_patterns", patterns)

    @classmethod
    def load(cls) -> Routes:
        """Read the table of this image."""
        table = json.loads(ROUTES_FILE.read_text(encoding="utf-8"))
        return cls(tuple(map(Route.read, table["routes"])), frozenset(table["official_actions"]))

    def find(self, method: str, path: str) -> Rule | None:
        """What a request needs, or None if there is no such route.

        `path` is the decoded path as the server hands it to MLflow; it is compared as it stands.
        """
        exact = self._exact.get(method)
        if exact is None:
            return None
        rule = exact.get(path)
        if rule is not None:
            return rule
        first, *segments = path.split("/")
        if first or "\\" in path or not _ODD_SEGMENTS.isdisjoint(segments):
            return None
        if not path.isprintable() and _CONTROL.search(path):
            return None
        rules = _match(self._patterns[method], segments)
        return _all_of(rules) if rules else None

    def all_actions(self) -> frozenset[str]:
        """Every action that some route needs."""
        return frozenset(action for route in self.entries for action in route.rule.actions)


def _match(root: _Node, segments: list[str]) -> list[Rule]:
    """The rules of every route that matches, in time linear in the number of segments."""
    nodes = [root]
    for segment in segments:
        following: list[_Node] = []
        for node in nodes:
            if node.repeats and node not in following:
                following.append(node)
            if (literal := node.literals.get(segment)) is not None:
                following.append(literal)
            for (before, after), parameter in node.parameters.items():
                if _surrounds(before, after, segment):
                    following.append(parameter)
            if node.tail is not None and node.tail not in following:
                following.append(node.tail)
        if not following:
            return []
        nodes = following
    return [rule for node in nodes for rule in node.rules]


def _surrounds(before: str, after: str, segment: str) -> bool:
    return len(segment) > len(before) + len(after) and segment.startswith(before) and segment.endswith(after)


def _all_of(rules: list[Rule]) -> Rule:
    """The rule that is as strict as all of `rules` together."""
    if len(rules) == 1:
        return rules[0]
    for rule in rules:
        if rule.decision == "denied":
            return rule
    actions = {action for rule in rules for action in rule.actions}
    if actions:
        return Rule("action", tuple(sorted(actions)))
    return next((rule for rule in rules if rule.decision == "authenticated"), rules[0])
