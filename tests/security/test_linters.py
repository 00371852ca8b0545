"""cfn-lint, checkov and CDK's own validation on every environment, with the same rule: fixed, or accepted and needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from synth import ROOT, synthesise

from stacks.environment_files import names

CHECKOV = ROOT / ".venv-checkov" / "bin" / "checkov"

#: In a process of its own: CDK reads whether to validate when its own process starts. The last one is broken, to
#: see that the rules are at work.
SYNTHESISE_ALL = """
import json, sys
import aws_cdk as cdk
from aws_cdk import aws_ecs as ecs
from stacks.composition import compose
from stacks.environment_files import load, names

def composed(name, directory):
    app = cdk.App(context=json.load(open("cdk.json"))["context"], outdir=f"{sys.argv[1]}/{directory}")
    compose(app, load(name))
    return app

for name in names():
    composed(name, name.replace("/", "-")).synth()
    print(name)
app = composed("dev", "broken")
for task in app.node.find_all():
    if isinstance(task, ecs.CfnTaskDefinition):
        task.add_property_override("Cpu", "1")
try:
    app.synth()
except RuntimeError:
    print("refused")
"""

#: Template, resource and rule.
Finding = tuple[str, str, str]


def run(command: list[str | Path], **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs in the repository, without credentials of AWS."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
    environment = clean | {"HOME": clean.get("HOME", ""), "AWS_EC2_METADATA_DISABLED": "true"} | variables
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def bare_templates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The templates of all environments without the metadata that makes linters look away."""
    directory = tmp_path_factory.mktemp("templates")
    for key, template in templates().items():
        for resource in template["Resources"].values():
            for tool in ("cfn-lint", "checkov"):
                resource.get("Metadata", {}).pop(tool, None)
        (directory / f"{key}.template.json").write_text(json.dumps(template, indent=1), encoding="utf-8")
    return directory


def templates() -> dict[str, dict[str, Any]]:
    """Copies of all templates, by environment and stack."""
    return {
        f"{name.replace('/', '-')}-{stack}": json.loads(json.dumps(template))
        for name in names()
        for stack, template in synthesise(name).templates.items()
    }


def accepted_by_cfn_lint(metadata: dict[str, Any]) -> Iterator[str]:
    yield from metadata.get("cfn-lint", {}).get("config", {}).get("ignore_checks", [])


def accepted_by_checkov(metadata: dict[str, Any]) -> Iterator[str]:
    for skipped in metadata.get("checkov", {}).get("skip", []):
        assert len(skipped["comment"]) > 15
        yield skipped["id"]


def test_cfn_lint_finds_what_is_accepted_and_nothing_else(bare_templates: Path) -> None:
    files = sorted(str(file) for file in bare_templates.glob("*.json"))
    ended = subprocess.run(
        [Path(sys.executable).with_name("cfn-lint"), "--format", "json", *files],
        capture_output=True,
        text=True,
        check=False,
    )
    found: set[Finding] = set()
    for finding in json.loads(ended.stdout):
        section, resource = finding["Location"]["Path"][:2]
        assert section == "Resources"
        found.add(
            (Path(finding["Filename"]).name.removesuffix(".template.json"), resource, finding["Rule"]["Id"])
        )
    assert found == {
        (key, resource, rule)
        for key, template in templates().items()
        for resource, content in template["Resources"].items()
        for rule in accepted_by_cfn_lint(content.get("Metadata", {}))
    }


@pytest.mark.skipif(not CHECKOV.exists(), reason="needs .venv-checkov, which `make test` makes")
def test_checkov_finds_what_is_accepted_and_nothing_else(bare_templates: Path) -> None:
    command: list[str | Path] = [
        CHECKOV,
        "--directory",
        bare_templates,
        "--framework",
        "cloudformation",
        "--output",
        "json",
    ]
    ended = subprocess.run(
        [*command, "--quiet", "--compact", "--skip-download"], capture_output=True, text=True, check=False
    )
    report = json.loads(ended.stdout)
    assert report["summary"]["parsing_errors"] == 0
    assert report["summary"]["passed"] > 1000
    assert {
        (
            Path(check["file_path"]).name.removesuffix(".template.json"),
            check["resource"].rpartition(".")[2],
            check["check_id"],
        )
        for check in report["results"]["failed_checks"]
    } == {
        (key, resource, rule)
        for key, template in templates().items()
        for resource, content in template["Resources"].items()
        for rule in accepted_by_checkov(content.get("Metadata", {}))
    }


def test_cdk_validates_every_environment_with_its_rules_as_errors(tmp_path: Path) -> None:
    ended = run(
        [sys.executable, "-c", SYNTHESISE_ALL, tmp_path],
        CDK_VALIDATION="true",
        PYTHONPATH=str(ROOT),
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split() == [*names(), "refused"]


def test_the_cdk_cli_synthesises_without_credentials(tmp_path: Path) -> None:
    ended = run(
        ["npx", "cdk", "synth", "-c", "env=prod", "--quiet", "--output", tmp_path], CDK_VALIDATION="false"
    )
    assert ended.returncode == 0, ended.stderr
    assert len(list(tmp_path.glob("mlflow-prod-*.template.json"))) == 5
