"""A run of a turn as spans: the run itself, each attempt, each tool call, each retrieval.

It is told what the log is told (`saw`, called for every event that the turn writes but text) and what the ledger is
told (`attempt_ended`), so that spans say what those say. Nothing here is awaited, and nothing is done for a delta. A
run that is killed leaves no spans: its taker says what was lost. A fault in here costs the trace, never the turn.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson

from turnwire_protocol import (
    RequestDelayed,
    RequestEvent,
    RequestFold,
    RetrievalCompleted,
    RetrievalFailed,
    RetrievalStarted,
    RouteChosen,
    SteerApplied,
    StepFailed,
    ToolApprovalRequired,
    ToolApproved,
    ToolCalled,
    ToolCallPart,
    ToolCompleted,
    ToolDenied,
    ToolFailed,
    ToolRunning,
    ToolStarted,
    ValidationFailed,
    message_from_wire,
)
from turnwire_server.eventlog.base import Owned
from turnwire_server.gateway.provider import Usage
from turnwire_server.gateway.usage import AttemptUsage
from turnwire_server.settings import Deployment
from turnwire_server.telemetry.tracing import RunTrace, Span, Tracer, trace_id_of
from turnwire_server.telemetry.tracing.policy import tenant_detectors
from turnwire_server.telemetry.tracing.spans import Value, parent_of

from .ledger import Ledger
from .spec import TurnSpec

logger = logging.getLogger(__name__)

# The name of a tool that does not exist is whatever the model wrote.
_TOOL_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_TOOL_TYPES = {"client": "function", "server": "function", "mcp": "extension"}


class TurnTrace:
    """That of one run. `end` or `give_up` it; a run that is killed does neither."""

    def __init__(self, tracer: Tracer, spec: TurnSpec, owned: Owned, fold: RequestFold, clock: Callable[[], float]):
        self._tracer = tracer
        self._fold = fold
        self._clock = clock
        self._tools: dict[str, Span] = {}
        self._names: dict[str, tuple[str, str]] = {}
        self._retrieval: Span | None = None
        self._first_token: float | None = None
        self._is_over = False
        self._trace = RunTrace(
            spec.tenant_id,
            spec.request_id,
            trace_id_of(spec.tenant_id, spec.request_id, spec.traceparent),
            owned.run,
            owned.fence,
            tenant_detectors(spec.tenant.get("redact")),
        )
        attributes: dict[str, Value] = {
            "gen_ai.operation.name": "invoke_agent",
            "gen_ai.conversation.id": spec.conversation_id,
        }
        name = f"invoke_agent {spec.route}" if spec.route else "invoke_agent"
        root = Span(name, clock(), parent_of(spec.traceparent), "server", attributes)
        root.put(
            request_id=spec.request_id, tenant=spec.tenant_id, run=owned.run, route=spec.route, feature=spec.feature
        )
        self._root = self._trace.begin(root)
        if tracer.captures_content:
            self._root.attributes["gen_ai.input.messages"] = _json([{"role": "user", "content": list(spec.texts)}])

    def began(self, ledger: Ledger, *, recovered: bool) -> None:
        """The run begins now. One that goes on after another says so, and what that one has lost."""
        self._root.began = now = self._clock()
        if recovered:
            self._root.event(now, "turnwire.recovered", run=self._trace.run)
        for row in ledger.attempts:
            if row.outcome == "node_lost":
                self._root.event(now, "turnwire.attempt.node_lost", **_figures(row))

    # --- attempts --------------------------------------------------------------------------------------------

    def attempt(self, deployment: Deployment, step: int, number: int, prompt: Sequence[Mapping[str, Any]]) -> Span:
        """A call of a model is about to be made."""
        attributes: dict[str, Value] = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": deployment.kind,
            "gen_ai.request.model": deployment.model,
        }
        span = Span(f"chat {deployment.model}", self._clock(), self._root.span_id, "client", attributes)
        span.put(deployment=deployment.name, step=step, attempt=number)
        if self._tracer.captures_content:
            span.attributes["gen_ai.input.messages"] = _json(prompt)
        return self._trace.begin(span)

    def answered(self, span: Span) -> None:
        """The model's first words."""
        now = self._clock()
        span.put(time_to_first_token_ms=_ms(now - span.began))
        if self._first_token is None:
            self._first_token = now
            self._root.put(time_to_first_token_ms=_ms(now - self._root.began))

    def attempt_ended(self, span: Span, row: AttemptUsage, error: str | None) -> None:
        """As the ledger has it."""
        now = self._clock()
        _put_usage(span, Usage(row.input_tokens, row.output_tokens, row.cached_tokens))
        span.put(outcome=row.outcome, cost_usd=float(row.cost_usd), usage_source=row.source)
        first_ms = span.attributes.get("turnwire.time_to_first_token_ms")
        if isinstance(first_ms, float) and row.output_tokens > 1:
            speaking_ms = (now - span.began) * 1000 - first_ms
            span.put(time_per_output_token_ms=round(max(speaking_ms, 0) / (row.output_tokens - 1), 3))
        if error is not None:
            span.attributes["error.type"] = error
        span.end(now, error)

    # --- what the log is told --------------------------------------------------------------------------------

    def saw(self, event: RequestEvent) -> None:
        """The turn says this."""
        handle = _HANDLERS.get(type(event))
        if handle is None or self._is_over:
            return
        try:
            handle(self, event)
        except Exception:
            logger.exception("an event of request %s is not in its trace", self._trace.request_id)

    def _tool_named(self, event: ToolStarted) -> None:
        self._names[event.call_id] = (event.name, event.where)

    def _tool(self, call_id: str) -> Span:
        """The call's span, which begins with the first that this run says of it."""
        span = self._tools.get(call_id)
        if span is None:
            name, where = self._names.get(call_id) or self._known(call_id)
            name = name if _TOOL_NAME.fullmatch(name) else "?"
            attributes: dict[str, Value] = {
                "gen_ai.operation.name": "execute_tool",
                "gen_ai.tool.name": name,
                "gen_ai.tool.call.id": call_id,
                "gen_ai.tool.type": _TOOL_TYPES[where],
            }
            span = Span(f"execute_tool {name}", self._clock(), self._root.span_id, "internal", attributes)
            span.put(tool_where=where)
            self._tools[call_id] = self._trace.begin(span)
        return span

    def _known(self, call_id: str) -> tuple[str, str]:
        for part in self._fold.partial.to_parts():
            if isinstance(part, ToolCallPart) and part.call_id == call_id:
                return part.name, part.where
        return "?", "server"

    def _tool_called(self, event: ToolCalled) -> None:
        span = self._tool(event.call_id)
        if self._tracer.captures_content:
            span.attributes["gen_ai.tool.call.arguments"] = _json(event.arguments)

    def _tool_happened(self, event: ToolRunning | ToolApprovalRequired | ToolApproved | ToolDenied) -> None:
        self._tool(event.call_id).event(self._clock(), event.type)

    def _tool_completed(self, event: ToolCompleted) -> None:
        span = self._tool(event.call_id)
        span.put(outcome="completed", tool_duration_ms=event.duration_ms)
        if self._tracer.captures_content:
            span.attributes["gen_ai.tool.call.result"] = _json(event.output)
        span.end(self._clock())

    def _tool_failed(self, event: ToolFailed) -> None:
        span = self._tool(event.call_id)
        span.put(outcome=event.outcome)
        span.attributes["error.type"] = event.outcome
        if self._tracer.captures_content:
            span.put(error=event.error)
        span.end(self._clock(), event.outcome)

    def _retrieval_started(self, event: RetrievalStarted) -> None:
        attributes: dict[str, Value] = {"gen_ai.operation.name": "retrieval"}
        self._retrieval = self._trace.begin(
            Span("retrieval", self._clock(), self._root.span_id, "internal", attributes)
        )
        if self._tracer.captures_content and event.query is not None:
            self._retrieval.attributes["gen_ai.retrieval.query.text"] = event.query

    def _retrieved(self, event: RetrievalCompleted | RetrievalFailed) -> None:
        span, self._retrieval = self._retrieval, None
        if span is None:
            return
        if isinstance(event, RetrievalFailed):
            # The reason is a text of the server's own or a provider's: it may repeat the query.
            span.put(outcome="failed", reason=event.reason if self._tracer.captures_content else None)
            span.end(self._clock(), "failed")
            return
        span.put(
            outcome="completed",
            documents=event.documents,
            document_ids=[str(source.id) for source in event.sources],
            document_scores=[str(source.score) for source in event.sources],
        )
        span.end(self._clock())

    def _step_failed(self, event: StepFailed) -> None:
        self._root.event(
            self._clock(), event.type, step=event.step, attempt=event.attempt, reason=event.reason, next=event.next
        )

    def _steered(self, event: SteerApplied) -> None:
        self._root.event(self._clock(), event.type)

    def _routed(self, event: RouteChosen) -> None:
        self._root.event(self._clock(), event.type, route=event.route, by=event.by)
        self._root.put(route=event.route)

    def _not_passed_on(self, event: ValidationFailed) -> None:
        # Not the reason: of an answer that does not fit its schema it repeats some of the answer.
        self._root.event(
            self._clock(), event.type, step=event.step, on=event.on, action=event.action, guard=event.guard
        )

    def _delayed(self, event: RequestDelayed) -> None:
        self._root.event(self._clock(), event.type, retry=event.retry, reason=event.reason)

    # --- the end ---------------------------------------------------------------------------------------------

    def end(self, ending: Mapping[str, Any]) -> None:
        """The request has ended, as everybody is told."""
        try:
            self._end(ending)
        except Exception:
            logger.exception("the trace of request %s was not finished", self._trace.request_id)

    def _end(self, ending: Mapping[str, Any]) -> None:
        root, fields, outcome = self._root, ending["fields"], ending["outcome"]
        error: str | None = None
        match outcome:
            case "completed":
                root.attributes["gen_ai.response.finish_reasons"] = [fields["finish_reason"]]
            case "failed":
                error = fields["error"]["code"]
            case "incomplete":
                root.put(reason=fields["reason"])
                error = f"incomplete: {fields['reason']}"
            case "interrupted":
                root.put(reason=fields["reason"], generated=fields["generated"], presented=fields["presented"])
        usage = ending["usage"]
        if usage is not None:
            _put_usage(root, Usage(usage["input_tokens"], usage["output_tokens"], usage["cached_tokens"]))
            root.put(cost_usd=float(usage["cost_usd"]), attempts=len(usage["attempts"]), usage_source=usage["source"])
        if self._tracer.captures_content:
            parts = [getattr(part, "text", "") for part in message_from_wire(ending["answer"]).parts]
            root.attributes["gen_ai.output.messages"] = _json([{"role": "assistant", "content": parts}])
        if error is not None:
            root.attributes["error.type"] = error
        self._over(outcome, error)

    def give_up(self, how: str) -> None:
        """This run is over, the request is not: ``handed_over``, ``parked``, or ``lost`` to another owner."""
        if how == "lost" and len(self._trace.spans) == 1:
            return  # it never was this run's, or nothing was done for it
        self._over(how, None)

    def _over(self, outcome: str, error: str | None) -> None:
        if self._is_over:
            return
        self._is_over = True
        now = self._clock()
        for span in self._trace.spans[1:]:
            if span.ended is None:
                span.put(outcome="open")  # what came of it is not known to this run
                span.end(now)
        self._root.put(outcome=outcome, spans_left_out=self._trace.left_out or None)
        self._root.end(now, error)
        self._tracer.take(self._trace)


_HANDLERS: dict[type, Callable[[TurnTrace, Any], None]] = {
    ToolStarted: TurnTrace._tool_named,
    ToolCalled: TurnTrace._tool_called,
    ToolRunning: TurnTrace._tool_happened,
    ToolApprovalRequired: TurnTrace._tool_happened,
    ToolApproved: TurnTrace._tool_happened,
    ToolDenied: TurnTrace._tool_happened,
    ToolCompleted: TurnTrace._tool_completed,
    ToolFailed: TurnTrace._tool_failed,
    RetrievalStarted: TurnTrace._retrieval_started,
    RetrievalCompleted: TurnTrace._retrieved,
    RetrievalFailed: TurnTrace._retrieved,
    StepFailed: TurnTrace._step_failed,
    SteerApplied: TurnTrace._steered,
    RouteChosen: TurnTrace._routed,
    ValidationFailed: TurnTrace._not_passed_on,
    RequestDelayed: TurnTrace._delayed,
}


def _put_usage(span: Span, usage: Usage) -> None:
    span.attributes["gen_ai.usage.input_tokens"] = usage.input_tokens
    span.attributes["gen_ai.usage.output_tokens"] = usage.output_tokens
    span.attributes["gen_ai.usage.cache_read.input_tokens"] = usage.cached_tokens


def _figures(row: AttemptUsage) -> dict[str, Value]:
    return {
        "step": row.step,
        "attempt": row.attempt,
        "deployment": row.deployment,
        "input_tokens": row.input_tokens,
        "output_tokens": row.output_tokens,
        "cost_usd": float(row.cost_usd),
    }


def _json(value: Any) -> str:
    try:
        return orjson.dumps(value, default=str).decode()
    except TypeError:  # numbers beyond 64 bits and lone surrogates, which a model may write
        return json.dumps(value, default=str)


def _ms(seconds: float) -> float:
    return round(max(seconds, 0.0) * 1000, 3)
