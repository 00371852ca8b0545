"""The server's evaluator against `@cloud-copilot/iam-simulate`, which others wrote: no difference."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import get_args

import pytest
from random_policies import Avoid, cases
from tracking_server.access.policy import Policy

HERE = Path(__file__).parent
POLICIES = 2500

pytestmark = pytest.mark.skipif(
    not (HERE / "node_modules" / "@cloud-copilot").exists(), reason="another evaluator, by `make oracle`"
)


def test_both_decide_alike(capsys: pytest.CaptureFixture[str]) -> None:
    """On what AWS's documentation and the other evaluator agree about; see README.md here for the rest."""
    generated = list(cases(POLICIES, seed=2026, avoid=get_args(Avoid)))
    lines = [
        json.dumps({"policy": case.policy, "requests": [vars(request) for request in case.requests]})
        for case in generated
    ]
    ended = subprocess.run(
        ["node", HERE / "simulate.js"], input="\n".join(lines), capture_output=True, text=True, check=True
    )
    answers = [json.loads(line) for line in ended.stdout.splitlines()]
    assert len(answers) == POLICIES
    effects: dict[str, int] = {}
    for case, theirs in zip(generated, answers, strict=True):
        policy = Policy.parse(case.policy)
        ours = [policy.decide(each.action, each.resource, each.context).effect for each in case.requests]
        assert ours == theirs, json.dumps(case.policy, indent=1)
        for effect in ours:
            effects[effect] = effects.get(effect, 0) + 1
    assert min(effects.values()) > POLICIES // 20, "the policies are one-sided"
    with capsys.disabled():
        print(f"\n{POLICIES} policies, {sum(effects.values())} requests, no difference: {effects}")
