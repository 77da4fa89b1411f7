"""A webhook over real HTTP that looks at the signature of what it gets.

async with running_webhook() as (hook, url):
    hook.refusals = 1                    # answers 503 so often, and leads elsewhere `hook.redirects` times
    alert = await hook.taken.get()
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

WEBHOOK_SECRET = "the secret of the webhook"


class Webhook:
    """Takes what is signed rightly, after some refusals."""

    def __init__(self) -> None:
        self.taken: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.refusals = 1
        self.redirects = 0
        self.hung: asyncio.Event | None = None
        """If there is one, nothing is answered before it is set."""
        self.begun: asyncio.Queue[None] = asyncio.Queue()
        """One for each delivery that has come in."""

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        expected = hmac.new(WEBHOOK_SECRET.encode(), body, hashlib.sha256).hexdigest()
        assert request.headers["Turnwire-Signature"] == f"sha256={expected}"
        self.begun.put_nowait(None)
        if self.hung is not None:
            await self.hung.wait()
        if self.redirects:
            self.redirects -= 1
            return web.Response(status=302, headers={"Location": "/elsewhere"})
        if self.refusals:
            self.refusals -= 1
            return web.Response(status=503)
        self.taken.put_nowait(json.loads(body))
        return web.Response()


async def _nothing(request: web.Request) -> web.Response:
    return web.Response()


@asynccontextmanager
async def running_webhook() -> AsyncIterator[tuple[Webhook, str]]:
    hook = Webhook()
    application = web.Application()
    application.router.add_post("/alerts", hook.take)
    application.router.add_get("/elsewhere", _nothing)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server is not None
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
    try:
        yield hook, f"http://127.0.0.1:{port}/alerts"
    finally:
        await runner.cleanup()
