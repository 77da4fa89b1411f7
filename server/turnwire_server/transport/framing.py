"""A message as one WebSocket frame, made once for all who get it (RFC 6455, 5.2).

The library would make it anew for every connection, and go through six functions for each; without extensions and
masks, which a server's frames do not have, there is nothing in it that depends on the connection. Everything else of
the protocol (control frames, closing, what comes in) is the library's.
"""

from __future__ import annotations

import struct

from turnwire_protocol import Codec

_TEXT, _BINARY = 0x81, 0x82  # with FIN: messages are never fragmented
_LONG = struct.Struct("!BBH").pack
_LONGER = struct.Struct("!BBQ").pack


def websocket_frame(codec: Codec, message: bytes) -> bytes:
    """``message`` in a frame of the kind that ``codec`` goes in."""
    head = _BINARY if codec.binary else _TEXT
    length = len(message)
    if length < 126:
        return bytes((head, length)) + message
    return (_LONG(head, 126, length) if length < 65_536 else _LONGER(head, 127, length)) + message
