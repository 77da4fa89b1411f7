"""What may not be in a stored or exported span: secrets always, and what a tenant wants hidden besides. Pure.

A tenant names detectors, or gives regular expressions of its own as ``re:…``. Every text of a span goes through, names
and events too; ids that the client itself is given as addresses (request, conversation) pass the tenant's detectors,
or nothing could be found again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache

from turnwire_server.telemetry.redact import HIDDEN
from turnwire_server.telemetry.tracing.spans import RunTrace, SpanEvent, Value

Redact = Callable[[str], str]

OWN = "re:"
MOST_TEXT = 4096
"""Characters of one text in a span; the rest is cut before anything is looked for in it."""
_ADDRESSES = frozenset({"turnwire.request_id", "gen_ai.conversation.id"})
_FIXED = frozenset(
    {
        "gen_ai.operation.name",
        "gen_ai.provider.name",
        "gen_ai.tool.type",
        "turnwire.outcome",
        "turnwire.tool_where",
        "turnwire.usage_source",
    }
)
"""Attributes whose values are words of ours, a third of all texts: there is nothing to look for in them."""

_EMAIL = re.compile(r"[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){1,8}")
# With a plus, a leading zero or an area code in brackets: else every long number would be one.
_PHONE = re.compile(r"(?<![\w+])(?:\+\d|\(0?\d{1,4}\)|0\d)[\d ()./-]{6,18}\d(?!\w)")
_CARD = re.compile(r"(?<!\d)\d(?:[ -]?\d){12,18}(?!\d)")
_IP = re.compile(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.])")
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b")


def _is_card(digits: str) -> bool:
    """Luhn's check, by which a card's number differs from any other."""
    numbers = [int(digit) for digit in reversed(digits) if digit.isdigit()]
    doubled = [number * 2 - 9 * (number > 4) for number in numbers[1::2]]
    return (sum(numbers[::2]) + sum(doubled)) % 10 == 0


def _hide(pattern: re.Pattern[str]) -> Redact:
    return lambda text: pattern.sub(HIDDEN, text)


DETECTORS: dict[str, Redact] = {
    "email": _hide(_EMAIL),
    "phone": _hide(_PHONE),
    "card": lambda text: _CARD.sub(lambda found: HIDDEN if _is_card(found[0]) else found[0], text),
    "ip": _hide(_IP),
    "iban": _hide(_IBAN),
}
"""By the names that a tenant's ``redact`` may have. Keys and tokens are hidden for everybody."""


def check(entry: str) -> str | None:
    """What is wrong with an entry of ``redact``; None when it can be used."""
    if not entry.startswith(OWN):
        return None if entry in DETECTORS else f"must be one of {', '.join(DETECTORS)}, or begin with {OWN}"
    try:
        pattern = re.compile(entry.removeprefix(OWN))
    except re.error as error:
        return f"is not a regular expression: {error}"
    return "matches the empty text" if pattern.search("") else None


@lru_cache(maxsize=256)
def _detector(entries: tuple[str, ...]) -> Redact:
    chosen = [
        _hide(re.compile(entry.removeprefix(OWN))) if entry.startswith(OWN) else DETECTORS[entry] for entry in entries
    ]

    def redact(text: str) -> str:
        for one in chosen:
            text = one(text)
        return text

    return redact


def redact_trace(trace: RunTrace, secrets: Redact) -> None:
    """Take out of every text of the trace what may not be there. ``secrets`` hides what is hidden for everybody."""
    detect = _detector(trace.detectors)

    def clean(text: str) -> str:
        if len(text) > MOST_TEXT:
            text = f"{text[:MOST_TEXT]}…"
        # A lone surrogate has no UTF-8, and would cost the whole trace.
        return detect(secrets(text)).encode("utf-8", "replace").decode()

    def cleaned(name: str, value: Value) -> Value:
        match value:
            case str() if name in _FIXED:
                return value
            case str():
                return secrets(value) if name in _ADDRESSES else clean(value)
            case list():
                return [clean(entry) for entry in value]
            case _:
                return value

    for span in trace.spans:
        span.name = clean(span.name)
        span.error = None if span.error is None else clean(span.error)
        span.attributes = {name: cleaned(name, value) for name, value in span.attributes.items()}
        span.events = [
            SpanEvent(event.at, event.name, {name: cleaned(name, value) for name, value in event.attributes.items()})
            for event in span.events
        ]


def tenant_detectors(kept: Sequence[str] | None) -> tuple[str, ...]:
    """Those of a turn's stored configuration. One that this version does not know (a node of another version took the
    request) hides nothing here, so whoever adds a detector rolls the nodes out first."""
    return tuple(entry for entry in kept or () if check(entry) is None)
