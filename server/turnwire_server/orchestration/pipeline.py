"""The stages of a turn, from request to record, and which follows which. Pure: this file is the whole machine.

    classify ─▶ check ─▶ retrieve ─▶ assemble ─▶ model ─▶ validate ─▶ record
                  │         │          ▲  ▲        │         │          ▲
                  │         │          │  └─ tools ◀         │          │
                  │         │          └────── repair ───────┘          │
                  └─────────┴──────────── refused ──────────────────────┘

A turn is in one stage at a time, and each stage ends with one `Outcome`. What a stage does is in
``conversations.steps``; what it may end with, and what comes then, stands in `FOLLOWS` alone. Whatever ends the turn
from outside (a cancel, an interrupt, its deadline, the death of its node) ends it in whatever stage it is.

The stage is part of every checkpoint. `resumed` says where a taker goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class Stage(StrEnum):
    """Where a turn is."""

    CLASSIFY = "classify"
    """A small model decides which of the tenant's routes the request is for, unless that is known already."""
    CHECK = "check"
    """The route's guards look at what the user has said."""
    RETRIEVE = "retrieve"
    """Documents of the tenant are searched for what the model may need, on routes that say so."""
    ASSEMBLE = "assemble"
    """A step begins: what was said meanwhile is folded in, and the budgets are looked at."""
    MODEL = "model"
    """The prompt is made and a model asked, one deployment of the route after the other; its text is shown."""
    TOOLS = "tools"
    """What the model has called is approved and run."""
    VALIDATE = "validate"
    """The finished answer is looked at, by the route's schema and guards."""
    RECORD = "record"
    """How the turn ends is known: it is sealed, archived and told."""


class Outcome(StrEnum):
    """How a stage ends."""

    DONE = "done"
    """As it should; of the model: it has answered."""
    CALLED = "called"
    """The model has called tools."""
    STEERED = "steered"
    """Somebody has said something that goes into the same answer."""
    REPAIR = "repair"
    """What the model has said is of no use, and it is asked once more."""
    ENDED = "ended"
    """The turn ends here, and the stage knows how."""


FOLLOWS: Mapping[tuple[Stage, Outcome], Stage] = {
    (Stage.CLASSIFY, Outcome.DONE): Stage.CHECK,
    (Stage.CHECK, Outcome.DONE): Stage.RETRIEVE,
    (Stage.CHECK, Outcome.ENDED): Stage.RECORD,
    (Stage.RETRIEVE, Outcome.DONE): Stage.ASSEMBLE,
    (Stage.RETRIEVE, Outcome.ENDED): Stage.RECORD,
    (Stage.ASSEMBLE, Outcome.DONE): Stage.MODEL,
    (Stage.ASSEMBLE, Outcome.ENDED): Stage.RECORD,
    (Stage.MODEL, Outcome.DONE): Stage.VALIDATE,
    (Stage.MODEL, Outcome.CALLED): Stage.TOOLS,
    (Stage.MODEL, Outcome.ENDED): Stage.RECORD,
    (Stage.TOOLS, Outcome.DONE): Stage.ASSEMBLE,
    (Stage.VALIDATE, Outcome.DONE): Stage.RECORD,
    (Stage.VALIDATE, Outcome.STEERED): Stage.ASSEMBLE,
    (Stage.VALIDATE, Outcome.REPAIR): Stage.ASSEMBLE,
    (Stage.VALIDATE, Outcome.ENDED): Stage.RECORD,
}


def follow(stage: Stage, outcome: Outcome) -> Stage:
    """What comes after a stage. Raises KeyError for an outcome that the stage cannot have."""
    return FOLLOWS[stage, outcome]


def resumed(stage: Stage) -> Stage:
    """Where whoever takes a turn over goes on.

    A step that died in the middle begins again, since nobody knows what its model would have said; so does one that
    was being looked at. Tools that had begun are settled, not begun again.
    """
    return Stage.ASSEMBLE if stage in (Stage.MODEL, Stage.VALIDATE) else stage
