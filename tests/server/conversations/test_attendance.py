"""Who is present, and what whom is told of it. Pure: connections are names, times are numbers."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import pytest

from turnwire_protocol import PresenceChanged
from turnwire_server.conversations import attendance
from turnwire_server.conversations.attendance import Attendance
from turnwire_server.eventlog.base import Attendee, Roll


@dataclass(frozen=True)
class Connection:
    user_id: str
    number: int = 0
    instance_id: str | None = None


ANN, ANN_2, BOB, EVE = Connection("ann"), Connection("ann", 2), Connection("bob"), Connection("eve")


def here(*connections: Connection) -> Attendance:
    found = Attendance()
    for connection in connections:
        found.came(connection)
    return found


def listed(found: Attendance) -> dict[str, Any]:
    return {presence.user_id: presence.state for presence in found.present()}


def told(message: PresenceChanged | None) -> dict[str, dict[str, Any]]:
    if message is None:
        return {}
    names = {"joined": message.joined, "left": message.left, "changed": message.changed}
    return {name: {one.user_id: one.state for one in users} for name, users in names.items() if users}


def news(found: Attendance, knows: int = 0) -> dict[str, dict[str, Any]]:
    fresh = found.news()
    return told(fresh.message("talk", fresh.level(knows)))


def test_whoever_follows_is_present_with_a_state_that_is_null() -> None:
    found = here(ANN, BOB)
    assert listed(found) == {"ann": None, "bob": None}
    assert news(found) == {"joined": {"ann": None, "bob": None}}
    assert news(found) == {}


def test_a_user_with_several_connections_is_present_once_with_the_newest_state() -> None:
    found = here(ANN, ANN_2)
    found.says(ANN, "reads", 1)
    assert listed(found) == {"ann": "reads"}
    found.says(ANN_2, "types", 2)
    assert listed(found) == {"ann": "types"}
    found.left(ANN_2)
    assert listed(found) == {"ann": "reads"}
    found.says(ANN, None, 3)
    assert listed(found) == {"ann": None}
    found.left(ANN)
    assert listed(found) == {}
    assert not found.is_here("ann")


def test_what_comes_and_goes_between_two_tellings_is_not_told() -> None:
    found = here(ANN)
    news(found)
    found.came(BOB)
    found.says(ANN, 1, 1)
    found.says(ANN, None, 2)
    found.left(BOB)
    assert news(found) == {}


def test_one_and_true_are_different_states() -> None:
    found = here(ANN)
    found.says(ANN, 1, 1)
    news(found)
    found.says(ANN, True, 2)
    assert news(found) == {"changed": {"ann": True}}


def test_who_was_given_the_list_is_told_only_what_came_after_it() -> None:
    found = here(ANN, BOB)
    knows = found.changes
    assert news(found, knows) == {}
    found.left(BOB)
    found.came(EVE)
    assert news(found, knows) == {"left": {"bob": None}, "joined": {"eve": None}}


def test_who_saw_somebody_in_the_list_is_told_that_they_left_though_nobody_else_ever_heard_of_them() -> None:
    found = here(ANN)
    news(found)
    found.came(BOB)
    knows = found.changes
    found.left(BOB)
    fresh = found.news()
    assert told(fresh.message("talk", fresh.level(0))) == {}
    assert told(fresh.message("talk", fresh.level(knows))) == {"left": {"bob": None}}


def test_states_that_are_too_much_for_one_message_come_with_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attendance, "NEWS_BYTES", 20)
    found = here(ANN, BOB, EVE)
    for number, who in enumerate((ANN, BOB, EVE)):
        found.says(who, "x" * 10, number)
    assert [len(news(found)["joined"]) for _ in range(3)] == [1, 1, 1]
    assert not found.has_news


def test_a_list_that_is_too_large_leaves_the_oldest_states_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attendance, "LIST_BYTES", 25)
    found = here(ANN, BOB, EVE)
    for number, who in enumerate((ANN, BOB, EVE)):
        found.says(who, "x" * 10, number)
    assert listed(found) == {"ann": None, "bob": "x" * 10, "eve": "x" * 10}


# --- other nodes -------------------------------------------------------------------------------------------


def test_what_another_node_says_counts_as_what_is_said_here() -> None:
    found = here(ANN)
    found.says(ANN, "here", 10)
    assert found.heard("n2", None, Roll(1, [Attendee("ann", "there", 3.0), Attendee("bob")]), now=12)
    assert listed(found) == {"ann": "here", "bob": None}
    assert found.heard("n2", 1, Roll(2, [Attendee("ann", "there again", 0.5)], ["bob"]), now=12)
    assert listed(found) == {"ann": "there again"}


def test_changes_to_what_is_not_known_are_refused() -> None:
    found = here(ANN)
    assert not found.heard("n2", 4, Roll(5, [Attendee("bob")]), now=1)
    found.replaced({"n2": Roll(5, [Attendee("bob"), Attendee("eve")])}, now=1)
    assert not found.heard("n2", 6, Roll(7, [], ["bob"]), now=1)
    assert found.heard("n2", 5, Roll(7, [], ["bob"]), now=1)
    assert listed(found) == {"ann": None, "eve": None}


def test_a_repeat_changes_nothing() -> None:
    found = here(ANN)
    found.heard("n2", None, Roll(3, [Attendee("bob")]), now=1)
    assert found.heard("n2", 1, Roll(2, [Attendee("eve")]), now=1)
    assert found.heard("n2", None, Roll(3, []), now=1)
    assert listed(found) == {"ann": None, "bob": None}


def test_a_node_that_is_not_named_any_more_has_nobody() -> None:
    found = here(ANN)
    found.heard("n2", None, Roll(1, [Attendee("bob")]), now=1)
    found.heard("n3", None, Roll(1, [Attendee("eve")]), now=1)
    assert found.compared({"n2": 1})
    assert listed(found) == {"ann": None, "bob": None}
    assert not found.compared({"n2": 2})
    assert not found.compared({"n2": 1, "n4": 1})


def test_what_is_announced_has_the_age_of_the_state_and_the_instances() -> None:
    found = here(Connection("ann", 1, "tab-1"), Connection("ann", 2, "tab-2"), BOB)
    found.says(Connection("ann", 2, "tab-2"), "types", 5)
    assert found.roll(None, 7) == ([Attendee("ann", "types", 2, ("tab-1", "tab-2")), Attendee("bob")], [])
    assert found.roll(["bob", "eve"], 7) == ([Attendee("bob")], ["eve"])
    assert found.is_here("ann", "tab-2")
    assert not found.is_here("ann", "tab-3")


@pytest.mark.parametrize("seed", range(20))
def test_whenever_one_was_given_the_list_it_knows_the_same_as_all(seed: int) -> None:
    """Random comings and goings; each reader takes `joined` and `changed` as what is so now, `left` as gone."""
    rng = random.Random(seed)
    found, readers, announced = Attendance(), list[tuple[int, dict[str, Any]]](), 0
    connections = [Connection(user, number) for user in ("ann", "bob", "eve") for number in range(2)]
    followed: set[Connection] = set()
    for step in range(300):
        who = rng.choice(connections)
        match rng.randrange(6):
            case 0 | 1 if who not in followed:
                followed.add(who)
                found.came(who)
            case 2 if who in followed:
                followed.discard(who)
                found.left(who)
            case 3 if who in followed:
                found.says(who, rng.choice([None, 1, "x"]), step)
            case 4:
                announced += 1
                found.heard("n2", None, Roll(announced, [Attendee(u, step, 0) for u in rng.sample("abc", 2)]), step)
            case _:
                readers.append((found.changes, listed(found)))
        if rng.random() < 0.3:
            fresh = found.news()
            for knows, view in readers:
                message = fresh.message("talk", rng.choice([fresh.level(knows), -1]))
                for name, users in told(message).items():
                    for user, state in users.items():
                        if name == "left":
                            view.pop(user, None)
                        else:
                            view[user] = state
            if not found.has_news:
                assert all(view == listed(found) for _, view in readers)
