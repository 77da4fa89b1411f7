"""Every command that a client sends (SPEC sections 2–5).

Frozen models, strict (nothing is coerced), unknown fields ignored: commands are few, so each is validated in
full, and a fault is answered with the path of the field and what was expected there. What PROTOCOL names but
this version does not serve is refused by name, never ignored. Limits that depend on the server's
configuration (`input_chars`) are checked in `wire`; who may do what, far above.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from turnwire_protocol.codes import ErrorCode
from turnwire_protocol.cursor import Cursor
from turnwire_protocol.exceptions import CommandError
from turnwire_protocol.model import TextPart, Visibility

ID_PATTERN = r"^[A-Za-z0-9_.:-]{1,64}$"
_ID = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
MAX_SAFE_INTEGER = 2**53 - 1
MAX_PAGE = 100


def is_id(value: object) -> bool:
    """May `value` stand as an id chosen by a client?"""
    return isinstance(value, str) and _ID.fullmatch(value) is not None


def _text(limit: int, *, least: int = 0) -> Any:
    return StringConstraints(min_length=least, max_length=limit)


def _id(value: Any) -> Any:
    if not is_id(value):
        raise PydanticCustomError("expected", "1 to 64 characters of A-Z a-z 0-9 _ - . :")
    return value


def _cursor(value: Any) -> Any:
    if (
        isinstance(value, dict)
        and isinstance(epoch := value.get("epoch"), str)
        and 0 < len(epoch) <= 128
        and type(seq := value.get("seq")) is int
        and 0 <= seq <= MAX_SAFE_INTEGER
    ):
        return Cursor(epoch, seq)
    if isinstance(value, Cursor):
        return value
    raise PydanticCustomError("expected", "a cursor, {epoch: string, seq: integer from 0}")


_CURSOR_SCHEMA = {
    "type": "object",
    "properties": {
        "epoch": {"type": "string", "minLength": 1, "maxLength": 128},
        "seq": {"type": "integer", "minimum": 0, "maximum": MAX_SAFE_INTEGER},
    },
    "required": ["epoch", "seq"],
}

Id = Annotated[str, BeforeValidator(_id), WithJsonSchema({"type": "string", "pattern": ID_PATTERN})]
Since = Annotated[Cursor, BeforeValidator(_cursor), WithJsonSchema(_CURSOR_SCHEMA)]
UserId = Annotated[str, _text(256, least=1)]
PageLimit = Annotated[int, Field(ge=1, le=MAX_PAGE)]
PageMark = Annotated[str, _text(256, least=1)]
Token = Annotated[str, _text(16_384, least=1)]
Title = Annotated[str, _text(256)]
Reason = Annotated[str, _text(512)]


class Model(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    # Fields of PROTOCOL that this version does not serve: refused, because a client that sends one counts
    # on what it does.
    unavailable: ClassVar[tuple[str, ...]] = ()

    @model_validator(mode="before")
    @classmethod
    def _refuse_unavailable(cls, value: Any) -> Any:
        if isinstance(value, dict):
            for name in cls.unavailable:
                if value.get(name) is not None:
                    raise PydanticCustomError("unavailable", f"{name}: is not available in this version")
        return value


class BaseCommand(Model):
    """`id` is the client's own mark; the answer carries it back as `ref`."""

    id: Annotated[str, _text(64, least=1)] | None = None


# --- the connection --------------------------------------------------------------------------------------


class ClientInfo(Model):
    name: Annotated[str, _text(128)] | None = None
    version: Annotated[str, _text(128)] | None = None
    instance_id: Annotated[str, _text(128, least=1)] | None = None


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
            raise PydanticCustomError("expected", "either conversation_id or request_id")
        return self


class Hello(BaseCommand):
    type: Literal["hello"] = "hello"
    token: Token | None = None
    client: ClientInfo | None = None
    # The number of entries is a limit of the server, see `wire`.
    resume: list[ResumeEntry] = Field(default_factory=list)


class AuthRefresh(BaseCommand):
    type: Literal["auth.refresh"] = "auth.refresh"
    token: Token


class Ping(BaseCommand):
    type: Literal["ping"] = "ping"


# --- conversations ---------------------------------------------------------------------------------------


class ConversationOpen(BaseCommand):
    unavailable = ("segments",)

    type: Literal["conversation.open"] = "conversation.open"
    conversation_id: Id
    since: Since | None = None
    create: bool = True
    title: Title | None = None
    metadata: dict[str, Any] | None = None
    visibility: Visibility | None = None


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


# --- requests --------------------------------------------------------------------------------------------


class InputText(Model):
    """The only kind of part that a user's input has in this version."""

    kind: Literal["text"]
    text: str


def _input_kind(value: Any) -> str | None:
    if isinstance(value, str):
        return "text"
    return "parts" if isinstance(value, list) else None


def _some_text(parts: list[InputText]) -> list[InputText]:
    if not any(part.text for part in parts):
        raise PydanticCustomError("expected", "some text")
    return parts


Input = Annotated[
    Annotated[str, Field(min_length=1), Tag("text")]
    | Annotated[list[InputText], Field(min_length=1), AfterValidator(_some_text), Tag("parts")],
    Discriminator(
        _input_kind,
        custom_error_type="expected",
        custom_error_message="a string or a list of text parts",
    ),
]


def _on_busy(value: Any) -> Any:
    if value in ("interrupt", "steer", "parallel"):
        raise PydanticCustomError("unavailable", f"'{value}' is not available in this version")
    return value


class RequestCreate(BaseCommand):
    """`parent_id` absent means the conversation's head, an explicit null the beginning (a new first message)."""

    unavailable = ("tools", "segments", "context", "target")

    type: Literal["request.create"] = "request.create"
    request_id: Id
    conversation_id: Id
    input: Input
    on_busy: Annotated[Literal["queue", "reject"], BeforeValidator(_on_busy)] = "queue"
    on_disconnect: Literal["continue", "cancel"] = "continue"
    parent_id: Id | None = None
    route: Annotated[str, _text(128, least=1)] | None = None
    since: Since | None = None
    metadata: dict[str, Any] | None = None

    @property
    def from_root(self) -> bool:
        """Is this a new first message, a sibling of the conversation's beginning?"""
        return self.parent_id is None and "parent_id" in self.model_fields_set

    def parts(self) -> list[TextPart]:
        """The input as the parts of a message; a string is one text part."""
        if isinstance(self.input, str):
            return [TextPart(text=self.input)]
        return [TextPart(text=part.text) for part in self.input]


class RequestResume(BaseCommand):
    type: Literal["request.resume"] = "request.resume"
    request_id: Id
    since: Since | None = None


class RequestStatus(BaseCommand):
    type: Literal["request.status"] = "request.status"
    request_id: Id


class RequestCancel(BaseCommand):
    type: Literal["request.cancel"] = "request.cancel"
    request_id: Id
    reason: Reason | None = None


class FeedbackCreate(BaseCommand):
    """What the numbers of `rating` mean is the product's affair (−1 and 1, or 1 to 5)."""

    type: Literal["feedback.create"] = "feedback.create"
    request_id: Id
    rating: Annotated[int, Field(ge=-5, le=5)]
    comment: Annotated[str, _text(4096)] | None = None


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
    | FeedbackCreate
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
    "literal_error": "expected {expected}",
    "greater_than_equal": "expected at least {ge}",
    "less_than_equal": "expected at most {le}",
}
# Names that pydantic puts into the path for the branch of a union, not fields.
_BRANCHES = {("input", "text"), ("input", "parts")}


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
