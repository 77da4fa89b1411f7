"""What a client may say about requests, their tools and what they have shown (SPEC sections 4 and 6).

Models only, as in `commands`, which joins them with the rest. What a field allows by itself is checked here,
sizes in `wire`; whether the request, the tool or the message is there, far above.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    WithJsonSchema,
    model_validator,
)

from turnwire_protocol.fields import (
    BaseCommand,
    CallId,
    Id,
    Model,
    Reason,
    Since,
    Traceparent,
    Whole,
    combined,
    expected,
    text,
)
from turnwire_protocol.model import TextPart

TOOL_NAME_PATTERN = r"^[A-Za-z0-9_-]{1,64}$"
_TOOL_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
VARIABLE_NAME_PATTERN = r"^[A-Za-z][A-Za-z0-9_]{0,63}$"
_VARIABLE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
MAX_TOOLS = 64
MAX_VARIABLES = 64
MAX_APPROVAL_S = 604_800


# --- what a create is made of ----------------------------------------------------------------------------


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
        raise expected("some text")
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


class Segments(Model):
    """The text of answers once more, in whole sentences or clauses (SPEC section 5)."""

    unit: Literal["sentence", "clause"]
    first_min_chars: Annotated[int, Field(ge=1, le=1000)] | None = None
    max_hold_ms: Annotated[int, Field(ge=50, le=60_000)] | None = None


def _tool_name(value: Any) -> Any:
    if not isinstance(value, str) or _TOOL_NAME.fullmatch(value) is None:
        raise expected("1 to 64 characters of A-Z a-z 0-9 _ -")
    return value


def _of_an_object(schema: dict[str, Any]) -> dict[str, Any]:
    if schema.get("type", "object") != "object":
        raise expected("a JSON Schema of an object")
    return schema


class ClientTool(Model):
    """A tool that a client of the author runs. `parameters` is a JSON Schema of an object."""

    name: Annotated[str, BeforeValidator(_tool_name), WithJsonSchema({"type": "string", "pattern": TOOL_NAME_PATTERN})]
    description: Annotated[str, text(4096)]
    parameters: Annotated[dict[str, Any], AfterValidator(_of_an_object)]
    side_effect: bool = True
    interruptible: bool = False
    idempotent: bool = False
    approval: Literal["required"] | None = None
    approval_timeout_s: Annotated[int, Field(ge=1, le=MAX_APPROVAL_S)] | None = None


def _unique_names(tools: list[ClientTool]) -> list[ClientTool]:
    if len({tool.name for tool in tools}) < len(tools):
        raise expected("tools of different names")
    return tools


def _variable_names(variables: dict[str, str]) -> dict[str, str]:
    if any(_VARIABLE_NAME.fullmatch(name) is None for name in variables):
        raise expected("names of 1 to 64 characters of A-Z a-z 0-9 _, a letter first")
    return variables


Variables = Annotated[
    dict[str, str],
    Field(max_length=MAX_VARIABLES, json_schema_extra={"propertyNames": {"pattern": VARIABLE_NAME_PATTERN}}),
    AfterValidator(_variable_names),
]
Tools = Annotated[list[ClientTool], Field(max_length=MAX_TOOLS), AfterValidator(_unique_names)]
OnBusy = Literal["queue", "reject", "interrupt", "steer", "parallel"]


class NewRequest(BaseCommand):
    """What `request.create` and `request.regenerate` have in common."""

    request_id: Id
    on_busy: OnBusy = "queue"
    target: Id | None = None
    on_disconnect: Literal["continue", "cancel"] = "continue"
    background: bool = False
    route: Annotated[str, text(128, least=1)] | None = None
    tools: Tools | None = None
    context: dict[str, Any] | None = None
    variables: Variables | None = None
    segments: Segments | None = None
    since: Since | None = None
    metadata: dict[str, Any] | None = None
    traceparent: Traceparent | None = None

    @model_validator(mode="after")
    def _steers_its_target(self) -> Self:
        if self.target is not None and self.on_busy != "steer":
            raise combined("target: only with on_busy 'steer'")
        return self

    @model_validator(mode="after")
    def _outlives_its_client(self) -> Self:
        if self.background and self.on_disconnect == "cancel":
            raise combined("on_disconnect: not 'cancel' with background")
        return self


# --- requests --------------------------------------------------------------------------------------------


class RequestCreate(NewRequest):
    """`parent_id` absent means the conversation's head, an explicit null the beginning (a new first message)."""

    type: Literal["request.create"] = "request.create"
    conversation_id: Id
    input: Input
    parent_id: Id | None = None

    @model_validator(mode="after")
    def _parallel_to_something(self) -> Self:
        if self.on_busy == "parallel" and "parent_id" not in self.model_fields_set:
            raise combined("parent_id: is required with on_busy 'parallel'")
        return self

    @property
    def from_root(self) -> bool:
        """Is this a new first message, a sibling of the conversation's beginning?"""
        return self.parent_id is None and "parent_id" in self.model_fields_set

    def parts(self) -> list[TextPart]:
        """The input as the parts of a message; a string is one text part."""
        if isinstance(self.input, str):
            return [TextPart(text=self.input)]
        return [TextPart(text=part.text) for part in self.input]


class RequestRegenerate(NewRequest):
    """`message_id` is the answer to be given anew, or the user's message that is to be answered anew."""

    type: Literal["request.regenerate"] = "request.regenerate"
    message_id: Id


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


class PresentedAt(Model):
    """The user has seen or heard what comes before `offset` of `part`."""

    part: Whole
    offset: Whole


class PresentedText(Model):
    """The user has seen or heard this text, the beginning of the answer's."""

    text: str


def _presented_kind(value: Any) -> str | None:
    if isinstance(value, PresentedAt | PresentedText):
        return "at" if isinstance(value, PresentedAt) else "text"
    if not isinstance(value, dict):
        return None
    return {(True, False): "text", (False, True): "at"}.get(("text" in value, "part" in value or "offset" in value))


PresentedReport = Annotated[
    Annotated[PresentedAt, Tag("at")] | Annotated[PresentedText, Tag("text")],
    Discriminator(
        _presented_kind,
        custom_error_type="expected",
        custom_error_message="either {part, offset} or {text}",
    ),
]


class RequestInterrupt(BaseCommand):
    type: Literal["request.interrupt"] = "request.interrupt"
    request_id: Id
    phase: Literal["confirmed", "tentative", "retracted"] = "confirmed"
    presented: PresentedReport | None = None


class RequestPresented(BaseCommand):
    """Has no answer unless it is wrong: it is said many times a second."""

    type: Literal["request.presented"] = "request.presented"
    request_id: Id
    part: Whole
    offset: Whole


class FeedbackCreate(BaseCommand):
    """What the numbers of `rating` mean is the product's affair (−1 and 1, or 1 to 5)."""

    type: Literal["feedback.create"] = "feedback.create"
    request_id: Id
    rating: Annotated[int, Field(ge=-5, le=5)]
    comment: Annotated[str, text(4096)] | None = None


# --- tools -----------------------------------------------------------------------------------------------


class ToolCommand(BaseCommand):
    request_id: Id
    call_id: CallId


class ToolClaim(ToolCommand):
    type: Literal["tool.claim"] = "tool.claim"


class ToolResult(ToolCommand):
    """Exactly one of `output`, which may be null, and `error`."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["output"]}, {"required": ["error"]}]})

    type: Literal["tool.result"] = "tool.result"
    output: Any = None
    error: Annotated[str, text(4096, least=1)] | None = None

    @model_validator(mode="after")
    def _says_one(self) -> Self:
        if ("output" in self.model_fields_set) == (self.error is not None):
            raise expected("either output or error")
        return self


class ToolApprove(ToolCommand):
    """`arguments`, where there are any, replace those of the model."""

    type: Literal["tool.approve"] = "tool.approve"
    arguments: dict[str, Any] | None = None


class ToolDeny(ToolCommand):
    type: Literal["tool.deny"] = "tool.deny"
    reason: Reason | None = None


class ToolCancel(ToolCommand):
    type: Literal["tool.cancel"] = "tool.cancel"
