"""Full text as SQLite's FTS5 has it: an index for each tenant, whose statistics are of its own chunks alone.

Both engines rank with it: the embedded one in its file, the clustered one in memory. A query is taken apart into words
here, so nothing in it is ever read as FTS5's syntax.
"""

from __future__ import annotations

import hashlib
import re
import sqlite3
from collections.abc import Sequence

_WORD = re.compile(r"[^\W_]+")
# More of a query does not find more, and every word is a walk through its list.
_MOST_WORDS = 64
# They are in nearly every chunk: their lists are the longest and say the least.
_STOP = frozenset(
    """a an and are as at be been but by can could did do does for from had has have how i if in into is it its me my of
    on or our s should so t that the their them then there these they this to was we were what when where which who why
    will with would you your""".split()  # noqa: SIM905 a list of 70 quoted words is harder to read
)


def table_of(tenant_id: str) -> str:
    """The name of the tenant's index. Ids of tenants differ in more than a table's name can."""
    return f"words_{hashlib.sha256(tenant_id.encode('utf-8', 'surrogatepass')).hexdigest()[:40]}"


def create(db: sqlite3.Connection, table: str) -> None:
    """Over the table ``chunks``, whose ``heading`` and ``text`` the index does not hold a second time."""
    db.execute(
        f"CREATE VIRTUAL TABLE IF NOT EXISTS {table} USING fts5("
        f"heading, text, content='chunks', content_rowid='id', tokenize='porter unicode61 remove_diacritics 2')"
    )


def add(db: sqlite3.Connection, table: str, row: int, heading: str, text: str) -> None:
    db.execute(f"INSERT INTO {table} (rowid, heading, text) VALUES (?, ?, ?)", (row, heading, text))  # noqa: S608 see `table_of`


def take_away(db: sqlite3.Connection, table: str, row: int, heading: str, text: str) -> None:
    """What is said of the row must be what was added."""
    delete = f"INSERT INTO {table} ({table}, rowid, heading, text) VALUES ('delete', ?, ?, ?)"  # noqa: S608 see `table_of`
    db.execute(delete, (row, heading, text))


def search(db: sqlite3.Connection, table: str, query: str, limit: int) -> list[int]:
    """Rows that have words of the query, the best first."""
    match = match_for(query)
    exists = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
    if match is None or db.execute(exists, (table,)).fetchone() is None:
        return []
    # Of those with the same score not the first to come: in what order they came must not show.
    found = db.execute(
        f"SELECT chunks.id FROM {table} JOIN chunks ON chunks.id = {table}.rowid WHERE {table} MATCH ?"  # noqa: S608
        f" ORDER BY bm25({table}), chunks.document, chunks.place LIMIT ?",
        (match, limit),
    )
    return [row[0] for row in found]


def match_for(query: str) -> str | None:
    """Any of the query's words, each as a quoted string; None where there is none."""
    words = list(dict.fromkeys(word.lower() for word in _WORD.findall(query)))
    telling: Sequence[str] = [word for word in words if word not in _STOP] or words
    return " OR ".join(f'"{word}"' for word in telling[:_MOST_WORDS]) or None
