"""A document is cut into pieces that say exactly where they are from."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from turnwire_server.gateway.usage import count_by_characters
from turnwire_server.retrieval.chunking import chunks_of
from turnwire_server.retrieval.documents import Chunk


def chunks(text: str, tokens: int = 16, overlap: int = 4, *, markdown: bool = True) -> list[Chunk]:
    return chunks_of(text, count_by_characters, chunk_tokens=tokens, overlap_tokens=overlap, markdown=markdown)


def at(text: str, chunk: Chunk) -> str:
    return text.encode("utf-16-le")[2 * chunk.start : 2 * chunk.end].decode("utf-16-le")


def test_a_chunk_has_the_way_to_its_heading() -> None:
    found = chunks("intro\n\n# Guide\n\n## Install\n\nRun it.\n\n## Use\n\nLook.\n\n# Else\n\nMore.\n")
    assert [chunk.heading for chunk in found] == ["", "Guide", "Guide › Install", "Guide › Use", "Else"]
    assert found[2].text == "## Install\n\nRun it.\n\n"


def test_what_looks_like_a_heading_in_code_or_plain_text_is_none() -> None:
    assert [chunk.heading for chunk in chunks("# A\n\n```\n# b\n```\n", 64)] == ["A"]
    assert [chunk.heading for chunk in chunks("# A\n\n# B\n", 64, markdown=False)] == [""]


def test_long_paragraphs_are_cut_at_sentences_that_overlap() -> None:
    text = "The first one is here. The second one is here. The third one is here. The fourth one is here."
    found = chunks(text, 16, 6)
    assert len(found) > 1
    for before, after in pairwise(found):
        assert after.text.startswith("The ")
        assert before.start < after.start < before.end < after.end


def test_positions_are_in_utf16_units() -> None:
    text = "🐈 purrs.\n\n" + "🐕 barks loudly at the 🐈 and the mailman. " * 4
    found = chunks(text)
    assert len(found) > 1
    assert all(at(text, chunk) == chunk.text for chunk in found)


@given(st.text(st.sampled_from("ab .!?\n#`🐈é。"), max_size=400), st.integers(16, 40), st.integers(0, 8))
def test_every_chunk_is_a_piece_of_the_text_that_fits_and_together_they_are_all_of_it(
    text: str, tokens: int, overlap: int
) -> None:
    found = chunks(text, tokens, overlap)
    covered = 0
    units = text.encode("utf-16-le")
    for index, chunk in enumerate(found):
        assert chunk.index == index
        assert at(text, chunk) == chunk.text
        assert chunk.tokens == count_by_characters(chunk.text) <= tokens
        # What lies between two of them is space alone.
        assert not units[2 * covered : 2 * max(covered, chunk.start)].decode("utf-16-le").strip()
        assert chunk.end > covered
        covered = chunk.end
    assert not units[2 * covered :].decode("utf-16-le").strip()
