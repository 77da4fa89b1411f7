"""What a tool is, and which tools there are for whom.

A tool is run by the server (a function of ours), by an MCP server, or by a client; whoever runs it, this is what is
known of it. Whether it changes the world decides what happens after a crash: one without side effects, or that is
idempotent, runs again; any other does not, and the model is told that its effect is unknown. Nothing here runs a
tool (`executor` does), and nothing here knows how the tools of an MCP server come and go (`mcp_servers` does).
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Literal

from turnwire_server.settings.tools import TOOL_NAME_PATTERN

from .context import ToolContext

Validate = Callable[[Mapping[str, Any]], dict[str, Any]]
"""Checks arguments and gives what the tool is called with. Raises `InvalidArguments`."""
Run = Callable[[dict[str, Any], ToolContext], Awaitable[Any]]
RunInThread = Callable[[dict[str, Any], ToolContext], Any]


def is_tool_name(name: str) -> bool:
    """Whether every provider accepts the name."""
    return re.match(TOOL_NAME_PATTERN, name) is not None and not name.endswith("\n")


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Tool:
    """One tool. Exactly one of ``run`` and ``run_in_thread`` is set, or neither where a client runs it.

    ``parameters`` is the JSON Schema of the arguments. ``timeout_s``: seconds for one run, None for the limits' time;
    ``retries``: further runs after a failure that may pass; ``max_concurrency``: runs at once on this node.
    ``approval_timeout_s``: seconds a person has to approve, None for the limits' time.
    ``tenants``: who may call it, None for all; ``scopes``: what a token must have, all of them.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]
    validate: Validate
    run: Run | None = None
    run_in_thread: RunInThread | None = None
    where: Literal["server", "mcp", "client"] = "server"
    source: str = ""
    """Who it comes from, for people: a function's full name, an MCP server's name."""
    side_effect: bool = True
    idempotent: bool = False
    interruptible: bool = False
    timeout_s: float | None = None
    retries: int = 0
    max_concurrency: int | None = None
    approval: Literal["never", "always"] = "never"
    approval_timeout_s: float | None = None
    tenants: frozenset[str] | None = None
    scopes: frozenset[str] = frozenset()

    def __repr__(self) -> str:
        return f"<Tool {self.name} {self.where} {self.source}>"

    @property
    def may_run_again(self) -> bool:
        """Whether a run that was lost with its node, or that failed for the moment, may be repeated."""
        return self.idempotent or not self.side_effect

    def is_permitted(self, tenant_id: str, scopes: AbstractSet[str]) -> bool:
        """Whether its declaration lets a user of the tenant, with a token of these scopes, call it."""
        return (self.tenants is None or tenant_id in self.tenants) and self.scopes <= scopes

    def offer(self) -> dict[str, Any]:
        """The tool in the format of OpenAI."""
        function = {"name": self.name, "description": self.description, "parameters": dict(self.parameters)}
        return {"type": "function", "function": function}


class ToolRegistry:
    """The tools of this node by name: the fixed ones, and those of MCP servers as far as they answer now."""

    def __init__(
        self,
        tools: Iterable[Tool] = (),
        *,
        demo_tools: Iterable[Tool] = (),
        more: Callable[[], Mapping[str, Tool]] = dict,
    ) -> None:
        """``more`` gives the tools that come and go; a fixed one of the same name wins."""
        self._fixed = {tool.name: tool for tool in tools}
        self._demo = {tool.name: tool for tool in demo_tools}
        self._more = more

    def __repr__(self) -> str:
        return f"<ToolRegistry fixed={len(self._fixed)} more={len(self._more())}>"

    def get(self, name: str) -> Tool | None:
        """The tool of that name, whoever may call it; None when there is none, or none now."""
        return self._fixed.get(name) or self._demo.get(name) or self._more().get(name)

    def offered(
        self, tenant_id: str, scopes: AbstractSet[str], *, allowed: Collection[str] | None = None
    ) -> list[Tool]:
        """What a model may be offered in a turn of the tenant, by name.

        ``allowed`` is the tenant's own list (settings), None when it has none; it only takes away. The tools of the
        demonstration model are not among them.
        """
        tools = {**self._more(), **self._fixed}
        return [
            tool
            for name, tool in sorted(tools.items())
            if (allowed is None or name in allowed) and tool.is_permitted(tenant_id, scopes)
        ]

    def demo(self) -> list[Tool]:
        """What the demonstration model is offered, and nobody else."""
        return list(self._demo.values())
