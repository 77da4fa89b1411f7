"""The MCP servers of this node: each is reached, kept, listed and reached again by a task of its own.

A server that does not answer harms nobody: its tools are not offered, and it is tried again at growing intervals. The
session lives in the server's task; a call is handed over to it and runs as a child of the session, so that neither a
cancelled turn nor a lost server leaves cancel scopes of the other behind. `mcp` speaks the protocol, `mcp_tools` makes
the tools.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import anyio
from anyio.abc import TaskGroup

from turnwire_server.settings import Limits, McpServerSettings

from .context import ToolContext
from .errors import ToolEffectUnknown
from .mcp import McpSession, McpUnavailable, connected
from .mcp_tools import McpAnswer, McpTool, output_of, tool_of
from .registry import Run, Tool
from .schema import UnusableSchema

logger = logging.getLogger(__name__)

_FIRST_RETRY_S = 0.5
_LOST = "the server of the tool was lost while it ran; its effect is unknown"


class McpServer:
    """One server. ``tools`` are those that can be called now, by our names; none while it does not answer."""

    def __init__(
        self,
        settings: McpServerSettings,
        limits: Limits,
        environ: Mapping[str, str],
        *,
        changed: Callable[[], None] = lambda: None,
        rng: random.Random | None = None,
    ) -> None:
        """``changed`` is called when ``tools`` or ``is_up`` have changed."""
        self.settings = settings
        self.tools: Mapping[str, Tool] = MappingProxyType({})
        self.is_up = False
        self.tried = anyio.Event()
        """Set once the first try has ended, well or badly."""
        self.fault = "it has not answered yet"
        self._limits = limits
        self._environ = environ
        self._changed = changed
        self._rng = rng or random.Random()  # noqa: S311 - only spreads the load
        self._session: McpSession | None = None
        self._group: TaskGroup | None = None
        self._calling = 0
        self._stood = False

    def __repr__(self) -> str:
        return f"<McpServer {self.settings.name} {'up' if self.is_up else 'down'} tools={len(self.tools)}>"

    async def run(self) -> None:
        """Keep the session until cancelled."""
        failures = 0
        while True:
            began = anyio.current_time()
            self._stood = False
            try:
                with anyio.CancelScope() as scope:
                    await self._keep(scope)
                late = f"it did not start, answer and list its tools within {self._limits.mcp_connect_s:g} s"
                self.fault = "the connection was closed" if self._stood else late
            except McpUnavailable as error:
                self.fault = str(error)
            self.tried.set()
            was_up = self._stood
            # A server that stood for a while and fell is worth a quick try; one that falls at once is not.
            lasted = was_up and anyio.current_time() - began > self._limits.mcp_retry_s
            failures = 1 if lasted else failures + 1
            level = logging.WARNING if was_up or failures == 1 else logging.DEBUG
            logger.log(level, "MCP server %s is not available: %s", self.settings.name, self.fault)
            longest = min(self._limits.mcp_retry_s, _FIRST_RETRY_S * 2.0 ** min(failures - 1, 16))
            await anyio.sleep(longest * self._rng.uniform(0.5, 1))

    async def _keep(self, scope: anyio.CancelScope) -> None:
        """One session, from its beginning to its end."""
        scope.deadline = anyio.current_time() + self._limits.mcp_connect_s
        async with connected(self.settings, self._environ) as session:
            offered = await session.tools(self._limits.mcp_tools)
            scope.deadline = math.inf
            async with anyio.create_task_group() as group:
                self._session, self._group, self._stood = session, group, True
                self._offer(offered)
                logger.info("MCP server %s offers %d tools", self.settings.name, len(self.tools))
                self.tried.set()
                group.start_soon(self._list_again, session)
                try:
                    await session.ended.wait()
                finally:
                    self._withdraw()  # at once: to end a program takes seconds, and calls go nowhere meanwhile
                group.cancel_scope.cancel()

    async def _list_again(self, session: McpSession) -> None:
        """List the tools when they have changed and now and then, and find out by it whether the server lives."""
        while True:
            with anyio.move_on_after(self._limits.mcp_refresh_s):
                await session.changed.wait()
            session.changed.clear()
            offered: list[McpTool] | None = None
            with anyio.move_on_after(self._limits.mcp_connect_s):
                offered = await session.tools(self._limits.mcp_tools)
            if offered is not None:
                self._offer(offered)
            elif not self._calling:  # a server that does one thing at a time cannot answer while it runs a call
                raise McpUnavailable(f"it has not answered for {self._limits.mcp_connect_s:g} s")

    def _offer(self, offered: Sequence[McpTool]) -> None:
        wanted = self.settings.tools
        tools: dict[str, Tool] = {}
        for each in offered:
            if wanted is not None and each.name not in wanted:
                continue
            try:
                made = tool_of(
                    self.settings, each, self._runner(each.name), schema_bytes=self._limits.tool_schema_bytes
                )
            except UnusableSchema as error:
                logger.warning("tool %r of MCP server %s is left out: %s", each.name, self.settings.name, error)
                continue
            tools[made.name] = made
        missing = set(wanted or ()) - {each.name for each in offered}
        if missing and not self.is_up:
            logger.warning("MCP server %s has no tools called %s", self.settings.name, ", ".join(sorted(missing)))
        self.tools, self.is_up, self.fault = MappingProxyType(tools), True, ""
        self._changed()

    def _withdraw(self) -> None:
        self._session = self._group = None
        self.tools, self.is_up = MappingProxyType({}), False
        self._changed()

    def _runner(self, name: str) -> Run:
        async def run(arguments: dict[str, Any], context: ToolContext) -> Any:
            return output_of(await self._call(name, arguments, context))

        return run

    async def _call(self, name: str, arguments: dict[str, Any], context: ToolContext) -> McpAnswer:
        """Hand a call over to the session's task and wait for it there."""
        session, group = self._session, self._group
        if session is None or group is None:
            raise ConnectionError(f"the MCP server {self.settings.name} does not answer")
        handed = _Handed(name, arguments, context)
        group.start_soon(handed.run, session)
        self._calling += 1
        try:
            await handed.done.wait()
        finally:
            self._calling -= 1
            handed.scope.cancel()  # on its way out the call tells the server that nobody waits; else it has ended
        if handed.error is not None:
            raise handed.error
        assert handed.answer is not None, "one of the two is set"
        return handed.answer


class _Handed:
    """A call on its way through another task. Then ``done``, and either ``answer`` or ``error``."""

    def __init__(self, name: str, arguments: dict[str, Any], context: ToolContext) -> None:
        self.scope = anyio.CancelScope()
        self.done = anyio.Event()
        self.answer: McpAnswer | None = None
        # What is true if the session ends in the middle.
        self.error: Exception | None = ToolEffectUnknown(_LOST)
        self._name = name
        self._arguments = arguments
        self._context = context

    async def run(self, session: McpSession) -> None:
        try:
            with self.scope:
                self.answer = await session.call(self._name, self._arguments, self._context.progress)
                self.error = None
        except Exception as error:  # whoever waits raises it; the session goes on
            self.error = error
        finally:
            self.done.set()


class McpServers:
    """All MCP servers of this node."""

    def __init__(
        self,
        servers: Sequence[McpServerSettings],
        limits: Limits,
        environ: Mapping[str, str],
        *,
        seen: Callable[[str, bool], None] = lambda name, is_up: None,
    ) -> None:
        """``seen`` is told a server's name and whether it answers, for the figures."""
        self._seen = seen
        self._limits = limits
        self._tools: Mapping[str, Tool] = MappingProxyType({})
        self.servers = [McpServer(each, limits, environ, changed=self._changed) for each in servers]
        self._changed()

    def tools(self) -> Mapping[str, Tool]:
        """What can be called now, by name."""
        return self._tools

    async def start(self, group: TaskGroup) -> None:
        """Reach for all of them in the group's tasks, and wait for them, `limits.mcp_start_s` at most."""
        for server in self.servers:
            group.start_soon(server.run, name=f"MCP server {server.settings.name}")
        with anyio.move_on_after(self._limits.mcp_start_s):
            for server in self.servers:
                await server.tried.wait()

    def _changed(self) -> None:
        # Names begin with their server's, and the settings see to it that no server's name begins with another's.
        self._tools = MappingProxyType({name: tool for server in self.servers for name, tool in server.tools.items()})
        for server in self.servers:
            self._seen(server.settings.name, server.is_up)


async def probe(server: McpServerSettings, limits: Limits, environ: Mapping[str, str]) -> list[McpTool]:
    """What the server offers, from a session that is closed again. Raises `McpUnavailable`."""
    offered: list[McpTool] | None = None
    with anyio.move_on_after(limits.mcp_connect_s):
        async with connected(server, environ) as session:
            offered = await session.tools(limits.mcp_tools)
    if offered is None:
        raise McpUnavailable(f"it did not start, answer and list its tools within {limits.mcp_connect_s:g} s")
    return offered
