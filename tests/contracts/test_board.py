"""Boards: what nodes tell each other besides the log. One suite for all of them; each is asked twice over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from tests.support.redis import running_redis, running_redis_cluster

from turnwire_server.eventlog.redis import RedisBoard
from turnwire_server.gateway.health.base import Board
from turnwire_server.gateway.health.memory import MemoryBoard


@asynccontextmanager
async def boards(kind: str) -> AsyncIterator[tuple[Board, Board]]:
    """Two nodes' boards, which are one."""
    if kind == "memory":
        board = MemoryBoard()
        yield board, board
        return
    async with running_redis() if kind == "redis" else running_redis_cluster() as redis:
        both = [RedisBoard(redis.url, prefix="t", timeout_s=2) for _ in range(2)]
        for each in both:
            each.open()
        try:
            yield both[0], both[1]
        finally:
            for each in both:
                await each.aclose()


KINDS = pytest.mark.parametrize("kind", ["memory", "redis", "redis cluster"])


@KINDS
async def test_a_note_stands_until_the_next_one_of_its_name(kind: str) -> None:
    async with boards(kind) as (a, b), asyncio.timeout(20):
        assert list(await b.read()) == []
        await a.put("x", b"one two \xff\x00")
        await a.put("y", b"")
        first = {note[0]: note for note in await b.read()}
        assert {name: note[1] for name, note in first.items()} == {"x": b"one two \xff\x00", "y": b""}
        assert all(0 <= note[3] < 5 for note in first.values())
        assert {note[0]: note[2] for note in await a.read()} == {name: note[2] for name, note in first.items()}
        await b.put("x", b"one two \xff\x00")
        again = {note[0]: note for note in await a.read()}
        assert again["x"][2] != first["x"][2], "the same text is another note"
        assert again["y"][2] == first["y"][2]


@KINDS
async def test_a_note_grows_older(kind: str) -> None:
    async with boards(kind) as (a, b), asyncio.timeout(20):
        await a.put("x", b"1")
        await asyncio.sleep(0.05)  # its age is the subject
        ((_, _, _, age),) = await b.read()
        assert age >= 0.04


@KINDS
async def test_one_holds_a_name_until_it_gives_it_back_or_its_time_is_over(kind: str) -> None:
    async with boards(kind) as (a, b), asyncio.timeout(20):
        assert await a.take("x", "A", 60)
        assert await a.take("x", "A", 60)
        assert not await b.take("x", "B", 60)
        assert await b.take("y", "B", 60)
        await b.give_back("x", "B")
        assert not await b.take("x", "B", 60)
        await a.give_back("x", "A")
        await a.give_back("x", "A")
        assert await b.take("x", "B", 0.05)
        await asyncio.sleep(0.06)  # its time is the subject
        assert await a.take("x", "A", 60)


async def test_a_board_that_cannot_be_reached_says_so_in_bounded_time() -> None:
    async with running_redis() as redis:
        board = RedisBoard(redis.url, prefix="t", timeout_s=0.3)
        board.open()
        try:
            await board.put("x", b"1")
            redis.kill_blocking()
            async with asyncio.timeout(5):
                for call in (board.put("x", b"1"), board.read(), board.take("x", "A", 1), board.give_back("x", "A")):
                    with pytest.raises(ConnectionError):
                        await call
        finally:
            await board.aclose()
