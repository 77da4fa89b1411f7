"""`DocumentStore` in the archive's SQLite file."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence

import orjson

from turnwire_server.archive.sqlite_calls import SqliteCalls

from . import words
from .documents import Chunk, ChunkKey, Document, DocumentOutline
from .store import Place

Connection = sqlite3.Connection

SCHEMA = (
    """CREATE TABLE IF NOT EXISTS documents (
        tenant TEXT NOT NULL, document TEXT NOT NULL, title TEXT NOT NULL, fingerprint TEXT NOT NULL,
        size INTEGER NOT NULL, at INTEGER NOT NULL, chunks INTEGER NOT NULL,
        PRIMARY KEY (tenant, document)) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS chunks (
        id INTEGER PRIMARY KEY, tenant TEXT NOT NULL, document TEXT NOT NULL, place INTEGER NOT NULL,
        begins INTEGER NOT NULL, ends INTEGER NOT NULL, tokens INTEGER NOT NULL, heading TEXT NOT NULL,
        text TEXT NOT NULL, fingerprint TEXT NOT NULL, UNIQUE (tenant, document, place))""",
    "CREATE INDEX IF NOT EXISTS chunks_by_fingerprint ON chunks (tenant, fingerprint)",
    """CREATE TABLE IF NOT EXISTS vectors (
        tenant TEXT NOT NULL, model TEXT NOT NULL, fingerprint TEXT NOT NULL, vector BLOB NOT NULL,
        PRIMARY KEY (tenant, fingerprint, model)) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS corpora (
        tenant TEXT NOT NULL PRIMARY KEY, version INTEGER NOT NULL) WITHOUT ROWID""",
)

_JOINED = (
    "SELECT c.*, d.fingerprint AS edition, d.title FROM chunks c"
    " JOIN documents d ON d.tenant = c.tenant AND d.document = c.document"
)
# Of those that are asked for, those that no chunk of the tenant has any more.
_ORPHANS = (
    "DELETE FROM vectors WHERE tenant = :tenant AND fingerprint IN (SELECT value FROM json_each(:gone))"
    " AND NOT EXISTS (SELECT 1 FROM chunks c WHERE c.tenant = :tenant AND c.fingerprint = vectors.fingerprint)"
)


class SqliteDocuments(SqliteCalls):
    """See `DocumentStore`. The database has been opened with `SCHEMA`."""

    def __repr__(self) -> str:
        return f"<SqliteDocuments in {self._db!r}>"

    async def put(self, tenant_id: str, document: Document) -> bool:
        return await self._write(lambda db: _put(db, tenant_id, document))

    async def outline(self, tenant_id: str, document_id: str) -> DocumentOutline | None:
        found = await self._read(lambda db: _outlines(db, tenant_id, document_id))
        return found[0] if found else None

    async def outlines(self, tenant_id: str) -> Sequence[DocumentOutline]:
        return await self._read(lambda db: _outlines(db, tenant_id, None))

    async def remove(self, tenant_id: str, document_id: str) -> bool:
        def remove(db: Connection) -> bool:
            gone = _take_away(db, tenant_id, document_id)
            if gone is None:
                return False
            _drop_orphans(db, tenant_id, gone)
            _changed(db, tenant_id)
            return True

        return await self._write(remove)

    async def version(self, tenant_id: str) -> int:
        def version(db: Connection) -> int:
            row = db.execute("SELECT version FROM corpora WHERE tenant = ?", (tenant_id,)).fetchone()
            return 0 if row is None else int(row["version"])

        return await self._read(version)

    async def places(self, tenant_id: str) -> Sequence[Place]:
        def places(db: Connection) -> list[Place]:
            rows = db.execute(
                "SELECT c.document, d.fingerprint AS edition, c.place, c.fingerprint FROM chunks c"
                " JOIN documents d ON d.tenant = c.tenant AND d.document = c.document WHERE c.tenant = ?"
                " ORDER BY c.document, c.place",
                (tenant_id,),
            )
            return [Place((row["document"], row["edition"], row["place"]), row["fingerprint"]) for row in rows]

        return await self._read(places)

    async def chunks(self, tenant_id: str, keys: Sequence[ChunkKey]) -> Mapping[ChunkKey, tuple[str, Chunk]]:
        def chunks(db: Connection) -> dict[ChunkKey, tuple[str, Chunk]]:
            found: dict[ChunkKey, tuple[str, Chunk]] = {}
            for key in keys:
                document_id, edition, place = key
                row = db.execute(
                    f"{_JOINED} WHERE c.tenant = ? AND c.document = ? AND c.place = ? AND d.fingerprint = ?",
                    (tenant_id, document_id, place, edition),
                ).fetchone()
                if row is not None:
                    found[key] = (row["title"], _chunk(row))
            return found

        return await self._read(chunks)

    async def by_words(self, tenant_id: str, query: str, *, limit: int) -> Sequence[ChunkKey]:
        def by_words(db: Connection) -> list[ChunkKey]:
            keys: list[ChunkKey] = []
            for found in words.search(db, words.table_of(tenant_id), query, limit):
                row = db.execute(f"{_JOINED} WHERE c.id = ? AND c.tenant = ?", (found, tenant_id)).fetchone()
                if row is not None:
                    keys.append((row["document"], row["edition"], row["place"]))
            return keys

        return await self._read(by_words)

    async def vectors(self, tenant_id: str, model: str, fingerprints: Sequence[str]) -> Mapping[str, bytes]:
        def vectors(db: Connection) -> dict[str, bytes]:
            rows = db.execute(
                "SELECT fingerprint, vector FROM vectors WHERE tenant = ? AND model = ?"
                " AND fingerprint IN (SELECT value FROM json_each(?))",
                (tenant_id, model, orjson.dumps(list(fingerprints)).decode()),
            )
            return {row["fingerprint"]: row["vector"] for row in rows}

        return await self._read(vectors)

    async def keep_vectors(self, tenant_id: str, model: str, vectors: Mapping[str, bytes]) -> None:
        def keep(db: Connection) -> None:
            db.executemany(
                "INSERT OR REPLACE INTO vectors (tenant, model, fingerprint, vector) VALUES (?, ?, ?, ?)",
                [(tenant_id, model, fingerprint, vector) for fingerprint, vector in vectors.items()],
            )
            _changed(db, tenant_id)

        await self._write(keep)


def _put(db: Connection, tenant_id: str, document: Document) -> bool:
    stands = _outlines(db, tenant_id, document.document_id)
    if stands and stands[0].fingerprint == document.fingerprint:
        return False
    gone = _take_away(db, tenant_id, document.document_id)
    table = words.table_of(tenant_id)
    words.create(db, table)
    for chunk in document.chunks:
        row = db.execute(
            "INSERT INTO chunks (tenant, document, place, begins, ends, tokens, heading, text, fingerprint)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                tenant_id, document.document_id, chunk.index, chunk.start, chunk.end, chunk.tokens, chunk.heading,
                chunk.text, chunk.fingerprint,
            ),
        ).lastrowid  # fmt: skip
        assert row is not None, "an INSERT has just given it"
        words.add(db, table, row, chunk.heading, chunk.text)
    db.execute(
        "INSERT INTO documents (tenant, document, title, fingerprint, size, at, chunks) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            tenant_id, document.document_id, document.title, document.fingerprint, document.size_bytes, document.at,
            len(document.chunks),
        ),
    )  # fmt: skip
    if gone is not None:
        _drop_orphans(db, tenant_id, gone)
    _changed(db, tenant_id)
    return True


def _take_away(db: Connection, tenant_id: str, document_id: str) -> list[str] | None:
    """The fingerprints of the chunks that went; None where there was no such document."""
    key = (tenant_id, document_id)
    if not db.execute("DELETE FROM documents WHERE tenant = ? AND document = ?", key).rowcount:
        return None
    rows = db.execute("SELECT * FROM chunks WHERE tenant = ? AND document = ?", key).fetchall()
    for row in rows:
        words.take_away(db, words.table_of(tenant_id), row["id"], row["heading"], row["text"])
    db.execute("DELETE FROM chunks WHERE tenant = ? AND document = ?", key)
    return [row["fingerprint"] for row in rows]


def _drop_orphans(db: Connection, tenant_id: str, gone: Sequence[str]) -> None:
    db.execute(_ORPHANS, {"tenant": tenant_id, "gone": orjson.dumps(list(gone)).decode()})


def _changed(db: Connection, tenant_id: str) -> None:
    db.execute(
        "INSERT INTO corpora VALUES (?, 1) ON CONFLICT DO UPDATE SET version = version + 1",
        (tenant_id,),
    )


def _outlines(db: Connection, tenant_id: str, document_id: str | None) -> list[DocumentOutline]:
    rows = db.execute(
        "SELECT * FROM documents WHERE tenant = :tenant AND (:document IS NULL OR document = :document)"
        " ORDER BY document",
        {"tenant": tenant_id, "document": document_id},
    )
    return [
        DocumentOutline(row["document"], row["title"], row["fingerprint"], row["size"], row["at"], row["chunks"])
        for row in rows
    ]


def _chunk(row: sqlite3.Row) -> Chunk:
    return Chunk(row["place"], row["begins"], row["ends"], row["tokens"], row["heading"], row["text"])
