"""What an evaluation found, as it is written to a file and read as a baseline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from .play import Played
from .score import Check


class ReportError(Exception):
    """The file is no report; the text says why."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class CheckReport(_Part):
    scorer: str
    passed: bool
    score: float
    said: str


class TurnReport(_Part):
    text: str
    ending: str | None
    seconds: float
    first_token_s: float | None
    tokens: int | None
    cost_usd: float | None
    tools: tuple[str, ...]
    reconnects: int
    fault: str | None
    checks: tuple[CheckReport, ...]

    @classmethod
    def of(cls, played: Played, checks: Sequence[Check]) -> TurnReport:
        found = (CheckReport(scorer=c.scorer, passed=c.passed, score=c.score, said=c.said) for c in checks)
        return cls(
            text=played.text,
            ending=played.ending,
            seconds=round(played.seconds, 4),
            first_token_s=None if played.first_token_s is None else round(played.first_token_s, 4),
            tokens=played.tokens,
            cost_usd=played.cost_usd,
            tools=tuple(played.tools),
            reconnects=played.reconnects,
            fault=played.fault,
            checks=tuple(found),
        )


class RunReport(_Part):
    """A case, played once."""

    turns: tuple[TurnReport, ...]
    fault: str | None = None
    """What was wrong beside the turns."""

    @property
    def passed(self) -> bool:
        return not self.faults()

    @property
    def score(self) -> float:
        """The mean of the checks; without any 1. Nothing when the case was not played to its end."""
        if self.fault or any(turn.fault for turn in self.turns):
            return 0.0
        return mean([check.score for turn in self.turns for check in turn.checks] or [1.0])

    @property
    def seconds(self) -> float:
        return sum(turn.seconds for turn in self.turns)

    def faults(self) -> list[str]:
        """Everything that was not as expected, in words."""
        found = []
        for number, turn in enumerate(self.turns, 1):
            if turn.fault:
                found.append(f"turn {number}: {turn.fault}")
            found += [f"turn {number}: {c.scorer}: {c.said}" for c in turn.checks if not c.passed]
        return [*found, *([self.fault] if self.fault else [])]


class CaseReport(_Part):
    """A case; of several runs the score and the time are medians, and more than half have to pass."""

    name: str
    passed: bool
    score: float
    seconds: float
    runs: tuple[RunReport, ...]

    @classmethod
    def of(cls, name: str, runs: Sequence[RunReport]) -> CaseReport:
        return cls(
            name=name,
            passed=2 * sum(run.passed for run in runs) > len(runs),
            score=round(median(run.score for run in runs), 4),
            seconds=round(median(run.seconds for run in runs), 4),
            runs=tuple(runs),
        )


class Report(_Part):
    """An evaluation of a suite."""

    version: Literal[1] = 1
    suite: str
    suite_sha256: str
    model: str
    candidate: str | None
    """`NAME:VERSION` of the prompt that was evaluated, as the command was told."""
    complete: bool
    """Whether every case of the suite was played."""
    cases: tuple[CaseReport, ...]


def read_report(path: Path) -> Report:
    """Raises `ReportError`."""
    try:
        return Report.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ReportError(f"{path}: cannot be read: {error.strerror}") from None
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"]))
        raise ReportError(f"{path}: not a report of an evaluation: {where}: {fault['msg']}") from None


def write_report(report: Report, path: Path) -> None:
    """Raises OSError."""
    path.write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
