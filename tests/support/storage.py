"""What in-process test servers keep their data in: embedded, or Redis and MongoDB, for the same tests.

    with stored_in("redis"):                             # or: "cluster", its url, nodes=2
        async with running_server() as app: ...

A test that starts a server again on the same `data_dir` finds the same data again, of whatever kind they are.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pymongo
from tests.support.mongo import shared_mongo
from tests.support.redis import shared_redis

Kind = Literal["embedded", "redis", "cluster"]
KINDS: tuple[Kind, ...] = ("embedded", "redis", "cluster")
# Each start looks at each part a few times; the many starts of a test run need not look at all 64.
_PARTITIONS = 16


@dataclass
class Storage:
    """Where the servers of one test keep their data."""

    kind: Kind = "embedded"
    redis_url: str = ""
    mongo_url: str = ""
    nodes: int = 1
    """How many take the place of a server."""
    names: dict[Path, str] = field(default_factory=dict)

    def section(self, data_dir: Path | None) -> dict[str, Any]:
        """For the settings. Without a folder every server has data of its own."""
        if self.kind == "embedded":
            return {}
        name = f"test-{uuid.uuid4().hex}"
        name = self.names.setdefault(data_dir or Path(name), name)
        return {
            "redis_url": self.redis_url,
            "redis_prefix": name,
            "partitions": _PARTITIONS,
            "mongo_url": self.mongo_url,
            "mongo_database": name,
        }

    def drop(self) -> None:
        """What is in Redis goes with the server; databases cost the one they share time."""
        if self.names:
            with pymongo.MongoClient[dict[str, Any]](self.mongo_url, serverSelectionTimeoutMS=5000) as client:
                for name in self.names.values():
                    client.drop_database(name)


_current = Storage()


def storage() -> Storage:
    """Of the test that runs."""
    return _current


@contextmanager
def stored_in(kind: Kind, cluster_url: str = "", nodes: int = 1) -> Iterator[None]:
    """Servers that are started inside the block keep their data there."""
    global _current
    before = _current
    if kind == "embedded":
        _current = Storage()
    else:
        url = cluster_url if kind == "cluster" else shared_redis().url
        _current = Storage(kind, url, f"{shared_mongo().url}?retryWrites=false", nodes)
    try:
        yield
    finally:
        _current.drop()
        _current = before
