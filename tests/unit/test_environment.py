"""Environment files: what they may say, what is made of it, and what a person reads who got one wrong."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from stacks import environment_files
from stacks.environment import Environment
from stacks.environment_files import EnvironmentFileError, load, names
from stacks.sizes import SIZES, connections_needed

ROOT = Path(__file__).parents[2]
MINIMAL = "name: mlflow\nregion: eu-west-1\n"

#: By id: the content of a file that is wrong in one place, the key, and words of the explanation.
BROKEN = {
    "unknown key": ("databse: {}", "databse", ['did you mean "database"?', "network, front, database"]),
    "unknown key in a section": ("network: {cdir: 10.0.0.0/16}", "network.cdir", ['"cidr"', "vpc_id"]),
    "not a choice": ("size: meduim", "size", ['did you mean "medium"?', "small, medium, large"]),
    "name with capitals": ("name: MLflow", "name", ["lower-case letters"]),
    "name too long": ("name: a-name-that-is-far-too-long", "name", ["3 to 21"]),
    "region with a typo": ("region: eu-cental-1", "region", ["eu-cental-1", 'did you mean "eu-central-1"?']),
    "account without quotes": ("account: 111122223333", "account", ["111122223333", "quotes"]),
    "account with eleven digits": ('account: "11112222333"', "account", ["12 digits"]),
    "yes instead of true": ('protect: "yes"', "protect", ["true, false"]),
    "text instead of a section": ("database: large", "database", ["'large'", "instance_class"]),
    "text instead of a list": ("front: {host_names: a.example.com}", "front.host_names", ["a list"]),
    "number out of range": (
        "database: {backup_days: 0}",
        "database.backup_days",
        ["greater than or equal to 1"],
    ),
    "number in quotes": (
        'database: {backup_days: "7"}',
        "database.backup_days",
        ["a whole number, without quotes"],
    ),
    "not a retention period": ("logs: {retention_days: 31}", "logs.retention_days", ["30", "60"]),
    "address block with host bits": (
        "network: {cidr: 10.0.0.1/16}",
        "network.cidr",
        ["host bits", "10.0.0.0/16"],
    ),
    "VPC too large": ("network: {cidr: 10.0.0.0/8}", "network.cidr", ["from /16 to /24"]),
    "half an imported VPC": ("network: {vpc_id: vpc-01234567}", "network.private_subnet_ids", ["vpc_id"]),
    "one subnet": (
        "network: {vpc_id: vpc-01234567, private_subnet_ids: [subnet-01234567]}",
        "network.private_subnet_ids",
        ["two or more"],
    ),
    "an imported VPC with a block": (
        "network: {vpc_id: vpc-01234567, private_subnet_ids: [subnet-01234567, subnet-01234568], cidr: 10.0.0.0/16}",
        "network.cidr",
        ["leave out cidr or vpc_id"],
    ),
    "not a subnet id": (
        "network: {vpc_id: vpc-01234567, private_subnet_ids: [subnet-01234567, sub-2]}",
        "network.private_subnet_ids[1]",
        ["sub-2", "subnet-0123456789abcdef0"],
    ),
    "NAT without a way out": (
        "network: {private_only: true, nat_gateways: 1}",
        "network.nat_gateways",
        ["private_only"],
    ),
    "more NAT gateways than zones": ("network: {nat_gateways: 3}", "network.nat_gateways", ["1 to 2"]),
    "public without the gate": (
        "access: {engine: open}",
        "access.engine",
        ["cloudfront is on the internet", "front.kind: internal"],
    ),
    "public domain without the gate": (
        "access: {engine: open}\nfront: {domain_name: a.example.com, hosted_zone_id: Z0123456789ABC, "
        "hosted_zone_name: example.com}",
        "access.engine",
        ["domain is on the internet"],
    ),
    "CloudFront where it reaches no VPC": (
        "region: cn-north-1\nfront: {kind: cloudfront}",
        "front.kind",
        ["CloudFront reaches no VPC in cn-north-1", "domain, internal"],
    ),
    "CloudFront without a way to the internet": (
        "network: {private_only: true}\nfront: {kind: cloudfront}",
        "front.kind",
        ["needs an internet gateway", "internal"],
    ),
    "domain without a name": ("front: {kind: domain}", "front.domain_name", ["a name of yours"]),
    "domain without a certificate": (
        "front: {domain_name: a.example.com}",
        "front.hosted_zone_id",
        ["certificate_arn"],
    ),
    "name outside the zone": (
        "front: {domain_name: a.example.org, hosted_zone_id: Z0123456789ABC, hosted_zone_name: example.com}",
        "front.domain_name",
        ["a.example.org is not in example.com"],
    ),
    "half a zone": (
        "front: {domain_name: a.example.com, hosted_zone_id: Z0123456789ABC}",
        "front.hosted_zone_name",
        ["together, or none"],
    ),
    "port of CloudFront": ("front: {port: 8080}", "front.port", ["cloudfront", "front.kind: internal"]),
    "asking IAM without a way to it": (
        "network: {private_only: true}\naccess: {engine: iam}",
        "access.engine",
        ["roles"],
    ),
    "unknown engine": ("access: {engine: cedar}", "access.engine", ["iam"]),
    "issuer without TLS": (
        "access: {web_identity_issuer: 'http://issuer.example.com'}",
        "access.web_identity_issuer",
        ["https"],
    ),
    "verifying tokens of nobody": (
        "access: {web_identity_at_load_balancer: true}",
        "access.web_identity_issuer",
        ["the issuer"],
    ),
    "any subject": (
        "roles: {oidc_providers: [{provider_arn: 'arn:aws:iam::111122223333:oidc-provider/ci.example.com', "
        "audience: sts.amazonaws.com, subjects: ['repo:a/b:*', '*']}]}",
        "roles.oidc_providers[0].subjects[1]",
        ["*"],
    ),
    "everybody": ("front: {client_cidrs: [0.0.0.0/0]}", "front.client_cidrs[0]", ["everybody in"]),
    "certificate without a name": (
        "front: {kind: internal, "
        "certificate_arn: 'arn:aws:acm:eu-west-1:111122223333:certificate/12345678-abcd'}",
        "front.host_names",
        ["certificate"],
    ),
    "host name with scheme": (
        "front: {host_names: ['https://a.example.com']}",
        "front.host_names[0]",
        ["scheme"],
    ),
    "half an imported database": (
        "database: {host: db.example.com}",
        "database.secret_arn",
        ["security_group_id"],
    ),
    "imported database with a class": (
        "database: {host: db.example.com, security_group_id: sg-01234567, instance_class: db.t4g.small, "
        "secret_arn: 'arn:aws:secretsmanager:eu-west-1:111122223333:secret:db-AbCdEf'}",
        "database.instance_class",
        ["leave out instance_class or host"],
    ),
    "unknown instance class": (
        "database: {instance_class: db.t4g.smal}",
        "database.instance_class",
        ['did you mean "db.t4g.small"?', "max_connections"],
    ),
    "storage beyond its limit": (
        "database: {storage_gib: 500}",
        "database.max_storage_gib",
        ["550 or more"],
    ),
    "secret without its suffix": (
        "database: {host: db, security_group_id: sg-01234567, "
        "secret_arn: 'arn:aws:secretsmanager:eu-west-1:111122223333:secret:db'}",
        "database.secret_arn",
        ["six characters"],
    ),
    "bucket as a URL": (
        "artifacts: {bucket_name: 's3://models'}",
        "artifacts.bucket_name",
        ["without s3://"],
    ),
    "prefix with a slash": ("artifacts: {prefix: models/}", "artifacts.prefix", ["without a slash"]),
    "CPU that Fargate has not": ("tracking_server: {cpu: 1000}", "tracking_server.cpu", ["256, 512, 1024"]),
    "memory that does not go with it": (
        "tracking_server: {memory_mib: 3072}",
        "tracking_server.memory_mib",
        ["512, 1024, 2048"],
    ),
    "pool that waits for itself": (
        "tracking_server: {pool_size: 8}",
        "tracking_server.pool_size",
        ["16 or more"],
    ),
    "more tasks at least than at most": (
        "tracking_server: {min_tasks: 5}",
        "tracking_server.min_tasks",
        ["1 to 2"],
    ),
    "too many connections": ("tracking_server: {max_tasks: 9}", "tracking_server.max_tasks", ["298", "150"]),
    "wildcard principal": (
        "roles: {trusted_principal_arns: ['arn:aws:iam::111122223333:role/*']}",
        "roles.trusted_principal_arns[0]",
        ["without wildcards"],
    ),
    "account beside principal": (
        "roles: {trusted_accounts: ['111122223333'], "
        "trusted_principal_arns: ['arn:aws:iam::111122223333:role/ci']}",
        "roles.trusted_accounts",
        ["trusted_accounts or trusted_principal_arns"],
    ),
    "certificate of another region": (
        "front: {certificate_arn: 'arn:aws:acm:us-east-1:111122223333:certificate/12345678-abcd', "
        "host_names: [mlflow.example.com]}",
        "front.certificate_arn",
        ["another region", "one in eu-west-1"],
    ),
    "not an address": ("alarms: {email: nobody}", "alarms.email", ["e-mail"]),
    "unknown base": ("extends: prd", "extends", ['did you mean "prod"?', "dev, local, prod"]),
}


def written(directory: Path, content: str) -> Path:
    file = directory / "broken.yaml"
    keys = set(re.findall(r"^\w+", content, re.MULTILINE))
    rest = [line for line in MINIMAL.splitlines() if line.partition(":")[0] not in keys]
    file.write_text("\n".join([*rest, content, ""]), encoding="utf-8")
    return file


@pytest.mark.parametrize("name", names())
def test_every_file_is_sound(name: str) -> None:
    assert isinstance(load(name), Environment)


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_gives_one_line_with_file_key_and_what_is_allowed(case: str, tmp_path: Path) -> None:
    content, key, words = BROKEN[case]
    file = written(tmp_path, content)
    with pytest.raises(EnvironmentFileError) as error:
        load(str(file))
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(f"{file}: {key}: ")
    assert "; allowed: " in message
    for word in words:
        assert word in message


def test_every_mistake_of_a_file_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFileError) as error:
        load(str(written(tmp_path, "size: huge\ncolour: red")))
    assert [line.split(": ")[1] for line in str(error.value).splitlines()] == ["size", "colour"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("name: [", ["line 1", "allowed: YAML"]),
        ("name: a\nname: b\n", ["line 2", "'name' stands here twice"]),
        ("- name\n", ["holds no keys", "name, region"]),
        ("", ["holds no keys"]),
        ("size: small\n", ["name: missing", "region: missing"]),
    ],
)
def test_what_is_no_environment_is_refused(content: str, words: list[str], tmp_path: Path) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(EnvironmentFileError) as error:
        load(str(file))
    for word in [str(file), *words]:
        assert word in str(error.value)


@pytest.mark.parametrize("name", ["prodd", "", None, "examples/chin"])
def test_an_unknown_environment_lists_those_that_exist(name: str | None) -> None:
    with pytest.raises(EnvironmentFileError) as error:
        load(name)
    assert "allowed: dev, local, prod, staging, examples/bring-your-own" in str(error.value)
    if name:
        assert f'did you mean "{ {"prodd": "prod", "examples/chin": "examples/china"}[name] }"?' in str(
            error.value
        )


def test_a_missing_path_is_named() -> None:
    with pytest.raises(EnvironmentFileError, match=r"nowhere\.yaml: no such file"):
        load("nowhere.yaml")


def test_extending_merges_sections_and_replaces_values(tmp_path: Path) -> None:
    file = written(tmp_path, "extends: prod\ndatabase: {backup_days: 3}\nfront: {kind: internal}")
    environment, base = load(str(file)), load("prod")
    assert environment.database == base.database.model_copy(update={"backup_days": 3})
    assert environment.network == base.network
    assert environment.tags == base.tags
    assert environment.name == "mlflow"


def test_a_mistake_is_reported_in_the_file_that_made_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment_files, "ENVIRONMENTS", tmp_path)
    (tmp_path / "base.yaml").write_text(MINIMAL + "database: {backup_days: 0}\n", encoding="utf-8")
    (tmp_path / "derived.yaml").write_text("extends: base\ndatabase: {multi_az: maybe}\n", encoding="utf-8")
    with pytest.raises(EnvironmentFileError) as error:
        load("derived")
    lines = sorted(re.sub(r"^.*/", "", line) for line in str(error.value).splitlines())
    assert [line[: line.index(":", 16)] for line in lines] == [
        "base.yaml: database.backup_days",
        "derived.yaml: database.multi_az",
    ]


def test_extending_in_a_circle_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment_files, "ENVIRONMENTS", tmp_path)
    (tmp_path / "one.yaml").write_text("extends: two\n", encoding="utf-8")
    (tmp_path / "two.yaml").write_text("extends: one\n", encoding="utf-8")
    with pytest.raises(EnvironmentFileError, match=r"two\.yaml: extends: one extends this file in turn"):
        load("one")


@pytest.mark.parametrize("size", SIZES)
def test_a_size_fits_its_database(size: str) -> None:
    environment = Environment.model_validate({"name": "mlflow", "region": "eu-west-1", "size": size})
    sizing = environment.sizing
    needed = connections_needed(
        max_tasks=sizing.max_tasks, workers=sizing.workers, pool_size=sizing.pool_size
    )
    assert needed <= environment.max_connections


def test_an_override_changes_one_figure() -> None:
    environment = Environment.model_validate(
        {"name": "mlflow", "region": "eu-west-1", "tracking_server": {"max_tasks": 1}}
    )
    assert environment.sizing == SIZES["small"].model_copy(update={"max_tasks": 1})


def run(*command: str, directory: Path, **more: str) -> subprocess.CompletedProcess[str]:
    variables = os.environ | more
    return subprocess.run(
        command, cwd=directory, env=variables, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize("argument", ["", "broken.yaml"])
def test_the_app_ends_with_the_message_alone(argument: str, tmp_path: Path) -> None:
    file = written(tmp_path, "size: meduim")
    output = tmp_path / "cdk.out"
    context = {"env": str(file) if argument == "broken.yaml" else argument}
    ended = run(
        sys.executable, "app.py", directory=ROOT, CDK_CONTEXT_JSON=json.dumps(context), CDK_OUTDIR=str(output)
    )
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    message = ended.stderr.strip().splitlines()[-1]
    assert message.startswith(f"{file}: size: " if argument == "broken.yaml" else "env: ")
    assert "; allowed: " in message
    assert not list(output.glob("*"))


def test_the_cdk_cli_shows_the_message_and_writes_nothing(tmp_path: Path) -> None:
    output = tmp_path / "cdk.out"
    ended = run("npx", "cdk", "synth", "-c", "env=prdo", "--output", str(output), directory=ROOT)
    assert ended.returncode == 1
    assert 'env: there is no environment "prdo", did you mean "prod"?' in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not [file for file in output.rglob("*") if file.suffix == ".json"]
