"""Positions in text as the wire counts them: in UTF-16 code units, like `String.length` in JavaScript.

Python counts code points, so the two differ exactly by the number of characters beyond U+FFFF. ASCII text,
by far the most frequent, is told apart in constant time.
"""

from __future__ import annotations


def utf16_len(text: str) -> int:
    """The length of `text` in UTF-16 code units."""
    if text.isascii():
        return len(text)
    # surrogatepass: whoever holds back half a pair may ask for its length meanwhile.
    return len(text.encode("utf-16-le", "surrogatepass")) >> 1


def utf16_cut(text: str, offset: int) -> str:
    """The first `offset` UTF-16 units of `text`; never half a pair (an offset inside one cuts before it)."""
    if offset <= 0:
        return ""
    if text.isascii():
        return text[:offset]
    raw = text.encode("utf-16-le", "surrogatepass")
    if offset * 2 >= len(raw):
        return text
    # The high byte of a leading surrogate is 0xD8–0xDB; ending on one would leave half a pair.
    if 0xD8 <= raw[offset * 2 - 1] <= 0xDB:
        offset -= 1
    return raw[: offset * 2].decode("utf-16-le", "surrogatepass")
