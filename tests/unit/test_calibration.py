"""The sizes are those that were measured, and their targets follow from what was found."""

from __future__ import annotations

import json

import pytest

from benchmarks.calibrate import P99_BOUND_MS, holds
from benchmarks.machine import newest
from stacks.sizes import SIZES, SizeName


@pytest.fixture(scope="module")
def measured() -> dict[str, dict[str, object]]:
    result = newest("calibrate")
    assert result is not None
    return json.loads(result.read_text())["sizes"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", SIZES)
def test_a_size_is_as_it_was_measured_and_held(name: SizeName, measured: dict[str, dict]) -> None:  # type: ignore[type-arg]
    size, found = SIZES[name], measured[name]
    assert {key: found[key] for key in ("cpu", "memory_mib", "workers", "threads")} == {
        key: getattr(size, key) for key in ("cpu", "memory_mib", "workers", "threads")
    }
    for kind, rate, seconds in (("sustained", size.sustained_tps, 600), ("burst", size.burst_tps, 60)):
        borne = found[kind]
        assert borne["rate"] == rate
        assert borne["seconds"] >= 0.98 * seconds
        assert borne["requests"] >= 0.95 * rate * seconds
        assert holds(borne)
        assert borne["p99_ms"] <= P99_BOUND_MS
    assert size.burst_tps <= 0.5 * found["full"]["throughput"]


@pytest.mark.parametrize("name", SIZES)
def test_scaling_follows_from_what_a_task_can_do(name: SizeName, measured: dict[str, dict]) -> None:  # type: ignore[type-arg]
    size = SIZES[name]
    at_most = measured[name]["full"]["throughput"] * 60
    assert 0.4 * at_most <= size.requests_per_task_per_minute <= 0.7 * at_most
