"""One way to ask a model, measured: `python benchmarks/router_caller.py KIND URL`, orders on stdin, answers on stdout.

    sdk             the openai SDK's own stream
    provider        our provider, without the router
    router          our router over two deployments: what a step of a turn does
    litellm         litellm.acompletion, without its router
    litellm-router  litellm.Router over the same two deployments

An order is a line with a number of requests and how many at once; the answer is a line of JSON: CPU and wall time of a
request in µs. Imports only what its kind needs, so that it runs in LiteLLM's own environment too.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

Ask = Callable[[], Awaitable[int]]

MESSAGES: list[Any] = [
    {"role": "system", "content": "Answer briefly."},
    {"role": "user", "content": "What does a request cost?"},
]
KEY = "sk-benchmark"


def sdk(url: str) -> Ask:
    from openai import AsyncOpenAI

    client = AsyncOpenAI(api_key=KEY, base_url=url, max_retries=0)

    async def ask() -> int:
        stream = await client.chat.completions.create(
            model="bench", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
        return len([chunk async for chunk in stream])

    return ask


def _deployments(url: str) -> list[Any]:
    from turnwire_server.settings import Deployment

    return [Deployment(name=name, model="bench", base_url=url, api_key_env="KEY") for name in ("a", "b")]


def provider(url: str) -> Ask:
    from turnwire_server.gateway.provider import ModelRequest
    from turnwire_server.gateway.providers import provider_for

    only = provider_for(_deployments(url)[0], {"KEY": KEY})

    async def ask() -> int:
        count = 0
        async with only.stream(ModelRequest(MESSAGES)) as stream:
            async for chunks in stream:
                count += len(chunks)
        return count

    return ask


def router(url: str) -> Ask:
    from turnwire_server.gateway.provider import ModelRequest
    from turnwire_server.gateway.router import Caller, Router
    from turnwire_server.settings import Route
    from turnwire_server.telemetry.metrics import Metrics

    route = Route(name="r", deployments=("a", "b"), weights={"a": 1, "b": 1})
    all_of_them = Router.open(_deployments(url), [route], {"KEY": KEY}, metrics=Metrics())

    async def ask() -> int:
        count = 0
        walk = all_of_them.walk("r", Caller("tenant", frozenset({"x"})))
        call = await walk.next()
        assert call is not None, "the provider answers"
        try:
            async with call.provider.stream(ModelRequest(MESSAGES)) as stream:
                async for chunks in stream:
                    call.answered()
                    count += len(chunks)
        finally:
            walk.ended(call)
        return count

    return ask


def litellm(url: str) -> Ask:
    import litellm as library

    library.suppress_debug_info = True

    async def ask() -> int:
        stream = await library.acompletion(
            model="openai/bench", api_base=url, api_key=KEY, messages=MESSAGES, stream=True, max_retries=0
        )
        return len([chunk async for chunk in stream])

    return ask


def litellm_router(url: str) -> Ask:
    import litellm as library

    library.suppress_debug_info = True
    deployments = [
        {"model_name": "r", "litellm_params": {"model": "openai/bench", "api_base": url, "api_key": key}}
        for key in (f"{KEY}-a", f"{KEY}-b")
    ]
    over_all = library.Router(model_list=deployments, num_retries=2)

    async def ask() -> int:
        stream = await over_all.acompletion(model="r", messages=MESSAGES, stream=True)
        return len([chunk async for chunk in stream])

    return ask


KINDS = {"sdk": sdk, "provider": provider, "router": router, "litellm": litellm, "litellm-router": litellm_router}


async def measured(ask: Ask, requests: int, at_once: int) -> dict[str, float]:
    took: list[float] = []

    async def some(count: int) -> None:
        for _ in range(count):
            began = time.perf_counter()
            assert await ask() > 1, "an answer of several chunks"
            took.append(time.perf_counter() - began)

    cpu = time.process_time()
    await asyncio.gather(*(some(requests // at_once) for _ in range(at_once)))
    cpu = time.process_time() - cpu
    return {"cpu_us": cpu / len(took) * 1e6, "wall_us": statistics.median(took) * 1e6}


async def main() -> None:
    kind, url = sys.argv[1:3]
    ask = KINDS[kind](url)
    await measured(ask, 50, 1)
    print(json.dumps({"ready": kind}), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        requests, at_once = map(int, line.split())
        print(json.dumps(await measured(ask, requests, at_once)), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
