"""How much of a conversation goes into a prompt: never more than there is room for, and what is told of it is true."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.prompt_rules import faults_of

from turnwire_protocol import Message, Part, TextPart, ToolCallPart
from turnwire_server.conversations.spec import prompt_budget
from turnwire_server.gateway.usage import TokenCounter
from turnwire_server.orchestration.context import Assembled, build_prompt, shortener
from turnwire_server.orchestration.earlier import Earlier, Memory
from turnwire_server.orchestration.shared import Data
from turnwire_server.settings import Deployment

COUNTER = TokenCounter()
count = COUNTER.estimate_prompt_tokens


def asked(number: int, text: str) -> Message:
    return message(number, "user", TextPart(text=text))


def answered(number: int, *parts: Part) -> Message:
    return message(number, "assistant", *parts)


def message(number: int, role: Any, *parts: Part) -> Message:
    return Message(
        message_id=f"{role}{number}", request_id=f"r{number}", role=role, parts=list(parts), status="complete",
        created_at=number, ordinal=number,
    )  # fmt: skip


def called(number: int, output: str) -> Message:
    call = ToolCallPart(
        call_id=f"c{number}", name="look", where="server", arguments={}, state="completed", output=output
    )
    return answered(number, call, TextPart(text="so it is"))


def talk(turns: int, text: str = "word " * 20) -> list[Message]:
    return [one for n in range(turns) for one in (asked(n, f"{n} {text}"), answered(n, TextPart(text=f"{n} {text}")))]


def assembled(history: Sequence[Message], question: str = "and now?", **options: Any) -> Assembled:
    return build_prompt("Be brief.", history, [asked(10_000, question)], count=count, **options)


def test_what_is_told_adds_up_to_what_is_counted() -> None:
    data, earlier = [Data('key="a" version="1"', {"b": 1})], Earlier(7, "They met.", [Memory(3, "user", "I am Bo")])
    one = assembled(talk(3), data=data, earlier=earlier, tools_tokens=50)
    used = one.used
    assert used.tokens == count(one.messages) + 50
    assert used.tokens == count(()) + used.system + used.history + used.turn + used.tools
    assert (used.budget, used.messages, used.left_out, used.summary, used.memories) == (None, 6, 0, 7, 1)


@given(
    texts=st.lists(st.text("ab c\n日", max_size=80), max_size=12),
    budget=st.integers(50, 400),
    tools_tokens=st.integers(0, 30),
    outputs=st.lists(st.text("xyz ", min_size=1, max_size=200), max_size=3),
)
def test_no_prompt_is_larger_than_its_budget_and_none_smaller_than_it_might_be(
    texts: list[str], budget: int, tools_tokens: int, outputs: list[str]
) -> None:
    history: list[Message] = []
    for number, text in enumerate(texts):
        tool = number < len(outputs)
        history += [
            asked(number, text),
            called(number, outputs[number]) if tool else answered(number, TextPart(text=text)),
        ]
    one = assembled(history, max_tokens=budget, tools_tokens=tools_tokens)
    assert one.used.tokens <= budget
    assert one.used.tokens == count(one.messages) + tools_tokens
    assert one.used.messages + one.used.left_out == len(history)
    assert one.messages[0] == {"role": "system", "content": "Be brief."}
    assert one.messages[-1]["content"].endswith("and now?")
    if all(texts):
        assert faults_of(one.messages) == []
    if all(texts) and one.used.left_out:  # where nothing melts, a whole turn more does not fit
        assert assembled(history[-one.used.messages - 2 :], tools_tokens=tools_tokens).used.tokens > budget


def test_the_turn_itself_always_stays() -> None:
    one = assembled(talk(3), "why? " * 500, max_tokens=100)
    assert [m["role"] for m in one.messages] == ["system", "user"]
    assert (one.used.messages, one.used.left_out) == (0, 6)
    assert one.used.tokens > 100, "a provider says that this is too long"


def test_a_long_result_of_a_tool_is_whole_in_its_turn_and_short_in_later_ones() -> None:
    output = "begin " + "x" * 40_000 + " end"
    history = [asked(1, "look"), called(1, output)]
    one = assembled(history, shorten=shortener(100, COUNTER.count))
    (result,) = [m["content"] for m in one.messages if m["role"] == "tool"]
    assert result.startswith("begin xxx")
    assert result.endswith("xxx end")
    assert "characters left out …]" in result
    assert COUNTER.count(result) < 120
    assert one.used.compacted == 1
    turn = build_prompt(None, [], history, shorten=shortener(100, COUNTER.count), count=count)
    assert [m["content"] for m in turn.messages if m["role"] == "tool"] == [output]
    assert turn.used.compacted is None


def test_a_text_that_is_short_enough_stays_as_it_is() -> None:
    text = "日本 " * 20
    assert shortener(COUNTER.count(text), COUNTER.count)(text) is text


@pytest.mark.parametrize(
    ("tenant", "takes", "budget"),
    [
        ({}, None, None),
        ({"max_context_tokens": 500}, None, 500),
        ({}, 8_000, 7_000),
        ({"max_output_tokens": 3_000}, 8_000, 5_000),
        ({"max_output_tokens": 30_000}, 8_000, 4_000),
        ({"max_context_tokens": 500, "max_output_tokens": 3_000}, 8_000, 500),
        ({"max_context_tokens": 6_000, "max_output_tokens": 3_000}, 8_000, 5_000),
    ],
)
def test_a_budget_is_the_tenant_s_or_what_the_deployment_takes_besides_an_answer(
    tenant: dict[str, Any], takes: int | None, budget: int | None
) -> None:
    deployment = Deployment(name="a", model="m", context_tokens=takes)
    assert prompt_budget({"max_context_tokens": None, "max_output_tokens": None, **tenant}, deployment, 1_000) == budget
