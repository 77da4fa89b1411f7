"""Sentences and clauses out of text that grows. Pure: text and the time go in."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from turnwire_protocol import Segments, utf16_cut, utf16_len
from turnwire_server.transport.segmenter import LONGEST, Segment, Segmenter


def wanted(unit: str = "sentence", first: int | None = None, hold: int | None = None) -> Segments:
    return Segments(unit=unit, first_min_chars=first, max_hold_ms=hold)  # type: ignore[arg-type]


def split(text: str, *cuts: int, options: Segments | None = None, part: int = 0) -> list[Segment]:
    """All segments of a text that comes in pieces."""
    segmenter = Segmenter(options or wanted())
    out: list[Segment] = []
    for begin, end in zip((0, *cuts), (*cuts, len(text)), strict=True):
        out += segmenter.add(part, utf16_len(text[:begin]), text[begin:end], 0.0)
    return out + segmenter.finish()


def said(text: str, options: Segments | None = None) -> list[str]:
    return [segment.text for segment in split(text, options=options)]


@pytest.mark.parametrize(
    "sentences",
    [
        ["Hello there. ", "How are you? ", "Fine!"],
        ["No. ", "I said no. ", "See no. 5 in vol. 3, etc. ", "On Oct. 5 it was. ", "Then Oct. ", "Over."],
        ["Dr. Smith and Mrs. Jones met at 3.14 p.m. yesterday. ", "They left."],
        ["It costs 1,234.56 dollars, i.e. a lot. ", "Really."],
        ["See https://example.com/a.b?c=d. ", "Or not."],
        ["J. R. R. Tolkien wrote it in the U.S. and elsewhere. ", "So do I. ", "Good."],
        ["Wait... what? ", "Well... ", "Never mind… ", "Go on."],
        ["He thought… and then left. ", "She stayed."],
        ['"Really?" she asked. ', '"Yes." ', "He nodded."],
        ["1. First do this.\n", "2. Then do that.\n", "3. Done."],
        ["- 10. October is a day.\n", "\n* Another. "[1:], "One more."],
        ["**Bold claim.** ", "It continues (like this.) ", "End."],
        ["A title\n\n", "A paragraph begins. ", "It ends."],
        ["Das sind z.B. drei, d.h. viele, bzw. Nr. 5 usw. und so fort. ", "Ende."],
        ["Это г. Москва, т.е. столица. ", "Да!"],
        ["これは文です。", "「そうですか？」", "はい！"],
        ["你好。", "今天天气很好！", "对吧？"],
        ["Version 2.0.1 is out. ", "Get file.txt now. ", "Bye"],
        ["¿Qué tal? ", "¡Muy bien! ", "Adiós."],
        ["no capitals here. none at all? ", "still none! ", "yes"],
        ["   Leading space. ", "Then more."],
        ["In 1990. ", "Then."],
        ["One 😀. ", "Two 👩‍👩‍👧!"],
    ],
)
def test_sentences_stay_whole(sentences: list[str]) -> None:
    assert said("".join(sentences)) == sentences


@pytest.mark.parametrize(
    "clauses",
    [
        ["When it rains, ", "we stay inside; ", "otherwise we go: ", "that is all."],
        ["Yes, of course, ", "at 10:30 with 1,000 people."],
        ["下雨的时候我们，", "就在家里待着。", "好的"],
        ["A dash — ", "then more words – ", "and an end."],
    ],
)
def test_clauses_end_at_their_marks(clauses: list[str]) -> None:
    assert said("".join(clauses), wanted("clause")) == clauses


def test_the_first_one_may_end_with_a_clause_and_has_so_many_characters() -> None:
    text = "Yes. As far as I know, it rains, often. It does."
    assert said(text) == ["Yes. ", "As far as I know, it rains, often. ", "It does."]
    assert said(text, wanted(first=10)) == ["Yes. As far as I know, ", "it rains, often. ", "It does."]
    assert said(text, wanted(first=4)) == ["Yes. ", "As far as I know, it rains, often. ", "It does."]
    assert said("Short.", wanted(first=100)) == ["Short."]


def test_what_is_too_long_is_cut_at_clauses_words_or_anywhere() -> None:
    words = "word " * 300
    assert all(LONGEST - 5 <= len(piece) <= LONGEST for piece in said(words)[:-1])
    assert all(piece.endswith(" ") for piece in said(words))
    assert said("x" * 1500)[0] == "x" * LONGEST
    flags = "👩\u200d👩\u200d👧" * 300
    assert all(not piece.startswith("\u200d") and not piece.endswith("\u200d") for piece in said(flags))
    clauses = ("so it goes on and on " * 20)[:350] + ", " + "and on " * 100
    assert said(clauses)[0].endswith(", ")


def test_one_large_chunk_is_split_like_any_other() -> None:
    text = "A sentence of some length, as they are. " * 5000
    pieces = said(text)
    assert len(pieces) == 5000
    assert "".join(pieces) == text


def test_the_end_is_marked_once_also_when_nothing_is_left() -> None:
    assert [s.last for s in split("One. Two. ")] == [False, True]
    segmenter = Segmenter(wanted())
    segmenter.add(0, 0, "One.", 0)
    assert [s.text for s in segmenter.close()] == ["One."]
    assert segmenter.finish() == [Segment(0, 4, 4, "", last=True)]
    assert Segmenter(wanted()).finish() == []


def test_what_follows_in_another_part_ends_the_one_before() -> None:
    segmenter = Segmenter(wanted())
    assert segmenter.add(0, 0, "Let me look", 0) == []
    assert segmenter.add(2, 0, "Found. I", 0) == [Segment(0, 0, 11, "Let me look"), Segment(2, 0, 7, "Found. ")]
    assert segmenter.finish() == [Segment(2, 7, 8, "I", last=True)]


@pytest.mark.parametrize("piece", [" ", ".", "\n", "! ", "x", ",", "1. ", "“", "。", "*"])
def test_a_large_chunk_of_anything_takes_no_long_time(piece: str) -> None:
    text = "a. " + piece * 200_000 + "b"
    began = time.process_time()
    assert "".join(said(text, wanted("clause", 5))) == text
    assert time.process_time() - began < 5


# --- holding -----------------------------------------------------------------------------------------------


def test_what_is_held_too_long_comes_as_far_as_its_words_are_whole() -> None:
    segmenter = Segmenter(wanted(hold=200))
    assert segmenter.add(0, 0, "So we ", 10.0) == []
    assert segmenter.hold_until == 10.2
    assert segmenter.add(0, 6, "go", 10.1) == []
    assert segmenter.release(10.15) == []
    assert segmenter.release(10.2) == [Segment(0, 0, 6, "So we ")]
    assert segmenter.release(10.41) == []  # half a word
    assert segmenter.hold_until is None
    assert segmenter.add(0, 8, "ing there", 10.5) == [Segment(0, 6, 12, "going ")]
    assert segmenter.finish() == [Segment(0, 12, 17, "there", last=True)]


def test_text_without_spaces_is_held_no_longer_either() -> None:
    segmenter = Segmenter(wanted(hold=100))
    segmenter.add(0, 0, "今天天气", 0.0)
    assert segmenter.release(0.1) == [Segment(0, 0, 3, "今天天")]


def test_without_a_limit_nothing_is_released() -> None:
    segmenter = Segmenter(wanted())
    segmenter.add(0, 0, "So we go ", 0.0)
    assert segmenter.hold_until is None
    assert segmenter.release(1e9) == []


# --- resets ------------------------------------------------------------------------------------------------


def test_a_reset_of_what_was_not_given_yet_gives_nothing_twice() -> None:
    segmenter = Segmenter(wanted())
    assert [s.text for s in segmenter.add(0, 0, "One. Two thr", 0)] == ["One. "]
    segmenter.reset(0, 8)
    assert segmenter.add(0, 8, " is. E", 0) == [Segment(0, 5, 13, "Two is. ")]


def test_a_reset_of_what_was_given_begins_there_anew() -> None:
    segmenter = Segmenter(wanted(first=3))
    segmenter.add(0, 0, "One. Two. Three", 0)
    segmenter.reset(0, 6)
    assert segmenter.start == 6
    assert segmenter.add(0, 6, "ea. N", 0) == [Segment(0, 6, 10, "ea. ")]
    segmenter.reset(0, 0)
    assert [s.text for s in segmenter.add(0, 0, "Un. D", 0)] == ["Un. "]


def test_a_reset_of_an_earlier_part_drops_the_later() -> None:
    segmenter = Segmenter(wanted())
    segmenter.add(0, 0, "One. Two", 0)
    segmenter.add(2, 0, "Three. Four", 0)
    segmenter.reset(0, 0)
    assert segmenter.add(0, 0, "Five. S", 0) == [Segment(0, 0, 6, "Five. ")]
    segmenter.reset(4, 0)
    assert segmenter.finish() == [Segment(0, 6, 7, "S", last=True)]


# --- whatever the text -------------------------------------------------------------------------------------

PIECES = [
    *"aZ .!?…,;:\n\"')(*-–—。！？，、「」日本ж9",
    "Dr. ",
    "e.g. ",
    "1. ",
    "...",
    "https://a.b/c. ",
    "Word ",
    "😀",
    "e\u0301",
    "👩\u200d👧",
    "\u00a0",
    "\u2028",
]
texts = st.lists(st.sampled_from(PIECES), max_size=80).map("".join)
options = st.builds(wanted, st.sampled_from(["sentence", "clause"]), st.sampled_from([None, 1, 7, 40]), st.just(None))


@settings(max_examples=300, deadline=None)
@given(text=texts, asked=options, data=st.data())
def test_segments_tile_the_text_and_do_not_depend_on_the_chunks(
    text: str, asked: Segments, data: st.DataObject
) -> None:
    whole = split(text, options=asked)
    assert "".join(segment.text for segment in whole) == text
    at = 0
    for segment in whole:
        assert (segment.start, segment.end) == (at, at + utf16_len(segment.text))
        at = segment.end
    assert [segment.last for segment in whole] == [False] * (len(whole) - 1) + [True]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=20)))
    assert split(text, *cuts, options=asked) == whole
    assert split(text, *range(len(text)), options=asked) == whole


@pytest.mark.parametrize("seed", range(100))
def test_with_holds_and_resets_they_still_tile(seed: int) -> None:
    """What is left of all segments, with what each reset makes void, is the text."""
    rng = random.Random(seed)
    segmenter = Segmenter(wanted(rng.choice(["sentence", "clause"]), rng.choice([None, 5]), rng.choice([None, 100])))
    text, have, now = "", [], 0.0
    for _ in range(200):
        now += rng.random() * 0.1
        match rng.randrange(10):
            case 0:
                at = rng.randrange(utf16_len(text) + 1)
                text = utf16_cut(text, at)
                at = utf16_len(text)
                segmenter.reset(0, at)
                have = [(start, utf16_cut(said, at - start)) for start, said in have if start < at]
            case 1 | 2:
                have += [(segment.start, segment.text) for segment in segmenter.release(now)]
            case _:
                piece = rng.choice(PIECES)
                have += [(s.start, s.text) for s in segmenter.add(0, utf16_len(text), piece, now)]
                text += piece
        assert text.startswith("".join(said for _, said in have))
    have += [(segment.start, segment.text) for segment in segmenter.finish()]
    assert "".join(said for _, said in have) == text
