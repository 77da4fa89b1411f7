"""The way in to one deployment: so many calls at once, only when its breaker lets them, and a fair wait. Pure.

Who cannot go in now may wait. A place that becomes free goes to the waiting tenant that has the fewest calls here, and
among those to the one that was served longest ago; within a tenant, first come, first served. So a tenant with a
thousand requests waiting holds another one up by one call, not by a thousand. Nobody overtakes those who wait.

The queue is as long as turns run (`limits.running_turns`); each waits no longer than its route's budget. Above is the
router, which keeps the time: it calls `pump` whenever something has changed, and at `next_timer`.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from turnwire_server.gateway.breaker import Breaker, News, Ticket
from turnwire_server.gateway.errors import ProviderError


class Pass:
    """A call that was let in. End it once, with `Gate.leave`."""

    __slots__ = ("had_answered", "tenant", "ticket")

    def __init__(self, tenant: str, ticket: Ticket) -> None:
        self.tenant = tenant
        self.ticket = ticket
        self.had_answered = False


class Waiter(Protocol):
    """Somebody who waits at one gate or several; the first that lets it in has it."""

    tenant: str

    @property
    def is_waiting(self) -> bool:
        """Whether it still wants in."""

    def let_in(self, gate: Gate, leave: Pass) -> None:
        """It is in: called once."""

    def look_again(self) -> None:
        """Nothing is as it was when it began to wait."""


@dataclass(slots=True)
class Gate:
    """One deployment's. `changed` is called with what this node has learned, for others."""

    name: str
    places: int
    breaker: Breaker
    changed: Callable[[Gate, News], None] = lambda gate, news: None
    in_flight: int = 0
    _of_tenant: dict[str, int] = field(default_factory=dict)
    _queues: OrderedDict[str, deque[Waiter]] = field(default_factory=OrderedDict)

    def __repr__(self) -> str:
        waiting = sum(map(len, self._queues.values()))
        return f"<Gate {self.name} {self.in_flight}/{self.places} waiting={waiting} {self.breaker!r}>"

    @property
    def is_full(self) -> bool:
        return self.in_flight >= self.places

    def has_room(self, now: float, *, cornered: bool = False) -> bool:
        """Whether somebody who comes now may go in. Follow it with `enter`."""
        if self.in_flight >= self.places or not self.breaker.may_call(now, cornered=cornered):
            return False
        return not self._queues or not self._someone_waits()

    def enter(self, tenant: str, now: float) -> Pass:
        """Goes in. `has_room` has just said that it may."""
        self.in_flight += 1
        self._of_tenant[tenant] = self._of_tenant.get(tenant, 0) + 1
        return Pass(tenant, self.breaker.begin(now))

    def answered(self, leave: Pass, now: float) -> None:
        """The model has begun to answer."""
        if not leave.had_answered:
            was_open = self.breaker.is_open
            self.breaker.answered(leave.ticket, now)
            leave.had_answered = True
            self._after(was_open, now)

    def leave(self, leave: Pass, now: float, error: ProviderError | None = None) -> None:
        """The call is over; without an error it was answered, or its caller has left before."""
        self.in_flight -= 1
        left = self._of_tenant[leave.tenant] - 1
        if left:
            self._of_tenant[leave.tenant] = left
        else:
            del self._of_tenant[leave.tenant]
        was_open = self.breaker.is_open
        if error is not None:
            self.breaker.failed(leave.ticket, error, now, had_answered=leave.had_answered)
        else:
            self.breaker.withdrawn(leave.ticket, now, had_answered=leave.had_answered)
        self._after(was_open, now)

    def probed_elsewhere(self, leave: Pass, now: float, for_s: float) -> None:
        """Another node has the probe that this call was to be: it is not made."""
        self.breaker.probed_elsewhere(leave.ticket, now, for_s)
        leave.had_answered = True  # nothing more is to be learned from it
        self.leave(leave, now)

    def hear(self, news: News, now: float) -> None:
        """What another node has learned."""
        was_open = self.breaker.is_open
        self.breaker.hear(news, now)
        self._after(was_open, now)

    def wait(self, waiter: Waiter) -> None:
        """From now on it is let in when there is room; `forget` it in the end."""
        self._queues.setdefault(waiter.tenant, deque()).append(waiter)

    def forget(self, waiter: Waiter) -> None:
        """It waits no longer, for whatever reason. Safe to repeat."""
        queue = self._queues.get(waiter.tenant)
        if queue is not None and waiter in queue:
            queue.remove(waiter)
            if not queue:
                del self._queues[waiter.tenant]

    def pump(self, now: float) -> None:
        """Lets in whoever may go in by now. All who wait here are cornered, see `plan`."""
        while self._queues and not self.is_full and self.breaker.may_call(now, cornered=True):
            waiter = self._next()
            if waiter is None:
                return
            waiter.let_in(self, self.enter(waiter.tenant, now))

    def next_timer(self) -> float | None:
        """When `pump` is to be called though nothing has happened; None: nobody waits for a time."""
        if not self._queues or self.is_full or not self.breaker.is_open:
            return None
        return self.breaker.may_probe_at(cornered=True)

    def _after(self, was_open: bool, now: float) -> None:
        """The breaker may have moved. Who waited for a place only may want to go elsewhere now."""
        news = self.breaker.news()
        if news is not None:
            self.changed(self, news)
        if not self._queues:
            return
        if self.breaker.is_open and not was_open:
            for queue in tuple(self._queues.values()):
                for waiter in tuple(queue):
                    waiter.look_again()
        self.pump(now)

    def _someone_waits(self) -> bool:
        return any(waiter.is_waiting for queue in self._queues.values() for waiter in queue)

    def _next(self) -> Waiter | None:
        """Whose turn it is, taken out of the queue."""
        while self._queues:
            tenant = min(self._queues, key=lambda each: self._of_tenant.get(each, 0))
            queue = self._queues[tenant]
            waiter = queue.popleft()
            if queue:
                self._queues.move_to_end(tenant)
            else:
                del self._queues[tenant]
            if waiter.is_waiting:
                return waiter
        return None
