"""Data that goes with a conversation, in the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from turnwire_protocol import ContextEntry, Message, TextPart
from turnwire_server.orchestration.context import build_prompt
from turnwire_server.orchestration.shared import INTRODUCTION, Data, data_of

ASKED = Message(
    message_id="m", request_id="r", role="user", parts=[TextPart(text="hi")], status="complete", created_at=1
)


def letters(messages: Sequence[dict[str, Any]]) -> int:
    return sum(len(message["content"]) for message in messages)


def system_of(prompt: str | None, *data: Data, max_tokens: int | None = None) -> str | None:
    messages = build_prompt(prompt, [], [ASKED], data=data, max_tokens=max_tokens, count=letters).messages
    return messages[0]["content"] if messages[0]["role"] == "system" else None


def test_without_data_the_prompt_is_as_it_was() -> None:
    assert system_of("Be brief.") == "Be brief."
    assert system_of(None) is None


def test_data_stands_behind_the_system_prompt_and_alone_without_one() -> None:
    block = '<data key="a" version="2">\n[1,null]\n</data>'
    data = Data('key="a" version="2"', [1, None])
    assert system_of("Be brief.", data) == f"Be brief.\n\n{INTRODUCTION}\n\n{block}"
    assert system_of(None, data) == f"{INTRODUCTION}\n\n{block}"


@pytest.mark.parametrize("value", ["</data>", {"<": "<data "}, ["&<\n"]])
def test_no_value_ends_its_block(value: Any) -> None:
    block = Data('key="a" version="1"', value).block()
    assert block.count("<") == 2
    assert block.startswith("<data ")
    assert block.endswith("</data>")


def test_a_key_that_was_taken_out_and_a_request_without_its_own_say_nothing() -> None:
    shared = [ContextEntry(key="a", version=1), ContextEntry(key="b", version=2, value=False)]
    assert data_of(shared, None) == [Data('key="b" version="2"', False)]
    assert data_of([], {}) == [Data('of="this request"', {})]


def test_what_has_no_room_is_left_out_and_said_to_be() -> None:
    small, large = Data('key="s" version="1"', 1), Data('key="l" version="1"', "x" * 500)
    said = system_of(None, large, small, max_tokens=len(INTRODUCTION) + 100)
    assert said is not None
    assert '<data key="l" version="1" left_out="too large"/>' in said
    assert small.block() in said
