"""The demonstration model: says what it is, shows every kind of chunk on demand, and repeats itself exactly."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.server.gateway.asking import Answer, ask, failure_of

from turnwire_server.gateway.errors import ProviderErrorKind
from turnwire_server.gateway.provider import (
    Finish,
    ModelRequest,
    RetrievalCompleted,
    RetrievalStarted,
    Text,
    ToolCallArguments,
    ToolCallBegin,
)
from turnwire_server.gateway.providers import provider_for
from turnwire_server.gateway.providers.demo import BREAKS_AFTER, DemoProvider
from turnwire_server.gateway.providers.demo_script import KEYWORDS
from turnwire_server.settings import Deployment

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "demo_clock",
            "parameters": {"type": "object", "properties": {"timezone": {"type": "string"}}},
        },
    },
    {
        "type": "function",
        "function": {
            "name": "demo_countdown",
            "parameters": {
                "type": "object",
                "properties": {"seconds": {"type": "integer"}, "label": {"type": "string"}},
                "required": ["seconds", "label"],
            },
        },
    },
]


def demo(**fields: Any) -> DemoProvider:
    return DemoProvider(Deployment(name="demo", kind="demo", model="turnwire-demo"), words_per_second=None, **fields)


def asking(text: str, **fields: Any) -> ModelRequest:
    return ModelRequest([{"role": "user", "content": text}], **fields)


async def answer_to(text: str, **fields: Any) -> Answer:
    return await ask(demo(), asking(text, **fields))


async def test_it_says_what_it_is_and_how_to_get_a_real_model() -> None:
    answer = await answer_to("good morning")
    assert "demonstration model" in answer.text
    assert "OPENAI_API_KEY" in answer.text
    assert "OPENAI_BASE_URL" in answer.text
    assert "good morning" in answer.text
    assert answer.finish == "stop"


@pytest.mark.parametrize("word", sorted(KEYWORDS))
async def test_the_same_prompt_gets_the_same_answer(word: str) -> None:
    first, second = [await answer_to(f"show me {word} please", tools=TOOLS) for _ in range(2)]
    assert first.chunks == second.chunks


async def test_usage_is_reported_in_words() -> None:
    answer = await answer_to("one two three")
    assert answer.usage is not None
    assert answer.usage.input_tokens == 3
    assert answer.usage.output_tokens == sum(isinstance(chunk, Text) for chunk in answer.chunks)


async def test_help_lists_every_word() -> None:
    text = (await answer_to("help")).text
    assert all(f"- {word}: " in text for word in KEYWORDS)


async def test_reasoning_comes_before_the_answer() -> None:
    answer = await answer_to("show your reasoning")
    assert answer.reasoning
    assert answer.text
    assert not isinstance(answer.chunks[0], Text)


async def test_retrieval_names_its_sources() -> None:
    answer = await answer_to("a retrieval about cancel")
    assert isinstance(answer.chunks[0], RetrievalStarted)
    completed = answer.chunks[1]
    assert isinstance(completed, RetrievalCompleted)
    assert completed.sources[0]["id"] == "doc-cancel"


async def test_a_tool_is_called_and_its_result_used() -> None:
    question = asking("use a tool", tools=TOOLS)
    calls = await ask(demo(), question)
    begun = [chunk for chunk in calls.chunks if isinstance(chunk, ToolCallBegin)]
    assert [(call.index, call.name) for call in begun] == [(0, "demo_clock"), (1, "demo_countdown")]
    pieces = [chunk.text for chunk in calls.chunks if isinstance(chunk, ToolCallArguments) and chunk.index == 1]
    assert len(pieces) > 1
    assert "".join(pieces) == '{"seconds":3,"label":"UTC"}'
    assert calls.finish == "tool_calls"
    tool_calls = [
        {"id": call.call_id, "type": "function", "function": {"name": call.name, "arguments": "{}"}} for call in begun
    ]
    results = [
        {"role": "tool", "tool_call_id": call.call_id, "content": content}
        for call, content in zip(begun, ["noon", "0"], strict=True)
    ]
    messages = [*question.messages, {"role": "assistant", "content": None, "tool_calls": tool_calls}, *results]
    final = await ask(demo(), ModelRequest(messages, tools=TOOLS))
    assert "demo_clock: noon" in final.text
    assert "demo_countdown: 0" in final.text
    assert final.finish == "stop"


async def test_results_of_an_earlier_question_are_not_used_again() -> None:
    messages = [
        {"role": "user", "content": "use a tool"},
        {"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": "demo_clock", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "c", "content": "noon"},
        {"role": "assistant", "content": "It is noon."},
        {"role": "user", "content": "hello"},
    ]
    assert "noon" not in (await ask(demo(), ModelRequest(messages))).text


@pytest.mark.parametrize("word", ["tool", "approval", "page"])
async def test_without_tools_it_says_so(word: str) -> None:
    assert "is offered here" in (await answer_to(f"show {word}")).text


@pytest.mark.parametrize(("asked", "chosen"), [("make this page purple", "purple"), ("colour the page", "teal")])
async def test_a_tool_of_the_page_is_called_with_what_the_user_has_named(asked: str, chosen: str) -> None:
    parameters = {
        "type": "object",
        "properties": {"colour": {"type": "string", "enum": ["teal", "purple"]}},
        "required": ["colour"],
    }
    offered = {"type": "function", "function": {"name": "page_colour", "parameters": parameters}}
    calls = await ask(demo(), asking(asked, tools=[*TOOLS, offered]))
    assert [chunk.name for chunk in calls.chunks if isinstance(chunk, ToolCallBegin)] == ["page_colour"]
    said = "".join(chunk.text for chunk in calls.chunks if isinstance(chunk, ToolCallArguments))
    assert said == f'{{"colour":"{chosen}"}}'


async def test_it_introduces_itself_once_in_a_conversation() -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    again = await ask(demo(), ModelRequest([*messages, {"role": "user", "content": "c"}]))
    assert again.text.startswith('You wrote: "c"')


async def test_fail_fails_before_the_first_word() -> None:
    answer = await answer_to("please fail")
    assert answer.chunks == []
    assert answer.error is not None
    assert (answer.error.kind, answer.error.retryable) == (ProviderErrorKind.ERROR, True)


async def test_what_failed_before_does_not_make_the_next_one_fail() -> None:
    assert (await answer_to("please fail\n\nhello again")).finish == "stop"


async def test_fallback_breaks_off_once_and_then_succeeds() -> None:
    provider = demo()
    broken = await ask(provider, asking("show a fallback"))
    assert broken.error is not None
    assert (broken.error.kind, broken.error.retryable) == (ProviderErrorKind.CUT, True)
    assert len(broken.chunks) == BREAKS_AFTER
    assert (await ask(provider, asking("show a fallback"))).finish == "stop"
    assert (await failure_of(provider, asking("show a fallback"))).kind == ProviderErrorKind.CUT


@pytest.mark.parametrize(("word", "reason"), [("length", "length"), ("filter", "content_filter")])
async def test_it_stops_early_when_asked(word: str, reason: str) -> None:
    answer = await answer_to(f"show {word}")
    assert answer.finish == reason
    assert len(answer.text) < len((await answer_to("show")).text)


async def test_the_limit_of_tokens_is_kept() -> None:
    answer = await answer_to("hello", max_output_tokens=5)
    assert answer.finish == "length"
    assert answer.text == "I am Turnwire's built-in demonstration"


async def test_long_is_several_hundred_words() -> None:
    assert len((await answer_to("a long answer")).text.split()) > 300


async def test_emoji_come_with_half_a_surrogate_pair_at_a_chunk_end() -> None:
    answer = await answer_to("emoji")
    assert Text("\ud83d") in answer.chunks
    assert "smile 😀." in answer.text.encode("utf-16", "surrogatepass").decode("utf-16")


async def test_it_takes_its_time_and_can_be_cancelled() -> None:
    provider = DemoProvider(Deployment(name="demo", kind="demo", model="turnwire-demo"), words_per_second=1000)
    started = asyncio.Event()

    async def read() -> None:
        async with provider.stream(asking("long")) as stream:
            async for chunks in stream:
                assert not isinstance(chunks[0], Finish)
                started.set()

    task = asyncio.create_task(read())
    async with asyncio.timeout(60):
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_leaving_early_leaves_nothing_behind() -> None:
    async with demo().stream(asking("long")) as stream:
        await anext(stream)


async def test_a_deployment_of_kind_demo_gets_it() -> None:
    settings = Deployment.model_validate({"name": "d", "kind": "demo"})
    assert isinstance(provider_for(settings, {}), DemoProvider)
