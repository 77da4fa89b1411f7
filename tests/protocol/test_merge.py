"""Frames made of log entries: what is merged, what is hidden, what is covered."""

from __future__ import annotations

from typing import Any

import pytest

from turnwire_protocol import (
    JSON,
    MSGPACK,
    Entry,
    LocalProtocolError,
    LogEvent,
    MemberChanged,
    Message,
    MessageCancelled,
    MessageCreated,
    MessageStarted,
    OutputTextDelta,
    ReasoningDelta,
    StepStarted,
    ToolArgumentsDelta,
    ToolStarted,
    UsageCompleted,
    encode_frame,
    is_hidden,
    merge_entries,
)

R1 = frozenset({"r1"})


def text(offset: int, said: str, *, request: str = "r1", part: int = 0, kind: Any = OutputTextDelta) -> LogEvent:
    event: LogEvent = kind(conversation_id="c", request_id=request, part=part, offset=offset, text=said)
    return event


def arguments(offset: int, said: str, call: str = "k1") -> LogEvent:
    return ToolArgumentsDelta(conversation_id="c", request_id="r1", call_id=call, offset=offset, text=said)


def started(request: str = "r1") -> LogEvent:
    return StepStarted(conversation_id="c", request_id=request, step=1, attempt=1, deployment="d", model="m")


def tool() -> LogEvent:
    return ToolStarted(conversation_id="c", request_id="r1", call_id="k1", part=1, name="t", where="server")


def cancelled(request: str = "r1") -> LogEvent:
    return MessageCancelled(conversation_id="c", request_id=request, by="ann")


def log(*events: LogEvent, after: int = 0) -> list[Entry]:
    return [Entry.of(event, after + n, 1000 + n) for n, event in enumerate(events, 1)]


def spans(entries: list[Entry]) -> list[tuple[int, int, str | None]]:
    return [(entry.first_seq, entry.seq, getattr(entry.event, "text", None)) for entry in entries]


def test_neighbours_of_one_part_become_one() -> None:
    (merged,) = merge_entries(log(text(0, "a😀"), text(3, "日"), text(4, "b")))
    assert merged.event == OutputTextDelta(
        conversation_id="c", seq=3, ts=1003, from_seq=1, request_id="r1", part=0, offset=0, text="a😀日b"
    )


def test_tool_arguments_are_merged_by_call() -> None:
    merged = merge_entries(
        log(arguments(0, '{"a"'), arguments(4, ":1}"), arguments(0, "{", "k2"), arguments(1, "}", "k2"))
    )
    assert spans(merged) == [(1, 2, '{"a":1}'), (3, 4, "{}")]
    assert [entry.event.call_id for entry in merged] == ["k1", "k2"]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (text(0, "a"), text(0, "b", part=1)),
        (text(0, "a"), text(1, "b", kind=ReasoningDelta)),
        (text(0, "a"), text(1, "b", request="r2")),
        (text(0, "a"), text(2, "b")),
        (text(5, "a"), text(0, "b")),
        (text(0, "a"), arguments(1, "b")),
        (arguments(0, "a"), arguments(1, "b", "k2")),
    ],
)
def test_what_does_not_go_on_stays_apart(first: LogEvent, second: LogEvent) -> None:
    entries = log(first, second)
    assert merge_entries(entries) == entries


def test_nothing_is_merged_across_another_event() -> None:
    entries = log(text(0, "a"), started("r2"), text(1, "b"))
    assert merge_entries(entries) == entries


def test_entries_that_are_not_neighbours_stay_apart() -> None:
    entries = [*log(text(0, "a")), *log(text(1, "b"), after=4)]
    assert merge_entries(entries) == entries


def test_a_single_delta_is_sent_as_it_is() -> None:
    (entry,) = log(text(0, "a"))
    assert merge_entries([entry]) == [entry]
    assert entry.from_seq is None


def test_merged_deltas_can_be_merged_further() -> None:
    (first,) = merge_entries(log(text(0, "a"), text(1, "b")))
    (second,) = merge_entries(log(text(2, "c"), text(3, "d"), after=2))
    assert spans(merge_entries([first, second])) == [(1, 4, "abcd")]


def test_hidden_deltas_are_covered_by_the_next_event() -> None:
    merged = merge_entries(log(text(0, "a"), text(1, "b"), tool(), text(2, "c"), cancelled()), muted=R1)
    assert [(entry.first_seq, entry.seq, entry.type) for entry in merged] == [
        (1, 3, "tool.started"),
        (4, 5, "message.cancelled"),
    ]


def test_a_delta_of_another_request_covers_them_too_and_goes_on() -> None:
    other = [text(0, "x", request="r2"), text(1, "y", request="r2")]
    merged = merge_entries(log(text(0, "a"), *other, text(1, "b"), text(2, "z", request="r2")), muted=R1)
    assert spans(merged) == [(1, 3, "xy"), (4, 5, "z")]


def test_a_frame_ends_before_what_is_hidden_at_its_end() -> None:
    entries = log(tool(), text(0, "a"), text(1, "b"))
    frame, covered = encode_frame(JSON, entries, 0, R1)
    assert covered == 1
    assert JSON.decode(frame.decode())[0]["seq"] == 1  # type: ignore[index]
    rest = [*entries[1:], *log(cancelled(), after=3)]
    frame, covered = encode_frame(JSON, rest, covered, R1)
    assert covered == 4
    (message,) = JSON.decode(frame.decode())
    assert (message["from_seq"], message["seq"]) == (2, 4)  # type: ignore[index]


def test_a_frame_of_nothing_but_hidden_events_is_empty() -> None:
    assert encode_frame(JSON, log(text(0, "a"), started()), 0, R1) == (b"", 0)
    assert encode_frame(JSON, [], 7) == (b"", 7)


@pytest.mark.parametrize("after", [0, 2])
def test_entries_that_do_not_follow_the_cursor_are_refused(after: int) -> None:
    with pytest.raises(LocalProtocolError):
        encode_frame(JSON, log(text(0, "a"), after=1), after)


def test_a_hole_between_entries_is_refused() -> None:
    with pytest.raises(LocalProtocolError):
        encode_frame(JSON, [*log(text(0, "a")), *log(text(1, "b"), after=2)], 0)


def test_only_tool_usage_and_terminal_events_of_a_cancelled_request_are_shown() -> None:
    usage = UsageCompleted(
        conversation_id="c",
        request_id="r1",
        input_tokens=0,
        output_tokens=0,
        cached_tokens=0,
        cost_usd="0",
        source="provider",
    )
    member = MemberChanged(conversation_id="c", user_id="bob")
    begun = MessageStarted(conversation_id="c", request_id="r1", message_id="a")
    message = Message(message_id="u", request_id="r1", role="user", status="complete", created_at=0)
    created = MessageCreated(conversation_id="c", request_id="r1", message=message)
    shown = [tool(), usage, cancelled(), member, text(0, "x", request="r2"), created]
    hidden = [text(0, "x"), text(0, "x", kind=ReasoningDelta), arguments(0, "x"), started(), begun]
    for entry in log(*shown):
        assert not is_hidden(entry, R1)
    for entry in log(*hidden):
        assert is_hidden(entry, R1)
        assert is_hidden(Entry(entry.seq, entry.ts, entry.body), R1)


@pytest.mark.parametrize("codec", [JSON, MSGPACK])
def test_one_event_is_an_object_several_are_an_array(codec: Any) -> None:
    one, _ = encode_frame(codec, log(started()), 0)
    two, _ = encode_frame(codec, log(started(), text(0, "a")), 0)
    assert one == codec.encode_entry(log(started())[0])
    assert len(codec.decode(two if codec.binary else two.decode())) == 2
