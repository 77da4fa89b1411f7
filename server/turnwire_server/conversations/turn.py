"""A turn: one run of one request on this node, from its first event to its end.

It runs in the node's task group, in one cancel scope, under a fence, and outlives every connection. What happens:
say that the message exists, answer (`steps`), decide the ending once (seal), archive it, finish. A cancel that is
stored before the seal wins, whatever was drafted. Losing ownership stops the turn without another word; being killed
stops it anywhere, and whoever takes over goes on from the log.
"""

from __future__ import annotations

import asyncio
import logging
import random
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, NoReturn

import anyio

from turnwire_protocol import MessageStarted, RequestDelayed, RequestFold, StepContext, StepFailed, to_wire
from turnwire_server.eventlog.base import (
    Fenced,
    Finished,
    Forgotten,
    Intent,
    LogUnavailable,
    Owned,
    Sealed,
    Unheard,
)
from turnwire_server.gateway.backoff import backoff
from turnwire_server.orchestration.pipeline import Stage, resumed

from . import endings
from .calls import Parked
from .closing import end_open_calls
from .conclude import archive_late, conclude
from .endings import Draft
from .history import Branch
from .ledger import Ledger
from .memories import earlier_of
from .opening import created_event, ensure_archived, kept_cancel, new_fold
from .patience import until_answered
from .presented import Place, place_of_text
from .progress import Progress
from .services import Services
from .spec import TurnSpec
from .steps import Answer
from .summaries import history_of
from .tracing import TurnTrace
from .writer import LostOwnership, TurnWriter

logger = logging.getLogger(__name__)


class HandedOver(Exception):
    """The node goes away and has given the turn up; another one goes on with it."""


_EVERYTHING = 2**53 - 1  # of an inbox

_RNG = random.Random()  # noqa: S311 - only spreads the load

_INTERNAL = "the server failed while answering; the fault has been logged, and you can try again"


class Turn:
    """Made by whoever owns the request; `run` is called once. ``recovered`` is what a taker found in the log."""

    def __init__(
        self,
        services: Services,
        owned: Owned,
        *,
        fold: RequestFold | None = None,
        ledger: Ledger | None = None,
        progress: Progress | None = None,
        give_up: Draft | None = None,
        is_archived: bool = False,
        decided: Mapping[str, Any] | None = None,
    ) -> None:
        self.owned = owned
        self.spec = TurnSpec.from_owned(owned)
        self._services = services
        self._fold = fold or new_fold(owned)
        self._ledger = ledger or Ledger(services.estimates.of(self.spec.tenant_id))
        self._progress = progress or Progress(attempt=len(self._ledger.attempts))
        self._recovered = fold is not None
        self._give_up = give_up
        self._decided = decided
        self._is_archived = is_archived
        self._scope = anyio.CancelScope()
        self._cancel: Intent | None = None
        self._interrupt: Intent | None = None
        self._interrupted: Draft | None = None
        self._hold: asyncio.TimerHandle | None = None
        self._early_hold: Intent | None = None
        self._is_begun = False
        self._said: list[Intent] = []  # for the answer, before there is one
        self._running: Answer | None = None
        self.on_stall: Callable[[], None] = lambda: None
        """Called when the log stops taking this turn's events."""
        self.on_next: Callable[[Owned], None] = lambda owned: None
        """Called with the request whose turn has come because this one was nobody's."""
        self.is_present: Callable[[str, str], Awaitable[bool]]
        """Whether a user's client instance follows the conversation on any node; set before it runs."""
        self.on_merged: Callable[[Owned], None] = lambda owned: None
        """Called with a request that was folded into this one, to be concluded."""
        self.on_forgotten: Callable[[], None] = lambda: None
        """Called when the log has lost this turn: what was said to it may be lost with it, see `recall`."""
        self._presented: int | None = None
        self._draining = False
        self._must_recall = False
        self._trace = TurnTrace(services.tracer, self.spec, owned, self._fold, services.clock)
        limits, storage = services.settings.limits, services.settings.storage
        self._writer = TurnWriter(
            owned,
            self._fold,
            services.commit,
            lane=services.log.lane(owned.conversation),
            now_ms=services.now_ms,
            heard=self.hear,
            forgotten=self._was_forgotten,
            stalled=lambda: self.on_stall(),
            checkpoint=self._checkpoint,
            checkpoint_events=limits.checkpoint_events,
            checkpoint_bytes=limits.checkpoint_bytes,
            stall_s=storage.outage_hold_s,
            stall_chars=storage.outage_buffer_bytes,
            hold_chars=limits.held_chars,
            trace=self._trace,
        )
        self._head: dict[str, Any] = {"conversation_id": self.spec.conversation_id, "request_id": self.spec.request_id}
        self.hear(owned.intents)

    def __repr__(self) -> str:
        return f"<Turn {self.owned.request.request_id} run={self.owned.run} {self._fold.state}>"

    def hear(self, intents: Sequence[Intent]) -> None:
        """Intents from the inbox. The first cancel or interrupt stops whatever the turn is doing, at once.

        They may come more than once and out of order, from this node and from others. What ends the turn is heard
        when it comes, the rest in order: one that is missing comes with the next append.
        """
        for intent in intents:
            is_next = intent.k == self._writer.heard + 1
            if is_next:
                self._writer.heard = intent.k
            if intent.kind == "cancel":
                if self._cancel is None:
                    self._cancel = intent
                    self._scope.cancel()
            elif intent.kind == "interrupt" and intent.body["phase"] == "confirmed":
                self._stop(intent)
            elif is_next:
                self._heard(intent)
            elif intent.k > self._writer.heard:
                self._writer.ask()

    def _stop(self, intent: Intent) -> None:
        if self._interrupt is not None:
            return
        self._interrupt = intent
        self._forget_hold()
        generated = self._writer.buffer.text_length
        self._writer.discard()
        place = self._place(intent)
        self._interrupted = endings.interrupted(intent.body["reason"], place, generated)
        self._scope.cancel()

    def _place(self, intent: Intent) -> Place | None:
        """How far the interrupt says that the answer was presented."""
        match intent.body.get("presented"):
            case {"text": str(text)}:
                return place_of_text(self._fold.partial.to_parts(), text)
            case {"part": int(part), "offset": int(offset)}:
                return Place.reported(part, offset)
        return None

    def _heard(self, intent: Intent) -> None:
        if intent.kind == "steer":
            self._writer.unsettled.add(intent.k)
        if intent.kind == "interrupt":
            self._hold_or_go_on(intent)
        elif self._running is not None:
            self._running.hear(intent)
        else:
            self._said.append(intent)

    def _hold_or_go_on(self, intent: Intent) -> None:
        """A tentative interrupt, or its retraction."""
        self._forget_hold()
        if intent.body["phase"] != "tentative":
            return
        if self._is_begun:
            self._hold_back(self._services.settings.limits.interrupt_hold_s)
        else:
            self._early_hold = intent

    def _hold_back(self, seconds: float) -> None:
        self._writer.hold()
        self._hold = asyncio.get_running_loop().call_later(seconds, self._forget_hold)

    async def _begin(self) -> None:
        """Hear what was said to a turn that waited, for its place or for people; a hold has some of its time left."""
        self._is_begun = True
        if self._recovered or self._early_hold is not None:
            self._writer.ask()  # what was said since it was owned; there may be nothing to append for long
        if self._early_hold is not None:
            now_ms = await until_answered(self._services.log.now_ms, "asking for the time")
            if (early := self._early_hold) is not None:
                left_s = self._services.settings.limits.interrupt_hold_s - (now_ms - early.body["at"]) / 1000
                if left_s > 0:
                    self._hold_back(left_s)

    def _forget_hold(self) -> None:
        self._early_hold = None
        if self._hold is not None:
            self._hold.cancel()
            self._hold = None
        self._writer.release()

    async def recall(self) -> None:
        """Ask the archive whether the turn was cancelled, or is another's: the log may have lost that (3, 5)."""
        ref, asked_in = self.owned.request, self._writer.forgotten_in
        record = await until_answered(
            lambda: self._services.archive.request(ref.tenant_id, ref.request_id), "reading a request"
        )
        was_taken = record is not None and (record.ending is not None or record.fence > self.owned.fence)
        if was_taken and self._decided is None:
            # Somebody took it over while this node was away; the log has lost that.
            self._writer.lose()
            return
        self._must_recall = False
        self._writer.reenter(asked_in)
        if record is not None and record.cancel is not None and self._cancel is None:
            self.hear([Intent(0, "cancel", dict(record.cancel))])

    async def _release(self) -> None:
        release = partial(self._services.log.release, f"release:{uuid.uuid4().hex}", self.owned.request)
        following = await until_answered(release, "releasing a request")
        if following is not None:
            self.on_next(following)

    def ask(self) -> None:
        """The log may have lost this turn, which may have nothing to say for long: find out now."""
        self._writer.ask()

    def _was_forgotten(self) -> None:
        self._must_recall = True
        self._services.metrics.reentries_total.inc()
        self.on_forgotten()

    def drain(self) -> None:
        """The node is going away and will not wait any longer: end here, with what there is."""
        if self._running is not None and self._running.calls.stop():
            return  # it waits for people, and goes on waiting without this node
        self._draining = True
        self._scope.cancel()

    async def run(self) -> Finished | None:
        """Run to the end. None when the turn is no longer this node's."""
        self._trace.began(self._ledger, recovered=self._recovered)
        try:
            ending = self.owned.ending
            if self._decided is not None:
                ending = await self._seal_as_archived(self._decided)
            elif ending is None:
                ending = await self._decide()
            return await conclude(
                self._services,
                self.owned,
                ending,
                presented=self._presented,
                epoch=self._writer.epoch,
                reentry=self._writer.reentry,
                told=self._trace.end,
            )
        except LostOwnership:
            self._trace.give_up("lost")
            logger.warning("request %s was taken over or deleted", self.owned.request.request_id)
        except HandedOver:
            self._trace.give_up("parked" if self._progress.parked_at else "handed_over")
            logger.info("request %s is handed over to another node", self.owned.request.request_id)
        return None

    async def _decide(self) -> dict[str, Any]:
        try:
            return await self._seal(await self._answer())
        except (LostOwnership, HandedOver):
            raise
        except Exception:
            # A bug of ours must not leave the turn hanging: everybody would wait for its end.
            logger.exception("request %s could not be ended as it should", self.owned.request.request_id)
            return await self._seal(endings.failed("internal", _INTERNAL, retryable=True))

    # --- answering ---------------------------------------------------------------------------------------

    async def _answer(self) -> Draft:
        """Everything up to the draft of the ending."""
        writer = self._writer
        if writer.n == 0:
            if not self._is_archived:
                if not await ensure_archived(self._services.archive, self.owned):
                    await self._release()
                    raise LostOwnership  # the id belongs to an older request, which the archive has
                if self._cancel is None and (kept := await kept_cancel(self._services, self.owned)) is not None:
                    self.hear([kept])
            writer.event(created_event(self.owned))
        draft: Draft | None = self._give_up
        try:
            if draft is None and self._cancel is None and self._interrupt is None:
                draft = await self._try_answer()
        except LogUnavailable:
            draft = endings.failed("unavailable", "the server could not store the answer in time", retryable=True)
        self._forget_hold()
        if self._stopped is not None:
            draft = self._stopped
        elif self._draining and draft is None:
            if self._services.log.is_shared:
                await self._hand_over()
            self._tell_drain()
            draft = endings.incomplete("node_lost")
        elif draft is None:
            draft = endings.incomplete("deadline")
        await writer.flush()
        await end_open_calls(self._services, self.spec, writer, self._progress, lambda intent: self.hear([intent]))
        await writer.flush()
        return draft

    async def _try_answer(self) -> Draft | None:
        limits = self._services.settings.limits
        self._scope.deadline = anyio.current_time() + max(limits.turn_deadline_s - await self._age_s(), 0.0)
        draft: Draft | None = None
        with self._scope:
            await self._begin()
            if self._fold.message_id is None:
                self._writer.event(
                    MessageStarted(
                        **self._head,
                        message_id=self.spec.answer_id,
                        run=self.owned.run,
                        route=self.spec.route,
                        prompt=self.spec.prompt_used(),
                    )
                )
            answer = Answer(self._services, self.spec, self._writer, self._ledger, self._progress, self.owned.run)
            async with anyio.create_task_group() as reads:
                if self._progress.stage is not Stage.TOOLS:
                    reads.start_soon(answer.context.read_ahead, name="reading what is shared")
                branch = await until_answered(self._history, "reading the history")
            answer.earlier = await earlier_of(self._services, self.spec, branch)
            answer.steering.on_merged = lambda owned: self.on_merged(owned)
            answer.calls.is_present = lambda user_id, instance_id: self.is_present(user_id, instance_id)
            answer.calls.say = lambda intent: self.hear([intent])
            # The answer's time is that of its `message.started`: it must be known before the first checkpoint.
            await self._writer.flush()
            if self._recovered and resumed(self._progress.stage) is Stage.ASSEMBLE:
                self._take_back(answer)
            self._running = answer
            for intent in self._said:
                answer.hear(intent)
            try:
                draft = await answer.run(branch.messages)
                await self._writer.released()  # what is held back may still be interrupted, and is not at its end
                if (failure := self._failure(draft)) is not None:
                    await self._delay(answer, failure)
            except (LostOwnership, LogUnavailable):
                raise
            except Parked as parked:
                await self._park(parked.until)
            except Exception:
                logger.exception("request %s failed", self.spec.request_id)
                return endings.failed("internal", _INTERNAL, retryable=True)
        return draft

    async def _age_s(self) -> float:
        """Since it was begun, by the log's clock; what it has waited in the queue, or parked, does not count."""
        if not self._fold.answer_created_at:
            return 0.0
        now_ms = await until_answered(self._services.log.now_ms, "asking for the time")
        return max(now_ms - self._fold.answer_created_at - self._progress.waited_ms, 0) / 1000

    async def _history(self) -> Branch:
        await archive_late(self._services, self.owned.conversation)
        return await history_of(self._services, self.spec)

    @property
    def used(self) -> StepContext | None:
        """What its last prompt had in it."""
        return None if self._running is None else self._running.used

    def _take_back(self, answer: Answer) -> None:
        """A step that died with its node in mid-air: say so, and begin it again."""
        lost = self._ledger.attempts[-1] if self._ledger.attempts else None
        if lost is not None and lost.outcome == "node_lost":
            self._writer.event(
                StepFailed(
                    **self._head, step=lost.step, attempt=lost.attempt, deployment=lost.deployment, reason="node_lost"
                )
            )
        if self._writer.buffer.parts > self._progress.part:
            answer.reset_step()

    def _failure(self, draft: Draft) -> Mapping[str, Any] | None:
        """The error for which a request in the background is tried again instead of ending so.

        Only what a model call has ended with comes here, before any tool of its step has run (guarantee 11).
        """
        if not self.spec.background or self._progress.retries >= self._services.settings.limits.job_retries:
            return None
        error: Mapping[str, Any] | None = draft.fields.get("error")
        return error if error is not None and error["retryable"] else None

    async def _delay(self, answer: Answer, failure: Mapping[str, Any]) -> NoReturn:
        """Take back what the failed step has written, and go on with it later, on whichever node."""
        limits, progress = self._services.settings.limits, self._progress
        answer.take_back_step()
        progress.retries += 1
        wait_s = backoff(progress.retries, limits.job_backoff_s, limits.job_backoff_most_s, _RNG)
        until = await until_answered(self._services.log.now_ms, "asking for the time") + int(wait_s * 1000)
        self._writer.event(
            RequestDelayed(**self._head, retry=progress.retries, until=until, reason=failure["code"]), checkpoint=True
        )
        self._services.metrics.jobs_delayed_total.inc()
        await self._park(until)

    async def _park(self, until: int) -> NoReturn:
        """Wait, for people or another try, without costing anything: whoever finds it due, or spoken to, goes on."""
        services, owned = self._services, self.owned
        self._progress.parked_at = await until_answered(services.log.now_ms, "asking for the time")
        self._writer.checkpoint_next()
        await self._writer.flush()
        ref, checkpoint = owned.request, self._checkpoint()
        park = partial(services.archive.park_request, ref.tenant_id, ref.request_id, checkpoint=checkpoint)
        await until_answered(park, "keeping a parked turn")
        hand_over = partial(services.log.hand_over, ref, owned.fence, parked_until=until, taken=self._writer.heard)
        if not await until_answered(hand_over, "parking"):
            raise LostOwnership
        services.metrics.turns_parked_total.inc()
        raise HandedOver

    async def _hand_over(self) -> NoReturn:
        """Stop here, so that another node begins the broken step again. Not a take-over: nobody died."""
        self._tell_drain()
        self._writer.checkpoint_next()
        await self._writer.flush()
        owned = self.owned
        done = await until_answered(lambda: self._services.log.hand_over(owned.request, owned.fence), "handing over")
        if not done:
            raise LostOwnership
        self._services.metrics.handed_over_total.inc()
        raise HandedOver

    def _tell_drain(self) -> None:
        last = self._ledger.attempts[-1] if self._ledger.attempts else None
        if last is not None and last.outcome == "cancelled":
            self._writer.event(
                StepFailed(
                    **self._head, step=last.step, attempt=last.attempt, deployment=last.deployment, reason="drain"
                )
            )

    @property
    def _stopped(self) -> Draft | None:
        """How the turn ends because somebody said so; a cancel goes before an interrupt."""
        if self._cancel is not None:
            return endings.cancelled(self._cancel.body["by"], self._cancel.body.get("reason"))
        return self._interrupted

    # --- ending ------------------------------------------------------------------------------------------

    async def _seal(self, draft: Draft) -> dict[str, Any]:
        while True:
            await self._put_back()
            answer = await until_answered(lambda: self._try_seal(draft), "sealing")
            if isinstance(answer, Sealed):
                self._presented = answer.presented
                return answer.ending
            if isinstance(answer, Fenced):
                raise LostOwnership
            if isinstance(answer, Forgotten):
                self._writer.written(answer)
            else:
                self.hear(answer.intents)

    async def _put_back(self) -> None:
        """What the log has forgotten is there again afterwards. Raises `LostOwnership`."""
        while self._must_recall:
            await self.recall()
            await self._writer.flush()
        if self._writer.is_lost:
            raise LostOwnership

    async def _seal_as_archived(self, ending: Mapping[str, Any]) -> dict[str, Any]:
        """The archive holds the ending; the log has lost it. Whatever was said since came too late."""
        owned, wanted = self.owned, dict(ending)
        if self._writer.n == 0:  # and its beginning too: nobody could make anything of the end alone
            self._writer.event(created_event(owned))
            await self._writer.flush()
        op = f"seal:{owned.request.request_id}:{owned.fence}"
        while True:
            await self._put_back()
            answer = await until_answered(
                lambda: self._services.log.seal(
                    op,
                    owned.request,
                    owned.fence,
                    wanted,
                    taken=_EVERYTHING,
                    epoch=self._writer.epoch,
                    home=owned.conversation,
                ),
                "sealing",
            )
            if isinstance(answer, Sealed):
                return wanted
            if isinstance(answer, Fenced):
                raise LostOwnership
            if isinstance(answer, Forgotten):
                self._writer.written(answer)

    def _try_seal(self, draft: Draft) -> Awaitable[Sealed | Unheard | Fenced | Forgotten]:
        """One try. What was heard until now decides the draft and how much the seal is told to be heard, together:
        a cancel that comes while the seal is under way, or between two tries, is found unheard by the log."""
        owned = self.owned
        final = self._stopped or draft
        op = f"seal:{owned.request.request_id}:{owned.fence}"
        return self._services.log.seal(
            op,
            owned.request,
            owned.fence,
            self._ending(final),
            taken=self._writer.heard,
            epoch=self._writer.epoch,
            home=owned.conversation,
        )

    def _ending(self, draft: Draft) -> dict[str, Any]:
        started = self._fold.message_id is not None
        answer = self._fold.message(draft.status)
        if answer is None:
            return endings.unstarted(self.spec, draft, self._services.now_ms(), self._ledger.usage_rows())
        usage = self._ledger.usage_fields() if started else None
        return endings.seal_ending(draft, answer, usage, self._ledger.usage_rows(), self._progress.route)

    def _checkpoint(self) -> dict[str, Any]:
        return {
            "active": to_wire(self._fold.to_active()),
            "ledger": self._ledger.to_json(),
            "progress": self._progress.to_json(),
        }
