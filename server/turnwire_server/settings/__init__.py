"""The configuration: one frozen tree, read once at the start from a TOML file and the environment.

A leaf: it imports no other part of the server, and any part may import it. `load_settings` is called by
the command line and nobody else; everyone else is handed the tree or a table of it. What is wrong stops the
start with a `SettingsError` that names key, value and what was expected, for every fault at once.
"""

from turnwire_server.settings.checks import accepted_algorithms
from turnwire_server.settings.faults import Fault, SettingsError
from turnwire_server.settings.limits import Limits
from turnwire_server.settings.load import build_settings, load_settings
from turnwire_server.settings.models import Deployment, GuardSettings, Route, Tenant
from turnwire_server.settings.tables import (
    AlertSettings,
    AuthSettings,
    JobSettings,
    ServerSettings,
    StorageSettings,
    TelemetrySettings,
)
from turnwire_server.settings.tools import McpServerSettings, ToolsSettings
from turnwire_server.settings.tree import Settings

__all__ = [
    "AlertSettings",
    "AuthSettings",
    "Deployment",
    "Fault",
    "GuardSettings",
    "JobSettings",
    "Limits",
    "McpServerSettings",
    "Route",
    "ServerSettings",
    "Settings",
    "SettingsError",
    "StorageSettings",
    "TelemetrySettings",
    "Tenant",
    "ToolsSettings",
    "accepted_algorithms",
    "build_settings",
    "load_settings",
]
