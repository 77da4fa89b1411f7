"""Places at a deployment, and who gets the next one."""

from __future__ import annotations

from random import Random

from turnwire_server.gateway.breaker import Breaker, BreakerRules
from turnwire_server.gateway.errors import ProviderError
from turnwire_server.gateway.errors import ProviderErrorKind as Kind
from turnwire_server.gateway.gate import Gate, Pass


class Somebody:
    def __init__(self, tenant: str) -> None:
        self.tenant = tenant
        self.entered: Pass | None = None
        self.looks = 0
        self.has_left = False

    @property
    def is_waiting(self) -> bool:
        return self.entered is None and not self.has_left

    def let_in(self, gate: Gate, leave: Pass) -> None:
        self.entered = leave

    def look_again(self) -> None:
        self.looks += 1


def gate(places: int = 2) -> Gate:
    return Gate("d", places, Breaker(BreakerRules(failures=1), Random(1)))


def waiting(at: Gate, *tenants: str) -> list[Somebody]:
    people = [Somebody(tenant) for tenant in tenants]
    for person in people:
        at.wait(person)
    return people


def order_of_entry(at: Gate, people: list[Somebody], first: list[Pass]) -> str:
    inside, order = list(first), ""
    while any(person.is_waiting for person in people):
        before = [person for person in people if person.is_waiting]
        at.leave(inside.pop(0), 1)
        for person in before:
            if person.entered is not None:
                order += person.tenant
                inside.append(person.entered)
    return order


def test_there_is_room_up_to_the_limit() -> None:
    one = gate(2)
    first, second = one.enter("a", 0), one.enter("a", 0)
    assert not one.has_room(0)
    one.leave(first, 0)
    assert one.has_room(0)
    one.leave(second, 0)
    assert one.in_flight == 0


def test_tenants_take_turns_and_each_keeps_its_own_order() -> None:
    one = gate(1)
    inside = one.enter("a", 0)
    people = waiting(one, *"aaaabcb")
    assert order_of_entry(one, people, [inside]) == "abcabaa"


def test_who_has_fewer_calls_here_is_let_in_first() -> None:
    one = gate(3)
    inside = [one.enter("a", 0) for _ in range(3)]
    a, b = waiting(one, "a", "b")
    one.leave(inside[0], 1)
    assert (a.is_waiting, b.is_waiting) == (True, False)


def test_nobody_overtakes_those_who_wait() -> None:
    one = gate(1)
    inside = one.enter("a", 0)
    (person,) = waiting(one, "a")
    one.leave(inside, 1)
    assert person.entered is not None
    assert not one.has_room(1)


def test_who_has_left_is_passed_over() -> None:
    one = gate(1)
    inside = one.enter("a", 0)
    gone, forgotten, there = waiting(one, "a", "a", "b")
    gone.has_left = True
    one.forget(forgotten)
    one.forget(forgotten)
    one.leave(inside, 1)
    assert (gone.entered, forgotten.entered) == (None, None)
    assert there.entered is not None


def test_when_it_opens_those_who_wait_look_again_and_the_first_of_them_probes_in_time() -> None:
    one = gate(1)
    inside = one.enter("a", 0)
    first, second = waiting(one, "a", "b")
    one.leave(inside, 1, ProviderError(Kind.ERROR, "it failed", retryable=True))
    assert (first.looks, second.looks) == (1, 1)
    when = one.next_timer()
    assert when is not None
    one.pump(when - 0.01)
    assert first.is_waiting
    one.pump(when)
    assert [person.is_waiting for person in (first, second)].count(False) == 1
