"""Redis servers that must not be used, and what happens when memory runs short."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest
from tests.support.redis import RedisServer, running_redis

from turnwire_server.eventlog.base import Appended, LogFull, LogUnavailable, PostOutcome
from turnwire_server.eventlog.redis import RedisEventLog

from .kit import LogKit, op
from .nodes import listening, redis_engine, redis_nodes


async def refusal(url: str, **options: object) -> str:
    """Why the log does not open."""
    log = redis_engine(url, prefix="start", **options)
    try:
        with pytest.raises(LogUnavailable) as refused:
            await log.open()
    finally:
        await log.aclose()
    return str(refused.value)


# --- refused at the start -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
async def test_a_server_that_would_drop_keys_is_refused(policy: str) -> None:
    async with running_redis(maxmemory_policy=policy) as redis:
        why = await refusal(redis.url)
        assert f"maxmemory-policy {policy}" in why
        assert "Set maxmemory-policy noeviction" in why


async def test_a_server_that_is_too_old_is_refused() -> None:
    async with old_redis("6.2.14") as url:
        why = await refusal(url)
        assert "version 6.2.14" in why
        assert "7 or later" in why


async def test_a_replica_is_refused() -> None:
    async with running_redis() as primary, running_redis(replicaof=f"127.0.0.1 {primary.port}") as replica:
        assert "is a replica" in await refusal(replica.url)


@pytest.mark.parametrize("options", [{"appendfsync": "everysec"}, {"appendonly": "no"}])
async def test_durability_always_needs_a_server_that_keeps_what_it_says(options: dict[str, str]) -> None:
    async with running_redis(**{"appendfsync": "always", **options}) as redis:
        assert "appendfsync always" in await refusal(redis.url, durability="always")


async def test_durability_always_is_for_one_server() -> None:
    assert "is for one server" in await refusal("redis+cluster://127.0.0.1:1", durability="always")


async def test_the_number_of_parts_cannot_be_changed_once_there_is_something() -> None:
    async with running_redis() as redis:
        async with redis_nodes(1, url=redis.url, prefix="start"):
            pass
        why = await refusal(redis.url, partitions=8)
        assert "storage.partitions = 4, not 8" in why


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    async with running_redis() as redis:
        await redis.kill()
        assert await refusal(redis.url, timeout_s=0.5)


async def test_a_server_that_does_not_answer_is_unavailable_in_time() -> None:
    async with running_redis() as redis:
        redis.stop()
        try:
            with anyio.fail_after(3):
                assert await refusal(redis.url, timeout_s=0.3)
        finally:
            redis.cont()


async def test_no_refusal_tells_the_password() -> None:
    async with running_redis() as redis:
        await redis.command("CONFIG", "SET", "requirepass", "open-sesame")
        url = f"redis://:wrong-secret@127.0.0.1:{redis.port}/0"
        assert "wrong-secret" not in await refusal(url)
        assert "open-sesame" not in await refusal(url)


@asynccontextmanager
async def old_redis(version: str) -> AsyncIterator[str]:
    """Says that it is an old version, and nothing else: every command but INFO is answered with OK."""
    info = f"# Server\r\nredis_version:{version}\r\nrole:master\r\nmaxmemory_policy:noeviction\r\n"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            words = []
            for _ in range(int(line[1:])):
                size = int((await reader.readline())[1:])
                words.append((await reader.readexactly(size + 2))[:-2])
            is_info = words[0].upper() == b"INFO"
            writer.write(b"$%d\r\n%b\r\n" % (len(info), info.encode()) if is_info else b"+OK\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"


# --- memory ---------------------------------------------------------------------------------------------------------


async def _claim_is_refused(kit: LogKit, request_id: str, conversation: str) -> None:
    with pytest.raises(LogFull):
        await kit.claim(request_id, conversation=conversation)
    assert await kit.log.request(kit.request(request_id)) is None


async def _use(redis: RedisServer, share: float) -> None:
    """The limit is put so that this share of it is used."""
    used = int((await redis.info("memory"))["used_memory"])
    await redis.command("CONFIG", "SET", "maxmemory", int(used / share))


async def test_above_the_limit_nothing_new_is_claimed_and_what_runs_goes_on() -> None:
    async with running_redis() as redis, redis_nodes(1, url=redis.url) as (kit,):
        owned = await kit.begin("r1", "a")
        await _use(redis, 0.9)
        async with listening(kit.log):
            with anyio.fail_after(5):
                while await _has_room(kit.log):
                    await anyio.sleep(0.02)
            await _claim_is_refused(kit, "r2", "else")
            await kit.say(owned, 1, "b")
            assert (await kit.cancel("r1")).outcome is PostOutcome.STORED
            await kit.end(owned, "cancelled")
            await redis.command("CONFIG", "SET", "maxmemory", 0)
            with anyio.fail_after(5):
                while not await _has_room(kit.log):
                    await anyio.sleep(0.02)
            await kit.claim("r2", conversation="else")


async def _has_room(log: object) -> bool:
    assert isinstance(log, RedisEventLog)
    return log._memory_ratio <= log._memory_limit


async def test_without_any_memory_claims_are_refused_and_appends_wait_until_there_is_some() -> None:
    """The limit is met before the engine could see it come. No step is half done."""
    async with running_redis() as redis, redis_nodes(1, url=redis.url) as (kit,):
        owned = await kit.begin("r1", "a")
        await kit.reserve("r2", "else")
        await _use(redis, 1.5)
        before = await kit.log.live(kit.ref())
        await _claim_is_refused(kit, "r2", "else")
        append = kit.append(owned, 1, "b", "c")
        for _ in range(2):
            with pytest.raises(LogUnavailable):
                await kit.log.append([append])
        with pytest.raises((LogFull, LogUnavailable)):
            await kit.log.post(op(), owned.request, "cancel", {}, user_id="ann")
        with pytest.raises(LogUnavailable):
            await kit.log.ping()
        assert await kit.log.live(kit.ref()) == before
        await redis.command("CONFIG", "SET", "maxmemory", 0)
        (answer,) = await kit.log.append([append])
        assert isinstance(answer, Appended)
        assert [entry.seq for entry in answer.entries] == [2, 3]
        assert list(answer.intents) == []
        await kit.claim("r2", conversation="else")
