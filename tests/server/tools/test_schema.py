"""Schemas that others wrote: what is checked, what is refused, and that a check cannot take long."""

from __future__ import annotations

import time
from typing import Any

import pytest

from turnwire_server.tools.errors import InvalidArguments
from turnwire_server.tools.schema import UnusableSchema, schema_validator

BOOK = {
    "type": "object",
    "properties": {
        "who": {"$ref": "#/$defs/person"},
        "seats": {"type": "array", "items": {"type": "integer"}},
        "how": {"anyOf": [{"const": "bus"}, {"const": "train"}]},
    },
    "required": ["who"],
    "additionalProperties": False,
    "$defs": {"person": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}},
}


def fault(schema: dict[str, Any], arguments: dict[str, Any]) -> str:
    with pytest.raises(InvalidArguments) as caught:
        schema_validator(schema, 10_000)(arguments)
    return str(caught.value)


def test_arguments_that_fit_are_handed_over_as_they_are() -> None:
    arguments = {"who": {"name": "Ann"}, "seats": [1, 2], "how": "bus"}
    assert schema_validator(BOOK, 10_000)(arguments) == arguments


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({}, "arguments: 'who' is a required property"),
        ({"who": {}}, "who: 'name' is a required property"),
        ({"who": {"name": "Ann"}, "seats": [1, "x"]}, "seats.1: 'x' is not of type 'integer'"),
        ({"who": {"name": "Ann"}, "how": "plane"}, "how: "),
        ({"who": {"name": "Ann"}, "more": 1}, "Additional properties are not allowed"),
    ],
)
def test_a_model_is_told_where_and_what_was_expected(arguments: dict[str, Any], text: str) -> None:
    assert text in fault(BOOK, arguments)


def test_long_values_and_many_faults_are_cut() -> None:
    assert len(fault(BOOK, {"who": {"name": "Ann"}, "seats": ["x" * 1000] * 100})) < 1000


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ([], "JSON Schema of an object"),
        ({"type": "array"}, '"type": "object"'),
        ({"type": "object", "properties": {"a": {"type": "whole"}}}, "no valid JSON Schema"),
        ({"type": "object", "description": "x" * 10_000}, "bytes; 10000 are allowed"),
        ({"type": "object", "properties": {"a": {"$ref": "https://example.org/s.json"}}}, "only references within"),
        ({"type": "object", "properties": {"a": {"$ref": "file:///etc/passwd"}}}, "only references within"),
        ({"type": "object", "properties": {"a": {"$ref": "#/$defs/gone"}}}, "which is not in it"),
        ({"type": "object", "properties": {"a": {"default": b"x"}}}, "is no JSON"),
        (deep(50), "nested too deeply"),
    ],
)
def test_a_schema_that_cannot_be_used_is_refused_with_the_reason(schema: Any, text: str) -> None:
    with pytest.raises(UnusableSchema, match=text):
        schema_validator(schema, 10_000)


def laughs(levels: int) -> dict[str, Any]:
    """A few hundred bytes that ask for two to the power of `levels` checks."""
    definitions: dict[str, Any] = {f"d{levels}": {"type": "null"}}
    for level in range(levels):
        below = {"$ref": f"#/$defs/d{level + 1}"}
        definitions[f"d{level}"] = {"anyOf": [below, below]}
    return {"type": "object", "properties": {"a": {"$ref": "#/$defs/d0"}}, "$defs": definitions}


HOSTILE: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (laughs(40), {"a": 1}),
    ({"type": "object", "properties": {"a": {"$ref": "#/properties/a"}}}, {"a": 1}),
    (
        {"type": "object", "properties": {"a": {"items": {"anyOf": [*({"const": n} for n in range(500)), {}]}}}},
        {"a": ["x"] * 10_000},
    ),
]


@pytest.mark.parametrize(("schema", "arguments"), HOSTILE, ids=["laughs", "endless", "alternatives"])
def test_a_check_does_a_bounded_amount_of_work(schema: dict[str, Any], arguments: dict[str, Any]) -> None:
    began = time.process_time()
    assert "too large to be checked" in fault(schema, arguments)
    assert time.process_time() - began < 2


def test_patterns_are_left_to_whoever_runs_the_tool() -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "string", "pattern": "^(a+)+$"}, "pattern": {"type": "string"}},
        "patternProperties": {"^(x+)+$": {"type": "integer"}},
        "additionalProperties": False,
    }
    arguments = {"a": "a" * 40 + "!", "pattern": "p", "x" * 40 + "!": 1}
    assert schema_validator(schema, 10_000)(arguments) == arguments
    assert "pattern: 1 is not of type 'string'" in fault(schema, {"pattern": 1})


def test_an_identifier_does_not_move_references() -> None:
    schema = {**BOOK, "$id": "https://example.org/book", "$schema": "http://json-schema.org/draft-07/schema#"}
    assert schema_validator(schema, 10_000)({"who": {"name": "Ann"}})
