"""Finds, reads and merges environment files, and words what is wrong with them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from stacks.environment import Environment
from stacks.values import did_you_mean

ENVIRONMENTS = Path(__file__).parent.parent / "environments"

Keys = tuple[str | int, ...]


class EnvironmentFileError(Exception):
    """What is wrong with an environment file, for the person who wrote it."""


@dataclass(frozen=True)
class EnvironmentFile:
    """One YAML file as it stands, without what it extends."""

    path: Path
    content: dict[str, Any]

    def holds(self, keys: Keys) -> bool:
        value: Any = self.content
        for key in keys:
            if not isinstance(value, Mapping) or key not in value:
                return False
            value = value[key]
        return True


def names() -> list[str]:
    """The values that `-c env=` accepts: files of `environments/`, then `examples/<name>`."""
    files = [*sorted(ENVIRONMENTS.glob("*.yaml")), *sorted(ENVIRONMENTS.glob("examples/*.yaml"))]
    return [file.relative_to(ENVIRONMENTS).with_suffix("").as_posix() for file in files]


def load(name: str | None) -> Environment:
    """The environment `name`, one of `names()`, or of the file at the path `name` if it ends in `.yaml`.

    Raises:
        EnvironmentFileError: there is no such file, or something in it is wrong.
    """
    chain = _chain(_find(name))
    merged: dict[str, Any] = {}
    for file in reversed(chain):
        merged = _merge(merged, file.content)
    try:
        return Environment.model_validate({key: value for key, value in merged.items() if key != "extends"})
    except ValidationError as error:
        raise EnvironmentFileError("\n".join(_describe(detail, chain) for detail in error.errors())) from None


def _find(name: str | None) -> Path:
    if name and name.endswith(".yaml"):
        if Path(name).is_file():
            return Path(name)
        raise EnvironmentFileError(f"{name}: no such file")
    if name in names():
        return ENVIRONMENTS / f"{name}.yaml"
    problem = (
        f'env: there is no environment "{name}"' if name else "env: which environment? Say -c env=<name>"
    )
    raise EnvironmentFileError(f"{problem}{did_you_mean(name or '', names())}; allowed: {', '.join(names())}")


def _chain(path: Path) -> list[EnvironmentFile]:
    """The file and what it extends, the most specific first."""
    chain: list[EnvironmentFile] = []
    while True:
        file = EnvironmentFile(path, _read(path))
        chain.append(file)
        base = file.content.get("extends")
        if base is None:
            return chain
        if base not in names():
            raise EnvironmentFileError(
                f"{_shown(path)}: extends: there is no environment {base!r}{did_you_mean(str(base), names())}; "
                f"allowed: {', '.join(names())}"
            )
        path = ENVIRONMENTS / f"{base}.yaml"
        if path in [seen.path for seen in chain]:
            raise EnvironmentFileError(
                f"{_shown(file.path)}: extends: {base} extends this file in turn; allowed: a chain that ends"
            )


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML takes the last of two equal keys without a word; this loader refuses them."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key!r} stands here twice", problem_mark=key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        place = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise EnvironmentFileError(
            f"{_shown(path)}{place}: {error.problem or error.context}; allowed: YAML of keys and values"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise EnvironmentFileError(f"{_shown(path)}: {error}; allowed: YAML in UTF-8") from None
    if not isinstance(content, dict):
        raise EnvironmentFileError(
            f"{_shown(path)}: holds no keys; allowed: {', '.join(Environment.model_fields)}"
        )
    return content


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `over`: mappings are merged, everything else is replaced."""
    merged = dict(base)
    for key, value in over.items():
        inherited = merged.get(key)
        if isinstance(inherited, Mapping) and isinstance(value, Mapping):
            value = _merge(inherited, value)
        merged[key] = value
    return merged


def _describe(detail: ErrorDetails, chain: list[EnvironmentFile]) -> str:
    """One line: file, key, what is wrong, what is allowed."""
    keys: Keys = detail["loc"]
    context = detail.get("ctx", {})
    if context.get("key"):
        keys += tuple(context["key"].split("."))
    written = (file for length in range(len(keys), 0, -1) for file in chain if file.holds(keys[:length]))
    file = next(written, chain[0])
    problem, allowed = _word(detail, keys)
    path = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys).lstrip(".")
    return f"{_shown(file.path)}: {path}: {problem}; allowed: {allowed}"


def _word(detail: ErrorDetails, keys: Keys) -> tuple[str, str]:
    context = detail.get("ctx", {})
    given = detail["input"]
    match detail["type"]:
        case "refused":
            return context["problem"], context["allowed"]
        case "extra_forbidden":
            known = [*_model_at(keys[:-1]).model_fields, *(["extends"] if len(keys) == 1 else [])]
            return f"unknown key{did_you_mean(str(keys[-1]), known)}", ", ".join(known)
        case "literal_error":
            allowed = context["expected"].replace("'", "").replace(" or ", ", ")
            hint = did_you_mean(given, allowed.split(", ")) if isinstance(given, str) else ""
            return f"{given!r} is not one of the choices{hint}", allowed
        case "missing":
            return "missing", "this key must be given"
        case "string_type":
            return f"{given!r} is not text", "text; put numbers and yes or no into quotes"
        case "int_type":
            return f"{given!r} is not a whole number", "a whole number, without quotes"
        case "bool_type":
            return f"{given!r} is neither true nor false", "true, false"
        case "model_type" | "model_attributes_type" | "dict_type":
            return f"{given!r} holds no keys", ", ".join(_model_at(keys).model_fields) or "keys and values"
        case "tuple_type":
            return f"{given!r} is not a list", "a list"
        case _:
            return f"{given!r} is refused", detail["msg"].removeprefix("Input should be ").removeprefix(
                "a valid "
            )


def _model_at(keys: Keys) -> type[BaseModel]:
    """The model that describes the section at `keys`."""
    model: type[BaseModel] = Environment
    for key in keys:
        annotation = model.model_fields[str(key)].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return BaseModel
        model = annotation
    return model


def _shown(path: Path) -> str:
    """`environments/dev.yaml` rather than where the clone happens to be."""
    root = ENVIRONMENTS.parent
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
