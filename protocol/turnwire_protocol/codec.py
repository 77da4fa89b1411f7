"""The two encodings of a frame: JSON text and MessagePack binary (SPEC section 1).

Decoding never raises: a frame is a list of messages, and whatever cannot be read stands in the list as the
`FrameError` to answer with, so one bad message does not cost its neighbours. Both encodings are held to the
same rules (integers within ±(2^53−1), finite floats, string keys, nesting, no binary values), so that a
message means the same in either. What the messages say is not looked at.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import is_dataclass
from typing import Any, Final

import msgpack  # type: ignore[import-untyped]
import orjson

from turnwire_protocol.commands import ref_of
from turnwire_protocol.entry import Entry
from turnwire_protocol.exceptions import FrameError
from turnwire_protocol.fields import MAX_SAFE_INTEGER
from turnwire_protocol.model import to_wire

MAX_NESTING: Final = 32
SUBPROTOCOLS: Final = ("turnwire.v1.json", "turnwire.v1.msgpack")


class _Refused(Exception):
    """A value that the wire does not carry."""


class _HugeInteger:
    """Stands for an integer literal that a reader with 64-bit floats would change."""


_HUGE_INTEGER = _HugeInteger()


def _check(value: Any, depth: int) -> None:
    """Raises `_Refused` for what no codec may carry. The message itself is nesting level 1."""
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return
    if kind is int:
        if not -MAX_SAFE_INTEGER <= value <= MAX_SAFE_INTEGER:
            raise _Refused("an integer beyond ±(2^53−1)")
    elif kind is float:
        if not math.isfinite(value):
            raise _Refused("a number that is not finite")
    elif kind is dict or kind is list:
        if depth > MAX_NESTING:
            raise _Refused(f"nesting deeper than {MAX_NESTING}")
        if kind is dict:
            for key, item in value.items():
                if type(key) is not str:
                    raise _Refused("a key that is not a string")
                _check(item, depth + 1)
        else:
            for item in value:
                _check(item, depth + 1)
    elif kind is _HugeInteger:
        raise _Refused("an integer beyond ±(2^53−1)")
    else:
        raise _Refused("a binary or extension value")


def _has_huge_float(value: Any) -> bool:
    if type(value) is float:
        return abs(value) > MAX_SAFE_INTEGER
    if type(value) is dict:
        return any(map(_has_huge_float, value.values()))
    return type(value) is list and any(map(_has_huge_float, value))


def _exact_integer(digits: str) -> int | _HugeInteger:
    # 17 characters are a sign and 16 digits; longer ones are never turned into a number at all.
    if len(digits) > 17 or abs(int(digits)) > MAX_SAFE_INTEGER:
        return _HUGE_INTEGER
    return int(digits)


class Codec:
    """One encoding of frames. Use the two instances `JSON` and `MSGPACK`."""

    name: str
    binary: bool

    def decode(self, data: str | bytes) -> list[dict[str, Any] | FrameError]:
        """The messages of one frame, in order; what cannot be read stands there as its `FrameError`."""
        try:
            frame = self._load(data)
        except FrameError as error:
            return [error]
        return [self._read(item) for item in frame] if type(frame) is list else [self._read(frame)]

    def encode(self, message: Any) -> bytes:
        """One message: an event (fields that are None are left out) or a dict (taken as it is)."""
        return self._dump(to_wire(message) if is_dataclass(message) else message)

    def encode_entry(self, entry: Entry, from_seq: int | None = None) -> bytes:
        """One entry of a log; `from_seq` overrules the entry's own first seq."""
        raise NotImplementedError

    def join(self, messages: Sequence[bytes]) -> bytes:
        """One frame of encoded messages: a single one is itself, several are an array."""
        raise NotImplementedError

    def _load(self, data: str | bytes) -> Any:
        raise NotImplementedError

    def _dump(self, value: Any) -> bytes:
        raise NotImplementedError

    def _read(self, item: Any) -> dict[str, Any] | FrameError:
        if type(item) is not dict:
            return FrameError("expected an object")
        try:
            _check(item, 1)
        except _Refused as refused:
            return FrameError(str(refused), ref=ref_of(item))
        return item

    def __repr__(self) -> str:
        return f"<Codec {self.name}>"


class _JsonCodec(Codec):
    name = SUBPROTOCOLS[0]
    binary = False

    def _load(self, data: str | bytes) -> Any:
        if not isinstance(data, str):
            raise FrameError("expected a text frame")
        try:
            frame = orjson.loads(data)
            # orjson gives a float for an integer beyond 64 bits. Only when there is a float that large does
            # the text have to be read again, slowly, to tell an integer from a float.
            if _has_huge_float(frame):
                frame = json.loads(data, parse_int=_exact_integer)
        except RecursionError:
            raise FrameError(f"nesting deeper than {MAX_NESTING}") from None
        except ValueError:
            raise FrameError("not JSON") from None
        return frame

    def _dump(self, value: Any) -> bytes:
        return orjson.dumps(value)

    def encode_entry(self, entry: Entry, from_seq: int | None = None) -> bytes:
        first = entry.from_seq if from_seq is None else from_seq
        if first is None or first == entry.seq:
            return b'{"seq":%d,"ts":%d,' % (entry.seq, entry.ts) + entry.body[1:]
        return b'{"seq":%d,"ts":%d,"from_seq":%d,' % (entry.seq, entry.ts, first) + entry.body[1:]

    def join(self, messages: Sequence[bytes]) -> bytes:
        return messages[0] if len(messages) == 1 else b"[" + b",".join(messages) + b"]"


class _MsgpackCodec(Codec):
    name = SUBPROTOCOLS[1]
    binary = True

    def _load(self, data: str | bytes) -> Any:
        if isinstance(data, str):
            raise FrameError("expected a binary frame")
        try:
            # Keys that are not strings are refused per message by `_check`; extension values come out as
            # `ExtType` or `Timestamp` and are refused there, too.
            return msgpack.unpackb(data, raw=False, strict_map_key=False)
        except (ValueError, TypeError, OverflowError, msgpack.UnpackException):
            raise FrameError("not MessagePack") from None

    def _dump(self, value: Any) -> bytes:
        packed: bytes = msgpack.packb(value)
        return packed

    def encode_entry(self, entry: Entry, from_seq: int | None = None) -> bytes:
        fields = entry.fields()
        first = entry.from_seq if from_seq is None else from_seq
        if first is not None and first != entry.seq:
            fields["from_seq"] = first
        return self._dump(fields)

    def join(self, messages: Sequence[bytes]) -> bytes:
        if len(messages) == 1:
            return messages[0]
        head: bytes = msgpack.Packer().pack_array_header(len(messages))
        return head + b"".join(messages)


JSON: Final[Codec] = _JsonCodec()
MSGPACK: Final[Codec] = _MsgpackCodec()
_CODECS = {codec.name: codec for codec in (JSON, MSGPACK)}


def codec_for(subprotocol: str | None) -> Codec:
    """The codec of a negotiated subprotocol; a client that offered none gets JSON."""
    return JSON if subprotocol is None else _CODECS[subprotocol]
