"""What the models of commands are made of: values with their checks, and the two bases.

Strict (nothing is coerced), frozen, unknown fields ignored. A fault is raised as `expected(...)`, so that its
answer names the field and what was expected there; `commands` makes the sentence of it.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, WithJsonSchema
from pydantic_core import PydanticCustomError

from turnwire_protocol.cursor import Cursor

ID_PATTERN = r"^[A-Za-z0-9_.:-]{1,64}$"
_ID = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
MAX_SAFE_INTEGER = 2**53 - 1
MAX_PAGE = 100


def is_id(value: object) -> bool:
    """May `value` stand as an id chosen by a client?"""
    return isinstance(value, str) and _ID.fullmatch(value) is not None


def expected(what: str) -> PydanticCustomError:
    """The fault of a field: raise it in a validator."""
    return PydanticCustomError("expected", what)


def combined(message: str) -> PydanticCustomError:
    """The fault of a field that is wrong only because of another; `message` begins with the field's name."""
    return PydanticCustomError("combined", message)


def text(limit: int, *, least: int = 0) -> Any:
    """A string's length, in characters."""
    return StringConstraints(min_length=least, max_length=limit)


def _id(value: Any) -> Any:
    if not is_id(value):
        raise expected("1 to 64 characters of A-Z a-z 0-9 _ - . :")
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
    raise expected("a cursor, {epoch: string, seq: integer from 0}")


TRACEPARENT_PATTERN = r"^(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}$"
_TRACEPARENT = re.compile(TRACEPARENT_PATTERN.strip("^$"))


def _traceparent(value: Any) -> Any:
    if not isinstance(value, str) or _TRACEPARENT.fullmatch(value) is None:
        raise expected("a W3C traceparent, version-trace-parent-flags in lower-case hexadecimal digits")
    return value


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
Traceparent = Annotated[
    str, BeforeValidator(_traceparent), WithJsonSchema({"type": "string", "pattern": TRACEPARENT_PATTERN})
]
"""Where the client's own trace stands (W3C Trace Context)."""
Whole = Annotated[int, Field(ge=0, le=MAX_SAFE_INTEGER)]
UserId = Annotated[str, text(256, least=1)]
CallId = Annotated[str, text(256, least=1)]
PageLimit = Annotated[int, Field(ge=1, le=MAX_PAGE)]
PageMark = Annotated[str, text(256, least=1)]
Token = Annotated[str, text(16_384, least=1)]
Title = Annotated[str, text(256)]
Reason = Annotated[str, text(512)]


class Model(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")


class BaseCommand(Model):
    """`id` is the client's own mark; the answer carries it back as `ref`."""

    id: Annotated[str, text(64, least=1)] | None = None
