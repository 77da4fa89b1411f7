"""Who is present in one conversation, and what has changed of that since its followers were last told. Pure.

A user is present who follows it on any connection, on any node; once, with the newest state that one of the
connections has said. What other nodes announce comes in whole or as changes; times are seconds of this node's own
clock, converted where they come in. Changes are numbered, so that a follower who was given the list in between is
told only what came after it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from turnwire_protocol import Presence, PresenceChanged
from turnwire_server.eventlog.base import Attendee, Roll

NEWS_BYTES = 65_536
"""Most bytes of states in one `presence.changed`; the rest waits for the next one."""
LIST_BYTES = 262_144
"""Most bytes of states in a list of who is present; the oldest are left out beyond it."""


class Attending(Protocol):
    """A connection's place in the conversation."""

    @property
    def user_id(self) -> str: ...

    @property
    def instance_id(self) -> str | None: ...


@dataclass(frozen=True, slots=True)
class Said:
    """A state, and when it was said; one that nobody has said is null since ever. ``raw`` is how it is written:
    1 and true are equal in Python."""

    state: Any = None
    at: float = -math.inf
    raw: bytes = b""

    @classmethod
    def of(cls, state: Any, at: float) -> Said:
        return NOTHING if state is None else cls(state, at, orjson.dumps(state))


NOTHING = Said()
_Elsewhere = tuple[Said, tuple[str, ...]]
"""A user on another node: what they said there, and with which client instances they follow."""


class Attendance:
    """Of one conversation, as this node knows it."""

    __slots__ = ("_away", "_dirty", "_here", "_shown", "changes", "unannounced")

    def __init__(self) -> None:
        self._here: dict[str, dict[Attending, Said]] = {}
        self._away: dict[str, tuple[int, dict[str, _Elsewhere]]] = {}
        self._dirty: dict[str, tuple[int, int]] = {}  # the first and the last change since it was told
        self._shown: dict[str, Said] = {}
        self.changes = 0
        """The number of the last change."""
        self.unannounced: set[str] = set()
        """Users of this node of whom the other nodes have not been told what is so now."""

    def __repr__(self) -> str:
        return f"<Attendance here={len(self._here)} nodes={len(self._away)} changes={self.changes}>"

    # --- this node ---------------------------------------------------------------------------------------

    def came(self, who: Attending) -> None:
        """A connection follows."""
        self._here.setdefault(who.user_id, {})[who] = NOTHING
        self._changed_here(who.user_id)

    def left(self, who: Attending) -> None:
        """A connection follows no longer, and what it said is void."""
        connections = self._here.get(who.user_id, {})
        if connections.pop(who, None) is not None:
            if not connections:
                del self._here[who.user_id]
            self._changed_here(who.user_id)

    def says(self, who: Attending, state: Any, now: float) -> None:
        """A connection that follows says its state; None takes it back."""
        connections = self._here.get(who.user_id, {})
        if who in connections:
            connections[who] = Said.of(state, now)
            self._changed_here(who.user_id)

    def is_here(self, user_id: str, instance_id: str | None = None) -> bool:
        """Whether a connection of this user follows on this node, with this client instance if one is given."""
        connections = self._here.get(user_id, {})
        return bool(connections) if instance_id is None else any(c.instance_id == instance_id for c in connections)

    def roll(self, users: Iterable[str] | None, now: float) -> tuple[list[Attendee], list[str]]:
        """What to announce of these users, of all without: those who are here, and the others."""
        asked = list(self._here) if users is None else sorted(users)
        return (
            [self._attendee(user, now) for user in asked if user in self._here],
            [user for user in asked if user not in self._here],
        )

    def _attendee(self, user: str, now: float) -> Attendee:
        connections = self._here[user]
        said = max(connections.values(), key=_when)
        instances = {who.instance_id for who in connections if who.instance_id is not None}
        age = None if said.at == -math.inf else max(0.0, now - said.at)
        return Attendee(user, said.state, age, tuple(sorted(instances)))

    def _changed_here(self, user: str) -> None:
        self.unannounced.add(user)
        self._touch(user)

    # --- other nodes -------------------------------------------------------------------------------------

    def heard(self, node: str, base: int | None, roll: Roll, now: float) -> bool:
        """Another node says what has changed there since ``base``, or (None) all of it.

        False when that does not go on from what is known of it: then all nodes have to be asked.
        """
        known = self._away.get(node)
        if known is not None and roll.version <= known[0]:
            return True
        if base is None:
            self._whole(node, roll, now)
            return True
        if known is None or known[0] != base:
            return False
        users = known[1]
        for attendee in roll.attendees:
            users[attendee.user_id] = _elsewhere(attendee, now)
            self._touch(attendee.user_id)
        for user in roll.left:
            users.pop(user, None)
            self._touch(user)
        self._away[node] = (roll.version, users)
        return True

    def compared(self, versions: Mapping[str, int]) -> bool:
        """Nodes that are not named have no followers any more. False when another has said more than is known."""
        for node in [node for node in self._away if node not in versions]:
            self._whole(node, None, 0.0)
        return all(node in self._away and self._away[node][0] >= version for node, version in versions.items())

    def replaced(self, rolls: Mapping[str, Roll], now: float) -> None:
        """All that other nodes say, as it was asked for."""
        for node in [node for node in self._away if node not in rolls]:
            self._whole(node, None, now)
        for node, roll in rolls.items():
            if node not in self._away or roll.version > self._away[node][0]:
                self._whole(node, roll, now)

    def _whole(self, node: str, roll: Roll | None, now: float) -> None:
        _, before = self._away.pop(node, (0, {}))
        after = {} if roll is None else {a.user_id: _elsewhere(a, now) for a in roll.attendees}
        if roll is not None:
            self._away[node] = (roll.version, after)
        for user in before.keys() | after.keys():
            if before.get(user) != after.get(user):
                self._touch(user)

    # --- what is so now ----------------------------------------------------------------------------------

    def now(self, user: str) -> Said | None:
        """The newest state of a user, None when they are not present."""
        said = list(self._here.get(user, {}).values())
        said += [users[user][0] for _, users in self._away.values() if user in users]
        return max(said, key=_when, default=None)

    def present(self) -> list[Presence]:
        """Everybody; those with the newest states first. Beyond `LIST_BYTES` states are left out."""
        users = {*self._here, *(user for _, users in self._away.values() for user in users)}
        found = sorted(((user, self.now(user) or NOTHING) for user in sorted(users)), key=lambda one: -_when(one[1]))
        listed, room = [], LIST_BYTES
        for user, said in found:
            room -= len(said.raw)
            listed.append(Presence(user_id=user, state=said.state if room >= 0 else None))
        return listed

    # --- what has changed --------------------------------------------------------------------------------

    def _touch(self, user: str) -> None:
        self.changes += 1
        first, _ = self._dirty.get(user, (self.changes, 0))
        self._dirty[user] = first, self.changes

    @property
    def has_news(self) -> bool:
        return bool(self._dirty)

    @property
    def was_told(self) -> bool:
        """Whether anybody was ever told of anybody."""
        return bool(self._shown)

    def news(self) -> News:
        """What has changed since the last call, as much as fits; what does not is news the next time."""
        told: list[_Told] = []
        room = NEWS_BYTES
        for user, (first, last) in list(self._dirty.items()):
            said, shown = self.now(user), self._shown.get(user)
            room -= 0 if said is None else len(said.raw)
            if room < 0 and told:
                break
            del self._dirty[user]
            told.append(_Told(user, first, last, shown, said))
            if said is None:
                self._shown.pop(user, None)
            else:
                self._shown[user] = said
        return News(told)

    def latest(self, conversation_id: str, users: Iterable[str]) -> PresenceChanged:
        """How it is with these users now, for one that was not told of their changes."""
        return _message(conversation_id, [(user, NOTHING, self.now(user)) for user in users])


@dataclass(frozen=True, slots=True)
class _Told:
    """One user's changes since they were last told: the first and the last, how it was before and how it is now."""

    user: str
    first: int
    last: int
    before: Said | None
    now: Said | None


class News:
    """Changes that are told together. Who was given the list in the midst of them knows some of them."""

    __slots__ = ("_begin", "_told", "users")

    def __init__(self, told: Sequence[_Told]) -> None:
        self._told = told
        self._begin = min((one.first for one in told), default=1)
        self.users = frozenset(one.user for one in told)

    def level(self, knows: int) -> int:
        """The same for all who are told the same: 0 for those who know none of these changes."""
        return 0 if knows < self._begin else knows

    def message(self, conversation_id: str, level: int) -> PresenceChanged | None:
        """For those of a level; None when there is nothing new for them. Level −1 repeats what some know already."""
        changes = [
            # Who was given the list between two changes of a user may have seen them or not.
            (one.user, one.before if 0 <= level < one.first else one.before or NOTHING, one.now)
            for one in self._told
            if one.last > level
            if not 0 <= level < one.first or not _is_same(one.before, one.now)
        ]
        return _message(conversation_id, changes) if changes else None


def _is_same(before: Said | None, now: Said | None) -> bool:
    return before is now or (before is not None and now is not None and before.raw == now.raw)


def _message(conversation_id: str, changes: Iterable[tuple[str, Said | None, Said | None]]) -> PresenceChanged:
    """Users with how they were, as far as that matters, and how they are now."""
    message = PresenceChanged(conversation_id=conversation_id)
    for user, before, now in changes:
        if now is None:
            message.left.append(Presence(user_id=user))
        else:
            (message.joined if before is None else message.changed).append(Presence(user_id=user, state=now.state))
    return message


def _when(said: Said) -> float:
    return said.at


def _elsewhere(attendee: Attendee, now: float) -> _Elsewhere:
    at = -math.inf if attendee.age_s is None else now - attendee.age_s
    return Said.of(attendee.state, at), attendee.instances
