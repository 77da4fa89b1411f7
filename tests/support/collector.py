"""An OpenTelemetry collector over real HTTP: decodes what it is sent and keeps it.

async with running_collector() as (collector, url):
    spans = await collector.until(lambda spans: len(spans) == 3)
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

_LIMIT_S = 30.0


class Collector:
    """Takes spans, after some refusals that say not to try again."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.raw = b""
        """All bodies as they came."""
        self.headers: list[dict[str, str]] = []
        self.refusals = 0
        self._changed = asyncio.Event()

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.headers.append(dict(request.headers))
        if self.refusals:
            self.refusals -= 1
            return web.Response(status=400)
        self.raw += body
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            for scope in resource.scope_spans:
                self.spans.extend(scope.spans)
        self._changed.set()
        return web.Response(
            body=ExportTraceServiceResponse().SerializeToString(), content_type="application/x-protobuf"
        )

    async def until(self, is_true: Callable[[list[Span]], bool]) -> list[Span]:
        """The spans, once they are as wanted."""
        with anyio.fail_after(_LIMIT_S):
            while not is_true(self.spans):
                self._changed.clear()
                await self._changed.wait()
        return self.spans


def attributes_of(span: Span) -> dict[str, Any]:
    """Those of a span, as plain values; lists are left out."""
    found = {}
    for entry in span.attributes:
        kind = entry.value.WhichOneof("value")
        if kind != "array_value":
            found[entry.key] = getattr(entry.value, kind)
    return found


@asynccontextmanager
async def running_collector() -> AsyncIterator[tuple[Collector, str]]:
    collector = Collector()
    application = web.Application()
    application.router.add_post("/v1/traces", collector.take)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield collector, f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
