"""Two deployments that race: one winner, and nothing stays open. On a clock that jumps, with seeds."""

from __future__ import annotations

import asyncio
from random import Random

import anyio
import pytest
from tests.server.gateway.fakes import ASKED, Answers, Behaviour, Fails, FakeProvider, deployment
from tests.support.virtual_time import run_virtual

from turnwire_server.gateway.errors import ProviderError
from turnwire_server.gateway.provider import Text
from turnwire_server.gateway.race import Runner, race

AFTER_S = 1.0


def provider(name: str, behaviour: Behaviour) -> FakeProvider:
    return FakeProvider(deployment(name, first_token_timeout_s=5), lambda now: behaviour)


class Race:
    def __init__(self, first: Behaviour, second: Behaviour | None) -> None:
        self.first = provider("first", first)
        self.second = None if second is None else provider("second", second)
        self.lost: list[str] = []

    async def run(self) -> Runner[str]:
        async def begin_second() -> Runner[str] | None:
            await asyncio.sleep(0)
            return None if self.second is None else Runner("second", self.second.stream(ASKED))

        first = Runner("first", self.first.stream(ASKED))
        return await race(first, AFTER_S, begin_second, lambda runner: self.lost.append(runner.key))

    @property
    def calls(self) -> int:
        return len(self.first.asked) + (len(self.second.asked) if self.second else 0)

    @property
    def open(self) -> int:
        return self.first.open + (self.second.open if self.second else 0)


@pytest.mark.parametrize(
    ("first", "second", "winner", "lost"),
    [
        (Answers(0.5), Answers(), "first", []),
        (Answers(3), Answers(0.5), "second", ["first"]),
        (Answers(1.5), Answers(3), "first", ["second"]),
        (Answers(3), Fails(after_s=0.5), "first", ["second"]),
        (Fails(after_s=1.5), Answers(3), "second", ["first"]),
        (Answers(3), None, "first", []),
    ],
)
def test_who_speaks_first_wins(first: Behaviour, second: Behaviour | None, winner: str, lost: list[str]) -> None:
    async def main() -> None:
        one = Race(first, second)
        won = await one.run()
        assert (won.key, one.lost, won.chunks) == (winner, lost, [Text("answer")])
        assert one.open == 1
        assert [chunk async for chunks in won.stream for chunk in chunks]
        await won.aclose()
        assert one.open == 0

    run_virtual(main())


@pytest.mark.parametrize(
    ("first", "second", "failed", "lost"),
    [
        (Fails(after_s=0.5), Answers(), "first", []),
        (Fails(after_s=2), Fails(after_s=0.5), "first", ["second"]),
        (Fails(after_s=1.5), Fails(after_s=3), "second", ["first"]),
    ],
)
def test_when_nobody_speaks_the_last_error_is_told(
    first: Behaviour, second: Behaviour, failed: str, lost: list[str]
) -> None:
    async def main() -> None:
        one = Race(first, second)
        last = await one.run()
        assert (last.key, one.lost, last.chunks) == (failed, lost, None)
        assert isinstance(last.error, ProviderError)
        assert one.open == 0

    run_virtual(main())


def test_what_goes_wrong_otherwise_comes_out_as_it_is_and_closes_all() -> None:
    async def main() -> None:
        one = Race(Answers(3), Answers(3))

        async def begin_second() -> Runner[str] | None:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await race(Runner("first", one.first.stream(ASKED)), AFTER_S, begin_second, lambda runner: None)
        assert one.open == 0

    run_virtual(main())


@pytest.mark.parametrize("part", range(4))
def test_whatever_happens_each_call_is_closed_once(part: int) -> None:
    async def main(seed: int) -> None:
        rng = Random(seed)

        def behaviour() -> Behaviour:
            after_s = rng.choice((0.0, 0.5, 1.0, 1.5, 2.0))
            return Answers(after_s) if rng.random() < 0.6 else Fails(after_s=after_s)

        one = Race(behaviour(), behaviour())
        with anyio.move_on_after(rng.choice((0.5, 1.0, 1.5, 10.0))) as scope:
            won = await one.run()
            assert len(one.lost) == one.calls - 1
            assert one.open == (0 if won.chunks is None else 1)
            await won.aclose()
        assert one.open == 0, (seed, scope.cancelled_caught)

    for seed in range(part * 500, part * 500 + 500):
        run_virtual(main(seed))
