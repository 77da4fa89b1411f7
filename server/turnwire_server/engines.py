"""What stands behind the ports of the log, the archive and the counts of limits, and the engines of a single process.

Those of a cluster are in `clustered`, which is loaded only where there is one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

from .archive import sqlite as archive_sqlite
from .archive.base import Archive
from .eventlog import sqlite as log_sqlite
from .eventlog.base import EventLog
from .gateway.health.base import Board
from .quotas.base import QuotaStore
from .quotas.memory import MemoryQuotas
from .retrieval import sqlite as retrieval_sqlite
from .retrieval.store import DocumentStore
from .settings import Settings
from .sqlite import Database
from .telemetry.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Engines:
    """What stands behind the two ports, and what the server wants to know of it besides.

    ``checkpoint`` is the storage's own housekeeping; ``measure`` tells it where its figures go.
    """

    log: EventLog
    archive: Archive
    checkpoint: Callable[[], Awaitable[None]]
    measure: Callable[[Metrics], None]
    quotas: QuotaStore
    """Counts what tenants use."""
    documents: DocumentStore
    """Documents of tenants."""
    board: Board | None = None
    """Where nodes tell each other what they learn of the deployments; None where there is one node."""


OpenEngines = Callable[[Settings, AsyncExitStack], Awaitable[Engines]]


async def open_embedded(settings: Settings, stack: AsyncExitStack) -> Engines:
    """The engines that need nothing but ``data_dir``: one SQLite file for the log and the archive."""
    limits = settings.limits
    database = Database(settings.server.data_dir)
    stack.push_async_callback(database.aclose)
    await database.open([*log_sqlite.SCHEMA, *archive_sqlite.SCHEMA, *retrieval_sqlite.SCHEMA])
    log = log_sqlite.SqliteEventLog(
        database,
        retention_s=settings.storage.retention_s,
        reservation_s=limits.reservation_s,
        recorded_cancel_s=limits.recorded_cancel_s,
    )
    await log.open()
    stack.push_async_callback(log.aclose)
    archive = archive_sqlite.SqliteArchive(database)
    return Engines(
        log,
        archive,
        database.checkpoint,
        lambda metrics: metrics.sqlite_queue.set_function(lambda: database.waiting),
        MemoryQuotas(),
        retrieval_sqlite.SqliteDocuments(database),
    )
