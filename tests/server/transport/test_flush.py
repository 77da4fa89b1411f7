"""New entries reach those who stand right before them, in the same epoch; all others look at the log themselves."""

from __future__ import annotations

from typing import Any

import pytest

from turnwire_protocol import JSON, Entry, MemberChanged
from turnwire_server.conversations.conversation import Conversation
from turnwire_server.eventlog.base import ConversationRef
from turnwire_server.eventlog.tail import TailBudget
from turnwire_server.transport.flush import flush, look_again
from turnwire_server.transport.follower import Place


class Taking:
    """A session that takes every frame. Unrealistic in that it never falls behind by itself."""

    def __init__(self) -> None:
        self.codec = JSON
        self.muted: frozenset[str] = frozenset()
        self.frames: list[bytes] = []
        self.woken: list[Place] = []

    def write_if_room(self, frame: bytes) -> bool:
        self.frames.append(frame)
        return True

    def wake(self, place: Place) -> None:
        self.woken.append(place)


def followed(epoch: str, seq: int) -> tuple[Conversation, Place, Any]:
    conversation = Conversation(ConversationRef("acme", "talk"), 1000, TailBudget(1000))
    session: Any = Taking()
    place = Place(session, conversation)
    place.epoch, place.seq, place.held, place.live = epoch, seq, False, True
    conversation.followers[place] = None
    return conversation, place, session


def entry(seq: int) -> Entry:
    return Entry.of(MemberChanged(conversation_id="talk", user_id="bob", role="viewer", by="ann"), seq, 1)


def test_who_stands_right_before_gets_the_frame() -> None:
    conversation, place, session = followed("e1", 4)
    flush(conversation, "e1", [entry(5), entry(6)])
    assert (len(session.frames), session.woken, place.seq) == (1, [], 6)


@pytest.mark.parametrize(("epoch", "seq"), [("e0", 4), ("e1", 3), ("e1", 7)])
def test_who_stands_elsewhere_looks_at_the_log(epoch: str, seq: int) -> None:
    """In another epoch the same seq is another place."""
    conversation, place, session = followed(epoch, seq)
    flush(conversation, "e1", [entry(5)])
    assert (session.frames, session.woken, place.seq, place.live) == ([], [place], seq, False)


@pytest.mark.parametrize(("epoch", "seq", "is_woken"), [("e1", 5, False), ("e1", 4, True), ("e0", 5, True)])
def test_a_log_that_is_elsewhere_wakes_who_is_not_there(epoch: str, seq: int, is_woken: bool) -> None:
    conversation, place, session = followed(epoch, seq)
    look_again(conversation, "e1", 5)
    assert session.woken == ([place] if is_woken else [])
