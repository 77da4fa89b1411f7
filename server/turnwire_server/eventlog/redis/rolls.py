"""Who follows a conversation on each node, as the scripts keep it and pub/sub carries it. Pure.

An attendee is packed as ``[age in ms or -1, state as JSON or empty, instances]``; Redis turns the age into a time of
its own clock, so that what two nodes said can be compared although their clocks differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgpack  # type: ignore[import-untyped]
import orjson

from turnwire_server.eventlog.base import Attendee, ConversationRef, Roll

from .scripts import Argument

Raw = Sequence[Any]


def rolls_said(ref: ConversationRef, base: int | None, roll: Roll) -> list[Argument]:
    """The arguments of ``announce.lua`` for one conversation."""
    users = [
        [
            a.user_id,
            -1 if a.age_s is None else int(a.age_s * 1000),
            b"" if a.state is None else orjson.dumps(a.state),
            list(a.instances),
        ]
        for a in roll.attendees
    ]
    return [
        f"{ref.tenant_id}/{ref.conversation_id}",
        "" if base is None else base,
        roll.version,
        # The old raw type for all: Lua's strings are bytes.
        msgpack.packb(users, use_bin_type=False),
        msgpack.packb(list(roll.left), use_bin_type=False),
    ]


def versions_of(answer: Raw) -> Mapping[str, int]:
    """The nodes of one conversation and their versions."""
    return {answer[i].decode(): int(answer[i + 1]) for i in range(0, len(answer), 2)}


def rolls_of(answer: Raw) -> Mapping[str, Roll]:
    """What ``present.lua`` answers: node, version, its users as ``user, packed attendee, …``, ms until it lapses."""
    return {
        node.decode(): Roll(
            int(version),
            [attendee_of(flat[i], *msgpack.unpackb(flat[i + 1], raw=True)) for i in range(0, len(flat), 2)],
            left_s=int(left_ms) / 1000,
        )
        for node, version, flat, left_ms in answer
    }


def roll_heard(version: Any, users: bytes, left: bytes) -> Roll:
    """What ``announce.lua`` has published."""
    return Roll(
        int(version),
        [attendee_of(*user) for user in msgpack.unpackb(users, raw=True)],
        [user.decode() for user in msgpack.unpackb(left, raw=True)],
    )


def attendee_of(user: bytes, age_ms: Any, state: bytes, instances: Raw) -> Attendee:
    age = int(age_ms)
    return Attendee(
        user.decode(),
        orjson.loads(state) if state else None,
        None if age < 0 else age / 1000,
        tuple(instance.decode() for instance in instances),
    )
