"""Writes the machine-readable contract from the models: JSON Schema and AsyncAPI.

`python -m turnwire_protocol.schema [FOLDER]` writes `commands.schema.json`, `events.schema.json` and
`asyncapi.json`; without a folder, into `protocol/schema` of the source tree. The schema of commands says what
the server takes, that of events what it sends: there a field is required when it is always there, and an
optional one is absent rather than null. A test keeps the committed files current.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from turnwire_protocol.commands import COMMANDS, Command
from turnwire_protocol.events import EVENTS, LOG_EVENTS, Event

DIALECT = "https://json-schema.org/draft/2020-12/schema"
FOLDER = Path(__file__).parents[1] / "schema"

# What answers each command, besides `error`; `request.resumed` and `conversation.opened` also answer the
# `resume` entries of a hello.
ANSWERS: dict[str, tuple[str, ...]] = {
    "hello": ("welcome", "conversation.opened", "request.resumed"),
    "auth.refresh": ("ack",),
    "ping": ("pong",),
    "conversation.open": ("conversation.opened",),
    "conversation.leave": ("ack",),
    "conversation.list": ("conversation.page",),
    "conversation.history": ("conversation.messages",),
    "conversation.share": ("ack",),
    "conversation.delete": ("ack",),
    "request.create": ("ack",),
    "request.resume": ("request.resumed",),
    "request.status": ("request.state",),
    "request.cancel": ("ack",),
    "request.interrupt": ("ack",),
    "request.presented": (),
    "request.regenerate": ("ack",),
    "feedback.create": ("ack",),
    "tool.claim": ("ack",),
    "tool.result": ("ack",),
    "tool.approve": ("ack",),
    "tool.deny": ("ack",),
    "tool.cancel": ("ack",),
    "presence.set": ("ack",),
    "context.set": ("ack",),
}


def command_schema() -> dict[str, Any]:
    """What the server takes. A null where a field may be absent counts as absent, so it is allowed here."""
    schema = _tidy(TypeAdapter(Command).json_schema())
    for definition in schema["$defs"].values():
        properties = definition.get("properties", {})
        for field in properties.values():
            if "const" in field or field.get("default", "") is None:
                field.pop("default", None)
        if "const" in properties.get("type", {}):
            definition["required"] = ["type", *definition.get("required", [])]
    return {"$schema": DIALECT, "title": "Turnwire commands, client to server", **schema}


def event_schema() -> dict[str, Any]:
    """What the server sends."""
    schema = _tidy(TypeAdapter(Event).json_schema())
    for definition in schema["$defs"].values():
        _as_sent(definition)
    return {"$schema": DIALECT, "title": "Turnwire messages, server to client", **schema}


def asyncapi() -> dict[str, Any]:
    """Both directions as one AsyncAPI 3 document, told from the server's side."""
    schemas = _components(command_schema()) | _components(event_schema())
    kinds: dict[str, type] = {**COMMANDS, **EVENTS}
    channel = "#/channels/v1"
    operations: dict[str, Any] = {}
    for name in COMMANDS:
        answers = [{"$ref": f"{channel}/messages/{answer}"} for answer in (*ANSWERS[name], "error")]
        operations[f"receive.{name}"] = {
            "action": "receive",
            "channel": {"$ref": channel},
            "messages": [{"$ref": f"{channel}/messages/{name}"}],
            "reply": {"channel": {"$ref": channel}, "messages": answers},
        }
    operations["send"] = {
        "action": "send",
        "channel": {"$ref": channel},
        "summary": "Answers, the events of followed conversations and notices.",
        "messages": [{"$ref": f"{channel}/messages/{name}"} for name in EVENTS],
    }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Turnwire wire protocol",
            "version": "1",
            "description": "The contract in prose is protocol/SPEC.md. A frame holds one message or an array of them.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {"local": {"host": "127.0.0.1:8787", "protocol": "ws"}},
        "channels": {
            "v1": {
                "address": "/v1",
                "description": "Subprotocol turnwire.v1.json (text frames) or turnwire.v1.msgpack (binary frames).",
                "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in kinds},
                "bindings": {"ws": {"method": "GET"}},
            }
        },
        "operations": operations,
        "components": {
            "messages": {name: _message(name, kind) for name, kind in kinds.items()},
            "schemas": dict(sorted(schemas.items())),
        },
    }


def documents() -> dict[str, str]:
    """The files by name, as they are written."""
    made = {
        "commands.schema.json": command_schema(),
        "events.schema.json": event_schema(),
        "asyncapi.json": asyncapi(),
    }
    return {name: json.dumps(document, ensure_ascii=False, indent=2) + "\n" for name, document in made.items()}


def _message(name: str, kind: type) -> dict[str, Any]:
    about = {"name": name, "payload": {"$ref": f"#/components/schemas/{kind.__name__}"}}
    return about | ({"tags": [{"name": "log"}]} if name in LOG_EVENTS else {})


def _components(schema: dict[str, Any]) -> dict[str, Any]:
    text = json.dumps(schema["$defs"]).replace('"#/$defs/', '"#/components/schemas/')
    moved: dict[str, Any] = json.loads(text)
    return moved


def _tidy(node: Any) -> Any:
    """Without generated titles, and without `discriminator`: every branch has its own constant `type`."""
    if isinstance(node, list):
        return [_tidy(item) for item in node]
    if not isinstance(node, dict):
        return node
    return {
        key: {name: _tidy(item) for name, item in value.items()} if key in ("properties", "$defs") else _tidy(value)
        for key, value in node.items()
        if key not in ("title", "discriminator")
    }


def _as_sent(definition: dict[str, Any]) -> None:
    """A field is optional exactly when it is left out where Python has None."""
    properties = definition.get("properties")
    if properties is None:
        return
    required = []
    for name, field in properties.items():
        if field.pop("default", "") is None:
            kinds = [kind for kind in field.get("anyOf", []) if kind != {"type": "null"}]
            if len(kinds) == 1:
                del field["anyOf"]
                field.update(kinds[0])
            elif kinds:
                field["anyOf"] = kinds
        else:
            required.append(name)
    definition["required"] = required


def main(arguments: list[str]) -> int:
    folder = Path(arguments[0]) if arguments else FOLDER
    if not folder.is_dir():
        sys.stderr.write(f"{folder} is not a folder; name the one to write to\n")
        return 2
    for name, text in documents().items():
        (folder / name).write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
