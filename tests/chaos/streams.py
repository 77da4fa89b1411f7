"""What every client was shown, followed frame by frame as a client follows it, and noted down to be compared.

Checked here is what shows on a single stream: no hole, offsets that fit, answers that fit what was asked, nothing of a
cancelled request (guarantees 1, 2, 5 and 7). Compared over all streams is what must be the same for everybody: what
stands at a seq, the state of a request after its event at a seq, what is running and what has ended at a seq. Two
streams may get different frames of the same log, with deltas merged or left out; comparing states, and the texts of
overlapping deltas, takes account of that. What a connection has cancelled is compared again once it has ended.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from tests.chaos.records import Message, Record

from turnwire_protocol import ConversationFold, event_from_wire, to_wire
from turnwire_protocol import Message as ProtocolMessage
from turnwire_protocol.exceptions import ProtocolError

DELTAS = frozenset({"output_text.delta", "reasoning.delta", "tool.arguments.delta"})
REFUSALS = frozenset({"busy", "unavailable", "overloaded", "rate_limited", "idempotency_conflict", "not_found"})
"""Errors that the acts of a round may meet; anything else is an answer that must not be."""
Key = tuple[str, str]
"""Conversation and epoch."""


@dataclass(frozen=True, slots=True)
class Violation:
    """Something that does not hold. ``records`` are places in the evidence's records."""

    guarantee: int
    text: str
    request_id: str = ""
    conversation_id: str = ""
    records: tuple[int, ...] = ()

    def __str__(self) -> str:
        where = " ".join(word for word in (self.conversation_id, self.request_id) if word)
        return f"guarantee {self.guarantee}: {f'{where}: ' if where else ''}{self.text} (records {self.records})"


@dataclass(frozen=True, slots=True)
class CreateAnswer:
    request_id: str
    text: str
    is_ack: bool
    code: str
    record: int


@dataclass(frozen=True, slots=True)
class CancelAnswer:
    request_id: str
    outcome: str
    state: str | None
    record: int


@dataclass(slots=True)
class Seen:
    """What all streams together showed."""

    acknowledged: dict[str, int] = field(default_factory=dict)
    """Acknowledged requests, and in which record first."""
    contents: dict[str, tuple[str, int]] = field(default_factory=dict)
    """With which text they were acknowledged first, and in which record."""
    creates: list[CreateAnswer] = field(default_factory=list)
    cancels: list[CancelAnswer] = field(default_factory=list)
    cancels_sent: set[str] = field(default_factory=set)
    by_request: dict[tuple[str, str, str], list[Message]] = field(default_factory=dict)
    """Events other than deltas by conversation, epoch and request, by seq."""
    last_snapshots: list[tuple[str, Message, int]] = field(default_factory=list)
    """What the newcomers at the end of the round got."""
    events: int = 0
    epochs: dict[str, list[str]] = field(default_factory=dict)
    """Of each conversation, in the order in which they were first shown."""


@dataclass(slots=True)
class _State:
    """A conversation at one seq, as one stream has it."""

    record: int
    active: dict[str, int]
    messages: dict[str, int]
    unsure: frozenset[str]


@dataclass(slots=True)
class _View:
    """What one client knows of one conversation; it outlives connections, as a client's memory does."""

    epoch: str = ""
    seq: int = 0
    fold: ConversationFold | None = None
    """None: begun in the middle, or broken; only holes are looked for until a snapshot comes."""
    unsure: set[str] = field(default_factory=set)
    """Requests whose deltas were held back after a cancel; their state is not known until they end."""
    messages: dict[str, int] = field(default_factory=dict)
    """The ended messages, each with a hash of all that is in it. Replaced, never changed: states keep it."""


@dataclass(slots=True)
class _Connection:
    following: set[str] = field(default_factory=set)
    awaiting: set[str] = field(default_factory=set)
    """Conversations for which a snapshot was announced."""
    muted: dict[str, int] = field(default_factory=dict)
    commands: dict[str, tuple[Message, int, dict[Key, int]]] = field(default_factory=dict)
    """Commands by their ids, where they were sent, and how far each log had been shown to anybody by then."""


@dataclass(frozen=True, slots=True)
class _Span:
    first: int
    last: int
    offset: int
    units: bytes
    record: int


class Reader:
    """`read_all` once; then `seen` and `violations`."""

    def __init__(self, records: Sequence[Record]) -> None:
        self.seen = Seen()
        self.violations: list[Violation] = []
        self._records = records
        self._connections: dict[tuple[str, int], _Connection] = defaultdict(_Connection)
        self._views: dict[tuple[str, str], _View] = defaultdict(_View)
        self._shown: dict[Key, int] = {}
        self._meanings: dict[tuple[str, str, int], tuple[bytes, int]] = {}
        self._events: dict[tuple[str, str, str], dict[int, Message]] = defaultdict(dict)
        self._spans: dict[tuple[str, str, str, Any], dict[tuple[int, int], _Span]] = defaultdict(dict)
        self._digests: dict[tuple[str, str, str, int], tuple[bytes, int]] = {}
        self._states: dict[tuple[str, str, int], _State] = {}
        self._snapshots: list[tuple[str, Message, int]] = []
        self._number = 0

    def read_all(self) -> None:
        """Read every record, then compare what only shows afterwards."""
        for number, record in enumerate(self._records):
            self._number = number
            match record.kind:
                case "connected":
                    self._connections[record.place] = _Connection()
                case "sent":
                    for command in record.messages:
                        self._sent(record, command)
                case "frame":
                    self._frame(record)
        self._compare_spans()
        self._sort_events()
        for conversation, snapshot, number in self._snapshots:
            self._number = number
            self._check_snapshot(conversation, snapshot)

    def _wrong(self, guarantee: int, text: str, request_id: str = "", conversation: str = "", *others: int) -> None:
        place = self._records[self._number]
        text = f"{text} [{place.client}#{place.connection} at {place.node}]"
        self.violations.append(Violation(guarantee, text, request_id, conversation, (*others, self._number)))

    # --- commands and answers -----------------------------------------------------------------------------

    def _sent(self, record: Record, command: Message) -> None:
        connection = self._connections[record.place]
        if command["type"] == "request.cancel":
            self.seen.cancels_sent.add(command["request_id"])
        if "id" not in command:
            return
        connection.commands[command["id"]] = (command, self._number, dict(self._shown))
        for index, entry in enumerate(command.get("resume", ())):
            again = {"type": "conversation.open", **entry}
            connection.commands[f"resume.{index}"] = (again, self._number, dict(self._shown))

    def _answer(self, record: Record, answer: Message) -> None:
        connection = self._connections[record.place]
        command, _, shown = connection.commands.get(answer["ref"], ({"type": "?"}, 0, {}))
        kind = command["type"]
        if answer["type"] == "error" and answer["code"] not in REFUSALS:
            self._wrong(0, f"{kind} was answered with {answer['code']}: {answer['message']}")
        if kind == "request.create":
            self._created(command, answer)
        elif kind == "request.cancel" and answer["type"] == "ack":
            self._cancelled(connection, command, answer)
        if "verdict" in answer:
            self._placed(record, connection, command, answer, shown)

    def _created(self, command: Message, answer: Message) -> None:
        request_id, is_ack = command["request_id"], answer["type"] == "ack"
        created = CreateAnswer(request_id, command["input"], is_ack, answer.get("code", ""), self._number)
        self.seen.creates.append(created)
        if is_ack:
            self.seen.acknowledged.setdefault(request_id, self._number)
            self.seen.contents.setdefault(request_id, (command["input"], self._number))

    def _cancelled(self, connection: _Connection, command: Message, answer: Message) -> None:
        request_id, outcome = command["request_id"], answer["outcome"]
        self.seen.cancels.append(CancelAnswer(request_id, outcome, answer.get("state"), self._number))
        if outcome == "cancelling":
            connection.muted[request_id] = self._number

    def _placed(
        self, record: Record, connection: _Connection, command: Message, answer: Message, shown: dict[Key, int]
    ) -> None:
        conversation, epoch, seq, verdict = (answer[n] for n in ("conversation_id", "epoch", "seq", "verdict"))
        key = (conversation, epoch)
        if seq < shown.get(key, 0):
            text = f"{command['type']} says that the log ends at {seq}, when {shown[key]} had been shown"
            self._wrong(2, text, conversation=conversation)
        view = self._views[record.client, conversation]
        was_following = conversation in connection.following
        connection.following.add(conversation)
        since = command.get("since")
        if verdict == "snapshot":
            connection.awaiting.add(conversation)
        elif since is not None:
            missed = answer.get("missed", 0)
            if (since["epoch"], since["seq"] + missed) != (epoch, seq):
                text = f"since {since} with {missed} missed is not the end {epoch}/{seq}"
                self._wrong(7, text, conversation=conversation)
            if (view.epoch, view.seq) != (since["epoch"], since["seq"]):
                self._views[record.client, conversation] = _View(since["epoch"], since["seq"])
        elif verdict == "replayed":
            self._wrong(7, "a replay after no cursor", conversation=conversation)
        elif not was_following:
            self._views[record.client, conversation] = _View(epoch, seq)

    # --- frames -------------------------------------------------------------------------------------------

    def _frame(self, record: Record) -> None:
        waiting: dict[str, list[Message]] = {}
        for message in record.messages:
            kind = message["type"]
            if kind == "conversation.snapshot":
                self._apply(record, waiting)
                self._snapshot(record, message)
            elif "seq" in message and "verdict" not in message and kind not in ("request.state",):
                waiting.setdefault(message["conversation_id"], []).append(message)
            if "ref" in message:
                self._apply(record, waiting)
                self._answer(record, message)
        self._apply(record, waiting)

    def _apply(self, record: Record, waiting: dict[str, list[Message]]) -> None:
        for conversation, events in waiting.items():
            self._take(record, conversation, events)
        waiting.clear()

    def _take(self, record: Record, conversation: str, events: list[Message]) -> None:
        connection = self._connections[record.place]
        view = self._views[record.client, conversation]
        if conversation not in connection.following:
            self._wrong(7, f"{events[0]['type']} of a conversation that is not followed", conversation=conversation)
            return
        if conversation in connection.awaiting:
            text = f"{events[0]['type']} at {events[0]['seq']} before the snapshot that was announced"
            self._wrong(7, text, conversation=conversation)
            return
        fresh = [event for event in events if event["seq"] > view.seq]
        for event in fresh:
            self._note(record, connection, view, conversation, event)
        self._fold(connection, view, conversation, fresh)

    def _note(self, record: Record, connection: _Connection, view: _View, conversation: str, event: Message) -> None:
        """Write down what stands at a seq, and compare it with what others were shown there."""
        self.seen.events += 1
        key, seq, request_id = (conversation, view.epoch), event["seq"], event.get("request_id", "")
        epochs = self.seen.epochs.setdefault(conversation, [])
        if view.epoch not in epochs:
            epochs.append(view.epoch)
        self._shown[key] = max(seq, self._shown.get(key, 0))
        if event["type"] in DELTAS:
            if (ack := connection.muted.get(request_id)) is not None:
                self._wrong(5, f"{event['type']} at {seq} after the cancel was answered", request_id, conversation, ack)
            self._note_delta(conversation, view.epoch, event)
            return
        meaning = orjson.dumps({k: v for k, v in event.items() if k != "from_seq"}, option=orjson.OPT_SORT_KEYS)
        first = self._meanings.setdefault((*key, seq), (meaning, self._number))
        if first[0] != meaning:
            text = f"seq {seq} of epoch {view.epoch} was {first[0][:200]!r} and is {meaning[:200]!r}"
            self._wrong(1, text, request_id, conversation, first[1])
        if request_id:
            self._events[(*key, request_id)][seq] = event
        if event.get("terminal"):
            connection.muted.pop(request_id, None)

    def _note_delta(self, conversation: str, epoch: str, event: Message) -> None:
        part = event.get("call_id", event.get("part"))
        first, last = _covered(event)
        span = _Span(first, last, event["offset"], event["text"].encode("utf-16-le", "surrogatepass"), self._number)
        spans = self._spans[conversation, epoch, event["request_id"], part]
        other = spans.setdefault((first, last), span)
        if (other.offset, other.units) != (span.offset, span.units):
            text = f"the delta at {first}..{last} of epoch {epoch} was shown with other text"
            self._wrong(1, text, event["request_id"], conversation, other.record)

    def _fold(self, connection: _Connection, view: _View, conversation: str, fresh: list[Message]) -> None:
        if not fresh:
            return
        view.unsure |= connection.muted.keys()
        if view.fold is None:
            expected = view.seq + 1
            for first, last in sorted(map(_covered, fresh)):
                if first > expected:
                    self._wrong(7, f"seq {expected} is missing before {first}", "", conversation)
                expected = max(expected, last + 1)
            view.seq = expected - 1
            return
        before = set(view.fold.active)
        try:
            view.fold.apply_frame([event_from_wire(event) for event in fresh])
        except (ProtocolError, AssertionError) as error:
            request_id = next((e["request_id"] for e in fresh if "request_id" in e), "")
            # What was held back after a cancel may be missing where a new connection goes on.
            if not {e.get("request_id") for e in fresh} & view.unsure:
                self._wrong(7, f"{type(error).__name__}: {error}", request_id, conversation)
            view.seq, view.fold = max(event["seq"] for event in fresh), None
            return
        view.seq = view.fold.seq
        view.unsure &= {*view.fold.active, *connection.muted}
        for request_id in {event["request_id"] for event in fresh if "request_id" in event}:
            if request_id in view.fold.active:
                self._digest(view, conversation, request_id)
        for request_id in (before | {e.get("request_id") for e in fresh if e.get("terminal")}) - set(view.fold.active):
            ended = [m for m in view.fold.messages.values() if m.request_id == request_id]
            view.messages = view.messages | _hashes(ended)
        if any(event["type"] == "message.amended" for event in fresh):
            view.messages = _hashes(view.fold.messages.values())
        self._state(view, conversation)

    def _digest(self, view: _View, conversation: str, request_id: str) -> None:
        """The state of a live request is the same for all who have seen the same of its events."""
        assert view.fold is not None, "only whole views are compared"
        if request_id in view.unsure:
            return
        request = view.fold.active[request_id]
        digest = orjson.dumps(to_wire(request.to_active()), option=orjson.OPT_SORT_KEYS)
        key = (conversation, view.epoch, request_id, request.last_seq)
        first = self._digests.setdefault(key, (digest, self._number))
        if first[0] != digest:
            text = f"after {request.last_seq} of epoch {view.epoch}: {_difference(first[0], digest)}"
            self._wrong(1, text, request_id, conversation, first[1])

    def _state(self, view: _View, conversation: str) -> None:
        """What runs, and what has ended, at a seq."""
        assert view.fold is not None, "only whole views are compared"
        active = {request_id: request.last_seq for request_id, request in view.fold.active.items()}
        state = _State(self._number, active, view.messages, frozenset(view.unsure))
        first = self._states.setdefault((conversation, view.epoch, view.seq), state)
        unsure = first.unsure | state.unsure
        if {r: s for r, s in first.active.items() if r not in unsure} != {
            r: s for r, s in active.items() if r not in unsure
        }:
            text = f"at {view.seq} of epoch {view.epoch} {first.active} was running, and now {active}"
            self._wrong(1, text, "", conversation, first.record)
        if first.messages != state.messages:
            names = sorted({name for name, _ in first.messages.items() ^ state.messages.items()})
            known = [f"{name} ({_who(name, first.messages, state.messages)})" for name in names]
            text = f"at {view.seq} of epoch {view.epoch} other messages had ended: {', '.join(known)}"
            self._wrong(1, text, _request_of(names, view.fold), conversation, first.record)

    # --- snapshots ----------------------------------------------------------------------------------------

    def _snapshot(self, record: Record, snapshot: Message) -> None:
        connection, conversation = self._connections[record.place], snapshot["conversation_id"]
        view = self._views[record.client, conversation]
        if conversation not in connection.following:
            self._wrong(7, "a snapshot of a conversation that is not followed", conversation=conversation)
        if snapshot["epoch"] == view.epoch and snapshot["seq"] < view.seq:
            text = f"a snapshot at {snapshot['seq']}, when this client had been shown {view.seq}"
            self._wrong(2, text, conversation=conversation)
        connection.awaiting.discard(conversation)
        view.fold = ConversationFold.from_snapshot(snapshot)
        view.epoch, view.seq, view.unsure = view.fold.epoch, view.fold.seq, set()
        view.messages = _hashes(view.fold.messages.values())
        for request_id in view.fold.active:
            self._digest(view, conversation, request_id)
        if "before" not in snapshot:
            self._state(view, conversation)
        self._snapshots.append((conversation, snapshot, self._number))
        self._shown[conversation, view.epoch] = max(view.seq, self._shown.get((conversation, view.epoch), 0))
        if record.client.startswith("newcomer"):
            self.seen.last_snapshots.append((conversation, snapshot, self._number))

    def _check_snapshot(self, conversation: str, snapshot: Message) -> None:
        """2: a snapshot holds everything that anybody was shown at or before its seq in its epoch."""
        epoch, seq = snapshot["epoch"], snapshot["seq"]
        active = {request["request_id"]: request for request in snapshot["active"]}
        messages = {message["message_id"]: message for message in snapshot["messages"]}
        asked = {message["request_id"] for message in messages.values()}
        for (of, in_epoch, request_id), events in self._events.items():
            if (of, in_epoch) != (conversation, epoch):
                continue
            past = [event for at, event in events.items() if at <= seq]
            if not past:
                continue
            terminal = next((event for event in past if event.get("terminal")), None)
            if terminal is not None:
                message = terminal.get("message")
                if request_id in active:
                    text = f"the snapshot at {seq} of {epoch} shows it running, after its end at {terminal['seq']}"
                    self._wrong(2, text, request_id, conversation)
                elif message is not None and messages.get(message["message_id"]) != message:
                    text = f"the snapshot at {seq} of {epoch} has not the message of its end at {terminal['seq']}"
                    self._wrong(2, text, request_id, conversation)
            elif request_id in active:
                last = max(event["seq"] for event in past)
                if active[request_id]["last_seq"] < last:
                    text = (
                        f"the snapshot at {seq} of {epoch} knows it up to {active[request_id]['last_seq']}, not {last}"
                    )
                    self._wrong(2, text, request_id, conversation)
            elif request_id not in asked:
                self._wrong(2, f"the snapshot at {seq} of {epoch} has nothing of it", request_id, conversation)

    # --- afterwards ---------------------------------------------------------------------------------------

    def _sort_events(self) -> None:
        for key, events in self._events.items():
            self.seen.by_request[key] = [events[seq] for seq in sorted(events)]

    def _compare_spans(self) -> None:
        """Deltas that were merged for one and not for another tell the same text at the same places."""
        for (conversation, epoch, request_id, _part), found in self._spans.items():
            spans = sorted(found.values(), key=lambda span: (span.first, -span.last))
            for one, other in _overlapping(spans):
                start = max(one.offset, other.offset)
                end = min(one.offset + len(one.units) // 2, other.offset + len(other.units) // 2)
                if start < end and _cut(one, start, end) != _cut(other, start, end):
                    self._number = other.record
                    text = f"deltas at {one.first}..{one.last} and {other.first}..{other.last} of {epoch} differ"
                    self._wrong(1, text, request_id, conversation, one.record)


def _covered(event: Message) -> tuple[int, int]:
    """The seqs that an event stands for, first and last."""
    last: int = event["seq"]
    return event.get("from_seq") or last, last


def _overlapping(spans: Sequence[_Span]) -> Iterator[tuple[_Span, _Span]]:
    """Pairs that share a seq, each span with the longest before it that reaches into it."""
    longest: _Span | None = None
    for span in spans:
        if longest is not None and span.first <= longest.last:
            yield longest, span
        if longest is None or span.last > longest.last:
            longest = span


def _cut(span: _Span, start: int, end: int) -> bytes:
    return span.units[2 * (start - span.offset) : 2 * (end - span.offset)]


def _hashes(messages: Iterable[ProtocolMessage]) -> dict[str, int]:
    return {m.message_id: hash(orjson.dumps(to_wire(m), option=orjson.OPT_SORT_KEYS)) for m in messages}


def _who(name: str, before: Mapping[str, int], now: Mapping[str, int]) -> str:
    if name in before and name in now:
        return "with other content"
    return "only before" if name in before else "only now"


def _request_of(names: Sequence[str], fold: ConversationFold) -> str:
    return next((fold.messages[name].request_id for name in names if name in fold.messages), "")


def _difference(one: bytes, other: bytes) -> str:
    """Where two states differ, in few words."""
    a, b = orjson.loads(one), orjson.loads(other)
    names = [name for name in sorted({*a, *b}) if a.get(name) != b.get(name)]
    return "; ".join(f"{name} was {str(a.get(name))[:150]} and is {str(b.get(name))[:150]}" for name in names)
