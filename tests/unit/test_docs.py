"""The pages for readers agree with the code: what they name exists, and what must be told is told."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aws_cdk as cdk
import mlflow.environment_variables
import pytest
import typer
import yaml
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_ssm as ssm
from pydantic import BaseModel

from kit.cli import app as kit
from stacks import environment_files
from stacks.composition import compose
from stacks.environment import Environment
from stacks.sizes import SIZES
from stacks.tracking_server import mlflow_version

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob(".github/**/*.md"),
        *ROOT.glob("client/*.md"),
        *ROOT.glob("benchmarks/*.md"),
    ]
)
PLATFORM_ENGINEERS = ROOT / "docs" / "platform-engineers.md"

Check = Callable[[str], list[str]]


def code(page: str) -> Iterator[str]:
    """The blocks and spans of code in a page."""
    yield from re.findall(r"^ *```\w*\n(.*?)^ *```$", page, re.MULTILINE | re.DOTALL)
    yield from re.findall(r"`([^`\n]+)`", without_blocks(page))


def without_blocks(page: str) -> str:
    return re.sub(r"^ *```.*?^ *```$", "", page, flags=re.MULTILINE | re.DOTALL)


def anchors(page: str) -> set[str]:
    """The fragments under which a forge links to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", without_blocks(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def dead_links(page: str, *, directory: Path = ROOT) -> list[str]:
    """Relative links and images that lead nowhere."""
    dead = []
    text = re.sub(r"`[^`\n]+`", "", without_blocks(page))
    for target in re.findall(r"\]\(([^)\s]+)\)|^\[[^\]]+\]: (\S+)", text, re.MULTILINE):
        link = target[0] or target[1]
        if re.match(r"[a-z]+:", link):
            continue
        path, _, fragment = link.partition("#")
        file = directory / path if path else None
        if file and not file.exists():
            dead.append(link)
            continue
        if fragment and fragment not in anchors(file.read_text() if file else page):
            dead.append(link)
    return dead


def unknown_targets(page: str) -> list[str]:
    """`make` targets that the Makefile does not have."""
    known = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    return [
        name for text in code(page) for name in re.findall(r"\bmake ([a-z]+)\b", text) if name not in known
    ]


def unknown_kit_commands(page: str) -> list[str]:
    """`kit` commands and options that do not exist. `list|show|validate` names several at once."""
    lines = [
        line
        for text in code(page)
        for line in re.findall(r"(?:^|\.venv/bin/)kit((?: +[\w|-]+)+)", text, re.MULTILINE)
    ]
    return [f"kit{line}" for line in lines if not exists(typer.main.get_command(kit), line.split())]


def exists(command: Any, words: list[str]) -> bool:
    commands = getattr(command, "commands", None)
    if words and commands and not words[0].startswith("-"):
        names = words[0].split("|")
        return all(name in commands and exists(commands[name], words[1:]) for name in names)
    options = {option for parameter in command.params for option in parameter.opts}
    return all(word in options for word in words if word.startswith("--"))


def unknown_environments(page: str) -> list[str]:
    """Names after `-c env=` and `ENV=` that no file has."""
    named = [name for text in code(page) for name in re.findall(r"\b(?:env|ENV)=([\w/-]*\w)\b(?!/<)", text)]
    return [name for name in named if name not in environment_files.names()]


def missing_files(page: str) -> list[str]:
    """Paths in code spans that begin at a room of the repository and do not exist."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    rooms = {path.split("/")[0] for path in tracked.splitlines()}
    paths = [
        span
        for span in re.findall(r"`([^`\s]+/[^`\s]*)`", without_blocks(page))
        if span.split("/")[0] in rooms
    ]
    return [path for path in paths if not re.search(r"[<*…]", path) and not (ROOT / path).exists()]


def unknown_keys(page: str) -> list[str]:
    """Keys of an environment file that the model does not have, in code spans and in YAML blocks."""
    spans = re.findall(r"`([a-z_]+(?:\.[a-z_]+)+)(?::[^`]*)?`", without_blocks(page))
    keys = [span for span in spans if span.split(".")[0] in Environment.model_fields]
    for block in re.findall(r"^ *```yaml\n(.*?)^ *```$", page, re.MULTILINE | re.DOTALL):
        keys += flattened(yaml.safe_load(block))
    return [key for key in keys if not is_key(key)]


def flattened(content: object, prefix: str = "") -> list[str]:
    if not isinstance(content, dict):
        return [prefix]
    return [
        key for name, value in content.items() for key in flattened(value, f"{prefix}.{name}".lstrip("."))
    ]


def is_key(key: str) -> bool:
    model: type[BaseModel] | None = Environment
    for name in key.split("."):
        if model is None or name not in {*model.model_fields, "extends"}:
            return False
        annotation = model.model_fields[name].annotation if name in model.model_fields else None
        model = annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
    return True


def unknown_variables(page: str) -> list[str]:
    """Environment variables that neither the kit nor MLflow nor CDK knows."""
    sources = [*ROOT.glob("Makefile"), *ROOT.glob(".github/workflows/*.yml")]
    for room in ("stacks", "container", "kit", "local", "examples", "client"):
        sources += ROOT.glob(f"{room}/**/*.py")
    known = "\n".join(source.read_text() for source in sources)
    names = {name for text in code(page) for name in re.findall(r"\b[A-Z][A-Z0-9]+(?:_[A-Z0-9]+)+\b", text)}
    return sorted(
        name
        for name in names
        # the client's variables have a prefix that its settings put in front
        if not re.search(rf"\b{name.removeprefix('MLFLOW_AWS_IAM_')}\b", known)
        and not hasattr(mlflow.environment_variables, name)
    )


def partition_literals(page: str) -> list[str]:
    """ARNs of the `aws` partition in sections that do not say that they are examples of it."""
    sections = re.split(r"^(?=#+ )", page, flags=re.MULTILINE)
    return [
        arn
        for section in sections
        if not re.search(r"example.* `aws` partition", section)
        for arn in re.findall(r"arn:aws:[\w:-]*", section)
    ]


CHECKS: list[Check] = [
    unknown_targets,
    unknown_kit_commands,
    unknown_environments,
    missing_files,
    unknown_keys,
    unknown_variables,
    partition_literals,
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_and_images_lead_somewhere(page: Path) -> None:
    assert dead_links(page.read_text(), directory=page.parent) == []


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_what_a_page_names_exists(page: Path, check: Check) -> None:
    assert check(page.read_text()) == []


@pytest.mark.parametrize(
    ("check", "page"),
    [
        (dead_links, "[a](docs/no-such-page.md)"),
        (dead_links, "![a](docs/images/no-such-picture.png)"),
        (dead_links, "[a](README.md#no-such-heading)"),
        (dead_links, "[a](#here)\n# There"),
        (dead_links, "[a][b]\n\n[b]: docs/no-such-page.md"),
        (unknown_targets, "Run `make coffee`."),
        (unknown_targets, "```sh\nmake coffee\n```"),
        (unknown_kit_commands, "`kit brew`"),
        (unknown_kit_commands, "`.venv/bin/kit env pour`"),
        (unknown_kit_commands, "`kit env list|show|pour`"),
        (unknown_kit_commands, "`kit outputs dev --xml`"),
        (unknown_environments, "`npx cdk deploy --all -c env=nowhere`"),
        (unknown_environments, "`make up ENV=nowhere`"),
        (missing_files, "See `stacks/nothing.py`."),
        (unknown_keys, "`database.colour`"),
        (unknown_keys, "`artifacts.access.how`"),
        (unknown_keys, "`artifacts.acess: direct`"),
        (unknown_keys, "```yaml\nname: a\nfront:\n  colour: red\n```"),
        (unknown_variables, "Set `MLFLOW_NO_SUCH_VARIABLE`."),
        (partition_literals, "# A\nHere is an example in the `aws` partition.\n# B\n`arn:aws:iam::1:role/x`"),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
def test_a_page_that_is_wrong_is_found_out(check: Check, page: str) -> None:
    assert len(check(page)) == 1


@pytest.fixture(scope="module")
def constructs(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    """All constructs of an environment with a database of its own."""
    context = json.loads((ROOT / "cdk.json").read_text())["context"]
    app = cdk.App(outdir=str(tmp_path_factory.mktemp("assembly")), context=context)
    compose(app, environment_files.load("prod"))
    return list(app.node.find_all())


def table(page: Path, heading: str) -> list[list[str]]:
    """The rows of the first table below `heading`, without backticks."""
    below = re.split(rf"^#+ {heading}$", page.read_text(), maxsplit=1, flags=re.MULTILINE)[1]
    rows = re.search(r"(?:^\|.*\n)+", below, re.MULTILINE)
    assert rows
    return [
        [cell.strip().strip("`") for cell in row.strip("|").split("|")] for row in rows[0].splitlines()[2:]
    ]


def test_the_readme_lists_every_output(constructs: list[object]) -> None:
    outputs = {construct.node.id for construct in constructs if isinstance(construct, cdk.CfnOutput)}
    assert outputs >= {"TrackingUri", "ArtifactBucketName"}
    assert {name for name, _ in table(ROOT / "README.md", "Outputs")} == outputs


def test_every_output_is_a_parameter_as_well(constructs: list[object]) -> None:
    parameters = [construct for construct in constructs if isinstance(construct, ssm.StringParameter)]
    name = environment_files.load("prod").name
    assert {parameter.node.default_child.name for parameter in parameters} == {
        f"/mlflow/{name}/{output}" for output, _ in table(ROOT / "README.md", "Outputs")
    }


def test_every_alarm_is_explained(constructs: list[object]) -> None:
    alarms = {construct.node.id for construct in constructs if isinstance(construct, cloudwatch.Alarm)}
    assert "ServerErrors" in alarms
    assert {name for name, _, _ in table(PLATFORM_ENGINEERS, "Watch")} == alarms


def test_the_readme_tells_the_sizes() -> None:
    assert table(ROOT / "README.md", "Environments and sizes") == [
        [
            name,
            f"{size.users}",
            f"{size.sustained_tps} / {size.burst_tps}",
            f"{size.min_tasks} to {size.max_tasks}",
            f"{size.cpu / 1024:g} vCPU, {size.memory_mib // 1024} GiB",
            size.database_class,
        ]
        for name, size in SIZES.items()
    ]


@pytest.mark.parametrize("page", ["README.md", "CHANGELOG.md"])
def test_the_version_of_mlflow_is_told(page: str) -> None:
    assert mlflow_version() in (ROOT / page).read_text()
