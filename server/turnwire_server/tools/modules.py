"""Finds the tools of the modules that the settings name. What is wrong with them keeps the server from starting.

Faults have the form of the settings' own, so that an operator reads all of it the same way.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterable
from types import ModuleType

from turnwire_server.settings import Fault, Settings, SettingsError

from .declare import declared
from .demo import DEMO_TOOLS
from .errors import ToolDeclarationError
from .registry import Tool


def load_tools(settings: Settings) -> tuple[Tool, ...]:
    """All tools of `tools.modules`, in their order. Raises SettingsError with every fault found.

    Imports the modules, which may do anything; call it once, before the server listens.
    """
    modules = settings.tools.modules
    if modules:
        _look_in_current_directory()
    faults: list[Fault] = []
    found: dict[str, Tool] = {tool.name: tool for tool in DEMO_TOOLS}
    for index, name in enumerate(modules):
        key = f"tools.modules.{index}"
        try:
            module = importlib.import_module(name)
        except ToolDeclarationError as error:
            faults.append(Fault(key, name, str(error)))
        except (Exception, SystemExit) as error:
            faults.append(Fault(key, name, f"cannot be imported: {type(error).__name__}: {error}"))
        else:
            faults += _take(key, name, _tools_of(module), found)
    faults += _check_allow_lists(settings, found)
    if faults:
        raise SettingsError(faults)
    return tuple(tool for tool in found.values() if tool not in DEMO_TOOLS)


def _look_in_current_directory() -> None:
    """A console script does not have it in its path. At the end: nothing there may shadow what is installed."""
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)


def _tools_of(module: ModuleType) -> Iterable[Tool]:
    """Each once, though a module may know a tool by several names."""
    return {id(tool): tool for tool in map(declared, vars(module).values()) if tool is not None}.values()


def _take(key: str, module: str, tools: Iterable[Tool], found: dict[str, Tool]) -> Iterable[Fault]:
    tools = list(tools)
    if not tools:
        yield Fault(key, module, "has no tool: mark functions with @tool (from turnwire_server.tools import tool)")
    for tool in tools:
        known = found.setdefault(tool.name, tool)
        if known is not tool:
            yield Fault(key, module, f"two tools are called {tool.name}: {known.source} and {tool.source}")


def _check_allow_lists(settings: Settings, found: dict[str, Tool]) -> Iterable[Fault]:
    """What MCP servers offer is not known yet: names that begin as theirs do are taken on trust."""
    prefixes = tuple(f"{server.name}_" for server in settings.mcp_servers)
    known = sorted(name for name, tool in found.items() if tool not in DEMO_TOOLS)
    for tenant_id, tenant in settings.tenants.items():
        for name in tenant.tools or ():
            if name not in known and not name.startswith(prefixes):
                there_are = ", ".join([*known, *(f"{prefix}…" for prefix in prefixes)]) or "none"
                yield Fault(f"tenants.{tenant_id}.tools", name, f"no such tool; there are: {there_are}")
