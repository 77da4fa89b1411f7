"""A server with the tools of `shop_tools` that can be killed: one node that starts again on its data, or two nodes.

async with running_shop("embedded", effects) as shop:           # or "cluster": Redis, MongoDB
    shop.calls(("charge_for_ever", {"amount": 5}))              # what the model does first; then it says "Done."
    async with shop.client() as first: ...
    await shop.die()                                            # kill -9; the next clients are elsewhere, or later
    async with shop.client(before=first) as client: ...
"""

from __future__ import annotations

import asyncio
import json
import re
import urllib.request
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Literal

from tests.support.client import Client, connected
from tests.support.cluster import Cluster, Node, running_cluster
from tests.support.provider import ControlledProvider, Script, running_provider
from tests.support.provider_script import tool_call_steps
from tests.support.stand import running_stand

Kind = Literal["embedded", "cluster"]
WAIT_S = 20.0
_POLL_S = 0.02


class Shop:
    """Made by `running_shop`."""

    def __init__(self, cluster: Cluster, provider: ControlledProvider, effects: Path) -> None:
        self.provider = provider
        self.node: Node = cluster.nodes[0]
        """Where clients connect, and what `die` kills."""
        self.other: Node | None = cluster.nodes[1] if len(cluster.nodes) > 1 else None
        self._effects = effects

    def effects(self) -> list[str]:
        """What the tools did to the world."""
        return self._effects.read_text().splitlines() if self._effects.exists() else []

    def calls(self, *calls: tuple[str, dict[str, Any]]) -> None:
        """The model makes these calls in one step, whenever it has not been told a result yet."""
        steps: list[Any] = []
        for index, (name, arguments) in enumerate(calls):
            steps += tool_call_steps(name, json.dumps(arguments), call_id=f"p{index}", index=index)

        def answer(body: dict[str, Any]) -> Script:
            if any(message["role"] == "tool" for message in body["messages"]):
                return Script.text("Done.")
            return Script(steps, finish="tool_calls")

        self.provider.default = answer

    def told(self) -> list[str]:
        """What the model was told of its calls, last."""
        return [m["content"] for m in self.provider.requests[-1].messages if m["role"] == "tool"]

    @asynccontextmanager
    async def client(
        self, *, before: Client | None = None, instance: str = "tab-1", node: Node | None = None
    ) -> AsyncIterator[Client]:
        """A client; with ``before`` it follows c1 from where that one stood."""
        async with connected((node or self.node).url, hello=False, before=before) as client:
            who = {"name": "tab", "version": "1", "instance_id": instance}
            await client.call({"type": "hello", "client": who})
            if before is not None:
                await client.open("c1", since=client.cursor("c1"))
            yield client

    async def die(self) -> None:
        """Kill the node, unless it has killed itself; somebody goes on."""
        await self.node.kill()
        await self.go_on()

    async def go_on(self) -> None:
        """The node has died: start it again, or turn to the other."""
        if self.other is None:
            await self.node.start()
        else:
            self.node = self.other

    async def until_parked(self) -> None:
        """Wait until the node has parked a turn."""
        await self._until_metric("turnwire_turns_parked_total")

    async def _until_metric(self, name: str) -> None:
        url = f"http://127.0.0.1:{self.node.port}/metrics"

        def value() -> float:
            with urllib.request.urlopen(url, timeout=5) as answer:
                found = re.search(rf"^{name} ([0-9.]+)$", answer.read().decode(), re.MULTILINE)
            return float(found[1]) if found else 0.0

        async with asyncio.timeout(WAIT_S):
            while not await asyncio.to_thread(value):
                await asyncio.sleep(_POLL_S)


@asynccontextmanager
async def running_shop(
    kind: Kind, effects: Path, *, crash: str | None = None, limits: dict[str, Any] | None = None
) -> AsyncIterator[Shop]:
    """With ``crash`` the first node kills itself there, see `cluster_node`."""
    sections: dict[str, Any] = {
        "tools": {"modules": ["tests.support.shop_tools"]},
        "limits": limits or {},
        "environ": lambda _name: {"TURNWIRE_TEST_EFFECTS": str(effects)},
        "faults": [{"crash": crash}] if crash else [],
    }
    async with AsyncExitStack() as stack:
        if kind == "cluster":
            stand = await stack.enter_async_context(running_stand(**sections))
            yield Shop(stand.cluster, stand.provider, effects)
            return
        provider = await stack.enter_async_context(running_provider())
        cluster = await stack.enter_async_context(running_cluster(provider.base_url, nodes=1, **sections))
        yield Shop(cluster, provider, effects)


async def say(client: Client, kind: str, call_id: str, **fields: Any) -> None:
    """One of the commands about a call of r1."""
    await client.call({"type": kind, "request_id": "r1", "call_id": call_id, **fields})


def calls_of(client: Client, kinds: Sequence[str] = ("tool.called",)) -> list[str]:
    """The ids of the calls of which such events came, each once."""
    return list(dict.fromkeys(m["call_id"] for m in client.messages if m["type"] in kinds))
