"""What a seed stands for: what the model says, and who does what when. Data only, so that a failure can be read."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

LIMITS: dict[str, Any] = {
    "interrupt_hold_s": 1,
    "held_chars": 60,
    "tool_timeout_s": 2,
    "tool_cancel_grace_s": 0.5,
    "client_tool_timeout_s": 5,
    "claim_lapse_s": 1,
    "approval_timeout_s": 3,
    "park_after_s": 1,
    "turn_deadline_s": 9,
    "disconnect_grace_s": 2,
    "checkpoint_events": 5,
    "connections_per_user": 1000,
    "heartbeat_s": 10_000,
}
SERVER_TOOLS = ("look", "charge", "stubborn", "refund")
CLIENT_TOOLS: list[dict[str, Any]] = [
    {
        "name": name,
        "description": "The page does it.",
        "parameters": {"type": "object", "properties": {}},
        **declared,
    }
    for name, declared in {
        "lookup": {"side_effect": False, "interruptible": True},
        "sell": {"side_effect": True},
        "order": {"side_effect": True, "approval": "required"},
    }.items()
]
_WORDS = (
    "alpha ",
    "beta. ",
    "gamma, ",
    "délta ",
    "epsilon! ",
    "zeta 😀 ",
    "eta\n",
    "a good many words that say nothing at all; ",
)
END = "the model has said all"
LONGEST_PIECE = max(map(len, _WORDS))
_GAPS_S = (0.0, 0.0, 0.001, 0.01, 0.01, 0.05, 0.2, 0.7, 1.5)
_FLOOD = (60, (0.01, 0.02))
"""More than what is held back may be, within the time that it may be held."""
_BETWEEN_ACTS_S = (0.0, 0.0, 0.0005, 0.001, 0.003, 0.01, 0.05, 0.2, 0.5, 0.95, 1.05, 2.1, 4.0)
_TOOL_S = (0.0, 0.01, 0.3, 1.5, 1.99, 2.5)
_ACTS = {
    "tentative": 5,
    "retracted": 2,
    "confirmed": 2,
    "presented": 4,
    "cancel": 1,
    "steer": 2,
    "queue": 1,
    "supersede": 1,
    "claim": 5,
    "result": 4,
    "approve": 2,
    "deny": 1,
    "cancel call": 1,
    "open again": 1,
    "leave": 1,
    "come back": 1,
}
_TOGETHER = (
    ("tentative", "steer", "confirmed"),
    ("tentative", "queue", "retracted"),
    ("steer", "confirmed"),
    ("claim", "result", "cancel"),
    ("claim", "confirmed"),
    ("approve", "cancel"),
    ("approve", "claim", "result"),
    ("presented", "confirmed", "presented"),
    ("claim", "leave", "claim"),
    ("all leave", "come back"),
    ("all leave",),
)
"""Some acts are worth little alone."""
_AWAY_S = (0.3, 1.5, 1.95, 2.05, 2.6, 4.0)
"""Around the grace time."""
_BEFORE_EXPIRY_S = (2.9, 2.98, 2.99, 2.995, 3.0, 3.002)
"""After an approval was asked for."""
_SOON_S = (0.0, 0.0, 0.0005, 0.001, 0.002, 0.005, 0.05, 0.1, 0.3)
_BY = ("output_text.delta", "step.started", "tool.called", "tool.running", "tool.approval_required", END, END)
TABS = ("A", "B")
"""Both are the author's; a third connection, of another user, only looks on."""


@dataclass(frozen=True, slots=True)
class Say:
    """The model writes this, so long after what was before."""

    text: str
    after_s: float
    reasoning: bool = False


@dataclass(frozen=True, slots=True)
class Begin:
    """The model calls a tool."""

    tool: str
    arguments: str
    after_s: float


@dataclass(frozen=True, slots=True)
class Fail:
    """The stream breaks off; with ``hang`` it says nothing more instead."""

    after_s: float
    hang: bool = False


Step = tuple[Say | Begin | Fail, ...]


@dataclass(frozen=True, slots=True)
class Act:
    """Something that a tab does, so long after what was done before, or after the next event of the type ``by``;
    ``waits`` for its answer."""

    tab: str
    what: str
    after_s: float
    waits: bool
    place: tuple[int, int] | None = None
    words: int | None = None
    """Instead of a place: so many words of what this tab knows."""
    newest: bool = False
    """To the newest request instead of the first one."""
    by: str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """One story."""

    name: str
    on_disconnect: str
    steps: tuple[Step, ...]
    acts: tuple[Act, ...] = field(default=())

    def __str__(self) -> str:
        lines = [f"{self.name}, on_disconnect={self.on_disconnect}"]
        lines += [f"  the model: {' | '.join(map(repr, step))}" for step in self.steps]
        lines += [f"  {act!r}" for act in self.acts]
        return "\n".join(lines)


def draw(rng: random.Random, name: str) -> Plan:
    """A story; most have a tool, some break, few hang."""
    steps = tuple(_step(rng, is_last=False) for _ in range(rng.choice((0, 0, 1, 1, 1, 2))))
    acts: list[Act] = []
    for _ in range(rng.randint(1, 8)):
        whats = rng.choice(_TOGETHER) if rng.random() < 0.3 else rng.choices(list(_ACTS), list(_ACTS.values()))
        tab = rng.choice(TABS)
        for number, what in enumerate(whats):
            acts.append(_act(rng, what, is_soon=number > 0, tab=tab if rng.random() < 0.7 else rng.choice(TABS)))
    return Plan(name, rng.choice(("continue", "cancel")), (*steps, _step(rng, is_last=True)), tuple(acts))


def _step(rng: random.Random, *, is_last: bool) -> Step:
    said: list[Say | Begin | Fail] = []
    pieces, gaps_s = rng.choice(((0, _GAPS_S), (1, _GAPS_S), (2, _GAPS_S), (4, _GAPS_S), (4, _GAPS_S), _FLOOD))
    for _ in range(pieces):
        said.append(Say(rng.choice(_WORDS), rng.choice(gaps_s), reasoning=rng.random() < 0.1))
    if not is_last:
        said += [_begin(rng) for _ in range(rng.choice((1, 1, 1, 2, 3)))]
    if rng.random() < 0.12:
        at = rng.randint(0, len(said))
        said[at:] = [Fail(rng.choice(_GAPS_S), hang=rng.random() < 0.3)]
    return tuple(said)


def _begin(rng: random.Random) -> Begin:
    tool = rng.choice((*SERVER_TOOLS, *(tool["name"] for tool in CLIENT_TOOLS)))
    arguments = f'{{"seconds": {rng.choice(_TOOL_S)}}}' if tool in SERVER_TOOLS else "{}"
    return Begin(tool, arguments, rng.choice(_GAPS_S))


def _act(rng: random.Random, what: str, *, is_soon: bool, tab: str) -> Act:
    place = words = None
    if what == "presented" or (what == "confirmed" and rng.random() < 0.5):
        place = (rng.choice((0, 0, 0, 1, 2)), rng.randint(0, 60))
        if what == "confirmed" and rng.random() < 0.4:
            place, words = None, rng.randint(0, 6)
    by = rng.choice(_BY) if rng.random() < 0.3 else None
    after_s = rng.choice(_BETWEEN_ACTS_S if by is None and not is_soon else _SOON_S)
    if what == "come back":
        after_s = rng.choice(_AWAY_S)
    elif what in ("approve", "deny") and rng.random() < 0.3:
        by, after_s = "tool.approval_required", rng.choice(_BEFORE_EXPIRY_S)
    return Act(
        tab=tab,
        what=what,
        after_s=after_s,
        waits=rng.random() < 0.6,
        place=place,
        words=words,
        newest=rng.random() < 0.2,
        by=by,
    )
