"""What all steps are made of: looking, writing one record, who may write, who comes next.

The checks that need to know the step are here too, marked as ghosts: they change nothing but `State.broken`.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeVar

from tests.model.rules import Rules
from tests.model.state import (
    CANCELLED,
    COMPLETED,
    LIVE,
    NOBODY,
    OPEN,
    QUEUED,
    RUNNING,
    SEALED,
    Archived,
    Config,
    Conversation,
    Request,
    State,
    Task,
)

T = TypeVar("T")

CLAIM_FENCE = 1
MOST_FENCE = 7  # no rule needs it: it makes a mistake that takes a turn over for ever come to a stop


class Move(NamedTuple):
    """One atomic thing that may happen. ``is_free`` ones need no fault and no new wish of a client."""

    label: str
    is_free: bool
    state: State


class Done(NamedTuple):
    """A step: the stores afterwards, the task once it has the answer, tasks that the answer begins, in words."""

    state: State
    task: Task | None
    said: str = ""
    begun: tuple[tuple[int, Task], ...] = ()


def replaced(items: tuple[T, ...], index: int, item: T) -> tuple[T, ...]:
    """``items`` with one of them replaced."""
    return (*items[:index], item, *items[index + 1 :])


def broken(s: State, what: str) -> State:
    """Mark the state: the step that led here broke a guarantee. The first one counts."""
    return s if s.broken else s._replace(broken=what)


class Stores:
    """The parts that steps are put together from."""

    def __init__(self, config: Config, rules: Rules | None = None) -> None:
        self.config = config
        self.rules = rules or Rules()

    def _call(self, life: int) -> str:
        name = str(self.config.lives[life].request)
        return name if len(self.config.lives) == self.config.requests else f"{name} (content {life})"

    def _with_task(self, s: State, node: int, life: int, task: Task | None) -> State:
        return s._replace(tasks=replaced(s.tasks, node, replaced(s.tasks[node], life, task)))

    def _with(self, s: State, index: int, conversation: Conversation) -> State:
        return s._replace(conversations=replaced(s.conversations, index, conversation))

    def _with_request(self, s: State, life: int, request: Request | None, **changes: Any) -> State:
        index = self.config.lives[life].conversation
        old = s.conversations[index]
        return self._with(s, index, old._replace(requests=replaced(old.requests, life, request), **changes))

    def _conversation(self, s: State, life: int) -> Conversation:
        return s.conversations[self.config.lives[life].conversation]

    def _archived(self, s: State, life: int) -> Archived:
        return s.archive[self.config.lives[life].request]

    def _in_archive(self, s: State, life: int) -> list[Archived]:
        """All of the life's conversation."""
        lives, index = self.config.lives, self.config.lives[life].conversation
        return [entry for entry in s.archive if entry.life != NOBODY and lives[entry.life].conversation == index]

    def _with_archived(self, s: State, life: int, archived: Archived) -> State:
        return s._replace(archive=replaced(s.archive, self.config.lives[life].request, archived))

    def _owns_anew(self, s: State, life: int) -> tuple[State, int]:
        gen = s.gens[life] + 1
        return s._replace(gens=replaced(s.gens, life, gen)), gen

    def _writes(self, s: State, life: int, gen: int) -> State:
        """Ghost: whoever writes must not have been followed by another owner that wrote."""
        if gen < s.wrote[life]:
            return broken(s, "3: a node writes after it was taken over")
        return s._replace(wrote=replaced(s.wrote, life, gen))

    def _standing(self, conversation: Conversation, node: int, life: int, task: Task) -> str:
        """Whether the task may write: ``mine``, ``fenced``, or ``forgotten``: then it may put its turn back."""
        rules, request = self.rules, conversation.requests[life]
        if request is None:
            if task.inc == conversation.inc or (conversation.is_ready and rules.reenter_in_doubt):
                return "fenced"
            return "forgotten"
        if not rules.append_fenced:
            return "mine"
        if request.fence > task.fence:
            return "fenced"
        if request.stamp != conversation.inc:
            return "forgotten"
        is_mine = request.fence == task.fence
        if rules.append_compares_owner:
            is_mine &= request.owner == node and task.inc == conversation.inc
        return "mine" if is_mine else "fenced"

    def _lost(self, s: State, life: int, task: Task, standing: str) -> Done:
        if standing == "fenced":
            return Done(s, None, "fenced")
        handed_over = task.n + 1 if task.at == "work" else task.n
        if handed_over == 0 and self.rules.reenter_shown:
            return Done(s, None, "forgotten, before anything was shown: it stops")
        after = "seal" if task.at in ("work", "hand over") else task.at
        if task.at == "work" and self.config.has_tool:
            after = "effect"
        at = "ask" if self.rules.reenter_asks else "reenter"
        inc = self._conversation(s, life).inc
        return Done(s, task._replace(at=at, n=handed_over, inc=inc, back=after), "forgotten")

    def _onward(self, task: Task) -> Task:
        """Where a task goes that owns a request in log and archive."""
        if task.n == 0:
            return task._replace(at="created")
        if task.heard or task.ending or task.n > 1:
            return task._replace(at="seal")
        if self.config.has_tool and not self.rules.effect_told:
            return task._replace(at="effect")
        return task._replace(at="work")

    def _all(self, s: State, life: int) -> list[Task | None]:
        return [tasks[life] for tasks in s.tasks]

    def _promote(self, s: State, index: int, node: int) -> tuple[State, tuple[tuple[int, Task], ...]]:
        """Give the floor to the next one in the queue, if it is free; ``node`` owns it then."""
        conversation = s.conversations[index]
        if any(request and request.phase in LIVE and request.has_floor for request in conversation.requests):
            return s, ()
        for life, request in enumerate(conversation.requests):
            if request is not None and request.phase == QUEUED:
                s, gen = self._owns_anew(s, life)
                promoted = request._replace(
                    phase=RUNNING,
                    has_floor=True,
                    owner=node,
                    fence=request.fence + 1,
                    stamp=conversation.inc,
                    gen=gen,
                )
                s = self._with_request(s, life, promoted)
                return s, ((life, self._owned(conversation, promoted)),)
        return s, ()

    def _must_wait(self, conversation: Conversation, life: int) -> bool:
        """Whether somebody else has the floor, or waits for it."""
        return any(
            request is not None and request.phase in LIVE and (request.has_floor or request.phase == QUEUED)
            for other, request in enumerate(conversation.requests)
            if other != life
        )

    def _owned(self, conversation: Conversation, request: Request) -> Task:
        task = Task(
            at="look",
            op=request.op,
            fence=request.fence,
            n=request.n,
            inc=conversation.inc,
            gen=request.gen,
            ordinal=request.ordinal,
            heard=request.inbox,
            queued=request.phase == QUEUED,
            taker=True,
        )
        if request.phase == SEALED:
            return task._replace(at="end", ending=request.ending)
        if not self.rules.taker_looks:
            return task._replace(at="archive")
        return task

    def _end_queued(self, s: State, life: int, request: Request, node: int) -> tuple[State, Task]:
        s, gen = self._owns_anew(s, life)
        inc = self._conversation(s, life).inc
        sealed = request._replace(
            phase=SEALED, ending=CANCELLED, owner=node, fence=request.fence + 1, stamp=inc, gen=gen, inbox=True
        )
        s = self._with_request(s, life, sealed)
        return s, self._owned(self._conversation(s, life), sealed)

    def _end_in_archive(self, s: State, life: int, archived: Archived, ending: str) -> tuple[State, str]:
        if archived.state != OPEN and self.rules.end_once:
            return s, archived.state
        if archived.cancel and ending == COMPLETED and self.rules.cancel_is_archived:
            ending = CANCELLED
        if archived.state not in (OPEN, ending):
            s = broken(s, "4: the archive's ending is changed")
        return self._with_archived(s, life, archived._replace(state=ending)), ending

    def _runs_elsewhere(self, s: State, node: int, life: int, request: Request) -> bool:
        conversation = self._conversation(s, life)
        return any(
            other != node
            and s.alive[other]
            and task is not None
            and (task.gen, task.inc) == (request.gen, conversation.inc)
            and task.gen
            and task.at not in ("hand over", "ask", "reenter", "release", "unreserve")
            and conversation.leases & 1 << other
            for other, task in ((other, tasks[life]) for other, tasks in enumerate(s.tasks))
        )

    def _new_epoch(self, conversation: Conversation, life: int, n: int) -> dict[str, Any]:
        counts = [0 if request is None else request.n for request in conversation.requests]
        counts[life] = n
        return {"rand": 1 - conversation.rand, "base": tuple(counts), "log": ()}

    def _seen_is_lost(self, s: State, life: int) -> State:
        """Ghost: within a lease time after a loss a request is made anew that a living owner would have put back."""
        archived = self._archived(s, life)
        if self._conversation(s, life).is_grace and archived.state == OPEN:
            for tasks in s.tasks:
                task = tasks[life]
                if task is not None and task.n and task.op == archived.op and task.fence >= archived.fence:
                    return broken(s, "2: what was seen is lost although its owner lives")
        return s
