"""A small story that goes as it should, to be spoilt by tests of the checker: two clients, one conversation, two turns.

Made by hand, so much simpler than what a server sends: every event has a frame of its own for the first client, the
second gets neighbouring deltas merged, and a newcomer gets a snapshot in the end. The first turn completes in two
steps with a tool between them, after a failed attempt; the second is cancelled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.chaos.records import Archived, ArchivedRequest, Call, Evidence, Message, Record, UsageLine

from turnwire_protocol import ConversationFold, event_from_wire, to_wire

TALK, EPOCH = "talk-1", "e1"
ONE, TWO = "r1", "r2"
ASKED = {ONE: "[r1] hello", TWO: "[r2] and more"}


def _user(request_id: str, ordinal: int, parent: str | None) -> Message:
    message: Message = {
        "message_id": f"{request_id}-in",
        "request_id": request_id,
        "role": "user",
        "author": "dev",
        "parts": [{"kind": "text", "text": ASKED[request_id]}],
        "status": "complete",
        "created_at": 1,
        "ordinal": ordinal,
    }
    return message if parent is None else {**message, "parent_id": parent}


def _answer(request_id: str, ordinal: int, parts: list[Message], status: str) -> Message:
    return {
        "message_id": f"{request_id}-out",
        "request_id": request_id,
        "role": "assistant",
        "parts": parts,
        "status": status,
        "created_at": 1,
        "parent_id": f"{request_id}-in",
        "ordinal": ordinal,
    }


def _tool_part() -> Message:
    return {
        "kind": "tool_call",
        "call_id": "t1",
        "name": "demo_clock",
        "where": "server",
        "arguments": {},
        "state": "completed",
        "output": {"utc": "now"},
    }


def _attempt(step: int, attempt: int, outcome: str) -> Message:
    return {
        "step": step,
        "attempt": attempt,
        "deployment": "first",
        "outcome": outcome,
        "input_tokens": 10 * step,
        "output_tokens": attempt,
        "cached_tokens": 0,
        "cost_usd": "0.001",
        "source": "provider",
    }


def _usage(*attempts: Message) -> Message:
    return {
        "type": "usage.completed",
        "input_tokens": sum(a["input_tokens"] for a in attempts),
        "output_tokens": sum(a["output_tokens"] for a in attempts),
        "cached_tokens": 0,
        "cost_usd": f"0.00{len(attempts)}",
        "source": "provider",
        "attempts": list(attempts),
    }


FIRST = "«r1/1.2» one"
SECOND = "«r1/2.1» two three"
CUT = "«r2/1.1» cut"
ATTEMPTS = {
    ONE: (_attempt(1, 1, "failed"), _attempt(1, 2, "completed"), _attempt(2, 1, "completed")),
    TWO: (_attempt(1, 1, "cancelled"),),
}
ENDED = {
    ONE: _answer(ONE, 1, [{"kind": "text", "text": FIRST}, _tool_part(), {"kind": "text", "text": SECOND}], "complete"),
    TWO: _answer(TWO, 2, [{"kind": "text", "text": CUT[:11]}], "cancelled"),
}


def _delta(part: int, text: str, piece: str) -> Message:
    return {"type": "output_text.delta", "part": part, "offset": text.index(piece), "text": piece}


def log() -> list[Message]:
    """All events of the conversation, in order."""
    one: list[Message] = [
        {"type": "message.created", "message": _user(ONE, 1, None), "answer_id": f"{ONE}-out"},
        {"type": "message.started", "message_id": f"{ONE}-out", "run": 1, "route": "default"},
        {"type": "step.started", "step": 1, "attempt": 1, "deployment": "first", "model": "m"},
        {"type": "output_text.delta", "part": 0, "offset": 0, "text": "«r1/1.1» lost"},
        {"type": "step.failed", "step": 1, "attempt": 1, "deployment": "first", "reason": "provider_cut"},
        {"type": "part.reset", "part": 0, "offset": 0},
        {"type": "step.started", "step": 1, "attempt": 2, "deployment": "first", "model": "m"},
        _delta(0, FIRST, "«r1/1.2»"),
        _delta(0, FIRST, " one"),
        {
            "type": "tool.started",
            "call_id": "t1",
            "part": 1,
            "name": "demo_clock",
            "where": "server",
            "interruptible": True,
            "side_effect": False,
        },
        {"type": "tool.called", "call_id": "t1", "where": "server", "arguments": {}},
        {"type": "tool.running", "call_id": "t1", "run": 1},
        {"type": "tool.completed", "call_id": "t1", "output": {"utc": "now"}, "duration_ms": 1},
        {"type": "step.started", "step": 2, "attempt": 1, "deployment": "first", "model": "m"},
        _delta(2, SECOND, "«r1/2.1»"),
        _delta(2, SECOND, " two"),
        _delta(2, SECOND, " three"),
        _usage(*ATTEMPTS[ONE]),
        {"type": "message.completed", "terminal": True, "message": ENDED[ONE], "finish_reason": "stop"},
    ]
    two: list[Message] = [
        {"type": "message.created", "message": _user(TWO, 2, f"{ONE}-out"), "answer_id": f"{TWO}-out"},
        {"type": "message.started", "message_id": f"{TWO}-out", "run": 1, "route": "default"},
        {"type": "step.started", "step": 1, "attempt": 1, "deployment": "first", "model": "m"},
        _delta(0, CUT, "«r2/1.1» "),
        _delta(0, CUT, "cu"),
        _usage(*ATTEMPTS[TWO]),
        {"type": "message.cancelled", "terminal": True, "message": ENDED[TWO], "by": "dev"},
    ]
    named = [(ONE, event) for event in one] + [(TWO, event) for event in two]
    return [
        {**event, "conversation_id": TALK, "request_id": request_id, "seq": seq, "ts": 1}
        for seq, (request_id, event) in enumerate(named, 1)
    ]


def _merged(events: list[Message]) -> list[Message]:
    """As a slow reader gets them: neighbouring deltas of a part in one."""
    out: list[Message] = []
    for event in events:
        last = out[-1] if out else {}
        if event["type"] == "output_text.delta" == last.get("type") and last["part"] == event["part"]:
            grown = {**last, "text": last["text"] + event["text"], "seq": event["seq"]}
            out[-1] = {**grown, "from_seq": last.get("from_seq", last["seq"])}
        else:
            out.append(event)
    return out


def snapshot_at(seq: int) -> Message:
    """What the server gives to somebody who comes when the log ends at ``seq``."""
    fold = ConversationFold(EPOCH, 0)
    fold.apply_frame([event_from_wire(event) for event in log()[:seq]])
    return {
        "type": "conversation.snapshot",
        "conversation_id": TALK,
        "epoch": EPOCH,
        "seq": seq,
        "messages": [to_wire(message) for message in fold.branch()],
        "active": [to_wire(request.to_active()) for request in fold.running()],
    }


class Story:
    """The evidence, and words to change it with. Give the changed one to the checker."""

    def __init__(self) -> None:
        self.evidence = Evidence(seed=1, calm_at=90.0)
        self._marks = 0
        self._at = 0.0
        self._tell()

    @property
    def records(self) -> list[Record]:
        return self.evidence.records

    def _tell(self) -> None:
        events = log()
        self.connect("alice")
        self.open("alice", 0)
        self.ask("alice", {"type": "request.create", "request_id": ONE, "conversation_id": TALK, "input": ASKED[ONE]})
        self.answer("alice", self.ack(ONE, 0, "preparing", duplicate=False))
        for event in events[:3]:
            self.frame("alice", event)
        self.connect("bob")
        self.open("bob", 3)
        for event in events[3:20]:
            self.frame("alice", event)
        self.frame("bob", *_merged(events[3:9]))
        self.frame("bob", *_merged(events[9:20]))
        self.ask("bob", {"type": "request.create", "request_id": TWO, "conversation_id": TALK, "input": ASKED[TWO]})
        self.answer("bob", self.ack(TWO, 20, "preparing", duplicate=False))
        self.frame("bob", *events[20:23])
        self.ask("bob", {"type": "request.cancel", "request_id": TWO})
        self.answer("bob", {"type": "ack", "request_id": TWO, "outcome": "cancelling"})
        for event in events[20:]:
            self.frame("alice", event)
        # The delta at 24 is held back from whoever has cancelled; the next event covers it.
        self.frame("bob", {**events[24], "from_seq": 24}, events[25])
        self.connect("newcomer-1")
        self.open("newcomer-1", len(events))
        self.evidence.archive = Archived(
            [
                ArchivedRequest(ONE, TALK, "completed", 1, _user(ONE, 1, None), ENDED[ONE], "completed"),
                ArchivedRequest(TWO, TALK, "cancelled", 1, _user(TWO, 2, f"{ONE}-out"), ENDED[TWO], "cancelled"),
            ],
            [
                UsageLine(request_id, *(a[name] for name in _USAGE))
                for request_id, attempts in ATTEMPTS.items()
                for a in attempts
            ],
        )
        self.evidence.calls = [
            Call(ONE, 1, 1, "node-1", 1.0, ended=1.1, text="«r1/1.1» lost", sent="«r1/1.1» lost"),
            Call(ONE, 1, 2, "node-1", 1.2, ended=1.3, text=FIRST, sent=FIRST, finish="tool_calls", usage=(10, 2)),
            Call(ONE, 2, 1, "node-1", 1.4, ended=1.5, text=SECOND, sent=SECOND, finish="stop", usage=(20, 1)),
            Call(TWO, 1, 1, "node-1", 2.0, gone=2.1, text=CUT, sent=CUT),
        ]

    # --- telling ----------------------------------------------------------------------------------------

    def connect(self, client: str) -> None:
        self._add(client, "connected", [])

    def ask(self, client: str, command: Message) -> None:
        self._marks += 1
        self._add(client, "sent", [{**command, "id": f"m{self._marks}"}])

    def answer(self, client: str, answer: Message) -> None:
        """To what was asked last."""
        self._add(client, "frame", [{**answer, "ref": f"m{self._marks}"}])

    def frame(self, client: str, *messages: Message) -> None:
        self._add(client, "frame", [dict(message) for message in messages])

    def open(self, client: str, seq: int, *, epoch: str = EPOCH, snapshot: Message | None = None) -> None:
        """Follow without a cursor, when the log ends at ``seq``."""
        self.ask(client, {"type": "conversation.open", "conversation_id": TALK})
        opened = {"type": "conversation.opened", "conversation_id": TALK, "epoch": epoch, "seq": seq}
        self.answer(client, {**opened, "verdict": "snapshot"})
        self.frame(client, snapshot or snapshot_at(seq))

    @staticmethod
    def ack(request_id: str, seq: int, state: str, *, duplicate: bool) -> Message:
        return {
            "type": "ack",
            "request_id": request_id,
            "conversation_id": TALK,
            "epoch": EPOCH,
            "seq": seq,
            "state": state,
            "duplicate": duplicate,
            "verdict": "live",
        }

    def _add(self, client: str, kind: Any, messages: list[Message]) -> None:
        self._at += 0.01
        self.records.append(Record(round(self._at, 2), client, 1, "node-1", kind, messages))

    # --- spoiling ---------------------------------------------------------------------------------------

    def each(self, client: str, change: Callable[[Message], Message | None]) -> None:
        """Change every message that this client got; None leaves it out."""
        for record in self.records:
            if record.client == client and record.kind == "frame":
                changed = [change(message) for message in record.messages]
                record.messages = [message for message in changed if message is not None]

    def at_seq(self, client: str, seq: int, **fields: Any) -> None:
        """Change the event that this client got at a seq."""
        self.each(client, lambda m: {**m, **fields} if m.get("seq") == seq and "verdict" not in m else m)

    def without_seq(self, client: str, seq: int) -> None:
        """Leave out what this client got at a seq."""
        self.each(client, lambda m: None if m.get("seq") == seq and "verdict" not in m else m)


_USAGE = ("step", "attempt", "outcome", "input_tokens", "output_tokens", "cost_usd", "source")
