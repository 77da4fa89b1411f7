"""One connection of a client, without a socket and without a clock (SPEC sections 1, 2 and 8).

Frames and the time go in; commands to carry out and errors to answer with come out, in the order of the
frame, so that answers keep the order of their commands. It knows who may speak and how much; it does not know
tokens, conversations or how an event reaches a follower. Above it is the session, which must, after every
call: carry out or send what came back, then, if `close` is set, close the socket with it; and call
`handle_timer` when the time that `next_timer` gives has come.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from turnwire_protocol.codec import Codec
from turnwire_protocol.codes import CloseCode, ErrorCode
from turnwire_protocol.commands import (
    AnyCommand,
    ContextSet,
    ConversationOpen,
    Hello,
    PresenceSet,
    bad_command,
    parse_command,
    ref_of,
)
from turnwire_protocol.events import ErrorMessage
from turnwire_protocol.exceptions import CommandError, FrameError, RemoteProtocolError
from turnwire_protocol.fields import is_id
from turnwire_protocol.limits import ErrorWindow, TokenBucket, WireLimits
from turnwire_protocol.request_commands import NewRequest, RequestCreate, ToolApprove
from turnwire_protocol.transitions import Signal, State, next_state
from turnwire_protocol.utf16 import utf16_len

# WebSocket's own code for a message that is too big (RFC 6455 section 7.4.1).
MESSAGE_TOO_BIG = 1009
HEARTBEATS_MISSED = 2.5
_SIGNALS = {"hello": Signal.HELLO, "auth.refresh": Signal.REFRESH, "ping": Signal.PING}
# Never rate limited: whoever wants to stop something or to stay must always be heard.
UNLIMITED = frozenset({"hello", "auth.refresh", "ping", "request.cancel", "request.interrupt"})


@dataclass(frozen=True, slots=True)
class Close:
    """How the socket is to be closed, once what was answered has been sent."""

    code: int
    reason: str


class Wire:
    """The server's side of one connection. `now` and `expires_at` are seconds of one clock, any clock."""

    __slots__ = (
        "_bucket",
        "_errors",
        "_expires_at",
        "_heard_at",
        "_opened_at",
        "close",
        "codec",
        "limits",
        "state",
    )

    def __init__(self, codec: Codec, limits: WireLimits, now: float) -> None:
        self.codec = codec
        self.limits = limits
        self.state = State.OPENING
        self.close: Close | None = None
        self._opened_at = now
        self._heard_at = now
        self._expires_at: float | None = None
        self._bucket = TokenBucket(limits.commands_per_s, now)
        self._errors = ErrorWindow(limits.errors_per_minute)

    # --- what comes in -----------------------------------------------------------------------------------

    def receive_frame(self, data: str | bytes, now: float) -> list[AnyCommand | ErrorMessage]:
        """The commands of a frame and the errors to answer with, in order.

        Once the state is CLOSING nothing more is read: what remained of the frame is dropped. Commands
        behind a `hello` must be carried out after it, and dropped when it is refused.
        """
        if self.state in (State.CLOSING, State.CLOSED):
            return []
        self._heard_at = now
        self._check_expiry(now)
        if len(data) > self.limits.frame_bytes:
            self._shut(MESSAGE_TOO_BIG, "message too big")
            return []
        out: list[AnyCommand | ErrorMessage] = []
        for message in self.codec.decode(data):
            try:
                out.append(self._receive(message, now))
            except CommandError as error:
                out.append(ErrorMessage.of(error))
                self.count_error(now)
            if self.close is not None:
                break
        return out

    def _receive(self, message: dict[str, Any] | FrameError, now: float) -> AnyCommand:
        if isinstance(message, FrameError):
            raise CommandError(ErrorCode.BAD_FRAME, message.message, ref=message.ref)
        kind = message.get("type")
        if not isinstance(kind, str):
            raise bad_command(message, "type: expected a string")
        self._admit(kind, message)
        if kind not in UNLIMITED:
            wait_ms = self._bucket.take(now)
            if wait_ms is not None:
                raise _error(message, ErrorCode.RATE_LIMITED, "too many commands", retry_after_ms=wait_ms)
        command = parse_command(message)
        self._check_size(command, message)
        if isinstance(command, Hello):
            # Only a hello that can be read ends the opening: a client may correct itself.
            self.state = next_state(self.state, Signal.HELLO)
        return command

    def _admit(self, kind: str, message: dict[str, Any]) -> None:
        """May this be said now? Refusing a hello, or anything before it, ends the connection."""
        try:
            next_state(self.state, _SIGNALS.get(kind, Signal.COMMAND))
        except RemoteProtocolError:
            if self.state is State.OPENING:
                self.close_with(CloseCode.UNAUTHENTICATED)
                raise _error(message, ErrorCode.UNAUTHENTICATED, "hello comes first") from None
            if kind == "hello":
                self.close_with(CloseCode.PROTOCOL_VIOLATION)
                raise bad_command(message, "hello was said before") from None
            raise _error(message, ErrorCode.UNAUTHENTICATED, "the token has expired") from None

    def _check_size(self, command: AnyCommand, message: dict[str, Any]) -> None:
        for what, size, limit in self._sizes(command, message):
            if size > limit:
                details = {"size": size, "limit": limit}
                raise _error(message, ErrorCode.TOO_LARGE, f"{what}: at most {limit}", details=details)

    def _sizes(self, command: AnyCommand, message: dict[str, Any]) -> Iterator[tuple[str, int, int]]:
        limits = self.limits
        if isinstance(command, Hello):
            yield "resume", len(command.resume), limits.resume_entries
        if isinstance(command, RequestCreate):
            yield "input", _input_chars(command), limits.input_chars
        if isinstance(command, NewRequest | ConversationOpen) and command.metadata is not None:
            yield "metadata", _bytes(command.metadata), limits.metadata_bytes
        match command:
            case NewRequest():
                yield "tools", _bytes(message.get("tools")), limits.tools_bytes
                yield "context", _bytes(command.context), limits.context_bytes
                yield "variables", _bytes(command.variables), limits.context_bytes
            case ToolApprove():
                yield "arguments", _bytes(command.arguments), limits.context_bytes
            case PresenceSet():
                yield "state", _bytes(command.state), limits.presence_bytes
            case ContextSet():
                yield "value", _bytes(command.value), limits.context_bytes

    # --- what was decided above --------------------------------------------------------------------------

    def welcomed(self, expires_at: float | None, now: float) -> None:
        """The hello was accepted and `welcome` is being sent."""
        self._renew(Signal.WELCOMED, expires_at, now)

    def refreshed(self, expires_at: float | None, now: float) -> None:
        """An `auth.refresh` was accepted."""
        self._renew(Signal.REFRESHED, expires_at, now)

    def count_error(self, now: float) -> None:
        """Counts an error that was answered. Call it for those made above; those made here are counted."""
        if self._errors.add(now):
            self.close_with(CloseCode.TOO_MANY_ERRORS)

    def close_with(self, code: CloseCode, reason: str | None = None) -> None:
        """Decides the close; the first decision stands."""
        self._shut(int(code), reason or code.reason)

    def closed(self) -> None:
        """The socket is gone."""
        self.state = next_state(self.state, Signal.CLOSED)

    # --- time --------------------------------------------------------------------------------------------

    def next_timer(self) -> float | None:
        """When `handle_timer` is to be called next; ask again after every call of any method."""
        match self.state:
            case State.OPENING:
                return self._opened_at + self.limits.hello_timeout_s
            case State.AUTHENTICATING:
                return self._silent_until
            case State.OPEN if self._expires_at is not None:
                return min(self._silent_until, self._expires_at)
            case State.OPEN:
                return self._silent_until
            case State.EXPIRED:
                return min(self._silent_until, self._grace_until)
        return None

    def handle_timer(self, now: float) -> None:
        """Does what is due by `now`; being called too early does nothing."""
        if self.state is State.OPENING:
            if now >= self._opened_at + self.limits.hello_timeout_s:
                self.close_with(CloseCode.NO_HELLO)
            return
        self._check_expiry(now)
        if self.state is State.EXPIRED and now >= self._grace_until:
            self.close_with(CloseCode.TOKEN_EXPIRED)
        elif self.state in (State.AUTHENTICATING, State.OPEN, State.EXPIRED) and now >= self._silent_until:
            self.close_with(CloseCode.NO_HEARTBEAT)

    @property
    def _silent_until(self) -> float:
        return self._heard_at + HEARTBEATS_MISSED * self.limits.heartbeat_s

    @property
    def _grace_until(self) -> float:
        assert self._expires_at is not None  # EXPIRED is only entered from `_check_expiry`
        return self._expires_at + self.limits.auth_grace_s

    def _check_expiry(self, now: float) -> None:
        if self.state is State.OPEN and self._expires_at is not None and now >= self._expires_at:
            self.state = next_state(self.state, Signal.EXPIRED)

    def _renew(self, signal: Signal, expires_at: float | None, now: float) -> None:
        self.state = next_state(self.state, signal)
        self._expires_at = expires_at
        self._check_expiry(now)

    def _shut(self, code: int, reason: str) -> None:
        self.state = next_state(self.state, Signal.CLOSE)
        if self.close is None:
            self.close = Close(code, reason)


def _bytes(value: Any) -> int:
    """The size of somebody's own JSON."""
    return 0 if value is None else len(orjson.dumps(value))


def _input_chars(command: RequestCreate) -> int:
    if isinstance(command.input, str):
        return utf16_len(command.input)
    return sum(utf16_len(part.text) for part in command.input)


def _error(
    message: dict[str, Any],
    code: ErrorCode,
    text: str,
    *,
    retry_after_ms: int | None = None,
    details: dict[str, Any] | None = None,
) -> CommandError:
    """An error that says which command it answers."""
    request_id = message.get("request_id")
    return CommandError(
        code,
        text,
        ref=ref_of(message),
        request_id=request_id if is_id(request_id) else None,
        retry_after_ms=retry_after_ms,
        details=details,
    )
