"""What the events of one stream have in common, so that most tokens need not be parsed.

Most servers send a stream's events with the same words around each piece of text: same id, model and fingerprint, same
nulls. Once they are known, an event that has them around a plain JSON string can say nothing else than that string.
What has them not, or holds an escape, is parsed as ever. Pure.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable

import orjson

from turnwire_server.gateway.sse import BOM

_NAMES = (b'"content":', b'"content": ')
_TRIES = 8


class ChatTemplate:
    """Of one stream. `text_of` is asked first; what it does not know is parsed, and may be learned from."""

    __slots__ = ("_prefix", "_suffix", "_tries")

    def __init__(self) -> None:
        self._prefix = b""
        self._suffix = b""
        self._tries = 0

    def text_of(self, data: bytes) -> str | None:
        """The text of the one event that ``data`` is; None when that is not certain."""
        prefix, suffix = self._prefix, self._suffix
        if not prefix or not data.startswith(prefix) or not data.endswith(suffix):
            return None
        middle = data[len(prefix) : -len(suffix)]
        if b'"' in middle or b"\\" in middle:
            return None
        try:
            text = middle.decode()
        except UnicodeDecodeError:
            return None
        # Control characters are no JSON; what else is not printable is rare.
        return text if text and text.isprintable() else None

    def learn(self, data: bytes, text: str, parse: Callable[[bytes], str | None]) -> None:
        """``data`` was one event, which said ``text``. ``parse`` is asked whether what stands around it will do."""
        if self._tries >= _TRIES:
            return  # each event of this server is different
        self._tries += 1
        if data.startswith(BOM):
            return  # which is one at the beginning of a stream only
        try:
            literal = orjson.dumps(text)
        except orjson.JSONEncodeError:  # half a surrogate pair
            return
        for name in _NAMES:
            before, found, after = data.partition(name + literal)
            prefix, suffix = before + name + b'"', b'"' + after
            probe = secrets.token_hex(8)
            if found and after and parse(prefix + probe.encode() + suffix) == probe:
                self._prefix, self._suffix = prefix, suffix
                return
