"""How much later the first token comes than to who asks the provider directly, through the openai SDK.

One request at a time; all take turns, some requests each. The second request of a conversation is what counts; the
first, which makes the conversation, is told besides.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from statistics import median

from benchmarks.processes import child, module
from benchmarks.stand import Stand

ROW = "first token"
DIRECT = "direct"
NEW = "in a new conversation p50 ms"
_TURN = 10


async def measure(stand: Stand) -> None:
    async with AsyncExitStack() as stack:
        direct = module("waits", "--url", stand.places.provider_url, "--client", "direct")
        clients = {DIRECT: await stack.enter_async_context(child(direct))}
        for kind in stand.kinds:
            _, clients[kind] = await stack.enter_async_context(stand.running(kind, "waits"))
        for client in clients.values():
            await client.ask("first_token", count=_TURN)  # connects, imports, fills caches
        waits: dict[tuple[str, str], list[float]] = {}
        for _ in range(stand.plan.requests // _TURN):
            for kind, client in clients.items():
                found = await client.ask("first_token", count=_TURN)
                for name, key in (("p50 ms", "s"), (NEW, "new")):
                    waits.setdefault((kind, name), []).extend(found.get(key, ()))
    for (kind, name), seconds in waits.items():
        if seconds:
            stand.note(ROW, kind, {name: median(seconds) * 1000})
