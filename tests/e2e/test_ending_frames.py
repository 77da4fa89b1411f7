"""Frames are written past the WebSocket library: whatever a connection does meanwhile, what it gets is in order.

Some follow an answer and close, close half, break the protocol, vanish or ping without end while its events come. No
frame follows a close frame, none is cut by another, and whoever stays gets all of it.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from tests.support.client import Client, connected
from tests.support.provider import Gate, Script
from tests.support.stack import running_stack
from websockets.frames import Close, Frame, Opcode

CODECS = ("turnwire.v1.json", "turnwire.v1.msgpack")
CLOSE = 8


def recorded(client: Client) -> bytearray:
    """All bytes that the client gets from here on."""
    socket: Any = client.socket
    raw, library = bytearray(), socket.data_received

    def received(data: bytes) -> None:
        raw.extend(data)
        library(data)

    socket.data_received = received
    return raw


def opcodes(raw: bytes) -> Iterator[int]:
    """Of whole frames as servers send them; an unfinished last one is left out."""
    at = 0
    while len(raw) >= at + 2:
        first, length = raw[at], raw[at + 1]
        assert first & 0xF0 == 0x80, "fragments or reserved bits"
        assert length < 128, "masked"
        size = {126: 2, 127: 8}.get(length, 0)
        length = int.from_bytes(raw[at + 2 : at + 2 + size]) if size else length
        at += 2 + size + length
        if len(raw) < at:
            return
        yield first & 0x0F


def close(socket: Any) -> None:
    socket.transport.write(Frame(Opcode.CLOSE, Close(1000, "").serialize()).serialize(mask=True))


def close_half(socket: Any) -> None:
    socket.transport.write_eof()


def break_the_protocol(socket: Any) -> None:
    socket.transport.write(Frame(Opcode.TEXT, b"{}").serialize(mask=False))


def vanish(socket: Any) -> None:
    socket.transport.abort()


def ping(socket: Any) -> None:
    socket.transport.write(Frame(Opcode.PING, b"?").serialize(mask=True) * 500)


@pytest.mark.parametrize("codec", CODECS)
async def test_nothing_follows_a_close_and_who_stays_gets_everything(codec: str) -> None:
    deeds: list[Callable[[Any], None]] = [close, close_half, break_the_protocol, vanish, ping]
    gate, words = Gate(), [f"w{n} " for n in range(200)]
    async with running_stack() as (provider, app), AsyncExitStack() as stack:
        provider.script(Script.text(gate, *words, rate=1_000))
        stays = await stack.enter_async_context(connected(app.url, codec=codec))
        await stays.create("r1", "c1", "hello")
        others: list[tuple[Callable[[Any], None], Client, bytearray]] = []
        for deed in deeds * 2:
            client = await stack.enter_async_context(connected(app.url, codec=codec))
            await client.open("c1")
            others.append((deed, client, recorded(client)))
        all_of_it = recorded(stays)
        gate.open()
        for deed, client, _ in others:
            await stays.event("output_text.delta")
            deed(client.socket)
        ending = await stays.terminal("r1")
        assert ending["message"]["parts"] == [{"kind": "text", "text": "".join(words)}]
        assert CLOSE not in opcodes(all_of_it)
        for deed, client, raw in others:
            if deed is ping:
                await client.terminal("r1")
                assert sum(code == Opcode.PONG for code in opcodes(raw)) == 500
                continue
            async with asyncio.timeout(10):
                await client.socket.wait_closed()
            kinds = [kind for kind, _ in itertools.groupby(opcodes(raw))]
            assert CLOSE not in kinds[:-1]
            assert (CLOSE in kinds) == (deed in (close, break_the_protocol))
