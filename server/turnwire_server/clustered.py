"""The engines of a cluster: Redis for the log and the counts of limits, MongoDB for the archive."""

from __future__ import annotations

from contextlib import AsyncExitStack

from .archive.mongo import MongoArchive
from .engines import Engines
from .eventlog.redis import RedisBoard, RedisEventLog, RedisQuotas
from .retrieval.mongo import MongoDocuments
from .settings import Settings


async def open_clustered(settings: Settings, stack: AsyncExitStack) -> Engines:
    """Redis for the log, MongoDB for the archive."""
    limits, storage = settings.limits, settings.storage
    assert storage.redis_url is not None, "asked for by open_engines"
    assert storage.mongo_url is not None, "the settings refuse one without the other"
    archive = MongoArchive(
        storage.mongo_url.get_secret_value(), storage.mongo_database, timeout_s=storage.mongo_timeout_s
    )
    stack.push_async_callback(archive.aclose)
    await archive.open()
    log = RedisEventLog(
        storage.redis_url.get_secret_value(),
        prefix=storage.redis_prefix,
        partitions=storage.partitions,
        durability=storage.redis_durability,
        timeout_s=storage.redis_timeout_s,
        lease_s=storage.lease_s,
        retention_s=storage.retention_s,
        reservation_s=limits.reservation_s,
        recorded_cancel_s=limits.recorded_cancel_s,
    )
    stack.push_async_callback(log.aclose)
    await log.open()

    async def nothing() -> None:
        """The servers keep house themselves."""

    url = storage.redis_url.get_secret_value()
    board = RedisBoard(url, prefix=storage.redis_prefix, timeout_s=storage.redis_timeout_s)
    quotas = RedisQuotas(url, prefix=storage.redis_prefix, timeout_s=storage.redis_timeout_s)
    for each in (board, quotas):
        stack.push_async_callback(each.aclose)
        each.open()
    documents = MongoDocuments(archive.reading, archive.writing, memory_bytes=settings.retrieval.memory_bytes)
    return Engines(log, archive, nothing, log.measure, quotas, documents, board)
