"""Token estimates, exact money, and sums over attempts."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.server.gateway.asking import deployment

from turnwire_server.gateway.usage import (
    AttemptUsage,
    Source,
    TokenCounter,
    cost_usd,
    count_by_characters,
    total,
    usd_text,
)

COUNTERS = [TokenCounter(), TokenCounter.load()]


def priced(input_usd: str | None = None, output_usd: str | None = None, cached_usd: str | None = None) -> Any:
    return deployment(input_usd_per_mtok=input_usd, output_usd_per_mtok=output_usd, cached_usd_per_mtok=cached_usd)


def row(source: Source = "provider", cost: str = "0.5", **fields: Any) -> AttemptUsage:
    values: dict[str, Any] = {
        "step": 1,
        "attempt": 1,
        "deployment": "main",
        "outcome": "completed",
        "input_tokens": 10,
        "output_tokens": 5,
        "cached_tokens": 2,
        **fields,
    }
    return AttemptUsage(**values, cost_usd=Decimal(cost), source=source)


@pytest.mark.parametrize("counter", COUNTERS, ids=repr)
def test_english_is_about_four_characters_a_token(counter: TokenCounter) -> None:
    text = "The quick brown fox jumps over the lazy dog and then goes home to sleep. " * 10
    assert len(text) / 6 < counter.count(text) < len(text) / 3


@pytest.mark.parametrize("counter", COUNTERS, ids=repr)
@given(text=st.text(st.characters(), max_size=200))
def test_any_text_can_be_counted(counter: TokenCounter, text: str) -> None:
    assert (counter.count(text) == 0) == (text == "")


@pytest.mark.parametrize("counter", COUNTERS, ids=repr)
@pytest.mark.parametrize("text", ["a\ud83d", "\ude00", "\udfff\ud800", "<|endoftext|>", "\x00"])
def test_half_a_character_and_special_marks_can_be_counted(counter: TokenCounter, text: str) -> None:
    assert counter.count(text) > 0


def test_characters_outside_ascii_count_more() -> None:
    assert count_by_characters("漢字漢字") == 4
    assert count_by_characters("abcd") == 1
    assert count_by_characters("abcde漢") == 3


@pytest.mark.parametrize("counter", COUNTERS, ids=repr)
def test_a_prompt_counts_all_that_is_sent(counter: TokenCounter) -> None:
    user = {"role": "user", "content": "What time is it in Berlin?"}
    parts = {"role": "user", "content": [{"type": "text", "text": "What time is it in Berlin?"}]}
    call = {"id": "c", "function": {"name": "clock", "arguments": '{"city": "Berlin"}'}}
    calling = {"role": "assistant", "content": None, "tool_calls": [call]}
    tools = [{"type": "function", "function": {"name": "clock", "parameters": {"type": "object"}}}]
    estimate = counter.estimate_prompt_tokens
    assert estimate([user]) == estimate([parts]) > counter.count(user["content"])
    assert estimate([user, calling]) > estimate([user]) + 3
    assert estimate([user], tools) > estimate([user])


def test_a_cost_is_exact() -> None:
    where = priced("0.15", "0.60", "0.075")
    assert cost_usd(where, 1_000_000, 0) == Decimal("0.15")
    assert cost_usd(where, 1, 1) == Decimal("0.00000075")
    assert cost_usd(where, 10, 1, 4) == Decimal("0.0000018")


def test_cached_tokens_without_a_price_cost_as_others() -> None:
    assert cost_usd(priced("2", "8"), 100, 0, 60) == cost_usd(priced("2", "8"), 100, 0)
    assert cost_usd(priced("2", "8", "0"), 100, 0, 60) == Decimal("0.00008")


def test_more_cached_than_input_tokens_never_cost_less_than_nothing() -> None:
    assert cost_usd(priced("2", "8", "1"), 10, 0, 50) == Decimal("0.00001")


def test_a_deployment_without_prices_costs_nothing() -> None:
    assert cost_usd(priced(), 1000, 1000, 10) == 0


@given(
    st.integers(0, 10**12),
    st.integers(0, 10**12),
    st.decimals(0, 1_000_000, allow_nan=False, places=12),
    st.decimals(0, 1_000_000, allow_nan=False, places=12),
)
def test_no_amount_is_rounded(tokens_in: int, tokens_out: int, price_in: Decimal, price_out: Decimal) -> None:
    exact = (tokens_in * Fraction(price_in) + tokens_out * Fraction(price_out)) / 1_000_000
    assert Fraction(cost_usd(priced(str(price_in), str(price_out)), tokens_in, tokens_out)) == exact


@pytest.mark.parametrize(
    ("amount", "text"),
    [("0", "0"), ("0E-8", "0"), ("1E-7", "0.0000001"), ("1.500", "1.5"), ("100", "100"), ("1E+2", "100")],
)
def test_money_is_written_in_plain_digits(amount: str, text: str) -> None:
    assert usd_text(Decimal(amount)) == text


def test_a_total_is_the_sum_of_its_attempts() -> None:
    sums = total([row(cost="0.1"), row(cost="0.2", input_tokens=0, output_tokens=0, cached_tokens=0)])
    assert (sums.input_tokens, sums.output_tokens, sums.cached_tokens) == (10, 5, 2)
    assert sums.cost_usd == Decimal("0.3")


@pytest.mark.parametrize(
    ("sources", "source"),
    [
        ([], "provider"),
        (["provider"], "provider"),
        (["estimated", "estimated"], "estimated"),
        (["provider", "estimated"], "mixed"),
    ],
)
def test_a_total_says_where_its_numbers_come_from(sources: list[Source], source: str) -> None:
    assert total(row(each) for each in sources).source == source
