"""Whole sentences for connections that ask for them (SPEC section 5)."""

from __future__ import annotations

import time
from typing import Any

import pytest
from tests.support.client import CallError, Client, connected
from tests.support.provider import Gate, Script
from tests.support.provider_script import tool_call_steps
from tests.support.stack import running_stack

SENTENCES = {"unit": "sentence"}


def spoken(client: Client, request_id: str = "r1") -> list[str]:
    return [segment["text"] for segment in client.events("output_text.segment", request_id)]


def check(client: Client, request_id: str = "r1", begin: int = 0) -> None:
    """They tile each part of the final text from ``begin`` on, the last one alone is marked, and each comes behind its
    text."""
    segments = client.events("output_text.segment", request_id)
    message = next(m for m in client.messages if m.get("terminal") and m["request_id"] == request_id)["message"]
    ends = {}
    for segment in segments:
        assert segment["start"] == ends.get(segment["part"], begin if segment["part"] == 0 else 0)
        ends[segment["part"]] = segment["end"]
    for part, end in ends.items():
        text = message["parts"][part]["text"]
        assert end == len(text.encode("utf-16-le")) // 2
        said = "".join(segment["text"] for segment in segments if segment["part"] == part)
        assert text.endswith(said)
        assert begin or said == text
    assert [segment["last"] for segment in segments] == [False] * (len(segments) - 1) + [True]
    sent: dict[tuple[str, int], int] = {}
    for received in client.messages:
        if received["type"] == "output_text.delta":
            length = len(received["text"].encode("utf-16-le")) // 2
            sent[received["request_id"], received["part"]] = received["offset"] + length
        elif received["type"] == "output_text.segment" and received["request_id"] == request_id:
            assert sent.get((request_id, received["part"]), 0) >= received["end"] or received["last"]


async def ended(client: Client, request_id: str = "r1") -> None:
    await client.terminal(request_id)
    await client.until(lambda: any(s["last"] for s in client.events("output_text.segment", request_id)))


async def test_a_request_that_asks_gets_its_answer_in_sentences_too() -> None:
    async with running_stack() as (provider, app), connected(app.url) as client, connected(app.url) as other:
        provider.script(Script.text("It costs 3.", "50 at Dr", ". Smith's. Rea", "lly? 😀 Yes! And", " so on"))
        await other.open("c1")
        await client.create("r1", "c1", "hello", segments=SENTENCES)
        await ended(client)
        assert spoken(client) == ["It costs 3.50 at Dr. Smith's. ", "Really? ", "😀 Yes! ", "And so on"]
        check(client)
        await other.terminal("r1")
        await client.create("r2", "c1", "and now without")
        await client.terminal("r2")
        for one in (client, other):
            await one.call({"type": "ping"})
        assert spoken(client, "r2") == spoken(other) == []


async def test_a_conversation_that_asks_gets_all_answers_and_each_connection_its_own_way() -> None:
    async with running_stack() as (provider, app), connected(app.url) as client, connected(app.url) as other:
        await client.open("c1", segments=SENTENCES)
        await other.open("c1", segments={"unit": "clause", "first_min_chars": 3})
        provider.script(Script.text("Well, as it is, we go. Th", "ey stay."), Script.text("One. Two."))
        await client.create("r1", "c1", "hello")
        await ended(client)
        await ended(other)
        assert spoken(client) == ["Well, as it is, we go. ", "They stay."]
        assert spoken(other) == ["Well, ", "as it is, ", "we go. ", "They stay."]
        await other.create("r2", "c1", "hello")
        await ended(client, "r2")
        check(client)
        check(other)


async def test_a_sentence_comes_while_the_answer_goes_on_and_before_it_when_held_too_long() -> None:
    gate, second = Gate(), Gate()
    async with running_stack() as (provider, app), connected(app.url) as client:
        provider.script(Script.text("One. Two and thr", gate, "ee", second, " more."))
        await client.create("r1", "c1", "hello", segments={**SENTENCES, "max_hold_ms": 150})
        await client.until(lambda: spoken(client) == ["One. "])
        began = time.monotonic()
        await client.until(lambda: spoken(client) == ["One. ", "Two and "])
        assert time.monotonic() - began < 1
        gate.open()
        second.open()
        await ended(client)
        check(client)


async def test_a_tool_ends_what_was_said_before_it() -> None:
    async with running_stack() as (provider, app), connected(app.url) as client:
        call = Script(["Let me look", *tool_call_steps("clock", "{}")], finish="tool_calls")
        provider.script(call, Script.text("It is late."))
        await client.create("r1", "c1", "hello", segments=SENTENCES)
        await ended(client)
        assert spoken(client) == ["Let me look", "It is late."]
        check(client)


async def test_after_a_fallback_what_was_void_comes_anew() -> None:
    deployments: list[dict[str, Any]] = []
    async with running_stack() as (first, _), running_stack() as (second, _):
        for name, provider in (("a", first), ("b", second)):
            deployments.append({"name": name, "model": "m", "base_url": provider.base_url})
        first.script(Script.cut_after("One. Two. Thr"))
        second.script(Script.text("Un. Deux."))
        routes = [{"name": "default", "deployments": ["a", "b"], "max_attempts": 2}]
        async with running_stack(deployments=deployments, routes=routes) as (_, app), connected(app.url) as client:
            await client.create("r1", "c1", "hello", segments=SENTENCES)
            await ended(client)
            assert spoken(client) == ["One. ", "Two. ", "Un. ", "Deux."]
            kinds = [m["type"] for m in client.messages if m["type"] in ("part.reset", "output_text.segment")]
            assert kinds == ["output_text.segment"] * 2 + ["part.reset"] + ["output_text.segment"] * 2


@pytest.mark.parametrize("with_cursor", [True, False])
async def test_who_comes_back_gets_the_sentence_that_was_not_over_whole(with_cursor: bool) -> None:
    gate = Gate()
    async with running_stack() as (provider, app):
        provider.script(Script.text("One. Two is", gate, " long. Three."))
        async with connected(app.url) as client:
            await client.create("r1", "c1", "hello", segments=SENTENCES)
            await client.until(lambda: client.text("r1") == "One. Two is" and spoken(client) == ["One. "])
            cursor = client.cursor("c1")
        async with connected(app.url, before=client) as client:
            since = {"since": cursor} if with_cursor else {}
            await client.open("c1", segments=SENTENCES, **since)
            if not with_cursor:
                await client.event("conversation.snapshot")
            gate.open()
            await ended(client)
            assert spoken(client) == ["Two is long. ", "Three."]
            check(client, begin=5)


async def test_after_a_cancel_nothing_is_spoken_any_more() -> None:
    async with running_stack() as (provider, app), connected(app.url) as client:
        provider.script(Script.stalled_after("One. Two and three"))
        await client.create("r1", "c1", "hello", segments={**SENTENCES, "max_hold_ms": 60_000})
        await client.until(lambda: spoken(client) == ["One. "])
        await client.cancel("r1")
        await client.terminal("r1")
        await client.call({"type": "ping"})
        assert spoken(client) == ["One. "]


async def test_segments_of_what_is_over_are_none() -> None:
    async with running_stack() as (_, app), connected(app.url) as client:
        await client.create("r1", "c1", "hello")
        await client.terminal("r1")
        await client.create("r1", "c1", "hello", segments=SENTENCES)
        await client.create("r2", "c1", "hello")
        await client.terminal("r2")
        assert client.events("output_text.segment") == []


async def test_what_cannot_be_asked_for_is_refused() -> None:
    async with running_stack() as (_, app), connected(app.url) as client:
        for segments in ({}, {"unit": "word"}, {"unit": "clause", "max_hold_ms": 1}, []):
            with pytest.raises(CallError, match="bad_command: segments"):
                await client.open("c1", segments=segments)
