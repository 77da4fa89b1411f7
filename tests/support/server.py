"""A real server inside the test, on a port of its own, and how to configure it.

`async with running_server(...)` gives the `App`; leave the block and it has drained. Settings are given as the tree of
the configuration file. The default model is the demonstration model without delays; with `provider=` it is the HTTP
provider of `tests.support.provider`.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tests.support.storage import storage

from turnwire_server.app import App, running
from turnwire_server.auth import make_token
from turnwire_server.eventlog.redis import RedisEventLog
from turnwire_server.eventlog.sqlite import SqliteEventLog
from turnwire_server.settings import Settings, build_settings

SECRET = "a secret of the tests, long enough for HS256"
Tree = Mapping[str, Any]


def settings_for(
    data_dir: Path,
    *,
    provider_url: str | None = None,
    jwt: bool = False,
    environ: Mapping[str, str] = MappingProxyType({}),
    **sections: Any,
) -> Settings:
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
    return build_settings(tree, environ)


@asynccontextmanager
async def running_server(
    data_dir: Path | None = None,
    *,
    provider_url: str | None = None,
    jwt: bool = False,
    environ: Mapping[str, str] = MappingProxyType({}),
    **sections: Any,
) -> AsyncIterator[App]:
    """A server that listens inside the block, with its data where `tests.support.storage` says."""
    kept = storage()
    sections["storage"] = {**kept.section(data_dir), **sections.get("storage", {})}
    async with AsyncExitStack() as stack:
        apps = []
        for number in range(kept.nodes):
            folder = data_dir if data_dir and number == 0 else Path(stack.enter_context(tempfile.TemporaryDirectory()))
            settings = settings_for(folder, provider_url=provider_url, jwt=jwt, environ=environ, **sections)
            apps.append(await stack.enter_async_context(running(settings, environ)))
        yield apps[0] if len(apps) == 1 else Nodes(apps)


class Nodes(App):
    """Several nodes in the place of one: each connection goes to the next of them. All else is the first one's."""

    def __init__(self, apps: Sequence[App]) -> None:
        super().__init__(apps[0].front)
        self.apps = tuple(apps)
        self._next = itertools.cycle(apps)

    @property
    def url(self) -> str:
        return next(self._next).url


def forward(app: App, seconds: float) -> None:
    """The server's log is so many seconds ahead, from now on."""
    for node in app.apps if isinstance(app, Nodes) else (app,):
        log = node.front.services.log
        if isinstance(log, SqliteEventLog):
            log._clock = lambda: time.time() + seconds
        else:
            assert isinstance(log, RedisEventLog)
            log._scripts._clock = lambda: time.time() + seconds


def token(user: str = "alice", tenant: str = "acme", *, scopes: tuple[str, ...] = (), ttl_s: float = 3600) -> str:
    """A token that servers with `jwt=True` believe."""
    return make_token(SECRET, user, tenant, scopes, ttl_s)
