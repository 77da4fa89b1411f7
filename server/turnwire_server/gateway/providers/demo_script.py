"""What the demonstration model answers: messages in, pieces of an answer out.

Pure and deterministic. Words in the last user message choose what is shown, so that everything the server can
do with a model can be tried without one. `demo` plays the answer; nothing here waits or fails.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from turnwire_server.gateway.provider import (
    Chunk,
    Reasoning,
    RetrievalCompleted,
    RetrievalStarted,
    Text,
    ToolCallArguments,
    ToolCallBegin,
)

KEYWORDS = {
    "reasoning": "thinks aloud before it answers",
    "retrieval": "looks something up in a few built-in documents",
    "tool": "calls the tools demo_clock and demo_countdown, where they are offered",
    "approval": "calls demo_postcard, which a person has to approve",
    "page": "calls page_colour, where the page offers it: a tool that the page itself runs",
    "markdown": "writes headings, lists, a table and code",
    "fallback": "breaks off on the first attempt and succeeds on the second",
    "fail": "fails before the first word",
    "long": "writes several hundred words",
    "length": "stops in the middle, as at a limit of tokens",
    "filter": "stops as if a content filter had stepped in",
    "emoji": "writes emoji, Chinese and characters outside the basic plane",
    "help": "lists these words",
}
TOOLS = {"tool": ("demo_clock", "demo_countdown"), "approval": ("demo_postcard",), "page": ("page_colour",)}
"""The words that call tools, and those that they call."""

INTRODUCTION = (
    "I am Turnwire's built-in demonstration model, not a real one: I only repeat what you write. "
    "For a real model set OPENAI_API_KEY, and OPENAI_BASE_URL for a provider other than OpenAI, "
    "and start the server again."
)
DOCUMENTS = (
    ("doc-log", "The event log", "every turn is an ordered log of events with a cursor and an epoch"),
    ("doc-resume", "Resuming a turn", "a client that lost its connection resumes a request from its cursor"),
    ("doc-cancel", "Cancelling", "a cancel closes the connection to the provider at once and is a fact"),
    ("doc-tools", "Tools", "tools run on the server or on the client and may need an approval"),
)
_MARKDOWN = """

## What an answer may have in it

1. **Lists**, *emphasis* and `code` in a line
2. Links, such as [the protocol](https://www.rfc-editor.org/rfc/rfc6455)

| guarantee | what it means |
|---|---|
| one ending | every turn ends exactly once |
| a cancel is a fact | once it is acknowledged, nothing completes it |
| nothing is lost | after a crash the text goes on where it was |

```python
async for event in conversation.follow(cursor):
    print(event.seq, event.type)
```

> And words of somebody else."""
_ARGUMENTS: dict[str, dict[str, Any]] = {
    "demo_clock": {"timezone": "UTC"},
    "demo_countdown": {"seconds": 3},
    "demo_postcard": {"to": "Ada", "text": "Greetings from the demonstration model!"},
}
_PLACEHOLDERS: dict[str, Any] = {"string": "UTC", "integer": 3, "number": 3, "boolean": True, "array": []}
_PIECE = re.compile(r"\s*\S+")


@dataclass(slots=True)
class Answer:
    """An answer in the order in which it is given."""

    chunks: list[Chunk] = field(default_factory=list)
    finish: str = "stop"


def asked_in(messages: Sequence[dict[str, Any]]) -> str:
    """The text of the last user message."""
    for message in reversed(messages):
        if message.get("role") == "user":
            return _text_of(message.get("content"))
    return ""


def keywords_in(asked: str) -> set[str]:
    """Those of the last paragraph: what was said before and never answered stands before it in the same message."""
    last = asked.rpartition("\n\n")[2]
    words = {word.removesuffix("s") for word in re.findall(r"[a-z]+", last.lower())}
    return words & KEYWORDS.keys()


def answer_to(messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]]) -> Answer:
    """The whole answer to one prompt."""
    asked = asked_in(messages)
    words = keywords_in(asked)
    results = _tool_results(messages)
    if results:
        return Answer([*_pieces("The tools answered. " + " ".join(results) + " That was the demonstration.")])
    answer = Answer()
    if "reasoning" in words:
        answer.chunks += _pieces(f"The user wrote {len(asked.split())} words. I will repeat them.", Reasoning)
    if "retrieval" in words:
        answer.chunks += _retrieval(asked)
    if calls := _tool_calls(messages, tools, asked, words):
        answer.chunks += [*_pieces("I will use what I was given for that."), *calls]
        answer.finish = "tool_calls"
        return answer
    is_first = all(message.get("role") != "assistant" for message in messages)
    answer.chunks += _body(asked, words, is_first)
    _stop_early(answer, words)
    return answer


def _body(asked: str, words: set[str], is_first: bool) -> Iterator[Chunk]:
    if is_first:
        yield from _pieces(INTRODUCTION + "\n\n")
    if "help" in words:
        listed = "\n".join(f"- {word}: {what}" for word, what in KEYWORDS.items())
        yield from _pieces(f"Write one of these words and I show what it stands for:\n\n{listed}")
        return
    yield from _pieces(f'You wrote: "{asked}"' if asked else "You wrote nothing.")
    if missing := [name for word, names in TOOLS.items() if word in words for name in names]:
        yield from _pieces(f"\n\nNo tool named {' or '.join(missing)} is offered here.")
    if "markdown" in words:
        yield from _pieces(_MARKDOWN)
    if "emoji" in words:
        yield from _emoji()
    if "long" in words:
        yield from _pieces(_long_text())
    yield from _pieces('\n\nWrite "help" to see what else I can show.')


def _stop_early(answer: Answer, words: set[str]) -> None:
    if "length" in words:
        answer.finish = "length"
    elif "filter" in words:
        answer.finish = "content_filter"
    else:
        return
    del answer.chunks[-max(1, len(answer.chunks) // 3) :]


def _retrieval(asked: str) -> Iterator[Chunk]:
    yield RetrievalStarted(asked)
    wanted = set(re.findall(r"[a-z]+", asked.lower()))
    sources: list[dict[str, Any]] = []
    for doc_id, title, text in DOCUMENTS:
        words = set(re.findall(r"[a-z]+", f"{title} {text}".lower()))
        score = round(len(words & wanted) / len(words), 3)
        sources.append({"id": doc_id, "title": title, "score": score})
    sources.sort(key=lambda source: (-source["score"], source["id"]))
    yield RetrievalCompleted(len(DOCUMENTS), sources[:3])


def _tool_calls(
    messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]], asked: str, words: set[str]
) -> list[Chunk]:
    offered = {tool["function"]["name"]: tool["function"] for tool in tools if "function" in tool}
    digest = fingerprint(messages)[:12]
    chunks: list[Chunk] = []
    wanted = [name for word, names in TOOLS.items() if word in words for name in names]
    for index, name in enumerate(name for name in wanted if name in offered):
        arguments = orjson.dumps(_arguments_for(name, offered[name].get("parameters") or {}, asked)).decode()
        chunks.append(ToolCallBegin(index, f"demo_{digest}_{index}", name))
        chunks += [ToolCallArguments(index, arguments[n : n + 6]) for n in range(0, len(arguments), 6)]
    return chunks


def _arguments_for(name: str, schema: dict[str, Any], asked: str) -> dict[str, Any]:
    """What the tool is called with: the usual values of the fields it has, anything for others it requires; of a choice
    the first that the user has named, or the first there is."""
    fields = schema.get("properties") or {}
    arguments = {key: value for key, value in _ARGUMENTS.get(name, {}).items() if key in fields}
    for key in schema.get("required") or ():
        if choice := (fields.get(key) or {}).get("enum"):
            arguments[key] = next((one for one in choice if str(one).lower() in asked.lower()), choice[0])
        elif key not in arguments:
            arguments[key] = _PLACEHOLDERS.get(str((fields.get(key) or {}).get("type")), {})
    return arguments


def _tool_results(messages: Sequence[dict[str, Any]]) -> list[str]:
    """What tools have answered since the last user message."""
    names: dict[str, str] = {}
    results: list[str] = []
    for message in messages:
        role = message.get("role")
        if role == "user":
            names.clear()
            results.clear()
        for call in message.get("tool_calls") or ():
            names[call["id"]] = call["function"]["name"]
        if role == "tool":
            name = names.get(message.get("tool_call_id", ""), "A tool")
            results.append(f"{name}: {_text_of(message.get('content'))}.")
    return results


def _emoji() -> Iterator[Chunk]:
    yield from _pieces("\n\nA family 👨‍👩‍👧, a flag 🇪🇺, 漢字, かな, 𝔘𝔫𝔦𝔠𝔬𝔡𝔢, and a smile ")
    # In two halves, as real models send it when a token ends inside a character.
    yield Text("\ud83d")
    yield Text("\ude00")
    yield Text(".")


def _long_text() -> str:
    sentences = [
        f"This is sentence {number} of a long answer, written so that there is time to close the window, "
        "come back, and find that nothing was lost."
        for number in range(1, 25)
    ]
    return "\n\n" + " ".join(sentences)


def _pieces(text: str, kind: type[Text] | type[Reasoning] = Text) -> Iterator[Chunk]:
    """The text a word at a time, whitespace in front."""
    end = 0
    for match in _PIECE.finditer(text):
        yield kind(match.group())
        end = match.end()
    if end < len(text):
        yield kind(text[end:])


def _text_of(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(str(part.get("text", "")) for part in content or () if isinstance(part, dict))


def fingerprint(messages: Sequence[dict[str, Any]]) -> str:
    """The same for the same prompt."""
    return hashlib.sha256(repr(messages).encode("utf-8", "surrogatepass")).hexdigest()
