"""Making one frame for a follower out of the entries after its cursor (SPEC section 3, reading rules).

Neighbouring deltas of one part become one delta, so that a follower that fell behind catches up with few
messages. Of muted requests (after the `ack` of a cancel) only tool, usage and terminal events are shown; the
event that comes next says with `from_seq` that it covers what was left out: over the frame no seq is missing.
Pure functions over entries; who has to be sent what is decided above.
"""

from __future__ import annotations

from collections.abc import Sequence

from turnwire_protocol.codec import Codec
from turnwire_protocol.entry import Entry, encode_body
from turnwire_protocol.events import (
    DELTA_TYPES,
    TERMINAL_TYPES,
    Delta,
    OutputTextDelta,
    ReasoningDelta,
    ToolArgumentsDelta,
)
from turnwire_protocol.exceptions import LocalProtocolError
from turnwire_protocol.utf16 import utf16_len

_NOBODY: frozenset[str] = frozenset()
# `message.created` comes to a muted request only when it was cancelled before it was created: without it the
# ending would be that of an unknown request.
_ALWAYS_SHOWN = TERMINAL_TYPES | {"usage.completed", "message.created"}


def is_hidden(entry: Entry, muted: frozenset[str]) -> bool:
    """Is `entry` left out for a connection that has cancelled the requests `muted`?"""
    if entry.request_id not in muted:
        return False
    kind = entry.type
    return kind not in _ALWAYS_SHOWN and (kind in DELTA_TYPES or not kind.startswith("tool."))


def merge_entries(entries: Sequence[Entry], *, muted: frozenset[str] = _NOBODY) -> list[Entry]:
    """The entries of one frame: merged where they may be, without what `muted` requests hide.

    An entry that stands for several has `from_seq`. What is hidden at the very end is covered by nothing: the
    last entry's `seq` is then below the last one given.
    """
    out: list[Entry] = []
    run: _Run | None = None
    uncovered: int | None = None  # the first hidden seq that no entry covers yet
    for entry in entries:
        if run is not None:
            if run.takes(entry):
                run.add(entry)
                continue
            out.append(run.close())
            run = None
        if muted and is_hidden(entry, muted):
            uncovered = entry.first_seq if uncovered is None else uncovered
            continue
        if entry.type in DELTA_TYPES:
            run = _Run(entry, uncovered)
        else:
            out.append(entry if uncovered is None else _covering(entry, uncovered))
        uncovered = None
    if run is not None:
        out.append(run.close())
    return out


def encode_frame(
    codec: Codec, entries: Sequence[Entry], after: int, muted: frozenset[str] = _NOBODY
) -> tuple[bytes, int]:
    """The frame that takes a follower on from seq `after`, and the seq it takes it to.

    The entries must follow `after` without a hole. The frame is empty (`b""`, and the seq is `after`) when
    there is nothing to show; it ends earlier than the entries when the last of them are hidden. Give
    the next call the seq returned here and the entries after it.
    """
    expected = after + 1
    for entry in entries:
        if entry.first_seq != expected:
            raise LocalProtocolError(f"entry {entry.first_seq} does not follow {expected - 1}")
        expected = entry.seq + 1
    merged = merge_entries(entries, muted=muted)
    if not merged:
        return b"", after
    return codec.join([codec.encode_entry(entry) for entry in merged]), merged[-1].seq


def _covering(entry: Entry, from_seq: int) -> Entry:
    """The same event, standing for the seqs from `from_seq` on."""
    return Entry(entry.seq, entry.ts, entry.body, from_seq)


class _Run:
    """Deltas of one part, one after the other."""

    __slots__ = ("_end", "_entries", "_first", "_from_seq", "_last_seq")

    def __init__(self, entry: Entry, uncovered: int | None) -> None:
        self._entries = [entry]
        self._from_seq = entry.first_seq if uncovered is None else uncovered
        self._last_seq = entry.seq
        # Decoded only once a neighbour comes: a delta that stays alone is sent as it is.
        self._first: Delta | None = None
        self._end = 0

    def takes(self, entry: Entry) -> bool:
        first_entry = self._entries[0]
        if (
            entry.first_seq != self._last_seq + 1
            or entry.type != first_entry.type
            or entry.request_id != first_entry.request_id
        ):
            return False
        if self._first is None:
            self._first = _delta(first_entry)
            self._end = self._first.offset + utf16_len(self._first.text)
        delta = _delta(entry)
        return _part(delta) == _part(self._first) and delta.offset == self._end

    def add(self, entry: Entry) -> None:
        self._entries.append(entry)
        self._last_seq = entry.seq
        self._end += utf16_len(_delta(entry).text)

    def close(self) -> Entry:
        last = self._entries[-1]
        if len(self._entries) == 1:
            return last if self._from_seq == last.first_seq else _covering(last, self._from_seq)
        assert self._first is not None  # `takes` has decoded it
        text = "".join([_delta(entry).text for entry in self._entries])
        return Entry(last.seq, last.ts, encode_body(_with_text(self._first, text)), self._from_seq)


def _delta(entry: Entry) -> Delta:
    event = entry.event
    assert isinstance(event, OutputTextDelta | ReasoningDelta | ToolArgumentsDelta)  # by its type
    return event


def _part(delta: Delta) -> int | str:
    return delta.call_id if isinstance(delta, ToolArgumentsDelta) else delta.part


def _with_text(first: Delta, text: str) -> Delta:
    if isinstance(first, ToolArgumentsDelta):
        return ToolArgumentsDelta(
            conversation_id=first.conversation_id,
            request_id=first.request_id,
            call_id=first.call_id,
            offset=first.offset,
            text=text,
        )
    return type(first)(
        conversation_id=first.conversation_id,
        request_id=first.request_id,
        part=first.part,
        offset=first.offset,
        text=text,
    )
