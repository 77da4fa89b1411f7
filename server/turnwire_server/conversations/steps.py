"""The answer of a turn: model calls and the tools between them, until the model has finished.

A step is one model call with the tool calls that follow from it. It is tried at the deployments of the route, one
after the other: before the first token a failed attempt shows as `step.failed` alone, afterwards `part.reset` takes
its text back, and never is a step tried again once a tool with side effects has run in it (guarantee 11). An attempt
is in the log before it is made, so that whatever dies, it is accounted. This module decides what to say and when;
the writer puts it into the log, `turn` decides how it all ends.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from typing import Any, Literal

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
    Source,
    StepFailed,
    StepStarted,
    ToolArgumentsDelta,
    ToolCalled,
    ToolCallPart,
    ToolCompleted,
    ToolFailed,
    ToolProgress,
    ToolRunning,
    ToolStarted,
    utf16_len,
)
from turnwire_server.eventlog.base import Intent
from turnwire_server.gateway import provider as gw
from turnwire_server.gateway.errors import ProviderError, ProviderErrorKind
from turnwire_server.gateway.provider import Chunk, ModelRequest, Provider
from turnwire_server.orchestration.context import build_prompt
from turnwire_server.orchestration.shared import data_of
from turnwire_server.tools.executor import ToolCall, parse_arguments
from turnwire_server.tools.registry import Tool

from . import endings
from .endings import Draft
from .ledger import Ledger
from .services import Services
from .shared_context import ContextOfTurn
from .spec import TurnSpec
from .steering import Steering
from .writer import TurnWriter

logger = logging.getLogger(__name__)

# Asking the same deployment again at once helps against a broken connection, not against being too much or too slow.
_WORTH_REPEATING = frozenset({ProviderErrorKind.ERROR, ProviderErrorKind.CUT})


@dataclass(slots=True)
class Progress:
    """Where an answer is; part of every checkpoint. ``part`` is the first part of the current step."""

    step: int = 1
    attempt: int = 0
    part: int = 0
    stage: Literal["model", "tools"] = "model"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(slots=True)
class _Call:
    call_id: str
    name: str
    tool: Tool | None
    text: str = ""
    length: int = 0


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
        self._run = run
        self._head: dict[str, Any] = {"conversation_id": spec.conversation_id, "request_id": spec.request_id}
        self._calls: dict[int, _Call] = {}
        self._offered: dict[str, Tool] = {}
        self._steering = Steering(services, spec, writer)
        self._context = ContextOfTurn(services, spec)
        self._attempting: anyio.CancelScope | None = None
        self._finish_reason = ""
        self._first_token = False

    def hear(self, intent: Intent) -> None:
        """Something was said to the turn that does not end it. In their order, each once."""
        if intent.kind == "steer":
            self._steering.hear(intent)
            # A step that only writes text ends where it stands; tools that it calls are run first.
            if self._attempting is not None and not self._calls:
                self._attempting.cancel()

    @property
    def steering(self) -> Steering:
        return self._steering

    async def run(self, history: Sequence[Message]) -> Draft:
        """Produce the answer. Returns how the turn ends if nothing else decides it."""
        progress = self._progress
        await self._steering.recall()
        if progress.stage == "tools":
            await self._settle_calls()
            self._next_step()
        while progress.step <= self._services.settings.limits.steps_per_turn:
            await self._steering.apply()
            failure = await self._model(history)
            if failure is not None:
                return failure
            is_done = self._finish_reason != "tool_calls" and not self._calls
            if is_done and not self._steering.is_waiting:
                return _draft_for(self._finish_reason)
            if not is_done:
                progress.stage = "tools"
                await self._run_calls()
            self._next_step()
        return endings.incomplete("steps")

    def _next_step(self) -> None:
        progress = self._progress
        progress.step, progress.attempt, progress.stage = progress.step + 1, 0, "model"
        progress.part = self._writer.buffer.parts

    # --- one model call, tried at one deployment after the other ---------------------------------------

    async def _model(self, history: Sequence[Message]) -> Draft | None:
        """One step's model call; returns an ending only when it failed for good."""
        plan = self._services.router.plan(self._spec.route)
        for index, provider in enumerate(plan):
            error = await self._attempt(provider, history)
            if error is None:
                return None
            following = self._following(plan[index + 1 :], provider, error)
            wrote = self._writer.buffer.parts > self._progress.part
            if wrote and self._services.router.route(self._spec.route).midstream == "fail":
                following = None
            self._writer.event(
                StepFailed(
                    **self._head,
                    step=self._progress.step,
                    attempt=self._progress.attempt,
                    deployment=provider.deployment.name,
                    reason=error.kind.value,
                    next=None if following is None else following.deployment.name,
                ),
                checkpoint=True,
            )
            if following is None:
                return endings.failed(error.kind.value, error.message, retryable=error.retryable)
            if wrote:
                self.reset_step()
        raise AssertionError("the last attempt of a plan has nothing following")

    def _following(self, rest: Sequence[Provider], failed: Provider, error: ProviderError) -> Provider | None:
        if not rest or not error.retryable:
            return None
        if rest[0] is failed and error.kind not in _WORTH_REPEATING:
            return None
        return rest[0]

    def reset_step(self) -> None:
        """Take back what the current step has written."""
        self._writer.event(PartReset(**self._head, part=self._progress.part, offset=0))
        self._writer.buffer.reset(self._progress.part, 0)

    async def _attempt(self, provider: Provider, history: Sequence[Message]) -> ProviderError | None:
        progress, deployment = self._progress, provider.deployment
        if progress.step > 1:
            await self._writer.flush()  # the prompt is made from the fold: it must hold the tools' results
        progress.attempt += 1
        prompt = self._prompt(history, await self._context.newest())
        self._ledger.begin(progress.step, progress.attempt, deployment, prompt)
        self._writer.event(
            StepStarted(
                **self._head,
                step=progress.step,
                attempt=progress.attempt,
                deployment=deployment.name,
                model=deployment.model,
                run=self._run if self._run > 1 else None,
            ),
            checkpoint=True,
        )
        await self._writer.flush()
        self._calls = {}
        self._finish_reason = ""
        request = ModelRequest(
            messages=prompt,
            tools=[tool.offer() for tool in self._offer(provider)],
            max_output_tokens=self._spec.tenant.get("max_output_tokens"),
        )
        outcome = "cancelled"  # whatever else ends this attempt is a cancel of the turn
        began = self._services.clock()
        try:
            with anyio.CancelScope() as self._attempting:
                async with AsyncExitStack() as stack:
                    try:
                        stream = await stack.enter_async_context(provider.stream(request))
                        await self._read(stream, began)
                    except ProviderError as error:
                        outcome = "failed"
                        return error
                outcome = "completed"
            return None
        finally:
            self._attempting = None
            self._writer.buffer.end_part()
            self._ledger.close(outcome)  # type: ignore[arg-type]
            self._services.metrics.provider_attempts_total.labels(deployment.name, outcome).inc()

    def _prompt(self, history: Sequence[Message], shared: Sequence[ContextEntry]) -> list[dict[str, Any]]:
        tenant = self._spec.tenant
        answer = self._writer.fold.message()
        # Only the steps before this one: what a failed attempt wrote has been, or is being, taken back.
        if answer is not None:
            answer.parts = answer.parts[: self._progress.part]
        return build_prompt(
            tenant.get("system_prompt"),
            history,
            [self._spec.user_message(), *([answer] if answer is not None else [])],
            steering=self._steering.inputs,
            data=data_of(shared, self._spec.context),
            max_tokens=tenant.get("max_context_tokens"),
            count=self._services.counter.estimate_prompt_tokens,
        )

    async def _read(self, stream: AsyncIterator[list[Chunk]], began: float) -> None:
        writer, ledger = self._writer, self._ledger
        async for chunks in stream:
            for chunk in chunks:
                if isinstance(chunk, gw.Text):
                    writer.text(OutputTextDelta, chunk.text)
                    ledger.generated(chunk.text)
                    if not self._first_token:
                        self._first_token = True
                        self._services.metrics.time_to_first_token_seconds.observe(self._services.clock() - began)
                elif isinstance(chunk, gw.Reasoning):
                    writer.text(ReasoningDelta, chunk.text)
                    ledger.generated(chunk.text)
                else:
                    self._other_chunk(chunk)
            if writer.is_full:
                await writer.room()

    def _other_chunk(self, chunk: Chunk) -> None:
        writer, head = self._writer, self._head
        match chunk:
            case gw.ToolCallBegin():
                self._begin_call(chunk)
            case gw.ToolCallArguments():
                call = self._calls[chunk.index]
                writer.event(ToolArgumentsDelta(**head, call_id=call.call_id, offset=call.length, text=chunk.text))
                call.text += chunk.text
                call.length += utf16_len(chunk.text)
                self._ledger.generated(chunk.text)
            case gw.Finish():
                self._finish_reason = chunk.reason
            case gw.Usage():
                self._ledger.reported(chunk)
            case gw.RetrievalStarted():
                writer.event(RetrievalStarted(**head, query=chunk.query))
            case gw.RetrievalCompleted():
                sources = [Source(**source) for source in chunk.sources]
                writer.event(RetrievalCompleted(**head, documents=chunk.documents, sources=sources))
            case gw.RetrievalFailed():
                writer.event(RetrievalFailed(**head, reason=chunk.reason))

    # --- tools -----------------------------------------------------------------------------------------

    def _offer(self, provider: Provider) -> list[Tool]:
        registry, tenant_id = self._services.tools.registry, self._spec.tenant_id
        if provider.deployment.kind == "demo":
            offered = registry.demo()
        else:
            tenant = self._services.settings.tenant(tenant_id)
            offered = registry.offered(tenant_id, frozenset(), allowed=None if tenant is None else tenant.tools)
            # Nobody can be asked in this version.
            offered = [tool for tool in offered if tool.approval == "never"]
        self._offered = {tool.name: tool for tool in offered}
        return offered

    def _begin_call(self, chunk: gw.ToolCallBegin) -> None:
        # The provider's own id is unique in one answer at best; ours has to be unique in the request.
        call_id = f"call_{uuid.uuid4().hex[:16]}"
        tool = self._offered.get(chunk.name)
        self._calls[chunk.index] = _Call(call_id, chunk.name, tool)
        self._ledger.generated(chunk.name)
        self._writer.event(
            ToolStarted(
                **self._head,
                call_id=call_id,
                part=self._writer.buffer.add_call_part(),
                name=chunk.name,
                where=tool.where if tool else "server",
                interruptible=tool.interruptible if tool else False,
                side_effect=tool.side_effect if tool else False,
            )
        )

    async def _run_calls(self) -> None:
        """Run the calls of this step, in the order in which the model made them."""
        ready: list[tuple[_Call, Tool, dict[str, Any]]] = []
        for call in self._calls.values():
            try:
                arguments = parse_arguments(call.text)
            except ValueError as error:
                self._fail(call.call_id, "never_started", str(error))
                continue
            self._writer.event(
                ToolCalled(
                    **self._head,
                    call_id=call.call_id,
                    where=call.tool.where if call.tool else "server",
                    arguments=arguments,
                )
            )
            if call.tool is None:
                self._fail(call.call_id, "never_started", f"there is no tool '{call.name}'")
            else:
                ready.append((call, call.tool, arguments))
        self._calls = {}
        for call, tool, arguments in ready:
            await self._run_call(call.call_id, tool, arguments)

    async def _settle_calls(self) -> None:
        """After a take-over in the middle of a step's tools: run what may run (again), tell the truth of the rest."""
        for part in self._writer.fold.partial.to_parts():
            if not isinstance(part, ToolCallPart) or part.state in ("completed", "failed"):
                continue
            tool = self._services.tools.registry.get(part.name)
            if part.state == "running" and (tool is None or not tool.may_run_again):
                self._fail(part.call_id, "unknown", "the server died while this ran; its effect is unknown")
            elif tool is None or not isinstance(part.arguments, dict):
                self._fail(part.call_id, "never_started", "the server died before this was run")
            else:
                await self._run_call(part.call_id, tool, part.arguments)

    async def _run_call(self, call_id: str, tool: Tool, arguments: dict[str, Any]) -> None:
        async def begin() -> None:
            self._writer.event(ToolRunning(**self._head, call_id=call_id, run=self._run), checkpoint=True)
            await self._writer.flush()  # before the tool is run: a taker must know that it may have been

        def progress(fraction: float | None, message: str | None) -> None:
            self._writer.event(ToolProgress(**self._head, call_id=call_id, fraction=fraction, message=message))

        spec = self._spec
        result = await self._services.tools.run(
            ToolCall(
                tool=tool,
                arguments=arguments,
                tenant_id=spec.tenant_id,
                user_id=spec.user_id,
                conversation_id=spec.conversation_id,
                request_id=spec.request_id,
                call_id=call_id,
                begin=begin,
                progress=progress,
            )
        )
        if result.outcome == "completed":
            self._writer.event(
                ToolCompleted(**self._head, call_id=call_id, output=result.output, duration_ms=result.duration_ms),
                checkpoint=True,
            )
        else:
            self._fail(call_id, result.outcome, result.error)

    def _fail(self, call_id: str, outcome: Any, error: str) -> None:
        self._writer.event(ToolFailed(**self._head, call_id=call_id, outcome=outcome, error=error), checkpoint=True)


def _draft_for(finish_reason: str) -> Draft:
    if finish_reason in ("length", "content_filter"):
        return endings.incomplete(finish_reason)
    return endings.completed(finish_reason)
