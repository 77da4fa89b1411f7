"""Connections cut, half-open, refused and slow: to Redis, to MongoDB and to clients (guarantees 1, 2, 4 and 7)."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any

from tests.support.client import connected
from tests.support.provider import Gate, Script
from tests.support.proxy import Proxy, running_proxy
from tests.support.stand import LONG_S, Stand, Traveller, at_each, running_stand, until_logged

_LONG_LEASE_S = 10


def _break(proxy: Proxy, how: str) -> None:
    match how:
        case "cut":
            proxy.cut()
        case "refused":
            proxy.refuse()
        case "half-open":
            proxy.pause()
        case "slow":
            proxy.delay(0.05)


async def test_an_owner_cut_off_from_redis_goes_on_when_it_is_back() -> None:
    await at_each(["cut", "refused", "half-open", "slow"], _redis_away_from_the_owner)


async def _redis_away_from_the_owner(how: str) -> None:
    """For less than its lease: what the provider says meanwhile is held, shown to nobody, and not asked for again."""
    gate, last = Gate(), Gate()
    async with running_stand(lease_s=_LONG_LEASE_S, storage={"redis_timeout_s": 0.5}) as stand:
        stand.says("r1", Script.text("one two ", gate, "three ", last, "of r1"))
        async with stand.client(stand.a) as owners, stand.client(stand.b) as client:
            assert stand.a.redis is not None
            await client.open("c1")
            await owners.make("r1", "c1")
            for follower in (owners, client):
                await follower.until_said("r1", "one two ")
            _break(stand.a.redis, how)
            gate.open()
            if how in ("refused", "half-open"):
                assert (await owners.event("notice"))["kind"] == "log_unavailable"
                assert owners.said("r1") == client.said("r1") == "one two "
            else:
                await client.until_said("r1", "one two three ")
            stand.a.redis.resume()
            last.open()
            await stand.check(client, "c1", {"r1": "completed"})
            assert (await client.status("r1"))["run"] == 1
            await owners.terminal("r1", LONG_S)
        assert stand.calls("r1") == 1


async def test_an_owner_cut_off_past_its_lease_writes_nothing_when_it_is_back() -> None:
    await at_each(["refused", "half-open"], _redis_away_past_the_lease)


async def _redis_away_past_the_lease(how: str) -> None:
    gate = Gate()
    async with running_stand(storage={"redis_timeout_s": 0.5}) as stand:
        stand.says("r1", Script.text("half ", gate, "of what nobody will see"))
        async with stand.client(stand.a) as owners, stand.client(stand.b) as client:
            assert stand.a.redis is not None
            await client.open("c1")
            await owners.make("r1", "c1")
            for follower in (owners, client):
                await follower.until_said("r1", "half ")
            _break(stand.a.redis, how)
            gate.open()
            await client.terminal("r1", LONG_S)
            assert owners.said("r1") == "half "
            stand.a.redis.resume()
            await until_logged(stand.a, "was taken over or deleted")
            await owners.terminal("r1", LONG_S)
            await stand.check(client, "c1", {"r1": "completed"})
            assert owners.folds["c1"].view() == client.folds["c1"].view()


async def test_an_end_waits_for_an_archive_that_is_cut_off_and_not_for_ever() -> None:
    await at_each(["cut", "refused", "half-open", "slow"], _archive_away_from_the_owner)


async def _archive_away_from_the_owner(how: str) -> None:
    gate = Gate()
    patience = {"archive_wait_s": 0.5, "mongo_timeout_s": 1}
    async with running_stand(lease_s=_LONG_LEASE_S, storage=patience) as stand:
        stand.says("r1", Script.text("one two ", gate, "three of r1"))
        async with stand.client(stand.a) as owners, stand.client(stand.b) as client:
            assert stand.a.mongo is not None
            await client.open("c1")
            await owners.make("r1", "c1")
            await client.until_said("r1", "one two ")
            _break(stand.a.mongo, how)
            gate.open()
            await client.terminal("r1", LONG_S)
            stand.a.mongo.resume()
            await client.make("r2", "c1")
            await stand.check(client, "c1", {"r1": "completed", "r2": "completed"})
        assert stand.calls("r1") == 1


async def test_a_client_whose_connection_is_cut_or_half_open_goes_on_elsewhere() -> None:
    await at_each(["cut", "half-open"], _client_away)


async def _client_away(how: str) -> None:
    gate, last = Gate(), Gate()
    async with running_stand() as stand, running_proxy(stand.a.port) as proxy:
        stand.says("r1", Script.text("one two ", gate, "three ", last, "of r1"))
        async with _through(stand, proxy) as first, stand.client(stand.b) as client:
            await client.open("c1")
            await first.make("r1", "c1")
            await first.until_said("r1", "one two ")
            _break(proxy, how)
            gate.open()
            await client.until_said("r1", "one two three ")
            assert first.said("r1") == "one two "
            async with stand.client(stand.b, before=first) as again:
                assert (await again.reopen("c1"))["verdict"] == "replayed"
                last.open()
                await stand.check(again, "c1", {"r1": "completed"})
            proxy.resume()
            if how == "cut":
                await first.until_lost()
        assert stand.calls("r1") == 1


def _through(stand: Stand, proxy: Proxy) -> AbstractAsyncContextManager[Traveller]:
    """A client whose connection is in the test's hands."""

    def kind(*args: Any) -> Traveller:
        return Traveller(stand.witness, None, *args)

    return connected(stand.a.url, kind=kind, host="127.0.0.1", port=proxy.port)
