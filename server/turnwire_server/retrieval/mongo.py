"""`DocumentStore` in the archive's MongoDB. It is given the archive's way to call; the driver stays in `archive.mongo`.

A document is one record, its chunks in it: one write puts it in place of another, without a transaction. Words are
looked for in an index in memory, built from the tenant's chunks when they have changed: what MongoDB's own text search
ranks by is not BM25, and most servers have none of the newer kinds.

The version is raised after each change. Who builds an index asks for the version first, so one that was built in
between is older than its name at worst, and is built again at the next look.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import anyio.to_thread

from turnwire_server.archive.base import ArchiveUnavailable
from turnwire_server.archive.mongo_documents import identity

from . import words
from .bounded import Bounded
from .building import Builds
from .documents import Chunk, ChunkKey, Document, DocumentOutline
from .store import Place

Record = dict[str, Any]
Reading = Callable[[], AbstractAsyncContextManager[Any]]
Writing = Callable[[], AbstractAsyncContextManager[tuple[Any, Any]]]

_OUTLINE = {"chunks.text": False, "chunks.heading": False}
_PAGE = 1_000
_OVERHEAD = 3
"""Bytes of an index in memory for each byte of text, with some to spare: it holds where words are, not the text."""


class MongoDocuments:
    """See `DocumentStore`. ``memory_bytes`` is for the word indexes of all tenants together."""

    def __init__(self, reading: Reading, writing: Writing, *, memory_bytes: int) -> None:
        self._reading = reading
        self._writing = writing
        self._indexes: Bounded[str, _Index] = Bounded(memory_bytes)
        self._builds: Builds[tuple[str, int], _Index] = Builds()

    def __repr__(self) -> str:
        return f"<MongoDocuments {self._indexes!r}>"

    async def put(self, tenant_id: str, document: Document) -> bool:
        key = {"_id": identity(tenant_id, document.document_id)}
        async with self._writing() as (db, writing):
            documents = db["documents"]
            wanted = {"fingerprint": True, "chunks.fingerprint": True}
            stands = await documents.find_one(key, wanted, session=writing.session)
            if stands is not None and stands["fingerprint"] == document.fingerprint:
                return False
            record = {**key, **_record(tenant_id, document)}
            await writing.do(documents.replace_one(key, record, upsert=True, session=writing.session))
            if stands is not None:
                await _drop_orphans(db, writing, tenant_id, [each["fingerprint"] for each in stands["chunks"]])
            await _changed(db, writing, tenant_id)
            return True

    async def outline(self, tenant_id: str, document_id: str) -> DocumentOutline | None:
        async with self._reading() as db:
            found = await db["documents"].find_one({"_id": identity(tenant_id, document_id)}, _OUTLINE)
            return None if found is None else _outline(found)

    async def outlines(self, tenant_id: str) -> Sequence[DocumentOutline]:
        async with self._reading() as db:
            found = await db["documents"].find({"tenant": tenant_id}, _OUTLINE).to_list(None)
        return sorted(map(_outline, found), key=lambda outline: outline.document_id)

    async def remove(self, tenant_id: str, document_id: str) -> bool:
        key = {"_id": identity(tenant_id, document_id)}
        async with self._writing() as (db, writing):
            stands = await db["documents"].find_one(key, {"chunks.fingerprint": True}, session=writing.session)
            if stands is None:
                return False
            await writing.do(db["documents"].delete_one(key, session=writing.session))
            await _drop_orphans(db, writing, tenant_id, [each["fingerprint"] for each in stands["chunks"]])
            await _changed(db, writing, tenant_id)
            return True

    async def version(self, tenant_id: str) -> int:
        async with self._reading() as db:
            found = await db["corpora"].find_one({"_id": identity(tenant_id)})
            return 0 if found is None else int(found["version"])

    async def places(self, tenant_id: str) -> Sequence[Place]:
        async with self._reading() as db:
            found = await db["documents"].find({"tenant": tenant_id}, _OUTLINE).to_list(None)
        found.sort(key=lambda record: record["document"])
        return [
            Place((record["document"], record["fingerprint"], chunk["index"]), chunk["fingerprint"])
            for record in found
            for chunk in record["chunks"]
        ]

    async def chunks(self, tenant_id: str, keys: Sequence[ChunkKey]) -> Mapping[ChunkKey, tuple[str, Chunk]]:
        ids = sorted({identity(tenant_id, document_id) for document_id, _, _ in keys})
        async with self._reading() as db:
            records = await db["documents"].find({"_id": {"$in": ids}}).to_list(None)
        known = {
            (record["document"], record["fingerprint"], chunk["index"]): (record["title"], _chunk(chunk))
            for record in records
            for chunk in record["chunks"]
        }
        return {key: known[key] for key in keys if key in known}

    async def by_words(self, tenant_id: str, query: str, *, limit: int) -> Sequence[ChunkKey]:
        version = await self.version(tenant_id)
        index = self._indexes.get(tenant_id)
        if index is None or index.version != version:
            index = await self._builds.wait((tenant_id, version), lambda: self._built(tenant_id, version))
        return await anyio.to_thread.run_sync(index.search, query, limit)

    async def _built(self, tenant_id: str, version: int) -> _Index:
        async with self._reading() as db:
            records = await db["documents"].find({"tenant": tenant_id}).to_list(None)
        records.sort(key=lambda record: record["document"])
        index = await anyio.to_thread.run_sync(_Index, version, records)
        if not self._indexes.put(tenant_id, index, index.size_bytes):
            reason = "the tenant's documents are too large to be searched: see retrieval.memory_bytes"
            raise ArchiveUnavailable(reason, unknown=False)
        return index

    async def vectors(self, tenant_id: str, model: str, fingerprints: Sequence[str]) -> Mapping[str, bytes]:
        vectors: dict[str, bytes] = {}
        for begin in range(0, len(fingerprints), _PAGE):
            ids = [identity(tenant_id, model, each) for each in fingerprints[begin : begin + _PAGE]]
            async with self._reading() as db:
                found = await db["vectors"].find({"_id": {"$in": ids}}).to_list(None)
            vectors.update((record["fingerprint"], bytes(record["vector"])) for record in found)
        return vectors

    async def keep_vectors(self, tenant_id: str, model: str, vectors: Mapping[str, bytes]) -> None:
        async with self._writing() as (db, writing):
            for fingerprint, vector in vectors.items():
                key = {"_id": identity(tenant_id, model, fingerprint)}
                record = {"tenant": tenant_id, "fingerprint": fingerprint, "vector": vector}
                await writing.upsert(db["vectors"], key, {"$set": record})
            await _changed(db, writing, tenant_id)


class _Index:
    """The words of a tenant's chunks, in a database of its own in memory."""

    def __init__(self, version: int, records: Sequence[Record]) -> None:
        self.version = version
        self.size_bytes = 1024
        self._keys: list[ChunkKey] = []
        self._lock = threading.Lock()
        self._db = sqlite3.connect(":memory:", check_same_thread=False)
        self._db.execute("CREATE TABLE chunks (id INTEGER PRIMARY KEY, document TEXT, place INTEGER)")
        words.create(self._db, "words")
        for record in records:
            for chunk in record["chunks"]:
                place = (len(self._keys), record["document"], chunk["index"])
                self._db.execute("INSERT INTO chunks VALUES (?, ?, ?)", place)
                words.add(self._db, "words", place[0], chunk["heading"], chunk["text"])
                self._keys.append((record["document"], record["fingerprint"], chunk["index"]))
                self.size_bytes += _OVERHEAD * len(chunk["text"].encode()) + 256
        self._db.commit()

    def __del__(self) -> None:
        self._db.close()  # nobody searches it: a search holds it

    def search(self, query: str, limit: int) -> list[ChunkKey]:
        """In a thread; one at a time."""
        with self._lock:
            return [self._keys[row] for row in words.search(self._db, "words", query, limit)]


async def _drop_orphans(db: Any, writing: Any, tenant_id: str, gone: Sequence[str]) -> None:
    """Of the fingerprints those that no chunk of the tenant has any more lose their vectors."""
    theirs = {"tenant": tenant_id, "chunks.fingerprint": {"$in": list(gone)}}
    found = await db["documents"].find(theirs, {"chunks.fingerprint": True}, session=writing.session).to_list(None)
    used = {chunk["fingerprint"] for record in found for chunk in record["chunks"]}
    if orphans := [each for each in gone if each not in used]:
        unused = {"tenant": tenant_id, "fingerprint": {"$in": orphans}}
        await writing.do(db["vectors"].delete_many(unused, session=writing.session))


async def _changed(db: Any, writing: Any, tenant_id: str) -> None:
    await writing.upsert(db["corpora"], {"_id": identity(tenant_id)}, {"$inc": {"version": 1}})


def _record(tenant_id: str, document: Document) -> Record:
    return {
        "tenant": tenant_id,
        "document": document.document_id,
        "title": document.title,
        "fingerprint": document.fingerprint,
        "size": document.size_bytes,
        "at": document.at,
        "chunks": [
            {
                "index": chunk.index,
                "start": chunk.start,
                "end": chunk.end,
                "tokens": chunk.tokens,
                "heading": chunk.heading,
                "text": chunk.text,
                "fingerprint": chunk.fingerprint,
            }
            for chunk in document.chunks
        ],
    }


def _outline(record: Record) -> DocumentOutline:
    return DocumentOutline(
        record["document"],
        record["title"],
        record["fingerprint"],
        record["size"],
        record["at"],
        len(record["chunks"]),
    )


def _chunk(record: Record) -> Chunk:
    return Chunk(record["index"], record["start"], record["end"], record["tokens"], record["heading"], record["text"])
