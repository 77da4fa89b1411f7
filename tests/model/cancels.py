"""A cancel on its way: the record of the id, the inbox of the turn, the archive, the acknowledgement.

Whoever carries it may stop anywhere; nothing waits for it. Only a cancel that ends a queued request needs a node, which
then carries the ending out.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.model.state import (
    CANCELLED,
    FINISHED,
    NOBODY,
    OPEN,
    QUEUED,
    SEALED,
    Cancel,
    State,
)
from tests.model.stores import Move, Stores, replaced


class Cancels(Stores):
    """One client that may cancel each request once, at any moment."""

    def _cancel(self, s: State, request: int) -> Iterator[Move]:
        cancel = s.cancels[request]
        name = f"cancel of request {request}"
        match cancel.at:
            case "":
                first = "record" if self.rules.cancel_writes_first else "look first"
                yield Move(f"a client sends a {name}", False, self._with_cancel(s, request, cancel._replace(at=first)))
            case "record" | "look first":
                yield self._record(s, request, cancel)
            case "record late":
                record = s.records[request]._replace(cancel=True)
                s = s._replace(records=replaced(s.records, request, record))
                yield Move(f"{name}: recorded", True, self._posted(s, request, cancel))
            case "post" | "post again":
                yield from self._post(s, request, cancel)
            case "archive":
                yield self._archive_cancel(s, request, cancel)
                if self.config.is_slow and not cancel.is_acknowledged:
                    after = self._with_cancel(s, request, cancel._replace(is_acknowledged=True))
                    yield Move(f"{name}: acknowledged, the archive does not answer in time", True, after)

    def _with_cancel(self, s: State, request: int, cancel: Cancel) -> State:
        return s._replace(cancels=replaced(s.cancels, request, cancel))

    def _record(self, s: State, request: int, cancel: Cancel) -> Move:
        record = s.records[request]
        if cancel.at == "record":
            s = s._replace(records=replaced(s.records, request, record._replace(cancel=True)))
        name = f"cancel of request {request}: {'recorded' if cancel.at == 'record' else 'looks'}"
        if record.life != NOBODY:
            after = cancel._replace(at="post", life=record.life)
            return Move(f"{name}, its conversation is known", True, self._with_cancel(s, request, after))
        if cancel.at == "look first":
            return Move(f"{name}, unknown", True, self._with_cancel(s, request, cancel._replace(at="record late")))
        return Move(f"{name}, unknown", True, self._posted(s, request, cancel))

    def _posted(self, s: State, request: int, cancel: Cancel) -> State:
        """The log has been told. Then the archive, then the client."""
        if self.rules.cancel_is_archived:
            return self._with_cancel(s, request, cancel._replace(at="archive"))
        if s.archive[request].state not in ("", OPEN, CANCELLED):  # at least it was looked at
            return self._with_cancel(s, request, cancel._replace(at="done"))
        return self._with_cancel(s, request, cancel._replace(at="done", is_acknowledged=True))

    def _post(self, s: State, number: int, cancel: Cancel) -> Iterator[Move]:
        life = cancel.life
        conversation = self._conversation(s, life)
        request = conversation.requests[life]
        name = f"{cancel.at} of the cancel of request {self._call(life)}"
        done = self._acknowledged(s, number, cancel) if cancel.at == "post again" else None
        if request is None:
            if not self.rules.cancel_writes_first and cancel.at == "post":
                after = self._with_cancel(s, number, cancel._replace(at="record late"))
                yield Move(f"{name}: not there yet", True, after)
                return
            yield Move(f"{name}: not there", True, done or self._posted(s, number, cancel))
            return
        if request.phase in (SEALED, FINISHED) and self.rules.post_settles:
            if request.ending == CANCELLED:
                yield Move(f"{name}: already cancelled", True, done or self._posted(s, number, cancel))
            else:
                after = self._with_cancel(s, number, cancel._replace(at="done"))
                yield Move(f"{name}: already {request.ending}", True, after)
            return
        heard = cancel._replace(inc=conversation.inc)
        if request.phase == QUEUED and request.n:
            for node, is_alive in enumerate(s.alive):
                if is_alive and s.tasks[node][life] is None:
                    ended, task = self._end_queued(s, life, request, node)
                    ended = self._with_task(ended, node, life, task)
                    after = self._acknowledged(ended, number, heard) if done else self._posted(ended, number, heard)
                    yield Move(f"{name}: ended in the queue by {'AB'[node]}", True, after)
            return
        if self.rules.post_stores:
            s = self._with_request(s, life, request._replace(inbox=True))
        after = self._acknowledged(s, number, heard) if done else self._posted(s, number, heard)
        yield Move(f"{name}: stored", True, after)

    def _acknowledged(self, s: State, request: int, cancel: Cancel) -> State:
        return self._with_cancel(s, request, cancel._replace(at="done", is_acknowledged=True))

    def _archive_cancel(self, s: State, request: int, cancel: Cancel) -> Move:
        archived = s.archive[request]
        name = f"cancel of request {request} goes to the archive"
        if archived.state not in ("", OPEN):
            done = cancel._replace(at="done", is_acknowledged=cancel.is_acknowledged or archived.state == CANCELLED)
            return Move(f"{name}: already {archived.state}", True, self._with_cancel(s, request, done))
        s = s._replace(archive=replaced(s.archive, request, archived._replace(cancel=True)))
        if archived.life != NOBODY and (
            cancel.life != archived.life or cancel.inc != self._conversation(s, archived.life).inc
        ):
            after = self._with_cancel(s, request, cancel._replace(at="post again", life=archived.life))
            return Move(f"{name}: the log must be told (again)", True, after)
        return Move(f"{name}: acknowledged", True, self._acknowledged(s, request, cancel))
