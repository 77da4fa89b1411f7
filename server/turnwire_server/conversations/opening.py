"""How a claimed request begins: its record in the archive, its first event, its empty fold."""

from __future__ import annotations

from turnwire_protocol import MessageCreated, RequestFold
from turnwire_server.archive.base import Archive, RequestRecord
from turnwire_server.eventlog.base import Intent, Owned

from .patience import until_answered
from .services import Services
from .spec import TurnSpec

_TITLE_CHARS = 80


def request_record(owned: Owned) -> RequestRecord:
    """The record of a request that has just been claimed."""
    spec = TurnSpec.from_owned(owned)
    return RequestRecord(
        tenant_id=spec.tenant_id,
        request_id=spec.request_id,
        conversation_id=spec.conversation_id,
        user_id=spec.user_id,
        fingerprint=spec.fingerprint,
        ordinal=spec.ordinal,
        spec={**owned.spec, "ordinal": owned.ordinal},
        input=spec.user_message(),
        answer_id=spec.answer_id,
        created_at=spec.created_at,
        title=_title(spec.texts[0]),
        run=owned.run,
        fence=owned.fence,
    )


def _title(text: str) -> str | None:
    """The first line of the first message names a conversation that nobody has named."""
    line = text.strip().split("\n", 1)[0].strip()
    return line if len(line) <= _TITLE_CHARS else line[: _TITLE_CHARS - 1].rstrip() + "…"


async def ensure_archived(archive: Archive, owned: Owned) -> bool:
    """Insert the record, however long it takes; False when the archive has another request of that id or place."""
    record = request_record(owned)
    stands, ours = await until_answered(
        lambda: archive.insert_request(record.input.message_id, record), f"archiving request {record.request_id}"
    )
    if ours and stands.fence < owned.fence:  # by whoever claimed it: between this one's take-over and now
        await until_answered(
            lambda: archive.take_request(record.tenant_id, record.request_id, owned.fence), "taking a request"
        )
    return ours


async def kept_cancel(services: Services, owned: Owned) -> Intent | None:
    """A cancel that was acknowledged before its request was known: the log may have lost it, and whoever claimed the
    request may not have lived to hear of it (guarantee 5). To be asked for after the request is in the archive."""
    if not services.log.is_shared:
        return None
    now_ms = await until_answered(services.log.now_ms, "looking for a cancel")
    since = now_ms - int((services.settings.limits.recorded_cancel_s + owned.age_s) * 1000)
    ref, user_id = owned.request, TurnSpec.from_owned(owned).user_id
    kept = await until_answered(
        lambda: services.archive.recorded_cancel(ref.tenant_id, ref.request_id, user_id, since=since),
        "looking for a cancel",
    )
    return None if kept is None else Intent(0, "cancel", dict(kept))


def created_event(owned: Owned) -> MessageCreated:
    """The first event of a request."""
    spec = TurnSpec.from_owned(owned)
    return MessageCreated(
        conversation_id=spec.conversation_id,
        request_id=spec.request_id,
        message=spec.user_message(),
        answer_id=spec.answer_id,
    )


def new_fold(owned: Owned) -> RequestFold:
    """The fold of a request of which nothing but its creation is known."""
    return RequestFold.from_created(created_event(owned))
