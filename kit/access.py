"""`kit access`: who you are to a server, who may do what on it, and why."""

from __future__ import annotations

import difflib
import json as json_module
from typing import Annotated

import typer
from botocore.exceptions import BotoCoreError, ClientError

from kit import decisions, matrix
from kit.console import Json, fail, out, print_json, print_rows
from kit.decisions import Decision
from kit.deployment import ROLES, Deployment, Role, find
from kit.environments import Name
from kit.server import call

app = typer.Typer(no_args_is_help=True, help="Who you are to a server, who may do what on it, and why.")

NOT_ANSWERED = 2
"""Exit code of `check` and `explain` when nobody could tell; 1 says that it is denied."""

As = Annotated[
    str,
    typer.Option(
        "--as",
        metavar="ROLE",
        help="Whose policies to look at: Reader, DataScientist, ModelApprover, Admin, or the ARN of a role or user.",
    ),
]
Action = Annotated[
    str,
    typer.Option(
        "--action",
        metavar="ACTION",
        autocompletion=lambda incomplete: sorted(a for a in matrix.actions() if a.startswith(incomplete)),
        help="What to do, such as CreateRun; `kit access matrix` shows the action of every route.",
    ),
]


@app.command("whoami")
def whoami(env: Name = "local", role: Role = None, json: Json = False) -> None:
    """Whom the server takes you for, and what you may do there.

    The server decides as it does on every request, so this is what counts, with what it still remembers of IAM's
    answers: a change of policy shows after five minutes, or after `kit access flush`.
    """
    answer = call(find(env), "GET", "/iam/whoami", role=role)
    if json:
        return print_json(answer)
    actions = answer["actions"]
    print_rows(
        {
            "ARN": answer["arn"],
            "Signed in by": answer["via"],
            "Server": answer["tracking_server_arn"],
            "Engine": answer["engine"],
            "May do": f"{len(actions)} actions: {', '.join(actions)}" if actions else "nothing",
        }
    )
    return None


@app.command("check")
def check(as_: As, action: Action, env: Name = "local", json: Json = False) -> None:
    """Whether a role or user may do something: exit code 0 if so, 1 if not, 2 if nobody could tell.

    Asks IAM's policy simulator with your own AWS credentials, which need iam:SimulatePrincipalPolicy and iam:GetRole;
    nothing is done on the server.
    """
    _, decision = _decide(env, as_, action)
    if json:
        print_json(decision.document())
    else:
        _print_verdict(decision)
    if not decision.allowed:
        raise typer.Exit(1)


@app.command("explain")
def explain(as_: As, action: Action, env: Name = "local", json: Json = False) -> None:
    """Which statement of which policy allows or denies something. Exit codes are those of `kit access check`.

    Reads the policies with your own AWS credentials: besides what `check` needs, iam:List*Policies, iam:GetPolicy,
    iam:GetPolicyVersion and iam:GetRolePolicy.
    """
    deployment, decision = _decide(env, as_, action)
    try:
        statements = decisions.statements(deployment, decision)
    except (ClientError, BotoCoreError) as error:
        fail(
            f"{decision.effect}, but the policies cannot be read: {error}",
            todo="Ask with credentials that may read IAM; `kit access check` needs less.",
            code=NOT_ANSWERED,
        )
    if json:
        found = [
            {"policy": item.policy, "sid": (item.content or {}).get("Sid"), "statement": item.content}
            for item in statements
        ]
        print_json({**decision.document(), "statements": found})
    else:
        _print_verdict(decision)
        for item in statements:
            sid = (item.content or {}).get("Sid", "without Sid")
            print_rows({"policy": item.policy, "statement": sid})
            typer.echo(json_module.dumps(item.content, indent=2))
        if decision.effect == "implicitDeny":
            _print_what_is_missing(decision)
    if not decision.allowed:
        raise typer.Exit(1)


@app.command("flush")
def flush(env: Name = "local", role: Role = "Admin", json: Json = False) -> None:
    """Have the server forget what it remembers of identities and permissions, in every task, within a second or two.

    For when someone must lose access at once: a change of policy counts by itself after five minutes. Needs the action
    FlushAccess, which of the four roles only Admin has.
    """
    answer = call(find(env), "POST", "/iam/flush", role=role)
    if json:
        print_json(answer)
    else:
        out.print("Forgotten: the next request of everyone is decided anew.")


@app.command("matrix")
def show_matrix(
    json: Json = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print it as docs/access-matrix.md.")] = False,
) -> None:
    """Every route of the server, the actions that it needs, and which of the four roles have them.

    From the policies of this repository: no deployment is asked. `kit access explain` asks one.
    """
    if markdown:
        return typer.echo(matrix.page(), nl=False)
    rows = matrix.rows()
    if json:
        return print_json({"routes": [row.document() for row in rows]})
    typer.echo(f"{'':<7}{'':<72}  {'  '.join(ROLES)}")
    for row in rows:
        verdicts = "  ".join(
            f"{row.verdicts[role] if row.verdicts[role] == 'allow' else '-':<{len(role)}}" for role in ROLES
        )
        needs = ", ".join(row.actions) or row.decision
        typer.echo(f"{row.method:<7}{row.path:<72}  {verdicts}  {needs}")
    return None


def _decide(env: str, as_: str, action: str) -> tuple[Deployment, Decision]:
    name = action.removeprefix(matrix.PREFIX)
    if name not in matrix.actions():
        near = difflib.get_close_matches(name, matrix.actions(), n=1)
        fail(
            f"No route of the server needs the action {name}.",
            todo=f"Did you mean {near[0]}?"
            if near
            else "`kit access matrix` shows the action of every route.",
            code=NOT_ANSWERED,
        )
    deployment = find(env, code=NOT_ANSWERED)
    principal = deployment.role_arn(as_, code=NOT_ANSWERED)
    if principal.split(":")[2] != "iam":
        fail(
            f"{principal} is no role and no user.",
            todo="Give the ARN of the role itself, arn:…:iam::…:role/…, not of a session.",
            code=NOT_ANSWERED,
        )
    try:
        return deployment, decisions.decide(deployment, principal=principal, action=name)
    except (ClientError, BotoCoreError) as error:
        fail(
            f"IAM cannot tell what {principal} may do: {error}",
            todo="Your credentials need iam:SimulatePrincipalPolicy and iam:GetRole or iam:GetUser, in the account of "
            "the principal. `kit access whoami` asks the server instead.",
            code=NOT_ANSWERED,
        )


def _print_verdict(decision: Decision) -> None:
    colour, word = ("green", "allowed") if decision.allowed else ("red", "denied")
    line = f"{matrix.PREFIX}{decision.action} on {decision.resource} for {decision.principal}"
    out.print(f"[{colour}]{word}[/]  {line}", soft_wrap=True)
    if decision.missing:
        keys = ", ".join(decision.missing)
        out.print(f"The policies also look at what only a real request has: {keys}.", soft_wrap=True)


def _print_what_is_missing(decision: Decision) -> None:
    if decision.within_organization is False:
        out.print("A policy of the organization does not allow it.")
    elif decision.within_boundary is False:
        out.print("The permissions boundary does not allow it.")
    else:
        roles = ", ".join(matrix.roles_with(decision.action))
        out.print(f"No statement of its policies allows it. The roles that may: {roles}.", soft_wrap=True)
