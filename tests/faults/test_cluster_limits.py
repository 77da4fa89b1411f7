"""The limits of a tenant over two nodes: many clients at once, a node that dies with what it holds, a Redis that
forgets."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from decimal import Decimal
from typing import Any

import pytest
from tests.support.client import CallError, Client, connected
from tests.support.provider import Gate, Script
from tests.support.stand import Stand, running_stand, until_logged
from tests.support.webhook import WEBHOOK_SECRET, running_webhook

LIMIT = 200
USD_PER_MTOK = "1000"
"""A token costs a thousandth of a dollar."""


def priced(tenant: dict[str, Any]) -> dict[str, Any]:
    return {
        "deployment": {"input_usd_per_mtok": USD_PER_MTOK, "output_usd_per_mtok": USD_PER_MTOK},
        "tenants": {"default": {"max_output_tokens": 10, **tenant}},
    }


async def held(stand: Stand) -> tuple[int, int]:
    """What is held and what is spent today, in nano-dollars, past the server's own code."""
    assert stand.redis is not None
    key = f"{{{stand.prefix}:quota:default}}:money"
    found = await stand.redis.command("HMGET", key, "held", "dn")
    return int(found[0] or 0), int(found[1] or 0)


async def test_50_clients_on_two_nodes_get_what_the_limit_says_and_no_more() -> None:
    """Within 2 %, which is what the seconds that the window moves by may leave unused: here it is exact."""
    async with (
        running_stand(tenants={"default": {"requests_per_minute": LIMIT}}) as stand,
        AsyncExitStack() as stack,
    ):
        clients = [
            await stack.enter_async_context(connected(stand.cluster.nodes[number % 2].url)) for number in range(50)
        ]
        outcomes: Counter[str] = Counter()

        async def use(number: int, client: Client) -> None:
            for turn in range(7):
                try:
                    await client.create(f"r-{number}-{turn}", f"c-{number}", "hi")
                    outcomes["admitted"] += 1
                except CallError as error:
                    outcomes[error.code] += 1

        began = asyncio.get_running_loop().time()
        async with asyncio.TaskGroup() as group:
            for number, client in enumerate(clients):
                group.create_task(use(number, client))
        assert asyncio.get_running_loop().time() - began < 60, "the test is about one window"
        assert LIMIT * 0.98 <= outcomes["admitted"] <= LIMIT
        assert outcomes["rate_limited"] == 350 - outcomes["admitted"]


async def test_what_a_dead_node_held_is_settled_by_whoever_takes_over() -> None:
    gate = Gate()
    async with running_stand(**priced({"budget_usd_per_day": "0.050"})) as stand:
        # The first attempt is lost with its node and estimated; the second says 12 tokens.
        stand.says("r1", Script.text("one ", gate), Script.text("done", usage=(11, 1)))
        async with stand.client(stand.a) as client:
            await client.create("r1", "c1", "r1")
            await client.until_said("r1", "one ")
            assert await held(stand) == (pytest.approx(11_000_000, abs=2_000_000), 0)
            await stand.a.kill()
        async with stand.client(stand.b, before=client) as client:
            await client.reopen("c1")
            await client.until_ended("c1", "r1")
            await stand.until_archived("r1")
            spent = sum((Decimal(row.cost_usd) for row in (await stand.archive()).usage), Decimal(0))
            assert spent > Decimal("0.012")
            async with asyncio.timeout(30):
                while await held(stand) != (0, int(spent * 10**9)):
                    await asyncio.sleep(0.02)


async def test_a_budget_outlives_a_redis_that_forgets_in_mid_turn() -> None:
    gate = Gate()
    async with running_stand(**priced({"budget_usd_per_day": "0.050"})) as stand:
        assert stand.redis is not None
        stand.says("r1", Script.text("x", usage=(29, 1)))
        stand.says("r2", Script.text("y ", gate, usage=(4, 1)))
        async with stand.client(stand.a) as client:
            await client.create("r1", "c1", "r1")
            await client.until_ended("c1", "r1")
            await client.create("r2", "c2", "r2")
            await client.until_said("r2", "y ", "c2")
            for name in ("window", "holds", "expiry", "money"):
                await stand.redis.command("DEL", f"{{{stand.prefix}:quota:default}}:{name}")
            gate.open()
            await client.until_ended("c2", "r2")
        async with connected(stand.b.url) as client:
            with pytest.raises(CallError) as caught:
                await client.create("r3", "c3", "these are words that cost too much " * 2)
            assert caught.value.code == "quota_exceeded"
            assert await held(stand) == (0, 35_000_000)
            await client.create("r4", "c4", "hi")


async def test_two_nodes_that_see_a_budget_end_raise_one_alert() -> None:
    async with running_webhook() as (hook, url):
        hook.refusals = 0
        sections = priced({"budget_usd_per_day": "0.100"})
        secret = {"HOOK_SECRET": WEBHOOK_SECRET}
        async with running_stand(
            **sections, alerts={"webhook_url": url, "webhook_secret_env": "HOOK_SECRET"}, environ=lambda _name: secret
        ) as stand:
            for number, (first, second, used) in enumerate([(stand.a, stand.b, 83), (stand.b, stand.a, 20)]):
                stand.says(f"r{number}", Script.text("x", usage=(used - 1, 1)))
                async with connected(first.url) as client:
                    await client.create(f"r{number}", f"c{number}", f"r{number}")
                    await client.terminal(f"r{number}")
                async with asyncio.timeout(30):
                    alert = await hook.taken.get()
                assert (alert["percent"], alert["spent_usd"]) == [(80, "0.083"), (100, "0.103")][number]
                async with connected(second.url) as client:
                    with pytest.raises(CallError) as caught:
                        await client.create("late", "c-late", "these words cost too much " * 9)
                    assert caught.value.code == "quota_exceeded"
                await until_logged(second, f"{alert['percent']} % of the budget.*another node has told it")
            assert hook.taken.empty()


async def test_nobody_spends_more_than_what_ran_already() -> None:
    """40 clients at once on two nodes, a budget for some: whoever was let in had it reserved."""
    async with running_stand(**priced({"budget_usd_per_day": "0.200"})) as stand, AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(connected(stand.cluster.nodes[number % 2].url)) for number in range(40)
        ]
        for number in range(40):
            stand.says(f"r-{number}", Script.text("ok", usage=(14, 1)))
        admitted: list[int] = []

        async def use(number: int, client: Client) -> None:
            try:
                await client.create(f"r-{number}", f"c-{number}", f"r-{number}")
            except CallError as error:
                assert error.code == "quota_exceeded"
            else:
                admitted.append(number)
                await client.terminal(f"r-{number}")

        async with asyncio.TaskGroup() as group:
            for number, client in enumerate(clients):
                group.create_task(use(number, client))
        spent = sum((Decimal(row.cost_usd) for row in (await stand.archive()).usage), Decimal(0))
        assert spent == Decimal("0.015") * len(admitted)
        # Each may take 3 more than was expected of it, and 14 or so ran at once.
        assert Decimal("0.15") <= spent <= Decimal("0.200") + Decimal("0.005") * len(admitted)
