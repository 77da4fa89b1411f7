"""Folding later requests into a running answer (PROTOCOL section 4, `on_busy: "steer"`).

Such a request waits in the queue like any other; that it came is said to the running turn, which takes it between two
steps. The log decides: a request that still waits is sealed as merged, and only then is it in this answer. If the turn
ends before, the request has its turn as if it had only been queued. A taker hears all again and asks the log again: the
same step gets the same answer.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import anyio

from turnwire_protocol import Message, SteerApplied
from turnwire_server.eventlog.base import Intent, Owned, PostOutcome, RequestRef

from . import endings
from .patience import until_answered
from .services import Services
from .spec import TurnSpec
from .writer import TurnWriter


class Steering:
    """What was folded into one answer, and what waits to be."""

    def __init__(self, services: Services, spec: TurnSpec, writer: TurnWriter) -> None:
        self.inputs: dict[str, Message] = {}
        """The user's messages that were folded in, by request."""
        self.on_merged: Callable[[Owned], None] = lambda owned: None
        """Called with a request that was folded in, sealed and to be concluded."""
        self._services = services
        self._spec = spec
        self._writer = writer
        self._waiting: dict[str, int] = {}  # and their places in the inbox

    @property
    def is_waiting(self) -> bool:
        """Whether `apply` has something to do."""
        return bool(self._waiting)

    def hear(self, intent: Intent) -> None:
        """A request wants to be folded in."""
        request_id = intent.body["from"]
        steered = {steered.request_id for steered in self._writer.fold.partial.steered}
        if request_id in steered or request_id in self._waiting:
            self._writer.unsettled.discard(intent.k)
        else:
            self._waiting[request_id] = intent.k

    async def recall(self) -> None:
        """After a take-over: what an earlier owner has folded in."""
        for steered in self._writer.fold.partial.steered:
            look = partial(self._services.archive.request, self._spec.tenant_id, steered.request_id)
            record = await until_answered(look, "reading a request")
            if record is not None:
                self.inputs[steered.request_id] = record.input

    async def apply(self) -> None:
        """Fold in what waits; to be called between two steps."""
        while self._waiting:
            request_id = next(iter(self._waiting))
            # Once it is sealed as merged it has to be in this answer, also when that is stopped in this moment.
            with anyio.CancelScope(shield=True):
                owned = await self._merge(RequestRef(self._spec.tenant_id, request_id))
            self._writer.unsettled.discard(self._waiting.pop(request_id))
            if owned is None:
                continue
            self.inputs[request_id] = TurnSpec.from_owned(owned).user_message()
            applied = SteerApplied(
                conversation_id=self._spec.conversation_id, request_id=self._spec.request_id, from_=request_id
            )
            self._writer.event(applied, checkpoint=True)
            self._writer.buffer.begin_part()
            self.on_merged(owned)

    async def _merge(self, ref: RequestRef) -> Owned | None:
        """Seal a request that waits; None when it does so no more, and keeps its own ending."""
        log, into = self._services.log, self._spec.request_id
        info = await until_answered(lambda: log.request(ref, self._spec.conversation), "looking at a request")
        if info is None or info.conversation != self._spec.conversation:
            return None
        spec = TurnSpec.from_json(info.spec, info.ordinal)
        ending = endings.unstarted(spec, endings.merged(into), self._services.now_ms())
        posted = await until_answered(
            lambda: log.post(
                f"merge:{ref.request_id}:{into}",
                ref,
                "merge",
                {"into": into},
                user_id=spec.user_id,
                ending=ending,
                conversation=self._spec.conversation,
            ),
            "folding a request in",
        )
        return posted.owned if posted.outcome is PostOutcome.ENDED else None
