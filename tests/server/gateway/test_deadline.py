"""The moving time limit: one timer, and a cancellation that is never mistaken for another."""

from __future__ import annotations

import asyncio

import pytest

from turnwire_server.gateway.deadline import Deadline


class TooLong(Exception):
    pass


async def wait_with(deadline: Deadline, seconds: float, event: asyncio.Event) -> None:
    deadline.begin(deadline.now() + seconds)
    try:
        await event.wait()
    except asyncio.CancelledError:
        if deadline.is_mine():
            raise TooLong from None
        raise
    finally:
        deadline.end()


async def test_a_wait_that_lasts_too_long_ends() -> None:
    deadline = Deadline()
    async with asyncio.timeout(60):
        with pytest.raises(TooLong):
            await wait_with(deadline, 0.01, asyncio.Event())
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    deadline.close()


async def test_many_short_waits_share_one_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    made = 0
    call_at = loop.call_at

    def counting(*args: object, **kwargs: object) -> asyncio.TimerHandle:
        nonlocal made
        made += 1
        return call_at(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "call_at", counting)
    deadline = Deadline()
    ready = asyncio.Event()
    ready.set()
    for _ in range(1000):
        await wait_with(deadline, 10, ready)
    deadline.close()
    assert made == 1


async def test_a_deadline_that_moved_on_lets_the_wait_go_on() -> None:
    deadline = Deadline()
    ready = asyncio.Event()
    ready.set()
    await wait_with(deadline, 0.01, ready)
    late = asyncio.Event()
    asyncio.get_running_loop().call_later(0.05, late.set)
    async with asyncio.timeout(60):
        await wait_with(deadline, 2, late)
    deadline.close()


async def test_a_deadline_that_moved_closer_is_kept() -> None:
    deadline = Deadline()
    ready = asyncio.Event()
    ready.set()
    await wait_with(deadline, 100, ready)
    async with asyncio.timeout(60):
        with pytest.raises(TooLong):
            await wait_with(deadline, 0.01, asyncio.Event())
    deadline.close()


async def test_another_cancel_is_not_taken_for_the_deadline() -> None:
    task = asyncio.create_task(wait_with(Deadline(), 100, asyncio.Event()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancel_together_with_the_deadline_wins() -> None:
    deadline = Deadline()
    task = asyncio.create_task(wait_with(deadline, 0, asyncio.Event()))
    asyncio.get_running_loop().call_soon(task.cancel)
    with pytest.raises(asyncio.CancelledError):
        await task
    deadline.close()


async def test_no_timer_fires_between_two_waits() -> None:
    deadline = Deadline()
    ready = asyncio.Event()
    ready.set()
    await wait_with(deadline, 0.01, ready)
    await asyncio.sleep(0.05)  # past the deadline, with nobody waiting
    await wait_with(deadline, 1, ready)
    deadline.close()
