"""Random logs of conversations that obey the grammar of SPEC section 5, for property tests.

`Script` writes one request the way a turn does: it keeps its own text lists and counts UTF-16 by encoding, so nothing
here leans on the fold. `conversations()` interleaves several of them. It is unrealistic in that steps, tools and resets
come far more often than in life, and ts is the seq.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from turnwire_protocol import (
    Entry,
    Failure,
    LogEvent,
    MemberChanged,
    Message,
    MessageCancelled,
    MessageCompleted,
    MessageCreated,
    MessageFailed,
    MessageIncomplete,
    MessageStarted,
    OutputTextDelta,
    Part,
    PartReset,
    ReasoningDelta,
    ReasoningPart,
    RequestQueued,
    StepFailed,
    StepStarted,
    TextPart,
    ToolApprovalRequired,
    ToolApproved,
    ToolArgumentsDelta,
    ToolCalled,
    ToolCallPart,
    ToolCompleted,
    ToolFailed,
    ToolRunning,
    ToolStarted,
    UsageCompleted,
)

CONVERSATION = "c-1"
EPOCH = "e1"

# Whole characters, also such as are several code points (flags, families, combining marks, variation selectors).
CHARACTERS = [
    "a",
    "Z",
    " ",
    "\n",
    '"',
    "\\",
    "\x00",
    "é",
    "e\u0301",
    "ß",
    "ж",
    "日",
    "本",
    "𝔘",
    "😀",
    "👩‍👩‍👧",
    "🇩🇪",
    "❤️",
    "\u2028",
    "\uffff",
]
texts = st.lists(st.sampled_from(CHARACTERS), min_size=1, max_size=6).map("".join)


def units(text: str) -> int:
    return len(text.encode("utf-16-le")) // 2


def cut(text: str, characters: int) -> str:
    return text[:characters]


@dataclass
class Call:
    call_id: str
    text: str = ""
    state: str = "started"


@dataclass
class Script:
    """One request. Every method gives the events that happen next and keeps what they add up to."""

    request_id: str
    ordinal: int
    parent_id: str | None
    parts: list[tuple[str, str] | Call] = field(default_factory=list)
    started: bool = False
    ended: bool = False
    steps: int = 0
    calls: int = 0
    created_at: int = 0
    started_at: int = 0

    def named(self, kind: Callable[..., Any], **fields: Any) -> Any:
        return kind(conversation_id=CONVERSATION, request_id=self.request_id, **fields)

    @property
    def input(self) -> Message:
        return Message(
            message_id=f"u-{self.request_id}",
            request_id=self.request_id,
            role="user",
            author="ann",
            parts=[TextPart(text="Hi 😀")],
            status="complete",
            created_at=self.created_at,
            parent_id=self.parent_id,
            ordinal=self.ordinal,
        )

    def answer(self, status: Any) -> Message:
        return Message(
            message_id=f"a-{self.request_id}",
            request_id=self.request_id,
            role="assistant",
            parts=[self.part(part) for part in self.parts],
            status=status,
            created_at=self.started_at,
            parent_id=f"u-{self.request_id}",
            ordinal=self.ordinal,
        )

    @staticmethod
    def part(part: tuple[str, str] | Call) -> Part:
        if isinstance(part, Call):
            done = part.state in ("called", "running", "completed", "failed", "waiting_approval")
            return ToolCallPart(
                call_id=part.call_id,
                name="t",
                where="server",
                arguments={"n": None} if done else part.text,
                state=part.state,  # type: ignore[arg-type]
                output=[1] if part.state == "completed" else None,
                error="no" if part.state == "failed" else None,
            )
        return TextPart(text=part[1]) if part[0] == "text" else ReasoningPart(text=part[1])

    def create(self, at: int) -> list[LogEvent]:
        self.created_at = at
        return [self.named(MessageCreated, message=self.input, answer_id=f"a-{self.request_id}")]

    def queue(self) -> list[LogEvent]:
        return [self.named(RequestQueued, position=1, behind="other")]

    def step(self, at: int) -> list[LogEvent]:
        self.steps += 1
        step = self.named(StepStarted, step=self.steps, attempt=1, deployment="d", model="m")
        if self.started:
            return [step]
        self.started, self.started_at = True, at
        return [self.named(MessageStarted, message_id=f"a-{self.request_id}", run=1), step]

    def write(self, kind: str, text: str) -> list[LogEvent]:
        event = OutputTextDelta if kind == "text" else ReasoningDelta
        last = self.parts[-1] if self.parts else None
        if isinstance(last, tuple) and last[0] == kind:
            before = last[1]
            self.parts[-1] = (kind, before + text)
            return [self.named(event, part=len(self.parts) - 1, offset=units(before), text=text)]
        self.parts.append((kind, text))
        return [self.named(event, part=len(self.parts) - 1, offset=0, text=text)]

    def reset(self, index: int, characters: int) -> list[LogEvent]:
        failed = self.named(StepFailed, step=self.steps, attempt=1, deployment="d", reason="provider_cut", next="d")
        at = self.parts[index] if index < len(self.parts) else None
        kept = cut(at[1], characters) if isinstance(at, tuple) else ""
        self.parts = self.parts[:index]
        if kept and isinstance(at, tuple):
            self.parts.append((at[0], kept))
        return [failed, self.named(PartReset, part=index, offset=units(kept))]

    def call(self) -> list[LogEvent]:
        self.calls += 1
        call = Call(f"{self.request_id}-{self.calls}")
        self.parts.append(call)
        start = self.named(
            ToolStarted,
            call_id=call.call_id,
            part=len(self.parts) - 1,
            name="t",
            where="server",
            interruptible=True,
            side_effect=False,
        )
        return [start]

    def advance(self, call: Call, choice: int, text: str) -> list[LogEvent]:
        """The next thing that may happen to a call that is not settled."""
        arguments = {"n": None}
        if call.state == "started" and choice:
            offset, call.text = units(call.text), call.text + text
            return [self.named(ToolArgumentsDelta, call_id=call.call_id, offset=offset, text=text)]
        if call.state == "started":
            call.state = "called"
            return [self.named(ToolCalled, call_id=call.call_id, where="server", arguments=arguments)]
        if call.state == "called" and choice == 1:
            return [
                self.named(ToolApprovalRequired, call_id=call.call_id, expires_at=9, arguments=arguments),
                self.named(ToolApproved, call_id=call.call_id, by="ann"),
            ]
        if call.state == "called":
            call.state = "running"
            return [self.named(ToolRunning, call_id=call.call_id)]
        if choice:
            call.state = "completed"
            return [self.named(ToolCompleted, call_id=call.call_id, output=[1], duration_ms=1)]
        call.state = "failed"
        return [self.named(ToolFailed, call_id=call.call_id, outcome="failed", error="no")]

    def open_calls(self) -> list[Call]:
        return [p for p in self.parts if isinstance(p, Call) and p.state not in ("completed", "failed")]

    def end(self, how: int) -> list[LogEvent]:
        self.ended = True
        if not self.started:
            return [self.named(MessageCancelled, by="ann")]
        usage = self.named(
            UsageCompleted, input_tokens=1, output_tokens=1, cached_tokens=0, cost_usd="0", source="provider"
        )
        failure = Failure(code="provider_error", message="no", retryable=False)
        ending: LogEvent = [
            lambda: self.named(MessageCompleted, message=self.answer("complete"), finish_reason="stop"),
            lambda: self.named(MessageCancelled, message=self.answer("cancelled"), by="ann"),
            lambda: self.named(MessageIncomplete, message=self.answer("incomplete"), reason="length"),
            lambda: self.named(MessageFailed, message=self.answer("failed"), error=failure),
        ][how]()
        return [usage, ending]


@st.composite
def conversations(draw: st.DrawFn, *, branching: bool = True, all_end: bool = False) -> list[Entry]:
    """The entries of a conversation with up to four requests, from its beginning."""
    entries: list[Entry] = []
    scripts: list[Script] = []

    def log(events: list[LogEvent]) -> None:
        for event in events:
            seq = len(entries) + 1
            entries.append(Entry.of(event, seq, seq))

    def begin() -> None:
        heads = [None, *(f"a-{s.request_id}" for s in scripts if s.started or not s.ended)]
        parent = draw(st.sampled_from(heads)) if branching else heads[-1]
        script = Script(f"r{len(scripts) + 1}", len(scripts) + 1, parent)
        scripts.append(script)
        log(script.create(len(entries) + 1))
        if draw(st.booleans()):
            log(script.queue())

    for _ in range(draw(st.integers(1, 40))):
        live = [s for s in scripts if not s.ended]
        # Without branching there is one turn after the other, as with `on_busy: queue`.
        if not live or (branching and len(scripts) < 4 and draw(st.integers(0, 9)) == 0):
            if len(scripts) < 4:
                begin()
            elif draw(st.booleans()):
                log([MemberChanged(conversation_id=CONVERSATION, user_id="bob", role="viewer")])
            continue
        _go_on(draw, draw(st.sampled_from(live)), log, len(entries) + 1)
    if all_end:
        for script in scripts:
            if not script.ended:
                log(script.end(draw(st.integers(0, 3))))
    return entries


def _go_on(draw: st.DrawFn, script: Script, log: Callable[[list[LogEvent]], None], at: int) -> None:
    if not script.started:
        log(script.end(0) if draw(st.integers(0, 5)) == 0 else script.step(at))
        return
    move = draw(st.integers(0, 19))
    if move < 8:
        for _ in range(draw(st.integers(1, 4))):
            log(script.write("text", draw(texts)))
    elif move < 10:
        log(script.write("reasoning", draw(texts)))
    elif move < 12:
        log(script.call())
    elif move < 16:
        for call in script.open_calls()[:1]:
            log(script.advance(call, draw(st.integers(0, 2)), draw(texts)))
    elif move < 17:
        log(script.step(at))
    elif move < 19 and script.parts:
        log(script.reset(draw(st.integers(0, len(script.parts) - 1)), draw(st.integers(0, 6))))
    else:
        log(script.end(draw(st.integers(0, 3))))
