"""The answer of a turn: its stages (`orchestration.pipeline`), one after the other, until it is known how it ends.

A step is one model call with the tool calls that follow from it. It is tried at the deployments of the route, one
after the other: before the first token a failed attempt shows as `step.failed` alone; afterwards `part.reset` takes
its text back, or the next one goes on with it (the route's `midstream`); never is a step tried again once a tool with
side effects has run in it (guarantee 11). An attempt is in the log before it is made, so that whatever dies, it is
accounted (`attempts`). This module carries the stages out; the writer puts what they say into the log, `turn` decides
how it all ends.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import anyio

from turnwire_protocol import (
    ContextEntry,
    Message,
    OutputTextDelta,
    PartReset,
    ReasoningDelta,
    RetrievalCompleted,
    RetrievalFailed,
    RetrievalStarted,
    RouteChosen,
    Source,
    StepContext,
    ToolCallPart,
)
from turnwire_server.eventlog.base import Intent
from turnwire_server.gateway import provider as gw
from turnwire_server.gateway.errors import ProviderError
from turnwire_server.gateway.provider import Chunk, ChunkStream, ModelRequest, Reasoning, Text
from turnwire_server.gateway.race import Runner, race
from turnwire_server.gateway.router import Call, UnknownRoute, Walk
from turnwire_server.orchestration import classify
from turnwire_server.orchestration.context import Assembled, ChatMessage, build_prompt, shortener, to_continue
from turnwire_server.orchestration.earlier import NOTHING
from turnwire_server.orchestration.pipeline import Outcome, Stage, follow, resumed
from turnwire_server.orchestration.shared import data_of
from turnwire_server.orchestration.validation import instruction, to_repair
from turnwire_server.settings import Route

from . import endings
from .attempts import Attempt, Attempts
from .calls import KINDS as CALL_KINDS
from .calls import Calls
from .checks import Checks
from .endings import Draft
from .finding import Finding
from .ledger import Ledger, OpenAttempt
from .progress import Progress
from .services import Services
from .shared_context import ContextOfTurn
from .spec import TurnSpec, prompt_budget
from .steering import Steering
from .turn_tools import TurnTools
from .writer import TurnWriter

logger = logging.getLogger(__name__)


class Answer:
    """One run of one answer. `run` is called once, inside the turn's cancel scope."""

    def __init__(
        self, services: Services, spec: TurnSpec, writer: TurnWriter, ledger: Ledger, progress: Progress, run: int
    ) -> None:
        self._services = services
        self._spec = spec
        self._writer = writer
        self._ledger = ledger
        self._progress = progress
        self._attempts = Attempts(services, spec, writer, ledger, progress, run)
        self._head: dict[str, Any] = {"conversation_id": spec.conversation_id, "request_id": spec.request_id}
        self._tools = TurnTools(services, spec)
        self.calls = Calls(services, spec, writer, progress, self._tools, run)
        self._steering = Steering(services, spec, writer)
        self.context = ContextOfTurn(services, spec)
        self.earlier = NOTHING
        """What stands for the turns that are not in the history that `run` is given."""
        self.used: StepContext | None = None
        """What the last prompt had in it."""
        self._attempting: anyio.CancelScope | None = None
        self._finish_reason = ""
        self._first_token = False
        self._continues = False
        self._is_taken_over = progress.stage is Stage.TOOLS
        self._draft: Draft | None = None
        self._checks = Checks(services, spec, writer, progress)
        self._finding = Finding(services, spec, writer, self._checks)
        self._stages: Mapping[Stage, Callable[[], Awaitable[Outcome]]] = {
            Stage.CLASSIFY: self._classify,
            Stage.CHECK: self._check,
            Stage.RETRIEVE: self._retrieve,
            Stage.ASSEMBLE: self._assemble,
            Stage.MODEL: self._model,
            Stage.TOOLS: self._run_tools,
            Stage.VALIDATE: self._validate,
        }
        self._history: Sequence[Message] = ()

    def hear(self, intent: Intent) -> None:
        """Something was said to the turn that does not end it. In their order, each once."""
        if intent.kind == "steer":
            self._steering.hear(intent)
            # A step that only writes text ends where it stands; tools that it calls are run first.
            if self._attempting is not None and self.calls.is_empty:
                self._attempting.cancel()
        elif intent.kind in CALL_KINDS:
            self.calls.hear(intent)

    @property
    def steering(self) -> Steering:
        return self._steering

    async def run(self, history: Sequence[Message]) -> Draft:
        """Produce the answer. Returns how the turn ends if nothing else decides it."""
        self._history = history
        await self._steering.recall()
        stage = resumed(self._progress.stage)
        while stage is not Stage.RECORD:
            self._progress.stage = stage
            stage = follow(stage, await self._stages[stage]())
        assert self._draft is not None, "whoever ends a turn says how"
        return self._draft

    def _ends(self, draft: Draft) -> Outcome:
        self._draft = draft
        return Outcome.ENDED

    @property
    def _route(self) -> Route:
        return self._services.router.route(self._progress.route or self._spec.route)

    # --- classify, check, assemble -------------------------------------------------------------------------

    async def _classify(self) -> Outcome:
        spec, progress = self._spec, self._progress
        if spec.candidates and not progress.route:
            name: str | None = None
            progress.step = 0
            try:
                with anyio.move_on_after(self._services.settings.limits.classify_s):
                    name = await self._ask_which()
            finally:
                progress.step, progress.attempt = 1, 0
            progress.route = name or spec.route or self._route.name
            by: Any = "model" if name else "default"
            self._writer.event(RouteChosen(**self._head, route=progress.route, by=by), checkpoint=True)
        return Outcome.DONE

    async def _ask_which(self) -> str | None:
        """The route that a small model chooses; None when it does not. It is asked once: nobody waits for more."""
        spec, router = self._spec, self._services.router
        try:
            walk = router.walk(spec.classifier, spec.caller())
        except UnknownRoute:
            return None
        text = self._checks.of_input("\n".join(spec.texts), walk.route)
        if text is None or await self._services.tenants.refusal(spec.tenant_id) is not None:
            return None  # of a tenant that is suspended the next stage tells
        if (call := await walk.next()) is None:
            return None
        prompt = classify.question(text, {name: router.route(name).purpose or "" for name in spec.candidates})
        said = ""
        try:
            attempt = await self._attempts.begin(walk, call, prompt, [])
            try:
                async with self._stream(attempt, prompt) as stream:
                    async for chunks in stream:
                        self._attempts.answered(attempt)
                        for chunk in chunks:
                            if isinstance(chunk, Text):
                                said += chunk.text
                                attempt.entry.generated(chunk.text)
                            elif isinstance(chunk, gw.Usage):
                                attempt.entry.reported(chunk)
                        if len(said) > classify.ANSWER_CHARS:
                            return None
            except ProviderError as error:
                self._attempts.end(attempt, "failed", error)
                self._attempts.failed(attempt, error.reason, None)
                return None
            self._attempts.end(attempt, "completed")
        finally:
            self._attempts.leave()
            walk.ended(call)  # where not even the attempt has begun
        return classify.chosen(said, spec.candidates)

    async def _check(self) -> Outcome:
        self.take_back_step()  # what an earlier owner put in the place of an answer
        refusal = self._checks.input(self._route)
        return Outcome.DONE if refusal is None else self._ends(refusal)

    async def _retrieve(self) -> Outcome:
        failure = await self._finding.search(self._route)
        return Outcome.DONE if failure is None else self._ends(failure)

    async def _assemble(self) -> Outcome:
        most = self._services.settings.limits.steps_per_turn
        if self._progress.step > min(most, self._route.steps or most):
            return self._ends(endings.incomplete("steps"))
        await self._steering.apply()
        ending = self._spent() or await self._finding.search(self._route)  # a taker has yet to search
        return Outcome.DONE if ending is None else self._ends(ending)

    def _spent(self) -> Draft | None:
        """How the turn ends because it has cost too much, or does the same again and again."""
        limits = self._services.settings.limits
        if limits.turn_cost_usd is not None and self._ledger.cost_usd >= limits.turn_cost_usd:
            return endings.incomplete("budget")
        calls = [part for part in self._writer.fold.partial.to_parts() if isinstance(part, ToolCallPart)]
        same = itertools.takewhile(
            lambda call: (call.name, call.arguments) == (calls[-1].name, calls[-1].arguments), reversed(calls)
        )
        return endings.incomplete("steps") if len(list(same)) > limits.identical_calls else None

    def _next_step(self) -> None:
        progress = self._progress
        progress.step, progress.attempt, progress.stage = progress.step + 1, 0, Stage.ASSEMBLE
        progress.part = self._writer.buffer.parts

    # --- tools, validate -----------------------------------------------------------------------------------

    async def _run_tools(self) -> Outcome:
        if self._is_taken_over:
            await self.calls.settle()
        else:
            await self.calls.run()
        self._is_taken_over = False
        await self._writer.flush()  # what the tools returned is looked at as it is in the log
        self._checks.tools(self._route)
        self._next_step()
        return Outcome.DONE

    async def _validate(self) -> Outcome:
        route, draft = self._route, _draft_for(self._finish_reason)
        fault = await self._checks.output(
            route, is_whole=draft.outcome == "completed" and not self._steering.is_waiting
        )
        if fault is None:
            if self._steering.is_waiting:
                self._next_step()
                return Outcome.STEERED
            self._draft = draft
            return Outcome.DONE
        self.take_back_step()
        if self._checks.repairs(route, fault):
            self._next_step()
            return Outcome.REPAIR
        return self._ends(self._checks.instead(route, fault))

    def take_back_step(self) -> None:
        """Take back what the current step has written, if it has written anything."""
        if self._writer.buffer.parts > self._progress.part:
            self.reset_step()

    # --- one model call, tried at one deployment after the other ---------------------------------------

    async def _model(self) -> Outcome:
        failure = await self._ask()
        if failure is not None:
            return self._ends(failure)
        is_calling = self._finish_reason == "tool_calls" or not self.calls.is_empty
        if is_calling and not self._checks.is_refused:
            return Outcome.CALLED
        return Outcome.DONE

    async def _ask(self) -> Draft | None:
        """One step's model call; returns an ending only when it failed for good."""
        walk = self._services.router.walk(self._route.name, self._spec.caller())
        self._continues = False
        while (call := await walk.next()) is not None:
            if (refusal := await self._services.tenants.refusal(self._spec.tenant_id)) is not None:
                walk.ended(call)
                return endings.failed("unavailable", refusal, retryable=False)
            failure = await self._attempt(walk, call)
            if failure is None:
                return None
            attempt, error = failure
            wrote = self._writer.buffer.parts > self._progress.part
            following = None if wrote and walk.route.midstream == "fail" else walk.following()
            self._attempts.failed(attempt, error.reason, following)
            if following is None:
                return _failed(error)
            if wrote:
                self._continues = walk.route.midstream == "continue" and self._may_continue()
                if not self._continues:
                    self.reset_step()
        assert walk.error is not None, "a walk that ends without an answer says why"
        return _failed(walk.error)

    def _may_continue(self) -> bool:
        """Whether another model can go on with what the step has written: text, and no beginning of a tool call."""
        return self.calls.is_empty and self._writer.buffer.ends_in_text

    def _written(self) -> int:
        """How many characters the step has written."""
        return sum(len(part.text) for part in self._writer.fold.partial.parts[self._progress.part :])

    def reset_step(self) -> None:
        """Take back what the current step has written."""
        self._writer.event(PartReset(**self._head, part=self._progress.part, offset=0))
        self._writer.buffer.reset(self._progress.part, 0)

    async def _attempt(self, walk: Walk, call: Call) -> tuple[Attempt, ProviderError] | None:
        """One call of one deployment, raced by a second one where the route says so; which failed last, if all did."""
        try:
            if self._progress.step > 1 or self._continues:
                await self._writer.flush()  # the prompt is made from the fold: it must hold what came before
            self._progress.continued = self._written() if self._continues else 0
            tools = self._offers(call)
            assembled = self._prompt(call, tools, await self.context.newest())
            prompt, self.used = assembled.messages, assembled.used
            attempt = await self._attempts.begin(walk, call, prompt, tools, assembled.used)
            self._checks.begin(walk.route)
            self.calls.forget()
            self._finish_reason = ""
            with anyio.CancelScope() as self._attempting:
                return await self._listen(attempt, prompt)
            return None
        finally:
            self._attempting = None
            self._writer.buffer.end_part()
            self._attempts.leave()
            walk.ended(call)  # where not even the attempt has begun

    async def _listen(self, attempt: Attempt, prompt: list[dict[str, Any]]) -> tuple[Attempt, ProviderError] | None:
        """Until whoever speaks has finished, or the last one has failed."""
        hedge_after_ms = attempt.walk.route.hedge_after_ms
        async with AsyncExitStack() as stack:
            try:
                if hedge_after_ms is None:
                    stream = await stack.enter_async_context(self._stream(attempt, prompt))
                else:
                    winner = await self._race(attempt, prompt, hedge_after_ms / 1000)
                    stack.push_async_callback(winner.aclose)
                    attempt = winner.key
                    if isinstance(winner.error, ProviderError):
                        raise winner.error
                    stream = winner.stream
                    if not self._take(attempt, winner.chunks or []):
                        await self._writer.room()
                while not await gw.pump(stream, partial(self._take, attempt)):
                    await self._writer.room()
            except ProviderError as error:
                self._attempts.end(attempt, "failed", error)
                return attempt, error
        self._attempts.end(attempt, "completed")
        return None

    async def _race(self, first: Attempt, prompt: list[dict[str, Any]], after_s: float) -> Runner[Attempt]:
        walk = first.walk
        asked = [first]

        async def begin_second() -> Runner[Attempt] | None:
            if await self._services.tenants.refusal(self._spec.tenant_id) is not None:
                return None
            call = walk.second(first.call)
            if call is None:
                return None
            asked.append(await self._attempts.begin(walk, call, prompt, self._offers(call)))
            return Runner(asked[-1], self._stream(asked[-1], prompt))

        def lost(runner: Runner[Attempt]) -> None:
            error = runner.error if isinstance(runner.error, ProviderError) else None
            self._attempts.end(runner.key, "hedge_lost" if error is None else "failed", error)
            (other,) = (attempt for attempt in asked if attempt is not runner.key)
            if error is None:
                self._attempts.failed(runner.key, "hedge_lost", None)
            else:
                self._attempts.failed(runner.key, error.reason, other.call.name)

        return await race(Runner(first, self._stream(first, prompt)), after_s, begin_second, lost)

    def _stream(self, attempt: Attempt, prompt: list[dict[str, Any]]) -> ChunkStream:
        request = ModelRequest(
            messages=prompt,
            tools=attempt.tools,
            max_output_tokens=self._spec.tenant.get("max_output_tokens"),
            output_schema=attempt.walk.route.output_schema if attempt.call.deployment.structured_output else None,
        )
        return attempt.call.provider.stream(request)

    def _offers(self, call: Call) -> list[dict[str, Any]]:
        return [tool.offer() for tool in self._tools.offer(call.provider, self._route.tools)]

    def _prompt(self, call: Call, tools: list[dict[str, Any]], shared: Sequence[ContextEntry]) -> Assembled:
        tenant, deployment, settings = self._spec.tenant, call.deployment, self._services.settings
        route, checks = self._route, self._checks
        counter = self._services.estimates.of(self._spec.tenant_id).counter(deployment)
        system = [tenant.get("system_prompt")]
        system.append(self._finding.says(route))
        if route.output_schema is not None and not deployment.structured_output:
            system.append(instruction(route.output_schema))
        answer = self._writer.fold.message()
        # Of this step only what is to be continued: else what a failed attempt wrote has been, or is being, taken back.
        if answer is not None and not self._continues:
            answer.parts = answer.parts[: self._progress.part]
        return build_prompt(
            "\n\n".join(text for text in system if text) or None,
            [checks.seen(message, route) for message in self._history],
            [checks.seen(said, route) for said in (self._spec.user_message(), answer) if said is not None],
            steering={name: checks.seen(steered, route) for name, steered in self._steering.inputs.items()},
            data=[*data_of(shared, self._spec.context), *self._finding.data()],
            earlier=checks.of_earlier(self.earlier, route),
            max_tokens=prompt_budget(tenant, deployment, settings.limits.reserved_output_tokens),
            tools_tokens=counter.estimate_tools_tokens(tools),
            shorten=shortener(settings.context.tool_result_tokens, counter.count),
            goes_on=self._goes_on,
            count=counter.estimate_prompt_tokens,
        )

    @property
    def _goes_on(self) -> Callable[[Sequence[ChatMessage]], list[ChatMessage]] | None:
        """What the turn's own messages end with, where the model is asked for more than an answer to them."""
        progress = self._progress
        if self._continues:
            return to_continue
        if progress.complaint:
            return partial(to_repair, rejected=progress.rejected, reason=progress.complaint)
        return None

    def _take(self, attempt: Attempt, chunks: Sequence[Chunk]) -> bool:
        """What the model has said; whether there is room for more."""
        writer, entry = self._writer, attempt.entry
        self._attempts.answered(attempt)
        for chunk in chunks:
            if isinstance(chunk, Text):
                if not self._checks.withholds(chunk.text):
                    writer.text(OutputTextDelta, chunk.text)
                entry.generated(chunk.text)
                if not self._first_token:
                    self._first_token = True
                    waited_s = self._services.clock() - attempt.began
                    self._services.metrics.time_to_first_token_seconds.observe(waited_s)
            elif isinstance(chunk, Reasoning):
                if not self._checks.is_withholding:
                    writer.text(ReasoningDelta, chunk.text)
                entry.generated(chunk.text)
            else:
                self._other_chunk(entry, chunk)
        return not writer.is_full

    def _other_chunk(self, entry: OpenAttempt, chunk: Chunk) -> None:
        writer, head = self._writer, self._head
        match chunk:
            case gw.ToolCallBegin():
                self._checks.show(self._route)  # what it has said before it calls stands before the call
                self.calls.begin(chunk.index, chunk.name)
                entry.generated(chunk.name, is_plain=False)
            case gw.ToolCallArguments():
                self.calls.write(chunk.index, chunk.text)
                entry.generated(chunk.text, is_plain=False)
            case gw.Finish():
                self._finish_reason = chunk.reason
            case gw.Usage():
                entry.reported(chunk)
            case gw.RetrievalStarted():
                writer.event(RetrievalStarted(**head, query=chunk.query))
            case gw.RetrievalCompleted():
                sources = [Source(**source) for source in chunk.sources]
                writer.event(RetrievalCompleted(**head, documents=chunk.documents, sources=sources))
            case gw.RetrievalFailed():
                writer.event(RetrievalFailed(**head, reason=chunk.reason))


def _failed(error: ProviderError) -> Draft:
    return endings.failed(error.kind.value, error.message, retryable=error.retryable)


def _draft_for(finish_reason: str) -> Draft:
    if finish_reason in ("length", "content_filter"):
        return endings.incomplete(finish_reason)
    return endings.completed(finish_reason)
