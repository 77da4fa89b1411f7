"""The OpenAI chat protocol in front of one `Engine`.

One generation at a time, in one thread; the others queue, up to a limit. A client that goes away ends its
generation at the next token, and leaves the queue if it was still waiting.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
import uuid
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import Any

from aiohttp import web

from turnwire_server.local_model.engine import CONTEXT_TOKENS, Engine, Generation, Sampling
from turnwire_server.local_model.prompt import prompt_for

QUEUE = 32
"""Generations that may wait or run; one more is refused with 429. At some seconds each nobody waits longer."""

DEFAULT_MAX_TOKENS = 512
PROMPT_TOKENS = CONTEXT_TOKENS - 256
"""Leaves room for an answer, however long the conversation has become."""


class BadRequest(Exception):
    """The body is not what the protocol asks for."""


class ModelServer:
    """The HTTP handlers. Close it with `close` when the server has stopped."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        # Its one thread is the queue.
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")
        self._open = 0

    def application(self) -> web.Application:
        app = web.Application(client_max_size=8 * 1024 * 1024)
        app.router.add_get("/healthz", self._health)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/chat/completions", self._complete)
        return app

    def close(self) -> None:
        self._executor.shutdown(wait=True, cancel_futures=True)

    async def _health(self, _request: web.Request) -> web.Response:
        return web.json_response({"status": "ok", "model": self._engine.name})

    async def _models(self, _request: web.Request) -> web.Response:
        model = {"id": self._engine.name, "object": "model", "created": 0, "owned_by": "local"}
        return web.json_response({"object": "list", "data": [model]})

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        try:
            body = await request.json()
            messages, sampling = _read(body)
        except (BadRequest, ValueError) as error:
            return _error(400, f"bad request: {error}", "invalid_request_error")
        if self._open >= QUEUE:
            return _error(429, "the local model has too many requests waiting", "rate_limit_error", retry_after=5)
        self._open += 1
        try:
            answer = _Answer(self._engine, self._executor, messages, sampling)
            if body.get("stream"):
                return await self._stream(request, answer, body)
            return await self._whole(answer)
        finally:
            self._open -= 1

    async def _whole(self, answer: _Answer) -> web.Response:
        async with aclosing(answer.pieces()) as pieces:
            text = "".join([piece async for piece in pieces])
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": answer.generation.finish}
        return web.json_response({**self._head("chat.completion"), "choices": [choice], "usage": answer.usage()})

    async def _stream(self, request: web.Request, answer: _Answer, body: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream", "cache-control": "no-cache"})
        await response.prepare(request)
        head = self._head("chat.completion.chunk")

        async def send(delta: dict[str, Any], finish: str | None = None) -> None:
            choice = {"index": 0, "delta": delta, "finish_reason": finish}
            await _event(response, {**head, "choices": [choice]})

        await send({"role": "assistant", "content": ""})
        async with aclosing(answer.pieces()) as pieces:
            async for piece in pieces:
                await send({"content": piece})
        await send({}, answer.generation.finish)
        if (body.get("stream_options") or {}).get("include_usage"):
            await _event(response, {**head, "choices": [], "usage": answer.usage()})
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "object": kind,
            "created": int(time.time()),
            "model": self._engine.name,
        }


class _Answer:
    """One generation, carried from the model's thread to the event loop."""

    def __init__(
        self, engine: Engine, executor: ThreadPoolExecutor, messages: list[dict[str, Any]], sampling: Sampling
    ) -> None:
        self.generation = Generation()
        self._engine = engine
        self._executor = executor
        self._messages = messages
        self._sampling = sampling
        self._prompt_tokens = 0
        self._stopped = threading.Event()

    def usage(self) -> dict[str, int]:
        tokens = self.generation.tokens
        return {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": tokens,
            "total_tokens": self._prompt_tokens + tokens,
        }

    async def pieces(self) -> AsyncGenerator[str]:
        loop = asyncio.get_running_loop()
        # Unbounded on purpose: it holds at most `max_tokens` small pieces.
        queue: asyncio.Queue[str | None] = asyncio.Queue()

        def put(piece: str | None) -> None:
            loop.call_soon_threadsafe(queue.put_nowait, piece)

        work = loop.run_in_executor(self._executor, self._generate, put)
        try:
            while (piece := await queue.get()) is not None:
                yield piece
            await work  # raises what the engine raised
        finally:
            self._stopped.set()
            work.cancel()

    def _generate(self, put: Any) -> None:
        try:
            prompt = prompt_for(self._messages, self._engine.tokenize, PROMPT_TOKENS)
            self._prompt_tokens = len(prompt)
            for piece in self._engine.generate(prompt, self._sampling, self._stopped, self.generation):
                put(piece)
        finally:
            put(None)


def _read(body: Any) -> tuple[list[dict[str, Any]], Sampling]:
    if not isinstance(body, dict):
        raise BadRequest("expected an object")
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(each, dict) for each in messages):
        raise BadRequest("'messages' must be a list of messages")
    limit = body.get("max_completion_tokens") or body.get("max_tokens") or DEFAULT_MAX_TOKENS
    if not isinstance(limit, int) or limit < 1:
        raise BadRequest("'max_tokens' must be a positive integer")
    seed = body.get("seed")
    if seed is not None and (not isinstance(seed, int) or seed < 0):
        raise BadRequest("'seed' must be a non-negative integer")
    sampling = Sampling(
        max_tokens=limit,
        temperature=_number(body, "temperature", 0.2, 2.0),
        top_p=_number(body, "top_p", 0.9, 1.0),
        seed=seed,
    )
    return messages, sampling


def _number(body: dict[str, Any], key: str, default: float, most: float) -> float:
    value = body.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise BadRequest(f"'{key}' must be a number from 0 to {most:g}")
    return float(value)


def _error(status: int, message: str, kind: str, *, retry_after: int | None = None) -> web.Response:
    headers = {"retry-after": str(retry_after)} if retry_after is not None else None
    return web.json_response(
        {"error": {"message": message, "type": kind, "code": None}}, status=status, headers=headers
    )


async def _event(response: web.StreamResponse, data: dict[str, Any]) -> None:
    await response.write(b"data: " + json.dumps(data, ensure_ascii=False).encode() + b"\n\n")
