"""The gate's memory: caches that do not outgrow their bounds, and AWS asked once for each principal."""

from __future__ import annotations

import asyncio

import pytest
from tracking_server.access import authentication, permissions

from benchmarks.gate_memory import drive
from benchmarks.in_process import InProcess

BOUND = 100


@pytest.fixture(autouse=True)
def small_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MAX_PROOFS", "MAX_REFUSALS", "MAX_ADDRESSES"):
        monkeypatch.setattr(authentication, name, BOUND)
    monkeypatch.setattr(permissions, "MAX_CALLERS", BOUND)


def test_known_principals_are_asked_for_once() -> None:
    part = InProcess()
    phase = asyncio.run(drive(part, "known", fill=range(BOUND), then=list(range(BOUND)) * 20))
    assert phase.refused == 0
    assert (phase.requests, phase.sts_calls, phase.iam_calls) == (BOUND * 21, BOUND, BOUND)


def test_ever_new_principals_do_not_fill_the_memory() -> None:
    part = InProcess()
    phase = asyncio.run(drive(part, "ever new", fill=range(BOUND), then=range(BOUND, 20 * BOUND)))
    assert phase.refused == 0
    assert (phase.sts_calls, phase.iam_calls) == (20 * BOUND, 20 * BOUND)
    assert (phase.most_identities, phase.most_permissions) == (BOUND, BOUND)


def test_callers_at_once_wait_for_one_question() -> None:
    part = InProcess()

    async def crowd() -> None:
        await asyncio.gather(*(part.call(1) for _ in range(200)))

    asyncio.run(crowd())
    assert (part.refused, part.prover.calls, part.engine.calls) == (0, 1, 1)
    assert (len(part.authentication), len(part.permissions)) == (1, 1)
