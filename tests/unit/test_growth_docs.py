"""The figures of docs/growth.md and its picture are those of the newest result."""

from __future__ import annotations

import json

import pytest

from benchmarks.growth_document import ORDERED, PAGE, PICTURE, newest, page, ratios
from benchmarks.growth_picture import draw


def test_the_tables_are_those_of_the_newest_result() -> None:
    text = PAGE.read_text()
    assert page(text, json.loads(newest().read_text())) == text, "run `python -m benchmarks.growth --redraw`"


def test_the_picture_is_that_of_the_newest_result() -> None:
    assert draw(json.loads(newest().read_text())) == PICTURE.read_text()


def test_the_ratios_follow_from_the_measurements() -> None:
    document = json.loads(newest().read_text())
    assert ratios(document["sizes"]) == document["ratios"]


def test_a_search_with_an_order_and_a_filter_grows_as_little_as_stated() -> None:
    growth = json.loads(newest().read_text())["ratios"]["growth"]["runs in the experiment"]
    assert "at most a hundred times as long" in PAGE.read_text()
    assert growth[ORDERED]["fast"]["p50_growth_ratio"] <= 100


WRITES = ("create run", "log-metric", "log-batch")


@pytest.mark.parametrize("operation", [*WRITES, "get run", "search"])
def test_what_must_not_grow_does_not(operation: str) -> None:
    """Three times is more than noise, and little next to the thousand of a scan of all rows."""
    for operations in json.loads(newest().read_text())["ratios"]["growth"].values():
        if operation in operations:
            assert operations[operation]["fast"]["database_cpu_growth_ratio"] <= 3


def test_a_ratio_is_the_largest_size_over_the_smallest() -> None:
    def sizes(p50: float) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
        return {"axis": {"search": {"fast": {"requests": 1, "p50_ms": p50}}}}

    found = ratios({"1000": sizes(2.0), "1000000": sizes(3.0), "10000": sizes(9.0)})
    ratio = found["growth"]["axis"]["search"]["fast"]
    assert ratio["p50_growth_ratio"] == pytest.approx(1.5)
    assert ratio["server_cpu_growth_ratio"] is None
