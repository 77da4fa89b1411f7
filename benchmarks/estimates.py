"""`python -m benchmarks.estimates`: how far the ledger's estimates are from the provider's own counts.

A provider with one of four vocabularies (and, where it is installed, the local model's) answers with the texts of the
tests' corpus. Half of the answers are completed, and the estimates learn from their figures; the other half are cut,
each at three places, and each cut text is estimated as after a cancel. Nothing is asked over a network: what a provider
would count is its vocabulary's count of the cut text. For each way of sending and counting: by how much the sum of
all estimates is off, and the worst single one. With `--model` the local model is asked as well: it writes answers, of
which half are hung up on.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import quicktok
from rich.console import Console
from rich.table import Table
from tests.support.corpus import CORPUS, cuts, sent
from tests.support.local_tokenizer import LocalTokenizer

from turnwire_server.gateway.credentials import Credential
from turnwire_server.gateway.estimates import Estimates
from turnwire_server.gateway.provider import ModelRequest, Reasoning, Text, Usage
from turnwire_server.gateway.providers.openai import OpenAIProvider
from turnwire_server.gateway.usage import TokenCounter
from turnwire_server.local_model import is_installed, running_local_model
from turnwire_server.settings import Deployment

VOCABULARIES = ("cl100k_base", "o200k_base", "llama3", "qwen3")
BATCHES = (1, 2, 3, 5, 8)
LEAST_CHARS = 40
"""Of a text shorter than this one token is more than 3 %."""


@dataclass(frozen=True, slots=True)
class Errors:
    """Of the estimates of many cut texts, in parts of what the provider counts; above 0 is too much."""

    sum: float
    worst: float
    beyond: float
    """The part of the texts whose estimate is off by more than 3 %."""

    @classmethod
    def of(cls, pairs: Sequence[tuple[int, int]]) -> Errors:
        """Of pairs of an estimate and what the provider counts."""
        single = [estimate / count - 1 for estimate, count in pairs]
        whole = sum(estimate for estimate, _ in pairs) / sum(count for _, count in pairs) - 1
        return cls(whole, max(single, key=abs), sum(abs(one) > 0.03 for one in single) / len(single))

    def __str__(self) -> str:
        return f"{self.sum:+.1%} / {self.worst:+.0%} / {self.beyond:.0%}"


def errors(tokenizer: Any, own: str, batch: Sequence[int], *, learns: bool) -> Errors:
    """Both halves of the corpus in both parts."""
    pairs: list[tuple[int, int]] = []
    for half in (0, 1):
        deployment = Deployment(name="d", model="m", tokenizer=own)  # type: ignore[arg-type]
        estimates = Estimates({name: TokenCounter.load(name) for name in {own, "cl100k_base"}})
        if learns:
            for number, text in enumerate(CORPUS[half::2]):
                pieces = sent(text, tokenizer, batch, number)
                estimates.learn(deployment, 0, pieces, Usage(0, len(tokenizer.encode(text)) + 1))
        for number, text in enumerate(CORPUS[1 - half :: 2]):
            for cut in cuts(sent(text, tokenizer, batch, number)):
                if len("".join(cut)) >= LEAST_CHARS:
                    pairs.append((estimates.answer(deployment, cut), len(tokenizer.encode("".join(cut)))))
    return Errors.of(pairs)


def tokenizers() -> Iterator[tuple[str, Any]]:
    for name in VOCABULARIES:
        yield name, quicktok.get_encoding(name)
    if is_installed():
        yield "local model", LocalTokenizer()


QUESTIONS = (
    "Tell me a story about a harbour.",
    "How does photosynthesis work?",
    "Write a letter to a customer whose parcel is late.",
    "List ten things to pack for a week in the mountains.",
    "Write a Python function that counts the words of a file.",
    "Explain what a lock is to somebody who has never written a program.",
    "Compare trains and planes, in a table.",
    "What happened in the year 1969?",
)
WHOLE_TOKENS, CUT_PIECES = 100, 40


async def of_the_model() -> Errors:
    """The local model, asked everything twice: the first answers are whole, the second are left in the middle."""
    tokenizer = LocalTokenizer()
    estimates = Estimates({"cl100k_base": TokenCounter.load()})
    pairs: list[tuple[int, int]] = []
    async with running_local_model() as model:
        deployment = Deployment(name="local", model=model.model, base_url=model.base_url)
        provider = OpenAIProvider(deployment, Credential.of(deployment, {}))
        try:
            for question in QUESTIONS:
                pieces, usage = await asked(provider, question, WHOLE_TOKENS)
                assert usage is not None, "it tells"
                estimates.learn(deployment, 0, pieces, usage)
            for question in QUESTIONS:
                pieces, _usage = await asked(provider, f"{question} Be short.", WHOLE_TOKENS, most_pieces=CUT_PIECES)
                pairs.append((estimates.answer(deployment, pieces), len(tokenizer.encode("".join(pieces)))))
        finally:
            await provider.aclose()
    return Errors.of(pairs)


async def asked(
    provider: OpenAIProvider, question: str, tokens: int, most_pieces: int | None = None
) -> tuple[list[str], Usage | None]:
    """The pieces of an answer and its figures; left when so many pieces have come."""
    pieces: list[str] = []
    usage = None
    request = ModelRequest(messages=[{"role": "user", "content": question}], max_output_tokens=tokens)
    async with provider.stream(request) as stream:
        async for chunks in stream:
            pieces += [chunk.text for chunk in chunks if isinstance(chunk, Text | Reasoning)]
            usage = next((chunk for chunk in chunks if isinstance(chunk, Usage)), usage)
            if most_pieces is not None and len(pieces) >= most_pieces:
                break
    return pieces, usage


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", action="store_true", help="ask the local model as well: a minute")
    options = parser.parse_args()
    table = Table(
        *(
            "provider counts with",
            "its own vocabulary",
            "cl100k_base alone",
            "…, learned, in batches",
            "…, a token each",
        ),
        title="error of the sum / the worst text / texts beyond 3 %",
        box=None,
    )
    for name, tokenizer in tokenizers():
        own = errors(tokenizer, name, (1,), learns=False) if name in VOCABULARIES else "–"
        table.add_row(
            name,
            str(own),
            str(errors(tokenizer, "cl100k_base", (1,), learns=False)),
            str(errors(tokenizer, "cl100k_base", BATCHES, learns=True)),
            str(errors(tokenizer, "cl100k_base", (1,), learns=True)),
        )
    console = Console(width=140)
    console.print(table)
    if options.model:
        console.print(f"answers of the local model itself: {asyncio.run(of_the_model())}", highlight=False)


if __name__ == "__main__":
    main()
