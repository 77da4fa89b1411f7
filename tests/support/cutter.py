"""Connections that are cut after an exact number of bytes from the server: at any byte of any frame.

    async with running_cutter(app.port) as cutter:
        async with connected(app.url, host="127.0.0.1", port=cutter.port(1234)) as client:
            ...                                                 # dies after 1234 bytes

What the client has of a frame that was cut in the middle it throws away, as every WebSocket client does. Unrealistic
in that nothing is ever delayed or lost on the way to the server. The proxy is that of `proxy`, where the other faults
of a network are.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.support.proxy import Proxy, running_proxy


class Cutter:
    """Made by `running_cutter`. Each port is for one connection; `Host` stays the server's own."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy

    def port(self, budget: int) -> int:
        """A port on which a connection ends once `budget` bytes have come from the server."""
        return self._proxy.port_with_budget(budget)


@asynccontextmanager
async def running_cutter(target: int) -> AsyncIterator[Cutter]:
    """Inside the block connections to `target` can be made that will be cut."""
    async with running_proxy(target) as proxy:
        yield Cutter(proxy)
