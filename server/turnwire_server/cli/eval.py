"""`turnwire eval`: plays a suite of conversations, scores them, and fails when something has become worse.

Exit codes: 0 passed, 1 a regression or a failing case, 2 the suite, the configuration or a report cannot be used, 130
stopped.
"""

from __future__ import annotations

import asyncio
import re
import signal
from pathlib import Path
from typing import Annotated

import anyio
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from turnwire_server.archive.base import ArchiveUnavailable
from turnwire_server.archive.prompts import PromptVersion
from turnwire_server.cli.archive import reading_archive
from turnwire_server.cli.common import ConfigOption, fail, read_settings
from turnwire_server.evaluation import gate
from turnwire_server.evaluation.report import Report, ReportError, read_report, write_report
from turnwire_server.evaluation.run import evaluate
from turnwire_server.evaluation.suite import Case, SuiteError, SuiteFile, read_suite
from turnwire_server.settings import Settings, SettingsError
from turnwire_server.sqlite import DatabaseUnavailable

_FAULTS_SHOWN = 3
_AGAIN_S = 3.0
_console = Console(highlight=False, stderr=True)


_CANDIDATE = re.compile(r"([A-Za-z0-9_.-]{1,64})/([A-Za-z0-9_.:-]{1,64}):([1-9][0-9]{0,8})")


def _candidate(value: str | None) -> str | None:
    if value is not None and not _CANDIDATE.fullmatch(value):
        raise typer.BadParameter("TENANT/NAME:VERSION is wanted")
    return value


def eval(  # its name is the command's
    suite: Annotated[Path, typer.Argument(help="The suite, a YAML file; see docs/evaluation.md.", show_default=False)],
    only: Annotated[list[str] | None, typer.Option(help="Play this case alone; may be repeated.")] = None,
    repeat: Annotated[int, typer.Option(min=1, max=100, help="Play each case so often; medians count.")] = 1,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the report to this file.")] = None,
    baseline: Annotated[Path | None, typer.Option(help="An earlier report; what has become worse fails.")] = None,
    write_baseline: Annotated[bool, typer.Option(help="Write the report to the baseline's file instead.")] = False,
    tolerance: Annotated[
        float, typer.Option(min=0, max=1, help="By how much a score may be below the baseline's.")
    ] = gate.TOLERANCE,
    candidate: Annotated[
        str | None,
        typer.Option(callback=_candidate, help="TENANT/NAME:VERSION of a prompt, with which the suite is played."),
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Play a suite of conversations through the real server and score them."""
    if write_baseline and baseline is None:
        fail("--write-baseline wants --baseline FILE", 2)
    try:
        file = read_suite(suite)
        cases = _chosen(file, only or [])
        before = read_report(baseline) if baseline is not None and not write_baseline else None
        version = None if candidate is None else _version(read_settings(config), candidate)
        report = anyio.run(_evaluated, file, cases, repeat, version)
    except (SuiteError, SettingsError, ReportError) as error:
        fail(str(error), 2)
    except (KeyboardInterrupt, asyncio.CancelledError):
        fail("stopped", 130)
    _show(report)
    verdict = gate.passes(report, before, tolerance)
    try:
        for path in (json_file, baseline if write_baseline else None):
            if path is not None:
                write_report(report, path)
    except OSError as error:
        fail(f"the report cannot be written: {error}", 2)
    if before is not None and before.suite_sha256 != report.suite_sha256:
        _console.print("[yellow]the suite has changed since the baseline was written[/yellow]")
    for reason in verdict.reasons:
        _console.print(f"[red]{escape(reason)}[/red]")
    if not verdict.passed and not write_baseline:
        raise typer.Exit(1)


def _version(settings: Settings, candidate: str) -> PromptVersion:
    """The version, from the archive of the servers that it is to be released on."""
    match = _CANDIDATE.fullmatch(candidate)
    assert match is not None, "judged when it was read"
    tenant, name, number = match[1], match[2], int(match[3])

    async def look() -> PromptVersion | None:
        async with reading_archive(settings) as archive:
            return await archive.prompt_version(tenant, name, number)

    try:
        found = anyio.run(look)
    except (ArchiveUnavailable, DatabaseUnavailable) as error:
        fail(f"the archive does not answer: {error}", 2)
    if found is None:
        fail(f"tenant {tenant} has no version {number} of a prompt {name}", 2)
    return found


def _chosen(file: SuiteFile, only: list[str]) -> list[Case]:
    cases = {case.name: case for case in file.suite.cases}
    if unknown := [name for name in only if name not in cases]:
        raise SuiteError(f"{file.path}: there is no case {', '.join(unknown)}; there are {', '.join(cases)}")
    return [case for name, case in cases.items() if not only or name in only]


async def _evaluated(file: SuiteFile, cases: list[Case], repeat: int, candidate: PromptVersion | None) -> Report:
    with _console.status("starting") as status:

        def playing(case: Case) -> None:
            status.update(f"playing {escape(case.name)}")

        here = asyncio.current_task()
        assert here is not None, "run by a loop"
        listening = asyncio.create_task(_stop_when_told(here), name="Ctrl-C")
        try:
            return await evaluate(file, cases, repeat=repeat, candidate=candidate, playing=playing)
        finally:
            listening.cancel()


async def _stop_when_told(task: asyncio.Task[object]) -> None:
    """By a cancel of the evaluation alone, so that the server below it goes in its order; and by another one, since one
    that comes at a bad moment may be lost (Python 3.11)."""
    with anyio.open_signal_receiver(signal.SIGINT) as signals:
        async for _ in signals:
            while True:
                task.cancel()
                await anyio.sleep(_AGAIN_S)


def _show(report: Report) -> None:
    table = Table("", "case", "score", "s", "what was not as expected", box=None, header_style="dim")
    for case in report.cases:
        mark = "[green]ok[/green]" if case.passed else "[red]no[/red]"
        faults = list(dict.fromkeys(fault for run in case.runs for fault in run.faults()))
        shown = faults[:_FAULTS_SHOWN] + ([f"and {len(faults) - _FAULTS_SHOWN} more"] * (len(faults) > _FAULTS_SHOWN))
        table.add_row(mark, escape(case.name), f"{case.score:.2f}", f"{case.seconds:.2f}", escape("\n".join(shown)))
    Console(highlight=False).print(table)
