"""Whether an evaluation lets a change pass. Pure; what releases a prompt version asks here and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass

from .report import CaseReport, Report

TOLERANCE = 0.05
"""By how much a score may fall: less than a lost word in twenty of a similar text."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`reasons` say why it does not pass, one for each case."""

    passed: bool
    reasons: tuple[str, ...] = ()


def passes(report: Report, baseline: Report | None = None, tolerance: float = TOLERANCE) -> Verdict:
    """Without a baseline every case has to pass. With one nothing may have become worse, and what it does not know has
    to pass: a case that failed there may go on failing."""
    known = {case.name: case for case in baseline.cases} if baseline else {}
    reasons = [reason for case in report.cases if (reason := _reason(case, known.get(case.name), tolerance))]
    if report.complete:
        played = {case.name for case in report.cases}
        reasons += [f"{name}: is in the baseline and no longer in the suite" for name in known if name not in played]
    return Verdict(not reasons, tuple(reasons))


def named(tenant_id: str, prompt: str, version: int) -> str:
    """A version of a prompt, as reports name it."""
    return f"{tenant_id}/{prompt}:{version}"


def releases(report: Report, candidate: str) -> Verdict:
    """Whether `candidate` (see `named`) may be released on the strength of this report."""
    if report.candidate != candidate:
        return Verdict(False, (f"the report is of {report.candidate or 'no candidate'}, not of {candidate}",))
    if not report.complete:
        return Verdict(False, ("the report is of a part of its suite",))
    return passes(report)


def _reason(case: CaseReport, before: CaseReport | None, tolerance: float) -> str | None:
    if before is None:
        return None if case.passed else f"{case.name}: failed"
    if before.passed and not case.passed:
        return f"{case.name}: passed in the baseline and fails now"
    if case.score < before.score - tolerance:
        return f"{case.name}: the score fell from {before.score:.2f} to {case.score:.2f}"
    return None
