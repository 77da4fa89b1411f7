"""Pub/sub switched off, late, lossy and jumbled: everything works as before, only later (guarantees 1, 4, 5 and 7)."""

from __future__ import annotations

import time

import pytest
from tests.support.provider import Gate, Script
from tests.support.redis import running_redis
from tests.support.stand import LONG_S, Stand, at_each, running_stand

# Positions are compared so often while nothing is heard, and so often while somebody only believes to hear.
BLIND_S, BELIEVING_S = 0.2, 1.0
# For a machine that does other things as well.
SLACK_S = 0.5

RIGHTS = {"no subscribing": "&* -subscribe -ssubscribe -psubscribe", "no channels": "resetchannels"}


async def test_without_pubsub_everything_works_a_little_later() -> None:
    await at_each(RIGHTS, _without)


async def _without(rights: str) -> None:
    lease_s = 1.5
    async with running_redis() as redis:
        await redis.command("ACL", "SETUSER", "quiet", "on", ">secret", "~*", "+@all", *RIGHTS[rights].split(" "))
        url = f"redis://quiet:secret@127.0.0.1:{redis.port}/0"
        async with running_stand(redis=redis, redis_url=url, lease_s=lease_s) as stand:
            await _crosses_nodes(stand, within_s=BLIND_S)
            await _cancel_crosses_nodes(stand, within_s=lease_s / 3)
            await _queue_and_death(stand)


@pytest.mark.parametrize("messages", ["late", "lost", "jumbled"])
async def test_messages_that_do_not_come_as_they_were_sent_change_nothing(messages: str) -> None:
    lease_s = 1.5
    async with running_stand(lease_s=lease_s, faults=[{"messages": messages}] * 2) as stand:
        await _crosses_nodes(stand, within_s=BELIEVING_S)
        await _cancel_crosses_nodes(stand, within_s=lease_s / 3)
        await _queue_and_death(stand)


async def _crosses_nodes(stand: Stand, *, within_s: float) -> None:
    """What one node writes reaches a follower at the other in time."""
    gates = [Gate(), Gate(), Gate()]
    words = ["one ", "two ", "three"]
    stand.says("r1", Script.text(*(step for pair in zip(gates, words, strict=True) for step in pair)))
    async with stand.client(stand.a) as owners, stand.client(stand.b) as client:
        await client.open("c1")
        await owners.make("r1", "c1")
        for count, gate in enumerate(gates, start=1):
            gate.open()
            await owners.until_said("r1", "".join(words[:count]))
            written = time.monotonic()
            await client.until_said("r1", "".join(words[:count]))
            assert time.monotonic() - written < within_s + SLACK_S
        await stand.check(client, "c1", {"r1": "completed"}, texts={"r1": "one two three"})


async def _cancel_crosses_nodes(stand: Stand, *, within_s: float) -> None:
    stand.says("r2", Script.stalled_after("half "))
    async with stand.client(stand.a) as owners, stand.client(stand.b) as client:
        await client.open("c2")
        await owners.make("r2", "c2")
        await client.until_said("r2", "half ", "c2")
        assert (await client.cancel("r2"))["outcome"] == "cancelling"
        told = time.monotonic()
        assert await stand.provider.client_gone(stand.index_of("r2")) - told < within_s + SLACK_S
        await stand.check(client, "c2", {"r2": "cancelled"}, texts={"r2": "half "})


async def _queue_and_death(stand: Stand) -> None:
    """What waits behind another node's turn goes on when that node dies."""
    stand.says("r3", Script.stalled_after("half "))
    async with stand.client(stand.a) as owners, stand.client(stand.b) as client:
        await client.open("c3")
        await owners.make("r3", "c3")
        await client.make("r4", "c3")
        await client.make("r5", "c3")
        await client.cancel("r4")
        await client.until_said("r3", "half ", "c3")
        await stand.a.kill()
        await client.terminal("r3", LONG_S)
        await stand.check(client, "c3", {"r3": "completed", "r4": "cancelled", "r5": "completed"}, spare=1)
    await stand.a.start()
