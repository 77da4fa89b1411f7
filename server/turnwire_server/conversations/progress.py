"""Where an answer is: what a taker needs beside the fold and the ledger. Part of every checkpoint."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from turnwire_server.orchestration.pipeline import Stage


@dataclass(slots=True)
class Progress:
    """``part`` is the first part of the current step; ``continued`` is how many characters of it were there when the
    attempt under way began, to go on with them; ``effects`` counts the runs of tools that change the world and may not
    run twice; ``waited_ms`` is how long the turn was parked, ``parked_at`` since when it is (ms, the log's); ``until``
    is how long clients have for their calls (ms); ``route`` is the one that a model has chosen; ``repairs`` counts how
    often the model was asked to answer anew, because of the last ``complaint`` about what it said, ``rejected``;
    ``retries`` counts how often a turn in the background has failed and waited to be tried again."""

    step: int = 1
    attempt: int = 0
    part: int = 0
    stage: Stage = Stage.CLASSIFY
    effects: int = 0
    continued: int = 0
    waited_ms: int = 0
    parked_at: int = 0
    until: dict[str, int] = field(default_factory=dict)
    route: str = ""
    repairs: int = 0
    complaint: str = ""
    rejected: str = ""
    retries: int = 0

    def __post_init__(self) -> None:
        self.stage = Stage(self.stage)

    def unparked(self, now_ms: int) -> None:
        """It goes on."""
        if self.parked_at:
            self.waited_ms += max(now_ms - self.parked_at, 0)
            self.parked_at = 0

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "stage": self.stage.value}
