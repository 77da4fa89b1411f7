"""Schedules follow from their seed alone, and never ask for what DESIGN does not mean."""

from __future__ import annotations

import pytest
from tests.chaos.answers import input_text
from tests.chaos.schedule import ACT_KINDS, FAULT_KINDS, LOSING, Fault, Mode, Schedule, is_meant, make_schedule

MODES: tuple[Mode, ...] = ("alone", "sentinel", "cluster")
LONG = [make_schedule(seed, seconds=120, mode=mode) for seed in range(12) for mode in MODES]


def test_the_same_seed_gives_the_same_schedule_and_another_another() -> None:
    assert make_schedule(7) == make_schedule(7)
    assert str(make_schedule(7)) == str(make_schedule(7))
    assert make_schedule(7) != make_schedule(8)


def test_every_kind_of_fault_and_act_is_scheduled_sometimes() -> None:
    assert {fault.kind for schedule in LONG for fault in schedule.faults} == FAULT_KINDS
    acts = {act.kind for schedule in LONG for client in schedule.acts for act in client}
    assert acts == ACT_KINDS


def test_the_embedded_server_has_faults_of_its_own_only() -> None:
    kinds = {fault.kind.split(" ")[0] for fault in make_schedule(1, seconds=300, mode="embedded", nodes=1).faults}
    assert kinds == {"node", "client"}


@pytest.mark.parametrize("schedule", LONG, ids=range(len(LONG)))
def test_redis_loses_nothing_while_mongodb_is_away_or_has_work_left(schedule: Schedule) -> None:
    faults = schedule.faults
    for losing in (fault for fault in faults if fault.kind in LOSING):
        for away in (fault for fault in faults if fault.kind.startswith("mongo")):
            assert away.until + 8 <= losing.at or losing.until + 6 <= away.at, f"{losing}\n{away}"


def test_two_faults_of_one_target_never_overlap() -> None:
    kill = Fault(5.0, "node kill", 1, 2.0)
    assert not is_meant(Fault(6.0, "node pause", 1, 0.5), [kill])
    assert not is_meant(Fault(4.9, "node pause", 1, 0.5), [kill])
    assert is_meant(Fault(6.0, "node pause", 2, 0.5), [kill])
    assert is_meant(Fault(6.0, "redis cut", 1, 0.0), [kill])


def test_what_a_client_says_names_its_request() -> None:
    assert input_text("s1.c2.3", 2).startswith("[s1.c2.3] ")
