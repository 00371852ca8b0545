"""The reference page is the model, told in words."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pydantic import BaseModel

from stacks.environment import Environment
from stacks.reference import PAGE, page


def fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str | None]]:
    for name, field in model.model_fields.items():
        yield f"{prefix}{name}", field.description
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from fields(field.annotation, f"{prefix}{name}.")


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `python -m stacks.reference`"


@pytest.mark.parametrize(("key", "description"), list(fields(Environment)))
def test_every_key_is_described_and_on_the_page(key: str, description: str | None) -> None:
    assert description
    assert description.endswith(".")
    assert f"`{key.rpartition('.')[2]}`" in page()
