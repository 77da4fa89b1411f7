"""What passes, alone and against a baseline."""

from __future__ import annotations

import pytest

from turnwire_server.evaluation.gate import passes, releases
from turnwire_server.evaluation.play import Played
from turnwire_server.evaluation.report import CaseReport, Report, RunReport, TurnReport
from turnwire_server.evaluation.score import Check


def _run(score: float = 1.0, *, passed: bool = True, fault: str | None = None) -> RunReport:
    return RunReport(turns=(TurnReport.of(Played(fault=fault), [Check("similar", passed, score, "")]),))


def _case(*runs: RunReport, name: str = "one") -> CaseReport:
    return CaseReport.of(name, runs)


def _report(*cases: CaseReport, candidate: str | None = None, complete: bool = True) -> Report:
    return Report(
        suite="s", suite_sha256="0", model="scripted", candidate=candidate, complete=complete, cases=tuple(cases)
    )


GOOD, BAD = _case(_run()), _case(_run(0, passed=False))


def test_without_a_baseline_every_case_has_to_pass() -> None:
    assert passes(_report(GOOD)).passed
    assert passes(_report(GOOD, BAD)).reasons == ("one: failed",)


def test_a_case_that_passed_before_has_to_pass() -> None:
    assert not passes(_report(BAD), _report(GOOD)).passed


def test_a_case_that_failed_before_may_fail() -> None:
    assert passes(_report(BAD), _report(BAD)).passed


def test_a_new_case_has_to_pass() -> None:
    assert not passes(_report(GOOD, _case(_run(0, passed=False), name="new")), _report(GOOD)).passed


@pytest.mark.parametrize(("score", "passed"), [(0.9, True), (0.85, True), (0.84, False), (1.0, True)])
def test_a_score_may_fall_by_the_tolerance(score: float, passed: bool) -> None:
    assert passes(_report(_case(_run(score))), _report(_case(_run(0.9))), 0.05).passed is passed


def test_a_case_that_is_gone_is_told_unless_a_part_was_played() -> None:
    before = _report(GOOD, _case(_run(), name="gone"))
    assert not passes(_report(GOOD), before).passed
    assert passes(_report(GOOD, complete=False), before).passed


def test_of_several_runs_more_than_half_have_to_pass_and_the_median_counts() -> None:
    bad = _run(0.2, passed=False)
    assert _case(_run(0.9), bad, _run(0.8)).passed
    assert _case(_run(0.9), bad, _run(0.8)).score == 0.8
    assert not _case(_run(), bad).passed


def test_a_run_with_a_fault_is_worth_nothing() -> None:
    case = _case(_run(fault="no end within 1 s"))
    assert (case.passed, case.score) == (False, 0)


def test_a_candidate_is_released_by_its_own_complete_report_alone() -> None:
    assert releases(_report(GOOD, candidate="desk:3"), "desk:3").passed
    assert not releases(_report(GOOD, candidate="desk:2"), "desk:3").passed
    assert not releases(_report(GOOD), "desk:3").passed
    assert not releases(_report(GOOD, candidate="desk:3", complete=False), "desk:3").passed
    assert not releases(_report(BAD, candidate="desk:3"), "desk:3").passed
