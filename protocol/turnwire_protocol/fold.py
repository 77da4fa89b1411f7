"""What a conversation's events add up to: the one fold that everybody uses.

The server folds to make snapshots and to take a turn over, clients fold to show, tests fold to compare. Pure:
events in, state out, the same for everyone who has seen the same log: for every S, folding what any follower
got up to S gives the same state. `RequestFold` is one live request, `ConversationFold` the whole conversation
with the reading rules of SPEC section 3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pydantic import TypeAdapter

from turnwire_protocol import events as ev
from turnwire_protocol.exceptions import FoldError, SequenceGap, UnknownRequest
from turnwire_protocol.model import (
    ActiveRequest,
    AnyState,
    ContextEntry,
    Message,
    MessageStatus,
    Presented,
    PromptUsed,
    to_wire,
)
from turnwire_protocol.partial import PartialMessage

_ENDINGS: dict[str, tuple[AnyState, MessageStatus]] = {
    "message.completed": ("completed", "complete"),
    "message.cancelled": ("cancelled", "cancelled"),
    "message.interrupted": ("interrupted", "interrupted"),
    "message.merged": ("merged", "complete"),
    "message.incomplete": ("incomplete", "incomplete"),
    "message.failed": ("failed", "failed"),
}


class RequestFold:
    """One request from `message.created` to its ending."""

    __slots__ = (
        "answer_created_at",
        "answer_id",
        "conversation_id",
        "created_at",
        "input",
        "last_seq",
        "message_id",
        "partial",
        "position",
        "presented",
        "prompt",
        "request_id",
        "run",
        "state",
        "terminal",
    )

    def __init__(self, input_message: Message, conversation_id: str, last_seq: int) -> None:
        self.request_id = input_message.request_id
        self.conversation_id = conversation_id
        self.input = input_message
        self.created_at = input_message.created_at
        self.last_seq = last_seq
        self.state: AnyState = "preparing"
        self.run = 1
        self.position: int | None = None
        self.presented: Presented | None = None
        self.prompt: PromptUsed | None = None
        self.message_id: str | None = None
        self.answer_id: str | None = None
        self.answer_created_at = 0
        self.partial = PartialMessage()
        self.terminal: ev.TerminalEvent | None = None

    @classmethod
    def from_created(cls, event: ev.MessageCreated) -> RequestFold:
        fold = cls(event.message, event.conversation_id, event.seq)
        fold.answer_id = event.answer_id
        return fold

    @classmethod
    def from_wire(cls, active: ActiveRequest | dict[str, Any]) -> RequestFold:
        """Goes on from an entry of a snapshot's `active`."""
        known = _ACTIVE.validate_python(active) if isinstance(active, dict) else active
        fold = cls(known.input, known.conversation_id, known.last_seq)
        fold.created_at = known.created_at
        fold.state = known.state
        fold.run = known.run
        fold.position = known.position
        fold.presented = known.presented
        fold.message_id = known.message_id
        fold.answer_id = known.answer_id
        if known.message is not None:
            fold.message_id = known.message.message_id
            fold.answer_created_at = known.message.created_at
            fold.prompt = known.message.prompt
            fold.partial = PartialMessage(known.message.parts, known.message.steered or ())
        return fold

    def apply(self, event: object) -> None:
        """Takes the next event of this request in. Raises `OffsetMismatch`, see `PartialMessage.apply`."""
        self.partial.apply(event)
        handler = _ON.get(type(event))
        if handler is not None:
            handler(self, event)
        seq = getattr(event, "seq", None)
        if seq:
            self.last_seq = seq

    def message(self, status: MessageStatus = "partial") -> Message | None:
        """The answer so far; None before it has started."""
        if self.message_id is None:
            return None
        return Message(
            message_id=self.message_id,
            request_id=self.request_id,
            role="assistant",
            parts=self.partial.to_parts(),
            status=status,
            created_at=self.answer_created_at,
            parent_id=self.input.message_id,
            ordinal=self.input.ordinal,
            steered=list(self.partial.steered) or None,
            prompt=self.prompt,
        )

    def to_active(self) -> ActiveRequest:
        return ActiveRequest(
            request_id=self.request_id,
            conversation_id=self.conversation_id,
            state=self.state,
            message_id=self.message_id,
            run=self.run,
            last_seq=self.last_seq,
            created_at=self.created_at,
            position=self.position,
            presented=self.presented,
            input=self.input,
            answer_id=self.answer_id,
            message=self.message(),
        )

    def ending(self) -> list[Message]:
        """What an ended request leaves in the conversation: its input and, if there is one, its answer."""
        assert self.terminal is not None  # only called once it is set
        answer: Message | None = getattr(self.terminal, "message", None)
        if answer is None and getattr(self.terminal, "length", None) is not None:
            # Left out because it is too large; what was streamed is the same text.
            answer = self.message(_ENDINGS[self.terminal.type][1])
        return [self.input] if answer is None else [self.input, answer]

    def _queued(self, event: ev.RequestQueued) -> None:
        self.state = "queued"
        self.position = event.position

    def _delayed(self, event: ev.RequestDelayed) -> None:
        self.state = "queued"
        self.position = None

    def _started(self, event: ev.MessageStarted) -> None:
        self.state = "preparing"
        self.position = None
        self.message_id = event.message_id
        self.run = event.run
        self.prompt = event.prompt
        if not self.answer_created_at:
            self.answer_created_at = event.ts

    def _step(self, event: ev.StepStarted) -> None:
        self.state = "preparing"
        self.position = None
        if event.run is not None:
            self.run = event.run

    def _written(self, event: object) -> None:
        # While tools are open the request waits for them, even when the model goes on writing.
        if self.state == "preparing":
            self.state = "streaming"

    def _tools_moved(self, event: object) -> None:
        states = self.partial.call_states()
        if "waiting_approval" in states:
            self.state = "waiting_approval"
        elif "called" in states or "running" in states:
            self.state = "waiting_tool"
        else:
            self.state = "streaming" if "started" in states else "preparing"

    def _ended(self, event: ev.TerminalEvent) -> None:
        self.terminal = event
        self.state = _ENDINGS[event.type][0]
        self.position = None


_ACTIVE: TypeAdapter[ActiveRequest] = TypeAdapter(ActiveRequest)
_ON: dict[type, Callable[[RequestFold, Any], None]] = {
    ev.OutputTextDelta: RequestFold._written,
    ev.ReasoningDelta: RequestFold._written,
    ev.ToolArgumentsDelta: RequestFold._written,
    ev.ToolStarted: RequestFold._written,
    ev.RequestQueued: RequestFold._queued,
    ev.RequestDelayed: RequestFold._delayed,
    ev.MessageStarted: RequestFold._started,
    ev.StepStarted: RequestFold._step,
    ev.PartReset: RequestFold._tools_moved,
    ev.ToolCalled: RequestFold._tools_moved,
    ev.ToolRunning: RequestFold._tools_moved,
    ev.ToolApprovalRequired: RequestFold._tools_moved,
    ev.ToolApproved: RequestFold._tools_moved,
    ev.ToolDenied: RequestFold._tools_moved,
    ev.ToolCompleted: RequestFold._tools_moved,
    ev.ToolFailed: RequestFold._tools_moved,
    ev.MessageCompleted: RequestFold._ended,
    ev.MessageCancelled: RequestFold._ended,
    ev.MessageInterrupted: RequestFold._ended,
    ev.MessageMerged: RequestFold._ended,
    ev.MessageIncomplete: RequestFold._ended,
    ev.MessageFailed: RequestFold._ended,
}


class ConversationFold:
    """A conversation as somebody knows it who has seen its log up to `seq`."""

    __slots__ = ("active", "context", "epoch", "messages", "seq")

    def __init__(self, epoch: str = "", seq: int = 0) -> None:
        self.epoch = epoch
        self.seq = seq
        self.messages: dict[str, Message] = {}
        self.active: dict[str, RequestFold] = {}
        self.context: dict[str, ContextEntry] = {}

    @classmethod
    def from_snapshot(cls, snapshot: ev.ConversationSnapshot | dict[str, Any]) -> ConversationFold:
        known = ev.event_from_wire(snapshot) if isinstance(snapshot, dict) else snapshot
        if not isinstance(known, ev.ConversationSnapshot):
            raise FoldError("expected a conversation.snapshot")
        fold = cls()
        fold._replace(known)
        return fold

    def apply(self, event: object) -> bool:
        """Takes one event in that came alone in its frame; says whether it changed anything.

        An event at or below the cursor is ignored, one that leaves a seq out raises `SequenceGap`, a delta
        that does not fit `OffsetMismatch`; after either, open again without `since`.
        """
        return self.apply_frame((event,)) == 1

    def apply_frame(self, frame: Sequence[object]) -> int:
        """Takes the events of one frame in, in order, and moves the cursor once; gives how many counted."""
        taken = 0
        fresh: list[tuple[int, int, object]] = []
        for event in frame:
            if isinstance(event, ev.ConversationSnapshot):
                taken += self._take(fresh) + 1
                fresh = []
                self._replace(event)
            elif isinstance(event, ev.LogEvent | ev.UnknownEvent) and event.seq and event.seq > self.seq:
                fresh.append((event.from_seq or event.seq, event.seq, event))
        return taken + self._take(fresh)

    def view(self) -> dict[str, Any]:
        """What two clients compare: the newest branch, what is running and what is shared, in wire form."""
        view: dict[str, Any] = {
            "epoch": self.epoch,
            "seq": self.seq,
            "messages": [to_wire(message) for message in self.branch()],
            "active": [to_wire(request.to_active()) for request in self.running()],
        }
        if self.context:
            view["context"] = [to_wire(self.context[key]) for key in sorted(self.context)]
        return view

    def running(self) -> list[RequestFold]:
        """The live requests in the order of the conversation."""
        return sorted(self.active.values(), key=lambda request: message_order(request.input))

    def branch(self) -> list[Message]:
        """The finished messages from the beginning to the newest leaf.

        The input of a live request is a leaf like any other, so an edited message shows its own branch from
        the moment it is created; the input itself stands in `active`.
        """
        inputs = [request.input for request in self.active.values()]
        # A live answer is a link between an input that waits behind it and what was before.
        answers = {(r.answer_id or r.message_id): r.input.message_id for r in self.active.values()}
        links = {answer: user_message for answer, user_message in answers.items() if answer is not None}
        return newest_branch(self.messages.values(), inputs, links)

    def _take(self, fresh: list[tuple[int, int, object]]) -> int:
        if not fresh:
            return 0
        expected = self.seq + 1
        for first, last, _ in fresh if len(fresh) == 1 else sorted(fresh, key=lambda span: span[:2]):
            if first > expected:
                raise SequenceGap(f"seq {expected} is missing before {first}")
            expected = max(expected, last + 1)
        for _, _, event in fresh:
            self._fold(event)
        self.seq = expected - 1
        return len(fresh)

    def _fold(self, event: object) -> None:
        if isinstance(event, ev.MessageCreated):
            self.active[event.request_id] = RequestFold.from_created(event)
        elif isinstance(event, ev.RequestEvent):
            request = self.active.get(event.request_id)
            if request is None:
                raise UnknownRequest(f"{event.type} of request {event.request_id}, which is not running")
            request.apply(event)
            if request.terminal is not None:
                del self.active[event.request_id]
                for message in request.ending():
                    self.messages[message.message_id] = message
        elif isinstance(event, ev.MessageAmended) and event.message_id in self.messages:
            self.messages[event.message_id] = event.message
        elif isinstance(event, ev.ContextChanged):
            known = self.context.get(event.key)
            # An older one may come after a newer one, when two were set at once.
            if known is None or event.version > known.version:
                self.context[event.key] = ContextEntry(
                    key=event.key, version=event.version, value=event.value, by=event.by
                )

    def _replace(self, snapshot: ev.ConversationSnapshot) -> None:
        self.epoch = snapshot.epoch
        self.seq = snapshot.seq
        self.messages = {message.message_id: message for message in snapshot.messages}
        self.active = {active.request_id: RequestFold.from_wire(active) for active in snapshot.active}
        self.context = {entry.key: entry for entry in snapshot.context or ()}


def message_order(message: Message) -> tuple[int, bool]:
    """Sorts messages of a conversation: by the ordinal of their request, the user's before the answer."""
    return (-1 if message.ordinal is None else message.ordinal, message.role != "user")


def newest_branch(
    messages: Iterable[Message], live_inputs: Iterable[Message] = (), links: dict[str, str] | None = None
) -> list[Message]:
    """The messages on the way from the newest of all back by `parent_id`, oldest first.

    `live_inputs` count as messages when the newest is looked for, but are not part of the result; `links`
    maps the ids of live answers to their inputs.
    """
    finished = {message.message_id: message for message in messages}
    live = {message.message_id: message for message in live_inputs}
    newest = max((*finished.values(), *live.values()), key=message_order, default=None)
    way: list[Message] = []
    seen: set[str] = set()
    at = None if newest is None else newest.message_id
    while at is not None and at not in seen:
        seen.add(at)
        if message := finished.get(at):
            way.append(message)
            at = message.parent_id
        elif message := live.get(at):
            at = message.parent_id
        else:
            at = (links or {}).get(at)
    way.reverse()
    return way
