"""Checks arguments against a JSON Schema (Draft 2020-12) that somebody else wrote: an MCP server, a client.

Such a schema is not trusted. Its size is limited, it may refer to nothing outside itself, and one check does a bounded
amount of work, because nested alternatives and references let a few hundred bytes ask for years. Patterns are not
checked, since a regular expression can do the same; who runs the tool checks them. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any

import orjson
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError, best_match
from jsonschema.validators import extend
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from .errors import InvalidArguments
from .registry import Validate

_SHOWN_FAULTS = 3
_SHOWN_CHARS = 200
_MAX_NESTING = 32
# Keyword checks of one validation. A check takes a few µs: this is a twentieth of a second at worst, and far more than
# a schema of the allowed size needs for arguments that a person could read.
_MAX_WORK = 20_000
_LITERAL = frozenset({"const", "enum", "default", "examples"})
_PATTERNS = frozenset({"pattern", "patternProperties"})


class UnusableSchema(ValueError):
    """The schema cannot be used. The text says why, for whoever sent it."""


class _TooMuchWork(Exception):
    pass


_work: ContextVar[list[int]] = ContextVar("_work")


def _counted(check: Callable[..., Any]) -> Callable[..., Iterator[ValidationError]]:
    def counting(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
        left = _work.get()
        left[0] -= 1
        if left[0] < 0:
            raise _TooMuchWork
        return check(validator, value, instance, schema) or iter(())

    return counting


_Validator: Any = extend(  # type: ignore[no-untyped-call]
    Draft202012Validator, {name: _counted(check) for name, check in Draft202012Validator.VALIDATORS.items()}
)


def schema_validator(schema: Any, max_bytes: int) -> Validate:
    """A check of arguments against ``schema``. Raises `UnusableSchema` when it cannot be used.

    The check returns the arguments as they are (JSON Schema fills in nothing), or raises `InvalidArguments`.
    """
    _check_shape(schema, max_bytes)
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        raise UnusableSchema(f"no valid JSON Schema: {_fault(error)}") from None
    except RecursionError:
        raise UnusableSchema("the schema is nested too deeply") from None
    # Without a way to retrieve anything: a reference that leads outside resolves to nothing.
    validator = _Validator(_without_patterns(schema), registry=Registry())

    def validate(arguments: Mapping[str, Any]) -> dict[str, Any]:
        token = _work.set([_MAX_WORK])
        try:
            errors = [
                error for _, error in zip(range(_SHOWN_FAULTS + 1), validator.iter_errors(arguments), strict=False)
            ]
        except (_TooMuchWork, RecursionError):
            raise InvalidArguments("the arguments are too large to be checked; send less") from None
        except Unresolvable:
            raise InvalidArguments("the arguments cannot be checked: the tool's schema is broken") from None
        finally:
            _work.reset(token)
        if errors:
            raise InvalidArguments(_in_words(errors))
        return dict(arguments)

    return validate


def _check_shape(schema: Any, max_bytes: int) -> None:
    if not isinstance(schema, dict):
        raise UnusableSchema("a tool's parameters are a JSON Schema of an object")
    if schema.get("type", "object") != "object":
        raise UnusableSchema('the parameters must have "type": "object"')
    try:
        size = len(orjson.dumps(schema))
    except (TypeError, ValueError, RecursionError):
        raise UnusableSchema("the schema is no JSON") from None
    if size > max_bytes:
        raise UnusableSchema(f"the schema has {size} bytes; {max_bytes} are allowed")
    resolver = Registry().with_resource("", DRAFT202012.create_resource(schema)).resolver()
    for reference in _references(schema, _MAX_NESTING):
        if not reference.startswith("#"):
            raise UnusableSchema(
                f"the schema refers to {reference[:_SHOWN_CHARS]!r}; only references within it are followed"
            )
        try:
            resolver.lookup(reference)
        except Exception:
            raise UnusableSchema(f"the schema refers to {reference[:_SHOWN_CHARS]!r}, which is not in it") from None


def _references(schema: Any, levels: int) -> Iterator[str]:
    if levels == 0:
        raise UnusableSchema("the schema is nested too deeply")
    if isinstance(schema, list):
        for entry in schema:
            yield from _references(entry, levels - 1)
    elif isinstance(schema, dict):
        for key, value in schema.items():
            if key in ("$ref", "$dynamicRef") and isinstance(value, str):
                yield value
            elif key in ("$id", "$schema") and isinstance(value, str):
                continue
            elif key not in _LITERAL:
                yield from _references(value, levels - 1)


def _without_patterns(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_without_patterns(entry) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {}
    for key, value in schema.items():
        # A parameter may be called "pattern" too: its value is a schema, not a text.
        if key == "pattern" and isinstance(value, str):
            continue
        # "$id" would move the base of local references; "$schema" would choose another dialect.
        if key in ("$id", "$schema") and isinstance(value, str):
            continue
        plain[key] = value if key in _LITERAL else _without_patterns(value)
    if "patternProperties" in schema and isinstance(schema["patternProperties"], dict):
        # What the patterns would have allowed must not be forbidden as "additional".
        for key in ("patternProperties", "additionalProperties", "unevaluatedProperties"):
            plain.pop(key, None)
    return plain


def _in_words(errors: list[ValidationError]) -> str:
    shown = "; ".join(_fault(error) for error in errors[:_SHOWN_FAULTS])
    return f"the arguments are not valid: {shown}" + ("; and more" if len(errors) > _SHOWN_FAULTS else "")


def _fault(error: Any) -> str:
    # Of alternatives the one that came nearest says most.
    if error.context:
        error = best_match([error])
    path = ".".join(map(str, error.absolute_path)) or "arguments"
    message = error.message
    return f"{path}: {message if len(message) <= _SHOWN_CHARS else message[:_SHOWN_CHARS] + '…'}"
