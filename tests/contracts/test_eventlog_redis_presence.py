"""Who follows a conversation on which node, as nodes announce it to each other in Redis."""

from __future__ import annotations

from turnwire_server.eventlog.base import Attendee, Roll

from .kit import Clock
from .nodes import listening, redis_nodes

KEPT_S = 20.0
ANN, BOB = Attendee("ann", {"at": [1, None]}, 2.0, ("tab-1", "tab-2")), Attendee("bob")


async def test_what_one_node_says_the_others_hear_and_can_ask_for() -> None:
    clock = Clock()
    async with redis_nodes(2, clock=clock) as (here, there), listening(there.log) as ear:
        there.log.watch(there.ref())
        ref, owner = here.ref(), here.log.owner
        assert await here.log.announce({ref: (None, Roll(1, [ANN, BOB]))}, KEPT_S) == {ref: {owner: 1}}
        await ear.until(lambda: ear.rolls == [(ref, owner, None, Roll(1, [ANN, BOB], []))])
        clock.forward(1)
        (roll,) = (await there.log.present(ref)).values()
        assert (roll.version, roll.left_s) == (1, KEPT_S - 1)
        assert {a.user_id: a for a in roll.attendees} == {
            "ann": Attendee("ann", ANN.state, 3.0, ANN.instances),
            "bob": BOB,
        }
        assert await there.log.present(there.ref("another")) == {}


async def test_changes_go_on_from_what_was_said_before() -> None:
    async with redis_nodes(2) as (here, there), listening(there.log) as ear:
        there.log.watch(there.ref())
        ref, owner = here.ref(), here.log.owner
        await here.log.announce({ref: (None, Roll(1, [ANN, BOB]))}, KEPT_S)
        changes = Roll(2, [Attendee("ann", 7, 0.0)], ["bob"])
        for _ in range(2):  # the answer of the first was lost
            assert await here.log.announce({ref: (1, changes)}, KEPT_S) == {ref: {owner: 2}}
        await ear.until(lambda: len(ear.rolls) == 2)
        assert ear.rolls[1] == (ref, owner, 1, changes)
        (roll,) = (await there.log.present(ref)).values()
        assert [(a.user_id, a.state) for a in roll.attendees] == [("ann", 7)]


async def test_changes_to_what_the_log_does_not_know_change_nothing_and_show() -> None:
    async with redis_nodes(1) as (here,):
        ref = here.ref()
        assert await here.log.announce({ref: (4, Roll(5, [BOB]))}, KEPT_S) == {ref: {}}
        assert await here.log.present(ref) == {}
        await here.log.announce({ref: (None, Roll(6, [BOB]))}, KEPT_S)
        assert await here.log.announce({ref: (4, Roll(7, [ANN]))}, KEPT_S) == {ref: {here.log.owner: 6}}


async def test_what_is_not_renewed_lapses_and_another_nodes_stays() -> None:
    clock = Clock()
    async with redis_nodes(2, clock=clock) as (here, there):
        ref = here.ref()
        await here.log.announce({ref: (None, Roll(1, [ANN]))}, KEPT_S)
        await there.log.announce({ref: (None, Roll(1, [BOB]))}, KEPT_S)
        clock.forward(KEPT_S - 1)
        versions = {here.log.owner: 1, there.log.owner: 1}
        assert await there.log.announce({ref: (1, Roll(1, []))}, KEPT_S) == {ref: versions}
        clock.forward(2)
        assert list(await here.log.present(ref)) == [there.log.owner]
        assert await there.log.announce({ref: (1, Roll(1, []))}, KEPT_S) == {ref: {there.log.owner: 1}}


async def test_a_node_where_nobody_follows_any_more_is_not_named() -> None:
    async with redis_nodes(2) as (here, there), listening(there.log) as ear:
        there.log.watch(there.ref())
        ref = here.ref()
        await here.log.announce({ref: (None, Roll(1, [ANN]))}, KEPT_S)
        assert await here.log.announce({ref: (None, Roll(2, []))}, KEPT_S) == {ref: {}}
        await ear.until(lambda: len(ear.rolls) == 2)
        assert await there.log.present(ref) == {}
