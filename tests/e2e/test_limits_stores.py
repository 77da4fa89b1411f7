"""What limits of tenants ask of the stores behind them when these are slow, away or behind, and what is left there."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from tests.support.client import CallError, connected
from tests.support.limits import Watched, each_of, limited, limits_told, refused, said, watch
from tests.support.provider import Gate, Script
from tests.support.server import token

from turnwire_server.app import App
from turnwire_server.archive.base import ArchiveUnavailable
from turnwire_server.conversations.roles import SCOPE_OPERATE
from turnwire_server.eventlog.redis import RedisQuotas
from turnwire_server.quotas.memory import MemoryQuotas

ADMIN = token("admin", "acme", scopes=(SCOPE_OPERATE,))


@pytest.mark.parametrize(
    ("tenant", "calls"),
    [
        ({}, []),
        ({"requests_per_minute": 9}, ["release", "reserve", "reserve", "reserve", "settle", "settle"]),
    ],
)
async def test_limits_cost_two_calls_of_who_has_some_and_none_of_others(
    tenant: dict[str, Any], calls: list[str]
) -> None:
    gate = Gate()
    async with limited(tenant=tenant) as (provider, app):
        watched = watch(app, "_store")
        provider.script(Script.text("one ", gate))
        async with connected(app.url, token=token()) as client:
            await client.create("r1", "c1", "hi")
            with pytest.raises(CallError):
                await client.create("busy", "c1", "hi", on_busy="reject")
            await client.create("queued", "c1", "hi")
            await client.create("r1", "c1", "hi")
            await client.cancel("queued")
            await client.terminal("queued")
            gate.open()
            await client.terminal("r1")
            if calls:
                await client.until(lambda: len(client.events("rate_limits.updated")) == 4)
        assert sorted(call for each in watched for call in each.calls) == calls


async def test_a_ledger_that_takes_long_is_read_once_for_all_who_wait(tmp_path: Path) -> None:
    async with limited(tmp_path, tenant={"budget_usd_per_day": "1"}) as (_, app):
        gate = asyncio.Event()
        stores, ledgers = watch(app, "_store"), watch(app, "_archive")
        for ledger in ledgers:
            ledger.holds["spent"] = gate
        async with AsyncExitStack() as stack:
            # One after the other: each goes to the next node.
            clients = [await stack.enter_async_context(connected(app.url, token=token())) for _ in range(6)]
            async with asyncio.TaskGroup() as group:
                for number, client in enumerate(clients):
                    group.create_task(client.create(f"r{number}", f"c{number}", "hi"))
                for store in stores:
                    await store.until_answered("reserve", len(clients) // len(stores))
                gate.set()
        assert [ledger.calls for ledger in ledgers] == [["spent", "spent"] for _ in ledgers]


async def test_a_ledger_that_is_away_keeps_all_who_wait_for_it_waiting_once(tmp_path: Path) -> None:
    async with limited(tmp_path, tenant={"budget_usd_per_day": "1"}, limits={"quota_fail": "closed"}) as (_, app):
        gate = asyncio.Event()
        stores, ledgers = watch(app, "_store"), watch(app, "_archive")
        for ledger in ledgers:
            ledger.holds["spent"] = gate
            ledger._store = Away()
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(connected(app.url, token=token())) for _ in range(6)]
            async with asyncio.TaskGroup() as group:
                asked = [group.create_task(refused(client, f"r{n}", f"c{n}")) for n, client in enumerate(clients)]
                for store in stores:
                    await store.until_answered("reserve", len(clients) // len(stores))
                gate.set()
        assert {task.result()["code"] for task in asked} == {"unavailable"}
        assert [ledger.calls for ledger in ledgers] == [["spent"] for _ in ledgers]


class Away:
    """An archive that does not answer."""

    async def spent(self, tenant_id: str, since_ms: int) -> Decimal:
        raise ArchiveUnavailable("away")


async def test_what_the_ledger_does_not_have_yet_is_held_until_it_has(tmp_path: Path) -> None:
    """The archive is away when an answer of 40 tokens ends, and counts anew come before its rows do."""
    tenant = {"budget_usd_per_day": "0.100"}
    async with limited(tmp_path, tenant=tenant, storage={"archive_wait_s": 0.1}) as (provider, app):
        provider.script(said(40), said(20))
        archives = [node.front.services.archive for node in each_of(app)]
        ends = [archive.end_request for archive in archives]

        async def away(*args: Any, **named: Any) -> Any:
            raise ArchiveUnavailable("away")

        for archive in archives:
            archive.end_request = away  # type: ignore[method-assign]
        async with connected(app.url, token=token("admin", "acme", scopes=(SCOPE_OPERATE,))) as client:
            await client.create("r1", "c1", "hi")
            await client.terminal("r1")
            assert not await app.front.services.archive.usage("acme", "r1")
            await forget_counts(app)
            await client.create("r2", "c1", "hi")
            await client.call({"type": "ping"})
            held = Decimal("0.1") - Decimal(limits_told(client)["budget_usd_per_day"]["remaining"])
            assert held > Decimal("0.020"), "both are expected to take some 13"
            for archive, end in zip(archives, ends, strict=True):
                archive.end_request = end  # type: ignore[method-assign]
            await client.terminal("r2")
            await client.until(lambda: limits_told(client)["budget_usd_per_day"]["remaining"] == "0.04")


class NoNeighbours(dict[Any, Any]):
    """What a node knows of creates that other nodes carry out: nothing."""

    def get(self, key: Any, default: Any = None) -> Any:
        return default

    def __delitem__(self, key: Any) -> None:
        self.pop(key, None)


@pytest.mark.parametrize("limit", [1, 5])
async def test_a_repeat_that_was_overtaken_by_the_whole_turn_is_neither_refused_nor_counted(
    tmp_path: Path, limit: int
) -> None:
    """Two nodes carry out the same create; one asks for the limits when the other's turn has ended."""
    gate = asyncio.Event()
    async with limited(tmp_path, tenant={"requests_per_minute": limit, "budget_usd_per_day": "1"}) as (provider, app):
        provider.script(said(12))
        for node in each_of(app):
            node.front.requests._creating = NoNeighbours()
        admin = token("admin", "acme", scopes=(SCOPE_OPERATE,))
        async with connected(app.url, token=admin) as slow, connected(app.url, token=admin) as client:
            stores = watch(app, "_store")
            for store in stores:
                store.holds["reserve"] = gate
            late = asyncio.create_task(slow.create("r1", "c1", "hi"))
            await _until_called(stores)
            for store in stores:
                store.holds.clear()
            await client.create("r1", "c1", "hi")
            await client.terminal("r1")
            await client.until(lambda: len(client.events("rate_limits.updated")) == 2)
            gate.set()
            assert (await late)["duplicate"]
            if limit > 1:
                await client.create("r2", "c2", "hi")
                await client.until(lambda: len(client.events("rate_limits.updated")) >= 3)
                told = client.events("rate_limits.updated")[2]["limits"]
                assert told["requests_per_minute"]["remaining"] == limit - 2
                assert Decimal(told["budget_usd_per_day"]["remaining"]) > Decimal("0.970"), "12 spent, 13 held"


async def forget_counts(app: App) -> None:
    """What acme has spent is counted from the ledger next."""
    store = app.front.services.quotas._store
    if isinstance(store, MemoryQuotas):
        store._tenants["acme"].counted_at = None
        return
    assert isinstance(store, RedisQuotas)
    key = f"{{{store._prefix}:quota:acme}}:money"
    assert await store._server.run(key, lambda client: client.hdel(key, "at")) == 1


async def held(app: App) -> int:
    """How many requests of acme hold something."""
    store = app.front.services.quotas._store
    if isinstance(store, MemoryQuotas):
        return len(store._tenants["acme"].holds)
    assert isinstance(store, RedisQuotas)
    key = f"{{{store._prefix}:quota:acme}}:holds"
    return int(await store._server.run(key, lambda client: client.hlen(key)))


async def until_nothing_is_held(app: App) -> None:
    """The last of it is on the way."""
    async with asyncio.timeout(20):
        while await held(app):
            await asyncio.sleep(0.02)


async def test_nothing_stays_held_however_requests_end(tmp_path: Path) -> None:
    gate = Gate()
    tenant = {"requests_per_minute": 100, "tokens_per_minute": 100_000, "budget_usd_per_day": "100"}
    async with limited(tmp_path, tenant=tenant) as (provider, app), connected(app.url, token=ADMIN) as client:
        provider.script(Script.text("one ", gate), said(12), Script.text("two ", gate), Script.http_error(400, "no"))
        await client.create("superseded", "c1", "hi")
        await client.event("output_text.delta", "superseded")
        await client.create("first", "c1", "hi", on_busy="interrupt")
        assert (await client.terminal("superseded"))["type"] == "message.interrupted"
        await client.terminal("first")

        await client.create("running", "c1", "hi")
        await client.event("output_text.delta", "running")
        await client.create("merged", "c1", "and that", on_busy="steer")
        await client.create("cancelled", "c1", "hi")
        await client.cancel("cancelled")
        assert await held(app) >= 1
        gate.open()
        for request in ("running", "merged", "cancelled"):
            await client.terminal(request)

        await client.cancel("never")
        await client.create("never", "c1", "cancelled before it came")
        await client.terminal("never")
        await refused(client, "running", "c1", "the same id with other words")

        provider.script(Script.text("three ", Gate()))
        await client.create("deleted", "c2", "hi")
        await client.event("output_text.delta", "deleted")
        await client.create("waits", "c2", "hi")
        await client.call({"type": "conversation.delete", "conversation_id": "c2"})
        await until_nothing_is_held(app)


async def test_a_client_that_leaves_while_limits_are_asked_leaves_a_whole_request(tmp_path: Path) -> None:
    gate = asyncio.Event()
    async with limited(tmp_path, tenant={"budget_usd_per_day": "1"}) as (provider, app):
        provider.script(said(12))
        stores = watch(app, "_store")
        for store in stores:
            store.holds["reserve"] = gate
        async with connected(app.url, token=ADMIN) as client:
            await client.send({"type": "request.create", "request_id": "r1", "conversation_id": "c1", "input": "hi"})
            await _until_called(stores)
        for store in stores:
            store.holds.clear()
        gate.set()
        async with connected(app.url, token=ADMIN) as client:
            assert (await client.create("r1", "c1", "hi"))["duplicate"]
            async with asyncio.timeout(30):
                while (await client.status("r1"))["state"] != "completed":  # it may have ended before this one came
                    await asyncio.sleep(0.02)
            await client.create("r2", "c2", "hi")
            await client.terminal("r2")
            spent = Decimal("1") - Decimal(limits_told(client)["budget_usd_per_day"]["remaining"])
            assert spent < Decimal("0.026"), "the first once"


async def test_a_cancel_that_comes_while_limits_are_asked_gives_back_what_they_hold(tmp_path: Path) -> None:
    gate = asyncio.Event()
    async with limited(tmp_path, tenant={"budget_usd_per_day": "1"}) as (provider, app):
        stores = watch(app, "_store")
        for store in stores:
            store.holds["reserve"] = gate
        async with connected(app.url, token=ADMIN) as client, connected(app.url, token=ADMIN) as second:
            await client.send({"type": "request.create", "request_id": "r1", "conversation_id": "c1", "input": "hi"})
            await _until_called(stores)
            assert (await second.cancel("r1"))["outcome"] in ("recorded", "cancelling")
            gate.set()
            assert (await client.terminal("r1"))["type"] == "message.cancelled"
            await client.until(lambda: limits_told(client)["budget_usd_per_day"]["remaining"] == "1")
        assert not provider.requests


async def _until_called(stores: list[Watched]) -> None:
    async with asyncio.timeout(20):
        while not any(store.calls for store in stores):
            await asyncio.sleep(0.01)
