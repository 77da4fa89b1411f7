"""An evaluation: a server for the suite, every case played and scored, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from turnwire_server.archive.prompts import PromptVersion

from .gate import named
from .model import ScriptedModel
from .play import Played, ask, play_case
from .report import CaseReport, Report, RunReport, TurnReport
from .score import Check, check, question_for
from .server import running_server
from .suite import Case, Judge, SuiteFile, Turn


async def evaluate(
    file: SuiteFile,
    cases: Sequence[Case],
    *,
    repeat: int = 1,
    candidate: PromptVersion | None = None,
    playing: Callable[[Case], None] = lambda _: None,
) -> Report:
    """`cases` are of the suite, played with the `candidate` if there is one; `playing` is told of each. Raises what
    `running_server` does, before anything is played."""
    reports: list[CaseReport] = []
    async with running_server(file, candidate) as (app, model):
        evaluation = _Evaluation(app.url, file.suite.turn_limit_s, model)
        for case in cases:
            playing(case)
            runs = [await evaluation.run(case) for _ in range(repeat)]
            reports.append(CaseReport.of(case.name, runs))
    return Report(
        suite=file.suite.name,
        suite_sha256=file.sha256,
        model=file.suite.model,
        candidate=None if candidate is None else named(candidate.tenant_id, candidate.name, candidate.version),
        complete=len(reports) == len(file.suite.cases),
        cases=tuple(reports),
    )


class _Evaluation:
    def __init__(self, url: str, limit_s: float, model: ScriptedModel | None) -> None:
        self._url = url
        self._limit_s = limit_s
        self._model = model

    async def run(self, case: Case) -> RunReport:
        if self._model is not None:
            self._model.load(case.answers)
        turns = await play_case(self._url, case, self._limit_s)
        reports = [
            TurnReport.of(result, await self._checks(turn, result))
            for turn, result in zip(case.turns, turns, strict=False)  # after a fault the rest is not played
        ]
        fault = None
        if self._model is not None and self._model.left and not any(result.fault for result in turns):
            fault = f"{self._model.left} answers of the scripted model were never asked for"
        return RunReport(turns=tuple(reports), fault=fault)

    async def _checks(self, turn: Turn, result: Played) -> list[Check]:
        if result.fault:
            return []
        checks = []
        for expectation in turn.expect:
            said = None
            if isinstance(judge := expectation.value, Judge):
                question = question_for(judge, turn.say, result.text)
                asked = await ask(self._url, question, judge.route, self._limit_s)
                if asked.fault or asked.ending != "completed":
                    said = f"the judge did not answer: {asked.fault or asked.ending}"
                else:
                    said = asked.text
            checks.append(check(expectation, result, said))
        return checks
