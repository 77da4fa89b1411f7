"""A frame is what the library would make of the same message."""

from __future__ import annotations

import pytest
from websockets.frames import Frame, Opcode

from turnwire_protocol import JSON, MSGPACK, Codec
from turnwire_server.transport.framing import websocket_frame


@pytest.mark.parametrize("length", [0, 1, 125, 126, 65_535, 65_536])
@pytest.mark.parametrize("codec", [JSON, MSGPACK], ids=lambda codec: codec.name)
def test_it_is_the_librarys(codec: Codec, length: int) -> None:
    message = b"x" * length
    kind = Opcode.BINARY if codec.binary else Opcode.TEXT
    assert websocket_frame(codec, message) == Frame(kind, message).serialize(mask=False)
