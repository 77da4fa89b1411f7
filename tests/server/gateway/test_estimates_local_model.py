"""The ledger's estimates of cut answers, against a vocabulary that the server cannot load: the local model's.

A provider sends the corpus as that model would, a token a piece, and counts with its tokenizer; what was cut by a
cancel is compared with its count of the same text. That the model itself writes is left to `python -m
benchmarks.estimates --model`: it takes minutes on a machine that is busy with other tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from tests.support.client import Client, connected
from tests.support.corpus import CODE, LISTS, PROSE, sent
from tests.support.local_tokenizer import LocalTokenizer
from tests.support.provider import ControlledProvider, Gate, Script
from tests.support.stack import running_stack
from tests.support.stand import text_of

from turnwire_server.local_model import is_installed

pytestmark = pytest.mark.skipif(not is_installed(), reason="the local model is not installed")

TEXTS = [*PROSE, *LISTS, *CODE]
"""In English: it knows no other language."""


async def whole(client: Client, provider: ControlledProvider, name: str, pieces: Sequence[str], usage: Any) -> None:
    provider.script(Script.text(*pieces, usage=usage))
    await client.create(name, name, "hello")
    await client.terminal(name)


async def cut(client: Client, provider: ControlledProvider, name: str, pieces: Sequence[str]) -> dict[str, Any]:
    """The row of an answer that is cancelled when these have come."""
    provider.script(Script.text(*pieces, Gate(), "never sent"))
    await client.create(name, name, "hello")
    await client.until(
        lambda: name in (active := client.folds[name].active) and text_of(active[name].message()) == "".join(pieces)
    )
    await client.cancel(name)
    await client.terminal(name)
    usage = await client.event("usage.completed", name)
    (row,) = usage["attempts"]
    return dict(row)


async def test_cut_answers_are_estimated_within_3_percent_of_the_models_own_count() -> None:
    tokenizer = LocalTokenizer()
    answers = [sent(text, tokenizer) for text in TEXTS]
    pairs = []
    async with running_stack() as (provider, app), connected(app.url) as client:
        for number, pieces in enumerate(answers[::2]):
            usage = (20, len(tokenizer.encode("".join(pieces))))
            await whole(client, provider, f"whole-{number}", pieces, usage)
        for number, pieces in enumerate(answers[1::2]):
            begun = pieces[: len(pieces) * 2 // 3]
            row = await cut(client, provider, f"cut-{number}", begun)
            assert (row["source"], row["outcome"]) == ("estimated", "cancelled")
            pairs.append((row["output_tokens"], len(tokenizer.encode("".join(begun)))))
    assert sum(estimate for estimate, _ in pairs) == pytest.approx(sum(count for _, count in pairs), rel=0.01)
    for estimate, count in pairs:
        assert estimate == pytest.approx(count, rel=0.03)
