"""Tokens and money: estimates where a provider says nothing, prices, and the sum over a request's attempts.

Pure but for loading a vocabulary. It knows neither the ledger's table nor the event `usage.completed`, only
the rows and the sum that both are made of. Zero is zero: a provider that reports 0 tokens is believed, and
whatever was counted here says `estimated`.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal, localcontext
from typing import TYPE_CHECKING, Any, Literal, Self

import orjson

if TYPE_CHECKING:
    from turnwire_server.settings import Deployment

Source = Literal["provider", "estimated"]
Outcome = Literal["completed", "failed", "cancelled", "hedge_lost", "node_lost"]

DEFAULT_TOKENIZER = "cl100k_base"
"""Good enough for an estimate at half the memory (40 MB) and start time of the newer vocabularies."""

MESSAGE_TOKENS = 3
"""What a chat template adds to each message, and once more to make the model answer."""

CHARS_PER_TOKEN = 4
"""Of ASCII text in common vocabularies. Other characters count as a token each, which is about right for
Chinese and Japanese and too much for the rest."""


def count_by_characters(text: str) -> int:
    """Tokens of a text without a vocabulary."""
    ascii_chars = sum(map(str.isascii, text)) if not text.isascii() else len(text)
    return math.ceil(ascii_chars / CHARS_PER_TOKEN) + len(text) - ascii_chars


class TokenCounter:
    """Estimates tokens offline. As constructed it counts characters; `load` gives one that has a vocabulary."""

    def __init__(self, count: Callable[[str], int] = count_by_characters, *, name: str = "characters") -> None:
        self._count = count
        self.name = name

    def __repr__(self) -> str:
        return f"TokenCounter({self.name})"

    @classmethod
    def load(cls, name: str = DEFAULT_TOKENIZER) -> Self:
        """Reads the vocabulary, which holds the interpreter up for half a second: do it at the start, before anything
        is served. Where the tokenizer is not installed, characters are counted, as ``characters`` asks for."""
        if name == "characters":
            return cls()
        try:
            # Not imported at the top: it has no wheels for the newest Python.
            tokenizer = importlib.import_module("quicktok").get_encoding(name)
        except (ImportError, RuntimeError):
            return cls()
        return cls(tokenizer.count, name=name)

    def count(self, text: str) -> int:
        """Tokens of a text. Half a surrogate pair counts as the character that stands in for it."""
        try:
            return self._count(text)
        except (TypeError, UnicodeEncodeError):
            return self._count(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))

    def estimate_prompt_tokens(self, messages: Iterable[dict[str, Any]], tools: Sequence[dict[str, Any]] = ()) -> int:
        """Tokens of a prompt in OpenAI's chat format."""
        tokens = MESSAGE_TOKENS
        for message in messages:
            tokens += MESSAGE_TOKENS + sum(self.count(text) for text in _texts_of(message))
        return tokens + self.estimate_tools_tokens(tools)

    def estimate_tools_tokens(self, tools: Sequence[dict[str, Any]]) -> int:
        """Tokens of what a model is offered."""
        return self.count(orjson.dumps(list(tools)).decode()) if tools else 0


def _texts_of(message: dict[str, Any]) -> Iterable[str]:
    content = message.get("content")
    if isinstance(content, str):
        yield content
    elif content:
        yield from (part["text"] for part in content if isinstance(part.get("text"), str))
    for call in message.get("tool_calls") or ():
        yield call["function"]["name"]
        yield call["function"]["arguments"]


def cost_usd(deployment: Deployment, input_tokens: int, output_tokens: int, cached_tokens: int = 0) -> Decimal:
    """What a call costs, exactly; 0 where the deployment has no prices. Cached tokens are part of the input
    tokens, and cost as much where they have no price of their own."""
    input_price = deployment.input_usd_per_mtok or Decimal(0)
    output_price = deployment.output_usd_per_mtok or Decimal(0)
    cached_price = deployment.cached_usd_per_mtok
    if cached_price is None:
        cached_price = input_price
    cached = min(cached_tokens, input_tokens)
    with localcontext() as context:
        context.prec = 100  # no product of a token count and a price is ever rounded
        total = (input_tokens - cached) * input_price + cached * cached_price + output_tokens * output_price
        return total.scaleb(-6)


def usd_text(amount: Decimal) -> str:
    """The amount as on the wire: plain decimal digits, no exponent, no trailing zeros."""
    text = format(amount, "f")
    return (text.rstrip("0").rstrip(".") or "0") if "." in text else text


@dataclass(frozen=True, slots=True)
class AttemptUsage:
    """One row of the ledger: what one attempt of a step used."""

    step: int
    attempt: int
    deployment: str
    outcome: Outcome
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    cost_usd: Decimal
    source: Source


@dataclass(frozen=True, slots=True)
class UsageTotals:
    """The sum over the attempts of a request."""

    input_tokens: int
    output_tokens: int
    cached_tokens: int
    cost_usd: Decimal
    source: Literal["provider", "estimated", "mixed"]


def total(attempts: Iterable[AttemptUsage]) -> UsageTotals:
    """The sum of all attempts. Without any, nothing was used and nothing is estimated."""
    rows = list(attempts)
    sources = {row.source for row in rows}
    with localcontext() as context:
        context.prec = 100
        cost = sum((row.cost_usd for row in rows), Decimal(0))
    return UsageTotals(
        input_tokens=sum(row.input_tokens for row in rows),
        output_tokens=sum(row.output_tokens for row in rows),
        cached_tokens=sum(row.cached_tokens for row in rows),
        cost_usd=cost,
        source="mixed" if len(sources) > 1 else next(iter(sources), "provider"),
    )
