"""A whole server on a clock that jumps, in this process: from its sockets' bytes to SQLite it is the one that ships.

    with virtual_world(seed) as world:
        world.run(story(world))           # inside: `async with world.server(provider, …) as app`, `connected(app.url)`

What takes time (the network, the database, the provider) takes it from the seed, so a seed is one interleaving, the
same each time. Not the real ones: sockets, the database's threads, the provider's HTTP.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
import uuid
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

from tests.support.server import settings_for
from tests.support.virtual_database import VirtualDatabase
from tests.support.virtual_net import VirtualNet
from tests.support.virtual_time import jumping_monotonic, run_virtual

from turnwire_server import engines
from turnwire_server.app import App, running
from turnwire_server.engines import Engines
from turnwire_server.gateway import router
from turnwire_server.settings import Settings

T = TypeVar("T")

EPOCH_S = 1_800_000_000.0
"""The log's clock when the loop's is 0."""
_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
_LATENCIES_S = (0.0, 0.0, 0.0002, 0.001, 0.004)


class VirtualWorld:
    """One seed's loop. ``rng`` is for the story; what the world itself decides comes from another one."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self._fate = random.Random(seed + 0.5)
        self.loop = VirtualNet(self._latency)

    def _latency(self) -> float:
        return self._fate.choice(_LATENCIES_S)

    def run(self, story: Coroutine[Any, Any, T]) -> T:
        ids = random.Random(0)
        with (
            jumping_monotonic(self.loop),
            mock.patch.object(uuid, "uuid4", side_effect=lambda: uuid.UUID(int=ids.getrandbits(128), version=4)),
        ):
            return run_virtual(story, lambda: self.loop)

    def now(self) -> float:
        """Seconds of the log's clock."""
        return EPOCH_S + self.loop.time()

    @asynccontextmanager
    async def server(self, provider_for: Any, **sections: Any) -> AsyncIterator[App]:
        """The server, with these providers for its deployments."""
        async with AsyncExitStack() as stack:
            data_dir = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=_MEMORY)))
            stack.enter_context(mock.patch.object(router, "provider_for", provider_for))
            settings = settings_for(data_dir, jwt=True, **sections)
            app = await stack.enter_async_context(running(settings, {}, open_engines=self._open_engines))
            object.__setattr__(app.front.services, "clock", self.now)  # it is frozen
            yield app

    async def _open_engines(self, settings: Settings, stack: AsyncExitStack) -> Engines:
        """The embedded ones, on the database without threads and by this world's clock."""
        with mock.patch.object(engines, "Database", lambda data_dir: VirtualDatabase(data_dir, self._latency)):
            opened: Any = await engines.open_embedded(settings, stack)
        opened.log._clock = opened.archive._clock = self.now
        return opened  # type: ignore[no-any-return]


@contextmanager
def virtual_world(seed: int) -> Iterator[VirtualWorld]:
    world = VirtualWorld(seed)
    try:
        yield world
    finally:
        if not world.loop.is_closed():
            asyncio.set_event_loop(None)
            world.loop.close()
