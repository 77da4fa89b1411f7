"""New entries to all followers of a conversation, in one loop and without waking anybody who is caught up.

The frame is made once per codec. Whoever is caught up and whose socket takes it gets it at once; whoever is not
catches up at its own pace in a task of its own (`Session.wake`), so a slow reader costs the others nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from turnwire_protocol import Codec, Entry
from turnwire_server.conversations.conversation import Conversation

from .follower import Place


def flush(conversation: Conversation, epoch: str, entries: Sequence[Entry]) -> None:
    """Hand ``entries``, which follow each other without a hole, to the followers of ``conversation``."""
    before, last = entries[0].seq - 1, entries[-1].seq
    frames: dict[Codec, bytes] = {}
    for place in tuple(conversation.followers):
        assert isinstance(place, Place), "the transport is the only one that follows"
        session = place.session
        if place.held:
            continue
        if not place.live or place.seq != before or place.epoch != epoch or session.muted:
            place.live = False
            session.wake(place)
            continue
        frame = frames.get(session.codec)
        if frame is None:
            codec = session.codec
            frame = frames[codec] = codec.join([codec.encode_entry(entry) for entry in entries])
        if session.write_if_room(frame):
            place.seq = last
        else:
            place.live = False
            session.wake(place)


def look_again(conversation: Conversation, epoch: str, seq: int) -> None:
    """The log is at ``seq`` of ``epoch``, and not all of it came here: whoever is not there reads on."""
    for place in tuple(conversation.followers):
        assert isinstance(place, Place), "the transport is the only one that follows"
        if not place.held and (place.epoch != epoch or place.seq < seq):
            place.live = False
            place.session.wake(place)


def tell(conversation: Conversation, message: Any) -> None:
    """Write a message that is in no log to all followers."""
    for place in tuple(conversation.followers):
        assert isinstance(place, Place), "the transport is the only one that follows"
        place.session.send(message)
