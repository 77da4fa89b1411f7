"""Breadth-first search through everything that the model may do, with the guarantees checked at every step.

`explore` visits every state that can be reached within a configuration's budget, once; the nodes are alike, so two
states that differ only in their names count as one. What it finds first is the shortest way to break a guarantee. When
none breaks it looks for states that no end can be reached from without another fault: turns that hang.
"""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.model.log_model import Model
from tests.model.state import (
    CANCELLED,
    COMPLETED,
    CREATED,
    FINISHED,
    INCOMPLETE,
    LIVE,
    NOBODY,
    OPEN,
    Conversation,
    State,
    Task,
)
from tests.model.stores import Move

HANGS = "4: something never ends"
TERMINAL = (COMPLETED, CANCELLED, INCOMPLETE)


@dataclass(frozen=True, slots=True)
class Counterexample:
    """Which guarantee breaks, and the shortest way there."""

    what: str
    steps: tuple[str, ...]
    state: State

    def __str__(self) -> str:
        return "\n".join([f"breaks {self.what}", *(f"{k:3} {step}" for k, step in enumerate(self.steps, 1))])


@dataclass(slots=True)
class Explored:
    """How much was seen, and what was found."""

    states: int = 0
    moves: int = 0
    depth: int = 0
    is_complete: bool = False
    counterexample: Counterexample | None = field(default=None)


def explore(model: Model, *, most: int = 1_000_000, only: str = "") -> Explored:
    """Look at all states. Stops at the first broken guarantee, or after ``most`` states.

    With ``only`` other guarantees than those that begin so are let break, and what follows is not looked at.
    """
    with no_garbage():
        return _explore(model, most, only)


@contextmanager
def no_garbage() -> Iterator[None]:
    """Millions of tuples without a cycle among them: looking for one takes longer than the search."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _explore(model: Model, most: int, only: str) -> Explored:
    start = canonical(model.config.start())
    states = [start]
    numbers = {start: 0}
    parents = [0]
    depths = [0]
    before: list[list[int]] = [[]]  # by state: from which it is reached by a free move
    found = Explored()
    queue = deque([0])
    while queue:
        number = queue.popleft()
        state = states[number]
        for move in model.moves(state):
            found.moves += 1
            what = move.state.broken or broken_by(state, move.state, model)
            if what and not what.startswith(only):
                continue
            if what:
                found.states, found.depth = len(states), depths[number] + 1
                found.counterexample = retrace(model, states, parents, number, move, what)
                return found
            after = canonical(move.state)
            known = numbers.get(after)
            if known is None:
                if len(states) >= most:
                    found.states, found.depth = len(states), depths[number] + 1
                    return found
                known = numbers[after] = len(states)
                states.append(after)
                parents.append(number)
                depths.append(depths[number] + 1)
                before.append([])
                queue.append(known)
            if move.is_free and known != number:
                before[known].append(number)
    found.states, found.depth, found.is_complete = len(states), max(depths), True
    hanging = hangs(states, before)
    if hanging is not None and HANGS.startswith(only):
        found.counterexample = retrace(model, states, parents, hanging, None, HANGS)
    return found


def hangs(states: list[State], before: list[list[int]]) -> int | None:
    """The first state from which no end can be reached without a fault."""
    ending = [number for number, state in enumerate(states) if has_ended(state)]
    reached = set(ending)
    while ending:
        for number in before[ending.pop()]:
            if number not in reached:
                reached.add(number)
                ending.append(number)
    return next((number for number in range(len(states)) if number not in reached), None)


def has_ended(s: State) -> bool:
    """Everything that was asked for has its ending, and nobody does anything."""
    return (
        not any(any(tasks) for tasks in s.tasks)
        and all(archived.state != OPEN for archived in s.archive)
        and all(r is None or r.phase not in LIVE for conversation in s.conversations for r in conversation.requests)
    )


def broken_by(s: State, after: State, model: Model) -> str:
    """Which guarantee the step from ``s`` to ``after`` breaks, if any. See `log_model` for the list."""
    for old, new in zip(s.conversations, after.conversations, strict=True):
        if old is not new and old != new:
            what = broken_log(old, new) or two_floors(after, new, model)
            if what:
                return what
    if s.cancels != after.cancels or s.archive != after.archive or s.conversations != after.conversations:
        return broken_cancel(after, model)
    return ""


def broken_log(old: Conversation, new: Conversation) -> str:
    if old.inc == new.inc:
        for was, now in zip(old.requests, new.requests, strict=True):
            if was is not None and now is not None and was.phase == FINISHED != now.phase:
                return "4: a request that has ended begins again"
    if (old.rand, old.inc) == (new.rand, new.inc):
        if old.base != new.base or new.log[: len(old.log)] != old.log:
            return "1: what lies below a seq changes within an epoch"
        for was, now in zip(old.requests, new.requests, strict=True):
            if was is not None and now is not None and now.n < was.n:
                return "1: a request goes back within an epoch"
    seen: set[tuple[int, str]] = set()
    ended: set[int] = set()
    for entry in new.log:
        life, event = entry
        if entry in seen or (event == CREATED and new.base[life]):
            return "1: an event is in the log twice"
        if life in ended:
            return "4: something follows the end of a request"
        if event in TERMINAL:
            ended.add(life)
        seen.add(entry)
    return ""


def two_floors(s: State, conversation: Conversation, model: Model) -> str:
    """A loss may bring back one that has ended; then the archive knows, and whoever takes it only says so."""
    holders = [
        life
        for life, request in enumerate(conversation.requests)
        if request is not None
        and request.phase in LIVE
        and request.has_floor
        and s.archive[model.config.lives[life].request].state in ("", OPEN)
    ]
    return "3: two turns have the floor of a conversation" if len(holders) > 1 else ""


def broken_cancel(s: State, model: Model) -> str:
    for number, cancel in enumerate(s.cancels):
        if not cancel.is_acknowledged:
            continue
        if s.archive[number].state == COMPLETED:
            return "5: the archive has `completed` although its cancel was acknowledged"
        for life, content in enumerate(model.config.lives):
            request = s.conversations[content.conversation].requests[life]
            if request is None or content.request != number:
                continue
            if (request.phase, request.ending) == (FINISHED, COMPLETED):
                return "5: `completed` is published although its cancel was acknowledged"
    return ""


def retrace(
    model: Model, states: list[State], parents: list[int], number: int, last: Move | None, what: str
) -> Counterexample:
    """The way to a state in words. The states on it are canonical, so the nodes' names are found by walking again."""
    way = [number]
    while way[-1]:
        way.append(parents[way[-1]])
    state, steps = model.config.start(), []
    for wanted in reversed(way[:-1]):
        move = next(move for move in model.moves(state) if canonical(move.state) == states[wanted])
        steps.append(move.label)
        state = move.state
    if last is not None:
        wanted_end = canonical(last.state)
        move = next(move for move in model.moves(state) if canonical(move.state) == wanted_end)
        steps.append(move.label)
        state = move.state
    return Counterexample(what, tuple(steps), state)


# --- symmetry: node A and node B are alike -----------------------------------------------------------------------


def canonical(s: State) -> State:
    """The same state with the nodes named so that equal situations are equal."""
    order = compared(s.alive, s.tasks)
    if order == 0:
        other = swapped(s)
        return s if repr(s) <= repr(other) else other
    return s if order < 0 else swapped(s)


def compared(alive: tuple[bool, ...], tasks: tuple[tuple[Task | None, ...], ...]) -> int:
    """Which node comes first: -1 is A, 1 is B, 0 when they are doing the same."""
    if alive[0] != alive[1]:
        return -1 if alive[0] else 1
    for first, second in zip(*tasks, strict=True):
        if first != second:
            return -1 if first is None or (second is not None and first < second) else 1
    return 0


def swapped(s: State) -> State:
    """The nodes A and B change their names."""
    late = s.late if s.late is None else s.late._replace(node=1 - s.late.node)
    saved = s.saved
    if saved is not None:
        saved = saved._replace(conversations=tuple(c if c is None else swapped_in(c) for c in saved.conversations))
    return s._replace(
        alive=s.alive[::-1],
        tasks=s.tasks[::-1],
        conversations=tuple(swapped_in(conversation) for conversation in s.conversations),
        archive=tuple(a if a.holder == NOBODY else a._replace(holder=1 - a.holder) for a in s.archive),
        saved=saved,
        late=late,
    )


def swapped_in(conversation: Conversation) -> Conversation:
    leases = (conversation.leases & 1) << 1 | conversation.leases >> 1
    requests = tuple(
        r if r is None or r.owner == NOBODY else r._replace(owner=1 - r.owner) for r in conversation.requests
    )
    return conversation._replace(requests=requests, leases=leases)
