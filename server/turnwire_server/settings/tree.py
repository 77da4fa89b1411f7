"""The whole configuration as one frozen tree, as every other module gets it.

`Settings` comes from `load_settings` or `build_settings` (module `load`), which judge it and fill in what is
derived: after that there is always at least one deployment and one route, and every name leads somewhere.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import ConfigDict, SecretStr

from turnwire_server.settings.addresses import passwords_in
from turnwire_server.settings.context import ContextSettings
from turnwire_server.settings.limits import Limits
from turnwire_server.settings.models import Deployment, GuardSettings, Route, Tenant
from turnwire_server.settings.retrieval import RetrievalSettings
from turnwire_server.settings.section import Name, Section
from turnwire_server.settings.tables import (
    AlertSettings,
    AuthSettings,
    JobSettings,
    ServerSettings,
    StorageSettings,
    TelemetrySettings,
)
from turnwire_server.settings.tools import McpServerSettings, ToolsSettings

DEFAULT_TENANT = "default"


class Settings(Section):
    """Everything that can be configured."""

    model_config = ConfigDict(revalidate_instances="never")

    server: ServerSettings
    """The listener and the process."""
    storage: StorageSettings
    """The log and the archive."""
    auth: AuthSettings
    """Whose tokens are believed."""
    limits: Limits
    """Sizes, counts and times."""
    context: ContextSettings
    """What goes into prompts of what was said before."""
    retrieval: RetrievalSettings
    """Documents of tenants."""
    alerts: AlertSettings
    """Who is told when a budget comes to its end."""
    telemetry: TelemetrySettings
    """Traces of requests."""
    jobs: JobSettings
    """Who is told when a request in the background has ended."""
    deployments: tuple[Deployment, ...]
    """Models at providers; never empty."""
    routes: tuple[Route, ...]
    """Ordered choices of deployments; never empty, the first is the default."""
    guards: tuple[GuardSettings, ...]
    """What may not be said; usually none."""
    tools: ToolsSettings
    """Tools written in Python."""
    mcp_servers: tuple[McpServerSettings, ...]
    """Servers of tools; usually none."""
    tenants: dict[Name, Tenant]
    """What each tenant gets; `default` stands for every tenant not named."""

    def tenant(self, tenant_id: str) -> Tenant | None:
        """The tenant's settings, those of `default` for one not configured, None when it is to be refused."""
        return self.tenants.get(tenant_id) or self.tenants.get(DEFAULT_TENANT)

    def secret_values(self, environ: Mapping[str, str]) -> tuple[str, ...]:
        """Every secret this configuration leads to, for logs to hide. Never print it."""
        keys = [deployment.api_key(environ) for deployment in self.deployments]
        if self.auth.jwt_secret is not None:
            keys.append(self.auth.jwt_secret.get_secret_value())
        for address in (self.storage.redis_url, self.storage.mongo_url):
            if address is not None:
                keys += passwords_in(address)
        if self.alerts.webhook_secret_env is not None:
            keys.append(environ.get(self.alerts.webhook_secret_env))
        keys += self.telemetry.otlp_headers(environ).values()
        if self.jobs.webhook_secret_env is not None:
            keys.append(environ.get(self.jobs.webhook_secret_env))
        for server in self.mcp_servers:
            keys += server.secret_values(environ)
            if server.url is not None:
                keys += passwords_in(SecretStr(server.url))
        return tuple(key for key in keys if key)

    def deployment(self, name: str) -> Deployment:
        """The deployment of that name. Raises KeyError; names in routes are known to exist."""
        for deployment in self.deployments:
            if deployment.name == name:
                return deployment
        raise KeyError(name)

    def route(self, name: str | None = None) -> Route | None:
        """The route of that name, None for an unknown one; without a name the first."""
        if name is None:
            return self.routes[0]
        return next((route for route in self.routes if route.name == name), None)
