"""A network without sockets, for a loop whose clock jumps: whole servers and clients in no time, the same each time.

    run_virtual(main(), lambda: VirtualNet(latency))      # `websockets.serve` and `connect` work inside as they are

What is written arrives in its order, each piece after `latency()` seconds of the loop's time. Unrealistic in that
nothing is ever lost, cut in pieces or too much for a buffer, and in that there is one host: an address is its port.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections import deque
from collections.abc import Callable
from typing import Any

from tests.support.virtual_time import VirtualLoop

_FIRST_PORT = 50_000
# A loop calls a little too early rather than too late.
_RESOLUTION_S = 1e-6


class VirtualNet(VirtualLoop):
    """A loop whose servers and connections are its own."""

    def __init__(self, latency: Callable[[], float]) -> None:
        super().__init__()
        self._latency = latency
        self._listening: dict[int, Callable[[], asyncio.BaseProtocol]] = {}
        self._ports = itertools.count(_FIRST_PORT)

    async def create_server(  # type: ignore[override]
        self, protocol_factory: Callable[[], asyncio.BaseProtocol], host: Any = None, port: Any = None, **_: Any
    ) -> Any:
        number = port or next(self._ports)
        self._listening[number] = protocol_factory
        return _Listening(self, host, number)

    async def create_connection(  # type: ignore[override]
        self, protocol_factory: Callable[[], Any], host: Any = None, port: Any = None, **_: Any
    ) -> tuple[Any, Any]:
        if port not in self._listening:
            raise ConnectionRefusedError(f"nobody listens at {port}")
        here, there = protocol_factory(), self._listening[port]()
        ends = _End(self, here, self._latency), _End(self, there, self._latency)
        ends[0].other, ends[1].other = ends[1], ends[0]
        there.connection_made(ends[1])  # type: ignore[arg-type]
        here.connection_made(ends[0])
        return ends[0], here

    def close_port(self, port: int) -> None:
        self._listening.pop(port, None)


class _Listening:
    """As much of an `asyncio.Server` as its users need; it is its own socket."""

    family = socket.AF_INET

    def __init__(self, loop: VirtualNet, host: str, port: int) -> None:
        self._loop = loop
        self._name = (host, port)

    @property
    def sockets(self) -> tuple[_Listening, ...]:
        return (self,)

    def getsockname(self) -> tuple[str, int]:
        return self._name

    def get_loop(self) -> VirtualNet:
        return self._loop

    def is_serving(self) -> bool:
        return True

    def close(self) -> None:
        self._loop.close_port(self._name[1])

    async def wait_closed(self) -> None:
        return


class _End(asyncio.Transport):
    """One end of a connection. What the other end sends waits while reading is paused."""

    other: _End

    def __init__(self, loop: VirtualNet, protocol: Any, latency: Callable[[], float]) -> None:
        super().__init__()
        self._loop = loop
        self._protocol = protocol
        self._latency = latency
        self._coming: deque[tuple[float, bytes | None]] = deque()  # None: the end
        self._paused = False
        self._closed = False
        self._lost = False

    # --- writing -----------------------------------------------------------------------------------------

    def write(self, data: Any) -> None:
        if not self._closed:
            self.other._expect(bytes(data))

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        if not self._closed:
            self.other._expect(None)

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """There is no buffer."""

    # --- reading -----------------------------------------------------------------------------------------

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        self._paused = False
        self._loop.call_soon(self._arrived)

    def _expect(self, data: bytes | None) -> None:
        before = self._coming[-1][0] if self._coming else 0.0
        at = max(self._loop.time() + self._latency(), before)
        self._coming.append((at, data))
        self._loop.call_at(at, self._arrived)

    def _arrived(self) -> None:
        while (
            self._coming
            and self._coming[0][0] <= self._loop.time() + _RESOLUTION_S
            and not self._paused
            and not self._lost
        ):
            data = self._coming.popleft()[1]
            if data is not None:
                self._protocol.data_received(data)
            elif not self._protocol.eof_received():
                self.close()

    # --- the end -----------------------------------------------------------------------------------------

    def is_closing(self) -> bool:
        return self._closed

    def close(self) -> None:
        if not self._closed:
            self.other._expect(None)
            self._closed = True
            self._loop.call_soon(self._lose)

    def abort(self) -> None:
        self.close()

    def _lose(self) -> None:
        self._lost = True
        self._protocol.connection_lost(None)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 0) if name in ("sockname", "peername") else default
