"""The things that messages on the wire are made of: messages, their parts, the state of a request.

Plain slotted dataclasses without behaviour, shared by the events, the fold and the archive. `to_wire` turns
any of them into the object that goes on the wire. Nothing here knows of frames, logs or connections.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from turnwire_protocol.exceptions import RemoteProtocolError

Role = Literal["viewer", "editor", "owner"]
Author = Literal["user", "assistant", "operator"]
MessageStatus = Literal["complete", "partial", "cancelled", "interrupted", "incomplete", "failed"]
ToolWhere = Literal["server", "client", "mcp"]
ToolCallState = Literal["started", "called", "waiting_approval", "running", "completed", "failed"]
LiveState = Literal["queued", "preparing", "streaming", "waiting_tool", "waiting_approval", "waiting_human"]
EndState = Literal["completed", "cancelled", "interrupted", "merged", "incomplete", "failed"]
AnyState = Literal[
    "queued",
    "preparing",
    "streaming",
    "waiting_tool",
    "waiting_approval",
    "waiting_human",
    "completed",
    "cancelled",
    "interrupted",
    "merged",
    "incomplete",
    "failed",
]
Verdict = Literal["live", "replayed", "snapshot"]
Visibility = Literal["private", "tenant"]
UsageSource = Literal["provider", "estimated", "mixed"]

TERMINAL_STATES: frozenset[str] = frozenset({"completed", "cancelled", "interrupted", "merged", "incomplete", "failed"})


@dataclass(slots=True, kw_only=True)
class TextPart:
    kind: Literal["text"] = "text"
    text: str


@dataclass(slots=True, kw_only=True)
class ReasoningPart:
    kind: Literal["reasoning"] = "reasoning"
    text: str


@dataclass(slots=True, kw_only=True)
class Approval:
    """An approval that somebody is asked for; `arguments` are those to be approved."""

    expires_at: int
    arguments: dict[str, Any]


@dataclass(slots=True, kw_only=True)
class ToolCallPart:
    """`arguments` is the text written so far while `started`, the parsed object from `called` on."""

    kind: Literal["tool_call"] = "tool_call"
    call_id: str
    name: str
    where: ToolWhere
    arguments: str | dict[str, Any] = ""
    state: ToolCallState = "started"
    output: Any = None
    error: str | None = None
    approval: Approval | None = None


Part = Annotated[TextPart | ReasoningPart | ToolCallPart, Field(discriminator="kind")]


@dataclass(slots=True, kw_only=True)
class Steered:
    """A request that was folded into an answer: the parts from index `part` on were written knowing it."""

    part: int
    request_id: str


@dataclass(slots=True, kw_only=True)
class PromptUsed:
    """The version of a prompt that an answer was given with."""

    name: str
    version: int


@dataclass(slots=True, kw_only=True)
class Message:
    """One message of a conversation. `ordinal` is the place of its request in the conversation."""

    message_id: str
    request_id: str
    role: Author
    author: str | None = None
    parts: list[Part] = field(default_factory=list)
    status: MessageStatus
    created_at: int
    parent_id: str | None = None
    ordinal: int | None = None
    steered: list[Steered] | None = None
    prompt: PromptUsed | None = None


@dataclass(slots=True, kw_only=True)
class Presented:
    """How far the user has seen or heard an answer."""

    part: int
    offset: int


@dataclass(slots=True, kw_only=True)
class RequestState:
    request_id: str
    conversation_id: str
    state: AnyState
    message_id: str | None = None
    run: int = 1
    last_seq: int
    created_at: int
    position: int | None = None
    presented: Presented | None = None


@dataclass(slots=True, kw_only=True)
class ActiveRequest(RequestState):
    """A request that has not ended, as a snapshot shows it. `answer_id` is what its answer will be called."""

    input: Message
    answer_id: str | None = None
    message: Message | None = None


@dataclass(slots=True, kw_only=True)
class Source:
    """A document that retrieval found."""

    id: str
    title: str | None = None
    score: float | None = None


@dataclass(slots=True, kw_only=True)
class Attempt:
    """One try of a step at one deployment, as the ledger has it."""

    step: int
    attempt: int
    deployment: str
    outcome: Literal["completed", "failed", "cancelled", "hedge_lost", "node_lost"]
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    cost_usd: str
    source: Literal["provider", "estimated"]


@dataclass(slots=True, kw_only=True)
class StepContext:
    """What went into the prompt of a step, in tokens as the deployment's tokenizer counts them, and what did not.

    `tokens` is the whole, of at most `budget` where there is one; `system` (with shared context, summary and memories),
    `history` (turns before this one), `turn` and `tools` are its parts. `messages` are those of the history that are in
    it, `left_out` those that were looked at and had no room, `compacted` the tool results that were shortened;
    `summary` is the version of the summary in it, `memories` how many earlier messages were found again.
    """

    tokens: int
    budget: int | None = None
    system: int
    history: int
    turn: int
    tools: int
    messages: int
    left_out: int
    compacted: int | None = None
    summary: int | None = None
    memories: int | None = None


FailureCode = Literal[
    "provider_auth",
    "provider_rate_limited",
    "provider_timeout",
    "provider_cut",
    "provider_error",
    "unavailable",
    "internal",
]


@dataclass(slots=True, kw_only=True)
class Failure:
    """Why a request failed; `message` is for a person to act on."""

    code: FailureCode
    message: str
    retryable: bool


@dataclass(slots=True, kw_only=True)
class Member:
    user_id: str
    role: Role


@dataclass(slots=True, kw_only=True)
class Presence:
    user_id: str
    state: Any = None


@dataclass(slots=True, kw_only=True)
class ContextEntry:
    """One key of the context that the users of a conversation share. A value of null is one that was taken out."""

    key: str
    version: int
    value: Any = None
    by: str | None = None


@dataclass(slots=True, kw_only=True)
class ConversationItem:
    """One line of `conversation.page`."""

    conversation_id: str
    title: str | None = None
    role: Role
    updated_at: int
    running: bool


@dataclass(slots=True, kw_only=True)
class ServerInfo:
    name: str
    version: str


_WIRE_NAMES: dict[type, tuple[tuple[str, str], ...]] = {}


def _wire_names(kind: type) -> tuple[tuple[str, str], ...]:
    names = _WIRE_NAMES.get(kind)
    if names is None:
        # `type` goes first; a trailing underscore only keeps a name out of Python's way (`from_`).
        found = sorted((f.name for f in fields(kind)), key=lambda name: name != "type")
        names = _WIRE_NAMES[kind] = tuple((name, name.rstrip("_")) for name in found)
    return names


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    # A dict is somebody's own JSON (arguments, metadata): a null in it means something and stays.
    return to_wire(value) if is_dataclass(value) and not isinstance(value, type) else value


def to_wire(obj: Any) -> dict[str, Any]:
    """The wire object of a dataclass of this package; fields that are None are left out, at every depth."""
    out: dict[str, Any] = {}
    for name, wire_name in _wire_names(type(obj)):
        value = getattr(obj, name)
        if value is not None:
            out[wire_name] = value if type(value) is str or type(value) is int else _plain(value)
    return out


_MESSAGE: TypeAdapter[Message] = TypeAdapter(Message)


def message_from_wire(obj: dict[str, Any]) -> Message:
    """The message that `to_wire` wrote; raises `RemoteProtocolError` when something is amiss."""
    try:
        return _MESSAGE.validate_python(obj)
    except ValidationError as error:
        raise RemoteProtocolError(f"message: {fault_of(error)}") from None


def fault_of(error: ValidationError) -> str:
    """The first fault that validation found, with its path and without the value."""
    fault = error.errors(include_url=False, include_input=False, include_context=False)[0]
    return f"{'.'.join(str(step) for step in fault['loc'])}: {fault['msg']}"
