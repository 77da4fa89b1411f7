"""Tenants that are set while servers run: their tables are judged here, by the rules of the configuration file.

A table that was fine when it was set may not be any more, once the configuration has lost a route or a region.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from turnwire_server.settings.checks import check_tenants
from turnwire_server.settings.faults import ABSENT, Fault, SettingsError, faults_from
from turnwire_server.settings.models import Tenant
from turnwire_server.settings.section import ID_PATTERN
from turnwire_server.settings.tree import DEFAULT_TENANT, Settings


def tenant_from(settings: Settings, tenant_id: str, table: Mapping[str, Any]) -> Tenant:
    """The tenant that this table makes in this configuration. Raises `SettingsError` with every fault."""
    key = f"tenants.{tenant_id}"
    if not re.fullmatch(ID_PATTERN, tenant_id):
        raise SettingsError([Fault(key, ABSENT, f"a name must match {ID_PATTERN}")])
    if tenant_id == DEFAULT_TENANT:
        raise SettingsError([Fault(key, ABSENT, "stands for all tenants that are not named: it is set in the file")])
    try:
        tenant = Tenant.model_validate(dict(table))
    except ValidationError as error:
        raise SettingsError(faults_from(error, key, Tenant.model_fields)) from None
    known = {route.name for route in settings.routes}
    faults = list(check_tenants({tenant_id: tenant}, known, settings.routes, settings.deployments))
    if faults:
        raise SettingsError(faults)
    return tenant


def stored_tenant(settings: Settings, tenant_id: str, table: Mapping[str, Any]) -> tuple[Tenant, tuple[str, ...]]:
    """As `tenant_from`, of a table that was right once; with the names in `routes` that lead nowhere any more.

    Those are left out, which only narrows the choice. Anything else could mean more than its administrator allowed:
    raises `SettingsError`.
    """
    if not isinstance(table, Mapping):
        raise SettingsError([Fault(f"tenants.{tenant_id}", ABSENT, "must be a table")])
    known = {route.name for route in settings.routes}
    routes = table.get("routes")
    if not isinstance(routes, list | tuple):
        return tenant_from(settings, tenant_id, table), ()
    gone = tuple(name for name in routes if isinstance(name, str) and name not in known)
    return tenant_from(settings, tenant_id, {**table, "routes": [name for name in routes if name not in gone]}), gone
