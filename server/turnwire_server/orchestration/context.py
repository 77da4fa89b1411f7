"""The prompt of a model call, in the chat format of OpenAI, from stored messages. Pure.

An answer's parts become alternating assistant messages and tool results, as the model produced them: providers
refuse a history in which a call has no result, so a call that never got one is told truthfully. Two user messages
in a row (a turn was cancelled before it said anything) melt into one, because some providers refuse them.
Reasoning is never sent back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from turnwire_protocol import Message, Part, ReasoningPart, StepContext, TextPart, ToolCallPart

from .earlier import NOTHING, Earlier
from .shared import INTRODUCTION, Data

ChatMessage = dict[str, Any]

_MEMORIES_SHARE = 8
"""Memories have at most this part of the room besides the turn."""


@dataclass(frozen=True, slots=True)
class Assembled:
    """A prompt, and what went into it."""

    messages: list[ChatMessage]
    used: StepContext


def build_prompt(
    system_prompt: str | None,
    history: Sequence[Message],
    turn: Sequence[Message],
    *,
    steering: Mapping[str, Message] | None = None,
    data: Sequence[Data] = (),
    earlier: Earlier = NOTHING,
    max_tokens: int | None = None,
    tools_tokens: int = 0,
    shorten: Callable[[str], str] | None = None,
    goes_on: Callable[[Sequence[ChatMessage]], list[ChatMessage]] | None = None,
    count: Callable[[Sequence[ChatMessage]], int],
) -> Assembled:
    """The messages of one call: system prompt, the finished turns before, and this turn so far.

    ``steering`` are the user's messages that were folded into the turn's answer, by request; those of the history are
    in it. ``earlier`` stands for what is not in ``history`` any more.

    ``data`` is what goes with the conversation or the request; it stands behind the system prompt.

    ``count`` gives the tokens of messages as a prompt of their own: what each message takes adds up, with what every
    prompt takes once. When ``max_tokens`` is given and everything does not fit, beside the ``tools_tokens`` of what the
    model is offered, the oldest messages of the history go first; the system prompt and the turn itself always stay,
    data as far as there is room besides these. ``shorten`` makes results of tools in the history shorter.

    ``goes_on`` puts behind the turn what it is asked for besides, see `to_continue`.
    """
    base = count(())
    asked = {message.request_id: message for message in history if message.role == "user"}
    last = chat_messages(turn, {**asked, **(steering or {})})
    if goes_on is not None:
        last = goes_on(last)
    last_tokens = count(last)
    room = None if max_tokens is None else max_tokens - tools_tokens - last_tokens
    if room is not None:
        # What is found again is one thing; that the turns before this one are there is another.
        earlier = earlier.within(room // _MEMORIES_SHARE, lambda text: count([_as_system(text)]) - base)
    system = _system(system_prompt, earlier, data, room, count)
    system_tokens = count(system) - base
    window = _Window(None if room is None else room - system_tokens, lambda group: count(group) - base)
    said = _without_merged(history)
    for message in reversed(said):
        if not window.add(message, asked, shorten):
            break
    window.begin_with_a_question()
    messages = [*system, *window.messages(), *last]
    melted = _melt(messages)
    tokens = system_tokens + window.tokens + last_tokens
    if len(melted) != len(messages):  # a text in two messages is not the same as in one
        tokens = count(melted)
    used = StepContext(
        tokens=tokens + tools_tokens,
        budget=max_tokens,
        system=system_tokens,
        history=window.tokens,
        turn=last_tokens - base,
        tools=tools_tokens,
        messages=len(window.kept),
        left_out=len(said) - len(window.kept),
        compacted=window.shortened or None,
        summary=earlier.version,
        memories=len(earlier.memories) or None,
    )
    return Assembled(melted, used)


class _Window:
    """The newest messages of the history for which there is ``room`` (None: for all), gathered from the end."""

    def __init__(self, room: int | None, count: Callable[[Sequence[ChatMessage]], int]) -> None:
        self._room = room
        self._count = count
        self.kept: list[tuple[list[ChatMessage], int, int]] = []
        """Of each message, the newest first: chat messages, tokens, and how many results were shortened."""

    @property
    def tokens(self) -> int:
        return sum(tokens for _, tokens, _ in self.kept)

    @property
    def shortened(self) -> int:
        return sum(shortened for *_, shortened in self.kept)

    def add(self, message: Message, asked: Mapping[str, Message], shorten: Callable[[str], str] | None) -> bool:
        """Take in one more; False when there is no room for it."""
        shortened = 0

        def shorter(text: str) -> str:
            nonlocal shortened
            short = text if shorten is None else shorten(text)
            shortened += short is not text
            return short

        group = chat_messages([message], asked, shorter)
        tokens = self._count(group) if group else 0
        if self._room is not None:
            if tokens > self._room:
                return False
            self._room -= tokens
        self.kept.append((group, tokens, shortened))
        return True

    def begin_with_a_question(self) -> None:
        """An answer without its question only confuses. Where all is kept, the conversation begins so itself."""
        while self.kept and self.kept[-1][0] and self.kept[-1][0][0]["role"] != "user":
            self.kept.pop()

    def messages(self) -> list[ChatMessage]:
        return [message for group, *_ in reversed(self.kept) for message in group]


def shortener(most_tokens: int, count: Callable[[str], int]) -> Callable[[str], str]:
    """Makes a text of more than ``most_tokens`` shorter: its head and its tail, between them how much is missing."""

    def shorten(text: str) -> str:
        if len(text.encode(errors="replace")) <= most_tokens or (tokens := count(text)) <= most_tokens:
            return text
        keep = max(1, len(text) * most_tokens // tokens // 2)
        return f"{text[:keep]}\n[… {len(text) - 2 * keep} characters left out …]\n{text[-keep:]}"

    return shorten


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
    prompt: str | None,
    earlier: Earlier,
    data: Sequence[Data],
    room: int | None,
    count: Callable[[Sequence[ChatMessage]], int],
) -> list[ChatMessage]:
    said = [prompt] if prompt else []
    said += earlier.blocks()
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


def _whole(text: str) -> str:
    return text


def chat_messages(
    messages: Iterable[Message], asked: Mapping[str, Message], shorten: Callable[[str], str] = _whole
) -> list[ChatMessage]:
    """Stored messages as chat messages, in order. ``asked`` has the user's messages that were folded into answers;
    ``shorten`` is given the results of tools."""
    out: list[ChatMessage] = []
    for message in messages:
        if message.role == "user":
            out.append({"role": "user", "content": _text(message.parts)})
            continue
        begin = 0
        for steered in message.steered or ():
            out.extend(_answer(message.parts[begin : steered.part], shorten))
            begin = max(begin, steered.part)
            if (said := asked.get(steered.request_id)) is not None:
                out.append({"role": "user", "content": _text(said.parts)})
        out.extend(_answer(message.parts[begin:], shorten))
    return out


def _text(parts: Iterable[Part]) -> str:
    return "\n\n".join(part.text for part in parts if isinstance(part, TextPart))


def _answer(parts: Sequence[Part], shorten: Callable[[str], str]) -> list[ChatMessage]:
    out: list[ChatMessage] = []
    text: list[str] = []
    calls: list[ToolCallPart] = []
    for part in parts:
        if isinstance(part, ToolCallPart):
            calls.append(part)
        elif not isinstance(part, ReasoningPart):
            if calls:
                out.extend(_step(text, calls, shorten))
                text, calls = [], []
            text.append(part.text)
    if calls or any(text):
        out.extend(_step(text, calls, shorten))
    return out


def _step(text: list[str], calls: list[ToolCallPart], shorten: Callable[[str], str]) -> list[ChatMessage]:
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
    results = [{"role": "tool", "tool_call_id": call.call_id, "content": shorten(tool_result(call))} for call in calls]
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
