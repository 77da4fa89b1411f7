"""What an MCP server offers, as tools of ours, and what its tools answer, as results of ours. Pure.

Names: `<server>_<tool>`, always, so that a tool is called the same on every node whatever other servers answer there;
what no provider accepts is replaced, with a digest behind it that keeps names apart. What a server says of its own
tools (hints) is believed unless the settings say otherwise: the operator has chosen the server.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from turnwire_server.settings import McpServerSettings

from .errors import ToolError
from .registry import Run, Tool, is_tool_name
from .schema import schema_validator

_NAME_CHARS = 64
_DIGEST_CHARS = 8
_DESCRIPTION_CHARS = 4096


@dataclass(frozen=True, slots=True)
class McpTool:
    """A tool as its server describes it; a hint is None where it says nothing."""

    name: str
    description: str
    schema: Mapping[str, Any]
    read_only: bool | None = None
    destructive: bool | None = None
    idempotent: bool | None = None


@dataclass(frozen=True, slots=True)
class McpAnswer:
    """``content`` has the blocks of the answer as JSON, ``structured`` the same as a value where there is one."""

    content: Sequence[Mapping[str, Any]]
    structured: Any = None
    is_error: bool = False


def name_of(server: str, tool: str) -> str:
    """What a tool of an MCP server is called here."""
    whole = f"{server}_{tool}"
    if is_tool_name(whole):
        return whole
    digest = hashlib.sha256(whole.encode("utf-8", "replace")).hexdigest()[:_DIGEST_CHARS]
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", whole)[: _NAME_CHARS - _DIGEST_CHARS - 1]
    return f"{plain}_{digest}"


def tool_of(server: McpServerSettings, offered: McpTool, run: Run, *, schema_bytes: int) -> Tool:
    """The tool that runs ``run``. Raises `UnusableSchema`."""
    side_effect = not offered.read_only if server.side_effect is None else server.side_effect
    may_destroy = side_effect and offered.destructive is not False
    asks = server.approval == "always" or (server.approval == "destructive" and may_destroy)
    schema = {"type": "object", "properties": {}, **offered.schema}
    return Tool(
        name=name_of(server.name, offered.name),
        description=(offered.description or offered.name)[:_DESCRIPTION_CHARS],
        parameters=schema,
        validate=schema_validator(schema, schema_bytes),
        run=run,
        where="mcp",
        source=server.name,
        side_effect=side_effect,
        idempotent=bool(offered.idempotent),
        interruptible=not side_effect,
        timeout_s=server.timeout_s,
        approval="always" if asks else "never",
        tenants=None if server.tenants is None else frozenset(server.tenants),
    )


def output_of(answer: McpAnswer) -> Any:
    """What the model is told: the structured value, else the text. Raises `ToolError` for an answer that is one."""
    text = "\n".join(_text(block) for block in answer.content)
    if answer.is_error:
        raise ToolError(text or "the tool failed and did not say why")
    return text if answer.structured is None else answer.structured


def _text(block: Mapping[str, Any]) -> str:
    """A block as text. Pictures and sounds are named, not shown: a tool's result is text for every model."""
    match block:
        case {"type": "text", "text": str(text)}:
            return text
        case {"type": "resource", "resource": {"text": str(text)}}:
            return text
        case {"type": "resource", "resource": {"uri": str(uri)}}:
            return f"[resource {uri}]"
        case {"type": "resource_link", "uri": str(uri), **rest}:
            return f"[resource {rest.get('name', '')} {uri}]"
        case {"type": str(kind), "data": str(data), **rest}:
            return f"[{kind}, {rest.get('mimeType', 'unknown type')}, {len(data) * 3 // 4} bytes]"
    return f"[{block.get('type', 'something unknown')}]"
