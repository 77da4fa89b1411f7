"""What must hold for every log, whatever is in it."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.protocol.logs import CONVERSATION, EPOCH, conversations, texts

from turnwire_protocol import (
    JSON,
    MAX_SAFE_INTEGER,
    MSGPACK,
    Codec,
    ConversationFold,
    ConversationSnapshot,
    Entry,
    Message,
    encode_frame,
    event_from_wire,
    merge_entries,
    text_length,
    to_wire,
    utf16_cut,
    utf16_len,
)

RUNS = settings(max_examples=100, deadline=None)
codecs = st.sampled_from([JSON, MSGPACK])
NOBODY: frozenset[str] = frozenset()


def plain(entries: list[Entry]) -> ConversationFold:
    fold = ConversationFold(EPOCH)
    for entry in entries:
        fold.apply(entry.event)
    return fold


def received(codec: Codec, frame: bytes) -> list[dict[str, Any]]:
    return codec.decode(frame if codec.binary else frame.decode())  # type: ignore[return-value]


def pages(data: st.DataObject, entries: list[Entry]) -> list[list[Entry]]:
    """The entries in runs of any length, as flushes would cut them."""
    out = []
    while entries:
        size = data.draw(st.integers(1, len(entries)))
        out.append(entries[:size])
        entries = entries[size:]
    return out


def snapshot(fold: ConversationFold, messages: list[Message]) -> dict[str, Any]:
    return to_wire(
        ConversationSnapshot(
            conversation_id=CONVERSATION,
            epoch=fold.epoch,
            seq=fold.seq,
            messages=messages,
            active=[request.to_active() for request in fold.running()],
        )
    )


@RUNS
@given(entries=conversations(), codec=codecs, data=st.data())
def test_merged_frames_fold_to_the_same_as_single_events(
    entries: list[Entry], codec: Codec, data: st.DataObject
) -> None:
    fold, cursor = ConversationFold(EPOCH), 0
    for page in pages(data, entries):
        frame, cursor = encode_frame(codec, page, cursor)
        assert cursor == page[-1].seq
        fold.apply_frame([event_from_wire(message) for message in received(codec, frame)])
        assert fold.seq == cursor
    assert fold.view() == plain(entries).view()


@RUNS
@given(entries=conversations(), data=st.data())
def test_merging_again_gives_the_same_state(entries: list[Entry], data: st.DataObject) -> None:
    once = [merged for page in pages(data, entries) for merged in merge_entries(page)]
    twice = merge_entries(once)
    assert len(twice) <= len(once) <= len(entries)
    assert plain(twice).view() == plain(entries).view()


@RUNS
@given(entries=conversations(), data=st.data())
def test_a_snapshot_anywhere_and_the_rest_fold_to_the_whole(entries: list[Entry], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(entries)))
    first = plain(entries[:at])
    fold = ConversationFold.from_snapshot(snapshot(first, list(first.messages.values())))
    assert fold.view() == first.view()
    for entry in entries[at:]:
        fold.apply(entry.event)
    assert fold.view() == plain(entries).view()


@RUNS
@given(entries=conversations(branching=False), data=st.data())
def test_a_snapshot_of_the_branch_is_enough_when_there_is_one_branch(entries: list[Entry], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(entries)))
    first = plain(entries[:at])
    fold = ConversationFold.from_snapshot(snapshot(first, first.branch()))
    for entry in entries[at:]:
        fold.apply(entry.event)
    assert fold.view() == plain(entries).view()


@RUNS
@given(entries=conversations(all_end=True), codec=codecs, data=st.data())
def test_muted_frames_leave_no_gap_and_end_the_same(entries: list[Entry], codec: Codec, data: st.DataObject) -> None:
    requests = sorted({entry.request_id for entry in entries if entry.request_id})
    muted: set[str] = set()
    fold, cursor, waiting = ConversationFold(EPOCH), 0, []
    for page in pages(data, entries):
        muted |= data.draw(st.sets(st.sampled_from(requests)))
        # What a frame did not cover comes again with the next entries.
        waiting = [entry for entry in waiting + page if entry.seq > cursor]
        frame, cursor = encode_frame(codec, waiting, cursor, frozenset(muted))
        if not frame:
            continue
        messages = received(codec, frame)
        for message in messages:
            if message.get("request_id") in muted:
                shown = message["type"].startswith("tool.") and message["type"] != "tool.arguments.delta"
                assert shown or message.get("terminal") or message["type"] in ("usage.completed", "message.created")
        fold.apply_frame([event_from_wire(message) for message in messages])
        assert fold.seq == cursor
    # Every request has ended, and endings are never hidden.
    assert fold.view() == plain(entries).view()


@RUNS
@given(entries=conversations(), data=st.data())
def test_delivering_again_changes_nothing(entries: list[Entry], data: st.DataObject) -> None:
    fold = ConversationFold(EPOCH)
    for end in range(1, len(entries) + 1):
        start = data.draw(st.integers(0, end - 1))
        fold.apply_frame([entry.event for entry in entries[start:end]])
    assert fold.view() == plain(entries).view()


@RUNS
@given(entries=conversations(), codec=codecs)
def test_entries_survive_their_encoding(entries: list[Entry], codec: Codec) -> None:
    for entry in entries:
        stored = Entry(entry.seq, entry.ts, entry.body)
        assert (stored.type, stored.request_id) == (entry.type, entry.request_id)
        assert stored.event == entry.event
        (message,) = received(codec, codec.encode_entry(entry))
        assert event_from_wire(message) == entry.event  # type: ignore[arg-type]
        assert message == to_wire(entry.event)


@RUNS
@given(entries=conversations(all_end=True))
def test_what_was_streamed_is_what_the_ending_says(entries: list[Entry]) -> None:
    """The fold's own text, against the scripts' that stands in the terminal events."""
    fold = ConversationFold(EPOCH)
    for entry in entries:
        request = fold.active.get(entry.request_id or "")
        said = getattr(entry.event, "message", None)
        if request is not None and said is not None and getattr(entry.event, "terminal", False):
            assert request.message(said.status) == said
            assert request.partial.length == text_length(said.parts)
        fold.apply(entry.event)


wire_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
wire_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-MAX_SAFE_INTEGER, MAX_SAFE_INTEGER)
    | st.floats(allow_nan=False, allow_infinity=False)
    | wire_text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(wire_text, inner, max_size=4),
    max_leaves=20,
)
wire_messages = st.dictionaries(wire_text, wire_values, max_size=6)


@RUNS
@given(messages=st.lists(wire_messages, min_size=1, max_size=4), codec=codecs)
def test_every_message_round_trips(messages: list[dict[str, Any]], codec: Codec) -> None:
    frame = codec.join([codec.encode(message) for message in messages])
    assert received(codec, frame) == messages


@RUNS
@given(message=wire_messages)
def test_both_codecs_mean_the_same(message: dict[str, Any]) -> None:
    assert received(JSON, JSON.encode(message)) == received(MSGPACK, MSGPACK.encode(message))


@RUNS
@given(text=texts, offset=st.integers(-1, 40))
def test_utf16_offsets_never_lie_inside_a_pair(text: str, offset: int) -> None:
    kept = utf16_cut(text, offset)
    assert text.startswith(kept)
    assert utf16_len(kept) == len(kept.encode("utf-16-le")) // 2
    assert utf16_len(kept) in (max(0, min(offset, utf16_len(text))), offset - 1)
