"""Which of the four roles may call which route of the server: the table of routes, judged by the policies."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from kit.deployment import ROLES
from local.iam import decide

REPOSITORY = Path(__file__).resolve().parent.parent
ROUTES = REPOSITORY / "container" / "tracking_server" / "access" / "routes.json"
POLICIES = REPOSITORY / "policies"
PAGE = REPOSITORY / "docs" / "access-matrix.md"

PREFIX = "sagemaker-mlflow:"
ACCESS_UI = "AccessUI"

# any server will do: the policies name theirs in the same place
_SERVER = "arn:aws:sagemaker:eu-central-1:123456789012:mlflow-tracking-server/any"

_HEAD = """\
# Access matrix

<!-- Made by `kit access matrix --markdown` from `policies/` and the server's table of routes; change it there. -->

What each of the four roles may call. A request needs all actions of its route, on the tracking server's ARN
(`AccessUI` on `*`), in the policies of whoever sends it. `kit access explain` shows the statement that decides, and
`kit access check` tells by its exit code; both also look at policies and roles of your own.

"""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A route, the actions that it needs or what is decided without any, and the roles that may call it."""

    method: str
    path: str
    actions: tuple[str, ...]
    decision: str | None
    why: str
    verdicts: dict[str, str]

    def document(self) -> dict[str, Any]:
        """As JSON: `action` and, where there are more, `also`; or `decision`."""
        needs: dict[str, Any] = {"decision": self.decision}
        if self.decision is None:
            action, *also = self.actions
            needs = {"action": action} | ({"also": also} if also else {})
        return {
            "method": self.method,
            "path": self.path,
            **needs,
            "actions": list(self.actions),
            "verdicts": self.verdicts,
        }


def rows() -> list[Row]:
    """Every route of the server, sorted by path."""
    return [_row(entry) for entry in _table()["routes"]]


def actions() -> frozenset[str]:
    """Every action that some route needs, without prefix."""
    return frozenset(action for row in rows() for action in row.actions)


def roles_with(action: str) -> list[str]:
    """The roles that may do an action."""
    return [role for role in ROLES if allows(role, action)]


@cache
def allows(role: str, action: str) -> bool:
    """Whether the policy of one of the four roles allows an action."""
    resource = "*" if action == ACCESS_UI else _SERVER
    allowed, _ = decide(
        statements=_statements(role),
        boundary=None,
        action=PREFIX + action,
        resource=resource,
        context={},
    )
    return allowed


def _row(entry: dict[str, Any]) -> Row:
    decision = entry.get("decision")
    needed = (entry["action"], *entry.get("also", ())) if decision is None else ()
    granted = {
        role: decision != "denied" and all(allows(role, action) for action in needed) for role in ROLES
    }
    return Row(
        method=entry["method"],
        path=entry["path"],
        actions=needed,
        decision=decision,
        why=entry.get("why", ""),
        verdicts={role: "allow" if granted[role] else "deny" for role in ROLES},
    )


def page() -> str:
    """docs/access-matrix.md whole."""
    table = rows()
    official = frozenset(_table()["official_actions"])
    heads = [_line("Action", *ROLES), _line("---", *(":---:" for _ in ROLES))]
    parts = [
        _HEAD,
        "## Actions\n\n",
        "Actions in italics are this server's own: AWS's list does not have them.\n\n",
    ]
    parts += heads
    for action in sorted(actions()):
        shown = f"`{action}`" if action in official else f"*`{action}`*"
        parts.append(_line(shown, *(_mark(allows(role, action)) for role in ROLES)))
    parts.append(f"\n## Routes of MLflow {_table()['mlflow']}\n\n")
    parts.append(
        "Routes below `/api/` that are marked with † are the same below `/ajax-api/`, for the UI.\n\n"
    )
    parts += [_line("Route", "Needs", *ROLES), _line("---", "---", *(":---:" for _ in ROLES))]
    twins = _twins(table)
    for row in table:
        if (row.method, row.path) in twins:
            continue
        mark = " †" if (row.method, _twin(row.path)) in twins else ""
        needs = ", ".join(f"`{action}`" for action in row.actions) or f"{row.decision}: {row.why}"
        verdicts = (_mark(row.verdicts[role] == "allow") for role in ROLES)
        parts.append(_line(f"`{row.method} {row.path}`{mark}", needs, *verdicts))
    return "".join(parts)


def _twins(table: Iterable[Row]) -> set[tuple[str, str]]:
    """The routes of the UI that need what the same route of the API needs."""
    needs = {(row.method, row.path): (row.actions, row.decision) for row in table}
    return {
        (method, _twin(path))
        for (method, path), needed in needs.items()
        if path.startswith("/api/") and needs.get((method, _twin(path))) == needed
    }


def _twin(path: str) -> str:
    return path.replace("/api/", "/ajax-api/", 1) if path.startswith("/api/") else ""


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |\n"


def _mark(allowed: bool) -> str:
    return "✓" if allowed else ""


@cache
def _table() -> dict[str, Any]:
    table: dict[str, Any] = json.loads(ROUTES.read_text(encoding="utf-8"))
    return table


@cache
def _statements(role: str) -> list[dict[str, Any]]:
    [file] = [file for file in POLICIES.glob("*.json") if file.stem.replace("-", "") == role.lower()]
    text = file.read_text(encoding="utf-8").replace("${TrackingServerArn}", _SERVER)
    statements: list[dict[str, Any]] = json.loads(text)["Statement"]
    return statements
