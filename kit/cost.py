"""`kit cost`: what an environment would cost a month, and what managed MLflow costs instead."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table

from kit import estimate as estimates
from kit import price_table
from kit.console import Json, fail, out, print_json
from kit.environments import complete_name
from kit.estimate import HOURS, WEEK, Estimate, Use
from stacks import environment_files
from stacks.environment import Environment
from stacks.environment_files import EnvironmentFileError
from stacks.sizes import SIZES

PAGE = Path(__file__).resolve().parent.parent / "docs" / "costs.md"

NOT_ESTIMATED = 2
"""Exit code when there is no environment to estimate."""

REGION = "us-east-1"
"""Region of the table in docs/costs.md: the one with most sources."""

OFFICE_HOURS = 60
"""Twelve hours on weekdays, for the same table."""


def _option(name: str, help: str, *, least: float = 0, most: float | None = None) -> Any:
    return typer.Option(name, min=least, max=most, help=help, rich_help_panel="Assumptions")


def cost(
    env: Annotated[
        str | None,
        typer.Argument(
            metavar="[ENV]",
            autocompletion=complete_name,
            help="A file of environments/ without its ending; `--env` says the same.",
        ),
    ] = None,
    named: Annotated[
        str | None, typer.Option("--env", metavar="ENV", autocompletion=complete_name, help="See ENV.")
    ] = None,
    hours_per_week: Annotated[
        float,
        _option(
            "--hours-per-week",
            "Hours a week in which tasks and database run, as if something stopped both; nothing else can be.",
            most=WEEK,
        ),
    ] = Use.hours_per_week,
    spot: Annotated[
        bool,
        typer.Option(
            "--spot",
            help="What if tasks ran on Fargate Spot, at the largest discount that AWS names? The kit's do not.",
            rich_help_panel="Assumptions",
        ),
    ] = Use.spot,
    sustained_share: Annotated[
        float,
        _option(
            "--sustained-share", "Average rate of requests, as a share of what the size sustains.", most=1
        ),
    ] = Use.sustained_share,
    burst_share: Annotated[
        float, _option("--burst-share", "Share of these hours in which all tasks of the size run.", most=1)
    ] = Use.burst_share,
    stored_gb: Annotated[float, _option("--stored-gb", "GB of artifacts kept.")] = Use.stored_gb,
    files_written: Annotated[
        int, _option("--files-written", "Artifact files written a month.")
    ] = Use.files_written,
    files_read: Annotated[int, _option("--files-read", "Artifact files read a month.")] = Use.files_read,
    out_gb: Annotated[float, _option("--out-gb", "GB a month that clients fetch.")] = Use.out_gb,
    in_gb: Annotated[float, _option("--in-gb", "GB a month that clients send.")] = Use.in_gb,
    api_gb: Annotated[
        float, _option("--api-gb", "GB a month between tasks and the APIs of AWS, besides logs.")
    ] = Use.api_gb,
    log_kb: Annotated[
        float, _option("--log-kb", "KB that a request leaves in the logs, audit included.")
    ] = Use.log_kb,
    flow_log_gb: Annotated[
        float, _option("--flow-log-gb", "GB a month of the VPC's flow log.")
    ] = Use.flow_log_gb,
    database_gb: Annotated[
        float | None,
        _option("--database-gb", "GB of the database once it has grown; storage_gib when left out.", least=1),
    ] = Use.database_gb,
    backup_gb: Annotated[
        float, _option("--backup-gb", "GB of backups beyond the size of the database, which are free.")
    ] = Use.backup_gb,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print docs/costs.md, for the sizes; no environment is needed.")
    ] = False,
    json: Json = False,
) -> None:
    """What an environment would cost a month, resource by resource, and what managed MLflow costs instead.

    Counts the resources that its stacks would make, and takes list prices from a dated table of this repository:
    neither AWS nor the network is asked. The total is "unknown" as soon as one thing has no price there, as in China.
    Free allowances, discounts and tax are left out.
    """
    if markdown:
        return typer.echo(page(), nl=False)
    given = locals()
    use = Use(**{field.name: given[field.name] for field in fields(Use)})
    found = estimates.estimate(_environment(env, named), use, table=price_table.load())
    return print_json(found.document()) if json else _print(found)


def _environment(env: str | None, named: str | None) -> Environment:
    if env and named and env != named:
        fail(f"{env} and --env {named}: which of the two?", todo="Name one.", code=NOT_ESTIMATED)
    try:
        return environment_files.load(named or env)
    except EnvironmentFileError as error:
        fail(
            str(error),
            todo="`kit env list` shows the environments, such as for `kit cost --env prod`.",
            code=NOT_ESTIMATED,
        )


def _print(found: Estimate) -> None:
    environment = found.environment
    rows = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        title=f"{environment.name} ({environment.size}), {environment.region}, US dollars a month",
    )
    rows.add_column()
    rows.add_column()
    rows.add_column("quantity", justify="right")
    rows.add_column("unit")
    rows.add_column("each", justify="right")
    rows.add_column("a month", justify="right")
    resource = ""
    for item in found.items:
        if item.line.quantity:
            rows.add_row(
                item.line.resource if item.line.resource != resource else "",
                item.line.what,
                f"{item.line.quantity:,.2f}",
                item.unit,
                f"{item.price.price:g}" if item.price else "unknown",
                _money(item.monthly),
            )
            resource = item.line.resource
    rows.add_section()
    rows.add_row("[bold]Total[/]", "", "", "", "", f"[bold]{_money(found.total)}[/]")
    if found.total is None:
        rows.add_row("", "what has a price", "", "", "", _money(found.known))
    of = f"{found.requests / 1e6:,.2f}"
    rows.add_row("", "a million requests", of, "1M requests", "", _money(found.per_million_requests))
    out.print(rows)
    _print_alternatives(found)
    for line in ["Assumed:", *assumptions(found.use)]:
        out.print(line.replace("`", ""), soft_wrap=True, markup=False)
    for words in found.unknown:
        out.print(f"[bold]Unknown[/] {words}", soft_wrap=True)
    if found.sources:
        out.print(f"{_DATED.format(found.as_of or 'none')} From:", soft_wrap=True)
    for line in provenance(found.sources):
        out.print(line, soft_wrap=True, markup=False)


def _print_alternatives(found: Estimate) -> None:
    rows = Table(box=box.SIMPLE_HEAD, title="Managed instead")
    rows.add_column()
    rows.add_column("an hour", justify="right")
    rows.add_column("a month", justify="right")
    rows.add_column()
    for each in found.alternatives:
        hourly = "unknown" if each.hourly is None else f"{each.hourly:g}"
        rows.add_row(each.name, hourly, _money(each.monthly), each.note)
    out.print(rows)


def assumptions(use: Use) -> list[str]:
    """On what use the figures rest, in words, with the options that change it."""
    when = (
        "all the time"
        if use.hours_per_week == WEEK
        else f"{use.hours_per_week:g} hours a week, though RDS starts a database by itself after seven days"
    )
    database = "as large as it starts" if use.database_gb is None else f"of {use.database_gb:g} GB"
    return [
        f"- {HOURS} hours a month; tasks and database run {when} (`--hours-per-week`)",
        f"- requests at {use.sustained_share:.0%} of the rate that the size sustains (`--sustained-share`)",
        f"- the fewest tasks of the size, and the most in {use.burst_share:.0%} of the hours (`--burst-share`)"
        + (", on Spot, which the kit does not use" if use.spot else ""),
        f"- {use.stored_gb:g} GB of artifacts; {use.files_written:,} files written and {use.files_read:,} read a month "
        "(`--stored-gb`, `--files-written`, `--files-read`)",
        f"- clients fetch {use.out_gb:g} GB and send {use.in_gb:g} GB, tasks exchange {use.api_gb:g} GB with AWS "
        "(`--out-gb`, `--in-gb`, `--api-gb`)",
        f"- a request logs {use.log_kb:g} KB, the VPC {use.flow_log_gb:g} GB a month (`--log-kb`, `--flow-log-gb`)",
        f"- a database {database}, and {use.backup_gb:g} GB of backups beyond that "
        "(`--database-gb`, `--backup-gb`)",
    ]


def provenance(sources: dict[str, dict[str, str]]) -> list[str]:
    """Where the prices are from, a line for each source."""
    return [
        f"- {key}, {source['as_of']}: {source['title']}, {source['address']}"
        for key, source in sources.items()
    ]


_DATED = "List prices on demand, the oldest of {}; without free allowances, discounts and tax."


def _money(amount: float | None) -> str:
    return "unknown" if amount is None else f"{amount:,.2f}"


_HEAD = """\
# Costs

<!-- Made by `kit cost --markdown` from the stacks and `kit/prices/`; change it in `kit/cost.py`. -->

`kit cost --env prod` says what an environment would cost a month: every resource that its stacks make, how much of it,
the unit price with date and source, the total, the same for a million requests, and what managed MLflow costs instead.
Its options are the use that it assumes, which its help explains; `--json` gives one document. Nothing is deployed and
neither AWS nor the network is asked: prices come from a dated table, `kit/prices/aws.yaml`.

A price that the table does not have is unknown, and so is then the total. That is so in China, where another operator
sells in CNY, in GovCloud, and in regions that the table does not cover. Prices whose source is `authors` had no source
that could be read: check them before you rely on them.

"""

_MISSING = """
## What is not in it

* Free allowances of an account, savings plans, reserved instances, support and tax.
* Storage of container images in ECR: ten cents a GB.
* CPU credits, should a database of the class `db.t4g` be busy all day, and storage beyond what gp3 includes.
* Logs of RDS itself: errors, slow statements and Enhanced Monitoring.
* Traffic between zones, calls of Secrets Manager, old versions of artifacts, access logs in S3.
* What is yours: an existing VPC, database or bucket, hosted zones, rules of a web ACL.
* The work of running it.

"""


def page() -> str:
    """docs/costs.md whole."""
    sizes = {name: _of_size(name) for name in SIZES}
    found = {name: size(Use()) for name, size in sizes.items()}
    first = next(iter(found.values()))
    parts = [
        _HEAD,
        f"## The sizes in {REGION}\n\nUS dollars a month, with every default of an environment:\n\n",
    ]
    parts += [_row("", *sizes), _row("---", *("---:" for _ in sizes))]
    for resource in dict.fromkeys(item.line.resource for item in first.items):
        parts.append(_row(resource, *(_money(_sum(each, resource)) for each in found.values())))
    parts.append(_row("**Total**", *(f"**{_money(each.total)}**" for each in found.values())))
    for words, use in _VARIANTS.items():
        parts.append(_row(words, *(_money(size(use).total) for size in sizes.values())))
    parts.append(_row("Requests, in millions", *(f"{each.requests / 1e6:,.1f}" for each in found.values())))
    parts.append(_row("A million requests", *(_money(each.per_million_requests) for each in found.values())))
    parts += ["\nIt assumes:\n\n", *(f"{line}\n" for line in assumptions(first.use))]
    parts += [_managed(first), _MISSING]
    dates = [each.as_of for each in found.values() if each.as_of]
    sources = {key: source for each in found.values() for key, source in each.sources.items()}
    parts.append(f"## Sources\n\n{_DATED.format(min(dates, default='none'))}\n\n")
    parts += [f"{line}\n" for line in provenance(dict(sorted(sources.items())))]
    return "".join(parts)


_VARIANTS = {
    f"Total, {OFFICE_HOURS} hours a week": Use(hours_per_week=OFFICE_HOURS),
    "Total with tasks on Spot, at best": Use(spot=True),
}


def _of_size(name: str) -> Callable[[Use], Estimate]:
    """A size in `REGION`, everything else as an environment has it by default, to be estimated for a use."""
    environment = Environment.model_validate({"name": f"mlflow-{name}", "region": REGION, "size": name})
    return partial(
        estimates.estimate,
        environment,
        table=price_table.load(),
        resources=estimates.resources_of(environment),
    )


def _managed(found: Estimate) -> str:
    lines = ["\nManaged instead, for as many hours:\n\n", _row("", "an hour", "a month", "")]
    lines.append(_row("---", "---:", "---:", "---"))
    for other in found.alternatives:
        hourly = "unknown" if other.hourly is None else f"{other.hourly:g}"
        lines.append(_row(other.name, hourly, _money(other.monthly), other.note))
    return "".join(lines)


def _sum(found: Estimate, resource: str) -> float | None:
    amounts = [item.monthly for item in found.items if item.line.resource == resource]
    return None if None in amounts else sum(amount or 0 for amount in amounts)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |\n"
