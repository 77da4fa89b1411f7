"""Estimates of what a provider would have counted, against vocabularies that count: where they are within 3 %.

An answer that was cut is compared with what the provider's own vocabulary makes of the same text. `python -m
benchmarks.estimates` prints the errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import quicktok
from tests.server.gateway.asking import deployment
from tests.support.corpus import CORPUS, PROSE, cuts, sent

from turnwire_server.gateway.estimates import (
    LEAST_TOKENS,
    TRUST_TOKENS,
    WINDOW_TOKENS,
    Count,
    Estimates,
    EstimatesByTenant,
    Measure,
)
from turnwire_server.gateway.provider import Usage
from turnwire_server.gateway.usage import TokenCounter

CL100K = {"cl100k_base": TokenCounter.load("cl100k_base")}
ONE, TWO = deployment(name="one"), deployment(name="two")
BATCHES = (1, 2, 3, 5, 8)


def learned(
    tokenizer: Any, texts: Sequence[str], batch: Sequence[int] = (1,), *, end: int = 0, own: str = "cl100k_base"
) -> tuple[Estimates, Any]:
    """Estimates that know what the provider said of these texts, and their deployment."""
    estimates = Estimates({**CL100K, own: TokenCounter.load(own)})
    one = deployment(tokenizer=own)
    for number, text in enumerate(texts):
        usage = Usage(0, len(tokenizer.encode(text)) + end)
        estimates.learn(one, 0, sent(text, tokenizer, batch, number), usage)
    return estimates, one


def off(
    estimates: Estimates, one: Any, tokenizer: Any, texts: Sequence[str], batch: Sequence[int] = (1,)
) -> list[float]:
    """By what part the sum of the estimates is off, then each that is not of so few tokens that one is 3 %."""
    pairs = [
        (estimates.answer(one, cut), len(tokenizer.encode("".join(cut))))
        for number, text in enumerate(texts)
        for cut in cuts(sent(text, tokenizer, batch, number))
    ]
    whole = (sum(estimate for estimate, _ in pairs), sum(count for _, count in pairs))
    long = [(estimate, count) for estimate, count in pairs if count > 1 / 0.03]
    assert len(long) > 0.5 * len(pairs)
    return [abs(estimate / count - 1) for estimate, count in (whole, *long)]


@pytest.mark.parametrize("knows", [False, True], ids=["at first", "later"])
@pytest.mark.parametrize("own", ["cl100k_base", "o200k_base", "o200k_harmony", "llama3", "qwen3"])
def test_with_the_models_own_vocabulary_every_cut_text_is_counted_exactly(own: str, knows: bool) -> None:
    tokenizer = quicktok.get_encoding(own)
    estimates, one = learned(tokenizer, CORPUS if knows else (), BATCHES, end=1, own=own)
    assert set(off(estimates, one, tokenizer, CORPUS, BATCHES)) == {0.0}


@pytest.mark.parametrize("end", [0, 1], ids=["counts no end", "counts the end"])
@pytest.mark.parametrize("name", ["o200k_base", "llama3", "qwen3"])
def test_with_another_vocabulary_and_a_token_a_piece_the_sum_is_within_3_percent_and_most_texts(
    name: str, end: int
) -> None:
    tokenizer = quicktok.get_encoding(name)
    estimates, one = learned(tokenizer, CORPUS[::2], end=end)
    whole, *each = off(estimates, one, tokenizer, CORPUS[1::2])
    assert whole < 0.01
    assert sum(error < 0.03 for error in each) >= 0.8 * len(each)
    assert max(each) < 0.1, "the rest are emoji and formulas"


@pytest.mark.parametrize("name", ["o200k_base", "llama3", "qwen3"])
def test_with_another_vocabulary_and_batched_pieces_only_the_sum_is_within_3_percent(name: str) -> None:
    """Nobody can say it of each: languages and kinds of text differ by half in what one vocabulary makes of a token of
    another one. Who needs it of each names the model's own."""
    tokenizer = quicktok.get_encoding(name)
    for half in (0, 1):
        estimates, one = learned(tokenizer, CORPUS[half::2], BATCHES)
        whole, *_each = off(estimates, one, tokenizer, CORPUS[half::2], BATCHES)
        assert whole < 0.03


# --- what is learned -------------------------------------------------------------------------------------


def test_nothing_is_believed_before_enough_was_told() -> None:
    estimates = Estimates(CL100K)
    text = "word " * (TRUST_TOKENS // 2 - 1)
    counted = CL100K["cl100k_base"].count(text)
    estimates.learn(ONE, counted, [text], Usage(2 * counted, 2 * counted - 2))
    assert estimates.answer(ONE, [text]) == counted
    estimates.learn(ONE, counted, [text], Usage(2 * counted, 2 * counted - 2))
    assert estimates.answer(ONE, [text]) == 2 * counted - 2
    assert estimates.prompt(ONE, 100) == 200
    assert estimates.answer(TWO, [text]) == counted, "another deployment is another model"


@pytest.mark.parametrize("tokens", [0, LEAST_TOKENS - 1, 30, 400], ids=lambda tokens: f"{tokens} tokens")
def test_figures_that_cannot_be_of_the_text_teach_nothing(tokens: int) -> None:
    """Hidden reasoning, an answer from a cache, a provider that says 1 for everything."""
    estimates = Estimates(CL100K)
    for _ in range(1000):
        estimates.learn(ONE, 100, ["a "] * 100, Usage(tokens, tokens))
    assert estimates.prompt(ONE, 100) == 100
    assert estimates.answer(ONE, ["a"] * 30) == CL100K["cl100k_base"].count("a" * 30)


def test_pieces_that_are_no_tokens_are_not_believed() -> None:
    tokenizer = quicktok.get_encoding("cl100k_base")
    estimates, one = learned(tokenizer, CORPUS, (1, 20))
    assert estimates.answer(one, list("one letter a piece")) == len(tokenizer.encode("one letter a piece"))


def test_texts_that_did_not_come_from_the_provider_are_counted_as_texts() -> None:
    """What a taker finds in the log was put together from many pieces, or taken apart."""
    tokenizer = quicktok.get_encoding("qwen3")
    estimates, one = learned(tokenizer, CORPUS)
    text = PROSE[0]
    assert estimates.answer(one, [text]) == 1, "a piece is a token here"
    assert estimates.answer(one, [text], as_sent=False) == pytest.approx(len(tokenizer.encode(text)), rel=0.2)


def test_what_came_last_weighs_more() -> None:
    measure = Measure(1.0)
    while measure.ratio != 2.0:
        measure.learn(Count(100), 200)
    for _ in range(WINDOW_TOKENS // 100):
        measure.learn(Count(100), 100)
    assert measure.ratio == pytest.approx(1.0, abs=0.35)
    for _ in range(5 * WINDOW_TOKENS // 100):
        measure.learn(Count(100), 100)
    assert measure.ratio == pytest.approx(1.0, abs=0.01)
    assert measure.error < 0.01


def test_nothing_is_nothing_and_what_is_not_nothing_is_a_token_at_least() -> None:
    estimates, one = learned(quicktok.get_encoding("qwen3"), CORPUS)
    assert estimates.answer(one, []) == 0
    assert estimates.answer(one, [""]) in (0, 1)
    assert estimates.answer(one, ["a"]) == 1
    assert estimates.prompt(one, 0) == 0


@pytest.mark.parametrize("text", ["a\ud83d", "\ude00", "\udfff\ud800"])
def test_half_a_character_is_estimated_whatever_is_believed(text: str) -> None:
    for estimates in (Estimates(CL100K), learned(quicktok.get_encoding("qwen3"), CORPUS)[0]):
        assert estimates.answer(deployment(), list(text)) > 0


# --- tenants ---------------------------------------------------------------------------------------------


def test_what_one_tenant_was_answered_changes_no_estimate_of_another() -> None:
    """Guarantee 9: nobody's figures depend on what others ask."""
    estimates = EstimatesByTenant(CL100K)
    for _ in range(100):
        estimates.of("other").learn(ONE, 100, ["word "] * 100, Usage(300, 300))
    assert estimates.of("acme").answer(ONE, ["word"]) == 1
    assert estimates.of("acme").prompt(ONE, 100) == 100
    assert estimates.of("other").prompt(ONE, 100) == 300


def test_of_too_many_tenants_those_of_longest_ago_are_forgotten() -> None:
    estimates = EstimatesByTenant(CL100K, tenants=2)
    first, second = estimates.of("first"), estimates.of("second")
    assert estimates.of("first") is first
    estimates.of("third")
    assert estimates.of("first") is first
    assert estimates.of("second") is not second


def test_a_vocabulary_is_loaded_for_each_deployment_and_one_for_what_is_of_none() -> None:
    estimates = EstimatesByTenant.load([deployment(tokenizer="o200k_base"), deployment(tokenizer="characters")])
    assert repr(estimates) == "<EstimatesByTenant ['characters', 'cl100k_base', 'o200k_base'] tenants=0>"
    assert estimates.counter.name == "cl100k_base"
    assert estimates.of("acme").answer(deployment(tokenizer="characters"), ["x" * 400]) == 100
