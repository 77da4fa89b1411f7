"""Events of one turn that wait for the log: deltas of one part melt into one. Pure.

Offsets count UTF-16 code units and never fall inside a surrogate pair: a piece that ends in half a pair keeps the
half back until the other half comes; a half that stays alone becomes U+FFFD, as it could not be sent.
"""

from __future__ import annotations

from turnwire_protocol import OutputTextDelta, PartialMessage, ReasoningDelta, RequestEvent, utf16_len

# A delta is not merged beyond this, so that an event stays far below `limits.event_bytes` in any encoding.
_DELTA_CHARS = 16_384

DeltaType = type[OutputTextDelta] | type[ReasoningDelta]
_KINDS: dict[DeltaType, str] = {OutputTextDelta: "text", ReasoningDelta: "reasoning"}


def join_surrogates(text: str) -> tuple[str, str]:
    """``text`` with its surrogate pairs joined, and the half pair it ended in (or nothing).

    >>> join_surrogates("a\\ud83d")
    ('a', '\\ud83d')
    """
    held = ""
    if "\ud800" <= text[-1] <= "\udbff":
        text, held = text[:-1], text[-1]
    try:
        text.encode()
    except UnicodeEncodeError:
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text, held


class DeltaBuffer:
    """What a turn has said since its last append, in order."""

    def __init__(self, conversation_id: str, request_id: str, partial: PartialMessage) -> None:
        self._conversation_id = conversation_id
        self._request_id = request_id
        self._lengths = [part.length for part in partial.parts]
        self._kinds = [getattr(part, "kind", "tool_call") for part in partial.parts]
        self._held = ""
        # What it was a half of: it may be the beginning of a part that there is not yet.
        self._held_kind: DeltaType = OutputTextDelta
        self._events: list[RequestEvent] = []
        self._texts: list[str] = []  # of the last event, when that is a delta that may still grow
        self._growing: OutputTextDelta | ReasoningDelta | None = None
        self._growing_chars = 0
        self._begins_part = False
        self.pending_chars = 0

    def __len__(self) -> int:
        return len(self._events)

    @property
    def parts(self) -> int:
        """How many parts the message has, counting those that wait here."""
        return len(self._kinds)

    def add_text(self, kind: DeltaType, text: str) -> None:
        """Text at the end of the message: in its last part when that is of this kind, else in a new one."""
        if not self._held and text.isascii():
            if text:
                self._append(kind, text)
            return
        if self._held and self._held_kind is not kind:
            self.end_part()
        if text:
            text, self._held = join_surrogates(self._held + text)
            self._held_kind = kind
        if text:
            self._append(kind, text)

    def end_part(self) -> None:
        """The last part is complete: half a pair that was held back stays alone."""
        held, self._held = self._held, ""
        if held:
            self._append(self._held_kind, "\ufffd")

    def begin_part(self) -> None:
        """Text that follows stands in a part of its own."""
        self.end_part()
        self._begins_part = True

    @property
    def ends_in_text(self) -> bool:
        """Whether the message ends in text of the answer."""
        return bool(self._kinds) and self._kinds[-1] == "text" and self._lengths[-1] > 0

    @property
    def text_length(self) -> int:
        """UTF-16 code units of all text parts, those that wait here counted."""
        return sum(size for kind, size in zip(self._kinds, self._lengths, strict=True) if kind == "text")

    def add(self, event: RequestEvent) -> None:
        """Any other event."""
        self._close()
        self._events.append(event)
        self.pending_chars += 1

    def add_call_part(self) -> int:
        """A tool call begins: the index of its part."""
        self.end_part()
        self._kinds.append("tool_call")
        self._lengths.append(0)
        return len(self._kinds) - 1

    def reset(self, part: int, offset: int) -> None:
        """Forget text from ``offset`` of ``part`` on, and all later parts; nothing of it may be waiting."""
        self._close()
        self._held = ""
        keep = part + 1 if offset else part  # a part cut at 0 goes (SPEC section 5, part.reset)
        del self._kinds[keep:], self._lengths[keep:]
        if offset:
            self._lengths[part] = offset

    def take(self) -> list[RequestEvent]:
        """Everything that waits; it is the caller's from now on."""
        self._close()
        events, self._events = self._events, []
        self.pending_chars = 0
        return events

    def _append(self, kind: DeltaType, text: str) -> None:
        if self._begins_part or not self._kinds or self._kinds[-1] != _KINDS[kind]:
            self._begins_part = False
            self._kinds.append(_KINDS[kind])
            self._lengths.append(0)
        if len(text) <= _DELTA_CHARS:
            self._extend(kind, text)
            return
        for start in range(0, len(text), _DELTA_CHARS):
            self._extend(kind, text[start : start + _DELTA_CHARS])

    def _extend(self, kind: DeltaType, text: str) -> None:
        part, chars = len(self._kinds) - 1, len(text)
        if self._growing is not None and self._growing.part == part and self._growing_chars < _DELTA_CHARS:
            self._texts.append(text)
            self._growing_chars += chars
        else:
            self._close()
            self._growing = kind(
                conversation_id=self._conversation_id,
                request_id=self._request_id,
                part=part,
                offset=self._lengths[part],
                text=text,
            )
            self._texts = [text]
            self._growing_chars = chars
            self._events.append(self._growing)
        self._lengths[part] += chars if text.isascii() else utf16_len(text)
        self.pending_chars += chars

    def _close(self) -> None:
        if self._growing is not None:
            if len(self._texts) > 1:
                self._growing.text = "".join(self._texts)
            self._growing = None
