"""The last two steps of a sealed request: the archive, then the log. Safe to repeat by anybody who owns it.

If the archive does not answer in time the end is shown all the same and the log keeps the ending until it is
written (DESIGN section 3). If the archive holds another ending already, that one is published. If it holds a cancel
that the log has lost, the request ends cancelled.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import anyio

from turnwire_server.eventlog.base import ConversationRef, Fenced, Finished, Owned, Reentry

from . import endings
from .patience import until_answered
from .services import Services
from .spec import TurnSpec
from .writer import LostOwnership

logger = logging.getLogger(__name__)


async def conclude(
    services: Services,
    owned: Owned,
    ending: Mapping[str, Any],
    *,
    presented: int | None = None,
    epoch: str | None = None,
    reentry: Callable[[dict[str, Any]], Reentry] | None = None,
    told: Callable[[Mapping[str, Any]], None] = lambda ending: None,
) -> Finished:
    """Archive and finish. ``presented`` is what the seal has told, ``epoch`` and ``reentry`` are the turn's newest, if
    it ran here; ``told`` is called with the ending that stands. Raises `LostOwnership`."""
    ending = endings.settled(ending, owned.presented if presented is None else presented)
    archived = False
    with anyio.move_on_after(services.settings.storage.archive_wait_s):
        ending = await archive_ending(services, owned, ending)
        archived = True
    events = endings.last_events(
        ending,
        owned.conversation.conversation_id,
        owned.request.request_id,
        services.settings.limits.event_bytes,
    )
    op = f"finish:{owned.request.request_id}:{owned.fence}"
    again = (reentry or _reentry_of(owned))(dict(ending))
    answer = await until_answered(
        lambda: services.log.finish(
            op, owned.request, owned.fence, events, archived=archived, epoch=epoch or owned.epoch, reentry=again
        ),
        "finishing",
    )
    if isinstance(answer, Fenced):
        raise LostOwnership
    told(ending)
    if archived:  # else its rows are in no sum of the ledger yet: it goes on holding until `archive_late`
        await services.quotas.settle(owned.request, owned.spec, endings.rows_of(ending))
        if owned.spec.get("reported"):
            services.reports.ended()
    services.metrics.turns_total.labels(ending["outcome"]).inc()
    for row in endings.rows_of(ending):
        services.metrics.tokens_total.labels(row.deployment, "input").inc(row.input_tokens)
        services.metrics.tokens_total.labels(row.deployment, "output").inc(row.output_tokens)
    return answer


def _reentry_of(owned: Owned) -> Callable[[dict[str, Any]], Reentry]:
    """For a request that did not run here: what was owned is all that is known."""
    return lambda ending: Reentry(
        owned.spec, owned.ordinal, owned.run, owned.n, "preparing", owned.checkpoint, ending=ending
    )


async def archive_ending(
    services: Services, owned: Owned, ending: Mapping[str, Any], *, patient: bool = True
) -> Mapping[str, Any]:
    """Write the ending into the archive, however long it takes; returns the one that stands there.

    Not ``patient``: raises `ArchiveUnavailable` when the archive does not answer.
    """
    while True:
        step = partial(
            services.archive.end_request,
            owned.request.tenant_id,
            owned.request.request_id,
            ending=ending,
            answer=endings.answer_of(ending),
            usage=endings.rows_of(ending),
            billing=TurnSpec.from_owned(owned).billing(ending.get("route")),
            run=owned.run,
            ended_at=services.now_ms(),
        )
        what = f"archiving the end of request {owned.request.request_id}"
        record = await (until_answered(step, what) if patient else step())
        if record is None:
            return ending
        if record.ending is not None:
            return record.ending
        assert record.cancel is not None, "nothing else keeps a request open"
        ending = endings.as_cancelled(ending, **record.cancel)


async def archive_late(services: Services, conversation: ConversationRef | None = None) -> int:
    """Write endings that were shown while the archive was away. To be done before history is read from the archive:
    what has finished is nowhere else but, until then, here. Raises `LogUnavailable` and `ArchiveUnavailable`."""
    kept = await services.log.unarchived(conversation)
    for owned in kept:
        assert owned.ending is not None, "a finished request has one"
        ending = endings.settled(owned.ending, owned.presented)
        ending = await archive_ending(services, owned, ending, patient=False)
        await services.quotas.settle(owned.request, owned.spec, endings.rows_of(ending))
        await services.log.archived(owned.request)
    return len(kept)
