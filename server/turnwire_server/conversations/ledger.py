"""What the attempts of a turn used: one row for each attempt that was begun (DESIGN, guarantee 12). Pure.

An attempt is open from before its call until its outcome is known, and is part of every checkpoint, so that the
taker of a turn whose node died accounts it. The provider's own figures count, zero included; without them tokens
are estimated and the row says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from typing import Any, Self

from turnwire_server.archive.base import UsageRow
from turnwire_server.gateway.estimates import Estimates
from turnwire_server.gateway.provider import Usage
from turnwire_server.gateway.usage import AttemptUsage, Outcome, Source, cost_usd, total, usd_text
from turnwire_server.settings import Deployment


@dataclass(slots=True, eq=False)
class OpenAttempt:
    """An attempt that has begun. Tell it what comes of it, and `Ledger.close` it."""

    step: int
    attempt: int
    deployment: Deployment
    input_counted: int
    usage: Usage | None = None
    texts: list[str] = field(default_factory=list)
    is_plain: bool = True
    """All that it produced is text."""
    is_lost: bool = False
    """Its texts are as the log has them, not as the provider sent them."""

    def generated(self, text: str, *, is_plain: bool = True) -> None:
        """A piece of text, or of a tool call, that it produced."""
        self.texts.append(text)
        self.is_plain = self.is_plain and is_plain

    def reported(self, usage: Usage) -> None:
        """The provider's figures for it; the newest count."""
        self.usage = usage


class Ledger:
    """The attempts of one turn."""

    def __init__(self, estimates: Estimates) -> None:
        self._estimates = estimates
        self.attempts: list[AttemptUsage] = []
        self._open: list[OpenAttempt] = []

    def begin(
        self,
        step: int,
        attempt: int,
        deployment: Deployment,
        prompt: Sequence[dict[str, Any]],
        tools: Sequence[dict[str, Any]] = (),
        counted: int | None = None,
    ) -> OpenAttempt:
        """An attempt is about to be made. ``counted`` are its prompt's tokens, where they have been counted."""
        if counted is None:
            counted = self._estimates.count_prompt(deployment, prompt, tools)
        opened = OpenAttempt(step, attempt, deployment, counted)
        self._open.append(opened)
        return opened

    def close(self, opened: OpenAttempt, outcome: Outcome) -> AttemptUsage:
        """An attempt has ended; returns its row."""
        self._open.remove(opened)
        source: Source = "provider"
        figures = opened.usage
        if figures is None:
            source = "estimated"
            figures = self._estimate(opened)
        elif outcome == "completed":
            pieces = opened.texts if opened.is_plain else None
            self._estimates.learn(opened.deployment, opened.input_counted, pieces, figures)
        tokens = (figures.input_tokens, figures.output_tokens, figures.cached_tokens)
        cost = cost_usd(opened.deployment, *tokens)
        name = opened.deployment.name
        row = AttemptUsage(opened.step, opened.attempt, name, outcome, *tokens, cost, source)
        self.attempts.append(row)
        return row

    def _estimate(self, opened: OpenAttempt) -> Usage:
        estimates, deployment = self._estimates, opened.deployment
        return Usage(
            estimates.prompt(deployment, opened.input_counted),
            estimates.answer(deployment, opened.texts, as_sent=not opened.is_lost),
        )

    @property
    def cost_usd(self) -> Decimal:
        """What the closed attempts cost together."""
        return total(self.attempts).cost_usd

    def usage_fields(self) -> dict[str, Any]:
        """The fields of ``usage.completed``, in wire form."""
        sums = asdict(total(self.attempts))
        return {**sums, "cost_usd": usd_text(sums["cost_usd"]), "attempts": self._rows()}

    def usage_rows(self) -> list[UsageRow]:
        """The rows for the archive's ledger."""
        return [UsageRow(**fields) for fields in self._rows()]

    def to_json(self) -> dict[str, Any]:
        """For a checkpoint: what is closed, and what is open."""
        return {
            "attempts": self._rows(),
            "open": [
                {
                    "step": opened.step,
                    "attempt": opened.attempt,
                    "deployment": opened.deployment.name,
                    "input_estimate": opened.input_counted,
                }
                for opened in self._open
            ],
        }

    @classmethod
    def from_json(
        cls, estimates: Estimates, kept: Mapping[str, Any], deployments: Mapping[str, Deployment], lost_text: str
    ) -> Self:
        """The ledger of a turn whose node died; its open attempts are closed as `node_lost`.

        ``lost_text`` is what the log has of their output: of one of them, since no other is open once one has spoken.
        A deployment that is configured no longer has no price any more.
        """
        ledger = cls(estimates)
        for row in kept["attempts"]:
            ledger.attempts.append(AttemptUsage(**{**row, "cost_usd": Decimal(row["cost_usd"])}))
        for opened in kept["open"]:
            name = opened["deployment"]
            deployment = deployments.get(name) or Deployment(name=name, model=name)
            counted = opened["input_estimate"]
            texts = [lost_text] if lost_text else []
            lost = OpenAttempt(opened["step"], opened["attempt"], deployment, counted, texts=texts, is_lost=True)
            lost_text = ""
            ledger._open.append(lost)
            ledger.close(lost, "node_lost")
        return ledger

    def adopt(self, rows: Sequence[UsageRow]) -> None:
        """Rows that an earlier owner has left in the archive: they stand, whatever else is known of their attempts."""
        known = {(row.step, row.attempt): row for row in self.attempts}
        for row in rows:
            fields = {name: getattr(row, name) for name in UsageRow.__slots__}
            known[row.step, row.attempt] = AttemptUsage(**{**fields, "cost_usd": Decimal(row.cost_usd)})
        self.attempts = [known[key] for key in sorted(known)]

    def last_attempt(self, step: int) -> int:
        """The number of the newest attempt of a step; 0 before the first."""
        return max((row.attempt for row in self.attempts if row.step == step), default=0)

    def _rows(self) -> list[dict[str, Any]]:
        return [{**asdict(row), "cost_usd": usd_text(row.cost_usd)} for row in self.attempts]
