"""Takes secrets out of text that is about to be logged. Pure, but for the secrets that are learned on the way.

Two nets: the secrets this process knows are removed by value, those of others (clients' tokens, keys in a
provider's error text) by their looks. The second net is wide on purpose: a word too many that is hidden
costs a question, a token that is shown costs an account.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

HIDDEN = "[hidden]"
_SHORTEST = 8
"""Known secrets shorter than this are not searched for: they would hide ordinary words."""

_PATTERNS = (
    # The rest of an Authorization header, whatever the token looks like.
    (re.compile(r"\b(bearer|basic)(\s+)[^\s\"',;]+", re.IGNORECASE), rf"\1\2{HIDDEN}"),
    # A JWT: base64url of a JSON object, a dot, the claims, a dot, perhaps a signature.
    (re.compile(r"\be[wy][A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]*"), HIDDEN),
    # Keys as model providers give them out: sk-…, sk_live_…, gsk_…, xai-…, hf_…, AIza….
    (re.compile(r"\b(sk|pk|rk|gsk|xai|hf|key)[-_][A-Za-z0-9_-]{12,}"), HIDDEN),
    (re.compile(r"\bAIza[A-Za-z0-9_-]{20,}"), HIDDEN),
    # name=value, name: value, "name": "value".
    (
        re.compile(
            r"\b((?:[a-z0-9]+[_-])*(?:api[_-]?key|secret|password|token|authorization))(\\?[\"']?\s*[:=]\s*\\?[\"']?)"
            rf"(?!\[hidden\])[^\s\"',;&}}\\]{{{_SHORTEST},}}",
            re.IGNORECASE,
        ),
        rf"\1\2{HIDDEN}",
    ),
    # scheme://user:password@host
    (re.compile(r"(\w://)[^/@\s]+@"), rf"\1{HIDDEN}@"),
)


_MOST_LEARNED = 256
_learned: dict[str, None] = {}


def learn(secret: str) -> None:
    """Hide this as well from now on, in all redactors of the process: a key that was renewed while it runs. Of very
    many the newest are kept."""
    if len(secret) >= _SHORTEST:
        _learned.pop(secret, None)
        _learned[secret] = None
        if len(_learned) > _MOST_LEARNED:
            del _learned[next(iter(_learned))]


def hide_learned(text: str, instead: str = HIDDEN) -> str:
    """The text without any secret that was learned."""
    for secret in tuple(_learned):
        text = text.replace(secret, instead)
    return text


def redactor(secrets: Iterable[str] = ()) -> Callable[[str], str]:
    """A function that hides `secrets` and whatever looks like one in a text."""
    known = sorted({secret for secret in secrets if len(secret) >= _SHORTEST}, key=len, reverse=True)
    by_value = re.compile("|".join(map(re.escape, known))) if known else None

    def redact(text: str) -> str:
        if by_value is not None:
            text = by_value.sub(HIDDEN, text)
        text = hide_learned(text)
        for pattern, replacement in _PATTERNS:
            text = pattern.sub(replacement, text)
        return text

    return redact
