"""Every command that a client sends (SPEC sections 2–7), and how one is read from the wire.

Frozen models, strict (nothing is coerced), unknown fields ignored: commands are few, so each is validated in
full, and a fault is answered with the path of the field and what was expected there. Those of requests and
tools are in `request_commands`. Limits that depend on the server's configuration (`input_chars`) and the sizes
of somebody's own JSON are checked in `wire`; who may do what, far above.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from turnwire_protocol.codes import ErrorCode
from turnwire_protocol.exceptions import CommandError
from turnwire_protocol.fields import (
    BaseCommand,
    Id,
    Model,
    PageLimit,
    PageMark,
    Since,
    Title,
    Token,
    Traceparent,
    UserId,
    Whole,
    expected,
    is_id,
    text,
)
from turnwire_protocol.model import Visibility
from turnwire_protocol.request_commands import (
    FeedbackCreate,
    RequestCancel,
    RequestCreate,
    RequestInterrupt,
    RequestPresented,
    RequestRegenerate,
    RequestResume,
    RequestStatus,
    Segments,
    ToolApprove,
    ToolCancel,
    ToolClaim,
    ToolDeny,
    ToolResult,
)

# --- the connection --------------------------------------------------------------------------------------


class ClientInfo(Model):
    name: Annotated[str, text(128)] | None = None
    version: Annotated[str, text(128)] | None = None
    instance_id: Annotated[str, text(128, least=1)] | None = None


class ResumeEntry(Model):
    """Exactly one of the two ids."""

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [{"required": ["conversation_id"]}, {"required": ["request_id"]}]}
    )

    conversation_id: Id | None = None
    request_id: Id | None = None
    since: Since | None = None

    @model_validator(mode="after")
    def _names_one(self) -> Self:
        if (self.conversation_id is None) == (self.request_id is None):
            raise expected("either conversation_id or request_id")
        return self


class Hello(BaseCommand):
    type: Literal["hello"] = "hello"
    token: Token | None = None
    client: ClientInfo | None = None
    # The number of entries is a limit of the server, see `wire`.
    resume: list[ResumeEntry] = Field(default_factory=list)
    traceparent: Traceparent | None = None


class AuthRefresh(BaseCommand):
    type: Literal["auth.refresh"] = "auth.refresh"
    token: Token


class Ping(BaseCommand):
    type: Literal["ping"] = "ping"


# --- conversations ---------------------------------------------------------------------------------------


class ConversationOpen(BaseCommand):
    type: Literal["conversation.open"] = "conversation.open"
    conversation_id: Id
    since: Since | None = None
    create: bool = True
    title: Title | None = None
    metadata: dict[str, Any] | None = None
    visibility: Visibility | None = None
    segments: Segments | None = None


class ConversationLeave(BaseCommand):
    type: Literal["conversation.leave"] = "conversation.leave"
    conversation_id: Id


class ConversationList(BaseCommand):
    type: Literal["conversation.list"] = "conversation.list"
    limit: PageLimit | None = None
    before: PageMark | None = None


class ConversationHistory(BaseCommand):
    type: Literal["conversation.history"] = "conversation.history"
    conversation_id: Id
    limit: PageLimit | None = None
    before: PageMark | None = None
    leaf: Id | None = None


class ConversationShare(BaseCommand):
    """`role` must be there; null takes the user's role away."""

    type: Literal["conversation.share"] = "conversation.share"
    conversation_id: Id
    user_id: UserId
    role: Literal["viewer", "editor", "owner"] | None


class ConversationDelete(BaseCommand):
    type: Literal["conversation.delete"] = "conversation.delete"
    conversation_id: Id


# --- what the users of a conversation share --------------------------------------------------------------


class PresenceSet(BaseCommand):
    """`state` must be there; null takes back what this connection has said, it goes on following."""

    type: Literal["presence.set"] = "presence.set"
    conversation_id: Id
    state: Any


class ContextSet(BaseCommand):
    """`value` must be there; null takes the key out of the prompts, its version stays."""

    type: Literal["context.set"] = "context.set"
    conversation_id: Id
    key: Id
    version: Whole
    value: Any


AnyCommand = (
    Hello
    | AuthRefresh
    | Ping
    | ConversationOpen
    | ConversationLeave
    | ConversationList
    | ConversationHistory
    | ConversationShare
    | ConversationDelete
    | RequestCreate
    | RequestResume
    | RequestStatus
    | RequestCancel
    | RequestInterrupt
    | RequestPresented
    | RequestRegenerate
    | FeedbackCreate
    | ToolClaim
    | ToolResult
    | ToolApprove
    | ToolDeny
    | ToolCancel
    | PresenceSet
    | ContextSet
)
Command = Annotated[AnyCommand, Field(discriminator="type")]

COMMANDS: dict[str, type[BaseCommand]] = {kind.model_fields["type"].default: kind for kind in AnyCommand.__args__}

# --- reading and writing ---------------------------------------------------------------------------------

_EXPECTED = {
    "missing": "is required",
    "string_type": "expected a string",
    "int_type": "expected an integer",
    "bool_type": "expected true or false",
    "list_type": "expected a list",
    "dict_type": "expected an object",
    "model_type": "expected an object",
    "model_attributes_type": "expected an object",
    "string_too_short": "expected at least {min_length} characters",
    "string_too_long": "expected at most {max_length} characters",
    "too_short": "expected at least {min_length} items",
    "too_long": "expected at most {max_length} items",
    "literal_error": "expected {expected}",
    "greater_than_equal": "expected at least {ge}",
    "less_than_equal": "expected at most {le}",
}
# Names that pydantic puts into the path for the branch of a union, not fields.
_BRANCHES = {("input", "text"), ("input", "parts"), ("presented", "at"), ("presented", "text")}


def _path(loc: tuple[int | str, ...]) -> str:
    if loc[:2] in _BRANCHES:
        loc = (loc[0], *loc[2:])
    return ".".join(str(step) for step in loc)


def _fault(error: ErrorDetails) -> str:
    kind = error["type"]
    if kind in _EXPECTED:
        said = _EXPECTED[kind].format(**error.get("ctx", {}))
    else:
        said = f"expected {error['msg']}" if kind == "expected" else error["msg"]
    path = _path(error["loc"])
    return f"{path}: {said}" if path else said


def ref_of(obj: dict[str, Any]) -> str | None:
    """The mark to answer with, when the message has a usable one."""
    mark = obj.get("id")
    return mark if isinstance(mark, str) and 1 <= len(mark) <= 64 else None


def bad_command(obj: dict[str, Any], message: str) -> CommandError:
    """A `bad_command` that says which command it answers."""
    request_id = obj.get("request_id")
    return CommandError(
        ErrorCode.BAD_COMMAND,
        message,
        ref=ref_of(obj),
        request_id=request_id if is_id(request_id) else None,
    )


def parse_command(obj: dict[str, Any]) -> AnyCommand:
    """The command that `obj` says; raises `CommandError(bad_command)` naming the field and what was expected.

    The values sent are never repeated in the error: a token may be among them.
    """
    kind = obj.get("type")
    if not isinstance(kind, str):
        raise bad_command(obj, "type: expected a string")
    model = COMMANDS.get(kind)
    if model is None:
        raise bad_command(obj, f"unknown command type {kind[:64]!r}")
    try:
        command: AnyCommand = model.model_validate(obj)  # type: ignore[assignment]
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise bad_command(obj, _fault(first)) from None
    return command


def command_to_wire(command: BaseCommand) -> dict[str, Any]:
    """The object to send for `command`: the fields that were set, nulls among them, and the type."""
    return {"type": type(command).model_fields["type"].default} | command.model_dump(mode="json", exclude_unset=True)
