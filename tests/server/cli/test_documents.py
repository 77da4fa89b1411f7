"""`turnwire documents`, beside a database that a server has open."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from tests.server.cli.test_tenant import Command
from tests.support.provider import refused_base_url, running_provider

from turnwire_server.archive import sqlite as archive_sqlite
from turnwire_server.cli.check import _documents
from turnwire_server.gateway.usage import TokenCounter
from turnwire_server.retrieval import sqlite as retrieval_sqlite
from turnwire_server.retrieval.service import Retrieval
from turnwire_server.retrieval.sqlite import SqliteDocuments
from turnwire_server.settings import build_settings
from turnwire_server.settings.retrieval import RetrievalSettings
from turnwire_server.sqlite import Database


@pytest.fixture
def turnwire(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "docs"
    (folder / "deep").mkdir(parents=True)
    (folder / "guide.md").write_text("# Cats\n\nA cat purrs.\n")
    (folder / "deep" / "more.txt").write_text("A dog barks.")
    (folder / "picture.png").write_bytes(b"\x89PNG")
    return Command(tmp_path)


def embedding_with(turnwire: Command, base_url: str) -> None:
    """Behind the tables: a deployment that makes vectors."""
    deployment = f'[[deployments]]\nname = "vec"\nmodel = "v"\nbase_url = "{base_url}"\ninput_usd_per_mtok = "2"\n'
    turnwire.config.write_text(turnwire.config.read_text() + deployment + '[retrieval]\nembeddings = "vec"\n')


def test_documents_from_the_first_to_the_last_day(turnwire: Command) -> None:
    said = "2 documents added or changed (2 chunks), 0 unchanged, 0 refused\n"
    assert turnwire.does("documents", "add", "docs") == said
    listed = turnwire.json("documents", "list")
    assert [(each["document_id"], each["chunks"], each["size_bytes"]) for each in listed] == [
        ("deep/more.txt", 1, 12),
        ("guide.md", 1, 21),
    ]
    Path("docs/guide.md").write_text("# Cats\n\nA cat meows.\n")
    assert "1 documents added or changed (1 chunks), 1 unchanged" in turnwire.does("documents", "add", "docs")
    assert "guide.md" in turnwire.does("documents", "list")
    said = turnwire.does("documents", "remove", "guide.md", "deep/more.txt")
    assert said.splitlines()[0] == "document guide.md of tenant default is removed"
    assert turnwire.json("documents", "list") == []
    assert turnwire.fails("documents", "remove", "guide.md") == "tenant default has no document guide.md"


def test_each_tenant_has_its_own(turnwire: Command) -> None:
    turnwire.does("documents", "add", "docs", "--tenant", "acme")
    assert turnwire.json("documents", "list") == []
    assert len(turnwire.json("documents", "list", "--tenant", "acme")) == 2


def test_paths_that_cannot_be_are_all_named_and_nothing_is_added(turnwire: Command) -> None:
    Path("empty").mkdir()
    said = turnwire.fails("documents", "add", "docs", "gone.md", "docs/picture.png", "empty", code=2)
    assert said.splitlines() == [
        "gone.md: there is no such file or folder",
        "docs/picture.png: must be one of .md, .markdown, .txt, .text",
        "empty: no .md, .markdown, .txt, .text in this folder",
    ]
    assert turnwire.json("documents", "list") == []


def test_two_files_that_would_be_one_document_are_refused(turnwire: Command) -> None:
    Path("other").mkdir()
    Path("other/guide.md").write_text("else")
    said = turnwire.fails("documents", "add", "docs", "other", code=2)
    assert said == "other/guide.md: would have the same id as docs/guide.md, guide.md"
    turnwire.does("documents", "add", "docs", "docs")


def test_files_that_are_no_text_are_refused_and_the_others_taken(turnwire: Command) -> None:
    Path("docs/bad.md").write_bytes(b"\xff\xfe")
    Path("docs/none.txt").write_text(" \n")
    result = turnwire("documents", "add", "docs")
    assert (result.exit_code, result.stdout) == (1, "2 documents added or changed (2 chunks), 0 unchanged, 2 refused\n")
    assert "docs/bad.md: is not text in UTF-8\ndocs/none.txt: there is no text in it" in result.stderr


async def test_it_works_beside_a_server_whose_next_search_finds_what_was_added(turnwire: Command) -> None:
    database = Database(turnwire.data_dir)
    await database.open([*archive_sqlite.SCHEMA, *retrieval_sqlite.SCHEMA])  # locked, as a server has it
    try:
        service = Retrieval(SqliteDocuments(database), RetrievalSettings(), TokenCounter())
        assert (await service.find("default", "dog", budget_tokens=100)).passages == ()
        await asyncio.to_thread(turnwire.does, "documents", "add", "docs")
        found = await service.find("default", "dog", budget_tokens=100)
        assert [passage.text for passage in found.passages] == ["A dog barks."]
    finally:
        await database.aclose()


async def test_chunks_are_embedded_and_their_price_is_said(turnwire: Command) -> None:
    async with running_provider() as provider:
        embedding_with(turnwire, provider.base_url)
        said = await asyncio.to_thread(turnwire.does, "documents", "add", "docs")
        assert said.endswith("0 refused; 2 chunks embedded for 0.000018 US dollars\n")
        assert "embedded" not in await asyncio.to_thread(turnwire.does, "documents", "add", "docs")


def test_a_provider_that_does_not_answer_is_told_and_what_was_added_stays(turnwire: Command) -> None:
    with refused_base_url() as url:
        embedding_with(turnwire, url)
        said = turnwire.fails("documents", "add", "docs")
        assert said.startswith("no vectors; what was added so far can be found by its words")
        assert len(json.loads(turnwire.does("documents", "list", "--format", "json"))) == 1


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ('embeddings = "gone"', 'retrieval.embeddings: "gone": no such deployment; there are: near'),
        ('embeddings = "near"', 'retrieval.embeddings: "near": must be a deployment of kind "openai"'),
        ("overlap_tokens = 200", "retrieval.overlap_tokens: 200: must be at most half of retrieval.chunk_tokens (256)"),
    ],
)
def test_settings_that_do_not_fit_are_told(turnwire: Command, table: str, said: str) -> None:
    turnwire.config.write_text(f"{turnwire.config.read_text()}[retrieval]\n{table}\n")
    assert said in turnwire.fails("documents", "list", code=2).splitlines()


def test_a_check_says_how_documents_are_found(turnwire: Command) -> None:
    assert "found by their words" in turnwire.does("check")
    addresses = {"redis_url": "redis://127.0.0.1:1", "mongo_url": "mongodb://127.0.0.1:1"}
    clustered = build_settings({"storage": addresses, "retrieval": {"memory_bytes": 2**20}}, {})
    assert _documents(clustered).said.endswith("words are ranked in this process's memory, 1 MiB of it at most")
