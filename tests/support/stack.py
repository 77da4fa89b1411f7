"""A real provider and a real server that uses it, for tests that need both."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.support.provider import ControlledProvider, running_provider
from tests.support.server import running_server

from turnwire_server.app import App


@asynccontextmanager
async def running_stack(
    data_dir: Path | None = None, *, jwt: bool = False, **sections: Any
) -> AsyncIterator[tuple[ControlledProvider, App]]:
    """The provider outlives the server, as in life."""
    async with running_provider() as provider:
        async with running_server(data_dir, provider_url=provider.base_url, jwt=jwt, **sections) as app:
            yield provider, app
