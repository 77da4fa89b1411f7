"""Who is offered which tools."""

from __future__ import annotations

from typing import Any

from tests.server.tools.kit import made

from turnwire_server.tools import tool
from turnwire_server.tools.demo import DEMO_TOOLS
from turnwire_server.tools.registry import Tool, ToolRegistry


def a_tool(name: str, **options: Any) -> Tool:
    async def function() -> None: ...

    return made(tool(name=name, description="Does.", **options)(function))


OPEN, OURS, SCOPED = a_tool("open"), a_tool("ours", tenants=["acme"]), a_tool("scoped", scopes=["mail"])


def names(tools: list[Tool]) -> list[str]:
    return [tool.name for tool in tools]


def test_tenants_and_scopes_decide() -> None:
    registry = ToolRegistry([SCOPED, OURS, OPEN], demo_tools=DEMO_TOOLS)
    assert names(registry.offered("acme", {"mail"})) == ["open", "ours", "scoped"]
    assert names(registry.offered("acme", set())) == ["open", "ours"]
    assert names(registry.offered("other", {"mail"})) == ["open", "scoped"]


def test_an_allow_list_only_takes_away() -> None:
    registry = ToolRegistry([SCOPED, OURS, OPEN])
    assert names(registry.offered("other", set(), allowed=["open", "ours", "scoped"])) == ["open"]
    assert registry.offered("acme", {"mail"}, allowed=[]) == []


def test_the_demonstration_has_its_own() -> None:
    registry = ToolRegistry([OPEN], demo_tools=DEMO_TOOLS)
    assert names(registry.demo()) == ["demo_clock", "demo_countdown", "demo_postcard"]
    assert registry.get("demo_clock") is DEMO_TOOLS[0]
    assert names(registry.offered("acme", set())) == ["open"]


def test_tools_that_come_and_go_do_not_hide_fixed_ones() -> None:
    coming: dict[str, Tool] = {}
    registry = ToolRegistry([OPEN], more=lambda: coming)
    assert registry.get("far") is None
    coming.update(far=SCOPED, open=OURS)
    assert registry.get("far") is SCOPED
    assert registry.get("open") is OPEN
    assert registry.offered("acme", {"mail"}) == [SCOPED, OPEN]
