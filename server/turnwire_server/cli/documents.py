"""`turnwire documents`: what the models of a tenant may look things up in, while servers run."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, TypeVar

import anyio
import orjson
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from turnwire_server.archive.base import ArchiveUnavailable
from turnwire_server.cli.archive import Shape, opened_storage
from turnwire_server.cli.common import ConfigOption, fail, read_settings
from turnwire_server.gateway.errors import ProviderError
from turnwire_server.gateway.usage import TokenCounter, usd_text
from turnwire_server.retrieval import sqlite as retrieval_sqlite
from turnwire_server.retrieval.build import opened
from turnwire_server.retrieval.documents import DocumentRefused, RetrievalUnavailable
from turnwire_server.retrieval.mongo import MongoDocuments
from turnwire_server.retrieval.service import Retrieval
from turnwire_server.retrieval.store import DocumentStore
from turnwire_server.settings import Settings
from turnwire_server.sqlite import Database, DatabaseUnavailable

app = typer.Typer(no_args_is_help=True, help="Documents that answers of a tenant are looked up in.")

T = TypeVar("T")

_MARKDOWN = (".md", ".markdown")
_KNOWN = (*_MARKDOWN, ".txt", ".text")


def _tenant(name: str) -> str:
    if not name or not name.isprintable():
        raise typer.BadParameter("must be the name of a tenant")
    return name


TenantOption = Annotated[str, typer.Option(callback=_tenant, help="Name of the tenant, as tokens have it.")]
ShapeOption = Annotated[Shape, typer.Option("--format", help="How to print it.")]


@dataclass(frozen=True, slots=True)
class _File:
    """A file, and the id of its document: its path as it was given, or below the folder that was."""

    path: Path
    document_id: str


@app.command()
def add(
    paths: Annotated[list[Path], typer.Argument(help="Files of text or Markdown, or folders of them.")],
    tenant: TenantOption = "default",
    config: ConfigOption = None,
) -> None:
    """Add documents, or put them in the place of those with their ids; unchanged ones cost nothing."""
    settings = read_settings(config)
    files = _files(paths)
    refused = _with_retrieval(settings, lambda retrieval: _added(retrieval, tenant, files))
    if refused:
        fail("\n".join(refused))


@app.command(name="list")
def list_(tenant: TenantOption = "default", shape: ShapeOption = Shape.TABLE, config: ConfigOption = None) -> None:
    """List the documents of a tenant."""
    settings = read_settings(config)
    found = _with_retrieval(settings, lambda retrieval: retrieval.documents(tenant))
    if shape is Shape.JSON:
        typer.echo(orjson.dumps(found, option=orjson.OPT_INDENT_2).decode())
        return
    table = Table("id", "title", "bytes", "chunks", "added", box=None, header_style="dim")
    for each in found:
        added = datetime.fromtimestamp(each.at / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
        shown = (each.document_id, each.title, str(each.size_bytes), str(each.chunks), added)
        table.add_row(*map(escape, shown))
    Console(highlight=False).print(table)


@app.command()
def remove(
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Ids, as `list` shows them.")],
    tenant: TenantOption = "default",
    config: ConfigOption = None,
) -> None:
    """Remove documents, and what was kept of their texts."""
    settings = read_settings(config)

    async def removed(retrieval: Retrieval) -> list[str]:
        return [each for each in dict.fromkeys(ids) if not await retrieval.remove(tenant, each)]

    missing = _with_retrieval(settings, removed)
    for each in dict.fromkeys(ids):
        if each not in missing:
            typer.echo(f"document {each} of tenant {tenant} is removed")
    if missing:
        fail("\n".join(f"tenant {tenant} has no document {each}" for each in missing))


def _files(paths: Sequence[Path]) -> list[_File]:
    """All files, each once; the end of the command where there is anything that cannot be one."""
    files: dict[str, _File] = {}
    faults: list[str] = []
    for path in paths:
        found = [path]
        if path.is_dir():
            found = sorted(each for each in path.rglob("*") if each.suffix.lower() in _KNOWN and each.is_file())
            if not found:
                faults.append(f"{path}: no {', '.join(_KNOWN)} in this folder")
        elif not path.is_file():
            faults.append(f"{path}: there is no such file or folder")
        elif path.suffix.lower() not in _KNOWN:
            faults.append(f"{path}: must be one of {', '.join(_KNOWN)}")
        for each in found:
            document_id = each.relative_to(path).as_posix() if path.is_dir() else path.as_posix()
            if document_id in files and not files[document_id].path.samefile(each):
                faults.append(f"{each}: would have the same id as {files[document_id].path}, {document_id}")
            files.setdefault(document_id, _File(each, document_id))
    if faults:
        fail("\n".join(faults), 2)
    return list(files.values())


async def _added(retrieval: Retrieval, tenant_id: str, files: Sequence[_File]) -> list[str]:
    """Why which were not taken. Says what has become of the others."""
    refused: list[str] = []
    changed = chunks = embedded = 0
    cost = Decimal(0)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("documents", total=len(files))
        for file in files:
            progress.update(task, description=escape(file.document_id[-40:]))
            try:
                text = file.path.read_bytes().decode("utf-8-sig")
                is_markdown = file.path.suffix.lower() in _MARKDOWN
                added = await retrieval.add(tenant_id, file.document_id, text, markdown=is_markdown)
            except OSError as error:
                refused.append(f"{file.path}: cannot be read: {error.strerror}")
            except UnicodeDecodeError:
                refused.append(f"{file.path}: is not text in UTF-8")
            except DocumentRefused as error:
                refused.append(f"{file.path}: {error}")
            else:
                changed += added.changed
                chunks += added.chunks if added.changed else 0
                embedded += added.embedded
                cost += added.cost_usd
            progress.advance(task)
    same = len(files) - changed - len(refused)
    said = f"{changed} documents added or changed ({chunks} chunks), {same} unchanged, {len(refused)} refused"
    if embedded:
        said += f"; {embedded} chunks embedded for {usd_text(cost)} US dollars"
    typer.echo(said)
    return refused


def _with_retrieval(settings: Settings, work: Callable[[Retrieval], Awaitable[T]]) -> T:
    """What ``work`` returns, or the end of the command where something does not answer."""

    async def run() -> T:
        async with opened_storage(settings, retrieval_sqlite.SCHEMA) as storage:
            if isinstance(storage, Database):
                store: DocumentStore = retrieval_sqlite.SqliteDocuments(storage)
            else:
                most = settings.retrieval.memory_bytes
                store = MongoDocuments(storage.reading, storage.writing, memory_bytes=most)
            async with opened(settings, store, TokenCounter.load(), os.environ) as retrieval:
                return await work(retrieval)

    try:
        return anyio.run(run)
    except (ArchiveUnavailable, DatabaseUnavailable, RetrievalUnavailable) as error:
        fail(f"the archive does not answer: {error}")
    except ProviderError as error:
        fail(f"no vectors; what was added so far can be found by its words, add it again later: {error.message}")
