"""What is made of an MCP server's tools and answers."""

from __future__ import annotations

from typing import Any

import pytest

from turnwire_server.settings import McpServerSettings
from turnwire_server.tools.context import ToolContext
from turnwire_server.tools.errors import InvalidArguments, ToolError
from turnwire_server.tools.mcp_tools import McpAnswer, McpTool, name_of, output_of, tool_of
from turnwire_server.tools.registry import Tool, is_tool_name
from turnwire_server.tools.schema import UnusableSchema


async def nothing(arguments: dict[str, Any], context: ToolContext) -> None: ...


def made(offered: McpTool, **settings: Any) -> Tool:
    server = McpServerSettings(**{"name": "git", "command": "git-server", **settings})
    return tool_of(server, offered, nothing, schema_bytes=1000)


LOG = McpTool("log", "Shows.", {"type": "object", "properties": {"n": {"type": "integer"}}})


def test_a_tool_is_called_by_its_server_s_name_and_its_own() -> None:
    tool = made(LOG)
    assert (tool.name, tool.where, tool.source) == ("git_log", "mcp", "git")
    assert tool.validate({"n": 1}) == {"n": 1}
    with pytest.raises(InvalidArguments):
        tool.validate({"n": "x"})


@pytest.mark.parametrize("name", ["a.b", "a/b", "grüße", "x" * 100, "", "a b", "\ud800"])
def test_names_that_no_provider_accepts_are_replaced_and_stay_apart(name: str) -> None:
    made_name = name_of("git", name)
    assert is_tool_name(made_name)
    assert made_name.startswith("git_")
    assert made_name != name_of("git", name + "!")


@pytest.mark.parametrize(
    ("hints", "settings", "side_effect", "idempotent", "approval"),
    [
        ({}, {}, True, False, "never"),
        ({"read_only": True}, {}, False, False, "never"),
        ({"idempotent": True}, {}, True, True, "never"),
        ({"read_only": True}, {"side_effect": True}, True, False, "never"),
        ({}, {"side_effect": False}, False, False, "never"),
        ({}, {"approval": "always"}, True, False, "always"),
        ({}, {"approval": "destructive"}, True, False, "always"),
        ({"destructive": True}, {"approval": "destructive"}, True, False, "always"),
        ({"destructive": False}, {"approval": "destructive"}, True, False, "never"),
        ({"read_only": True}, {"approval": "destructive"}, False, False, "never"),
    ],
)
def test_hints_are_believed_unless_the_settings_say_otherwise(
    hints: dict[str, Any], settings: dict[str, Any], side_effect: bool, idempotent: bool, approval: str
) -> None:
    tool = made(McpTool("log", "", {"type": "object"}, **hints), **settings)
    assert (tool.side_effect, tool.idempotent, tool.approval) == (side_effect, idempotent, approval)
    assert tool.interruptible is not side_effect
    assert tool.description == "log", "a provider wants one"


def test_settings_go_over_to_the_tools() -> None:
    tool = made(LOG, tenants=["acme"], timeout_s=5)
    assert tool.timeout_s == 5
    assert tool.is_permitted("acme", set())
    assert not tool.is_permitted("other", set())


def test_a_schema_that_cannot_be_used_is_refused() -> None:
    with pytest.raises(UnusableSchema):
        made(McpTool("log", "", {"type": "object", "properties": {"a": {"$ref": "http://x.example/"}}}))


@pytest.mark.parametrize(
    ("content", "structured", "output"),
    [
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], None, "a\nb"),
        ([{"type": "text", "text": "{}"}], {"a": 1}, {"a": 1}),
        ([{"type": "text", "text": "0"}], 0, 0),
        ([], None, ""),
        ([{"type": "image", "data": "AAAA", "mimeType": "image/png"}], None, "[image, image/png, 3 bytes]"),
        ([{"type": "resource", "resource": {"uri": "file:///x", "text": "inside"}}], None, "inside"),
        ([{"type": "resource", "resource": {"uri": "file:///x", "blob": "AA"}}], None, "[resource file:///x]"),
        ([{"type": "resource_link", "uri": "file:///x", "name": "x"}], None, "[resource x file:///x]"),
        ([{"type": "hologram"}], None, "[hologram]"),
    ],
)
def test_an_answer_is_its_value_or_its_text(content: list[dict[str, Any]], structured: Any, output: Any) -> None:
    assert output_of(McpAnswer(content, structured)) == output


def test_an_answer_that_is_an_error_is_one() -> None:
    with pytest.raises(ToolError, match="no such branch"):
        output_of(McpAnswer([{"type": "text", "text": "no such branch"}], is_error=True))
    with pytest.raises(ToolError, match="did not say why"):
        output_of(McpAnswer([], is_error=True))
