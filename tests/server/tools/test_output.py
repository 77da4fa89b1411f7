"""Results: what is kept, what is cut, what is refused, and that nothing large is copied."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import math
import tracemalloc
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from turnwire_server.tools.output import UnusableOutput, cut, usable


class Order(BaseModel):
    item: str
    at: datetime.date


@dataclasses.dataclass
class Point:
    x: int


@pytest.mark.parametrize(
    ("output", "kept"),
    [
        (None, None),
        (3, 3),
        ("text", "text"),
        ([1, {"a": (2, 3)}], [1, {"a": [2, 3]}]),
        (Order(item="tea", at=datetime.date(2026, 1, 2)), {"item": "tea", "at": "2026-01-02"}),
        ({"order": Order(item="tea", at=datetime.date(2026, 1, 2))}, {"order": {"item": "tea", "at": "2026-01-02"}}),
        (Point(1), {"x": 1}),
        (math.nan, None),
    ],
)
def test_what_can_be_said_in_json_is_kept(output: Any, kept: Any) -> None:
    assert usable(output, 100) == kept


def cyclic() -> list[Any]:
    itself: list[Any] = []
    itself.append(itself)
    return itself


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("output", "text"),
    [
        (object(), "no JSON"),
        ({1: 2}, "no JSON"),
        (b"bytes", "no JSON"),
        ({"a": "\ud800"}, "no JSON"),
        (2**53, "too large for JSON"),
        (2**70, "no JSON"),
        (deep(25), "nested too deeply"),
        (deep(2000), "no JSON"),
        (cyclic(), "larger than the 10000 bytes"),
        ({"a": "x" * 10_000}, "larger than the 10000 bytes"),
        ({"a": "\n" * 6_000}, "larger than the 10000 bytes"),
        (Order(item="x" * 10_000, at=datetime.date(2026, 1, 2)), "larger than"),
        (list(range(5000)), "larger than the 10000 bytes"),
    ],
)
def test_what_cannot_be_kept_is_refused_with_a_reason_for_the_model(output: Any, text: str) -> None:
    with pytest.raises(UnusableOutput, match=text) as caught:
        usable(output, 10_000)
    assert "ran to its end" in str(caught.value), "or the model would do it again"


def test_the_deepest_result_that_is_allowed_is() -> None:
    assert usable(deep(24), 1000) == deep(24)


@given(st.text(), st.integers(min_value=60, max_value=200))
def test_a_text_is_cut_to_what_fits_as_json(text: str, size: int) -> None:
    kept = cut(text * 20, size)
    assert len(orjson.dumps(kept)) <= size
    assert kept == text * 20 or "[cut: " in kept


def test_a_text_with_half_a_character_is_kept_without_it() -> None:
    assert usable("a\ud800b", 100) == "a?b"


@pytest.mark.parametrize("output", ["x" * 50_000_000, ["x" * 50_000_000], {"a": ["y"] * 5_000_000}])
def test_a_result_that_is_far_too_large_is_not_copied(output: Any) -> None:
    tracemalloc.start()
    try:
        with contextlib.suppress(UnusableOutput):
            assert len(usable(output, 10_000)) < 10_000
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000
