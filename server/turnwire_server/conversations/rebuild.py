"""After a loss: what the archive holds as not ended is compared with the log, part by part (DESIGN section 3).

For one lease time only living owners put their turns back; what is then still unknown is entered from the archive, as
an orphan for any node to take. A part whose open requests are all known is settled at once. Now and then, by one node,
the whole is looked over, so that nothing stays open that no log knows, whatever the reason.
"""

from __future__ import annotations

import logging
import uuid
from collections import defaultdict
from collections.abc import Sequence

import anyio

from turnwire_server.archive.base import ArchiveUnavailable, RequestRecord
from turnwire_server.eventlog.base import Base, ConversationRef, Doubt, LogUnavailable, RequestRef

from .services import Services

logger = logging.getLogger(__name__)

_PAGE = 500
_AT_ONCE = 8
_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 2.0
_LOOK_OVER_S = 10.0
# A request is in the archive a moment after its claim and before its first event; older ones must be known to the log.
_OLD_ENOUGH_MS = 10_000


class Rebuilder:
    """One per node; several may work on the same part at once, each step is atomic and knows what is there."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._wake = anyio.Event()

    def doubted(self) -> None:
        """A part of the log may have lost something."""
        self._wake.set()

    async def run(self) -> None:
        """Settle what is in doubt, whenever something is, until cancelled."""
        pause = _PAUSE_S
        while True:
            try:
                self._wake = anyio.Event()
                if await self._settle_all():
                    pause = _PAUSE_S
                    with anyio.move_on_after(_LOOK_OVER_S):
                        await self._wake.wait()
                    await self._look_over()
                    continue
            except (LogUnavailable, ArchiveUnavailable) as error:
                logger.warning("the log could not be compared with the archive: %s", error)
                pause = min(pause * 2, _LONGEST_PAUSE_S)
            except Exception:
                logger.exception("comparing the log with the archive failed; it is tried again")
                pause = _LONGEST_PAUSE_S
            await anyio.sleep(pause)

    async def _settle_all(self) -> bool:
        """True when nothing is in doubt any more."""
        doubts = await self._services.log.in_doubt()
        if not doubts:
            return True
        opened = await self._open_by_partition()
        limiter = anyio.CapacityLimiter(_AT_ONCE)
        settled: list[int] = []

        async def one(doubt: Doubt) -> None:
            async with limiter:
                if await self._settle(doubt, opened[doubt.partition]):
                    settled.append(doubt.partition)

        async with anyio.create_task_group() as tasks:
            for doubt in doubts:
                tasks.start_soon(one, doubt)
        if settled:
            logger.info("%d parts of the log were compared with the archive and go on", len(settled))
        return len(settled) == len(doubts)

    async def _settle(self, doubt: Doubt, records: Sequence[RequestRecord]) -> bool:
        """One part. What fails is tried again with the next round, and holds up no other part."""
        try:
            return await self._compare(doubt, records)
        except (LogUnavailable, ArchiveUnavailable) as error:
            logger.warning("part %d of the log could not be compared with the archive: %s", doubt.partition, error)
            return False

    async def _compare(self, doubt: Doubt, records: Sequence[RequestRecord]) -> bool:
        log = self._services.log
        unknown = [record for record in records if not await self._is_known(record)]
        if unknown and doubt.age_s < self._services.settings.storage.lease_s:
            return False  # their owners may live, and know more than the archive
        for conversation, missing in _by_conversation(unknown).items():
            await self._enter(conversation, missing)
        await log.settle(doubt)
        self._services.metrics.rebuilds_total.inc()
        if unknown:
            logger.warning(
                "part %d of the log had lost %d requests; they were entered again", doubt.partition, len(unknown)
            )
        return True

    async def _enter(self, conversation: ConversationRef, missing: Sequence[RequestRecord]) -> None:
        record = await self._services.archive.conversation(conversation.tenant_id, conversation.conversation_id)
        if record is None:
            # It was deleted while somebody began something in it: what is left of that goes as well.
            await self._services.archive.delete_conversation(conversation.tenant_id, conversation.conversation_id)
            return
        requests = [(RequestRef(r.tenant_id, r.request_id), dict(r.spec)) for r in missing]
        base = Base(record.ordinal, record.head)
        above = max(r.fence for r in missing)
        await self._services.log.rebuild(f"rebuild:{uuid.uuid4().hex}", conversation, base, requests, above=above)

    async def _open_by_partition(self) -> dict[int, list[RequestRecord]]:
        found: defaultdict[int, list[RequestRecord]] = defaultdict(list)
        after: tuple[int, str, str] | None = None
        while True:
            page = await self._services.archive.open_requests(limit=_PAGE, after=after)
            for record in page:
                found[self._services.log.partition(_conversation_of(record))].append(record)
            if len(page) < _PAGE:
                return found
            after = (page[-1].created_at, page[-1].tenant_id, page[-1].request_id)

    async def _is_known(self, record: RequestRecord) -> bool:
        ref = RequestRef(record.tenant_id, record.request_id)
        return await self._services.log.request(ref, _conversation_of(record)) is not None

    async def _look_over(self) -> None:
        if not self._services.log.is_shared or not await self._services.log.elect("look over", _LOOK_OVER_S):
            return
        before = self._services.now_ms() - _OLD_ENOUGH_MS
        for partition, records in (await self._open_by_partition()).items():
            old = [record for record in records if record.created_at < before]
            if any([not await self._is_known(record) for record in old]):
                logger.warning("part %d of the log does not know a request that the archive holds as open", partition)
                await self._services.log.doubt(partition)


def _conversation_of(record: RequestRecord) -> ConversationRef:
    return ConversationRef(record.tenant_id, record.conversation_id)


def _by_conversation(records: Sequence[RequestRecord]) -> dict[ConversationRef, list[RequestRecord]]:
    groups: defaultdict[ConversationRef, list[RequestRecord]] = defaultdict(list)
    for record in records:
        groups[_conversation_of(record)].append(record)
    return groups
