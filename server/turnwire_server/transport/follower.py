"""One connection's place in one conversation, and where a client that comes with a cursor belongs. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from turnwire_protocol import Cursor, Verdict
from turnwire_server.conversations.conversation import Conversation
from turnwire_server.eventlog.base import Position

from .speech import Speech

if TYPE_CHECKING:
    from .session import Session


class Place:
    """``seq`` is the last seq that was sent. ``live`` means: ready frames may be written without a look at the log.

    ``held`` keeps everything back until the answer that announces the events has been written. With
    ``wants_snapshot`` the client cannot be served from where it is and gets the whole state. ``attends_from`` is the
    change of who is present up to which the client knows; ``untold`` are users of whom it could not be told later ones.
    With ``speech`` it gets segments as well, and is never ``live``: they are made where it catches up, so that nobody
    else pays for them.
    """

    __slots__ = (
        "attends_from",
        "conversation",
        "epoch",
        "held",
        "live",
        "releasing",
        "seq",
        "session",
        "speech",
        "untold",
        "wants_snapshot",
    )

    def __init__(self, session: Session, conversation: Conversation) -> None:
        self.session = session
        self.conversation = conversation
        self.epoch = ""
        self.seq = 0
        self.held = True
        self.live = False
        self.wants_snapshot = False
        self.attends_from = 0
        self.untold: frozenset[str] = frozenset()
        self.speech: Speech | None = None
        self.releasing = False

    def __repr__(self) -> str:
        state = "held" if self.held else "live" if self.live else "behind"
        return f"<Place {self.conversation.ref.conversation_id} {self.epoch}/{self.seq} {state}>"

    @property
    def user_id(self) -> str:
        return self.session.principal.user_id

    @property
    def instance_id(self) -> str | None:
        return self.session.instance_id


@dataclass(frozen=True, slots=True)
class Placed:
    """The fields of every answer with a verdict (SPEC section 3)."""

    epoch: str
    seq: int
    verdict: Verdict
    missed: int | None = None


def judge(since: Cursor | None, position: Position, replay_entries: int) -> Placed:
    """What a client with this cursor gets: nothing missed, a replay, or a snapshot."""
    if (
        since is None
        or since.epoch != position.epoch
        or not position.trimmed <= since.seq <= position.seq
        or position.seq - since.seq > replay_entries
    ):
        return Placed(position.epoch, position.seq, "snapshot")
    missed = position.seq - since.seq
    if missed == 0:
        return Placed(position.epoch, position.seq, "live")
    return Placed(position.epoch, position.seq, "replayed", missed)
