"""What can go wrong in this package, named by who is to blame.

`LocalProtocolError`: the program above misused the package. `RemoteProtocolError`: the peer broke the
protocol. `CommandError` is the one exception that becomes a wire `error`; whoever raises it decides the code,
whoever sits at the top of a command (the dispatcher) turns it into the message.
"""

from __future__ import annotations

from typing import Any

from turnwire_protocol.codes import ErrorCode


class ProtocolError(Exception):
    """Base of all errors of this package."""


class LocalProtocolError(ProtocolError):
    """We did something that the protocol does not allow at this point."""


class RemoteProtocolError(ProtocolError):
    """The peer sent something that the protocol does not allow."""


class FrameError(RemoteProtocolError):
    """A frame, or one message of it, that cannot be read. Handed over as a value, see `Codec.decode`."""

    code = ErrorCode.BAD_FRAME

    def __init__(self, message: str, *, ref: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.ref = ref


class FoldError(RemoteProtocolError):
    """An event does not fit what has been folded so far: open the conversation again without `since`."""


class OffsetMismatch(FoldError):
    """A delta does not begin where its part ends."""


class SequenceGap(FoldError):
    """A frame leaves out a seq between the cursor and its own end."""


class UnknownRequest(FoldError):
    """An event of a request whose `message.created` was never seen."""


class CommandError(ProtocolError):
    """Becomes exactly one wire `error` (SPEC section 8)."""

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        *,
        ref: str | None = None,
        request_id: str | None = None,
        retryable: bool | None = None,
        retry_after_ms: int | None = None,
        details: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.ref = ref
        self.request_id = request_id
        self.retryable = code.retryable if retryable is None else retryable
        self.retry_after_ms = retry_after_ms
        self.details = details
