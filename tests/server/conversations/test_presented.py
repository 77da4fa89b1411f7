"""Where an answer stands for its user: reported places, transcripts that are not quite the text, and the cut."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnwire_protocol import Message, ReasoningPart, Steered, TextPart, ToolCallPart, utf16_len
from turnwire_server.conversations.presented import Place, clamped, cut, end_of, length, place_of_text

CALL = ToolCallPart(call_id="c", name="look", where="server", arguments={}, state="completed", output=1)


def _answer(*parts: Any, **fields: Any) -> Message:
    texts = [TextPart(text=part) if isinstance(part, str) else part for part in parts]
    return Message(
        message_id="a", request_id="r", role="assistant", parts=texts, status="complete", created_at=1, **fields
    )


def _heard(answer: Message, said: str) -> str:
    shown = cut(answer, place_of_text(answer.parts, said))
    return "|".join(part.text for part in shown.parts if isinstance(part, TextPart))


@pytest.mark.parametrize(
    ("text", "said", "heard"),
    [
        ("One two three.", "one two", "One two"),
        ("One two three.", "one two three", "One two three."),
        ("One two three.", "", ""),
        ("One two three.", "something else entirely", ""),
        ("One  two\n\nthree.", "one two three", "One  two\n\nthree."),
        ("**One** _two_ `three`", "one two", "**One** _two"),
        ("It costs 42 dollars today.", "it costs forty two dollars", "It costs 42 dollars"),
        ("In 2024 we met.", "in twenty twenty four we", "In 2024 we"),
        ("Caf\u00e9 cre\u0301me, please.", "cafe creme", "Caf\u00e9 cre\u0301me,"),
        ("It\u2019s fine, isn\u2019t it?", "it's fine isn't it", "It\u2019s fine, isn\u2019t it?"),
        ("- first\n- second\n- third", "first second", "- first\n- second"),
        ("Yes 😀 no.", "yes no", "Yes 😀 no."),
        ("Привет, мир. Дальше.", "привет мир", "Привет, мир."),
    ],
)
def test_a_transcript_finds_its_place(text: str, said: str, heard: str) -> None:
    assert _heard(_answer(text), said) == heard


def test_a_transcript_goes_on_over_parts() -> None:
    answer = _answer("One two.", CALL, "Three four.")
    assert _heard(answer, "one two three") == "One two.|Three"
    assert [part.kind for part in cut(answer, place_of_text(answer.parts, "one")).parts] == ["text", "tool_call"]


@given(st.text(), st.text())
def test_any_text_is_a_place_and_never_an_error(text: str, said: str) -> None:
    answer = _answer(text)
    place = place_of_text(answer.parts, said)
    assert Place() <= place <= end_of(answer.parts)
    assert clamped(answer.parts, place) == place


@given(st.text(alphabet="ab é😀.", max_size=20), st.integers(0, 30))
def test_a_reported_place_is_clamped_and_cuts_no_pair(text: str, offset: int) -> None:
    answer = _answer(text)
    place = clamped(answer.parts, Place(0, offset))
    shown = "".join(part.text for part in cut(answer, place).parts if isinstance(part, TextPart))
    assert text.startswith(shown)
    assert utf16_len(shown) == place.offset == length(answer.parts, place)
    assert min(offset, utf16_len(text)) - place.offset in (0, 1)


@given(st.tuples(st.integers(0, 2**30), st.integers(0, 2**40)), st.tuples(st.integers(0, 2**30), st.integers(0, 2**40)))
def test_the_number_that_is_kept_grows_with_the_place(one: tuple[int, int], two: tuple[int, int]) -> None:
    first, second = Place.reported(*one), Place.reported(*two)
    assert Place.decode(first.encode()) == first
    assert (first < second) == (first.encode() < second.encode())
    assert 0 < first.encode() <= 2**53


def test_lengths_count_text_alone() -> None:
    answer = _answer("One 😀", ReasoningPart(text="hmm"), CALL, "two")
    assert length(answer.parts) == 9
    assert length(answer.parts, Place(3, 2)) == 8
    assert length(answer.parts, Place(2, 0)) == 6


def test_what_was_folded_in_keeps_its_place_among_the_parts() -> None:
    steered = [Steered(part=1, request_id="r1"), Steered(part=3, request_id="r2")]
    answer = _answer("One", CALL, "two", "three", steered=steered)
    shown = cut(answer, Place(2, 0))
    assert [part.kind for part in shown.parts] == ["text", "tool_call"]
    assert [(steered.part, steered.request_id) for steered in shown.steered or ()] == [(1, "r1"), (2, "r2")]
