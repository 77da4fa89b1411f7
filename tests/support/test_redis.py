"""The Redis servers of the tests do what they say: what is kept, what is lost, who serves afterwards."""

from __future__ import annotations

import asyncio

import pytest
from tests.support.redis import (
    START_S,
    RedisError,
    RedisMissing,
    RedisServer,
    running_redis,
    running_redis_cluster,
    running_redis_sentinel,
    shared_redis,
)


async def test_a_killed_server_comes_back_with_its_data_under_another_id() -> None:
    async with running_redis() as redis:
        await redis.command("SET", "a", 1)
        before = (await redis.info("replication"))["master_replid"]
        await redis.kill()
        assert not redis.is_up
        await redis.start()
        assert await redis.command("GET", "a") == "1"
        assert (await redis.info("replication"))["master_replid"] != before
        await redis.kill()
        await redis.start(empty=True)
        assert await redis.command("GET", "a") is None
        await redis.command("SET", "a", 2)
        await redis.flushall()
        assert await redis.command("GET", "a") is None


async def test_a_stopped_server_is_silent_and_goes_on() -> None:
    async with running_redis(maxmemory_policy="noeviction") as redis:
        redis.stop()
        with pytest.raises(OSError, match="timed out"):
            redis.command_blocking("PING")
        redis.cont()
        assert await redis.command("CONFIG", "GET", "maxmemory-policy") == ["maxmemory-policy", "noeviction"]


async def test_without_redis_it_fails_and_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(RedisMissing, match="apt-get install redis-server"):
        async with running_redis():
            pass


def test_the_shared_server_is_one_and_gives_every_user_keys_of_its_own() -> None:
    first, second = shared_redis(), shared_redis()
    assert first.server is second.server
    assert first.server.is_up
    assert first.new_prefix() != second.new_prefix()


async def test_a_cluster_serves_on_when_a_primary_dies() -> None:
    async with running_redis_cluster(replicas=1) as cluster:
        slot = await cluster.slot_of("{tw:1}")
        old = await cluster.primary_of(slot)
        async with asyncio.timeout(START_S):
            # On a busy machine the nodes may vote before anybody is killed, and what was just written is lost.
            while not await _is_on_both(old, "{tw:1}:a"):
                old = await cluster.primary_of(slot)
        assert await cluster.fail_over(slot) is old
        heir = await cluster.primary_of(slot)
        assert heir is not old
        assert await heir.command("GET", "{tw:1}:a") == "1"


async def _is_on_both(primary: RedisServer, key: str) -> bool:
    """Write ``key``; whether a replica has it too."""
    try:
        await primary.command("SET", key, 1)
        return bool(await primary.command("WAIT", 1, 2000))
    except RedisError:  # it is no longer the primary
        return False


async def test_a_promoted_replica_may_lack_what_was_written_last() -> None:
    async with running_redis_sentinel() as sentinel:
        primary = await sentinel.primary()
        assert await _is_on_both(primary, "a")

        async def write(server: RedisServer) -> None:
            await server.command("SET", "a", 2)

        assert await sentinel.promote_without_the_last_writes(write) is primary
        heir = await sentinel.primary()
        assert heir is not primary
        assert await heir.command("GET", "a") == "1"
