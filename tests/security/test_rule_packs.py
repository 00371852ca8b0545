"""cdk-nag's rule packs on every environment: each finding is fixed, or accepted with a reason that still applies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cdk_nag
import pytest
from constructs import IConstruct
from synth import Synthesis, of, synthesise

from stacks import findings
from stacks.environment_files import load, names

PACKS = (
    cdk_nag.AwsSolutionsChecks,
    cdk_nag.HIPAASecurityChecks,
    cdk_nag.NIST80053R5Checks,
    cdk_nag.PCIDSS321Checks,
    cdk_nag.ServerlessChecks,
)

#: Reasons for which an environment accepts findings: a bound to think at before adding one more.
MOST_REASONS = 28


@dataclass(frozen=True)
class Acceptance:
    """One call of `accept` with what it covers: the ids of a rule in every pack, on `path` and below."""

    path: str
    ids: tuple[str, ...]
    reason: str

    def covers(self, path: str, id: str) -> bool:
        return id in self.ids and (path == self.path or path.startswith(f"{self.path}/"))


def violations(synthesis: Synthesis) -> Iterator[tuple[str, str]]:
    """Construct and rule of everything that the packs find and that is not acknowledged."""
    for pack in PACKS:
        for violation in pack(synthesis.app).validate_scope(synthesis.app).violations:
            for resource in violation.violating_resources:
                yield str(resource.construct_path), violation.rule_name


@pytest.mark.parametrize("name", ["dev", "examples/bring-your-own"])
def test_the_packs_pass(name: str) -> None:
    assert sorted(violations(synthesise(name))) == []


@pytest.mark.parametrize("name", names())
def test_every_finding_is_accepted_and_every_acceptance_is_needed(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    accepted: list[Acceptance] = []

    def record(construct: IConstruct, *ids: str, reason: str) -> None:
        accepted.append(Acceptance(construct.node.path, ids, reason))

    monkeypatch.setattr(findings, "acknowledge", record)
    found = set(violations(of(load(name), directory=f"unacknowledged-{name.replace('/', '-')}")))
    about_packs = [
        acceptance for acceptance in accepted if not acceptance.ids[0].partition("[")[0].count("::")
    ]

    assert [each for each in found if not any(acceptance.covers(*each) for acceptance in about_packs)] == []
    assert [
        acceptance for acceptance in about_packs if not any(acceptance.covers(*each) for each in found)
    ] == []
    assert all(len(acceptance.reason) > 15 for acceptance in accepted)
    reasons = {acceptance.reason for acceptance in accepted}
    assert len(reasons) <= MOST_REASONS
    with capsys.disabled():
        print(
            f"\n{name}: {len(found)} findings of five packs, {len(about_packs)} rules, {len(reasons)} reasons"
        )
