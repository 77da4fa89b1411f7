"""New entries to all followers of a conversation, in one loop and without waking anybody who is caught up.

The frame is made once per codec. Whoever is caught up and whose socket takes it gets it at once; whoever is not
catches up at its own pace in a task of its own (`Session.wake`), so a slow reader costs the others nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from turnwire_protocol import Codec, Entry
from turnwire_server.conversations.attendance import News
from turnwire_server.conversations.conversation import Conversation

from .follower import Place
from .framing import websocket_frame

# So many followers are told each what it does not know yet, when each was given the list at another moment.
_DIFFERENT_NEWS = 64


def flush(conversation: Conversation, epoch: str, entries: Sequence[Entry]) -> None:
    """Hand ``entries``, which follow each other without a hole, to the followers of ``conversation``."""
    before, last = entries[0].seq - 1, entries[-1].seq
    frames: dict[Codec, bytes] = {}
    for place in _places(conversation):
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
            message = codec.join([codec.encode_entry(entry) for entry in entries])
            frame = frames[codec] = websocket_frame(codec, message)
        if session.write_if_room(frame):
            place.seq = last
        else:
            place.live = False
            session.wake(place)


def look_again(conversation: Conversation, epoch: str, seq: int) -> None:
    """The log is at ``seq`` of ``epoch``, and not all of it came here: whoever is not there reads on."""
    for place in _places(conversation):
        if not place.held and (place.epoch != epoch or place.seq < seq):
            place.live = False
            place.session.wake(place)


def show_presence(conversation: Conversation, news: News) -> None:
    """Tell all followers who has come, gone or changed. Whoever is not caught up is told later how it is then."""
    shared: dict[tuple[int, Codec], bytes] = {}
    for place in _places(conversation):
        level, codec = news.level(place.attends_from), place.session.codec
        if level and len(shared) >= _DIFFERENT_NEWS:
            level = -1
        frame = shared.get((level, codec))
        if frame is None:
            message = news.message(conversation.ref.conversation_id, level)
            frame = b"" if message is None else websocket_frame(codec, codec.encode(message))
            shared[level, codec] = frame
        if not frame:
            continue
        if place.held or place.untold or not place.session.write_if_room(frame):
            place.untold |= news.users
            if not place.held:
                place.live = False
                place.session.wake(place)


def tell(conversation: Conversation, message: Any) -> None:
    """Write a message that is in no log to all followers."""
    for place in _places(conversation):
        place.session.send(message)


def _places(conversation: Conversation) -> tuple[Place, ...]:
    """All followers as they are now: the transport is the only one that follows."""
    return cast("tuple[Place, ...]", tuple(conversation.followers))
