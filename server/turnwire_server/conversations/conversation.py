"""One conversation as this node knows it while somebody follows it or something runs in it.

A cache and a meeting point, nothing that must survive: the record (for roles), the tail of the log, the followers
and the turns that run here. New entries come from the log, whoever wrote them; each is handed to the flush of the
transport once, which serves all followers. It knows no WebSockets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from turnwire_protocol import Entry
from turnwire_server.archive.base import ConversationRecord
from turnwire_server.eventlog.base import ConversationRef
from turnwire_server.eventlog.tail import Tail, TailBudget

from .attendance import Attendance
from .turn import Turn


class Follower(Protocol):
    """A connection's place in this conversation. The transport owns it; here it is only counted."""

    @property
    def user_id(self) -> str: ...

    @property
    def instance_id(self) -> str | None: ...


class Conversation:
    """Made by `ConversationHub`; alive while it has followers, turns or pins."""

    __slots__ = ("_budget", "_tail_bytes", "attendance", "followers", "pins", "record", "ref", "tail", "turns")

    def __init__(self, ref: ConversationRef, tail_bytes: int, budget: TailBudget) -> None:
        self.ref = ref
        self.record: ConversationRecord | None = None
        self.attendance = Attendance()
        self.followers: dict[Follower, None] = {}
        self.turns: dict[str, Turn] = {}
        self.pins = 0
        self.tail: Tail | None = None
        self._tail_bytes = tail_bytes
        self._budget = budget

    def __repr__(self) -> str:
        return f"<Conversation {self.ref.conversation_id} followers={len(self.followers)} turns={len(self.turns)}>"

    @property
    def is_idle(self) -> bool:
        return not (self.followers or self.turns or self.pins)

    def received(self, epoch: str, entries: Sequence[Entry]) -> Sequence[Entry]:
        """New entries from the log; returns those that are new here, for the followers."""
        if not self.followers:
            return ()
        if self.tail is None:
            self.tail = Tail(epoch, entries[0].seq - 1, self._tail_bytes, self._budget)
        return self.tail.extend(epoch, entries)

    def begin_tail(self, epoch: str, seq: int) -> Tail:
        """The tail, beginning at ``seq`` when there was none."""
        if self.tail is None:
            self.tail = Tail(epoch, seq, self._tail_bytes, self._budget)
        return self.tail

    def positioned(self, epoch: str, seq: int) -> bool:
        """The log ends there; True when not all of it was heard here."""
        if not self.followers or self.tail is None or (self.tail.epoch == epoch and self.tail.end >= seq):
            return False
        self.tail.missed(epoch, seq)
        return True

    def drop_tail(self) -> None:
        """Nobody follows any more."""
        if self.tail is not None:
            self.tail.clear()
            self.tail = None

    def is_present(self, user_id: str) -> bool:
        """Whether a connection of this user follows here."""
        return self.attendance.is_here(user_id)
