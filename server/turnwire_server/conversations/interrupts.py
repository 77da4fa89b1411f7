"""What was presented of an answer, and barge-in: `request.interrupt` and `request.presented` (SPEC section 4).

While a request runs, its turn hears of an interrupt and ends it; how far it was presented is kept in the log beside it.
After the end the archive's message is cut instead, and followers are told (`message.amended`). The whole answer stays
in the ending, so a later report can give back what an earlier one had not reached.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import anyio

from turnwire_protocol import (
    CommandError,
    ErrorCode,
    MessageAmended,
    MessageStatus,
    PresentedAt,
    PresentedText,
    RequestInterrupt,
    RequestPresented,
    message_from_wire,
)
from turnwire_server.archive.base import RequestRecord
from turnwire_server.auth import Principal
from turnwire_server.eventlog.base import ConversationRef, Phase, Posted, PostOutcome, RequestInfo, RequestRef

from . import endings
from .audit import note_operation
from .hub import ConversationHub
from .patience import until_answered
from .presented import Place, clamped, cut, length, place_of_text
from .requests import Requests
from .sight import sight
from .spec import TurnSpec

_ANSWERS = {"confirmed": "interrupting", "tentative": "held", "retracted": "resumed"}
# A report that comes between the end of a turn and its record waits for the record.
_RECORD_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class InterruptResult:
    """The answer to an interrupt. ``carry_out`` is called once the answer is out."""

    outcome: str
    carry_out: Callable[[], Awaitable[None]] | None = None


class Interrupts:
    """The two commands, for all connections of the node."""

    def __init__(self, hub: ConversationHub, requests: Requests) -> None:
        self._hub = hub
        self._services = hub.services
        self._requests = requests

    async def interrupt(self, principal: Principal, command: RequestInterrupt) -> InterruptResult:
        """Barge-in: confirmed, tentative or retracted. Raises `not_found`, `forbidden`."""
        ref = RequestRef(principal.tenant_id, command.request_id)
        seen = await sight(self._hub, principal, ref, others="owner")
        if seen.author != principal.user_id:
            await note_operation(self._services, principal, seen.conversation, command.type, request_id=ref.request_id)
        said = command.presented
        if (info := seen.live) is not None:
            if isinstance(said, PresentedAt):
                await self._note(info, Place.reported(said.part, said.offset))
            posted = await self._post(principal, command, info)
            match posted.outcome:
                case PostOutcome.STORED:
                    assert posted.intent is not None, "stored"
                    self._hub.heard(ref, info.conversation, [posted.intent])
                    return InterruptResult(_ANSWERS[command.phase])
                case PostOutcome.ENDED:
                    assert posted.owned is not None, "ended by this"
                    return InterruptResult(_ANSWERS[command.phase], partial(self._hub.conclude, posted.owned))
                case PostOutcome.RECORDED:
                    raise CommandError(ErrorCode.UNAVAILABLE, "the log has lost this request for the moment; try again")
        await self._amend(ref, seen.record, said, is_interrupt=command.phase == "confirmed")
        return InterruptResult("amended")

    async def presented(self, principal: Principal, command: RequestPresented) -> None:
        """How far the author has seen or heard the answer. Raises `not_found`, and `forbidden` for all others."""
        ref = RequestRef(principal.tenant_id, command.request_id)
        seen = await sight(self._hub, principal, ref, others="owner")
        if seen.author != principal.user_id:
            raise CommandError(ErrorCode.FORBIDDEN, "only its author's clients say how far an answer was presented")
        place = Place.reported(command.part, command.offset)
        if seen.live is None or not await self._note(seen.live, place):
            said = PresentedAt(part=place.part, offset=place.offset)
            await self._amend(ref, seen.record, said, is_interrupt=False)

    # --- while it runs -------------------------------------------------------------------------------------

    async def _note(self, info: RequestInfo, place: Place) -> bool:
        note = partial(self._services.log.note, info.request, place.encode(), conversation=info.conversation)
        return await until_answered(note, "keeping what was presented")

    async def _post(self, principal: Principal, command: RequestInterrupt, info: RequestInfo) -> Posted:
        body: dict[str, Any] = {"phase": command.phase, "reason": "interrupted", "by": principal.user_id}
        if command.phase == "tentative":  # whoever comes to run the turn has to know how much of its time is left
            body["at"] = await self._services.log.now_ms()
        if isinstance(command.presented, PresentedText):
            body["presented"] = {"text": command.presented.text}
        ending = None
        if info.phase is Phase.QUEUED and command.phase == "confirmed":
            spec = TurnSpec.from_json(info.spec, info.ordinal)
            ending = endings.unstarted(spec, endings.interrupted("interrupted"), self._services.now_ms())
        op = f"interrupt:{uuid.uuid4().hex}"
        return await until_answered(
            lambda: self._services.log.post(
                op,
                info.request,
                "interrupt",
                body,
                user_id=principal.user_id,
                any_user=True,
                ending=ending,
                conversation=info.conversation,
            ),
            f"interrupting request {info.request.request_id}",
        )

    # --- after its end -------------------------------------------------------------------------------------

    async def _amend(
        self,
        ref: RequestRef,
        record: RequestRecord | None,
        said: PresentedAt | PresentedText | None,
        *,
        is_interrupt: bool,
    ) -> None:
        """Cut the stored answer at what was presented. A completed one is whole until somebody says otherwise; of one
        that was cancelled or failed everything was sent, and only an interrupt cuts it."""
        if said is None:
            return  # assumed: all that was sent was presented
        while record is None or record.ending is None:
            await anyio.sleep(_RECORD_POLL_S)
            record = await self._services.archive.request(ref.tenant_id, ref.request_id)
        ending = record.ending
        if not is_interrupt and ending["outcome"] not in ("completed", "interrupted"):
            return
        whole = message_from_wire(ending["answer"])
        if isinstance(said, PresentedText):
            place = place_of_text(whole.parts, said.text)
        else:
            place = clamped(whole.parts, Place(said.part, said.offset))
        # What was reported while it ran cuts nothing by itself, but reports only grow.
        if reported := ending.get("reported"):
            place = max(place, clamped(whole.parts, Place.decode(reported)))
        before = record.presented or (ending.get("place") or 0)
        if place.encode() <= before:
            return
        # An interrupt that came after the end stays in the status.
        status: MessageStatus = "complete" if record.answer is None else record.answer.status
        if is_interrupt:
            status = "interrupted"
        answer = replace(cut(whole, place), status=status)
        amend = partial(
            self._services.archive.amend_answer, ref.tenant_id, ref.request_id, answer, presented=place.encode()
        )
        stands = await until_answered(amend, "amending an answer")
        if stands is None or stands.presented != place.encode() or answer == record.answer:
            return
        sent = length(whole.parts)
        event = MessageAmended(
            conversation_id=record.conversation_id,
            message_id=whole.message_id,
            message=answer,
            generated=ending["fields"].get("generated", sent),
            sent=sent,
            presented=length(whole.parts, place),
            basis="reported",
        )
        home = ConversationRef(record.tenant_id, record.conversation_id)
        op = f"amend:{ref.tenant_id}:{ref.request_id}:{place.encode()}"
        await until_answered(lambda: self._services.log.emit(op, home, [event]), "telling of an amended answer")
