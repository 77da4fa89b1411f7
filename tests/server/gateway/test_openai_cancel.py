"""Leaving a stream closes the provider's socket at once, whatever the stream is doing."""

from __future__ import annotations

import asyncio
import statistics
import time

import anyio
import pytest
from tests.server.gateway.asking import HELLO, ask, provider_at
from tests.support.provider import ControlledProvider, Script, running_provider

from turnwire_server.gateway.provider import Text
from turnwire_server.gateway.providers.openai import OpenAIProvider


async def _read_until_cancelled(provider: OpenAIProvider, started: asyncio.Event) -> None:
    async with provider.stream(HELLO) as stream:
        async for _ in stream:
            started.set()


async def _cancel_in_midstream(server: ControlledProvider, provider: OpenAIProvider) -> float:
    """Seconds from the cancel to the moment when the provider saw its socket closed."""
    server.script(Script.stalled_after("a", "b"))
    index, started = len(server.requests), asyncio.Event()
    task = asyncio.create_task(_read_until_cancelled(provider, started))
    await started.wait()
    cancelled_at = time.monotonic()
    task.cancel()
    gone_at = await server.client_gone(index)
    with pytest.raises(asyncio.CancelledError):
        await task
    return gone_at - cancelled_at


async def test_a_cancelled_stream_closes_the_socket_within_50_ms() -> None:
    async with running_provider() as server, provider_at(server.base_url) as provider, asyncio.timeout(60):
        delays = [await _cancel_in_midstream(server, provider) for _ in range(20)]
    assert statistics.median(delays) < 0.05


async def test_a_cancel_while_tokens_flow_closes_the_socket() -> None:
    async with running_provider() as server, provider_at(server.base_url) as provider, asyncio.timeout(60):
        server.script(Script.words(100_000, rate=2000))
        started = asyncio.Event()
        task = asyncio.create_task(_read_until_cancelled(provider, started))
        await started.wait()
        task.cancel()
        await server.client_gone(0)
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_cancel_before_the_first_token_closes_the_socket() -> None:
    async with running_provider() as server, provider_at(server.base_url) as provider, asyncio.timeout(60):
        server.script(Script.never_answers())
        task = asyncio.create_task(ask(provider))
        await server.request_received()
        task.cancel()
        await server.client_gone(0)
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_cancel_scope_closes_the_socket() -> None:
    async with running_provider() as server, provider_at(server.base_url) as provider:
        server.script(Script.stalled_after("a"))
        with anyio.fail_after(5), anyio.CancelScope() as scope:
            async with provider.stream(HELLO) as stream:
                async for chunks in stream:
                    assert chunks == [Text("a")]
                    scope.cancel()
        assert scope.cancelled_caught
        await server.client_gone(0)


async def test_leaving_without_reading_on_closes_the_socket() -> None:
    async with running_provider() as server, provider_at(server.base_url) as provider, asyncio.timeout(60):
        server.script(Script.words(1000, rate=100))
        async with provider.stream(HELLO) as stream:
            await anext(stream)
        await server.client_gone(0)


async def test_an_exception_of_the_reader_closes_the_socket() -> None:
    async with running_provider() as server, provider_at(server.base_url) as provider, asyncio.timeout(60):
        server.script(Script.stalled_after("a"))
        with pytest.raises(ZeroDivisionError):
            async with provider.stream(HELLO) as stream:
                await anext(stream)
                raise ZeroDivisionError
        await server.client_gone(0)


async def test_after_cancelled_streams_the_next_one_works() -> None:
    async with running_provider() as server, provider_at(server.base_url, max_concurrency=1) as provider:
        async with asyncio.timeout(60):
            for _ in range(5):
                await _cancel_in_midstream(server, provider)
            assert (await ask(provider)).error is None


async def test_a_cancel_that_meets_the_idle_limit_stays_a_cancel() -> None:
    """Both cancel the same wait. A turn that took the one for the other would not end as cancelled."""
    async with running_provider() as server, provider_at(server.base_url, idle_timeout_s=0.05) as provider:
        async with asyncio.timeout(60):
            for delay in (0.045, 0.048, 0.05, 0.051, 0.052):
                server.script(Script.stalled_after("a"))
                started = asyncio.Event()
                task = asyncio.create_task(_read_until_cancelled(provider, started))
                await started.wait()
                asyncio.get_running_loop().call_later(delay, task.cancel)
                await asyncio.wait([task])
                ended_as_cancelled = task.cancelled()
                assert ended_as_cancelled or task.exception() is not None
                assert task.cancelling() == 0 or ended_as_cancelled
