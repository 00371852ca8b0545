"""Writes docs/configuration.md from the model of an environment file: `python -m stacks.reference`."""

from __future__ import annotations

import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Le
from pydantic import AfterValidator, BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from stacks.environment import Environment
from stacks.sizes import MAX_CONNECTIONS, SIZES, Size

PAGE = Path(__file__).parent.parent / "docs" / "configuration.md"

HEAD = """\
# Configuration

<!-- Made by `python -m stacks.reference` from the model in `stacks/`; change it there. -->

An environment is one file, `environments/<name>.yaml`, chosen with `-c env=<name>`. Only `name` and `region` must be
given. `extends: <name>` takes over another file: sections are merged key by key, and everything else in this file
replaces what stands there. A key that is not on this page, a value that is not allowed and a combination that cannot
work are refused before anything is synthesised, with file, key and what is allowed.

Files to start from: `environments/dev.yaml`, `staging.yaml` and `prod.yaml`, and those in `environments/examples/`.
"""


def page() -> str:
    """The whole page."""
    top = {name: field for name, field in Environment.model_fields.items() if not _section(field)}
    parts = [HEAD, "## Top level\n", *_table(top)]
    for name, field in Environment.model_fields.items():
        if section := _section(field):
            about = (section.__doc__ or field.description or "").strip()
            parts += [f"\n## `{name}`\n", f"{about}\n", *_table(section.model_fields)]
    parts += [
        "\n## Sizes\n",
        "Any figure can be overridden under `tracking_server` and `database`.\n",
        *_sizes(),
    ]
    return "\n".join(parts) + "\n"


def _section(field: FieldInfo) -> type[BaseModel] | None:
    annotation = field.annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _table(fields: dict[str, FieldInfo]) -> Iterator[str]:
    yield "| Key | Value | Default | What it decides |"
    yield "|---|---|---|---|"
    for name, field in fields.items():
        yield f"| `{name}` | {kind(field.annotation, field.metadata)} | {_default(field)} | {field.description} |"


def kind(annotation: Any, metadata: list[Any] | tuple[Any, ...] = ()) -> str:
    """What may be given for a field of this type, in words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return kind(arguments[0], arguments[1:])
    if origin in (Union, types.UnionType):
        return kind(next(each for each in arguments if each is not types.NoneType), metadata)
    if origin is Literal:
        return ", ".join(f"`{choice}`" for choice in arguments)
    if origin is tuple:
        return f"list, each {kind(arguments[0])}"
    if origin is dict:
        return "keys and values, both text"
    if annotation is bool:
        return "`true`, `false`"
    if annotation is int:
        return f"whole number{_range(metadata)}"
    words = [each.func.__doc__ for each in metadata if isinstance(each, AfterValidator) and each.func.__doc__]
    return ", ".join(words) or "text"


def _range(metadata: list[Any] | tuple[Any, ...]) -> str:
    least = next((each.ge for each in metadata if isinstance(each, Ge)), None)
    most = next((each.le for each in metadata if isinstance(each, Le)), None)
    if least is not None and most is not None:
        return f", {least} to {most}"
    return f", {least} or more" if least is not None else ""


def _default(field: FieldInfo) -> str:
    default = field.get_default(call_default_factory=True)
    match default:
        case _ if default is PydanticUndefined:
            return "must be given"
        case None | () | {}:
            return ""
        case bool():
            return f"`{str(default).lower()}`"
        case _:
            return f"`{default}`"


def _sizes() -> Iterator[str]:
    yield f"| | {' | '.join(f'`{name}`' for name in SIZES)} |"
    yield "|---|" + "---|" * len(SIZES)
    for name, field in Size.model_fields.items():
        figures = " | ".join(f"{getattr(size, name)}" for size in SIZES.values())
        yield f"| {str(field.description).rstrip('.')} (`{name}`) | {figures} |"
    connections = " | ".join(str(MAX_CONNECTIONS[size.database_class]) for size in SIZES.values())
    yield f"| Connections that this class accepts (`max_connections`) | {connections} |"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
