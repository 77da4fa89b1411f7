"""Whether an answer fits the schema of its route, and what a model is told that has to answer again. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

_SHOWN_CHARS = 500


def misfit(text: str, schema: Mapping[str, Any]) -> str | None:
    """Why a text is not what the schema asks for, in words for the model; None when it is.

    >>> misfit('{"a": 1}', {"type": "object", "required": ["b"]})
    "'b' is a required property"
    """
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        return f"it is no JSON: {error}"[:_SHOWN_CHARS]
    fault = best_match(Draft202012Validator(schema).iter_errors(value))
    if fault is None:
        return None
    place = "/".join(map(str, fault.absolute_path))
    return f"{f'at {place}: ' if place else ''}{fault.message}"[:_SHOWN_CHARS]


def instruction(schema: Mapping[str, Any]) -> str:
    """What a model is told that cannot be held to a schema by its provider."""
    return (
        "Answer with JSON alone, without a code fence or any other text. It has to fit this JSON Schema:\n"
        f"{orjson.dumps(schema).decode()}"
    )


def to_repair(prompt: Sequence[dict[str, Any]], rejected: str, reason: str) -> list[dict[str, Any]]:
    """The prompt of the next try: what was said, and what is wrong with it."""
    said = rejected.strip()
    complaint = f"Your answer cannot be used: {reason}. Answer again, with the whole corrected answer and nothing else."
    if said or prompt[-1]["role"] != "user":
        answer = {"role": "assistant", "content": said or "(nothing)"}
        return [*prompt, answer, {"role": "user", "content": complaint}]
    last = {"role": "user", "content": f"{prompt[-1]['content']}\n\n{complaint}"}
    return [*prompt[:-1], last]
