"""What the users of a conversation share: set by one, told to all, in the prompts of the next steps (SPEC section 7).

The archive decides which version stands; then its event goes into the log, and where it is there is kept in the archive
again. Whoever dies in between leaves a change without a known place: the repeat of the command brings it into the log,
or whoever makes the next snapshot does. The event is named by the change's operation, so that it comes once.
"""

from __future__ import annotations

import logging
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio
import orjson

from turnwire_protocol import CommandError, ContextChanged, ContextEntry, ContextSet, ErrorCode
from turnwire_server.archive.base import ArchiveUnavailable, ContextFull, ContextRecord
from turnwire_server.auth import Principal
from turnwire_server.eventlog.base import ConversationRef, Position

from .roles import require
from .services import Services
from .spec import TurnSpec

if TYPE_CHECKING:  # the hub runs turns, whose steps read here
    from .hub import ConversationHub

logger = logging.getLogger(__name__)

KEYS = 32
"""Fixed by the protocol."""
# How long a step waits for what is shared; without an answer what the step before it knew counts.
_READ_S = 1.0


class SharedContexts:
    """Commands on what is shared, for all connections of the node."""

    def __init__(self, hub: ConversationHub) -> None:
        self._hub = hub
        self._services = hub.services

    async def set(self, principal: Principal, command: ContextSet) -> None:
        """Returns once the change is in the archive and its event in the log."""
        ref = ConversationRef(principal.tenant_id, command.conversation_id)
        require(await self._hub.record(ref), command.conversation_id, principal, "editor")
        change = ContextRecord(command.key, command.version, command.value, principal.user_id, uuid.uuid4().hex)
        try:
            stands = await self._services.archive.set_context(ref.tenant_id, ref.conversation_id, change, keys=KEYS)
        except ContextFull:
            text, details = f"key: at most {KEYS} in a conversation", {"size": KEYS + 1, "limit": KEYS}
            raise CommandError(ErrorCode.TOO_LARGE, text, details=details) from None
        if stands is None:
            raise CommandError(ErrorCode.NOT_FOUND, f"no conversation '{command.conversation_id}'")
        if (stands.version, _raw(stands.value)) != (change.version, _raw(change.value)):
            text = f"version: {stands.version} is stored"
            raise CommandError(ErrorCode.STALE_VERSION, text, details={"version": stands.version})
        if stands.place is None:
            await _tell(self._services, ref, stands)


def _raw(value: object) -> bytes:
    """1 and true are equal in Python."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


async def _tell(services: Services, ref: ConversationRef, change: ContextRecord) -> None:
    """Bring the event of a change into the log, and keep where it is."""
    event = ContextChanged(
        conversation_id=ref.conversation_id, key=change.key, version=change.version, value=change.value, by=change.by
    )
    before = await services.log.position(ref)
    entries = await services.log.emit(f"context:{change.op}", ref, [event])
    after = await services.log.position(ref)
    # In an epoch that is not known, or gone, it counts as told before everything that is there now.
    is_known = bool(entries) and before.epoch == after.epoch
    place = (after.epoch, entries[-1].seq) if is_known else ("", 0)
    await services.archive.place_context(ref.tenant_id, ref.conversation_id, replace(change, place=place))


async def context_at(services: Services, ref: ConversationRef, position: Position) -> list[ContextEntry] | None:
    """What is shared as of a position of the log, at which somebody has just looked. None when that cannot be told any
    more, since it has been changed meanwhile: look again."""
    records = await services.archive.context(ref.tenant_id, ref.conversation_id)
    untold = [record for record in records if record.place is None]
    for record in untold:
        await _tell(services, ref, record)
    if untold or any(_is_after(record, position) for record in records):
        return None
    return [_entry(record) for record in records]


def _is_after(record: ContextRecord, position: Position) -> bool:
    epoch, seq = record.place or ("", 0)
    return epoch == position.epoch and seq > position.seq


def _entry(record: ContextRecord) -> ContextEntry:
    return ContextEntry(key=record.key, version=record.version, value=record.value, by=record.by)


class ContextOfTurn:
    """What is shared, for the steps of one turn."""

    def __init__(self, services: Services, spec: TurnSpec) -> None:
        self._archive = services.archive
        self._spec = spec
        self._known: list[ContextEntry] = []
        self._is_ahead = False

    async def read_ahead(self) -> None:
        """Read it for the step that begins at once, beside what else is read for it."""
        await self._read()
        self._is_ahead = True

    async def newest(self) -> list[ContextEntry]:
        """As it is now; as it was at the step before when the archive does not answer."""
        if not self._is_ahead:
            await self._read()
        self._is_ahead = False
        return self._known

    async def _read(self) -> None:
        try:
            with anyio.fail_after(_READ_S):
                records = await self._archive.context(self._spec.tenant_id, self._spec.conversation_id)
        except (ArchiveUnavailable, TimeoutError) as error:
            logger.warning("what is shared in a conversation was not read: %s", error or "it took too long")
        else:
            self._known = [_entry(record) for record in records]
