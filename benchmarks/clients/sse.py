"""Events over HTTP: `data: {…}` and an empty line each."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any

import aiohttp
import orjson

from benchmarks.clients.client import ServerError


async def events(url: str, body: object, headers: Mapping[str, str] | None = None) -> AsyncGenerator[list[Any], None]:
    """POST `body` as JSON; for each read of the answer the events that ended in it, until the server ends it.

    Each call is a connection of its own. Comments are left out, and so is `[DONE]`, after which nothing comes.
    """
    timeout = aiohttp.ClientTimeout(total=None)
    async with (
        aiohttp.ClientSession(timeout=timeout, headers=headers, json_serialize=_dumps) as http,
        http.post(url, json=body) as response,
    ):
        if response.status != 200:
            raise ServerError(f"the server said {response.status} {await response.text()}")
        rest = b""
        async for data in response.content.iter_any():
            *lines, rest = (rest + data).split(b"\n")
            if found := [orjson.loads(line[6:]) for line in lines if line[:6] == b"data: " and line[6:12] != b"[DONE]"]:
                yield found


def _dumps(value: object) -> str:
    return orjson.dumps(value).decode()
