"""The proxy does to connections what it says."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from tests.support.proxy import Proxy, running_proxy

WAIT_S = 5.0
Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def _echoing() -> AsyncIterator[int]:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@asynccontextmanager
async def _connected(proxy: Proxy, port: int | None = None) -> AsyncIterator[Ends]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port or proxy.port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def _asked(ends: Ends, text: bytes) -> bytes:
    ends[1].write(text)
    async with asyncio.timeout(WAIT_S):
        return await ends[0].readexactly(len(text))


async def test_bytes_pass_in_both_directions_in_order() -> None:
    async with _echoing() as target, running_proxy(target) as proxy, _connected(proxy) as ends:
        sent = bytes(range(256)) * 20_000
        assert await _asked(ends, sent) == sent
        assert (proxy.accepted, proxy.connections) == (1, 1)


async def test_a_cut_resets_what_is_open_and_takes_new_connections() -> None:
    async with _echoing() as target, running_proxy(target) as proxy:
        async with _connected(proxy) as ends:
            await _asked(ends, b"a")
            proxy.cut()
            with pytest.raises(ConnectionResetError):
                async with asyncio.timeout(WAIT_S):
                    await ends[0].read()
        async with _connected(proxy) as ends:
            assert await _asked(ends, b"b") == b"b"


async def test_refused_connections_are_reset_until_resumed() -> None:
    async with _echoing() as target, running_proxy(target) as proxy:
        proxy.refuse()
        with pytest.raises(ConnectionResetError):  # at once, or at the first look
            async with _connected(proxy) as ends, asyncio.timeout(WAIT_S):
                await ends[0].read()
        proxy.resume()
        async with _connected(proxy) as ends:
            assert await _asked(ends, b"b") == b"b"


async def test_a_pause_holds_everything_and_loses_nothing() -> None:
    async with _echoing() as target, running_proxy(target) as proxy, _connected(proxy) as old:
        await _asked(old, b"a")
        proxy.pause()
        old[1].write(b"held")
        async with _connected(proxy) as new:
            new[1].write(b"new")
            for ends in (old, new):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.1):
                        await ends[0].read(1)
            assert proxy.accepted == 1
            proxy.resume()
            async with asyncio.timeout(WAIT_S):
                assert await old[0].readexactly(4) == b"held"
                assert await new[0].readexactly(3) == b"new"


async def test_a_delay_comes_in_both_directions_and_keeps_the_order() -> None:
    async with _echoing() as target, running_proxy(target) as proxy, _connected(proxy) as ends:
        await _asked(ends, b"a")
        proxy.delay(0.05)
        began = time.monotonic()
        ends[1].write(b"one ")
        await asyncio.sleep(0.01)
        ends[1].write(b"two")
        async with asyncio.timeout(WAIT_S):
            assert await ends[0].readexactly(7) == b"one two"
        assert time.monotonic() - began > 0.1


async def test_a_budget_ends_the_connection_at_the_exact_byte() -> None:
    async with _echoing() as target, running_proxy(target) as proxy:
        async with _connected(proxy, proxy.port_with_budget(5)) as ends:
            ends[1].write(b"0123456789")
            async with asyncio.timeout(WAIT_S):
                assert await ends[0].read(100) == b"01234"
                assert await ends[0].read(100) == b""


async def test_the_end_of_one_side_reaches_the_other() -> None:
    async with _echoing() as target, running_proxy(target) as proxy, _connected(proxy) as ends:
        await _asked(ends, b"a")
        ends[1].write_eof()
        async with asyncio.timeout(WAIT_S):
            assert await ends[0].read() == b""
            while proxy.connections:
                await asyncio.sleep(0.01)
