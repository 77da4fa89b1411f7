"""Log entries and their stored bodies."""

from __future__ import annotations

import orjson
import pytest

from turnwire_protocol import (
    JSON,
    MSGPACK,
    Entry,
    LogEvent,
    MemberChanged,
    OutputTextDelta,
    ReasoningDelta,
    SteerApplied,
    ToolCalled,
    UnknownEvent,
    encode_body,
)

DELTA = OutputTextDelta(conversation_id="c", request_id="r", part=1, offset=2, text='"é😀\u2028\x00')


def test_body_of_a_delta_is_its_fields_without_place() -> None:
    assert orjson.loads(encode_body(DELTA)) == {
        "type": "output_text.delta",
        "conversation_id": "c",
        "request_id": "r",
        "part": 1,
        "offset": 2,
        "text": '"é😀\u2028\x00',
    }


@pytest.mark.parametrize(
    "event",
    [
        DELTA,
        ReasoningDelta(conversation_id="c", request_id="r", part=0, offset=0, text="x"),
        ToolCalled(conversation_id="c", request_id="r", call_id="k", where="mcp", arguments={"a": None, "type": "x"}),
        SteerApplied(conversation_id="c", request_id="r", from_="r2"),
        MemberChanged(conversation_id="c", user_id="u"),
    ],
)
def test_stored_body_gives_the_event_back(event: LogEvent) -> None:
    entry = Entry.of(event, 7, 1000)
    assert (event.seq, event.ts) == (7, 1000)
    stored = Entry(7, 1000, entry.body)
    assert stored.type == event.type
    assert stored.request_id == getattr(event, "request_id", None)
    assert stored.event == event
    assert stored.event is stored.event
    assert stored.type == event.type
    for name in (b'"seq"', b'"ts"', b'"from_seq"'):
        assert name not in entry.body


def test_event_of_a_later_version_is_kept_as_it_is() -> None:
    body = b'{"type":"message.sparkled","conversation_id":"c","request_id":"r","glitter":3}'
    entry = Entry(5, 9, body)
    assert (entry.type, entry.request_id) == ("message.sparkled", "r")
    assert isinstance(entry.event, UnknownEvent)
    assert entry.event.seq == 5
    assert JSON.decode(JSON.encode_entry(entry).decode()) == [{"seq": 5, "ts": 9, **orjson.loads(body)}]


def test_json_encoding_puts_the_place_before_the_stored_bytes() -> None:
    entry = Entry.of(DELTA, 7, 1000)
    assert JSON.encode_entry(entry) == b'{"seq":7,"ts":1000,' + entry.body[1:]
    assert JSON.encode_entry(entry, 5) == b'{"seq":7,"ts":1000,"from_seq":5,' + entry.body[1:]


@pytest.mark.parametrize("from_seq", [None, 7])
def test_from_seq_is_left_out_where_it_says_nothing(from_seq: int | None) -> None:
    entry = Entry.of(DELTA, 7, 1000)
    for codec in (JSON, MSGPACK):
        data = codec.encode_entry(entry, from_seq)
        (message,) = codec.decode(data if codec.binary else data.decode())
        assert "from_seq" not in message
        assert message["seq"] == 7  # type: ignore[index]


def test_from_seq_of_the_entry_itself_is_encoded() -> None:
    entry = Entry(7, 1000, encode_body(DELTA), 3)
    assert entry.first_seq == 3
    assert entry.event.from_seq == 3
    for codec in (JSON, MSGPACK):
        data = codec.encode_entry(entry)
        (message,) = codec.decode(data if codec.binary else data.decode())
        assert message["from_seq"] == 3  # type: ignore[index]
