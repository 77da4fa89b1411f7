"""The text a client rebuilds equals the provider's, to the code unit, in both codecs."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.client import Client, connected
from tests.support.provider import Script
from tests.support.provider_script import utf16_units
from tests.support.stack import running_stack

from turnwire_protocol import SUBPROTOCOLS, utf16_len

TEXT = 'plain, ümläut, 漢字かな交じり, 𝔘𝔫𝔦𝔠𝔬𝔡𝔢, 👨‍👩‍👧‍👦 🇪🇺 e\u0301 "quoted" \\ \n\ttabs \u2028 and zero\u200bwidth 😀'


def _pieces(size: int) -> list[str]:
    """The text in pieces of so many code units: pairs are cut in half wherever a piece ends inside one."""
    units = utf16_units(TEXT)
    return ["".join(units[at : at + size]) for at in range(0, len(units), size)]


@pytest.mark.parametrize("codec", SUBPROTOCOLS)
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
async def test_the_text_arrives_as_it_was_sent_with_offsets_in_utf16_units(codec: str, size: int) -> None:
    async with running_stack() as (provider, app), connected(app.url, codec=codec) as client:
        provider.script(Script.text(*_pieces(size)))
        await client.create("r1", "c1", "hello")
        ending = await client.terminal("r1")
        assert client.text("r1") == TEXT
        assert ending["message"]["parts"] == [{"kind": "text", "text": TEXT}]
        _check_offsets(client)


def _check_offsets(client: Client) -> None:
    length = 0
    for delta in client.events("output_text.delta", "r1"):
        assert delta["offset"] == length
        delta["text"].encode()  # no half pair is ever sent
        length += utf16_len(delta["text"])
    assert length == utf16_len(TEXT)


async def test_half_a_pair_whose_other_half_never_comes_becomes_a_replacement_character() -> None:
    async with running_stack() as (provider, app), connected(app.url) as client:
        provider.script(Script.text("a", "\ud83d", "b \ud83d"))
        await client.create("r1", "c1", "hello")
        ending = await client.terminal("r1")
        assert ending["message"]["parts"] == [{"kind": "text", "text": "a\ufffdb \ufffd"}]


async def test_what_the_user_writes_reaches_the_provider_unchanged() -> None:
    async with running_stack() as (provider, app), connected(app.url) as client:
        await client.create("r1", "c1", TEXT)
        await client.terminal("r1")
        assert provider.requests[0].messages == [{"role": "user", "content": TEXT}]
        created: dict[str, Any] = await client.event("message.created")
        assert created["message"]["parts"] == [{"kind": "text", "text": TEXT}]


async def test_reasoning_and_text_are_parts_of_their_own() -> None:
    async with running_stack() as (provider, app), connected(app.url) as client:
        provider.script(Script.reasoning("let me ", "think", answer=["so ", "it is"]))
        await client.create("r1", "c1", "hello")
        ending = await client.terminal("r1")
        assert ending["message"]["parts"] == [
            {"kind": "reasoning", "text": "let me think"},
            {"kind": "text", "text": "so it is"},
        ]
        await client.create("r2", "c1", "again")
        await client.terminal("r2")
        assert provider.requests[1].messages[1] == {"role": "assistant", "content": "so it is"}
