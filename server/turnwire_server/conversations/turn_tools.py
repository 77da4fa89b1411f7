"""The tools of one turn: those of the server that its author may use, and those that its clients have brought."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from turnwire_server.gateway.provider import Provider
from turnwire_server.tools.registry import Tool
from turnwire_server.tools.schema import schema_validator

from .services import Services
from .spec import TurnSpec


class TurnTools:
    """``offered`` are those of the current step, by name: what the model may call in it."""

    def __init__(self, services: Services, spec: TurnSpec) -> None:
        self.offered: dict[str, Tool] = {}
        self._services = services
        self._spec = spec
        limit = services.settings.limits.tool_schema_bytes
        self._clients = {declared["name"]: client_tool(declared, limit) for declared in spec.tools}

    def offer(self, provider: Provider, only: Collection[str] | None = None) -> list[Tool]:
        """What a model may call in a step at this provider: of the server's tools ``only`` these."""
        spec, registry = self._spec, self._services.tools.registry
        if provider.deployment.kind == "demo":
            tools = registry.demo()
        else:
            allowed = spec.tenant.get("tools")
            tools = registry.offered(spec.tenant_id, frozenset(spec.scopes), allowed=allowed)
        if only is not None:
            tools = [tool for tool in tools if tool.name in only]
        self.offered = {**{tool.name: tool for tool in tools}, **self._clients}
        return list(self.offered.values())

    def get(self, name: str) -> Tool | None:
        """A tool by its name, whether or not the model may call it now."""
        return self._clients.get(name) or self._services.tools.registry.get(name)


def client_tool(declared: Mapping[str, Any], schema_bytes: int) -> Tool:
    """A tool that a client runs, from its declaration in `request.create`. Raises `UnusableSchema`."""
    return Tool(
        name=declared["name"],
        description=declared["description"],
        parameters=declared["parameters"],
        validate=schema_validator(declared["parameters"], schema_bytes),
        where="client",
        source="client",
        side_effect=declared["side_effect"],
        idempotent=declared["idempotent"],
        interruptible=declared["interruptible"],
        approval="always" if declared.get("approval") == "required" else "never",
        approval_timeout_s=declared.get("approval_timeout_s"),
    )
