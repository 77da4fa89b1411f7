"""Segments for one connection in one conversation (SPEC section 5): what it asked for, and where each answer is.

It takes the entries that the connection was just sent and gives the segments that follow from them, so they come behind
what they are made of. Pure but for the text of an answer that was begun before the connection came: who calls looks it
up (`unknown`) and hands it in. Connections that asked for nothing have none of this.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from turnwire_protocol import (
    TERMINAL_TYPES,
    ActiveRequest,
    ConversationSnapshot,
    Entry,
    Message,
    MessageInterrupted,
    OutputTextDelta,
    OutputTextSegment,
    Part,
    PartReset,
    Segments,
    TextPart,
    utf16_cut,
)

from .segmenter import Segment, Segmenter

_DELTA = "output_text.delta"


class Speech:
    """See the module."""

    __slots__ = ("_conversation_id", "_for_all", "_for_request", "_running")

    def __init__(self, conversation_id: str) -> None:
        self._conversation_id = conversation_id
        self._for_all: Segments | None = None
        self._for_request: dict[str, Segments] = {}
        self._running: dict[str, Segmenter] = {}

    def __repr__(self) -> str:
        return f"<Speech {self._conversation_id} running={len(self._running)}>"

    def ask(self, segments: Segments, request_id: str | None = None) -> None:
        """Segments are wanted: of this request, or of all that have none of their own."""
        if request_id is None:
            self._for_all = segments
        else:
            self._for_request[request_id] = segments
            self._running.pop(request_id, None)

    @property
    def is_over(self) -> bool:
        """Nothing is wanted any more."""
        return self._for_all is None and not self._for_request

    def _wanted(self, request_id: str) -> Segments | None:
        return self._for_request.get(request_id, self._for_all)

    # --- entries -----------------------------------------------------------------------------------------

    def unknown(self, entries: Iterable[Entry], muted: frozenset[str]) -> list[tuple[str, int, int]]:
        """Answers that were begun before these entries, and where (part, offset) they go on in them."""
        found: dict[str, tuple[int, int] | None] = {}
        for entry in entries:
            request_id = entry.request_id
            if request_id is None or request_id in self._running or request_id in found or request_id in muted:
                continue
            if entry.type == "message.created":
                found[request_id] = None
            elif entry.type == _DELTA and self._wanted(request_id) is not None:
                delta = entry.event
                assert isinstance(delta, OutputTextDelta), "by its type"
                found[request_id] = (delta.part, delta.offset) if delta.offset else None
        return [(request_id, *place) for request_id, place in found.items() if place is not None]

    def know(self, request_id: str, parts: Sequence[Part], part: int, offset: int) -> None:
        """An answer's text before that place has been given; its last sentence may lack its end, and comes whole."""
        wanted = self._wanted(request_id)
        if wanted is not None:
            segmenter = self._running[request_id] = Segmenter(wanted)
            for index, text in _texts(parts[: part + 1]):
                segmenter.add(index, 0, utf16_cut(text, offset) if index == part else text, 0.0)

    def take(self, entries: Iterable[Entry], muted: frozenset[str], now: float) -> list[OutputTextSegment]:
        """The segments that follow from entries that were sent."""
        out: list[OutputTextSegment] = []
        for entry in entries:
            request_id = entry.request_id
            if request_id is None or self._wanted(request_id) is None:
                continue
            if request_id in muted:
                self._running.pop(request_id, None)
            else:
                out += self._named(request_id, self._take(request_id, entry, now))
            if entry.type in TERMINAL_TYPES:
                self._running.pop(request_id, None)
                self._for_request.pop(request_id, None)
        return out

    def _take(self, request_id: str, entry: Entry, now: float) -> list[Segment]:
        kind = entry.type
        segmenter = self._running.get(request_id)
        if kind == _DELTA:
            delta = entry.event
            assert isinstance(delta, OutputTextDelta), "by its type"
            return self._segmenter(request_id).add(delta.part, delta.offset, delta.text, now)
        if segmenter is None:
            if kind == "message.created":
                self._segmenter(request_id)
            return []
        if kind == "part.reset":
            reset = entry.event
            assert isinstance(reset, PartReset), "by its type"
            segmenter.reset(reset.part, reset.offset)
        elif kind == "tool.started" or kind == "steer.applied":
            return segmenter.close()
        elif kind in TERMINAL_TYPES:
            # What was not presented of an interrupted answer is in it no more.
            return segmenter.finish(keep=not isinstance(entry.event, MessageInterrupted))
        return []

    def _segmenter(self, request_id: str) -> Segmenter:
        wanted = self._wanted(request_id)
        assert wanted is not None, "asked before"
        return self._running.setdefault(request_id, Segmenter(wanted))

    # --- snapshots ---------------------------------------------------------------------------------------

    def replaced(self, snapshot: ConversationSnapshot, muted: frozenset[str], now: float) -> list[OutputTextSegment]:
        """A snapshot was sent: answers go on where they were given, others where the snapshot leaves them."""
        out: list[OutputTextSegment] = []
        before, self._running = self._running, {}
        for request in snapshot.active:
            if request.request_id not in muted and self._wanted(request.request_id) is not None:
                out += self._named(request.request_id, self._go_on(request, before.get(request.request_id), now))
        live = {request.request_id for request in snapshot.active}
        answers = {message.request_id: message for message in snapshot.messages if message.role == "assistant"}
        for request_id in (before.keys() | self._for_request.keys()) - live:
            # It has ended unseen.
            segmenter, answer = before.get(request_id), answers.get(request_id)
            if segmenter is not None and answer is not None and request_id not in muted:
                caught_up = _caught_up(segmenter, answer, now)
                out += self._named(request_id, [*caught_up, *segmenter.finish()])
            if answer is not None:
                self._for_request.pop(request_id, None)
        return out

    def _go_on(self, request: ActiveRequest, segmenter: Segmenter | None, now: float) -> list[Segment]:
        if segmenter is not None and request.message is not None:
            self._running[request.request_id] = segmenter
            return _caught_up(segmenter, request.message, now)
        texts = [] if request.message is None else _texts(request.message.parts)
        part, text = texts[-1] if texts else (0, "")
        self.know(request.request_id, [] if request.message is None else request.message.parts, part, 2 * len(text))
        return []

    # --- time --------------------------------------------------------------------------------------------

    @property
    def hold_until(self) -> float | None:
        """When to call `release`."""
        return min((at for s in self._running.values() if (at := s.hold_until) is not None), default=None)

    def release(self, muted: frozenset[str], now: float) -> list[OutputTextSegment]:
        """What has been held for too long."""
        for request_id in muted & self._running.keys():
            del self._running[request_id]
        return [one for name, s in self._running.items() for one in self._named(name, s.release(now))]

    def _named(self, request_id: str, segments: Iterable[Segment]) -> list[OutputTextSegment]:
        return [
            OutputTextSegment(
                conversation_id=self._conversation_id,
                request_id=request_id,
                part=segment.part,
                start=segment.start,
                end=segment.end,
                text=segment.text,
                last=segment.last,
            )
            for segment in segments
        ]


def _texts(parts: Sequence[Part]) -> list[tuple[int, str]]:
    return [(index, part.text) for index, part in enumerate(parts) if isinstance(part, TextPart)]


def _caught_up(segmenter: Segmenter, answer: Message, now: float) -> list[Segment]:
    """The segments of what an answer has become meanwhile."""
    texts = dict(_texts(answer.parts))
    begin = segmenter.part
    if begin is not None:
        # Where a reset was not seen, all of the part is new.
        segmenter.reset(begin, segmenter.start if segmenter.has_given(texts.get(begin, "")) else 0)
    out: list[Segment] = []
    for index, text in texts.items():
        if begin is None or index >= begin:
            out += segmenter.go_on(index, text, now)
    return out
