"""A pushed body over real sockets: nothing lost and nothing doubled, however it is framed, stopped, cut or cancelled.

The server here is a bare socket that sends what the test says and when, since the subject is what comes in one piece.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import orjson
import pytest
from tests.support.examples import examples

from turnwire_server.gateway.errors import ProviderError, ProviderErrorKind
from turnwire_server.gateway.provider import Chunk, ModelRequest, Text, pump
from turnwire_server.gateway.providers.openai import OpenAIProvider
from turnwire_server.gateway.providers.pushed import PushedBody

from .asking import provider_at

HELLO = ModelRequest([{"role": "user", "content": "hello there"}])
DONE = b"data: [DONE]\n\n"


def event(text: str | None = None, *, finish: str | None = None, **fields: Any) -> bytes:
    delta = {} if text is None else {"content": text}
    document = {"id": "c1", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **fields}
    return b"data: " + orjson.dumps(document) + b"\n\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Peer:
    """The server's end of one connection, or of one request after the other on it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    async def request(self) -> None:
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = next(int(line.split(b":")[1]) for line in head.lower().splitlines() if line.startswith(b"content-len"))
        await self._reader.readexactly(length)

    def head(self, *headers: str) -> None:
        lines = ["HTTP/1.1 200 OK", "content-type: text/event-stream", *headers, "", ""]
        self.writer.write("\r\n".join(lines).encode())

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def gone(self) -> None:
        assert await self._reader.read() == b""


@asynccontextmanager
async def server(play: Callable[[Peer], Awaitable[None]]) -> AsyncIterator[str]:
    """Every connection is played by ``play``; what it raises fails the test."""
    failures: list[BaseException] = []
    tasks: set[asyncio.Task[Any] | None] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        try:
            await play(Peer(reader, writer))
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        except Exception as error:
            failures.append(error)
        finally:
            writer.close()

    listening = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        async with asyncio.timeout(20):
            yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1"
    finally:
        listening.close()
        for task in tasks:
            assert task is not None
            task.cancel()
        await asyncio.gather(*filter(None, tasks), return_exceptions=True)
        assert not failures


@asynccontextmanager
async def saying_a() -> AsyncIterator[tuple[str, asyncio.Event]]:
    """A server that says "a" and no more, and the event of its client's going."""
    gone = asyncio.Event()

    async def play(peer: Peer) -> None:
        await peer.request()
        peer.head("transfer-encoding: chunked")
        await peer.send(chunk(event("a")))
        await peer.gone()
        gone.set()

    async with server(play) as url:
        yield url, gone


class Taker:
    """Takes what is pushed; stops where it is told to, and tells who waits for a text."""

    def __init__(self, stops: Callable[[], bool] = lambda: False) -> None:
        self.text = ""
        self._stops = stops
        self._news = asyncio.Event()

    def __call__(self, chunks: list[Chunk]) -> bool:
        self.text += "".join(found.text for found in chunks if isinstance(found, Text))
        self._news.set()
        return not self._stops()

    async def has(self, text: str) -> None:
        while self.text != text:
            self._news.clear()
            await self._news.wait()


async def pumped(provider: OpenAIProvider, taker: Taker) -> None:
    async with provider.stream(HELLO) as stream:
        while not await pump(stream, taker):
            await asyncio.sleep(0)


# --- framing -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("framing", ["chunked", "length", "until eof"])
async def test_pieces_cut_anywhere_come_whole_whatever_ends_the_body(framing: str) -> None:
    rng = random.Random(framing)
    words = [f"wörd{n} " for n in range(40)]
    body = b"".join(event(word) for word in words) + event(finish="stop") + DONE

    async def play(peer: Peer) -> None:
        await peer.request()
        end = {"chunked": "transfer-encoding: chunked", "length": f"content-length: {len(body)}"}
        peer.head(end.get(framing, "connection: close"))
        wire, at = b"", 0
        if framing == "chunked":
            while at < len(body):
                size = rng.randint(1, 200)
                wire, at = wire + chunk(body[at : at + size]), at + size
            wire += chunk(b"")
        else:
            wire = body
        at = 0
        while at < len(wire):
            size = rng.randint(1, 150)
            await peer.send(wire[at : at + size])
            at += size
            await asyncio.sleep(0)

    for _ in range(examples(3)):
        async with server(play) as url, provider_at(url) as provider:
            taker = Taker(lambda: rng.random() < 0.3)
            await pumped(provider, taker)
        assert taker.text == "".join(words)


async def test_a_connection_is_used_again_after_a_pushed_body() -> None:
    """And the next body on it is pushed too, from its first byte on."""
    connections = 0

    async def play(peer: Peer) -> None:
        nonlocal connections
        connections += 1
        for n in range(3):
            await peer.request()
            peer.head("transfer-encoding: chunked")
            await peer.send(chunk(event(f"a{n}")))
            await peer.send(chunk(event(f"b{n}")) + chunk(event(finish="stop") + DONE) + chunk(b""))
        await peer.gone()

    async with server(play) as url, provider_at(url) as provider:
        for n in range(3):
            taker = Taker()
            await pumped(provider, taker)
            assert taker.text == f"a{n}b{n}"
    assert connections == 1


async def test_the_first_piece_may_be_read_and_the_rest_pushed() -> None:
    """As the winner of a race is: between the two, more has come."""
    words = [f"w{n} " for n in range(20)]
    sent = asyncio.Event()

    async def play(peer: Peer) -> None:
        await peer.request()
        peer.head("transfer-encoding: chunked")
        await peer.send(chunk(event("first ")))
        await sent.wait()
        for word in words:
            await peer.send(chunk(event(word)))
            await asyncio.sleep(0)
        await peer.send(chunk(event(finish="stop") + DONE) + chunk(b""))

    async with server(play) as url, provider_at(url) as provider, provider.stream(HELLO) as stream:
        taker = Taker()
        taker(await asyncio.wait_for(anext(stream), 5))
        sent.set()
        while not stream._body.has_news:  # type: ignore[attr-defined]
            await asyncio.sleep(0)
        assert await pump(stream, taker)
    assert taker.text == "first " + "".join(words)


# --- stopping ----------------------------------------------------------------------------------------------


async def test_what_comes_after_the_take_has_stopped_waits_for_the_next() -> None:
    """In the same segment, and for so long that the socket is no longer read: then all of it, once."""
    words = [f"{n:05} " + "x" * 2_000 for n in range(400)]

    async def play(peer: Peer) -> None:
        await peer.request()
        peer.head("transfer-encoding: chunked")
        await peer.send(b"".join(chunk(event(word)) for word in words))
        await peer.send(chunk(event(finish="stop") + DONE) + chunk(b""))

    async with server(play) as url, provider_at(url) as provider:
        stops = 0

        def stop() -> bool:
            nonlocal stops
            stops += 1
            return True

        taker = Taker(stop)
        async with provider.stream(HELLO) as stream:
            assert not await pump(stream, taker)
            reader = stream._body._reader  # type: ignore[attr-defined]
            while not reader._protocol._reading_paused:
                await asyncio.sleep(0)
            assert taker.text != "".join(words)
            while not await pump(stream, taker):
                pass
    assert taker.text == "".join(words)
    assert stops > 1


async def test_a_take_that_wants_no_more_ends_the_push_at_once() -> None:
    """Not only when something else ends it: nothing more is sent, and the answer stays open."""
    pushing = asyncio.Event()

    async def play(peer: Peer) -> None:
        await peer.request()
        peer.head("transfer-encoding: chunked")
        await pushing.wait()
        await peer.send(chunk(event("a")))
        await peer.gone()

    async with server(play) as url, provider_at(url) as provider, provider.stream(HELLO) as stream:
        taker = Taker(lambda: True)
        pumping = asyncio.create_task(pump(stream, taker))
        while stream._body._reader._waiter is None:  # type: ignore[attr-defined]
            await asyncio.sleep(0)
        pushing.set()
        assert await pumping is False
    assert taker.text == "a"


async def test_what_the_take_raises_comes_out_of_pump_and_closes_the_connection() -> None:
    def broken() -> bool:
        raise ZeroDivisionError

    async with saying_a() as (url, gone), provider_at(url) as provider:
        with pytest.raises(ZeroDivisionError):
            await pumped(provider, Taker(broken))
        await gone.wait()


@pytest.mark.parametrize("cancel_first", [True, False])
async def test_a_cancel_in_the_moment_in_which_data_comes_is_a_cancel(cancel_first: bool) -> None:
    """What comes with it was taken, or is not: half of it is not possible, and nobody hangs."""
    async with saying_a() as (url, gone), provider_at(url) as provider:
        taker = Taker()
        streams: list[Any] = []

        async def reading() -> None:
            async with provider.stream(HELLO) as stream:
                streams.append(stream)
                await pump(stream, taker)

        task = asyncio.create_task(reading())
        await taker.has("a")
        while streams[0]._body._reader._waiter is None:
            await asyncio.sleep(0)
        protocol = streams[0]._body._reader._protocol
        if cancel_first:
            task.cancel()
        protocol.data_received(chunk(event("b")))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert taker.text == ("a" if cancel_first else "ab")
        await gone.wait()


async def test_a_steady_stream_outlives_the_limit_that_its_push_began_with() -> None:
    async def play(peer: Peer) -> None:
        await peer.request()
        peer.head("transfer-encoding: chunked")
        for _ in range(30):
            await peer.send(chunk(event("a")))
            await asyncio.sleep(0.05)  # this is about time
        await peer.send(chunk(event(finish="stop") + DONE) + chunk(b""))

    async with server(play) as url, provider_at(url, idle_timeout_s=1, first_token_timeout_s=1) as provider:
        taker = Taker()
        await pumped(provider, taker)
    assert taker.text == "a" * 30


# --- the end, and time -------------------------------------------------------------------------------------


@pytest.mark.parametrize("headers", ["transfer-encoding: chunked", "content-length: 100000", "connection: close"])
async def test_a_connection_lost_while_it_is_pushed_is_a_cut(headers: str) -> None:
    taker = Taker()
    is_chunked = "chunked" in headers

    async def play(peer: Peer) -> None:
        await peer.request()
        peer.head(headers)
        await peer.send(chunk(event("a")) if is_chunked else event("a"))
        await taker.has("a")
        await peer.send(b"ff\r\n" + event("b") if is_chunked else event("b"))
        await taker.has("ab")

    async with server(play) as url, provider_at(url) as provider:
        with pytest.raises(ProviderError) as failed:
            await pumped(provider, taker)
    assert failed.value.kind is ProviderErrorKind.CUT
    assert taker.text == "ab"


async def test_a_connection_lost_after_the_finish_reason_spoils_nothing() -> None:
    taker = Taker()

    async def play(peer: Peer) -> None:
        await peer.request()
        peer.head("transfer-encoding: chunked")
        await peer.send(chunk(event("a")))
        await taker.has("a")
        await peer.send(chunk(event(finish="stop")))

    async with server(play) as url, provider_at(url) as provider:
        await pumped(provider, taker)
    assert taker.text == "a"


@pytest.mark.parametrize(
    ("limits", "first", "then", "words"),
    [
        ({"first_token_timeout_s": 0.15}, b"", b": comment\n\n", "first token"),
        ({"idle_timeout_s": 0.15}, event("a"), b": comment\n\n", "fell silent"),
        ({"total_timeout_s": 0.3}, event("a"), event("b"), "did not finish"),
    ],
)
async def test_every_limit_holds_while_a_body_is_pushed(
    limits: dict[str, Any], first: bytes, then: bytes, words: str
) -> None:
    """Also beside what keeps the connection alive and is no token, and beside tokens for the whole."""

    async def play(peer: Peer) -> None:
        await peer.request()
        peer.head("transfer-encoding: chunked")
        if first:
            await peer.send(chunk(first))
        while True:
            await peer.send(chunk(then))
            await asyncio.sleep(0.02)

    async with server(play) as url, provider_at(url, **limits) as provider:
        with pytest.raises(ProviderError) as failed:
            await pumped(provider, Taker())
    assert failed.value.kind is ProviderErrorKind.TIMEOUT
    assert words in str(failed.value)


async def test_pushes_and_reads_in_turn_lose_nothing() -> None:
    """Of a body that comes in any pieces, taken in any way."""
    rng = random.Random(5)
    pieces = [b"%d " % n * rng.randint(1, 500) for n in range(300)]

    async def play(peer: Peer) -> None:
        await peer.request()
        peer.head("transfer-encoding: chunked")
        for piece in pieces:
            await peer.send(chunk(piece))
            if rng.random() < 0.5:
                await asyncio.sleep(0)
        await peer.send(chunk(b""))

    async with server(play) as url, aiohttp.ClientSession() as session:
        response = await session.post(url, data=b"{}")
        body, came = PushedBody(response.content), bytearray()

        def take(data: bytes) -> bool:
            came.extend(data)
            return rng.random() < 0.7

        while True:
            if body.has_news or rng.random() < 0.3:
                data = await body.read()
                if not data:
                    break
                came += data
            else:
                # It begins a moment later, when something may have come: that is first.
                if rng.random() < 0.3:
                    await asyncio.sleep(0)
                pushing = asyncio.ensure_future(body.push(take))
                await asyncio.sleep(0)
                if rng.random() < 0.3:
                    pushing.cancel()
                await asyncio.gather(pushing, return_exceptions=True)
        assert bytes(came) == b"".join(pieces)
        response.release()
