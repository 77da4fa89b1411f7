"""What goes into a prompt of what was found."""

from __future__ import annotations

import random

from turnwire_server.gateway.usage import count_by_characters
from turnwire_server.retrieval.chunking import chunks_of
from turnwire_server.retrieval.documents import Passage
from turnwire_server.retrieval.fusion import fused
from turnwire_server.retrieval.packing import SOURCE_TOKENS, Candidate, packed

TEXT = "".join(f"Sentence number {number} says 🐈 something. " for number in range(30))
CHUNKS = chunks_of(TEXT, count_by_characters, chunk_tokens=32, overlap_tokens=12)


def found(*indexes: int, document: str = "d") -> list[Candidate]:
    return [Candidate(document, "e", "T", 1 / (rank + 1), CHUNKS[index]) for rank, index in enumerate(indexes)]


def pack(candidates: list[Candidate], budget: int) -> list[Passage]:
    return packed(candidates, budget, count_by_characters)


def text_at(passage: Passage) -> str:
    units = TEXT.encode("utf-16-le")
    return units[2 * passage.source.start : 2 * passage.source.end].decode("utf-16-le")


def test_neighbours_become_one_passage_without_a_text_twice() -> None:
    [passage] = pack(found(3, 2, 4), 10_000)
    assert passage.text == text_at(passage)
    assert (passage.source.start, passage.source.end) == (CHUNKS[2].start, CHUNKS[4].end)
    assert passage.source.score == 1


def test_the_best_come_first_and_what_does_not_fit_is_left_out() -> None:
    one = CHUNKS[0].tokens + SOURCE_TOKENS
    assert [each.source.start for each in pack(found(6, 0, 3), 2 * one + 4)] == [CHUNKS[6].start, CHUNKS[0].start]
    assert pack(found(0), one - 1) == []


def test_chunks_of_different_documents_or_editions_are_never_joined() -> None:
    other = Candidate("d", "older", "T", 0.1, CHUNKS[1])
    assert len(pack([*found(0), *found(1, document="c"), other], 10_000)) == 3


def test_never_more_than_the_budget_and_nothing_twice() -> None:
    rng = random.Random(1)
    for _ in range(200):
        indexes = rng.choices(range(len(CHUNKS)), k=12)
        budget = rng.randint(0, 400)
        passages = pack(found(*indexes), budget)
        assert sum(count_by_characters(each.text) + SOURCE_TOKENS for each in passages) <= budget
        chosen = {index for index in indexes for each in passages if CHUNKS[index].text in each.text}
        assert len(passages) == sum(index - 1 not in chosen for index in chosen)
        assert all(each.text == text_at(each) for each in passages)


def test_fusion_puts_first_what_both_ways_have_found() -> None:
    assert fused([["a", "b"], ["c", "b"]])[0] == ("b", (2 / 62) / (2 / 61))
    assert fused([["a"], ["a"]]) == [("a", 1.0)]
    assert fused([[], []]) == []
