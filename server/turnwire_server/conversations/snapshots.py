"""The state of a conversation at exactly one seq (SPEC section 3, DESIGN section 3).

One look at the log gives its end S, what is live and from which checkpoint; folding the entries up to S gives the
live requests as of S; the archive adds what has ended, and nothing newer. A bounded number is built at once, and all
who need the same one share it.
"""

from __future__ import annotations

from typing import Any

import anyio

from turnwire_protocol import ConversationSnapshot, Message, RequestFold
from turnwire_server.eventlog.base import Base, ConversationRef, Live, LiveRequest

from .conclude import archive_late
from .recovery import Trimmed, entries_of, fold_from, fold_with
from .services import Services
from .shared_context import context_at

# How long a turn that goes on has before it is looked at again.
_GOES_ON_S = 0.02


class Snapshots:
    """Builds snapshots for the whole node."""

    def __init__(self, services: Services) -> None:
        self._services = services
        limits = services.settings.limits
        self._limiter = anyio.CapacityLimiter(limits.snapshot_concurrency)
        self._messages = limits.snapshot_messages
        self._bytes = limits.snapshot_bytes
        self._shared: dict[ConversationRef, ConversationSnapshot] = {}
        self._deleted = 0

    async def build(self, ref: ConversationRef) -> ConversationSnapshot:
        """The newest snapshot. Raises `LogUnavailable` or `ArchiveUnavailable`."""
        async with self._limiter:
            deleted = self._deleted
            while True:
                live = await self._services.log.live(ref)
                known = self._shared.get(ref)
                if known is not None and (known.epoch, known.seq) == (live.position.epoch, live.position.seq):
                    return known
                try:
                    snapshot = await self._build(ref, live)
                    break
                except Trimmed:
                    continue  # a checkpoint and a trim, or a change of what is shared, came between the looks
        self._services.metrics.snapshots_total.inc()
        if deleted != self._deleted:
            return snapshot
        self._shared = {ref: snapshot} if len(self._shared) > 64 else {**self._shared, ref: snapshot}
        return snapshot

    def forget(self, ref: ConversationRef) -> None:
        """The conversation was deleted. While that was under way its log was empty and its messages were not yet gone:
        whoever takes the name next must not be given what was seen then."""
        self._deleted += 1
        self._shared.pop(ref, None)

    async def _build(self, ref: ConversationRef, live: Live) -> ConversationSnapshot:
        folds = await self._folds(ref, live)
        await archive_late(self._services, ref)
        base = await base_of(self._services, ref, live)
        page = await self._services.archive.messages(
            ref.tenant_id,
            ref.conversation_id,
            leaf=base.head,
            limit=self._messages,
            max_bytes=self._bytes,
            up_to_ordinal=base.ordinal,
            without=[*folds, *live.hidden],
        )
        context = await context_at(self._services, ref, live.position)
        if context is None:
            raise Trimmed
        return ConversationSnapshot(
            conversation_id=ref.conversation_id,
            epoch=live.position.epoch,
            seq=live.position.seq,
            messages=list[Message](page.items),
            before=page.next,
            active=[fold.to_active() for fold in folds.values()],
            context=context or None,
        )

    async def _folds(self, ref: ConversationRef, live: Live) -> dict[str, RequestFold]:
        start: dict[str, tuple[int, RequestFold | None]] = {
            request.request_id: (
                request.checkpoint_seq,
                fold_from(await self._checkpoint(ref, request), request.checkpoint_seq),
            )
            for request in live.requests
        }
        folds: dict[str, RequestFold | None] = {request_id: fold for request_id, (_, fold) in start.items()}
        if start:
            after = min(max(request.checkpoint_seq, request.first_seq - 1) for request in live.requests)
            for entry in await entries_of(self._services.log, ref, after):
                request_id = entry.request_id
                if entry.seq <= live.position.seq and request_id in start and entry.seq > start[request_id][0]:
                    folds[request_id] = fold_with(folds[request_id], entry)
        assert all(folds.values()), "a live request has a checkpoint, or all of its events are there"
        return {request_id: fold for request_id, fold in folds.items() if fold is not None}

    async def _checkpoint(self, ref: ConversationRef, request: LiveRequest) -> dict[str, Any] | None:
        if not request.is_parked:
            return request.checkpoint
        record = await self._services.archive.request(ref.tenant_id, request.request_id)
        if record is None or record.checkpoint is None:
            await anyio.sleep(_GOES_ON_S)
            raise Trimmed  # somebody went on with it between the looks, and it has ended or is just ending
        return dict(record.checkpoint)


async def base_of(services: Services, ref: ConversationRef, live: Live) -> Base:
    """The newest message before which everything is in the archive or live. A log that has forgotten the conversation,
    or knows no more of it than what came back, asks the archive; what was begun since would show in the log."""
    while live.base.ordinal == 0 or not live.base.is_fresh:
        record = await services.archive.conversation(ref.tenant_id, ref.conversation_id)
        again = await services.log.live(ref)
        if again.base == live.base:
            known = Base() if record is None else Base(record.ordinal, record.head)
            return known if known.ordinal > live.base.ordinal else live.base
        if again.position != live.position:
            raise Trimmed
        live = again
    return live.base
