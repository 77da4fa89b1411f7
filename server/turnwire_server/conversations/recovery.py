"""Taking over what an earlier owner left behind: from the log's checkpoint, or straight to the end.

How often, how old and how dear a turn may be taken over is limited, so that one that kills its node does not do so
for ever; past the limits it ends `incomplete`, `node_lost`, with what the log has of it.
"""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import Any

from turnwire_protocol import Entry, MessageCreated, RequestFold
from turnwire_server.eventlog.base import ConversationRef, EventLog, Intent, Owned, Phase
from turnwire_server.orchestration.context import build_prompt
from turnwire_server.orchestration.pipeline import Stage

from . import endings
from .endings import Draft
from .ledger import Ledger
from .patience import until_answered
from .progress import Progress
from .services import Services
from .spec import TurnSpec
from .turn import Turn
from .writer import LostOwnership

_PAGE_ENTRIES = 1000
_PAGE_BYTES = 1024 * 1024


async def take_over(services: Services, owned: Owned) -> Turn:
    """The turn that goes on where the last owner of ``owned`` stopped.

    The archive may know more than the log: how it ended, that it was cancelled, what was stored when it was parked.
    It is told who goes on, lest an earlier owner put its turn back when Redis has lost that (DECISIONS 22).
    Raises `LostOwnership` when a later owner has told it first.
    """
    ref, give_up = owned.request, None
    record = await services.archive.take_request(ref.tenant_id, ref.request_id, owned.fence)
    if record is not None:
        if record.ending is not None:
            return Turn(services, owned, decided=record.ending)
        if record.fence > owned.fence:
            raise LostOwnership
        if record.checkpoint is not None and owned.checkpoint is None:
            owned = replace(owned, checkpoint=dict(record.checkpoint))
        if (owned.is_rebuilt or owned.may_have_lost) and record.effects > _effects_known(owned):
            # A tool that may not run twice was begun, and the log has lost that: nobody knows what it did.
            give_up = endings.incomplete("node_lost")
        if record.cancel is not None:
            owned = replace(owned, intents=(*owned.intents, Intent(0, "cancel", dict(record.cancel))))
    if owned.phase is Phase.SEALED:
        return Turn(services, owned)
    # An owner that died between its rows and its ending has left rows that a log with losses knows nothing of.
    rows = (
        await services.archive.usage(ref.tenant_id, ref.request_id) if owned.is_rebuilt or owned.may_have_lost else ()
    )
    if owned.n == 0:
        ledger = None
        if rows:
            ledger = Ledger(services.estimates.of(ref.tenant_id))
            ledger.adopt(rows)
        elif owned.is_rebuilt:
            ledger = _lost_ledger(services, owned)
        progress = None if ledger is None else Progress(attempt=ledger.last_attempt(1))
        return Turn(services, owned, ledger=ledger, progress=progress, give_up=give_up)
    fold = fold_from(owned.checkpoint, owned.checkpoint_seq)
    entries = await entries_of(services.log, owned.conversation, max(owned.checkpoint_seq, owned.first_seq - 1))
    text = []
    for entry in entries:
        if entry.request_id == owned.request.request_id:
            fold = fold_with(fold, entry)
            text.append(getattr(entry.event, "text", ""))
    if fold is None or fold.message_id is None:  # it was only queued
        return Turn(services, owned, give_up=give_up or _too_much(services, owned, None))
    kept = owned.checkpoint or {"ledger": {"attempts": [], "open": []}, "progress": {}}
    progress = Progress(**kept["progress"])
    if progress.parked_at:
        progress.unparked(await until_answered(services.log.now_ms, "asking for the time"))
    lost = "".join(text) if owned.checkpoint is None else _lost_text(fold, progress)
    deployments = {deployment.name: deployment for deployment in services.settings.deployments}
    ledger = Ledger.from_json(services.estimates.of(ref.tenant_id), kept["ledger"], deployments, lost)
    if rows:
        ledger.adopt(rows)
        progress.attempt = max(progress.attempt, ledger.last_attempt(progress.step))
    give_up = give_up or _too_much(services, owned, ledger, waited_s=progress.waited_ms / 1000)
    return Turn(services, owned, fold=fold, ledger=ledger, progress=progress, give_up=give_up)


def _lost_ledger(services: Services, owned: Owned) -> Ledger:
    """Of a turn that log and owner have lost together nothing is known: one attempt is accounted, as if it had been
    made, since most were (guarantee 12)."""
    spec = TurnSpec.from_owned(owned)
    deployment = services.router.first(spec.route, spec.caller())
    ledger = Ledger(services.estimates.of(spec.tenant_id))
    prompt = build_prompt(None, [], [spec.user_message()], count=services.counter.estimate_prompt_tokens).messages
    ledger.close(ledger.begin(1, 1, deployment, prompt), "node_lost")
    return ledger


def fold_from(checkpoint: dict[str, Any] | None, seq: int) -> RequestFold | None:
    """The fold that a checkpoint holds."""
    if checkpoint is None:
        return None
    return RequestFold.from_wire({**checkpoint["active"], "last_seq": seq})


def fold_with(fold: RequestFold | None, entry: Entry) -> RequestFold | None:
    """``fold`` with the next event of its request; the first one makes it."""
    event = entry.event
    if isinstance(event, MessageCreated):
        return RequestFold.from_created(event)
    if fold is not None:
        fold.apply(event)
    return fold


class Trimmed(Exception):
    """Entries that were there a moment ago have been trimmed: a newer checkpoint has made them unneeded."""


async def entries_of(log: EventLog, conversation: ConversationRef, after: int) -> list[Entry]:
    """All entries after ``after``, page by page. Raises `Trimmed` when the first of them are gone."""
    out: list[Entry] = []
    while True:
        page = await log.read(conversation, after, limit=_PAGE_ENTRIES, max_bytes=_PAGE_BYTES)
        if after < page.position.trimmed:
            raise Trimmed
        out.extend(page.entries)
        if not page.entries or page.entries[-1].seq >= page.position.seq:
            return out
        after = page.entries[-1].seq


def takeover_op() -> str:
    return f"takeover:{uuid.uuid4().hex}"


def _lost_text(fold: RequestFold, progress: Progress) -> str:
    parts = fold.partial.parts[progress.part :] if progress.stage is Stage.MODEL else []
    return "".join(part.text for part in parts)[progress.continued :]


def _effects_known(owned: Owned) -> int:
    """How many runs of tools that may not run twice the log knows of."""
    return int(((owned.checkpoint or {}).get("progress") or {}).get("effects", 0))


def _too_much(services: Services, owned: Owned, ledger: Ledger | None, *, waited_s: float = 0.0) -> Draft | None:
    limits = services.settings.limits
    if (
        owned.run - 1 > limits.takeovers
        or (owned.run > 1 and owned.age_s - waited_s > limits.takeover_age_s)
        or (ledger is not None and ledger.cost_usd > limits.takeover_cost_usd)
    ):
        return endings.incomplete("node_lost")
    return None
