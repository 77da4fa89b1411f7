"""The answer of one request while it is being made: parts that grow, tool calls that change their state.

Kept as lists of chunks with their length in UTF-16 units, because it is touched once per token: applying a
delta costs a comparison, an append and an addition. Knows nothing of requests, logs or conversations; `fold`
is above.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

from turnwire_protocol import events as ev
from turnwire_protocol.exceptions import OffsetMismatch
from turnwire_protocol.model import (
    Approval,
    Part,
    ReasoningPart,
    Steered,
    TextPart,
    ToolCallPart,
    ToolCallState,
    ToolWhere,
)
from turnwire_protocol.utf16 import utf16_cut, utf16_len


class Chunks:
    """Text that grows at its end."""

    __slots__ = ("_chunks", "length")

    def __init__(self, text: str = "") -> None:
        self._chunks = [text] if text else []
        self.length = utf16_len(text)

    def append(self, offset: int, text: str) -> None:
        if offset != self.length:
            raise OffsetMismatch(f"a delta at {offset}, where the text ends at {self.length}")
        self._chunks.append(text)
        self.length += len(text) if text.isascii() else utf16_len(text)

    def cut(self, offset: int) -> None:
        if offset > self.length:
            raise OffsetMismatch(f"a reset to {offset}, where the text ends at {self.length}")
        kept = utf16_cut(self.text, offset)
        self._chunks = [kept]
        self.length = utf16_len(kept)

    @property
    def text(self) -> str:
        if len(self._chunks) > 1:
            self._chunks = ["".join(self._chunks)]
        return self._chunks[0] if self._chunks else ""


class PartialText(Chunks):
    """A text or reasoning part."""

    __slots__ = ("kind",)

    def __init__(self, kind: Literal["text", "reasoning"], text: str = "") -> None:
        super().__init__(text)
        self.kind = kind

    def to_part(self) -> TextPart | ReasoningPart:
        return TextPart(text=self.text) if self.kind == "text" else ReasoningPart(text=self.text)


class PartialCall(Chunks):
    """A tool call: its arguments first as text that grows, then as an object."""

    __slots__ = ("approval", "arguments", "call_id", "error", "name", "output", "state", "where")

    def __init__(self, call_id: str, name: str, where: ToolWhere, text: str = "") -> None:
        super().__init__(text)
        self.call_id = call_id
        self.name = name
        self.where = where
        self.state: ToolCallState = "started"
        self.arguments: dict[str, Any] | None = None
        self.output: Any = None
        self.error: str | None = None
        self.approval: Approval | None = None

    @classmethod
    def of(cls, part: ToolCallPart) -> PartialCall:
        text = part.arguments if isinstance(part.arguments, str) else ""
        call = cls(part.call_id, part.name, part.where, text)
        call.arguments = None if isinstance(part.arguments, str) else part.arguments
        call.state, call.output = part.state, part.output
        call.error, call.approval = part.error, part.approval
        return call

    def to_part(self) -> ToolCallPart:
        return ToolCallPart(
            call_id=self.call_id,
            name=self.name,
            where=self.where,
            arguments=self.text if self.arguments is None else self.arguments,
            state=self.state,
            output=self.output,
            error=self.error,
            approval=self.approval,
        )


class PartialMessage:
    """The parts so far. `apply` every event of the request; those that do not touch parts are ignored."""

    __slots__ = ("_calls", "parts", "steered")

    def __init__(self, parts: Iterable[Part] = (), steered: Iterable[Steered] = ()) -> None:
        self.parts: list[PartialText | PartialCall] = [
            PartialCall.of(part) if isinstance(part, ToolCallPart) else PartialText(part.kind, part.text)
            for part in parts
        ]
        self._calls = {part.call_id: part for part in self.parts if isinstance(part, PartialCall)}
        # The requests folded in, each with the number of parts that there were at that moment.
        self.steered = list(steered)

    def apply(self, event: object) -> None:
        """Raises `OffsetMismatch` for a delta that does not begin where its part ends."""
        handler = _HANDLERS.get(type(event))
        if handler is not None:
            handler(self, event)

    def to_parts(self) -> list[Part]:
        return [part.to_part() for part in self.parts]

    @property
    def length(self) -> int:
        """UTF-16 units of the answer's text, over all its text parts."""
        return sum(p.length for p in self.parts if isinstance(p, PartialText) and p.kind == "text")

    def call_states(self) -> set[ToolCallState]:
        return {call.state for call in self._calls.values()}

    def call(self, call_id: str) -> PartialCall | None:
        return self._calls.get(call_id)

    def _text_delta(self, event: ev.OutputTextDelta) -> None:
        index = event.part
        if index < len(self.parts):
            part = self.parts[index]
            if type(part) is PartialText and part.kind == "text":
                part.append(event.offset, event.text)
                return
        self._append("text", index, event.offset, event.text)

    def _reasoning_delta(self, event: ev.ReasoningDelta) -> None:
        self._append("reasoning", event.part, event.offset, event.text)

    def _append(self, kind: Literal["text", "reasoning"], index: int, offset: int, text: str) -> None:
        if index == len(self.parts):
            self.parts.append(PartialText(kind))
        elif index > len(self.parts):
            raise OffsetMismatch(f"a delta of part {index}, where there are {len(self.parts)} parts")
        part = self.parts[index]
        if type(part) is not PartialText or part.kind != kind:
            raise OffsetMismatch(f"a {kind} delta for part {index}, which is of another kind")
        part.append(offset, text)

    def _reset(self, event: ev.PartReset) -> None:
        # A part cut at 0 goes: what comes in its place may be of another kind.
        keep = event.part if event.offset == 0 else event.part + 1
        if keep > len(self.parts):
            raise OffsetMismatch(f"a reset of part {event.part}, where there are {len(self.parts)} parts")
        self._drop_from(keep)
        if event.offset > 0:
            self.parts[event.part].cut(event.offset)

    def _drop_from(self, index: int) -> None:
        if index < len(self.parts):
            del self.parts[index:]
            # A request that was folded in stays so: what is written instead is written knowing it as well.
            self.steered = [Steered(part=min(s.part, index), request_id=s.request_id) for s in self.steered]
            self._calls = {part.call_id: part for part in self.parts if isinstance(part, PartialCall)}

    def _tool_started(self, event: ev.ToolStarted) -> None:
        # Whoever has cancelled gets tool events, but no deltas and resets any more: then the place may lie
        # beyond the end, or be taken by what a reset has dropped.
        self._drop_from(event.part)
        call = PartialCall(event.call_id, event.name, event.where)
        self.parts.append(call)
        self._calls[event.call_id] = call

    def _steered(self, event: ev.SteerApplied) -> None:
        self.steered.append(Steered(part=len(self.parts), request_id=event.from_))

    # An event for a call that is not there changes nothing: a reset has dropped the call meanwhile.

    def _arguments_delta(self, event: ev.ToolArgumentsDelta) -> None:
        if call := self._calls.get(event.call_id):
            call.append(event.offset, event.text)

    def _tool_called(self, event: ev.ToolCalled) -> None:
        if call := self._calls.get(event.call_id):
            call.state, call.where, call.arguments = "called", event.where, event.arguments

    def _tool_running(self, event: ev.ToolRunning) -> None:
        if call := self._calls.get(event.call_id):
            call.state, call.approval = "running", None

    def _approval_required(self, event: ev.ToolApprovalRequired) -> None:
        if call := self._calls.get(event.call_id):
            call.state = "waiting_approval"
            call.approval = Approval(expires_at=event.expires_at, arguments=event.arguments)

    def _tool_approved(self, event: ev.ToolApproved) -> None:
        if call := self._calls.get(event.call_id):
            call.state, call.approval = "called", None
            if event.arguments is not None:
                call.arguments = event.arguments

    def _tool_denied(self, event: ev.ToolDenied) -> None:
        # `tool.failed` with outcome `denied` follows and settles the call.
        if call := self._calls.get(event.call_id):
            call.state, call.approval = "called", None

    def _tool_completed(self, event: ev.ToolCompleted) -> None:
        if call := self._calls.get(event.call_id):
            call.state, call.output, call.approval = "completed", event.output, None

    def _tool_failed(self, event: ev.ToolFailed) -> None:
        if call := self._calls.get(event.call_id):
            call.state, call.error, call.approval = "failed", event.error, None


_HANDLERS: dict[type, Callable[[PartialMessage, Any], None]] = {
    ev.OutputTextDelta: PartialMessage._text_delta,
    ev.ReasoningDelta: PartialMessage._reasoning_delta,
    ev.PartReset: PartialMessage._reset,
    ev.SteerApplied: PartialMessage._steered,
    ev.ToolStarted: PartialMessage._tool_started,
    ev.ToolArgumentsDelta: PartialMessage._arguments_delta,
    ev.ToolCalled: PartialMessage._tool_called,
    ev.ToolRunning: PartialMessage._tool_running,
    ev.ToolApprovalRequired: PartialMessage._approval_required,
    ev.ToolApproved: PartialMessage._tool_approved,
    ev.ToolDenied: PartialMessage._tool_denied,
    ev.ToolCompleted: PartialMessage._tool_completed,
    ev.ToolFailed: PartialMessage._tool_failed,
}


def text_length(parts: Iterable[Part]) -> int:
    """UTF-16 units of the text parts: the `length` of a message that is left out of its event."""
    return sum(utf16_len(part.text) for part in parts if isinstance(part, TextPart))
