"""The templates of every environment, as they were when somebody last looked.

After a change that is meant: `pytest tests/snapshot --snapshot-update`, then read the difference.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
from synth import Template, synthesise
from syrupy.assertion import SnapshotAssertion
from syrupy.extensions.json import JSONSnapshotExtension

from stacks.environment_files import names

STACKS = ("network", "storage", "tracking-server", "access", "observability")

#: Asset hashes change with the content of the image, of a function or of CDK itself, not with what is deployed.
HASH = re.compile(r"\b[0-9a-f]{64}\b")


def stable(template: Template) -> Any:
    """A template without hashes and without what CDK adds to every one of them."""

    def masked(value: Any) -> Any:
        match value:
            case str():
                return HASH.sub("<hash>", value)
            case list():
                return [masked(item) for item in value]
            case dict():
                return {key: masked(item) for key, item in value.items() if key != "aws:cdk:path"}
            case _:
                return value

    return masked({key: value for key, value in template.items() if key not in ("Parameters", "Rules")})


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("name", names())
def test_template(name: str, stack: str, snapshot: SnapshotAssertion) -> None:
    template = stable(synthesise(name).templates[stack])
    assert template == snapshot(name=f"{name.replace('/', '-')}-{stack}").use_extension(JSONSnapshotExtension)


@pytest.mark.parametrize("name", names())
def test_there_is_a_snapshot_of_every_stack(name: str) -> None:
    assert sorted(synthesise(name).templates) == sorted(STACKS)
