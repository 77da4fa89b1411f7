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
from .roles import require
from .spec import TurnSpec

_LIVE = (Phase.QUEUED, Phase.RUNNING, Phase.PARKED)
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
        info, record = await self._known(principal, ref, command.type)
        said = command.presented
        if info is not None and info.phase in _LIVE:
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
        await self._amend(ref, record, said, is_interrupt=command.phase == "confirmed")
        return InterruptResult("amended")

    async def presented(self, principal: Principal, command: RequestPresented) -> None:
        """How far the author has seen or heard the answer. Raises `not_found`, and `forbidden` for all others."""
        ref = RequestRef(principal.tenant_id, command.request_id)
        info, record = await self._known(principal, ref)
        author = info.user_id if info is not None else record.user_id if record is not None else ""
        if author != principal.user_id:
            raise CommandError(ErrorCode.FORBIDDEN, "only its author's clients say how far an answer was presented")
        place = Place.reported(command.part, command.offset)
        if info is None or info.phase not in _LIVE or not await self._note(info, place):
            said = PresentedAt(part=place.part, offset=place.offset)
            await self._amend(ref, record, said, is_interrupt=False)

    # --- while it runs -------------------------------------------------------------------------------------

    async def _known(
        self, principal: Principal, ref: RequestRef, act: str | None = None
    ) -> tuple[RequestInfo | None, RequestRecord | None]:
        """The request for those who may steer it: its author, as an editor, or an owner of the conversation. ``act`` is
        what an operator is about to do."""
        info = await self._services.log.request(ref)
        record = None
        if info is None or info.phase not in _LIVE:
            record = await self._services.archive.request(ref.tenant_id, ref.request_id)
        if info is None and record is None:
            raise CommandError(ErrorCode.NOT_FOUND, f"no request '{ref.request_id}'", request_id=ref.request_id)
        home = info.conversation.conversation_id if info is not None else record.conversation_id  # type: ignore[union-attr]
        author = info.user_id if info is not None else record.user_id  # type: ignore[union-attr]
        conversation = await self._hub.record(ConversationRef(ref.tenant_id, home))
        try:
            require(conversation, home, principal, "editor" if author == principal.user_id else "owner")
        except CommandError as error:
            if error.code is ErrorCode.NOT_FOUND:
                raise CommandError(
                    ErrorCode.NOT_FOUND, f"no request '{ref.request_id}'", request_id=ref.request_id
                ) from None
            raise
        assert conversation is not None, "require refuses absent ones"
        if author != principal.user_id and act is not None:
            await note_operation(self._services, principal, conversation, act, request_id=ref.request_id)
        return info, record

    async def _note(self, info: RequestInfo, place: Place) -> bool:
        note = partial(self._services.log.note, info.request, place.encode(), conversation=info.conversation)
        return await until_answered(note, "keeping what was presented")

    async def _post(self, principal: Principal, command: RequestInterrupt, info: RequestInfo) -> Posted:
        body: dict[str, Any] = {"phase": command.phase, "reason": "interrupted", "by": principal.user_id}
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
