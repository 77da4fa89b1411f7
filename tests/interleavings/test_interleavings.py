"""Turn control in every order that a seed can think of, on a clock that jumps.

Each seed is a server of its own with a few conversations in it: what the model says and when, what the author's two
tabs do, how long the network and the database take are the seed's. Tentative interrupts lapse, what is held back is
bounded, tools time out, approvals expire, the author leaves for longer than the grace time, turns meet their deadline.
Whatever comes when: one ending, an honest history, and nothing of the model's after the answer to a stop.

What fails is told with its seed and its story; `TURNWIRE_TEST_SEEDS=17,1000-2000` tries these seeds instead.
"""

from __future__ import annotations

import asyncio
import os

import pytest
from tests.support.virtual_server import virtual_world

from .judging import judge
from .plan import LIMITS, Plan, draw
from .scripted import Model
from .telling import Record, Teller
from .timed_tools import RUNS

_SEEDS = 60
_STORIES = 3
_AT_ONCE = 10


def seeds() -> list[int]:
    chosen = os.environ.get("TURNWIRE_TEST_SEEDS", f"0-{_SEEDS - 1}")
    ranges = [each.partition("-") for each in chosen.split(",")]
    return [seed for first, _, last in ranges for seed in range(int(first), int(last or first) + 1)]


def told(seed: int) -> list[Record]:
    """What a seed's stories have come to."""
    RUNS.clear()
    model = Model()
    with virtual_world(seed) as world:
        plans = [draw(world.rng, f"s{seed}-{number}") for number in range(_STORIES)]

        async def all_of_them() -> list[Record]:
            sections = {
                "limits": LIMITS,
                "tools": {"modules": ["tests.interleavings.timed_tools"]},
                "deployments": [{"name": name, "model": "m", "breaker_failures": 1000} for name in ("first", "second")],
                "routes": [{"name": "default", "deployments": ["first", "second"], "max_attempts": 2}],
            }
            async with world.server(model.provider_for, **sections) as app, asyncio.TaskGroup() as readers:
                async with asyncio.TaskGroup() as stories:
                    tasks = [stories.create_task(Teller(plan, app, model, readers).tell()) for plan in plans]
                return [task.result() for task in tasks]

        return world.run(all_of_them())


def _plans(seed: int) -> list[Plan]:
    with virtual_world(seed) as world:
        return [draw(world.rng, f"s{seed}-{number}") for number in range(_STORIES)]


@pytest.mark.parametrize("first", range(0, len(seeds()), _AT_ONCE))
def test_whatever_comes_when_there_is_one_ending_and_an_honest_history(first: int) -> None:
    wrong: list[str] = []
    for seed in seeds()[first : first + _AT_ONCE]:
        try:
            records = told(seed)
        except BaseException as error:
            error.add_note(f"seed {seed}:\n" + "\n".join(map(str, _plans(seed))))
            raise
        for record in records:
            try:
                judge(record)
            except AssertionError as error:
                wrong.append(f"seed {seed}: {error}\n{record.plan}")
    assert not wrong, "\n\n".join(wrong)


def test_a_seed_is_the_same_each_time() -> None:
    def seen() -> list[object]:
        # The token in it is of the machine's clock.
        return [[m for m in tab.received if m[1]["type"] != "welcome"] for record in told(7) for tab in record.tabs]

    assert seen() == seen()
