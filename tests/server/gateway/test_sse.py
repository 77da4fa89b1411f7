"""The splitter of server-sent events: the same events wherever the bytes are cut."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnwire_server.gateway.sse import EventTooLarge, SSESplitter

STREAM = (
    "\ufeff: a comment\n"
    "data: one\n\n"
    "event: message\r\nid: 7\r\ndata: two\r\n\r\n"
    "data:no space\r\r"
    "data:  two spaces\n\n"
    "data: first\ndata: second\n: between\ndata:\ndata\n\n"
    "retry: 100\n\n\n\n"
    "datum: not data\n\n"
    "data: é漢😀\n\n"
    "data: [DONE]\n\n"
).encode()
EVENTS = ["one", "two", "no space", " two spaces", "first\nsecond\n\n", "é漢😀", "[DONE]"]


def split(*chunks: bytes) -> list[str]:
    splitter = SSESplitter()
    events = [event for chunk in chunks for event in splitter.feed(chunk)]
    assert splitter.end() is None
    return [event.decode() for event in events]


def test_a_whole_stream_is_split() -> None:
    assert split(STREAM) == EVENTS


def test_a_cut_at_any_byte_changes_nothing() -> None:
    for cut in range(len(STREAM) + 1):
        assert split(STREAM[:cut], STREAM[cut:]) == EVENTS, f"cut at {cut}"


def test_single_bytes_change_nothing() -> None:
    assert split(*(STREAM[n : n + 1] for n in range(len(STREAM)))) == EVENTS


@given(st.lists(st.integers(0, len(STREAM)), max_size=30))
def test_any_set_of_cuts_changes_nothing(cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(STREAM)]
    assert split(*(STREAM[a:b] for a, b in itertools.pairwise(places))) == EVENTS


@given(
    st.lists(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\n")), min_size=1), max_size=5),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.data(),
)
def test_what_is_written_is_read(events: list[list[str]], newline: str, data: st.DataObject) -> None:
    stream = "".join("".join(f"data: {line}{newline}" for line in event) + newline for event in events).encode()
    cut = data.draw(st.integers(0, len(stream)))
    assert split(stream[:cut], stream[cut:]) == ["\n".join(event) for event in events]


def test_an_event_is_given_as_soon_as_its_blank_line_is_there() -> None:
    splitter = SSESplitter()
    assert splitter.feed(b"data: a\n") == []
    assert splitter.feed(b"\n") == [b"a"]
    assert splitter.feed(b"data: b\r\n\r") == [b"b"]
    assert splitter.feed(b"\ndata: c\r\r") == [b"c"]


@pytest.mark.parametrize("rest", [b"data: last\n", b"data: last", b"data: last\r"])
def test_an_event_without_its_blank_line_is_given_at_the_end(rest: bytes) -> None:
    splitter = SSESplitter()
    assert splitter.feed(rest) == []
    assert splitter.end() == b"last"


@pytest.mark.parametrize("piece", [b"x" * 50, b"data: " + b"x" * 40 + b"\n"])
def test_an_endless_event_is_refused(piece: bytes) -> None:
    splitter = SSESplitter(max_event_bytes=1000)
    with pytest.raises(EventTooLarge):
        for _ in range(100):
            splitter.feed(piece)
