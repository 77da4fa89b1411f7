"""The scripted model: a small HTTP server on loopback that speaks the OpenAI chat protocol.

It says what the case wrote down, an answer for each call, in order. A call without an answer left is refused (400), so
that a turn which asks more often than its author thought fails instead of hearing something made up.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections import deque
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from .suite import Answer, Deed


class ScriptedModel:
    """Use `running_model`. `calls` counts what was asked since the last `load`."""

    def __init__(self) -> None:
        self.base_url = ""
        self.calls = 0
        self._answers: deque[Answer] = deque()

    @property
    def left(self) -> int:
        """Answers that nobody has asked for."""
        return len(self._answers)

    def load(self, answers: Iterable[Answer]) -> None:
        """The next calls get these; what was left is forgotten."""
        self.calls = 0
        self._answers = deque(answers)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.calls += 1
        if not self._answers:
            return _refusal(400, "the case has no answer left for this call")
        steps = _steps(self._answers.popleft())
        if steps and isinstance(steps[0], Deed) and steps[0].error is not None:
            return _refusal(steps[0].error, "the case says so")
        stream = _Stream(request, body, self.calls)
        with contextlib.suppress(ConnectionError):  # the server has hung up, as it does when a turn is stopped
            await stream.send(steps)
        return stream.response


class _Stream:
    def __init__(self, request: web.Request, body: dict[str, Any], number: int) -> None:
        self._request = request
        self._model = body.get("model", "")
        self._prompt_words = sum(len(str(m.get("content") or "").split()) for m in body.get("messages", ()))
        self._number = number
        self.response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        self._pieces = self._calls = 0

    async def send(self, steps: list[str | Deed]) -> None:
        await self.response.prepare(self._request)
        await self._chunk({"role": "assistant", "content": ""})
        for step in steps:
            if isinstance(step, str):
                self._pieces += 1
                await self._chunk({"content": step})
            elif step.pause_s is not None:
                await asyncio.sleep(step.pause_s)
            elif step.stall:
                # Ended by the server, which closes the connection (`handler_cancellation`).
                await asyncio.get_running_loop().create_future()
            elif step.tool is not None:
                await self._chunk({"tool_calls": [self._call(step.tool.name, step.tool.arguments)]})
            elif step.cut:
                if self._request.transport is not None:
                    self._request.transport.close()
                return
        await self._chunk({}, "tool_calls" if self._calls else "stop")
        await self._event({**self._base(), "choices": [], "usage": self._usage()})
        await self.response.write(b"data: [DONE]\n\n")
        await self.response.write_eof()

    def _call(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        index, self._calls = self._calls, self._calls + 1
        function = {"name": name, "arguments": json.dumps(arguments)}
        return {"index": index, "id": f"call_{self._number}_{index}", "type": "function", "function": function}

    def _usage(self) -> dict[str, int]:
        spoken = self._pieces + self._calls
        total = self._prompt_words + spoken
        return {"prompt_tokens": self._prompt_words, "completion_tokens": spoken, "total_tokens": total}

    def _base(self) -> dict[str, Any]:
        return {"id": f"eval-{self._number}", "object": "chat.completion.chunk", "created": 0, "model": self._model}

    async def _chunk(self, delta: dict[str, Any], finish: str | None = None) -> None:
        await self._event({**self._base(), "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})

    async def _event(self, data: dict[str, Any]) -> None:
        await self.response.write(b"data: " + json.dumps(data).encode() + b"\n\n")


def _steps(answer: Answer) -> list[str | Deed]:
    """A plain text comes word by word, as from a model."""
    return re.findall(r"\s*\S+\s*$|\s*\S+", answer) if isinstance(answer, str) else list(answer)


def _refusal(status: int, said: str) -> web.Response:
    return web.json_response({"error": {"message": said, "type": "scripted", "code": None}}, status=status)


@asynccontextmanager
async def running_model() -> AsyncIterator[ScriptedModel]:
    """Listens on a free port of loopback inside the block."""
    model = ScriptedModel()
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_post("/v1/chat/completions", model.answer)
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.05)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        address: tuple[str, int] = runner.addresses[0]
        model.base_url = f"http://127.0.0.1:{address[1]}/v1"
        yield model
    finally:
        await runner.cleanup()
