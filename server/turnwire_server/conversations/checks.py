"""What a route's guards and schema say of one turn: of what goes into its prompts, and of what its model answers.

An answer that guards look at is withheld until it is complete: what has been shown cannot be taken from whoever has
read it. Reasoning is not shown at all on such a route. What only a schema looks at is shown as it is written, and taken
back by `part.reset` if it does not fit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from turnwire_protocol import Message, OutputTextDelta, TextPart, ToolCallPart, ValidationFailed
from turnwire_server.orchestration.context import tool_result
from turnwire_server.orchestration.earlier import Earlier
from turnwire_server.orchestration.guards import BLOT, Place
from turnwire_server.orchestration.validation import misfit
from turnwire_server.settings import Route

from . import endings
from .endings import Draft
from .progress import Progress
from .services import Services
from .spec import TurnSpec
from .writer import TurnWriter

_REJECTED_CHARS = 16_000
"""Of an answer that does not fit, kept for the model that repairs it: it is part of every checkpoint."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Why an answer is not passed on. ``guard`` has found something, or the answer does not fit the schema."""

    reason: str
    guard: str | None = None
    misfit: str | None = None
    """The answer that does not fit."""


class Checks:
    """Those of one turn on this node."""

    def __init__(self, services: Services, spec: TurnSpec, writer: TurnWriter, progress: Progress) -> None:
        self._guards = services.guards
        self._spec = spec
        self._writer = writer
        self._progress = progress
        self._most_chars = services.settings.limits.withheld_chars
        self._withheld: list[str] | None = None
        self._withheld_chars = 0
        self._refused: str | None = None
        self._seen: dict[tuple[str, str], Message] = {}

    # --- input ---------------------------------------------------------------------------------------------

    def of_input(self, text: str, route: Route) -> str | None:
        """A text as a model of this route may see it; None when it may not."""
        verdict = self._guards.judge(route.guards, "input", text)
        return None if verdict.refused_by else verdict.text

    def input(self, route: Route) -> Draft | None:
        """How the turn ends because of what its user has said; None when it may go on."""
        verdict = self._guards.judge(route.guards, "input", "\n\n".join(self._spec.texts))
        if verdict.refused_by is not None:
            return self.instead(route, Fault("a guard has refused it", verdict.refused_by), on="input")
        for name in verdict.blotted_by:
            self._tell("input", Fault("a guard has taken something out", name), "redact")
        return None

    def seen(self, message: Message, route: Route) -> Message:
        """A message as the route's models may see it, without what guards find in what users said or tools returned."""
        if message.role != "user":
            return self._without_finds_of_tools(message, route)
        if not self._guards.are_any(route.guards, "input"):
            return message
        key = message.message_id, route.name
        if key not in self._seen:
            texts = [self.of_input(part.text, route) for part in message.parts if isinstance(part, TextPart)]
            parts = [TextPart(text=BLOT if text is None else text) for text in texts]
            self._seen[key] = replace(message, parts=list(parts))
        return self._seen[key]

    def of_data(self, text: str, route: Route) -> str:
        """What was found in a document, without what guards of tools' output find."""
        verdict = self._guards.judge(route.guards, "tools", text)
        return BLOT if verdict.refused_by is not None else verdict.text

    def of_earlier(self, earlier: Earlier, route: Route) -> Earlier:
        """What stands for earlier turns, as the route's models may see it."""
        if not route.guards:
            return earlier
        clean = partial(self._guards.cleaned, route.guards)
        return replace(
            earlier,
            summary=None if earlier.summary is None else clean(earlier.summary),
            memories=[replace(memory, text=clean(memory.text)) for memory in earlier.memories],
        )

    # --- tools ---------------------------------------------------------------------------------------------

    def _without_finds_of_tools(self, answer: Message, route: Route) -> Message:
        if not self._guards.are_any(route.guards, "tools"):
            return answer
        return replace(answer, parts=[self._harmless(part, route) for part in answer.parts])

    def _harmless(self, part: Any, route: Route) -> Any:
        if not isinstance(part, ToolCallPart) or part.state not in ("completed", "failed"):
            return part
        said = tool_result(part)
        verdict = self._guards.judge(route.guards, "tools", said)
        passed = BLOT if verdict.refused_by is not None else verdict.text
        # As it was, unless something was found: an output that is no text stays one.
        return part if passed == said else replace(part, state="completed", output=passed, error=None)

    def tools(self, route: Route) -> None:
        """Say what guards have found in what the step's tools returned. The models see it without."""
        if not self._guards.are_any(route.guards, "tools"):
            return
        for part in self._writer.fold.partial.to_parts()[self._progress.part :]:
            if isinstance(part, ToolCallPart) and part.state in ("completed", "failed"):
                verdict = self._guards.judge(route.guards, "tools", tool_result(part))
                if verdict.refused_by is not None:
                    self._tell(
                        "tools", Fault(f"a guard has refused what {part.name} returned", verdict.refused_by), "refuse"
                    )
                for name in verdict.blotted_by:
                    self._tell(
                        "tools", Fault(f"a guard has taken something out of what {part.name} returned", name), "redact"
                    )

    # --- output --------------------------------------------------------------------------------------------

    def begin(self, route: Route) -> None:
        """A model is asked: nothing has been said."""
        self._withheld = [] if self._guards.are_any(route.guards, "output") else None
        self._withheld_chars = 0
        self._refused = None

    @property
    def is_refused(self) -> bool:
        """Whether something that was to be shown may not be."""
        return self._refused is not None

    @property
    def is_withholding(self) -> bool:
        """Whether what the model says is looked at before it is shown."""
        return self._withheld is not None

    def withholds(self, text: str) -> bool:
        """Keep a piece of the answer back; False when it may be shown."""
        if self._withheld is None:
            return False
        self._withheld_chars += len(text)
        if self._withheld_chars <= self._most_chars:
            self._withheld.append(text)
        return True

    def show(self, route: Route) -> Fault | None:
        """Show what is withheld, as far as the guards let it pass."""
        if self._withheld is None:
            return None
        text, self._withheld = "".join(self._withheld), []
        if self._withheld_chars > self._most_chars:
            return self._refuse(Fault("it is too long to be looked at"))
        verdict = self._guards.judge(route.guards, "output", text)
        if verdict.refused_by is not None:
            return self._refuse(Fault("a guard has refused it", verdict.refused_by))
        for name in verdict.blotted_by:
            self._tell("output", Fault("a guard has taken something out", name), "redact")
        if verdict.text:
            self._writer.text(OutputTextDelta, verdict.text)
        return None

    def _refuse(self, fault: Fault) -> Fault:
        self._refused = fault.guard or ""
        return fault

    async def output(self, route: Route, *, is_whole: bool) -> Fault | None:
        """What is wrong with the step's answer; shows what was withheld. Only one that ``is_whole`` has to fit."""
        if self._refused is not None:
            return Fault("a guard has refused it", self._refused or None)
        if (fault := self.show(route)) is not None or not is_whole or route.output_schema is None:
            return fault
        self._writer.buffer.end_part()
        await self._writer.flush()
        parts = self._writer.fold.partial.to_parts()[self._progress.part :]
        text = "".join(part.text for part in parts if isinstance(part, TextPart))
        reason = misfit(text, route.output_schema)
        return None if reason is None else Fault(reason, misfit=text)

    def repairs(self, route: Route, fault: Fault) -> bool:
        """Whether the model is to answer anew, and is told why."""
        progress = self._progress
        if fault.misfit is None or progress.repairs >= route.repairs:
            return False
        self._tell("output", fault, "repair")
        progress.repairs += 1
        progress.complaint, progress.rejected = fault.reason, fault.misfit[:_REJECTED_CHARS]
        return True

    def instead(self, route: Route, fault: Fault, on: Place = "output") -> Draft:
        """What stands in place of what is not passed on."""
        self._tell(on, fault, "refuse" if route.fallback is None else "fallback")
        if route.fallback is not None:
            self._writer.text(OutputTextDelta, route.fallback)
        if fault.misfit is None:
            return endings.incomplete("content_filter")
        if route.fallback is not None:
            return endings.completed("fallback")
        text = f"the model's answer does not have the form that it has to have: {fault.reason}"
        return endings.failed("provider_error", text, retryable=True)

    def _tell(self, on: Place, fault: Fault, action: Any) -> None:
        spec, step = self._spec, self._progress.step
        self._writer.event(
            ValidationFailed(
                conversation_id=spec.conversation_id,
                request_id=spec.request_id,
                step=step,
                on=on,
                reason=fault.reason,
                action=action,
                guard=fault.guard,
            )
        )
