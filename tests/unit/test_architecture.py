"""Nothing is imported upwards: what is deployed or shipped knows nothing of what deploys it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

#: What each room may import of the others.
MAY_IMPORT: dict[str, set[str]] = {
    "container": set(),
    "client": set(),
    "functions": set(),
    "stacks": set(),
    "local": set(),
    "kit": {"stacks", "local", "client"},
    "examples": set(),
}

#: Names under which a room can be imported.
PACKAGES = {"tracking_server": "container", "mlflow_aws_iam": "client"} | {room: room for room in MAY_IMPORT}


def sources(room: str) -> list[Path]:
    return sorted(
        file
        for file in (ROOT / room).rglob("*.py")
        if not {".venv", "node_modules"} & set(file.relative_to(ROOT).parts)
    )


def imports(source: str) -> Iterator[str]:
    """The absolute names that a module imports, wherever in it, and by `importlib` or `__import__`."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from (name.name for name in names)
            case ast.ImportFrom(module=str(module), level=0):
                yield module
            case ast.Call(
                func=ast.Attribute(attr="import_module") | ast.Name(id="__import__" | "import_module")
            ):
                yield from (
                    str(argument.value) for argument in node.args[:1] if isinstance(argument, ast.Constant)
                )


def forbidden(room: str, source: str) -> list[str]:
    """What `source`, a module of `room`, imports of rooms that it may not know."""
    rooms = [(name, PACKAGES.get(name.partition(".")[0])) for name in imports(source)]
    return [name for name, other in rooms if other and other != room and other not in MAY_IMPORT[room]]


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_nothing_is_imported_upwards(room: str) -> None:
    assert {
        str(file.relative_to(ROOT)): found
        for file in sources(room)
        if (found := forbidden(room, file.read_text(encoding="utf-8")))
    } == {}


def test_one_function_knows_nothing_of_another() -> None:
    folders = {folder.name for folder in (ROOT / "functions").iterdir() if folder.is_dir()}
    for file in sources("functions"):
        others = folders - {file.relative_to(ROOT / "functions").parts[0]}
        assert not {name.partition(".")[0] for name in imports(file.read_text(encoding="utf-8"))} & others


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("container", "import stacks"),
        ("functions", "def f():\n    from local.aws import EmbeddedAws"),
        ("stacks", "from tracking_server import settings"),
        ("stacks", "import importlib\nimportlib.import_module('functions.schema_migration')"),
        ("local", "import kit.cli"),
        ("container", "from mlflow_aws_iam import token"),
    ],
)
def test_the_rule_finds_who_breaks_it(room: str, source: str) -> None:
    assert len(forbidden(room, source)) == 1


def test_the_rooms_are_all_there() -> None:
    for room in ("container", "client", "functions", "stacks", "local", "kit"):
        assert sources(room), room
