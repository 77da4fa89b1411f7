"""Makes a tool's result fit for the log: JSON within the protocol's bounds and within a size. Pure.

A result may be anything of any size. Its size is first estimated by a walk that stops at the limit, so that nothing
large is ever encoded; a text is cut, which a model can still use; anything else that is too large is refused, since
half a JSON value is none.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import orjson
from pydantic import BaseModel

_LARGEST_INTEGER = 2**53 - 1
# An event may be 32 levels deep (SPEC section 1), and in a snapshot a result lies seven levels deep itself.
_MAX_NESTING = 24


class UnusableOutput(Exception):
    """The result cannot be kept. The text is for the model; ``why`` is for the log."""

    def __init__(self, text: str, why: str) -> None:
        super().__init__(text)
        self.why = why


def usable(output: Any, max_bytes: int) -> Any:
    """The result as plain JSON values of at most ``max_bytes`` bytes. Raises `UnusableOutput`."""
    if isinstance(output, str):
        return cut(output, max_bytes)
    if _is_larger(output, max_bytes):
        raise _too_large(max_bytes)
    try:
        encoded = orjson.dumps(output, default=_default)
    except (TypeError, ValueError, RecursionError) as error:
        raise UnusableOutput(
            "the tool ran to its end, but returned something that is no JSON", f"{type(output).__name__}: {error}"
        ) from None
    if len(encoded) > max_bytes:
        raise _too_large(max_bytes)
    plain = orjson.loads(encoded)
    _check(plain, _MAX_NESTING)
    return plain


def cut(text: str, max_bytes: int) -> str:
    """The text, or its beginning and a note of how much is missing, as a JSON text of at most ``max_bytes`` bytes."""
    # A character is at least one byte, so what lies beyond is not even looked at.
    head = text[:max_bytes].encode("utf-8", "replace").decode()
    if len(text) <= max_bytes and len(orjson.dumps(head)) <= max_bytes:
        return head
    note = f"\n[cut: {len(text)} characters in all]"
    room = max_bytes - len(orjson.dumps(note))
    low, high = 0, len(head)
    while low < high:  # escapes take up to six bytes: the longest beginning that fits is searched for
        middle = (low + high + 1) // 2
        if len(orjson.dumps(head[:middle])) - 2 <= room:
            low = middle
        else:
            high = middle - 1
    return head[:low] + note if room > 0 else head[:low]


def _too_large(max_bytes: int) -> UnusableOutput:
    return UnusableOutput(
        f"the tool ran to its end, but its result is larger than the {max_bytes} bytes that are allowed; "
        "ask for less of it",
        f"more than {max_bytes} bytes",
    )


def _is_larger(output: Any, max_bytes: int) -> bool:
    """Whether its JSON is certainly larger. Every value counts at least one byte, so the walk ends, even in a value
    that contains itself."""
    size = 0
    rest = [output]
    while rest and size <= max_bytes:
        value = rest.pop()
        size += 1
        if isinstance(value, str | bytes):
            size += len(value)
        elif isinstance(value, dict):
            if size + 2 * len(value) > max_bytes:
                return True
            rest += value.keys()
            rest += value.values()
        elif isinstance(value, list | tuple):
            if size + len(value) > max_bytes:
                return True
            rest += value
        elif isinstance(value, BaseModel):
            rest += value.__dict__.values()
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            rest += [getattr(value, field.name, None) for field in dataclasses.fields(value)]
    return size > max_bytes


def _default(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__name__} is no JSON")


def _check(value: Any, levels: int) -> None:
    """What the protocol cannot carry (SPEC section 1)."""
    match value:
        case bool():
            return
        case int() if abs(value) > _LARGEST_INTEGER:
            raise UnusableOutput(
                "the tool ran to its end, but returned a number that is too large for JSON",
                "an integer beyond 2^53; return it as a text",
            )
        case dict() | list():
            if levels == 0:
                raise UnusableOutput(
                    "the tool ran to its end, but its result is nested too deeply", "nested too deeply"
                )
            for inner in value.values() if isinstance(value, dict) else value:
                _check(inner, levels - 1)
