"""MongoDB killed and restarted at each fault point of the steps (guarantees 3, 4, 5, 12; DESIGN, Degradation).

Nothing new is owned while it is away and nothing that waits begins; what runs goes on to its end, which is archived
later.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest
from tests.support.client import CallError
from tests.support.mongo import running_mongo
from tests.support.provider import Gate, Script
from tests.support.stand import LONG_S, Traveller, cancelling, creation, running_stand

PATIENCE = {"archive_wait_s": 0.5, "mongo_timeout_s": 0.5}
LIMITS = {"command_timeout_s": 1.5}
POINTS = [
    "archive.insert_request:before:1",
    "archive.insert_request:after:1",
    "archive.end_request:before:1",
    "archive.end_request:after:1",
]
CANCELLING = ["archive.record_cancel:before:1", "archive.record_cancel:after:1"]


async def test_a_restart_at_any_step_loses_nothing() -> None:
    """Each node stands at one of the points when the archive dies, and the last one at none."""
    faults = [{"halt": point} for point in [*POINTS, *CANCELLING]]
    async with AsyncExitStack() as stack:
        mongo = await stack.enter_async_context(running_mongo())
        stand = await stack.enter_async_context(
            running_stand(
                nodes=len(faults) + 1,
                mongo_url=f"{mongo.url}?retryWrites=false",
                lease_s=10,
                storage=PATIENCE,
                limits=LIMITS,
                faults=faults,
            )
        )
        *halting, free = stand.cluster.nodes
        client = await stack.enter_async_context(stand.client(free))
        askers: list[Traveller] = []
        for number, node in enumerate(halting, start=1):
            asker = await stack.enter_async_context(stand.client(node))
            askers.append(asker)
            if number > len(POINTS):
                stand.says(f"r{number}", Script.stalled_after("half "))
                await client.make(f"r{number}", f"c{number}")
                await client.until_said(f"r{number}", "half ", f"c{number}")
                await asker.send({**cancelling(f"r{number}"), "id": "asked"})
            else:
                await asker.send({**creation(f"r{number}", f"c{number}"), "id": "asked"})
        for node in halting:
            await node.halted()
        await mongo.kill()
        for node in halting:
            node.cont()

        async def answered(asker: Traveller) -> str:
            try:
                answer = await asker.answer("asked")
                return str(answer.get("outcome", "owned"))
            except CallError as error:
                return str(error.code)

        answers = await asyncio.gather(*(answered(asker) for asker in askers))
        # The second is in the archive, but whether it was cancelled before is only known there as well.
        assert answers == ["unavailable", "unavailable", "owned", "owned", "cancelling", "cancelling"]
        for number, asker in enumerate(askers, start=1):
            if number in (3, 4):
                assert (await asker.terminal(f"r{number}", LONG_S))["type"] == "message.completed"
            elif number > 4:
                assert (await client.terminal(f"r{number}", LONG_S))["type"] == "message.cancelled"
        with pytest.raises(CallError) as refused:
            await client.call(creation("r9", "c9"))
        assert refused.value.code == "unavailable"
        await mongo.start()
        for number in range(1, len(faults) + 1):
            name, outcome = f"c{number}", "completed" if number <= len(POINTS) else "cancelled"
            await client.insist({"type": "conversation.open", "conversation_id": name})
            await client.make(f"r{number}", name)
            texts = {} if outcome == "completed" else {f"r{number}": "half "}
            await stand.check(client, name, {f"r{number}": outcome}, texts=texts)
        await client.make("r9", "c9")
        await stand.check(client, "c9", {"r9": "completed"})


async def test_while_the_archive_is_away_what_runs_goes_on_and_what_waits_does_not_begin() -> None:
    gate = Gate()
    async with running_mongo() as mongo:
        url = f"{mongo.url}?retryWrites=false"
        async with running_stand(mongo_url=url, lease_s=10, storage=PATIENCE, limits=LIMITS) as stand:
            stand.says("r1", Script.text("one two ", gate, "three of r1"))
            async with stand.client(stand.a) as owners, stand.client(stand.b) as client:
                await client.open("c1")
                await owners.make("r1", "c1")
                await client.make("r2", "c1")
                await client.until_said("r1", "one two ")
                await mongo.kill()
                gate.open()
                await client.terminal("r1", LONG_S)
                with pytest.raises(CallError) as refused:
                    await client.call(creation("r3", "c1"))
                assert refused.value.code == "unavailable"
                assert stand.calls("r2") == 0
                await mongo.start()
                await client.make("r3", "c1")
                await stand.check(client, "c1", dict.fromkeys(["r1", "r2", "r3"], "completed"))
            assert (stand.calls("r1"), stand.calls("r2")) == (1, 1)
