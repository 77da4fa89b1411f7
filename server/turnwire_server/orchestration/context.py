"""The prompt of a model call, in the chat format of OpenAI, from stored messages. Pure.

An answer's parts become alternating assistant messages and tool results, as the model produced them: providers
refuse a history in which a call has no result, so a call that never got one is told truthfully. Two user messages
in a row (a turn was cancelled before it said anything) melt into one, because some providers refuse them.
Reasoning is never sent back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import orjson

from turnwire_protocol import Message, Part, ReasoningPart, TextPart, ToolCallPart

from .shared import INTRODUCTION, Data

ChatMessage = dict[str, Any]


def build_prompt(
    system_prompt: str | None,
    history: Sequence[Message],
    turn: Sequence[Message],
    *,
    steering: Mapping[str, Message] | None = None,
    data: Sequence[Data] = (),
    max_tokens: int | None = None,
    count: Callable[[Sequence[ChatMessage]], int],
) -> list[ChatMessage]:
    """The messages of one call: system prompt, the finished turns before, and this turn so far.

    ``steering`` are the user's messages that were folded into the turn's answer, by request; those of the history are
    in it.

    ``data`` is what goes with the conversation or the request; it stands behind the system prompt.

    When ``max_tokens`` is given and everything does not fit, the oldest messages of the history go first; the
    system prompt and the turn itself always stay, data as far as there is room besides these.
    """
    asked = {message.request_id: message for message in history if message.role == "user"}
    last = chat_messages(turn, {**asked, **(steering or {})})
    system = _system(system_prompt, data, None if max_tokens is None else max_tokens - count(last), count)
    groups = [chat_messages([message], asked) for message in _without_merged(history)]
    if max_tokens is not None:
        room = max_tokens - count([*system, *last])
        kept: list[list[ChatMessage]] = []
        for group in reversed(groups):
            room -= count(group) if group else 0
            if room < 0:
                break
            kept.append(group)
        groups = kept[::-1]
        while groups and groups[0] and groups[0][0]["role"] != "user":
            groups.pop(0)  # an answer without its question only confuses
    return _melt([*system, *(message for group in groups for message in group), *last])


CONTINUE = (
    "Your answer above was cut off by a technical fault. Continue it from exactly where it stops, in the middle of the "
    "word if need be. Repeat nothing of it, add no introduction and no remark about the interruption."
)
"""Behind an answer that broke off, for whoever is to go on with it."""


def to_continue(prompt: Sequence[ChatMessage]) -> list[ChatMessage]:
    """A prompt whose last message is an answer that broke off, so that the next model goes on with it. Only for text:
    behind the beginning of a tool call a model answers in prose."""
    assert prompt[-1]["role"] == "assistant", "what is to be continued stands last"
    return [*prompt, {"role": "user", "content": CONTINUE}]


def _system(
    prompt: str | None, data: Sequence[Data], room: int | None, count: Callable[[Sequence[ChatMessage]], int]
) -> list[ChatMessage]:
    said = [prompt] if prompt else []
    if data:
        said.append(INTRODUCTION)
    if room is not None:
        room -= count([_as_system(*said)]) if said else 0
    for piece in data:
        block = piece.block()
        if room is not None:
            needed = count([_as_system(block)])
            if needed > room:
                block, needed = piece.left_out(), 0
            room -= needed
        said.append(block)
    return [_as_system(*said)] if said else []


def _as_system(*texts: str) -> ChatMessage:
    return {"role": "system", "content": "\n\n".join(texts)}


def _without_merged(history: Sequence[Message]) -> list[Message]:
    """Without the requests that were folded into an answer: they stand within it."""
    merged = {steered.request_id for message in history for steered in message.steered or ()}
    return [message for message in history if message.request_id not in merged]


def chat_messages(messages: Iterable[Message], asked: Mapping[str, Message]) -> list[ChatMessage]:
    """Stored messages as chat messages, in order. ``asked`` has the user's messages that were folded into answers."""
    out: list[ChatMessage] = []
    for message in messages:
        if message.role == "user":
            out.append({"role": "user", "content": _text(message.parts)})
            continue
        begin = 0
        for steered in message.steered or ():
            out.extend(_answer(message.parts[begin : steered.part]))
            begin = max(begin, steered.part)
            if (said := asked.get(steered.request_id)) is not None:
                out.append({"role": "user", "content": _text(said.parts)})
        out.extend(_answer(message.parts[begin:]))
    return out


def _text(parts: Iterable[Part]) -> str:
    return "\n\n".join(part.text for part in parts if isinstance(part, TextPart))


def _answer(parts: Sequence[Part]) -> list[ChatMessage]:
    out: list[ChatMessage] = []
    text: list[str] = []
    calls: list[ToolCallPart] = []
    for part in parts:
        if isinstance(part, ToolCallPart):
            calls.append(part)
        elif not isinstance(part, ReasoningPart):
            if calls:
                out.extend(_step(text, calls))
                text, calls = [], []
            text.append(part.text)
    if calls or any(text):
        out.extend(_step(text, calls))
    return out


def _step(text: list[str], calls: list[ToolCallPart]) -> list[ChatMessage]:
    said = "".join(text)
    if not calls:
        return [{"role": "assistant", "content": said}]
    asked = [
        {
            "id": call.call_id,
            "type": "function",
            "function": {"name": call.name, "arguments": _json(call.arguments)},
        }
        for call in calls
    ]
    results = [{"role": "tool", "tool_call_id": call.call_id, "content": tool_result(call)} for call in calls]
    return [{"role": "assistant", "content": said or None, "tool_calls": asked}, *results]


def tool_result(call: ToolCallPart) -> str:
    """What the model is told about a call."""
    if call.state == "completed":
        return call.output if isinstance(call.output, str) else _json(call.output)
    return f"Error: {call.error or 'this call was never run'}"


def _json(value: Any) -> str:
    if isinstance(value, str):  # the text of arguments that never became complete
        try:
            orjson.loads(value)
        except orjson.JSONDecodeError:
            return "{}"
        return value
    return orjson.dumps(value).decode()


def _melt(messages: list[ChatMessage]) -> list[ChatMessage]:
    out: list[ChatMessage] = []
    for message in messages:
        if message["role"] == "user" and out and out[-1]["role"] == "user":
            out[-1] = {"role": "user", "content": f"{out[-1]['content']}\n\n{message['content']}"}
        else:
            out.append(message)
    return out
