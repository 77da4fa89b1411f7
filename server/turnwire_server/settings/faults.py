"""What is wrong with a configuration, in words an operator can act on.

One line for each fault: key, value, what was expected. All faults are collected, so that a start fails once
and not once per mistake. Values of secret keys are never printed, nor are values of unknown keys: those may
be secrets under a mis-spelled name.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import SecretStr, ValidationError
from pydantic_core import ErrorDetails

SECRET_KEYS = frozenset({"jwt_secret", "jwt_public_key", "redis_url", "mongo_url", "env", "headers"})
# jwt_public_key is public, but a private key is easily pasted there.
_USERINFO = re.compile(r"//[^/@\s]*@")
_SHOWN_CHARS = 80


class _Absent:
    def __repr__(self) -> str:
        return "ABSENT"


ABSENT: Any = _Absent()
"""Stands for the value of a fault that has none to show."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One wrong key."""

    key: str
    value: Any
    expected: str

    def line(self, source: str | None = None) -> str:
        shown = "" if self.value is ABSENT else f" {_show(self.key, self.value)}:"
        return f"{self.key}:{shown} {self.expected}" + (f" (set by {source})" if source else "")


class SettingsError(Exception):
    """The configuration cannot be used. `str()` has one line per fault, `faults` the same as values."""

    def __init__(self, faults: Iterable[Fault], sources: Mapping[str, str] | None = None) -> None:
        self.faults = tuple(faults)
        sources = sources or {}
        super().__init__("\n".join(fault.line(sources.get(fault.key)) for fault in self.faults))


def unknown_key(key: str, known: Iterable[str]) -> Fault:
    """An unknown key, with the key that was probably meant."""
    names = sorted(known)
    last = key.rpartition(".")[2]
    close = difflib.get_close_matches(last.lower(), names, n=1)
    hint = f"did you mean {close[0]}?" if close else f"known here: {', '.join(names)}"
    return Fault(key, ABSENT, f"unknown key; {hint}")


def faults_from(error: ValidationError, prefix: str, known: Iterable[str]) -> list[Fault]:
    """Turns pydantic's findings about the table at `prefix` into faults. `known` are the table's keys."""
    faults = []
    for details in error.errors(include_url=False):
        key = ".".join([prefix, *map(str, details["loc"])])
        if details["type"] == "extra_forbidden":
            faults.append(unknown_key(key, known))
        elif details["type"] == "missing":
            faults.append(Fault(key, ABSENT, "missing: must be given"))
        else:
            is_misplaced = details["type"] in _STRUCTURES and isinstance(details["input"], str)
            value = ABSENT if is_misplaced else details["input"]
            faults.append(Fault(key, value, _expected(details)))
    return faults


# A text where a table or list belongs may be anything, a secret too: it is not shown.
_STRUCTURES = frozenset({"model_type", "dict_type", "tuple_type"})
_EXPECTED = {
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a smaller whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "decimal_type": 'must be a number, best written as a text: "0.15"',
    "decimal_parsing": 'must be a number, best written as a text: "0.15"',
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be a text",
    "path_type": "must be a path",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "string_pattern_mismatch": "must match {pattern}",
    "too_short": "must have at least {min_length} entries",
    "too_long": "must have at most {max_length} entries",
    "tuple_type": "must be a list",
    "dict_type": "must be a table",
    "model_type": "must be a table",
    "literal_error": "must be {expected}",
}


def _expected(details: ErrorDetails) -> str:
    if details["type"] == "value_error":
        return str(details["ctx"]["error"])
    template = _EXPECTED.get(details["type"])
    if template is None:
        return details["msg"]
    bounds = details.get("ctx", {})
    # Bounds of floats come as floats, but people write 0, not 0.0.
    return template.format_map({key: _plain(value) for key, value in bounds.items()})


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _show(key: str, value: Any) -> str:
    # Entries of a list have the list's key before them: "auth.algorithms.0".
    if isinstance(value, SecretStr) or SECRET_KEYS & set(key.split(".")):
        return "(secret)"
    if key.endswith("api_key_env") and not re.fullmatch(r"[A-Z][A-Z0-9_]{0,63}", str(value)):
        return "(not shown: may be a key)"
    if isinstance(value, Mapping):
        return "a table"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "a list"
    if not isinstance(value, str | int | float):
        return str(value)
    text = _USERINFO.sub("//…@", json.dumps(value, ensure_ascii=False, default=str))
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}…"
