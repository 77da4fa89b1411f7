"""A real server inside the test, on a port of its own, and how to configure it.

`async with running_server(...)` gives the `App`; leave the block and it has drained. Settings are given as the tree of
the configuration file. The default model is the demonstration model without delays; with `provider=` it is the HTTP
provider of `tests.support.provider`.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from turnwire_server.app import App, running
from turnwire_server.auth import make_token
from turnwire_server.settings import Settings, build_settings

SECRET = "a secret of the tests, long enough for HS256"
Tree = Mapping[str, Any]


def settings_for(data_dir: Path, *, provider_url: str | None = None, jwt: bool = False, **sections: Any) -> Settings:
    """The settings of a test server; `sections` are merged over the defaults, table by table."""
    tree: dict[str, Any] = {
        "server": {"port": 0, "data_dir": str(data_dir), "drain_s": 0.2, "node_id": "test-node"},
        "limits": {"commands_per_s": 10_000, "errors_per_minute": 10_000},
    }
    if provider_url is not None:
        tree["deployments"] = [{"name": "test", "model": "test-model", "base_url": provider_url}]
        tree["routes"] = [{"name": "default", "deployments": ["test"], "max_attempts": 1}]
    if jwt:
        tree["auth"] = {"mode": "jwt", "jwt_secret": SECRET}
    for name, section in sections.items():
        tree[name] = {**tree.get(name, {}), **section} if isinstance(section, Mapping) else section
    return build_settings(tree, {})


@asynccontextmanager
async def running_server(
    data_dir: Path | None = None, *, provider_url: str | None = None, jwt: bool = False, **sections: Any
) -> AsyncIterator[App]:
    """A server that listens inside the block."""
    with tempfile.TemporaryDirectory() as fresh:
        settings = settings_for(data_dir or Path(fresh), provider_url=provider_url, jwt=jwt, **sections)
        async with running(settings, {}) as app:
            yield app


def token(user: str = "alice", tenant: str = "acme", *, scopes: tuple[str, ...] = (), ttl_s: float = 3600) -> str:
    """A token that servers with `jwt=True` believe."""
    return make_token(SECRET, user, tenant, scopes, ttl_s)
