"""`kit cost`: every resource of the templates is on the bill or known to be free, and sums are right."""

from __future__ import annotations

import json
import socket
from collections import defaultdict
from pathlib import Path
from typing import Any, NoReturn

import pytest
import synth
from pydantic import ValidationError
from typer.testing import CliRunner, Result

from kit import cost, estimate, price_table
from kit.cli import app
from kit.estimate import FREE, PRICED, Estimate, Resources, Use
from kit.price_table import PriceTable
from stacks.environment import Environment
from stacks.environment_files import load, names
from stacks.sizes import MAX_CONNECTIONS, SIZES

TABLE = price_table.load()
KEYS = ["total", "items", "as_of", "sources", "per_million_requests", "alternatives", "unknown"]


def kit(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "200", "TERM": "dumb"})


def resources(made: synth.Synthesis) -> Resources:
    found: Resources = defaultdict(list)
    for template in made.templates.values():
        for resource in template["Resources"].values():
            found[resource["Type"]].append(resource.get("Properties", {}))
    return dict(found)


def estimated(name: str, use: Use | None = None) -> Estimate:
    """An environment of `environments/`, as it is there."""
    made = synth.synthesise(name)
    return estimate.estimate(made.environment, use or Use(), table=TABLE, resources=resources(made))


def estimated_with(name: str, *, directory: str, **changes: Any) -> Estimate:
    """The same, changed."""
    made = synth.of(synth.changed(load(name), **changes), directory=directory)
    return estimate.estimate(made.environment, Use(), table=TABLE, resources=resources(made))


def amounts(found: Estimate) -> dict[tuple[str, str], float | None]:
    return {(item.line.resource, item.line.what): item.monthly for item in found.items}


def quantities(found: Estimate) -> dict[str, float]:
    """By key of the price."""
    summed: dict[str, float] = defaultdict(float)
    for item in found.items:
        summed[item.line.key] += item.line.quantity
    return summed


def test_a_bill_recomputed_by_hand() -> None:
    """Half a vCPU and 1 GB, one task or two; 2.5 requests a second, so 6.57 million a month and 9.855 GB of logs."""
    sizing = {"cpu": 512, "memory_mib": 1024, "workers": 1, "threads": 8, "pool_size": 16}
    found = estimated_with(
        "dev",
        directory="cost-by-hand",
        tracking_server={**sizing, "min_tasks": 1, "max_tasks": 2},
        database={"multi_az": True, "instance_class": "db.t4g.small"},
    )
    assert found.environment.sizing.sustained_tps == 25
    by_hand = {
        ("Tasks", "vCPU, always (arm64)"): 11.82,  # 730 h x 0.5 x 0.03238
        ("Tasks", "memory, always (arm64)"): 2.60,  # 730 h x 1 GB x 0.00356
        ("Tasks", "vCPU, in bursts (arm64)"): 0.59,  # a twentieth of the first
        ("Tasks", "memory, in bursts (arm64)"): 0.13,
        ("Database", "db.t4g.small and standby"): 47.45,  # 730 h x 0.065
        ("Database", "storage, twice"): 4.60,  # 20 GB x 0.23
        ("Database", "backups beyond its size"): 0,
        ("Secrets", "login, which RDS keeps"): 0.40,
        ("Secrets", "seed of the server"): 0.40,
        ("Load balancer", "hours"): 16.43,  # 730 h x 0.0225
        ("Load balancer", "capacity at most"): 1.60,  # 200 GB, more than 6.57 million / 90,000; x 0.008
        ("CloudFront", "HTTPS requests"): 6.57,  # 657 x 0.01
        ("CloudFront", "sent to clients"): 8.50,  # 100 GB x 0.085
        ("CloudFront", "received from clients"): 2.00,  # 100 GB x 0.02
        ("NAT gateways", "hours"): 32.85,  # 730 h x 0.045
        ("NAT gateways", "logs, calls of AWS"): 0.67,  # 14.855 GB x 0.045
        ("Addresses", "of the NAT gateways"): 3.65,  # 730 h x 0.005
        ("S3", "artifacts"): 2.30,  # 100 GB x 0.023
        ("S3", "files written"): 0.25,  # 50 x 0.005
        ("S3", "files read"): 0.08,  # 200 x 0.0004
        ("Key", "KMS key"): 1.00,
        ("Key", "requests at most"): 0.75,  # 25 x 0.03
        ("Logs", "server, audit, written"): 4.93,  # 9.855 GB x 0.5
        ("Logs", "server, audit, kept"): 0.04,  # 9.855 GB x 30 / 30.42 days x 0.15 x 0.03
        ("Logs", "flow log, written"): 0.50,
        ("Logs", "flow log, kept"): 0.00,
    }
    watched = {
        ("Monitoring", "alarms"): round(0.1 * quantities(found)["cloudwatch.alarm"], 2),
        ("Monitoring", "dashboard"): 3.00,
        ("Monitoring", "Container Insights"): 11.70,  # 39 metrics x 0.3
    }
    assert amounts(found) == by_hand | watched
    assert found.total == round(150.11 + sum(watched.values()), 2)
    assert found.requests == pytest.approx(6_570_000)
    assert found.per_million_requests == round((found.total or 0) / 6.57, 2)


@pytest.mark.parametrize("name", names())
def test_every_resource_type_is_priced_or_free_with_a_reason(name: str) -> None:
    types = set(resources(synth.synthesise(name)))
    assert types <= PRICED.keys() | FREE.keys(), "say in kit/estimate.py what these cost, or why nothing"


def test_nothing_is_both_priced_and_free_and_reasons_are_given() -> None:
    assert not PRICED.keys() & FREE.keys()
    assert all(FREE.values())


def test_a_type_that_nobody_knows_makes_the_total_unknown() -> None:
    made = synth.synthesise("dev")
    more = resources(made) | {"AWS::New::Thing": [{}]}
    found = estimate.estimate(made.environment, Use(), table=TABLE, resources=more)
    assert found.unknown == ["AWS::New::Thing: neither priced nor known to be free"]
    assert found.total is None
    assert found.per_million_requests is None


def test_the_command_counts_what_cdk_makes() -> None:
    assert set(estimate.resources_of(load("prod"))) == set(resources(synth.synthesise("prod")))


@pytest.mark.parametrize("arguments", [["prod"], ["--env", "prod"], ["prod", "--env", "prod"]])
def test_json_has_these_keys_and_adds_up(arguments: list[str]) -> None:
    done = kit("cost", *arguments, "--json")
    document = json.loads(done.stdout)
    assert list(document) == KEYS
    assert document["unknown"] == []
    assert document["total"] == round(sum(item["monthly"] for item in document["items"]), 2)
    for item in document["items"]:
        assert list(item) == ["resource", "what", "quantity", "unit", "unit_price", "monthly", "source"]
        assert item["monthly"] == pytest.approx(item["quantity"] * item["unit_price"], abs=0.0051)
        assert item["source"] in document["sources"]
    assert document["as_of"] == min(
        document["sources"][item["source"]]["as_of"] for item in document["items"]
    )


def test_the_managed_alternatives_are_beside_it() -> None:
    others = {other.name: other for other in estimated("prod").alternatives}
    small, medium, large, serverless = others.values()
    assert (small.hourly, small.monthly) == (0.642, 468.66)
    assert medium.monthly is None
    assert large.monthly is None
    assert serverless.monthly == 0
    assert all(other.note for other in others.values())
    assert "ops-side-of-ml" in estimated("prod").sources


@pytest.mark.parametrize(
    ("name", "words"), [("examples/china", "in CNY"), ("examples/govcloud", "partition aws-us-gov")]
)
def test_other_partitions_are_unknown_but_counted(name: str, words: str) -> None:
    document = estimated(name).document()
    assert document["total"] is None
    assert document["per_million_requests"] is None
    assert document["as_of"] is None
    assert words in document["unknown"][0]
    assert all(item["quantity"] >= 0 for item in document["items"])
    assert any(item["quantity"] == 730 and item["unit_price"] is None for item in document["items"])
    assert all(other["monthly"] is None for other in document["alternatives"])


def test_a_region_without_prices_is_unknown() -> None:
    found = estimated_with("dev", directory="cost-mumbai", region="ap-south-1")
    assert found.total is None
    assert found.unknown[0].startswith("ap-south-1: ")


def test_one_price_that_is_missing_is_named_and_the_rest_is_summed() -> None:
    found = estimated("examples/domain")
    assert found.total is None
    assert found.known > 0
    assert all("no price in eu-west-1" in words for words in found.unknown)
    done = kit("cost", "--env", "examples/domain")
    assert found.unknown[0] in done.stdout
    assert "what has a price" in done.stdout


def test_hours_per_week_scale_what_can_be_stopped_and_nothing_else() -> None:
    always, half = quantities(estimated("prod")), quantities(estimated("prod", Use(hours_per_week=84)))
    stopped = {key for key in always if half[key] == pytest.approx(always[key] / 2) and always[key]}
    assert stopped >= {
        "fargate.arm64.vcpu",
        "fargate.arm64.memory",
        "cloudwatch.metric",
        f"rds.{load('prod').sizing.database_class}",
    }
    on = ("nat.hour", "alb.hour", "address.hour", "rds.storage.multi_az", "s3.storage", "secret", "kms.key")
    assert all(half[key] == always[key] for key in on)


def test_spot_is_a_what_if_of_the_tasks() -> None:
    demand, spot = amounts(estimated("prod")), amounts(estimated("prod", Use(spot=True)))
    tasks = [key for key in demand if key[0] == "Tasks"]
    cheaper = [spot["Tasks", f"{what.removesuffix(')')}, Spot)"] for _, what in tasks]
    assert sum(filter(None, cheaper)) == pytest.approx(0.3 * sum(demand[key] or 0 for key in tasks), abs=0.02)
    assert all(spot[key] == demand[key] for key in demand if key[0] != "Tasks")
    assert "which the kit does not use" in kit("cost", "--env", "prod", "--spot").stdout


def test_each_front_and_network_has_its_price() -> None:
    internal, domain = (
        quantities(estimated("examples/private-only")),
        quantities(estimated("examples/domain")),
    )
    assert internal["endpoint.hour"] == 5 * 2 * 730
    assert internal["nat.hour"] == internal["address.hour"] == internal["cloudfront.out"] == 0
    assert domain["internet.out"] == Use.out_gb
    assert domain["address.hour"] == (2 + 1) * 730  # one a zone, and that of the NAT gateway
    assert domain["cloudfront.requests"] == 0


def test_what_is_yours_is_not_on_the_bill() -> None:
    found = estimated("examples/bring-your-own")
    assert {"Database", "NAT gateways", "S3", "Key"}.isdisjoint(item.line.resource for item in found.items)


def test_a_web_acl_costs_by_the_request() -> None:
    arn = "arn:aws:wafv2:us-east-1:111122223333:global/webacl/mlflow/1234"
    found = estimated_with("dev", directory="cost-waf", front={"web_acl_arn": arn})
    assert quantities(found)["waf.requests"] == pytest.approx(found.requests / 1e6)


def test_no_network_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> NoReturn:
        raise AssertionError("no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert estimate.estimate(load("dev"), Use(), table=TABLE).total


@pytest.mark.parametrize("arguments", [["--env", "nowhere"], ["nowhere"], [], ["dev", "--env", "prod"]])
def test_without_an_environment_it_says_what_to_do(arguments: list[str]) -> None:
    done = kit("cost", *arguments)
    assert done.exit_code == 2
    assert "Error" in done.stderr
    assert done.stdout == ""


def test_help_teaches() -> None:
    done = kit("cost", "--help")
    assert done.exit_code == 0
    for option in ("--env", "--hours-per-week", "--spot", "--sustained-share", "--json"):
        assert option in done.stdout


def test_a_person_reads_total_date_assumptions_and_sources() -> None:
    found = estimated("prod")
    shown = kit("cost", "--env", "prod").stdout
    assert f"{found.total:,.2f}" in shown
    assert f"the oldest of {found.as_of}" in shown
    assert "to be checked" in shown
    for line in cost.assumptions(found.use):
        assert line.replace("`", "") in shown


def test_the_page_is_up_to_date() -> None:
    assert cost.PAGE.read_text(encoding="utf-8") == cost.page(), "run `kit cost --markdown > docs/costs.md`"


def test_every_option_has_a_place_in_the_assumptions() -> None:
    words = "\n".join(cost.assumptions(Use()))
    for name in Use.__dataclass_fields__.keys() - {"spot"}:
        assert f"`--{name.replace('_', '-')}`" in words


@pytest.mark.parametrize("size", SIZES)
def test_every_size_has_a_price_where_most_sources_are(size: str) -> None:
    environment = Environment.model_validate({"name": "mlflow", "region": cost.REGION, "size": size})
    assert TABLE.find(f"rds.{environment.sizing.database_class}", region=cost.REGION)


def test_the_table_knows_every_class_of_the_kit_and_counts_alike_everywhere() -> None:
    keys = {price.key for price in TABLE.prices}
    assert {f"rds.{class_}" for class_ in MAX_CONNECTIONS} <= keys
    for key in keys:
        assert len({price.unit for price in TABLE.prices if price.key == key}) == 1, key
    assert {price.source for price in TABLE.prices} == TABLE.sources.keys()
    assert all(source.address.startswith("https://") for source in TABLE.sources.values())


@pytest.mark.parametrize(
    "change",
    [
        {"source": "hearsay"},
        {"price": -1},
        {"regions": []},
        {"regions": ["us-east-1", "us-east-1"]},
        {"as_of": "last year"},
    ],
)
def test_a_table_that_is_wrong_is_refused(change: dict[str, Any]) -> None:
    price = {
        "key": "a",
        "price": 1,
        "unit": "hour",
        "regions": ["us-east-1"],
        "as_of": "2026-01-01",
        "source": "s",
    }
    content = {
        "partition": "aws",
        "currency": "USD",
        "sources": {"s": {"title": "a page", "address": "https://example.com"}},
        "prices": [price | change],
    }
    with pytest.raises(ValidationError):
        PriceTable.model_validate(content)


def test_prices_are_data_of_the_repository() -> None:
    assert [file.name for file in Path(price_table.PRICES).iterdir()] == ["aws.yaml"]
