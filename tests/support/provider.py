"""A real HTTP server that speaks the OpenAI chat protocol and does exactly what the test says.

    async with running_provider() as provider:
        provider.script(Script.text("Hel", gate := Gate(), "lo"))
        ... point a deployment at provider.base_url and start a turn ...
        request = await provider.request_received()
        await gate.reached()
        ... cancel the turn ...
        closed_at = await provider.client_gone(request.index)      # time.monotonic()

Requests take the scripts in order; without one they get `provider.default`, an echo. It is unrealistic in
that it never judges the request. For load and kill tests it also runs as a process of its own:

    python -m tests.support.provider --port 0 --chunks 200 --rate 50        prints its port
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import socket
import struct
import time
import zlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from tests.support.prompt_rules import faults_of
from tests.support.provider_script import (
    COUNTED,
    Delta,
    Do,
    Event,
    Gate,
    Pause,
    Script,
    Step,
    echo,
    tool_call_steps,
    utf16_units,
)

__all__ = [
    "ControlledProvider",
    "Delta",
    "Do",
    "Event",
    "Gate",
    "Pause",
    "RecordedRequest",
    "Script",
    "refused_base_url",
    "running_provider",
    "tool_call_steps",
    "unconnectable_base_url",
    "utf16_units",
]


@dataclass(slots=True)
class RecordedRequest:
    """One request as the provider saw it. Times are `time.monotonic()`."""

    index: int
    body: dict[str, Any]
    headers: dict[str, str]
    received_at: float
    sent: int = 0
    """Steps carried out so far."""
    gone_at: float | None = None
    """When the client's socket was seen closed before the answer had ended."""
    ended_at: float | None = None
    """When the answer had been sent to its end."""

    @property
    def messages(self) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = self.body["messages"]
        return messages

    def is_over(self) -> bool:
        return self.gone_at is not None or self.ended_at is not None


@dataclass(slots=True)
class _Waiter:
    is_true: Callable[[], bool]
    future: asyncio.Future[None]


def bags_of_words(texts: list[str]) -> list[list[float]]:
    """Vectors that are near where texts share beginnings of words."""
    vectors = []
    for text in texts:
        vector = [0.0] * 64
        for word in text.lower().split():
            vector[zlib.crc32(word[:4].encode()) % 64] += 1.0
        vectors.append(vector)
    return vectors


@dataclass(slots=True)
class ControlledProvider:
    """What a test holds in its hands."""

    base_url: str = ""
    requests: list[RecordedRequest] = field(default_factory=list)
    default: Callable[[dict[str, Any]], Script] = echo
    """Makes the script of a request that finds none waiting, from the request's body."""
    embed: Callable[[list[str]], list[list[float]]] = bags_of_words
    """Makes the vectors of a request for embeddings."""
    embedded: list[list[str]] = field(default_factory=list)
    """The texts of each request for embeddings."""
    embedding_fault: int | None = None
    """Status that such requests are answered with, instead."""
    embedding_hangs: bool = False
    """Such requests are never answered."""
    most_open: int = 0
    """The most requests that were open at the same time."""
    _scripts: deque[Script] = field(default_factory=deque)
    _awaited: int = 0
    _waiters: list[_Waiter] = field(default_factory=list)

    def script(self, *scripts: Script) -> None:
        """The next requests get these, in order."""
        self._scripts.extend(scripts)

    @property
    def open_requests(self) -> int:
        return sum(not request.is_over() for request in self.requests)

    async def request_received(self, index: int | None = None, *, limit_s: float = 30) -> RecordedRequest:
        """The request with this index; without one, the next that no such call has returned yet."""
        if index is None:
            index, self._awaited = self._awaited, self._awaited + 1
        await self.until(lambda: len(self.requests) > index, limit_s=limit_s)
        return self.requests[index]

    async def client_gone(self, index: int = 0, *, limit_s: float = 30) -> float:
        """Waits until request `index` has lost its client before its answer had ended; when that was."""
        await self.until(lambda: self._gone_at(index) is not None, limit_s=limit_s)
        gone_at = self._gone_at(index)
        assert gone_at is not None
        return gone_at

    async def steps_sent(self, count: int, index: int = 0, *, limit_s: float = 30) -> None:
        """Waits until `count` steps of request `index` have been carried out."""
        await self.until(lambda: len(self.requests) > index and self.requests[index].sent >= count, limit_s=limit_s)

    async def until(self, is_true: Callable[[], bool], *, limit_s: float = 30) -> None:
        """Waits until something about the requests is true."""
        if is_true():
            return
        waiter = _Waiter(is_true, asyncio.get_running_loop().create_future())
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(limit_s):
                await waiter.future
        finally:
            self._waiters.remove(waiter)

    def _gone_at(self, index: int) -> float | None:
        return self.requests[index].gone_at if len(self.requests) > index else None

    def _changed(self) -> None:
        for waiter in self._waiters:
            if not waiter.future.done() and waiter.is_true():
                waiter.future.set_result(None)

    # The server's side.

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        headers = {name.lower(): value for name, value in request.headers.items()}
        # Not sent by anybody: tells connections apart.
        headers["x-client-port"] = str((request.transport.get_extra_info("peername") or (0, 0))[1])
        record = RecordedRequest(len(self.requests), body, headers, time.monotonic())
        script = self._scripts.popleft() if self._scripts else self.default(body)
        self.requests.append(record)
        self.most_open = max(self.most_open, self.open_requests)
        self._changed()
        try:
            response = await _Answer(request, record, script, self._changed).send()
            record.ended_at = time.monotonic()
            return response
        except (asyncio.CancelledError, ConnectionError):
            # The server cancels a handler as soon as its socket is closed.
            record.gone_at = time.monotonic()
            raise
        finally:
            self._changed()

    async def answer_embeddings(self, request: web.Request) -> web.Response:
        body = await request.json()
        if self.embedding_hangs:
            await asyncio.get_running_loop().create_future()
        if self.embedding_fault is not None:
            return web.json_response({"error": {"message": "not now"}}, status=self.embedding_fault)
        self.embedded.append(texts := list(body["input"]))
        tokens = sum(len(text.split()) for text in texts)
        data = [
            {"object": "embedding", "index": index, "embedding": vector}
            for index, vector in enumerate(self.embed(texts))
        ]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return web.json_response({"object": "list", "data": data, "model": body["model"], "usage": usage})


class _Answer:
    """Carries out one script."""

    def __init__(
        self,
        request: web.Request,
        record: RecordedRequest,
        script: Script,
        changed: Callable[[], None],
    ) -> None:
        self._request = request
        self._record = record
        self._script = script
        self._changed = changed
        self._started = time.monotonic()
        self._text_deltas = 0

    async def send(self) -> web.StreamResponse:
        script = self._script
        if script.silent:
            await asyncio.get_running_loop().create_future()
        if script.body is not None:
            return web.Response(status=script.status, headers=script.headers, body=script.body)
        headers = {"content-type": "text/event-stream", "cache-control": "no-cache", **script.headers}
        response = web.StreamResponse(status=script.status, headers=headers)
        await response.prepare(self._request)
        await self._event(response, self._chunk({"role": "assistant", "content": ""}))
        for step in script.steps:
            if not await self._carry_out(step, response):
                return response
            self._record.sent += 1
            self._changed()
            await self._keep_rate()
        await self._last_events(response)
        await response.write_eof()
        return response

    async def _carry_out(self, step: Step, response: web.StreamResponse) -> bool:
        """Whether the script goes on after this step."""
        match step:
            case str():
                self._text_deltas += 1
                await self._event(response, self._chunk({"content": step}))
            case bytes():
                await response.write(step)
            case Delta(delta):
                self._text_deltas += 1
                await self._event(response, self._chunk(delta))
            case Event(data):
                await self._event(response, data)
            case Gate():
                await step.pass_through()
            case Pause(seconds):
                await asyncio.sleep(seconds)
            case Do.STALL:
                await asyncio.get_running_loop().create_future()
            case Do.CUT | Do.RESET:
                self._drop_socket(reset=step is Do.RESET)
                return False
            case Do.END:
                await response.write_eof()
                return False
        return True

    async def _last_events(self, response: web.StreamResponse) -> None:
        script = self._script
        if script.finish is not None:
            await self._event(response, self._chunk({}, script.finish))
        if script.usage is not None:
            await self._event(response, {**self._chunk({}), "choices": [], "usage": self._usage()})
        if script.done:
            await response.write(b"data: [DONE]\n\n")

    async def _keep_rate(self) -> None:
        if self._script.rate is not None:
            due = self._started + self._record.sent / self._script.rate
            if (left := due - time.monotonic()) > 0:
                await asyncio.sleep(left)

    def _drop_socket(self, *, reset: bool) -> None:
        transport = self._request.transport
        assert transport is not None
        if reset:
            sock: socket.socket = transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()
        else:
            transport.close()

    def _chunk(self, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        return {
            "id": f"chatcmpl-{self._record.index}",
            "object": "chat.completion.chunk",
            "created": 1_700_000_000,
            "model": self._record.body.get("model", ""),
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
        }

    def _usage(self) -> dict[str, Any]:
        usage = self._script.usage
        if usage == COUNTED:
            words = sum(len(str(m.get("content", "")).split()) for m in self._record.messages)
            usage = (words, self._text_deltas)
        assert isinstance(usage, tuple)
        tokens = (*usage, 0)[:3]
        return {
            "prompt_tokens": tokens[0],
            "completion_tokens": tokens[1],
            "total_tokens": tokens[0] + tokens[1],
            "prompt_tokens_details": {"cached_tokens": tokens[2]},
        }

    @staticmethod
    async def _event(response: web.StreamResponse, data: dict[str, Any]) -> None:
        # The escapes of the standard library keep lone surrogates, as other servers send them.
        await response.write(b"data: " + json.dumps(data).encode() + b"\n\n")


@asynccontextmanager
async def running_provider(port: int = 0, *default: Script) -> AsyncIterator[ControlledProvider]:
    """A provider on loopback. A script given here answers every request that finds no other."""
    provider = ControlledProvider()
    if default:
        provider.default = lambda _body: default[0]
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_post("/v1/chat/completions", provider.answer)
    app.router.add_post("/v1/embeddings", provider.answer_embeddings)
    app.router.add_get("/v1/models", _models)
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.05)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", port)
        await site.start()
        address: tuple[str, int] = runner.addresses[0]
        provider.base_url = f"http://127.0.0.1:{address[1]}/v1"
        yield provider
        faults = {request.index: faults_of(request.messages) for request in provider.requests}
        assert not any(faults.values()), f"a strict provider would have refused this: {faults}"
    finally:
        await runner.cleanup()


async def _models(_request: web.Request) -> web.Response:
    return web.json_response({"object": "list", "data": [{"id": "test-model", "object": "model"}]})


@contextmanager
def refused_base_url() -> Iterator[str]:
    """An address that refuses every connection: bound, so that nobody else gets it, but not listening."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{sock.getsockname()[1]}/v1"


@contextmanager
def unconnectable_base_url() -> Iterator[str]:
    """An address where connecting takes for ever: its queue of new connections is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"


async def _serve(port: int, script: Script) -> None:
    async with running_provider(port, script) as provider:
        print(provider.base_url.rsplit(":", 1)[1].removesuffix("/v1"), flush=True)
        await asyncio.get_running_loop().create_future()


def main() -> None:
    parser = argparse.ArgumentParser(description="A provider that streams the same words to everybody.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--chunks", type=int, default=200)
    parser.add_argument("--rate", type=float, default=None, help="chunks per second and stream")
    options = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(options.port, Script.words(options.chunks, rate=options.rate)))


if __name__ == "__main__":
    main()
