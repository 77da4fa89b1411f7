"""What every table of the configuration has in common.

Tables are frozen: they are read once, at the start, and shared by everything afterwards. Unknown keys are
refused (a mis-spelled limit must not silently be the default), and numbers are numbers: Python would
take `true` for 1. This module knows no key of its own; the tables are in `tables`, `limits` and `models`.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, get_args
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
)

ID_PATTERN = r"^[A-Za-z0-9_.:-]{1,64}$"
"""The id alphabet of the wire protocol (SPEC section 1), also used for names in the configuration."""

_NAME = re.compile(ID_PATTERN)


def is_name(value: str) -> bool:
    """Whether it may be a name in the configuration, or of what is kept beside it."""
    return _NAME.fullmatch(value) is not None


Name = Annotated[str, Field(pattern=ID_PATTERN)]
# Ceilings that only catch slips of the hand: a year, a billion, a terabyte.
MOST_S, MOST_COUNT, MOST_BYTES = 31_536_000, 1_000_000_000, 2**40
Count = Annotated[int, Field(ge=1, le=MOST_COUNT)]
Bytes = Annotated[int, Field(ge=1, le=MOST_BYTES)]
Seconds = Annotated[float, Field(gt=0, le=MOST_S)]
SecondsOrNone = Annotated[float, Field(ge=0, le=MOST_S)]


def _http_address(value: str) -> str:
    try:
        parts = urlsplit(value)
        is_usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_usable = False
    if not is_usable:
        raise ValueError("must be an address that begins with http:// or https://")
    return value


HttpAddress = Annotated[str, Field(max_length=2048), AfterValidator(_http_address)]


class Section(BaseModel):
    """A table of the configuration file."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_boolean_where_a_number_belongs(cls, value: Any, info: ValidationInfo) -> Any:
        assert info.field_name is not None  # "*" stands for fields, all of which have a name
        annotation = cls.model_fields[info.field_name].annotation
        if isinstance(value, bool) and annotation is not bool and bool not in get_args(annotation):
            raise ValueError("must not be true or false")
        return value
