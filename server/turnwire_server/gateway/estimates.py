"""What a provider would have said of an attempt that it says nothing of: estimates that learn from those it does. Pure.

A text is counted with the deployment's tokenizer, which may be another one than the model's. So several measures are
held against each answer of which the provider has given the figures: the tokens counted, and the pieces in which the
answer came, of which most providers send one for each token; with and without a mark for the answer's end. The one
that has missed by least is believed. What is learned is of one tenant and one deployment, since what others ask must
not show in a tenant's figures; it is weighted towards what came last, and forgotten with the node.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from turnwire_server.settings import Deployment

from .provider import Usage
from .usage import DEFAULT_TOKENIZER, TokenCounter

Pieces = Sequence[str]

TRUST_TOKENS = 200
"""A measure counts for nothing before the provider has told so many tokens: a handful of answers, of which one that is
unlike the others does not decide."""

WINDOW_TOKENS = 20_000
"""What has been learned weighs half as much after so many."""

LEAST_TOKENS = 8
"""Of shorter answers too much is what the provider adds to each: a mark for its end."""

MOST_TENANTS = 1_000
"""Some 5 MB, with three deployments each."""

MOST_RATIO = 3.0
"""Tokenizers differ by less. What is further off holds something that was never shown, hidden reasoning for one, and
says nothing about texts."""


@dataclass(frozen=True, slots=True)
class Count:
    """Of an answer: how many tokens it is for sure, and how much more was counted of which that is to be learned."""

    counted: int
    sure: int = 0


class Measure:
    """What one of a thing that is counted has come to in tokens, and how well that foretold the next answer.

    ``end`` tokens are taken off what the provider says of a whole answer: many count a mark for its end, which one
    that was cut does not have.
    """

    __slots__ = ("_came_to", "_counted", "_end", "_first_ratio", "_judged", "_missed", "_tokens")

    def __init__(self, ratio: float, end: int = 0) -> None:
        self._first_ratio = ratio
        self._end = end
        self._counted = 0.0
        self._came_to = 0.0
        self._tokens = 0.0
        self._missed = 0.0
        self._judged = 0.0

    def __repr__(self) -> str:
        return f"<Measure ratio={self.ratio:.3f} end={self._end} error={self.error:.3f}>"

    @property
    def ratio(self) -> float:
        """Tokens for one of what is counted."""
        is_known = self._tokens >= TRUST_TOKENS and self._counted > 0
        return max(0.0, self._came_to / self._counted) if is_known else self._first_ratio

    @property
    def error(self) -> float:
        """By what part it has missed lately, each answer foretold from those before it; 1 while it was not judged."""
        return 1.0 if self._judged < TRUST_TOKENS else self._missed / self._judged

    def foretell(self, count: Count) -> float:
        """Tokens of an answer of which so much was counted."""
        return count.sure + self.ratio * count.counted

    def learn(self, count: Count, tokens: int) -> None:
        """The provider says that there were so many tokens where so much was counted."""
        tokens -= self._end
        if self._tokens >= TRUST_TOKENS:
            self._missed += abs(tokens - self.foretell(count))
            self._judged += tokens
        self._tokens += tokens
        self._counted += count.counted
        self._came_to += tokens - count.sure
        if self._tokens > WINDOW_TOKENS:
            for name in ("_tokens", "_counted", "_came_to", "_missed", "_judged"):
                setattr(self, name, getattr(self, name) / 2)


def _in_tokens(pieces: Pieces, counter: TokenCounter) -> Count:
    return Count(counter.count("".join(pieces)))


def _in_pieces(pieces: Pieces, counter: TokenCounter) -> Count:
    return Count(len(pieces))


def _in_pieces_and_bytes(pieces: Pieces, counter: TokenCounter) -> Count:
    """A piece is a token. A character that comes alone may have been several, since providers wait until they have the
    whole of it: how many of its bytes are a token is for the vocabulary to say."""
    alone = [piece for piece in pieces if len(piece) == 1 and not piece.isascii()]
    return Count(len("".join(alone).encode(errors="replace")), sure=len(pieces) - len(alone))


Way = Callable[[Pieces, TokenCounter], Count]
_OF_ANY_TEXT: Mapping[Way, float] = {_in_tokens: 1.0}
_AS_SENT: Mapping[Way, float] = {**_OF_ANY_TEXT, _in_pieces: 1.0, _in_pieces_and_bytes: 1 / 3}
"""With what one of each comes to as long as nothing has been learned."""


class _Learned:
    """Of one deployment."""

    __slots__ = ("answer", "prompt")

    def __init__(self) -> None:
        self.prompt = Measure(1.0)
        self.answer = {(way, end): Measure(ratio, end) for way, ratio in _AS_SENT.items() for end in (0, 1)}

    def best(self, ways: Container[Way]) -> tuple[Way, Measure]:
        """The measure to be believed; of those that miss by the same, the first."""
        candidates = [(way, measure) for (way, _end), measure in self.answer.items() if way in ways]
        return min(candidates, key=lambda candidate: candidate[1].error)


class EstimatesByTenant:
    """Those of a node. ``counters`` are by the name of the tokenizer. What was learned of the tenants that were asked
    for longest ago is forgotten."""

    def __init__(self, counters: Mapping[str, TokenCounter] | None = None, *, tenants: int = MOST_TENANTS) -> None:
        self._counters = counters or {}
        self._most = tenants
        self._of: OrderedDict[str, Estimates] = OrderedDict()

    def __repr__(self) -> str:
        return f"<EstimatesByTenant {sorted(self._counters)} tenants={len(self._of)}>"

    @classmethod
    def load(cls, deployments: Iterable[Deployment]) -> Self:
        """With the vocabularies that the deployments need; see `TokenCounter.load`."""
        names = {deployment.tokenizer for deployment in deployments} | {DEFAULT_TOKENIZER}
        return cls({name: TokenCounter.load(name) for name in sorted(names)})

    @property
    def counter(self) -> TokenCounter:
        """The default one, for what is of no deployment."""
        return self._counters.get(DEFAULT_TOKENIZER) or TokenCounter()

    def of(self, tenant_id: str) -> Estimates:
        """A tenant's, for one of its turns."""
        known = self._of.get(tenant_id)
        if known is None:
            known = self._of[tenant_id] = Estimates(self._counters)
        self._of.move_to_end(tenant_id)
        if len(self._of) > self._most:
            self._of.popitem(last=False)
        return known


class Estimates:
    """Those of one tenant, for all deployments."""

    def __init__(self, counters: Mapping[str, TokenCounter] | None = None) -> None:
        self._counters = counters or {}
        self._default = self._counters.get(DEFAULT_TOKENIZER) or TokenCounter()
        self._learned: dict[str, _Learned] = {}

    def __repr__(self) -> str:
        return f"<Estimates {self._learned}>"

    def count_prompt(
        self, deployment: Deployment, messages: Iterable[dict[str, Any]], tools: Sequence[dict[str, Any]] = ()
    ) -> int:
        """As the deployment's tokenizer has it; `prompt` makes an estimate of it, `learn` wants it back."""
        return self.counter(deployment).estimate_prompt_tokens(messages, tools)

    def prompt(self, deployment: Deployment, counted: int) -> int:
        """Input tokens of a prompt that was counted as so many."""
        return _rounded(self._of(deployment).prompt.foretell(Count(counted)))

    def answer(self, deployment: Deployment, pieces: Pieces, *, as_sent: bool = True) -> int:
        """Output tokens of an answer. Not ``as_sent``: the pieces are not those in which the provider sent it."""
        if not pieces:
            return 0
        way, measure = self._of(deployment).best(_AS_SENT if as_sent else _OF_ANY_TEXT)
        return _rounded(measure.foretell(way(pieces, self.counter(deployment))))

    def learn(self, deployment: Deployment, prompt: int, pieces: Pieces | None, usage: Usage) -> None:
        """The provider's figures of an attempt that it has completed: of a prompt that was counted as ``prompt``, and
        of the answer, unless there is more in it than text."""
        learned = self._of(deployment)
        if _is_plausible(prompt, usage.input_tokens):
            learned.prompt.learn(Count(prompt), usage.input_tokens)
        counter, tokens = self.counter(deployment), usage.output_tokens
        counts = {way: way(pieces, counter) for way in _AS_SENT} if pieces else {}
        if counts and _is_plausible(counts[_in_tokens].counted, tokens):
            for (way, _end), measure in learned.answer.items():
                measure.learn(counts[way], tokens)

    def counter(self, deployment: Deployment) -> TokenCounter:
        """Counts as the deployment's tokenizer does."""
        return self._counters.get(deployment.tokenizer, self._default)

    def _of(self, deployment: Deployment) -> _Learned:
        return self._learned.setdefault(deployment.name, _Learned())


def _is_plausible(counted: int, tokens: int) -> bool:
    return tokens >= LEAST_TOKENS and counted / MOST_RATIO <= tokens <= counted * MOST_RATIO


def _rounded(tokens: float) -> int:
    """What is not nothing is a token at least."""
    return max(1, round(tokens)) if tokens else 0
