"""What will be done in a round, decided from its seed alone: the faults and every client's acts.

Pure. The same seed gives the same schedule; what happens then is up to the timing of processes and differs. Faults
that DESIGN section 2 does not mean are never scheduled together: Redis loses nothing while MongoDB is away, from any
node, nor before what waited for MongoDB has been archived.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

Mode = Literal["embedded", "alone", "sentinel", "cluster"]
"""The embedded engines, or MongoDB and one Redis server, a Redis with Sentinels, a Redis Cluster."""

FAULT_KINDS = {
    "node kill",
    "node pause",
    "node drain",
    "client cut",
    "client pause",
    "redis cut",
    "redis pause",
    "redis refuse",
    "redis delay",
    "mongo cut",
    "mongo pause",
    "mongo refuse",
    "redis kill",
    "redis stop",
    "redis lose",
    "redis flushall",
    "redis failover",
    "redis promote",
    "mongo kill",
}

STORES_OWN = frozenset(
    {"redis kill", "redis stop", "redis lose", "redis flushall", "redis failover", "redis promote", "mongo kill"}
)
"""Faults of the stores themselves; `redis cut` and its like are between one node and Redis."""

LOSING = frozenset({"redis lose", "redis flushall", "redis failover", "redis promote"})
"""Redis loses data: all of them, or the newest, which a replica may lack whenever it is promoted."""
_MONGO_AWAY = frozenset({"mongo cut", "mongo pause", "mongo refuse", "mongo kill"})
# What was not archived in time is archived by a sweep every 5 s once MongoDB is back; a rebuild reads MongoDB.
_ARCHIVED_AFTER_S = 8.0
_REBUILT_AFTER_S = 6.0

# kind: (weight, shortest, longest duration in seconds). A pause is to outlast the lease of one second, or not.
_ON_NODES = {
    "node kill": (5, 0.0, 2.5),
    "node pause": (4, 0.3, 3.5),
    "node drain": (2, 0.0, 1.0),
    "client cut": (5, 0.0, 0.0),
    "client pause": (2, 0.3, 2.0),
}
_ON_MONGO = {
    "mongo cut": (2, 0.0, 0.0),
    "mongo pause": (2, 0.3, 3.0),
    "mongo refuse": (1, 0.3, 2.5),
    "mongo kill": (2, 0.0, 1.5),
}
_ON_REDIS = {
    "redis cut": (4, 0.0, 0.0),
    "redis pause": (3, 0.3, 3.0),
    "redis refuse": (2, 0.3, 2.5),
    "redis delay": (2, 1.0, 4.0),
    "redis kill": (2, 0.0, 1.5),
    "redis stop": (2, 0.3, 2.5),
    "redis lose": (2, 0.0, 1.5),
    "redis flushall": (2, 0.0, 0.0),
}
_KINDS = {
    "embedded": _ON_NODES,
    "alone": {**_ON_NODES, **_ON_MONGO, **_ON_REDIS},
    "sentinel": {**_ON_NODES, **_ON_MONGO, "redis failover": (4, 0.0, 2.0), "redis promote": (4, 0.1, 1.0)},
    "cluster": {**_ON_NODES, **_ON_MONGO, "redis failover": (6, 0.0, 2.0)},
}
_QUIET_AFTER_S = {
    "node kill": 1.0,
    "node drain": 1.0,
    "redis kill": 1.5,
    "redis lose": 3.0,
    "redis flushall": 3.0,
    "redis failover": 6.0,
    "redis promote": 6.0,
}


@dataclass(frozen=True, slots=True)
class Fault:
    """``at`` seconds after the start, for ``lasts`` seconds. ``number`` says which node or client."""

    at: float
    kind: str
    number: int
    lasts: float

    @property
    def until(self) -> float:
        return self.at + self.lasts

    @property
    def target(self) -> str:
        """What it befalls: two faults of one target never overlap."""
        thing = self.kind.split(" ")[0]
        if self.kind in STORES_OWN:
            return thing
        if thing in ("redis", "mongo"):
            return f"node-{self.number}<->{thing}"
        return f"{thing}-{self.number}"

    def __str__(self) -> str:
        return f"{self.at:6.2f}s  {self.kind:<15} {self.target} for {self.lasts:.2f}s"


@dataclass(frozen=True, slots=True)
class Act:
    """What a client does, ``wait`` seconds after it is through with the last act. Which fields count depends on it."""

    wait: float
    kind: str
    number: int = 0
    """Of a request: the how-manieth this client makes; of anything else: which of what there is, modulo."""
    conversation: str = ""
    words: int = 0
    cancel: str = ""
    """When a created request is cancelled, see `CANCELS`."""
    again: str = ""
    """Whether its create is sent once more: to the same node or another."""
    node: int = 0
    other: int = 0
    """Another client, where one is needed."""
    way: str = ""
    """How a client leaves, or comes back."""

    def __str__(self) -> str:
        shown = {
            name: getattr(self, name)
            for name in ("number", "conversation", "cancel", "again", "node", "other", "way")
            if getattr(self, name)
        }
        return f"+{self.wait:.2f}s {self.kind} " + " ".join(f"{name}={value}" for name, value in shown.items())


CANCELS = ("before", "in the same frame", "at once", "when started", "at the first delta", "twice", "by another")
WAYS_BACK = ("open", "hello", "resume")


@dataclass(frozen=True, slots=True)
class Schedule:
    """One round."""

    seed: int
    seconds: float
    nodes: int
    conversations: tuple[str, ...]
    follows: tuple[tuple[str, ...], ...]
    """For each client the conversations it follows."""
    codecs: tuple[str, ...]
    faults: tuple[Fault, ...]
    acts: tuple[tuple[Act, ...], ...] = field(repr=False)
    """For each client what it does."""

    def __str__(self) -> str:
        lines = [f"seed {self.seed}: {self.seconds:g} s, {self.nodes} nodes, {len(self.follows)} clients", "faults:"]
        lines += [f"  {fault}" for fault in self.faults]
        for number, acts in enumerate(self.acts):
            lines.append(f"client-{number} ({self.codecs[number]}) follows {', '.join(self.follows[number])}")
            lines += [f"  {act}" for act in acts]
        return "\n".join(lines)


def make_schedule(
    seed: int, *, seconds: float = 20.0, mode: Mode = "alone", nodes: int = 3, clients: int = 8, talks: int = 4
) -> Schedule:
    """The schedule of a seed."""
    shared = tuple(f"talk-{number}" for number in range(1, talks + 1))
    rng = random.Random(f"{seed}:clients")
    # In a conversation of its own nobody is left when this client loses its connection (guarantee 6).
    own = tuple(own_conversation(number) for number in range(clients))
    follows = tuple((*sorted(rng.sample(shared, rng.randint(1, 3))), own[number]) for number in range(clients))
    codecs = tuple(f"turnwire.v1.{'msgpack' if number % 3 == 2 else 'json'}" for number in range(clients))
    return Schedule(
        seed=seed,
        seconds=seconds,
        nodes=nodes,
        conversations=(*shared, *own),
        follows=follows,
        codecs=codecs,
        faults=tuple(_faults(random.Random(f"{seed}:faults"), seconds, mode, nodes, clients)),
        acts=tuple(
            tuple(_acts(random.Random(f"{seed}:client:{number}"), seconds, number, follows, shared, nodes))
            for number in range(clients)
        ),
    )


# --- faults ----------------------------------------------------------------------------------------------------


def _faults(rng: random.Random, seconds: float, mode: Mode, nodes: int, clients: int) -> Iterator[Fault]:
    kinds = _KINDS[mode]
    # A round is either about losing what is in Redis or about MongoDB being away, unless it is long.
    first = rng.choice(("losing", "mongo"))
    made: list[Fault] = []
    at = 1.0
    while (at := at + rng.expovariate(1.0)) < seconds - 1.0:
        kind = rng.choices(list(kinds), [weight for weight, _, _ in kinds.values()])[0]
        _, shortest, longest = kinds[kind]
        number = rng.randrange(clients) if kind.startswith("client") else rng.randint(1, nodes)
        fault = Fault(round(at, 2), kind, number, round(rng.uniform(shortest, longest), 2))
        early = at < min(seconds / 2, _ARCHIVED_AFTER_S)
        if early and fault.kind in (_MONGO_AWAY if first == "losing" else LOSING):
            continue
        if fault.until < seconds and is_meant(fault, made):
            made.append(fault)
            yield fault


def is_meant(fault: Fault, others: Sequence[Fault]) -> bool:
    """Whether DESIGN section 2 means ``fault`` together with the others, and its target is free."""
    for other in others:
        if other.target == fault.target and _meet(fault, _quiet_s(fault), other, _quiet_s(other)):
            return False
        for losing, away in ((fault, other), (other, fault)):
            clash = losing.kind in LOSING and away.kind in _MONGO_AWAY
            if clash and _meet(losing, _REBUILT_AFTER_S, away, _ARCHIVED_AFTER_S):
                return False
    return True


def _quiet_s(fault: Fault) -> float:
    return _QUIET_AFTER_S.get(fault.kind, 0.3)


def _meet(one: Fault, one_after_s: float, other: Fault, other_after_s: float) -> bool:
    """Whether two faults, each with a time after it, overlap."""
    return one.at < other.until + other_after_s and other.at < one.until + one_after_s


def own_conversation(client: int) -> str:
    """The conversation that only this client follows."""
    return f"own-{client}"


# --- clients ---------------------------------------------------------------------------------------------------

_ACTS = {
    "create": 50,
    "create and leave": 6,
    "drop": 12,
    "status": 6,
    "repeat": 8,
    "conflict": 4,
    "cancel unknown": 3,
    "cancel known": 5,
    "open again": 5,
}
ACT_KINDS = frozenset(_ACTS)
# Some only watch, come and go.
_WATCHING = {"drop": 50, "status": 20, "open again": 20, "cancel known": 5}


def _acts(
    rng: random.Random,
    seconds: float,
    client: int,
    follows: Sequence[Sequence[str]],
    shared: Sequence[str],
    nodes: int,
) -> Iterator[Act]:
    watches = client % 4 == 3
    weights = _WATCHING if watches else _ACTS
    made, at = 0, 0.0
    while at < seconds:
        wait = round(rng.uniform(0.05, 1.3), 2)
        at += wait
        kind = rng.choices(list(weights), list(weights.values()))[0]
        if kind.startswith("create"):
            made += 1
        elif kind in ("repeat", "conflict") and not made:
            continue
        yield Act(
            wait=wait,
            kind=kind,
            number=made if kind.startswith("create") else rng.randrange(1_000),
            conversation=_conversation(rng, kind, client, follows, shared),
            words=rng.randint(1, 12),
            cancel=rng.choice(CANCELS) if rng.random() < 0.3 else "",
            again=rng.choice(("same node", "other node")) if rng.random() < 0.2 else "",
            node=rng.randint(1, nodes),
            other=rng.choice([number for number in range(len(follows)) if number != client]),
            way=rng.choice(WAYS_BACK),
        )


def _conversation(
    rng: random.Random, kind: str, client: int, follows: Sequence[Sequence[str]], shared: Sequence[str]
) -> str:
    if kind == "create and leave":
        return own_conversation(client)
    return rng.choice(follows[client] if rng.random() < 0.8 else shared)
