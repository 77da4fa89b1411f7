"""Redis loses, and comes back: incarnation, doubt, rebuild; and the housekeeping that goes on all the time.

A loss and its discovery are one move: between the two every script is refused, so nothing can happen there.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.model.state import (
    FINISHED,
    NOBODY,
    OPEN,
    QUEUED,
    RUNNING,
    Conversation,
    Rebuilder,
    Record,
    Request,
    Saved,
    State,
)
from tests.model.stores import Move, Stores, broken


class Losses(Stores):
    """What Redis loses, and how the log is made whole again."""

    def _losses(self, s: State) -> Iterator[Move]:
        if s.saved is not None:
            records = s.records if s.saved.records is None else s.saved.records
            after = s._replace(records=records, saved=None)
            for index, saved in enumerate(s.saved.conversations):
                if saved is not None:
                    after = self._lose(after, index, saved)
            yield Move("Redis fails over: what was written since is lost", True, after)
            return
        if not s.budget.losses:
            return
        s = s._replace(budget=s.budget._replace(losses=s.budget.losses - 1))
        for target in self.config.losable:
            has_conversation, has_records = target != "records", target != "conversation"
            if self.config.rollback:
                replica = Saved(
                    s.conversations if has_conversation else (None,) * len(s.conversations),
                    s.records if has_records else None,
                )
                yield Move(f"from here on Redis writes of {target} will be lost", False, s._replace(saved=replica))
            if self.config.flush:
                after = s._replace(records=(Record(),) * len(s.records)) if has_records else s
                if has_conversation:
                    empty = self.config.start().conversations[0]
                    for index in range(len(s.conversations)):
                        after = self._lose(after, index, empty)
                yield Move(f"Redis loses everything of {target}", False, after)

    def _lose(self, s: State, index: int, left: Conversation) -> State:
        old = s.conversations[index]
        if not self.rules.loss_is_noticed:
            return self._with(s, index, left._replace(leases=0b11))
        left = left._replace(inc=old.inc + 1, is_ready=False, is_grace=True, leases=0b11)
        return self._with(s, index, left)

    def _recover(self, s: State, index: int) -> Iterator[Move]:
        conversation = s.conversations[index]
        if conversation.is_grace:
            after = self._with(s, index, conversation._replace(is_grace=False))
            yield Move("a lease time passes", True, after)
        if not conversation.is_ready:
            yield from self._rebuild(s, index, conversation)
        elif self.rules.doubt_sweeps and any(
            conversation.requests[life] is None for life, _, _ in self._open(s, index)
        ):
            doubt = conversation._replace(is_ready=False, is_grace=True)
            yield Move("the log does not know what is open in the archive: in doubt", True, self._with(s, index, doubt))
        if conversation.is_ready:
            yield from self._housekeep(s, index, conversation)

    def _open(self, s: State, index: int) -> Iterator[tuple[int, int, int]]:
        for archived in s.archive:
            if archived.state == OPEN and self.config.lives[archived.life].conversation == index:
                yield archived.life, archived.op, archived.fence

    def _rebuild(self, s: State, index: int, conversation: Conversation) -> Iterator[Move]:
        found = Rebuilder(index, conversation.inc, tuple(self._open(s, index)))
        if s.rebuilder is None:
            yield Move(f"a rebuild reads the archive: {len(found.found)} open", True, s._replace(rebuilder=found))
            return
        if s.rebuilder.conversation != index:
            return
        read, s = s.rebuilder, s._replace(rebuilder=None)
        if read.inc != conversation.inc:
            yield Move("the rebuild is refused: lost again", True, s)
            return
        unknown = [
            entry
            for entry in read.found
            if conversation.requests[entry[0]] is None or not self.rules.rebuild_leaves_known
        ]
        if unknown and conversation.is_grace and self.rules.rebuild_waits:
            if read != found:
                yield Move("the rebuild has to wait and read again", True, s)
            return
        for life, op, fence in unknown:
            s = self._enter(s, index, life, op, fence)
        ready = s.conversations[index]._replace(is_ready=True)
        yield Move(f"the rebuild enters {len(unknown)}: ready", True, self._with(s, index, ready))

    def _enter(self, s: State, index: int, life: int, op: int, fence: int) -> State:
        conversation = s.conversations[index]
        s = self._seen_is_lost(s, life)
        known = conversation.requests[life]
        if known is not None and self._runs_elsewhere(s, NOBODY, life, known):
            s = broken(s, "3: a turn is taken from a node that lives and holds its lease")
        waits = self._must_wait(conversation, life)
        entered = Request(
            phase=QUEUED if waits else RUNNING,
            owner=NOBODY,
            fence=fence,
            op=op,
            stamp=conversation.inc,
            gen=0,
            ordinal=self._archived(s, life).ordinal,
            has_floor=not waits,
        )
        return self._with_request(s, life, entered, **self._new_epoch(conversation, life, 0))

    def _housekeep(self, s: State, index: int, conversation: Conversation) -> Iterator[Move]:
        for life, request in enumerate(conversation.requests):
            if request is None or request.phase != FINISHED:
                continue
            if not request.archived:
                after, verdict = self._end_in_archive(s, life, self._archived(s, life), request.ending)
                if verdict != request.ending:
                    after = broken(after, "4: what was published is not the archive's ending")
                after = self._with_request(after, life, request._replace(archived=True))
                yield Move(f"the ending of request {self._call(life)} reaches the archive", True, after)
            elif s.budget.trims:
                budget = s.budget._replace(trims=s.budget.trims - 1)
                after = self._with_request(s, life, None)._replace(budget=budget)
                yield Move(f"request {self._call(life)} is trimmed", False, after)
