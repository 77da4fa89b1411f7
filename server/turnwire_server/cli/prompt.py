"""`turnwire prompt`: the templates of a tenant's prompts, by version, and which of them are used.

A version is never changed: another text is another version. Which one is released, and which one a share of the
conversations tries, is live on all nodes within seconds and goes into the audit log, as changes of tenants do.
"""

from __future__ import annotations

import difflib
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from turnwire_server.archive.base import Archive
from turnwire_server.archive.prompts import PromptRecord, PromptVersion
from turnwire_server.archive.tenants import AuditEntry
from turnwire_server.cli.archive import Shape, as_json, person, when, with_archive
from turnwire_server.cli.common import ConfigOption, fail, read_settings
from turnwire_server.evaluation import gate
from turnwire_server.evaluation.report import ReportError, read_report
from turnwire_server.orchestration.prompts import PromptTemplate, TemplateFault, Variable
from turnwire_server.settings import Settings
from turnwire_server.settings.section import is_name
from turnwire_server.settings.tree import DEFAULT_TENANT

app = typer.Typer(no_args_is_help=True, help="Keep prompts by version, and say which of them are used.")

_MOST_NOTE_CHARS = 500

TenantArgument = Annotated[str, typer.Argument(help="Name of the tenant; `default` for all that are not named.")]
NameArgument = Annotated[str, typer.Argument(help="Name of the prompt, as [tenants.NAME] prompt has it.")]
VersionArgument = Annotated[int, typer.Argument(help="Number of the version.", min=1)]
FileArgument = Annotated[Path, typer.Argument(help="File with the template; - reads standard input.")]
VariablesOption = Annotated[
    list[str] | None,
    typer.Option("--variable", "-v", metavar="NAME[=DEFAULT]", help="A variable; without a default it must be given."),
]
SizesOption = Annotated[
    list[str] | None,
    typer.Option("--max-chars", metavar="NAME=N", help="Characters that a value may have; 1000 where nothing is said."),
]
NoteOption = Annotated[str | None, typer.Option(help="What is new in it.", show_default=False)]
ShareOption = Annotated[
    int, typer.Option(help="Percent of the conversations that get it; 0 ends the trial.", min=0, max=100)
]
ActorOption = Annotated[
    str | None, typer.Option(help="Who acts, for the audit log; absent: who runs this.", show_default=False)
]
ShapeOption = Annotated[Shape, typer.Option("--format", help="How to print it.")]
OneVersionOption = Annotated[
    int | None, typer.Option("--version", help="Which; absent: the released one, else the newest.", min=1)
]


@app.command()
def add(
    tenant: TenantArgument,
    name: NameArgument,
    file: FileArgument,
    variable: VariablesOption = None,
    max_chars: SizesOption = None,
    note: NoteOption = None,
    actor: ActorOption = None,
    config: ConfigOption = None,
) -> None:
    """Add a version, as a draft: nobody gets it until it is released or tried."""
    settings = read_settings(config)
    _check_name("tenant", tenant)
    _check_name("prompt", name)
    if note is not None and len(note) > _MOST_NOTE_CHARS:
        fail(f"--note: at most {_MOST_NOTE_CHARS} characters", 2)
    variables = _variables(variable or [], max_chars or [])
    text = _text(file)
    try:
        PromptTemplate(text, variables)
    except TemplateFault as fault:
        fail(f"{file}: {fault}", 2)
    kept = {known: one.to_json() for known, one in variables.items()}
    by = actor or person()

    async def change(archive: Archive) -> str:
        stands = await archive.prompt(tenant, name)
        now = int(time.time() * 1000)
        before = stands or PromptRecord(tenant, name, 0, 0, None, None, 0, now, by)
        if before.versions:
            newest = await archive.prompt_version(tenant, name, before.versions)
            if newest is not None and (newest.text, dict(newest.variables)) == (text, kept):
                return f"prompt {name} of tenant {tenant}: version {newest.version} is the same already"
        new = PromptVersion(tenant, name, before.versions + 1, text, kept, note, now, by)
        after = replace(before, versions=new.version)
        await _put(archive, before, after, by, "prompt.add", new)
        return f"prompt {name} of tenant {tenant}: version {new.version} is a draft"

    typer.echo(with_archive(settings, change))


@app.command()
def release(
    tenant: TenantArgument,
    name: NameArgument,
    version: VersionArgument,
    report: Annotated[
        Path | None,
        typer.Option(help="Report of turnwire eval made with this version; it has to pass.", show_default=False),
    ] = None,
    actor: ActorOption = None,
    config: ConfigOption = None,
) -> None:
    """Give this version to all new requests; a version that was tried is not tried any more."""
    settings = read_settings(config)
    if report is not None:
        _check_report(report, gate.named(tenant, name, version))
    elif with_archive(settings, lambda archive: _wants_report(archive, settings, tenant)):
        fail(f"tenant {tenant} has release_by_report: give the report of turnwire eval with --report")

    def released(before: PromptRecord) -> PromptRecord:
        candidate = None if before.candidate == version else before.candidate
        return replace(before, released=version, candidate=candidate, share=0 if candidate is None else before.share)

    _move(settings, (tenant, name, version), actor, "prompt.release", released)


@app.command()
def candidate(
    tenant: TenantArgument,
    name: NameArgument,
    version: VersionArgument,
    share: ShareOption,
    actor: ActorOption = None,
    config: ConfigOption = None,
) -> None:
    """Give this version to a share of the conversations, the released one to the others."""

    def tried(before: PromptRecord) -> PromptRecord:
        if before.released is None:
            fail(f"no version of prompt {name} is released: there is nothing for the other conversations")
        if before.released == version:
            fail(f"version {version} of prompt {name} is released: all have it")
        if share == 0 and before.candidate != version:
            fail(f"version {version} of prompt {name} is not tried")
        return replace(before, candidate=version if share else None, share=share)

    _move(read_settings(config), (tenant, name, version), actor, "prompt.candidate", tried)


@app.command(name="list")
def list_(tenant: TenantArgument, shape: ShapeOption = Shape.TABLE, config: ConfigOption = None) -> None:
    """List a tenant's prompts."""
    settings = read_settings(config)
    records = with_archive(settings, lambda archive: archive.prompts(tenant))
    if shape is Shape.JSON:
        typer.echo(as_json([asdict(record) for record in records]))
        return
    table = Table("prompt", "versions", "released", "candidate", "changed", "by", box=None, header_style="dim")
    for record in records:
        tried = "" if record.candidate is None else f"{record.candidate} ({record.share} %)"
        released = "" if record.released is None else str(record.released)
        shown = (record.name, str(record.versions), released, tried, when(record.changed_at), record.changed_by)
        table.add_row(*map(escape, shown))
    Console(highlight=False).print(table)


@app.command()
def show(
    tenant: TenantArgument,
    name: NameArgument,
    version: OneVersionOption = None,
    shape: ShapeOption = Shape.TABLE,
    config: ConfigOption = None,
) -> None:
    """Show a prompt's versions, and the template of one."""
    settings = read_settings(config)

    async def look(archive: Archive) -> tuple[PromptRecord, Sequence[PromptVersion]]:
        return await _found(archive, tenant, name), await archive.prompt_versions(tenant, name)

    record, versions = with_archive(settings, look)
    chosen = _chosen(versions, version or record.released or record.versions, record)
    described = [_described(one, record) for one in versions]
    if shape is Shape.JSON:
        typer.echo(as_json({**asdict(record), "all": described, "shown": chosen.version, "text": chosen.text}))
        return
    table = Table("version", "state", "variables", "added", "by", "note", box=None, header_style="dim")
    for one, said in zip(versions, described, strict=True):
        added = when(one.created_at)
        table.add_row(
            *map(escape, (str(one.version), said["state"], _listed(one), added, one.created_by, one.note or ""))
        )
    Console(highlight=False).print(table)
    typer.echo(f"\n--- version {chosen.version}\n{chosen.text}")


@app.command()
def diff(
    tenant: TenantArgument,
    name: NameArgument,
    old: Annotated[int, typer.Argument(help="Number of one version.", min=1)],
    new: Annotated[int, typer.Argument(help="Number of the other.", min=1)],
    config: ConfigOption = None,
) -> None:
    """Show how two versions differ."""
    settings = read_settings(config)

    async def look(archive: Archive) -> list[PromptVersion]:
        record = await _found(archive, tenant, name)
        versions = await archive.prompt_versions(tenant, name)
        return [_chosen(versions, number, record) for number in (old, new)]

    before, after = with_archive(settings, look)
    lines = difflib.unified_diff(_lines(before), _lines(after), f"version {old}", f"version {new}", lineterm="")
    typer.echo("\n".join(lines) or f"versions {old} and {new} are the same")


# --- changing --------------------------------------------------------------------------------------------


def _move(
    settings: Settings,
    which: tuple[str, str, int],
    actor: str | None,
    act: str,
    moved: Callable[[PromptRecord], PromptRecord],
) -> None:
    """Change which versions are used."""
    tenant, name, version = which
    by = actor or person()

    async def change(archive: Archive) -> str:
        before = await _found(archive, tenant, name)
        if version > before.versions:
            fail(f"prompt {name} has no version {version}; the newest is {before.versions}")
        after = moved(before)
        if after == before:
            return f"prompt {name} of tenant {tenant} stands so already"
        await _put(archive, before, after, by, act)
        where = f"on all nodes within {settings.limits.tenant_refresh_s:g} s"
        return f"prompt {name} of tenant {tenant}: {_standing(after)}, {where}"

    typer.echo(with_archive(settings, change))


async def _put(
    archive: Archive,
    before: PromptRecord,
    after: PromptRecord,
    by: str,
    act: str,
    new: PromptVersion | None = None,
) -> None:
    """Make the change, with its entry in the audit log, or end the command."""
    now = int(time.time() * 1000)
    details: dict[str, Any] = {"prompt": after.name}
    if new is not None:
        details |= {"version": new.version, "characters": len(new.text), "variables": sorted(new.variables)}
    else:
        details |= {key: getattr(after, key) for key in ("released", "candidate", "share")}
    entry = AuditEntry(uuid.uuid4().hex, now, by, act, after.tenant_id, details)
    record = replace(after, revision=before.revision + 1, changed_at=now, changed_by=by)
    stands, done = await archive.put_prompt(record, entry=entry, new=new)
    if not done:
        other = "" if stands is None else f" by {stands.changed_by}"
        fail(f"prompt {after.name} has just been changed{other}; nothing was done, look at it and try again")


async def _found(archive: Archive, tenant: str, name: str) -> PromptRecord:
    record = await archive.prompt(tenant, name)
    if record is None:
        known = ", ".join(one.name for one in await archive.prompts(tenant)) or "none"
        fail(f"tenant {tenant} has no prompt {name}; it has: {known}")
    return record


def _chosen(versions: Sequence[PromptVersion], version: int, record: PromptRecord) -> PromptVersion:
    found = next((one for one in versions if one.version == version), None)
    if found is None:
        fail(f"prompt {record.name} has no version {version}; the newest is {record.versions}")
    return found


async def _wants_report(archive: Archive, settings: Settings, tenant: str) -> bool:
    """Whether nothing is released for this tenant without a report."""
    named_in_file = settings.tenants.get(tenant)
    if named_in_file is not None:
        return named_in_file.release_by_report
    record = await archive.tenant(tenant)
    if record is None or record.settings is None:
        default = settings.tenants.get(DEFAULT_TENANT)
        return default is not None and default.release_by_report
    return bool(record.settings.get("release_by_report"))


def _check_report(path: Path, candidate: str) -> None:
    try:
        verdict = gate.releases(read_report(path), candidate)
    except ReportError as error:
        fail(str(error), 2)
    if not verdict.passed:
        reasons = "".join(f"\n  {reason}" for reason in verdict.reasons)
        fail(f"{path}: {candidate} may not be released:{reasons}")


# --- what was typed --------------------------------------------------------------------------------------


def _check_name(what: str, name: str) -> None:
    if not is_name(name):
        fail(f"{what} {name}: a name must be 1 to 64 characters of A-Z a-z 0-9 _ - . :", 2)


def _variables(declared: Sequence[str], sizes: Sequence[str]) -> dict[str, Variable]:
    variables: dict[str, Variable] = {}
    for said in declared:
        name, sign, default = said.partition("=")
        if name in variables:
            fail(f"--variable {name}: given twice", 2)
        variables[name] = Variable(default if sign else None)
    for said in sizes:
        name, _, number = said.partition("=")
        if name not in variables:
            fail(f"--max-chars {said}: there is no --variable {name}", 2)
        if not (number.isascii() and number.isdigit()):
            fail(f"--max-chars {said}: expected NAME=N", 2)
        variables[name] = replace(variables[name], max_chars=int(number))
    return variables


def _text(file: Path) -> str:
    try:
        text = sys.stdin.buffer.read().decode() if str(file) == "-" else file.read_bytes().decode()
    except OSError as error:
        fail(f"{file}: cannot be read: {error.strerror}", 2)
    except UnicodeDecodeError:
        fail(f"{file}: is no UTF-8 text", 2)
    if not text.strip():
        fail(f"{file}: is empty", 2)
    return text


# --- what is shown ---------------------------------------------------------------------------------------


def _standing(record: PromptRecord) -> str:
    released = f"version {record.released} is released"
    if record.candidate is None:
        return released
    return f"{released}, {record.share} % of the conversations get version {record.candidate}"


def _described(version: PromptVersion, record: PromptRecord) -> dict[str, Any]:
    kept = asdict(version)
    return {
        **{key: kept[key] for key in ("version", "variables", "note", "created_at", "created_by")},
        "state": record.state(version.version),
    }


def _lines(version: PromptVersion) -> list[str]:
    """What two versions are compared by."""
    return [*(f"variable {said}" for said in _said(version)), *version.text.splitlines()]


def _said(version: PromptVersion) -> list[str]:
    """Its variables, each as it is declared."""
    said = []
    for name, kept in version.variables.items():
        one = Variable.from_json(kept)
        default = "" if one.default is None else f"={one.default}"
        said.append(f"{name}{default} (at most {one.max_chars} characters)")
    return sorted(said)


def _listed(version: PromptVersion) -> str:
    return ", ".join(name if "default" not in kept else f"{name}=…" for name, kept in version.variables.items())
