"""Every message that the server sends (SPEC sections 2–8).

Plain slotted dataclasses: deltas are made by the thousand, so nothing is validated when one is built. Events
of a conversation's log derive from `LogEvent`; `seq` and `ts` are filled in by the log. Reading from the wire
(`event_from_wire`) validates, ignores unknown fields and hands unknown types over as `UnknownEvent`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, TypeAdapter, ValidationError

from turnwire_protocol.codes import ErrorCode
from turnwire_protocol.exceptions import CommandError, RemoteProtocolError
from turnwire_protocol.model import (
    ActiveRequest,
    AnyState,
    Attempt,
    ContextEntry,
    ConversationItem,
    Failure,
    Member,
    Message,
    Presence,
    PromptUsed,
    RequestState,
    Role,
    ServerInfo,
    Source,
    StepContext,
    ToolWhere,
    UsageSource,
    Verdict,
    fault_of,
)

# --- events of a log -------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class LogEvent:
    """An event in the log of a conversation. `from_seq`: the first seq that this message stands for."""

    type: str
    conversation_id: str
    seq: int = 0
    ts: int = 0
    from_seq: int | None = None


@dataclass(slots=True, kw_only=True)
class RequestEvent(LogEvent):
    request_id: str


@dataclass(slots=True, kw_only=True)
class TerminalEvent(RequestEvent):
    """The one ending of a request; nothing of that request follows it."""

    terminal: Literal[True] = True


@dataclass(slots=True, kw_only=True)
class MessageCreated(RequestEvent):
    """`answer_id` names the answer before there is one: what waits behind this request has it as parent."""

    type: Literal["message.created"] = "message.created"
    message: Message
    answer_id: str | None = None


@dataclass(slots=True, kw_only=True)
class RequestQueued(RequestEvent):
    type: Literal["request.queued"] = "request.queued"
    position: int
    behind: str | None = None


@dataclass(slots=True, kw_only=True)
class RequestDelayed(RequestEvent):
    """A request in the background has failed and waits until `until` (ms) to be tried for the `retry`th time again."""

    type: Literal["request.delayed"] = "request.delayed"
    retry: int
    until: int
    reason: str


@dataclass(slots=True, kw_only=True)
class MessageStarted(RequestEvent):
    type: Literal["message.started"] = "message.started"
    message_id: str
    run: int = 1
    route: str | None = None
    prompt: PromptUsed | None = None


@dataclass(slots=True, kw_only=True)
class RouteChosen(RequestEvent):
    """The route that the request takes from here on, when it was not known from the beginning."""

    type: Literal["route.chosen"] = "route.chosen"
    route: str
    by: Literal["model", "default"]


@dataclass(slots=True, kw_only=True)
class RetrievalStarted(RequestEvent):
    type: Literal["retrieval.started"] = "retrieval.started"
    query: str | None = None


@dataclass(slots=True, kw_only=True)
class RetrievalCompleted(RequestEvent):
    type: Literal["retrieval.completed"] = "retrieval.completed"
    documents: int
    sources: list[Source] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class RetrievalFailed(RequestEvent):
    type: Literal["retrieval.failed"] = "retrieval.failed"
    reason: str


@dataclass(slots=True, kw_only=True)
class StepStarted(RequestEvent):
    """`run` is present when it is above 1: the step belongs to a run that took the turn over."""

    type: Literal["step.started"] = "step.started"
    step: int
    attempt: int
    deployment: str
    model: str
    run: int | None = None
    context: StepContext | None = None


@dataclass(slots=True, kw_only=True)
class StepFailed(RequestEvent):
    type: Literal["step.failed"] = "step.failed"
    step: int
    attempt: int
    deployment: str
    reason: str
    next: str | None = None


@dataclass(slots=True, kw_only=True)
class ValidationFailed(RequestEvent):
    """What the user has said (`on: "input"`), the model answered or a tool returned is not passed on as it is."""

    type: Literal["validation.failed"] = "validation.failed"
    step: int
    on: Literal["input", "output", "tools"]
    reason: str
    action: Literal["redact", "repair", "fallback", "refuse"]
    guard: str | None = None


@dataclass(slots=True, kw_only=True)
class OutputTextDelta(RequestEvent):
    type: Literal["output_text.delta"] = "output_text.delta"
    part: int
    offset: int
    text: str


@dataclass(slots=True, kw_only=True)
class ReasoningDelta(RequestEvent):
    type: Literal["reasoning.delta"] = "reasoning.delta"
    part: int
    offset: int
    text: str


@dataclass(slots=True, kw_only=True)
class PartReset(RequestEvent):
    type: Literal["part.reset"] = "part.reset"
    part: int
    offset: int


@dataclass(slots=True, kw_only=True)
class ToolStarted(RequestEvent):
    type: Literal["tool.started"] = "tool.started"
    call_id: str
    part: int
    name: str
    where: ToolWhere
    interruptible: bool = False
    side_effect: bool = True


@dataclass(slots=True, kw_only=True)
class ToolArgumentsDelta(RequestEvent):
    type: Literal["tool.arguments.delta"] = "tool.arguments.delta"
    call_id: str
    offset: int
    text: str


@dataclass(slots=True, kw_only=True)
class ToolCalled(RequestEvent):
    type: Literal["tool.called"] = "tool.called"
    call_id: str
    where: ToolWhere
    arguments: dict[str, Any]


@dataclass(slots=True, kw_only=True)
class ToolRunning(RequestEvent):
    type: Literal["tool.running"] = "tool.running"
    call_id: str
    run: int = 1


@dataclass(slots=True, kw_only=True)
class ToolProgress(RequestEvent):
    type: Literal["tool.progress"] = "tool.progress"
    call_id: str
    fraction: float | None = None
    message: str | None = None


@dataclass(slots=True, kw_only=True)
class ToolApprovalRequired(RequestEvent):
    type: Literal["tool.approval_required"] = "tool.approval_required"
    call_id: str
    expires_at: int
    arguments: dict[str, Any]


@dataclass(slots=True, kw_only=True)
class ToolApproved(RequestEvent):
    type: Literal["tool.approved"] = "tool.approved"
    call_id: str
    by: str
    arguments: dict[str, Any] | None = None


@dataclass(slots=True, kw_only=True)
class ToolDenied(RequestEvent):
    type: Literal["tool.denied"] = "tool.denied"
    call_id: str
    by: str
    reason: str | None = None


@dataclass(slots=True, kw_only=True)
class ToolCompleted(RequestEvent):
    type: Literal["tool.completed"] = "tool.completed"
    call_id: str
    output: Any = None
    duration_ms: int


@dataclass(slots=True, kw_only=True)
class ToolFailed(RequestEvent):
    type: Literal["tool.failed"] = "tool.failed"
    call_id: str
    outcome: Literal["failed", "timed_out", "denied", "cancelled", "never_started", "unknown"]
    error: str


@dataclass(slots=True, kw_only=True)
class SteerApplied(RequestEvent):
    type: Literal["steer.applied"] = "steer.applied"
    from_: Annotated[str, Field(alias="from")]


@dataclass(slots=True, kw_only=True)
class UsageCompleted(RequestEvent):
    type: Literal["usage.completed"] = "usage.completed"
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    cost_usd: str
    source: UsageSource
    attempts: list[Attempt] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class MessageCompleted(TerminalEvent):
    type: Literal["message.completed"] = "message.completed"
    message: Message | None = None
    length: int | None = None
    finish_reason: str


@dataclass(slots=True, kw_only=True)
class MessageCancelled(TerminalEvent):
    type: Literal["message.cancelled"] = "message.cancelled"
    message: Message | None = None
    length: int | None = None
    reason: str | None = None
    by: str


@dataclass(slots=True, kw_only=True)
class MessageInterrupted(TerminalEvent):
    type: Literal["message.interrupted"] = "message.interrupted"
    message: Message | None = None
    length: int | None = None
    reason: str
    generated: int
    sent: int
    presented: int
    basis: Literal["reported", "assumed"]


@dataclass(slots=True, kw_only=True)
class MessageMerged(TerminalEvent):
    type: Literal["message.merged"] = "message.merged"
    message: Message | None = None
    into: str


@dataclass(slots=True, kw_only=True)
class MessageIncomplete(TerminalEvent):
    type: Literal["message.incomplete"] = "message.incomplete"
    message: Message | None = None
    length: int | None = None
    reason: Literal["length", "content_filter", "budget", "steps", "node_lost", "deadline"]


@dataclass(slots=True, kw_only=True)
class MessageFailed(TerminalEvent):
    type: Literal["message.failed"] = "message.failed"
    error: Failure
    message: Message | None = None
    length: int | None = None


@dataclass(slots=True, kw_only=True)
class MessageAmended(LogEvent):
    """A report of what was presented that came after the end."""

    type: Literal["message.amended"] = "message.amended"
    message_id: str
    message: Message
    generated: int
    sent: int
    presented: int
    basis: Literal["reported", "assumed"]


@dataclass(slots=True, kw_only=True)
class MemberChanged(LogEvent):
    """Without `role`: the user is no longer a member."""

    type: Literal["member.changed"] = "member.changed"
    user_id: str
    role: Role | None = None
    by: str | None = None


@dataclass(slots=True, kw_only=True)
class ContextChanged(LogEvent):
    type: Literal["context.changed"] = "context.changed"
    key: str
    version: int
    value: Any = None
    by: str | None = None


# --- answers to commands ---------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class Welcome:
    type: Literal["welcome"] = "welcome"
    ref: str | None = None
    connection_id: str
    tenant_id: str
    user_id: str
    node_id: str
    server: ServerInfo
    protocol: int = 1
    server_time: int
    heartbeat_s: float
    expires_at: int | None = None
    features: list[str] = field(default_factory=list)
    limits: dict[str, int | float] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class Pong:
    type: Literal["pong"] = "pong"
    ref: str | None = None
    server_time: int


@dataclass(slots=True, kw_only=True)
class Ack:
    """Which of the fields are there depends on the command, see SPEC sections 3, 4, 6 and 7."""

    type: Literal["ack"] = "ack"
    ref: str | None = None
    request_id: str | None = None
    conversation_id: str | None = None
    call_id: str | None = None
    epoch: str | None = None
    seq: int | None = None
    state: AnyState | None = None
    duplicate: bool | None = None
    verdict: Verdict | None = None
    missed: int | None = None
    outcome: str | None = None
    expires_at: int | None = None


@dataclass(slots=True, kw_only=True)
class ErrorMessage:
    type: Literal["error"] = "error"
    ref: str | None = None
    code: ErrorCode
    message: str
    retryable: bool
    retry_after_ms: int | None = None
    request_id: str | None = None
    details: dict[str, Any] | None = None

    @classmethod
    def of(cls, error: CommandError) -> ErrorMessage:
        return cls(
            ref=error.ref,
            code=error.code,
            message=error.message,
            retryable=error.retryable,
            retry_after_ms=error.retry_after_ms,
            request_id=error.request_id,
            details=error.details,
        )


@dataclass(slots=True, kw_only=True)
class ConversationOpened:
    type: Literal["conversation.opened"] = "conversation.opened"
    ref: str | None = None
    conversation_id: str
    epoch: str
    seq: int
    verdict: Verdict
    missed: int | None = None
    created: bool
    role: Role
    members: list[Member] = field(default_factory=list)
    present: list[Presence] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class ConversationPage:
    type: Literal["conversation.page"] = "conversation.page"
    ref: str | None = None
    items: list[ConversationItem]
    next: str | None = None


@dataclass(slots=True, kw_only=True)
class ConversationMessages:
    type: Literal["conversation.messages"] = "conversation.messages"
    ref: str | None = None
    items: list[Message]
    next: str | None = None


@dataclass(slots=True, kw_only=True)
class RequestResumed(RequestState):
    type: Literal["request.resumed"] = "request.resumed"
    ref: str | None = None
    epoch: str
    seq: int
    verdict: Verdict
    missed: int | None = None


@dataclass(slots=True, kw_only=True)
class RequestStateAnswer(RequestState):
    type: Literal["request.state"] = "request.state"
    ref: str | None = None


# --- neither answers nor in a log ------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class ConversationSnapshot:
    """The state at exactly `seq`; it replaces what the client has."""

    type: Literal["conversation.snapshot"] = "conversation.snapshot"
    conversation_id: str
    epoch: str
    seq: int
    messages: list[Message]
    before: str | None = None
    active: list[ActiveRequest] = field(default_factory=list)
    context: list[ContextEntry] | None = None


@dataclass(slots=True, kw_only=True)
class ConversationDeleted:
    type: Literal["conversation.deleted"] = "conversation.deleted"
    conversation_id: str


@dataclass(slots=True, kw_only=True)
class PresenceChanged:
    type: Literal["presence.changed"] = "presence.changed"
    conversation_id: str
    joined: list[Presence] = field(default_factory=list)
    left: list[Presence] = field(default_factory=list)
    changed: list[Presence] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class RateLimitsUpdated:
    type: Literal["rate_limits.updated"] = "rate_limits.updated"
    limits: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class Notice:
    """`kind` is open: `access_revoked`, `budget`, `log_unavailable` and `slow` are known so far."""

    type: Literal["notice"] = "notice"
    kind: str
    conversation_id: str | None = None
    request_id: str | None = None
    message: str | None = None
    details: dict[str, Any] | None = None


@dataclass(slots=True, kw_only=True)
class GoAway:
    type: Literal["goaway"] = "goaway"
    reason: str
    deadline_ms: int
    retry_after_ms: int


@dataclass(slots=True, kw_only=True)
class OutputTextSegment:
    type: Literal["output_text.segment"] = "output_text.segment"
    conversation_id: str | None = None
    request_id: str
    part: int
    start: int
    end: int
    text: str
    last: bool = False


@dataclass(slots=True, kw_only=True)
class UnknownEvent:
    """A message of a type that this version does not know. With a `seq` it still moves the cursor."""

    type: str
    conversation_id: str | None = None
    seq: int | None = None
    from_seq: int | None = None
    fields: dict[str, Any] = field(default_factory=dict)


AnyLogEvent = (
    MessageCreated
    | RequestQueued
    | RequestDelayed
    | MessageStarted
    | RouteChosen
    | RetrievalStarted
    | RetrievalCompleted
    | RetrievalFailed
    | StepStarted
    | StepFailed
    | ValidationFailed
    | OutputTextDelta
    | ReasoningDelta
    | PartReset
    | ToolStarted
    | ToolArgumentsDelta
    | ToolCalled
    | ToolRunning
    | ToolProgress
    | ToolApprovalRequired
    | ToolApproved
    | ToolDenied
    | ToolCompleted
    | ToolFailed
    | SteerApplied
    | UsageCompleted
    | MessageCompleted
    | MessageCancelled
    | MessageInterrupted
    | MessageMerged
    | MessageIncomplete
    | MessageFailed
    | MessageAmended
    | MemberChanged
    | ContextChanged
)
AnyOtherEvent = (
    Welcome
    | Pong
    | Ack
    | ErrorMessage
    | ConversationOpened
    | ConversationPage
    | ConversationMessages
    | RequestResumed
    | RequestStateAnswer
    | ConversationSnapshot
    | ConversationDeleted
    | PresenceChanged
    | RateLimitsUpdated
    | Notice
    | GoAway
    | OutputTextSegment
)
Event = Annotated[AnyLogEvent | AnyOtherEvent, Field(discriminator="type")]


def _by_wire_name(union: Any) -> dict[str, type]:
    return {kind.__dataclass_fields__["type"].default: kind for kind in get_args(union)}


LOG_EVENTS: dict[str, type] = _by_wire_name(AnyLogEvent)
EVENTS: dict[str, type] = LOG_EVENTS | _by_wire_name(AnyOtherEvent)

Delta = OutputTextDelta | ReasoningDelta | ToolArgumentsDelta
DELTA_TYPES: frozenset[str] = frozenset({"output_text.delta", "reasoning.delta", "tool.arguments.delta"})
TERMINAL_TYPES: frozenset[str] = frozenset(name for name, kind in LOG_EVENTS.items() if issubclass(kind, TerminalEvent))


@cache
def _adapter(kind: type) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _unknown(kind: str, obj: dict[str, Any]) -> UnknownEvent:
    def whole(name: str) -> int | None:
        value = obj.get(name)
        return value if type(value) is int else None

    conversation_id = obj.get("conversation_id")
    return UnknownEvent(
        type=kind,
        conversation_id=conversation_id if isinstance(conversation_id, str) else None,
        seq=whole("seq"),
        from_seq=whole("from_seq"),
        fields=obj,
    )


def event_from_wire(obj: dict[str, Any]) -> AnyLogEvent | AnyOtherEvent | UnknownEvent:
    """The event that `obj` says; raises `RemoteProtocolError` when a known type lacks what it must have."""
    kind = obj.get("type")
    if not isinstance(kind, str):
        raise RemoteProtocolError("type: expected a string")
    known = EVENTS.get(kind)
    if known is None:
        return _unknown(kind, obj)
    try:
        event: AnyLogEvent | AnyOtherEvent = _adapter(known).validate_python(obj)
    except ValidationError as error:
        raise RemoteProtocolError(f"{kind}: {fault_of(error)}") from None
    return event
