"""A TCP proxy on loopback: what stands between two processes when the network between them is to go wrong.

    async with running_proxy(redis.port) as proxy:
        ... connect to proxy.port ...
        proxy.cut()                 # every connection ends with RST, new ones are taken
        proxy.refuse()              # the same, and new ones are refused
        proxy.pause()               # half-open: nothing is delivered, nothing is closed, nothing is accepted
        proxy.delay(0.05)           # every byte later by so much, in both directions
        proxy.resume()              # all of it is over

`proxy.port_with_budget(n)` is one more port, on which a connection ends after exactly n bytes from the target: in the
middle of any frame (see `cutter`). Unrealistic in that a pause never loses bytes (they wait in the sockets' buffers,
as with a router that comes back before TCP gives up), that a connection in the kernel's queue counts as made during a
pause, that what `delay` has put off still arrives during one, and that nothing is reordered or corrupted.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import cast

# What one direction may have waiting before its sender is no longer read from.
_BUFFER_BYTES = 1024 * 1024


class Proxy:
    """Made by `running_proxy`. ``target`` is a port on 127.0.0.1 and may be changed for new connections."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.accepted = 0
        """Connections taken so far."""
        self._listeners: dict[socket.socket, int | None] = {}
        self._pairs: set[_Pair] = set()
        self._opening: set[asyncio.Task[None]] = set()
        self._accepting = True
        self._refusing = False
        self._delay_s = 0.0

    def __repr__(self) -> str:
        state = "refusing" if self._refusing else "open" if self._accepting else "paused"
        return f"<Proxy {self.port}->{self.target} {state} connections={len(self._pairs)}>"

    @property
    def connections(self) -> int:
        """How many are open now."""
        return len(self._pairs)

    def cut(self) -> None:
        """End every connection with RST on both sides. New ones are taken as before."""
        for pair in tuple(self._pairs):
            pair.reset()

    def refuse(self) -> None:
        """`cut`, and from now on every new connection is reset at once."""
        self._refusing = True
        self.cut()

    def pause(self) -> None:
        """Deliver nothing, close nothing, take nothing: the other side is there and silent."""
        if self._accepting:
            self._accepting = False
            for listener in self._listeners:
                asyncio.get_running_loop().remove_reader(listener)
            for pair in self._pairs:
                pair.pause()

    def delay(self, seconds: float) -> None:
        """Deliver everything later by so much, in order."""
        self._delay_s = seconds

    def resume(self) -> None:
        """No more fault of any kind. What a pause held back is delivered."""
        self._refusing = False
        self._delay_s = 0.0
        if not self._accepting:
            self._accepting = True
            for listener, budget in self._listeners.items():
                self._accept_from(listener, budget)
            for pair in self._pairs:
                pair.resume()

    def port_with_budget(self, budget: int | None) -> int:
        """A port on which each connection ends once ``budget`` bytes have come from the target."""
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        self._listeners[listener] = budget
        if self._accepting:
            self._accept_from(listener, budget)
        port: int = listener.getsockname()[1]
        return port

    def _accept_from(self, listener: socket.socket, budget: int | None) -> None:
        asyncio.get_running_loop().add_reader(listener, partial(self._accept, listener, budget))

    def _accept(self, listener: socket.socket, budget: int | None) -> None:
        try:
            client, _ = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        client.setblocking(False)
        self.accepted += 1
        if self._refusing:
            _reset_socket(client)
            return
        task = asyncio.create_task(self._open(client, budget))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _open(self, client: socket.socket, budget: int | None) -> None:
        """Connect to the target and join the two; a target that refuses resets the client."""
        loop = asyncio.get_running_loop()
        pair = _Pair(self, budget)
        try:
            await loop.create_connection(lambda: pair.target, "127.0.0.1", self.target)
        except OSError:
            _reset_socket(client)
            return
        except asyncio.CancelledError:
            client.close()
            raise
        try:
            await loop.connect_accepted_socket(lambda: pair.client, client)
        except BaseException:
            pair.target.reset()
            raise
        self._pairs.add(pair)
        pair.join()
        if self._refusing:
            pair.reset()
        elif not self._accepting:
            pair.pause()

    async def aclose(self) -> None:
        """Close all ports and connections."""
        loop = asyncio.get_running_loop()
        for listener in self._listeners:
            loop.remove_reader(listener)
            listener.close()
        self._listeners.clear()
        for task in tuple(self._opening):
            task.cancel()
        await asyncio.gather(*self._opening, return_exceptions=True)
        pairs = tuple(self._pairs)
        self.cut()
        for pair in pairs:
            await pair.gone.wait()

    def _ended(self, pair: _Pair) -> None:
        self._pairs.discard(pair)


class _Pair:
    """One connection through the proxy: its two halves."""

    def __init__(self, proxy: Proxy, budget: int | None) -> None:
        self.proxy = proxy
        self.client = _Half(self, None)
        self.target = _Half(self, budget)
        self.gone = asyncio.Event()

    def join(self) -> None:
        self.client.other, self.target.other = self.target, self.client
        for half in (self.client, self.target):
            half.read_if_wanted()

    def pause(self) -> None:
        for half in (self.client, self.target):
            half.hold(paused=True)

    def resume(self) -> None:
        for half in (self.client, self.target):
            half.hold(paused=False)

    def reset(self) -> None:
        for half in (self.client, self.target):
            half.reset()

    def half_lost(self) -> None:
        if self.client.is_lost and self.target.is_lost:
            self.proxy._ended(self)
            self.gone.set()


class _Half(asyncio.Protocol):
    """One side. What it reads it gives to ``other``, perhaps later."""

    def __init__(self, pair: _Pair, budget: int | None) -> None:
        self.pair = pair
        self.other: _Half | None = None
        self.is_lost = False
        self._transport: asyncio.Transport | None = None
        self._budget = budget
        self._paused = False
        self._full = False
        self._reading = True
        self._early: list[bytes] = []  # an event loop may still deliver after it was asked to pause
        self._due = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=_BUFFER_BYTES)
        self.read_if_wanted()  # not before both halves are there

    def data_received(self, data: bytes) -> None:
        if self.other is None or self._paused:
            self._early.append(data)
        else:
            self._forward(self.other, data)

    def _forward(self, other: _Half, data: bytes) -> None:
        ends = False
        if self._budget is not None:
            data = data[: self._budget]
            self._budget -= len(data)
            ends = self._budget == 0
        self._later(partial(other.write, data))
        if ends:
            self._budget = None
            self._later(self.pair.client.close)
            self._later(self.pair.target.close)

    def eof_received(self) -> bool:
        if self.other is None:
            return False
        self._later(self.other.close)
        return True  # what is still on its way back is delivered

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        if self.other is not None:
            self._later(self.other.close if exc is None else self.other.reset)
        self.pair.half_lost()

    def pause_writing(self) -> None:
        if self.other is not None:
            self.other._full = True
            self.other.read_if_wanted()

    def resume_writing(self) -> None:
        if self.other is not None:
            self.other._full = False
            self.other.read_if_wanted()

    def write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def close(self) -> None:
        """End it in good order, after what has been written."""
        if self._transport is not None:
            self._transport.close()

    def reset(self) -> None:
        if self._transport is not None and not self.is_lost:
            _linger_not(self._transport.get_extra_info("socket"))
            self._transport.abort()

    def hold(self, *, paused: bool) -> None:
        self._paused = paused
        self.read_if_wanted()

    def read_if_wanted(self) -> None:
        wanted = self.other is not None and not self._paused and not self._full
        if self.other is not None and not self._paused:
            early, self._early = self._early, []
            for data in early:
                self._forward(self.other, data)
        if self._transport is None or self.is_lost or wanted == self._reading:
            return
        self._reading = wanted
        if wanted:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def _later(self, act: Callable[[], None]) -> None:
        """Carry out after the delay, never before what was put off earlier."""
        loop = asyncio.get_running_loop()
        due = loop.time() + self.pair.proxy._delay_s
        if due < self._due or self.pair.proxy._delay_s:
            # Timers of the same moment have no order among themselves.
            self._due = max(due, self._due + 1e-6)
            loop.call_at(self._due, act)
        else:
            act()


def _linger_not(sock: socket.socket) -> None:
    """Closing this socket sends RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _reset_socket(sock: socket.socket) -> None:
    _linger_not(sock)
    sock.close()


@asynccontextmanager
async def running_proxy(target: int) -> AsyncIterator[Proxy]:
    """A proxy to 127.0.0.1:``target`` that listens inside the block."""
    proxy = Proxy(target)
    proxy.port = proxy.port_with_budget(None)
    try:
        yield proxy
    finally:
        await proxy.aclose()
