"""The steps of a life, one method each, in the order in which a request goes through them.

Each looks at what its task knows and at the stores, changes the stores at one stroke, and says how the task goes on
once it has the answer. Whether the answer comes is not its business.
"""

from __future__ import annotations

from typing import Any

from tests.model.state import (
    CANCELLED,
    COMPLETED,
    CREATED,
    FINISHED,
    INCOMPLETE,
    LIVE,
    NOBODY,
    OPEN,
    QUEUED,
    RUNNING,
    SEALED,
    WORK,
    Conversation,
    Request,
    State,
    Task,
)
from tests.model.stores import CLAIM_FENCE, MOST_FENCE, Done, Stores, broken, replaced


class Steps(Stores):
    """Each step of a task: ``_step(state, node, life, task)``. None means that it is not answered now."""

    # --- the beginning of a life ---------------------------------------------------------------------------

    def _reserve(self, s: State, node: int, life: int, task: Task) -> Done | None:
        index = self.config.lives[life].request
        record = s.records[index]
        if record.life not in (NOBODY, life) and self.rules.reserve_compares:
            return Done(s, None, "held by other content: refused")
        if record.life != life:
            s = s._replace(records=replaced(s.records, index, record._replace(life=life, op=task.op)))
        return Done(s, task._replace(at="claim"), "done")

    def _claim(self, s: State, node: int, life: int, task: Task) -> Done | None:
        conversation = self._conversation(s, life)
        if not conversation.is_ready and self.rules.doubt_refuses_claims:
            return None
        if self.rules.release_buries and conversation.dead_ops & 1 << task.op:
            return Done(s, None, "released before: refused")
        request = conversation.requests[life]
        if request is not None and self.rules.claim_finds_first:
            is_mine = request.op == task.op
            if self.rules.claim_names_its_fence:
                is_mine &= request.owner == node and request.fence == CLAIM_FENCE
            if not is_mine:
                return Done(s, None, "another's: attaches")
        else:
            s, gen = self._owns_anew(self._seen_is_lost(s, life), life)
            waits = self._must_wait(conversation, life)
            request = Request(
                phase=QUEUED if waits else RUNNING,
                owner=node,
                fence=CLAIM_FENCE,
                op=task.op,
                stamp=conversation.inc,
                gen=gen,
                ordinal=1 + max([conversation.ordinal, *(entry.ordinal for entry in self._in_archive(s, life))]),
                has_floor=not waits,
            )
            s = self._with_request(s, life, request, ordinal=request.ordinal)
        owned = self._owned(conversation, request)._replace(taker=False, at="look")
        if not self.rules.claim_looks_again:
            owned = owned._replace(at="archive")
        return Done(s, owned, request.phase)

    def _look(self, s: State, node: int, life: int, task: Task) -> Done | None:
        """Read the record after the request is there: recorded cancels, and put it back if it was lost."""
        index = self.config.lives[life].request
        record = s.records[index]
        kept = record._replace(life=life, op=task.op) if record.life in (NOBODY, life) else record
        s = s._replace(records=replaced(s.records, index, kept))
        if record.cancel:
            return Done(s, task._replace(at="put", heard=True), "finds a recorded cancel")
        after = task._replace(at="archive") if self.rules.archive_before_append else self._onward(task)
        return Done(s, after, "no cancel is recorded")

    def _put(self, s: State, node: int, life: int, task: Task) -> Done | None:
        conversation = self._conversation(s, life)
        standing = self._standing(conversation, node, life, task)
        if standing != "mine":
            return self._lost(s, life, task, standing)
        request = conversation.requests[life]
        assert request is not None
        return Done(self._with_request(s, life, request._replace(inbox=True)), task._replace(at="archive"), "done")

    def _archive(self, s: State, node: int, life: int, task: Task) -> Done | None:
        """Insert once, with the own fence; a taker leaves its in any case. It hears of cancels and of an ending."""
        archived = self._archived(s, life)
        if archived.op == NOBODY or not self.rules.archive_is_unique:
            if any(entry.ordinal == task.ordinal for entry in self._in_archive(s, life)):
                if self.rules.archive_orders:
                    return Done(s, task._replace(at="release"), "the archive has another of its ordinal")
                s = broken(s, "1: two requests have one place in a conversation")
            archived = archived._replace(
                life=life, op=task.op, state=OPEN, ordinal=task.ordinal, fence=task.fence, holder=node
            )
            if s.refused & 1 << task.op:
                s = broken(s, "3: a create that was refused is carried out")
        elif (archived.op, archived.life) != (task.op, life):
            if task.taker and not self.rules.release_strange:
                return Done(s, None, "the archive has another's: it stops")
            return Done(s, task._replace(at="release"), "the archive has another's")
        if task.taker and self.rules.take_over_asks:
            if archived.fence > task.fence or (archived.fence == task.fence and archived.holder not in (NOBODY, node)):
                return Done(s, None, "the archive knows a later owner")
            archived = archived._replace(fence=task.fence, holder=node)
        s = self._with_archived(s, life, archived)
        heard = task.heard or (archived.cancel and self.rules.cancel_is_archived)
        ending = archived.state if archived.state != OPEN and self.rules.take_over_asks else ""
        return Done(s, self._onward(task._replace(heard=heard, ending=ending)), archived.state)

    # --- the middle ----------------------------------------------------------------------------------------

    def _append(self, s: State, node: int, life: int, task: Task, event: str) -> Done:
        conversation = self._conversation(s, life)
        standing = self._standing(conversation, node, life, task)
        request = conversation.requests[life]
        if request is not None and request.phase not in (RUNNING, QUEUED):
            standing = "fenced"
        if standing != "mine":
            return self._lost(s, life, task, standing)
        assert request is not None
        heard = task.heard or request.inbox
        after = task._replace(n=task.n + 1, heard=heard)
        if request.n > task.n and self.rules.append_skips:
            return Done(s, after, "is there already")
        s = self._writes(s, life, task.gen)
        archived = self._archived(s, life)
        if (archived.life, archived.op) != (life, request.op):
            s = broken(s, "3: events of a request that the archive does not own")
        s = self._with_request(s, life, request._replace(n=task.n + 1), log=(*conversation.log, (life, event)))
        return Done(s, after, "written")

    def _created(self, s: State, node: int, life: int, task: Task) -> Done | None:
        done = self._append(s, node, life, task, CREATED)
        if done.task is None or done.task.at != "created":
            return done
        after: Task | None = self._onward(done.task)
        if task.queued:
            after = done.task._replace(at="seal queued") if done.task.heard else None
        return done._replace(task=after)

    def _work(self, s: State, node: int, life: int, task: Task) -> Done | None:
        done = self._append(s, node, life, task, WORK)
        if done.task is None or done.task.at != "work":
            return done
        runs_tool = self.config.has_tool and self.rules.effect_told and not done.task.heard
        at = "effect" if runs_tool else "seal"
        return done._replace(task=done.task._replace(at=at))

    def _effect(self, s: State, node: int, life: int, task: Task) -> Done | None:
        """Ask the archive for the only right to run the tool."""
        archived = self._archived(s, life)
        if self.rules.effect_marked:
            if archived.effect not in (NOBODY, task.gen):
                return Done(s, task._replace(at="seal", ending=INCOMPLETE), "the tool may have run before")
            s = self._with_archived(s, life, archived._replace(effect=task.gen))
        return Done(s, task._replace(at="run tool"), "granted")

    def _run_tool(self, s: State, node: int, life: int, task: Task) -> Done | None:
        runs = s.executions[life] + 1
        s = s._replace(executions=replaced(s.executions, life, runs))
        if runs > 1:
            s = broken(s, "11: a tool with side effects runs twice")
        return Done(s, task._replace(at="seal" if task.n > 1 else "work"), "it runs")

    # --- the ending ----------------------------------------------------------------------------------------

    def _seal(self, s: State, node: int, life: int, task: Task) -> Done | None:
        conversation = self._conversation(s, life)
        standing = self._standing(conversation, node, life, task)
        request = conversation.requests[life]
        if request is not None and request.phase not in (RUNNING, SEALED):
            standing = "fenced"
        if standing != "mine":
            return self._lost(s, life, task, standing)
        assert request is not None
        if request.ending:
            return Done(s, task._replace(at="end", ending=request.ending), f"sealed as {request.ending} before")
        draft = CANCELLED if task.heard else task.ending or COMPLETED
        if request.inbox and not task.heard and self.rules.seal_hears:
            return Done(s, task._replace(heard=True), "unheard: there is a cancel")
        s = self._writes(s, life, task.gen)
        s = self._with_request(s, life, request._replace(phase=SEALED, ending=draft))
        return Done(s, task._replace(at="end", ending=draft), draft)

    def _seal_queued(self, s: State, node: int, life: int, task: Task) -> Done | None:
        """A queued request with a cancel: whoever showed it ends it, unless it was promoted."""
        conversation = self._conversation(s, life)
        request = conversation.requests[life]
        if request is None or request.phase != QUEUED or self._standing(conversation, node, life, task) != "mine":
            return Done(s, None, "it is another's")
        s, ended = self._end_queued(s, life, request, node)
        return Done(s, ended, "cancelled")

    def _end(self, s: State, node: int, life: int, task: Task) -> Done | None:
        """The ending in the archive: the first one stands, and a cancel that is there beats `completed`."""
        archived = self._archived(s, life)
        s, verdict = self._end_in_archive(s, life, archived, task.ending)
        ending = verdict if self.rules.finish_asks_archive else task.ending
        return Done(s, task._replace(at="finish", ending=ending, back=""), verdict)

    def _finish(self, s: State, node: int, life: int, task: Task) -> Done | None:
        conversation = self._conversation(s, life)
        request = conversation.requests[life]
        is_done = request is not None and request.phase == FINISHED and request.fence == task.fence
        if is_done and self.rules.finish_recognised:
            return Done(s, None, "finished before", self._handed_out(s, conversation, node))
        standing = self._standing(conversation, node, life, task)
        if request is not None and request.phase not in (SEALED, FINISHED):
            standing = "fenced"
        if standing != "mine":
            return self._lost(s, life, task, standing)
        assert request is not None
        is_archived = task.back != "unarchived"
        if is_archived and self._archived(s, life).state != task.ending:
            s = broken(s, "4: what is published is not the archive's ending")
        s = self._writes(s, life, task.gen)
        finished = request._replace(
            phase=FINISHED, n=request.n + 1, ending=task.ending, has_floor=False, archived=is_archived
        )
        s = self._with_request(s, life, finished, log=(*conversation.log, (life, task.ending)))
        begun: tuple[tuple[int, Task], ...] = ()
        if self.rules.finish_promotes:
            s, begun = self._promote(s, self.config.lives[life].conversation, node)
        return Done(s, None, "done", begun)

    def _handed_out(self, s: State, conversation: Conversation, node: int) -> tuple[tuple[int, Task], ...]:
        """The successor again, as the lost answer said, while it stands as it was handed out."""
        for life, request in enumerate(conversation.requests):
            if (
                request is not None
                and (request.phase, request.owner, request.stamp) == (RUNNING, node, conversation.inc)
                and request.n < 2
                and s.tasks[node][life] is None
            ):
                return ((life, self._owned(conversation, request)),)
        return ()

    # --- ownership -----------------------------------------------------------------------------------------

    def _take_over(self, s: State, node: int, life: int) -> Done | None:
        rules, conversation = self.rules, self._conversation(s, life)
        request = conversation.requests[life]
        if request is None or request.phase not in LIVE or not conversation.is_ready or conversation.is_grace:
            return None
        if request.fence >= MOST_FENCE or (request.phase == QUEUED and request.n > 0):
            return None  # whoever finishes the one before starts it
        owner = request.owner
        is_alone = owner == NOBODY or not s.alive[owner] or not conversation.leases & 1 << owner
        if owner == node:
            if not (rules.take_over_own or is_alone):
                return None
        elif not is_alone and rules.take_over_waits:
            return None
        if self._runs_elsewhere(s, node, life, request):
            s = broken(s, "3: a turn is taken from a node that lives and holds its lease")
        s, gen = self._owns_anew(s, life)
        fence = request.fence + 1 if rules.take_over_raises else request.fence
        taken = request._replace(owner=node, fence=fence, stamp=conversation.inc, gen=gen)
        s = self._with_request(s, life, taken)
        return Done(s, self._owned(conversation, taken))

    def _hand_over(self, s: State, node: int, life: int, task: Task) -> Done | None:
        conversation = self._conversation(s, life)
        request = conversation.requests[life]
        standing = self._standing(conversation, node, life, task)
        if request is not None and not self.rules.hand_over_fenced:
            standing = "mine"
        if standing == "mine" and request is not None and request.phase in LIVE:
            return Done(self._with_request(s, life, request._replace(owner=NOBODY)), None, "done")
        return self._lost(s, life, task, standing) if standing == "forgotten" else Done(s, None, "fenced")

    def _ask(self, s: State, node: int, life: int, task: Task) -> Done | None:
        """Before a re-entry: has somebody else had it meanwhile, has it ended?"""
        archived = self._archived(s, life)
        if archived.fence > task.fence or (archived.fence == task.fence and archived.holder not in (NOBODY, node)):
            return Done(s, None, "the archive knows a later owner")
        if archived.state != OPEN:
            return Done(s, None, f"it has ended: {archived.state}")
        return Done(s, task._replace(at="reenter", heard=task.heard or archived.cancel), OPEN)

    def _reenter(self, s: State, node: int, life: int, task: Task) -> Done | None:
        rules, conversation = self.rules, self._conversation(s, life)
        if task.inc != conversation.inc and rules.reenter_asks_again:
            return Done(s, task._replace(at="ask", inc=conversation.inc), "lost again")
        request = conversation.requests[life]
        after = task._replace(at=task.back, back="")
        if request is None:
            if conversation.is_ready and rules.reenter_in_doubt:
                return Done(s, None, "fenced: the log is rebuilt")
        elif rules.reenter_yields:
            if request.stamp == conversation.inc:
                if (request.owner, request.fence) == (node, task.fence):
                    return Done(s, after, "is back already")
                return Done(s, None, "fenced")
            if request.fence > task.fence or request.phase == FINISHED:
                return Done(s, None, "fenced")
        if rules.reenter_one_floor:
            floor = self._floor_for(conversation, life)
            if floor is None:
                return Done(self._seen_is_lost(s, life), None, "fenced: another has the floor")
            s = self._with(s, self.config.lives[life].conversation, floor)
            conversation = floor
        back = Request(
            phase=RUNNING,
            owner=node,
            fence=task.fence,
            op=task.op,
            stamp=conversation.inc,
            gen=task.gen,
            ordinal=task.ordinal,
            n=task.n,
            inbox=task.heard or (request is not None and request.inbox),
        )
        s = self._writes(s, life, task.gen)
        changes: dict[str, Any] = {
            "base": replaced(conversation.base, life, task.n),
            "ordinal": max(conversation.ordinal, task.ordinal),
        }
        if rules.reenter_new_epoch:
            changes |= self._new_epoch(conversation, life, task.n)
        return Done(self._with_request(s, life, back, **changes), after, "back, in a new epoch")

    def _floor_for(self, conversation: Conversation, life: int) -> Conversation | None:
        """Free the floor for a request that had it before the loss; None when it has been given away since.

        Who else has the floor in what is left of the log has lost it in what was lost. If it has been shown it has
        ended, and the archive will say so. If not it was released, or not: it waits.
        """
        requests = conversation.requests
        for other, request in enumerate(requests):
            if other == life or request is None or request.phase not in LIVE or not request.has_floor:
                continue
            if request.stamp == conversation.inc:
                return None
            if request.n == 0:
                requests = replaced(requests, other, request._replace(phase=QUEUED, has_floor=False))
        return conversation._replace(requests=requests)

    def _release(self, s: State, node: int, life: int, task: Task) -> Done | None:
        conversation = self._conversation(s, life)
        after = None if task.taker else task._replace(at="unreserve")
        if self.rules.release_buries:
            index = self.config.lives[life].conversation
            s = self._with(s, index, conversation._replace(dead_ops=conversation.dead_ops | 1 << task.op))
        request = conversation.requests[life]
        if request is None or request.phase not in (RUNNING, QUEUED):
            return Done(s, after, "nothing is there")
        if self.rules.release_own and (request.op, request.fence) != (task.op, task.fence or CLAIM_FENCE):
            return Done(s, after, "it is another's")
        if request.n:
            if self.rules.release_unshown:
                return Done(s, after, "it was shown")
            s = broken(s, "2: a request that was shown vanishes")
        if any(
            task and task.op == request.op and task.at == "created" and not task.taker for task in self._all(s, life)
        ):
            s = broken(s, "4: a create that is being acknowledged loses its turn")
        s = self._with_request(s, life, None)
        s, begun = self._promote(s, self.config.lives[life].conversation, node)
        return Done(s, after, "done", begun)

    def _unreserve(self, s: State, node: int, life: int, task: Task) -> Done | None:
        index = self.config.lives[life].request
        record = s.records[index]
        if record.op == task.op:
            s = s._replace(records=replaced(s.records, index, record._replace(life=NOBODY, op=NOBODY)))
        return Done(s, None, "done")
