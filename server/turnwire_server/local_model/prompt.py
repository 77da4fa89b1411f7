"""Chat messages as the token ids of a ChatML prompt that fits the model's context.

Pure: the tokenizer is handed in. What people write is tokenized as plain text, so that nobody can end their
message early by writing the model's own marks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face."
"""What this model was trained with; used when the conversation brings no system message."""

Tokenize = Callable[[str, bool], list[int]]
"""Text, and whether the model's special marks in it count as such."""

_ROLES = {"system": "system", "developer": "system", "assistant": "assistant"}


def prompt_for(messages: Sequence[dict[str, Any]], tokenize: Tokenize, max_tokens: int) -> list[int]:
    """The prompt, at most `max_tokens` long: older messages are left out first, then the beginning of the last."""
    turns = [(_ROLES.get(str(each.get("role")), "user"), text_of(each.get("content"))) for each in messages]
    if not turns or turns[0][0] != "system":
        turns.insert(0, ("system", SYSTEM))
    opening = tokenize("<|im_start|>assistant\n", True)
    left = max_tokens - len(opening)
    system = _turn(*turns[0], tokenize, left // 2)
    left -= len(system)
    kept: list[list[int]] = []
    for role, text in reversed(turns[1:]):
        ids = _turn(role, text, tokenize, left if not kept else None)
        if len(ids) > left:
            break
        kept.append(ids)
        left -= len(ids)
    return [token for ids in (system, *reversed(kept), opening) for token in ids]


def _turn(role: str, text: str, tokenize: Tokenize, limit: int | None) -> list[int]:
    before = tokenize(f"<|im_start|>{role}\n", True)
    after = tokenize("<|im_end|>\n", True)
    body = tokenize(text, False)
    if limit is not None:
        room = max(0, limit - len(before) - len(after))
        body = body[-room:] if room else []
    return [*before, *body, *after]


def text_of(content: Any) -> str:
    """The text of a message's content, which may be a str or a list of parts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    parts = (part.get("text") for part in content if isinstance(part, dict))
    return "".join(text for text in parts if isinstance(text, str))
