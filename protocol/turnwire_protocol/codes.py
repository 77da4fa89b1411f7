"""Every number and word by which the server says that something went wrong (SPEC section 8).

One place for all of them: what it means, whether the same command may be sent again, whether the client may
come back. The JS client mirrors this file and a vector (`vectors/codes.json`) holds the two together.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum


class ErrorCode(StrEnum):
    """The `code` of an `error`."""

    BAD_FRAME = "bad_frame"
    BAD_COMMAND = "bad_command"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    IDEMPOTENCY_CONFLICT = "idempotency_conflict"
    ALREADY_SETTLED = "already_settled"
    STALE_VERSION = "stale_version"
    BUSY = "busy"
    INVALID_STATE = "invalid_state"
    TOO_LARGE = "too_large"
    RATE_LIMITED = "rate_limited"
    QUOTA_EXCEEDED = "quota_exceeded"
    OVERLOADED = "overloaded"
    UNAVAILABLE = "unavailable"
    INTERNAL = "internal"

    @property
    def retryable(self) -> bool:
        """May the same command, unchanged, succeed when it is sent again after a while?"""
        return self in _RETRYABLE


_RETRYABLE = frozenset(
    {
        ErrorCode.BUSY,
        ErrorCode.RATE_LIMITED,
        ErrorCode.OVERLOADED,
        ErrorCode.UNAVAILABLE,
        ErrorCode.INTERNAL,
    }
)


class CloseCode(IntEnum):
    """The codes with which the server closes a WebSocket.

    4000–4499: come back and resume. 4500–4999: not until something changes.
    """

    GOING_AWAY = 4000
    SLOW_CONSUMER = 4001
    NO_HEARTBEAT = 4003
    OVERLOADED = 4010
    TOKEN_EXPIRED = 4401
    PROTOCOL_VIOLATION = 4500
    UNAUTHENTICATED = 4501
    FORBIDDEN = 4503
    NO_HELLO = 4508
    TOO_MANY_ERRORS = 4509

    @property
    def reason(self) -> str:
        """The text of the close frame."""
        return _REASONS[self]

    @property
    def may_return(self) -> bool:
        """May the client connect again by itself?"""
        return self < 4500


_REASONS = {
    CloseCode.GOING_AWAY: "going away",
    CloseCode.SLOW_CONSUMER: "slow consumer",
    CloseCode.NO_HEARTBEAT: "no heartbeat",
    CloseCode.OVERLOADED: "overloaded or too many connections",
    CloseCode.TOKEN_EXPIRED: "token expired",
    CloseCode.PROTOCOL_VIOLATION: "protocol violation",
    CloseCode.UNAUTHENTICATED: "unauthenticated",
    CloseCode.FORBIDDEN: "forbidden",
    CloseCode.NO_HELLO: "no hello in time",
    CloseCode.TOO_MANY_ERRORS: "too many errors",
}
