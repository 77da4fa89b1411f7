"""The generated contract: current, valid, and true of every vector."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from tests.protocol.vectors import cases, load

from turnwire_protocol import COMMANDS, EVENTS, event_from_wire, to_wire
from turnwire_protocol.schema import ANSWERS, FOLDER, asyncapi, documents, main


@cache
def validator(name: str) -> Draft202012Validator:
    schema = json.loads((FOLDER / f"{name}.schema.json").read_text("utf-8"))
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


@cache
def definition(name: str) -> Draft202012Validator:
    """One type of the events alone: trying all of them for every message takes long."""
    return Draft202012Validator({**validator("events").schema, "oneOf": [{"$ref": f"#/$defs/{name}"}]})


def refs(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return own + [ref for value in node.values() for ref in refs(value)]
    return [ref for value in node for ref in refs(value)] if isinstance(node, list) else []


@pytest.mark.parametrize("name", ["commands.schema.json", "events.schema.json", "asyncapi.json"])
def test_committed_file_is_current(name: str) -> None:
    assert (FOLDER / name).read_text("utf-8") == documents()[name], "run: python -m turnwire_protocol.schema"


def test_nothing_else_lies_in_the_folder() -> None:
    assert {path.name for path in FOLDER.iterdir()} == set(documents())


@pytest.mark.parametrize("case", cases("commands", "valid"))
def test_valid_command_fits_the_schema(case: dict[str, Any]) -> None:
    validator("commands").validate(case["message"])


# The schema does not say these: what one field demands of another, and what the items of a list must not have in
# common, is no matter of types.
BEYOND_SCHEMA = {
    "a target without steer",
    "in the background, and cancelled when its client goes",
    "parallel to nothing in particular",
    "two tools of one name",
    "a tool whose parameters are a list",
    "an input of empty parts",
    # In a JSON Schema `$` is the end, as in ECMA-262; this validator uses Python's, which allows a line break.
    "a conversation id that ends in a line break",
}


@pytest.mark.parametrize("case", cases("commands", "invalid"))
def test_invalid_command_does_not_fit(case: dict[str, Any]) -> None:
    assert validator("commands").is_valid(case["message"]) == (case["name"] in BEYOND_SCHEMA)


@pytest.mark.parametrize("case", cases("events", "valid"))
def test_event_fits_the_schema(case: dict[str, Any]) -> None:
    validator("events").validate(case["message"])


def test_folded_events_and_snapshots_fit_the_schema() -> None:
    for case in load("fold")["cases"]:
        sent = [message for frame in case["frames"] for message in frame] + [
            case[k] for k in ("snapshot",) if k in case
        ]
        if "view" in case:
            sent.append({"type": "conversation.snapshot", "conversation_id": "conv-1", **case["view"]})
        for message in sent:
            if message["type"] in EVENTS:
                definition(EVENTS[message["type"]].__name__).validate(message)


@pytest.mark.parametrize("field", ["type", "conversation_id", "seq", "ts", "request_id", "part", "offset", "text"])
def test_a_delta_without_one_of_its_fields_does_not_fit(field: str) -> None:
    (delta,) = [c["message"] for c in load("events")["valid"] if c["name"] == "output_text.delta"]
    assert not validator("events").is_valid({name: delta[name] for name in delta if name != field})


def test_no_event_field_is_null() -> None:
    (welcome,) = [c["message"] for c in load("events")["valid"] if c["name"] == "welcome"]
    assert not validator("events").is_valid({**welcome, "expires_at": None})


def test_every_reference_of_the_asyncapi_document_leads_somewhere() -> None:
    document = asyncapi()
    for ref in refs(document):
        at: Any = document
        for step in ref.removeprefix("#/").split("/"):
            at = at[step]
        assert at


def test_every_command_has_an_operation_and_an_answer() -> None:
    assert set(ANSWERS) == set(COMMANDS)
    document = asyncapi()
    assert {name for name in document["operations"] if name != "send"} == {f"receive.{name}" for name in COMMANDS}
    assert set(document["components"]["messages"]) == set(COMMANDS) | set(EVENTS)


def test_files_are_written_to_a_folder_of_choice(tmp_path: Path) -> None:
    assert main([str(tmp_path)]) == 0
    assert {path.name for path in tmp_path.iterdir()} == set(documents())
    assert main([str(tmp_path / "absent")]) == 2


def test_vectors_of_events_are_complete() -> None:
    """A vector shows what is sent, so it has every field that is always there."""
    for case in load("events")["valid"]:
        assert to_wire(event_from_wire(case["message"])) == case["message"], case["name"]
