"""The text a client rebuilds equals the provider's, to the code unit, in both codecs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.client import Client, connected
from tests.support.provider import Delta, Script
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


async def test_half_a_pair_at_the_end_of_the_first_piece_of_a_part_waits_for_the_other() -> None:
    """The half was dropped where its piece began a part, since the part before was ended only then."""
    async with running_stack() as (provider, app), connected(app.url) as client:
        halves = [Delta({"reasoning_content": piece}) for piece in ("\ud83d", "\ude00 hm \ud83d", "\ude00")]
        provider.script(Script.text(*halves, "so \ud83d", "\ude00"), Script.text("\ud83d", "\ude00"))
        await client.create("r1", "c1", "hello")
        ending = await client.terminal("r1")
        assert ending["message"]["parts"] == [
            {"kind": "reasoning", "text": "😀 hm 😀"},
            {"kind": "text", "text": "so 😀"},
        ]
        await client.create("r2", "c1", "hello")
        assert (await client.terminal("r2"))["message"]["parts"] == [{"kind": "text", "text": "😀"}]


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


async def test_a_piece_larger_than_a_delta_is_cut_between_characters() -> None:
    text = "😀漢a" * 20_000
    async with running_stack() as (provider, app), connected(app.url) as client:
        provider.script(Script.text("x", text))
        await client.create("r1", "c1", "hello")
        await client.terminal("r1")
        assert client.text("r1") == "x" + text
        assert len(client.events("output_text.delta", "r1")) > 2


@given(text=st.text(min_size=1, max_size=60), cuts=st.lists(st.integers(1, 9), max_size=30))
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
async def test_any_text_cut_anywhere_arrives_as_it_was_sent(text: str, cuts: list[int]) -> None:
    units = utf16_units(text)
    pieces: list[str] = []
    for size in [*cuts, len(units)]:
        pieces.append("".join(units[:size]))
        units = units[size:]
    codec = SUBPROTOCOLS[len(text) % 2]
    async with running_stack() as (provider, app), connected(app.url, codec=codec) as client:
        provider.script(Script.text(*(piece for piece in pieces if piece)))
        await client.create("r1", "c1", text)
        ending = await client.terminal("r1")
        assert client.text("r1") == text
        assert ending["message"]["parts"] == [{"kind": "text", "text": text}]
        assert provider.requests[0].messages == [{"role": "user", "content": text}]
