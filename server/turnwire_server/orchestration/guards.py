"""Guards: what may not be said, by the user to the model or by the model to the user.

A guard finds places in a text. What happens then is the administrator's choice: the turn is refused, or what was found
is blotted out. A guard that fails itself refuses: nothing passes because of its fault. Guards are built once, at the
start; looking does no I/O.
"""

from __future__ import annotations

import importlib
import logging
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from turnwire_server.settings import GuardSettings, SettingsError
from turnwire_server.settings.faults import Fault

logger = logging.getLogger(__name__)

Place = Literal["input", "output", "tools"]
Span = tuple[int, int]
Look = Callable[[str], Iterable[Span]]
"""Where in a text something is that may not be there: begin and end, as Python counts characters."""

BLOT = "[removed]"

# Of what languages are told by: fewer letters tell nothing, and a smaller lead (log of a probability) may be chance.
_LEAST_LETTERS = 20
_SURE = 10.0

_SECRETS = (
    r"\bsk-(?:[A-Za-z]+-)?[A-Za-z0-9_-]{20,}",  # OpenAI and those who took over its form
    r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",  # Amazon
    r"\bgh[pousr]_[A-Za-z0-9]{36,}\b",  # GitHub
    r"\bxox[abprs]-[A-Za-z0-9-]{10,}",  # Slack
    r"\bAIza[A-Za-z0-9_-]{35}\b",  # Google
    r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}",  # a JSON Web Token
    r"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----[\s\S]*?(?:-----END (?:[A-Z]+ )?PRIVATE KEY-----|\Z)",
)
# What prompt injections begin with, in English: a sign, not a proof.
_INJECTION = (
    r"\b(?:ignore|disregard|forget|override)\b[^.\n]{0,40}\b(?:previous|prior|above|earlier|all|your|the system)\b"
    r"[^.\n]{0,40}\b(?:instructions?|prompts?|rules?|messages?)\b",
    r"\b(?:reveal|print|repeat|show)\b[^.\n]{0,40}\b(?:system prompt|hidden instructions?|initial instructions?)\b",
    r"<\|?(?:im_start|im_end|system|endoftext)\|?>",
    r"(?m)^\s*(?:#+\s*)?(?:system|assistant)\s*:\s",
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What guards say of a text. ``text`` is what may pass; ``refused_by`` names the guard that lets nothing pass,
    ``blotted_by`` those that have taken something out."""

    text: str
    refused_by: str | None = None
    blotted_by: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Guard:
    """One guard, ready to look."""

    name: str
    on: frozenset[str]
    action: Literal["refuse", "redact"]
    look: Look


class Guards:
    """All guards of the configuration, by name."""

    def __init__(self, guards: Iterable[Guard]) -> None:
        self._guards = {guard.name: guard for guard in guards}

    @classmethod
    def load(cls, settings: Sequence[GuardSettings]) -> Guards:
        """Imports what plug-ins name. Raises `SettingsError` with every fault found."""
        faults: list[Fault] = []
        guards = []
        for index, guard in enumerate(settings):
            try:
                guards.append(Guard(guard.name, frozenset(guard.on), guard.action, _look_of(guard)))
            except (ImportError, AttributeError, TypeError) as error:
                key, value = ("python", guard.python) if guard.kind == "python" else ("kind", guard.kind)
                faults.append(Fault(f"guards.{index}.{key}", value, f"cannot be used: {error}"))
        if faults:
            raise SettingsError(faults)
        return cls(guards)

    def are_any(self, names: Sequence[str], on: Place) -> bool:
        """Whether any of these looks there."""
        return any(on in self._guards[name].on for name in names)

    def cleaned(self, names: Sequence[str], text: str) -> str:
        """A text of what was said and returned earlier, without what these guards find in words of users or in output
        of tools."""
        for place in ("input", "tools"):
            verdict = self.judge(names, place, text)
            if verdict.refused_by is not None:
                return BLOT
            text = verdict.text
        return text

    def judge(self, names: Sequence[str], on: Place, text: str) -> Verdict:
        """What these guards say of a text, one after the other."""
        blotted = []
        for name in names:
            guard = self._guards[name]
            if on not in guard.on:
                continue
            try:
                spans = _merged(guard.look(text), len(text))
            except Exception:
                logger.exception("guard %s failed: what it looked at is refused", name)
                return Verdict("", refused_by=name)
            if not spans:
                continue
            if guard.action == "refuse":
                return Verdict("", refused_by=name)
            text = _without(text, spans)
            blotted.append(name)
        return Verdict(text, blotted_by=tuple(blotted))


def _look_of(guard: GuardSettings) -> Look:
    match guard.kind:
        case "length":
            most = guard.max_chars or 0
            return lambda text: [(most, len(text))] if len(text) > most else []
        case "secrets":
            return _finding(_SECRETS)
        case "injection":
            return _finding(_INJECTION)
        case "pattern":
            return _finding(guard.patterns)
        case "language":
            return _foreign(guard.languages)
        case "python":
            module, _, name = (guard.python or "").partition(":")
            look = getattr(importlib.import_module(module), name)
            if not callable(look):
                raise TypeError(f"{guard.python} is no function")
            found: Look = look
            return found


def _finding(patterns: Iterable[str]) -> Look:
    compiled = [re.compile(pattern, re.IGNORECASE) for pattern in patterns]
    return lambda text: [match.span() for pattern in compiled for match in pattern.finditer(text)]


def _foreign(languages: Sequence[str]) -> Look:
    # Imported here: the model takes a second and 70 MB, and few want it.
    rank: Callable[[str], list[tuple[str, float]]] = importlib.import_module("py3langid").rank
    known = {name for name, _ in rank("")}
    if unknown := set(languages) - known:
        raise TypeError(f"no such language: {', '.join(sorted(unknown))}")

    def look(text: str) -> list[Span]:
        if sum(map(str.isalpha, text)) < _LEAST_LETTERS:
            return []
        ranked = dict(rank(text))
        wanted = max(ranked[name] for name in languages)
        return [(0, len(text))] if max(ranked.values()) - wanted > _SURE else []

    return look


def _merged(spans: Iterable[Span], length: int) -> list[Span]:
    """In order, without overlaps, within the text."""
    merged: list[Span] = []
    for begin, end in sorted((max(begin, 0), min(end, length)) for begin, end in spans):
        if begin >= end:
            continue
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((begin, end))
    return merged


def _without(text: str, spans: Sequence[Span]) -> str:
    out, at = [], 0
    for begin, end in spans:
        out += [text[at:begin], BLOT]
        at = end
    return "".join([*out, text[at:]])
