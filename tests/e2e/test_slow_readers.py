"""A slow reader harms only itself (DESIGN, guarantee 8).

A slow reader is a client that really does not read: its receive buffer is small, so is the server's send buffer for
it, and the library's own queue holds one frame. What the server keeps for it beyond that is what is measured.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from tests.support.client import CallError, Client, connected
from tests.support.provider import Gate, Script
from tests.support.stack import running_stack
from websockets.exceptions import ConnectionClosed

from turnwire_server.app import App

SEND_BUFFER = 65_536
PAGE = 131_072
# What may be kept for one connection: the buffer, and the one frame that is being sent (with its JSON around it).
ALLOWED = SEND_BUFFER + PAGE + 16_384


@asynccontextmanager
async def narrow(app: App, **options: Any) -> AsyncIterator[Client]:
    """A client with little room between it and the server."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", app.port))
    before = set(app.front.sessions)
    async with connected(app.url, sock=sock, max_queue=1, **options) as client:
        (session,) = app.front.sessions - before
        server_side = session._connection.transport.get_extra_info("socket")
        server_side.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        yield client


def kept(app: App) -> int:
    """The most that the server keeps for one connection at this moment."""
    return max((session._connection.transport.get_write_buffer_size() for session in app.front.sessions), default=0)


async def _read_through(client: Client, app: App, request_id: str, gates: list[Gate]) -> tuple[int, float]:
    """Let the provider go on, chunk by chunk, each once the one before has arrived; the most kept, the longest wait."""
    loop = asyncio.get_running_loop()
    most, longest = 0, 0.0
    for gate in gates:
        known = len(client.text(request_id))
        began = loop.time()
        gate.open()
        await client.until(lambda known=known: len(client.text(request_id)) > known)  # type: ignore[misc]
        longest = max(longest, loop.time() - began)
        most = max(most, kept(app))
    return most, longest


def _chunks(count: int, size: int) -> tuple[list[Gate], list[Any]]:
    gates = [Gate() for _ in range(count)]
    steps = [step for n, gate in enumerate(gates) for step in (gate, f"{n:04d}".ljust(size, "·"))]
    return gates, ["begin ", *steps]


@pytest.mark.parametrize("replay_entries", [10_000, 5], ids=["merged-deltas", "snapshot"])
async def test_readers_that_stop_delay_nobody_cost_bounded_memory_and_catch_up(replay_entries: int) -> None:
    gates, steps = _chunks(60, 1_000)  # 60 × 1000 characters of two bytes, so that frames are larger than text
    limits = {"replay_entries": replay_entries, "tail_bytes": 8_192, "catchup_page_entries": 1_000}
    async with running_stack(limits=limits) as (provider, app), connected(app.url) as fast, AsyncExitStack() as stack:
        provider.script(Script.text(*steps))
        await fast.open("c1")
        slow = [await stack.enter_async_context(narrow(app)) for _ in range(3)]
        for client in slow:
            await client.open("c1")
            await client.event("conversation.snapshot")
        await fast.create("r1", "c1", "a long answer")
        for client in slow:
            await client.event("output_text.delta", "r1")
        most, _ = await _read_through(fast, app, "r1", gates)
        await fast.terminal("r1")
        assert most <= ALLOWED
        assert all(not any(m.get("terminal") for m in client.messages) for client in slow)
        for client in slow:
            await client.until(lambda client=client: client.folds["c1"].seq >= fast.folds["c1"].seq)  # type: ignore[misc]
            assert client.folds["c1"].view() == fast.folds["c1"].view()
            merged = [m for m in client.events("output_text.delta", "r1") if "from_seq" in m]
            snapshots = client.events("conversation.snapshot")
            assert (len(snapshots) == 2) if replay_entries == 5 else merged
        assert len(app.front.sessions) == 4  # nobody was closed


async def test_what_is_kept_for_a_reader_that_stopped_does_not_grow_with_the_stream() -> None:
    gates, steps = _chunks(40, 30_000)  # 2.4 MB
    async with running_stack() as (provider, app), connected(app.url) as fast, narrow(app) as slow:
        provider.script(Script.text(*steps))
        await slow.open("c1")
        await fast.open("c1")
        await fast.create("r1", "c1", "a very long answer")
        await slow.event("output_text.delta", "r1")
        most, longest = await _read_through(fast, app, "r1", gates)
        assert most <= ALLOWED
        assert longest < 1.0, "others wait for nobody"
        ending = await fast.terminal("r1")
        await slow.terminal("r1")
        assert ending["length"] == len("begin ") + 40 * 30_000
        assert slow.folds["c1"].view() == fast.folds["c1"].view()


async def test_who_leaves_events_unread_too_long_is_closed_4001_and_resumes_without_loss() -> None:
    gates, steps = _chunks(30, 10_000)
    async with running_stack(limits={"slow_consumer_s": 0.3}) as (provider, app), connected(app.url) as fast:
        provider.script(Script.text(*steps))
        await fast.open("c1")
        async with narrow(app) as slow:
            await slow.open("c1")
            await slow.event("conversation.snapshot")
            await fast.create("r1", "c1", "a long answer")
            await slow.event("output_text.delta", "r1")
            await _read_through(fast, app, "r1", gates)
            await fast.terminal("r1")
            await _metric_above_zero(fast, app, "slow_consumers_total")
            with pytest.raises(ConnectionClosed) as closed:
                await slow.until(lambda: False)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4001
        async with connected(app.url, before=slow) as back:
            await back.open("c1", since=back.cursor("c1"))
            await back.until(lambda: back.folds["c1"].seq >= fast.folds["c1"].seq)
            assert back.folds["c1"].view() == fast.folds["c1"].view()


async def _metric_above_zero(client: Client, app: App, name: str) -> None:
    async with asyncio.timeout(60):
        while app.front.services.metrics.registry.get_sample_value(f"turnwire_{name}") == 0:
            await client.call({"type": "ping"})


async def test_who_does_not_read_its_answers_is_no_longer_read_from_and_closed() -> None:
    async with running_stack(limits={"slow_consumer_s": 0.4}) as (provider, app), connected(app.url) as other:
        provider.script(Script.text("x" * 20_000))
        await other.create("r1", "c1", "hello")
        await other.terminal("r1")
        async with narrow(app) as rude:
            history = {"type": "conversation.history", "conversation_id": "c1"}
            await rude.send(*[history] * 12)
            await rude.send({"type": "conversation.open", "conversation_id": "c-never"})
            await _metric_above_zero(other, app, "slow_consumers_total")
            with pytest.raises(ConnectionClosed) as closed:
                await rude.until(lambda: False)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 4001
            assert len(rude.events("conversation.messages")) < 12
        with pytest.raises(CallError) as absent:
            await other.open("c-never", create=False)
        assert absent.value.code == "not_found"


async def test_many_commands_in_one_frame_are_answered_no_faster_than_they_are_read() -> None:
    """One frame may hold thousands of commands: all their answers were kept at once for a client that reads none."""
    async with running_stack() as (provider, app), connected(app.url) as other:
        provider.script(Script.text("x" * 40_000))
        await other.create("r1", "c1", "hello")
        await other.terminal("r1")
        async with narrow(app) as rude:
            history = {"type": "conversation.history", "conversation_id": "c1"}
            await rude.send(*({**history, "id": f"h{n}"} for n in range(40)))
            most = 0
            for _ in range(60):
                await other.call({**history, "limit": 1})
                most = max(most, kept(app))
            assert 20_000 < most <= ALLOWED
            for n in range(40):
                assert len((await rude.answer(f"h{n}"))["items"]) == 2
