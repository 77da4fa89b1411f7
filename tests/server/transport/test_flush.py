"""New entries reach those who stand right before them, in the same epoch; all others look at the log themselves."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from turnwire_protocol import JSON, Entry, MemberChanged
from turnwire_server.conversations.conversation import Conversation
from turnwire_server.eventlog.base import ConversationRef
from turnwire_server.eventlog.tail import TailBudget
from turnwire_server.transport.flush import flush, look_again, show_presence
from turnwire_server.transport.follower import Place


class Taking:
    """A session that takes every frame. Unrealistic in that it never falls behind by itself."""

    def __init__(self, user: str = "ann") -> None:
        self.codec = JSON
        self.muted: frozenset[str] = frozenset()
        self.frames: list[bytes] = []
        self.woken: list[Place] = []
        self.has_room = True
        self.instance_id = None
        self.principal: Any = SimpleNamespace(user_id=user)

    def write_if_room(self, frame: bytes) -> bool:
        if self.has_room:
            self.frames.append(frame)
        return self.has_room

    def wake(self, place: Place) -> None:
        self.woken.append(place)


def message(frame: bytes) -> Any:
    """What a frame holds behind its head (RFC 6455, 5.2)."""
    return orjson.loads(frame[{126: 4, 127: 10}.get(frame[1], 2) :])


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


def attended(*users: str) -> tuple[Conversation, list[Place], list[Any]]:
    conversation = Conversation(ConversationRef("acme", "talk"), 1000, TailBudget(1000))
    places = []
    for user in users:
        session: Any = Taking(user)
        place = Place(session, conversation)
        place.held = False
        conversation.followers[place] = None
        conversation.attendance.came(place)
        place.attends_from = conversation.attendance.changes
        places.append(place)
    return conversation, places, [place.session for place in places]


def test_each_is_told_who_came_after_it_and_who_stands_alike_gets_the_same_frame() -> None:
    conversation, _, sessions = attended("ann", "bob", "eve")
    show_presence(conversation, conversation.attendance.news())
    said = [[one["user_id"] for frame in session.frames for one in message(frame)["joined"]] for session in sessions]
    assert said == [["bob", "eve"], ["eve"], []]
    conversation.attendance.says(next(iter(conversation.followers)), "types", 1)  # type: ignore[arg-type]
    show_presence(conversation, conversation.attendance.news())
    assert len({id(session.frames[-1]) for session in sessions}) == 1


def test_who_has_no_room_or_waits_for_its_answer_is_told_later_how_it_is_then() -> None:
    conversation, (ann, bob, _), sessions = attended("ann", "bob", "eve")
    sessions[0].has_room, bob.held = False, True
    show_presence(conversation, conversation.attendance.news())
    assert ann.untold >= {"bob", "eve"}
    assert "eve" in bob.untold
    assert sessions[0].woken == [ann]
    assert sessions[1].woken == []
    conversation.attendance.says(bob, 7, 1)
    latest = conversation.attendance.latest("talk", ann.untold - {"ann"})
    assert {(one.user_id, one.state) for one in latest.changed} == {("bob", 7), ("eve", None)}


def test_in_a_storm_some_are_told_what_they_know_rather_than_each_by_itself() -> None:
    conversation, _, sessions = attended(*(f"u{number}" for number in range(200)))
    show_presence(conversation, conversation.attendance.news())
    assert len({id(session.frames[-1]) for session in sessions if session.frames}) <= 65
