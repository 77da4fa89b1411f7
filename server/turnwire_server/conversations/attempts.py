"""The calls of a step, each told in the log before it is made and accounted once when it is over (guarantee 12).

An attempt begins with `step.started` and its open row in the ledger, in one checkpoint; whatever ends it, its row is
closed, its place at the deployment given back and the router told. Two may be open at once, when a slow deployment is
raced by another one. What is said to whom is decided in `steps`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from turnwire_protocol import StepContext, StepFailed, StepStarted
from turnwire_server.gateway.errors import ProviderError
from turnwire_server.gateway.router import Call, Walk
from turnwire_server.gateway.usage import Outcome
from turnwire_server.telemetry.tracing import Span

from .ledger import Ledger, OpenAttempt
from .progress import Progress
from .services import Services
from .spec import TurnSpec
from .writer import TurnWriter


@dataclass(slots=True, eq=False)
class Attempt:
    """One call under way. ``tools`` are what the model is offered; ``entry`` is its row; ``began`` is when it was made,
    in seconds since the epoch; ``is_silent`` until the model has said something."""

    number: int
    walk: Walk
    call: Call
    tools: list[dict[str, Any]]
    entry: OpenAttempt
    began: float
    span: Span
    is_silent: bool = True


class Attempts:
    """Those of one run of one answer."""

    def __init__(
        self, services: Services, spec: TurnSpec, writer: TurnWriter, ledger: Ledger, progress: Progress, run: int
    ) -> None:
        self._services = services
        self._writer = writer
        self._ledger = ledger
        self._progress = progress
        self._run = run
        self._head: dict[str, Any] = {"conversation_id": spec.conversation_id, "request_id": spec.request_id}
        self._open: list[Attempt] = []

    async def begin(
        self,
        walk: Walk,
        call: Call,
        prompt: Sequence[dict[str, Any]],
        tools: list[dict[str, Any]],
        context: StepContext | None = None,
    ) -> Attempt:
        """It is in the log; now make the call. `end` it in any case, or `leave` all that are open.

        ``context`` is what the prompt has in it, as counted for this deployment.
        """
        progress, deployment = self._progress, call.deployment
        progress.attempt += 1
        counted = None if context is None else context.tokens
        entry = self._ledger.begin(progress.step, progress.attempt, deployment, prompt, tools, counted)
        span = self._writer.trace.attempt(deployment, progress.step, progress.attempt, prompt)
        attempt = Attempt(progress.attempt, walk, call, tools, entry, self._services.clock(), span)
        self._open.append(attempt)
        self._writer.event(
            StepStarted(
                **self._head,
                step=progress.step,
                attempt=attempt.number,
                deployment=deployment.name,
                model=deployment.model,
                run=self._run if self._run > 1 else None,
                context=context,
            ),
            checkpoint=True,
        )
        await self._writer.flush()
        attempt.began = attempt.span.began = self._services.clock()
        return attempt

    def answered(self, attempt: Attempt) -> None:
        """The model has said something."""
        attempt.call.answered()
        if attempt.is_silent:
            attempt.is_silent = False
            self._writer.trace.answered(attempt.span)

    def end(self, attempt: Attempt, outcome: Outcome, error: ProviderError | None = None) -> None:
        """It is over."""
        self._open.remove(attempt)
        row = self._ledger.close(attempt.entry, outcome)
        self._writer.trace.attempt_ended(attempt.span, row, None if error is None else error.kind.value)
        attempt.walk.ended(attempt.call, error)
        self._services.metrics.provider_attempts_total.labels(attempt.call.name, outcome).inc()

    def failed(self, attempt: Attempt, reason: str, following: str | None) -> None:
        """Says that it has failed, after `end`."""
        self._writer.event(
            StepFailed(
                **self._head,
                step=self._progress.step,
                attempt=attempt.number,
                deployment=attempt.call.name,
                reason=reason,
                next=following,
            ),
            checkpoint=True,
        )

    def leave(self) -> None:
        """Whatever is still open was cut off by the end of its turn, or by something said to it."""
        for attempt in tuple(self._open):
            self.end(attempt, "cancelled")
