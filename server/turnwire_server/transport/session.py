"""The actor of one connection: reads its commands, follows conversations for it, writes what it is to see.

It runs in the connection's handler task, which reads; an idle session has no other task. Answers and ready frames are
written at once, into the socket's buffer as long as that has room. A session that fell behind gets one writer task,
which reads on from its places, merges, and waits for the socket; it ends when all places are caught up. Nothing that
must survive is kept here.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Sequence
from typing import Any

import anyio
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed
from websockets.protocol import State

from turnwire_protocol import (
    TERMINAL_TYPES,
    AnyCommand,
    CloseCode,
    Codec,
    CommandError,
    Cursor,
    Entry,
    ErrorCode,
    ErrorMessage,
    OutputTextSegment,
    RateLimitsUpdated,
    Segments,
    Wire,
    encode_frame,
)
from turnwire_server.archive.base import ArchiveUnavailable
from turnwire_server.auth import Principal
from turnwire_server.conversations.conversation import Conversation
from turnwire_server.conversations.quotas import Account
from turnwire_server.conversations.roles import SCOPE_OPERATE
from turnwire_server.eventlog.base import ConversationRef, LogUnavailable

from .dispatch import dispatch
from .follower import Place, Placed, judge
from .framing import websocket_frame
from .frontend import Frontend
from .speech import Speech

logger = logging.getLogger(__name__)

# Of so many requests, the newest, a connection remembers that it has stopped them.
_STOPPED_KEPT = 64
# Pause before a store that did not answer is asked again for a follower that fell behind.
_RETRY_S = 0.5


class Session:
    """Made for one connection; `run` returns when it has ended."""

    __slots__ = (
        "_by_server",
        "_closing",
        "_connection",
        "_lagging",
        "_stopped",
        "_writing",
        "admitted",
        "codec",
        "connection_id",
        "follows",
        "front",
        "header_token",
        "instance_id",
        "muted",
        "principal",
        "traceparent",
        "wire",
    )

    principal: Principal

    def __init__(self, front: Frontend, connection: ServerConnection, codec: Codec, header_token: str | None) -> None:
        self.front = front
        self.codec = codec
        self.connection_id = uuid.uuid4().hex[:16]
        self.header_token = header_token
        self.instance_id: str | None = None
        self.traceparent: str | None = None
        """That of `hello`, for requests without one of their own."""
        self.wire = Wire(codec, front.wire_limits, time.monotonic())
        self.admitted = False
        self.follows: dict[ConversationRef, Place] = {}
        self.muted: frozenset[str] = frozenset()
        self._connection = connection
        self._lagging: dict[Place, None] = {}
        self._stopped: tuple[str, ...] = ()
        self._writing = False
        self._closing = False
        self._by_server = False

    def __repr__(self) -> str:
        return f"<Session {self.connection_id} {self.wire.state.name} follows={len(self.follows)}>"

    # --- reading -----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve the connection until it is closed by either side."""
        self.front.sessions.add(self)
        self.front.wheel.add(self)
        try:
            await self._read()
        except ConnectionClosed:
            pass
        finally:
            self._ended()

    async def _read(self) -> None:
        async for data in self._connection:
            for item in self.wire.receive_frame(data, time.monotonic()):
                if isinstance(item, ErrorMessage):
                    self.send(item)
                else:
                    await self._carry_out(item)
                # After each, not after the frame: one frame may hold thousands of commands.
                await self._until_answers_are_read()
                if self.wire.close is not None:
                    break
            self.front.wheel.add(self)
            if self.wire.close is not None:
                await self._close()
                return

    async def _carry_out(self, command: AnyCommand) -> None:
        limits = self.front.settings.limits
        outcome = "ok"
        try:
            with anyio.fail_after(limits.command_timeout_s):
                await dispatch(self, command)
        except CommandError as error:
            outcome = error.code.value
            self._refuse(command, error)
        except (LogUnavailable, ArchiveUnavailable, TimeoutError) as error:
            outcome = ErrorCode.UNAVAILABLE.value
            logger.warning("%s was not carried out: %s", command.type, error or "it took too long")
            text = "the server's storage did not answer in time; send it again"
            self._refuse(command, CommandError(ErrorCode.UNAVAILABLE, text, retry_after_ms=1000))
        except ConnectionClosed:
            raise
        except Exception:
            outcome = ErrorCode.INTERNAL.value
            logger.exception("%s failed", command.type)
            self._refuse(command, CommandError(ErrorCode.INTERNAL, "the server failed; it has been logged"))
        self.front.services.metrics.commands_total.labels(command.type, outcome).inc()

    def _refuse(self, command: AnyCommand, error: CommandError) -> None:
        error.ref = error.ref or command.id
        error.request_id = error.request_id or getattr(command, "request_id", None)
        self.send(ErrorMessage.of(error))
        self.wire.count_error(time.monotonic())

    async def _until_answers_are_read(self) -> None:
        """A client that does not read its answers is no longer read from, and after a while closed."""
        if not self._is_full:
            return
        try:
            with anyio.fail_after(self.front.settings.limits.slow_consumer_s):
                await self._connection.drain()
        except TimeoutError:
            self._give_up()

    # --- writing -----------------------------------------------------------------------------------------

    def send(self, message: Any) -> None:
        """Write one message that is in no log: answers, errors, notices."""
        self._write(self.codec.encode(message))

    @property
    def is_operator(self) -> bool:
        """Whether it may operate the whole tenant, and see its money."""
        return SCOPE_OPERATE in self.principal.scopes

    def tell_limits(self, account: Account) -> None:
        """How the tenant stands, as far as it is this connection's business."""
        if limits := account.to_wire(with_money=self.is_operator):
            self.send(RateLimitsUpdated(limits=limits))

    def write_if_room(self, frame: bytes) -> bool:
        """Write a ready `websocket_frame` unless the socket's buffer is too full for it."""
        if self._writing or self._is_full:
            return False
        self._write_frame(frame)
        return True

    @property
    def _is_full(self) -> bool:
        return self._connection.transport.get_write_buffer_size() >= self.front.write_room

    def _write(self, message: bytes) -> None:
        self._write_frame(websocket_frame(self.codec, message))

    def _write_frame(self, frame: bytes) -> None:
        # The library writes nothing later than when it is told to, so nothing of its own can stand between.
        if self._connection.state is State.OPEN:
            self._connection.transport.write(frame)

    # --- following ---------------------------------------------------------------------------------------

    async def follow(
        self, conversation: Conversation, since: Cursor | None, begin: Cursor | None = None
    ) -> tuple[Place, Placed]:
        """Take a place in a conversation; nothing is sent for it until `release` is called with it.

        ``begin`` is where a new request's events start, for a client that does not follow yet and has no cursor.
        """
        ref = conversation.ref
        place = self.follows.get(ref)
        position = await self.front.services.log.position(ref)
        if place is not None and since is None and place.epoch == position.epoch:
            return place, Placed(position.epoch, position.seq, "live")
        if place is not None:
            begin = None  # in another epoch it does not know what is below
        else:
            if len(self.follows) >= self.front.settings.limits.follows_per_connection:
                raise CommandError(ErrorCode.TOO_LARGE, "this connection follows too many conversations; leave some")
            place = self.follows[ref] = Place(self, conversation)
            self.front.hub.follow(conversation, place)
            place.attends_from = conversation.attendance.changes
            self.front.services.metrics.followers.inc()
            # Registered first, then looked: what is appended in between is heard.
            try:
                position = await self.front.services.log.position(ref)
            except BaseException:
                # A repeat would find a place that the client was never told of, and call it `live`.
                self.stop_following(ref, by_server=True)
                raise
        place.held, place.live = True, False
        conversation.begin_tail(position.epoch, position.seq)
        placed = judge(since, position, self.front.settings.limits.replay_entries)
        place.epoch = placed.epoch
        if since is None and begin is not None and begin.epoch == position.epoch:
            place.seq = begin.seq
            return place, Placed(begin.epoch, begin.seq, "live")
        place.wants_snapshot = placed.verdict == "snapshot"
        place.seq = position.seq if since is None or place.wants_snapshot else since.seq
        return place, placed

    def release(self, place: Place) -> None:
        """The answer is written: the events may follow it."""
        if place.held:
            place.held = False
            self.wake(place)

    def ask_for_segments(self, place: Place, segments: Segments, request_id: str | None = None) -> None:
        """From what is sent next on, segments come behind it: of one request, or of all that have none of their own."""
        if place.speech is None:
            place.speech = Speech(place.conversation.ref.conversation_id)
        place.speech.ask(segments, request_id)
        place.live = False

    def stop_following(self, ref: ConversationRef, *, by_server: bool = False) -> None:
        """Leave a conversation. Not following it is no error."""
        place = self.follows.pop(ref, None)
        if place is not None:
            place.held = True
            self._lagging.pop(place, None)
            self.front.services.metrics.followers.dec()
            self.front.hub.unfollow(place.conversation, place, by_server=by_server)

    def mute(self, request_id: str) -> None:
        """No more deltas of this request: its cancel is about to be acknowledged here."""
        self.muted |= {request_id}

    # --- catching up -------------------------------------------------------------------------------------

    def wake(self, place: Place) -> None:
        """``place`` is behind: let the writer task bring it up."""
        self._lagging[place] = None
        if not self._writing and not self._closing:
            self._writing = True
            self.front.tasks.start_soon(self._catch_up, name=f"catch-up {self.connection_id}")

    async def _catch_up(self) -> None:
        try:
            while self._lagging and not self._closing:
                place = next(iter(self._lagging))
                del self._lagging[place]
                if not await self._advance(place):
                    self._lagging[place] = None  # to the end of the row: every place gets its turn
                with anyio.fail_after(self.front.settings.limits.slow_consumer_s):
                    await self._connection.drain()
        except TimeoutError:
            self._give_up()
        except ConnectionClosed:
            pass
        except Exception:
            logger.exception("%r could not catch up", self)
            self._close_soon(CloseCode.OVERLOADED)
        finally:
            self._writing = False

    async def _advance(self, place: Place) -> bool:
        """Write the next frame for a place; True once it is caught up."""
        try:
            if place.held:
                return True
            if place.untold:
                self._send_untold(place)
            if place.wants_snapshot:
                await self._send_snapshot(place)
                return False
            entries = await self._entries_after(place)
            if place.speech is not None and (begun := place.speech.unknown(entries, self.muted)):
                await self._look_up(place, place.speech, begun)
        except (LogUnavailable, ArchiveUnavailable) as error:
            logger.warning("%r cannot catch up yet: %s", self, error)
            await anyio.sleep(_RETRY_S)
            return False
        if place.held or place.wants_snapshot:
            return place.held
        if entries:
            frame, seq = encode_frame(self.codec, entries, place.seq, self.muted.union(self._stopped))
            if seq > place.seq:
                self._write(frame)
                if place.speech is None:
                    self.front.services.metrics.catch_up_frames_total.inc()
                else:
                    self._speak(place, place.speech, entries)
                self._unmute_ended(entries)
                place.seq = seq
                return False
        place.live = place.speech is None
        return True

    async def _entries_after(self, place: Place) -> Sequence[Entry]:
        """The next entries for a place, from memory or the log; sets ``wants_snapshot`` when they are gone."""
        limits = self.front.settings.limits
        tail = place.conversation.tail
        if tail is not None and tail.epoch == place.epoch:
            entries = tail.after(place.seq, limits.catchup_page_bytes)
            if entries is not None:
                return entries
        async with self.front.catching_up:
            page = await self.front.services.log.read(
                place.conversation.ref,
                place.seq,
                limit=limits.catchup_page_entries,
                max_bytes=limits.catchup_page_bytes,
            )
        position = page.position
        if (
            position.epoch != place.epoch
            or place.seq < position.trimmed
            or position.seq - place.seq > limits.replay_entries
        ):
            place.wants_snapshot = True
            return ()
        return page.entries

    async def _send_snapshot(self, place: Place) -> None:
        snapshot = await self.front.snapshots.build(place.conversation.ref)
        if place.held:
            return
        self._write(self.codec.encode(snapshot))
        place.wants_snapshot = False
        place.epoch, place.seq = snapshot.epoch, snapshot.seq
        if place.speech is not None:
            self._send_segments(place, place.speech.replaced(snapshot, self.muted, time.monotonic()))

    def _send_untold(self, place: Place) -> None:
        users, place.untold = place.untold, frozenset()
        conversation = place.conversation
        self._write(self.codec.encode(conversation.attendance.latest(conversation.ref.conversation_id, users)))

    # --- segments ----------------------------------------------------------------------------------------

    def _speak(self, place: Place, speech: Speech, entries: Sequence[Entry]) -> None:
        """The segments that follow from entries that were just sent."""
        self._send_segments(place, speech.take(entries, self.muted, time.monotonic()))
        if speech.is_over:
            place.speech = None

    def _send_segments(self, place: Place, segments: Sequence[OutputTextSegment]) -> None:
        if segments:
            self._write(self.codec.join([self.codec.encode(segment) for segment in segments]))
        if place.speech is not None and not place.releasing and place.speech.hold_until is not None:
            place.releasing = True
            self.front.tasks.start_soon(self._release_held, place, name=f"segments {self.connection_id}")

    async def _release_held(self, place: Place) -> None:
        """Give what is held for as long as it may be, until nothing is held."""
        try:
            while (speech := place.speech) is not None and (until := speech.hold_until) is not None:
                await anyio.sleep(max(until - time.monotonic(), 0))
                if self._closing or place.held or self.follows.get(place.conversation.ref) is not place:
                    return
                # One that does not read gets it once it does: time goes on meanwhile, the text does not come twice.
                if self._is_full:
                    await self._connection.drain()
                elif segments := speech.release(self.muted, time.monotonic()):
                    self._write(self.codec.join([self.codec.encode(segment) for segment in segments]))
        except ConnectionClosed:
            pass
        finally:
            place.releasing = False

    async def _look_up(self, place: Place, speech: Speech, begun: Sequence[tuple[str, int, int]]) -> None:
        """The beginnings of answers that go on where this connection came in."""
        snapshot = await self.front.snapshots.build(place.conversation.ref)
        answers = {message.request_id: message for message in snapshot.messages if message.role == "assistant"}
        answers |= {active.request_id: active.message for active in snapshot.active if active.message is not None}
        for request_id, part, offset in begun:
            if request_id in answers:
                speech.know(request_id, answers[request_id].parts, part, offset)

    def _unmute_ended(self, entries: Sequence[Entry]) -> None:
        if self.muted:
            ended = self.muted & {entry.request_id for entry in entries if entry.type in TERMINAL_TYPES}
            self.muted -= ended
            # Whoever opens again from before the end is not told what they did not want to hear either.
            self._stopped = (*self._stopped, *ended)[-_STOPPED_KEPT:]

    # --- time and the end --------------------------------------------------------------------------------

    def next_timer(self) -> float | None:
        return None if self._closing else self.wire.next_timer()

    def handle_timer(self, now: float) -> None:
        self.wire.handle_timer(now)
        if self.wire.close is not None:
            self._close_soon()

    def close_with(self, code: CloseCode) -> None:
        """Close the connection with this code, from anywhere."""
        self._close_soon(code)

    def _give_up(self) -> None:
        self.front.services.metrics.slow_consumers_total.inc()
        # The closing handshake would wait behind what the client does not read.
        self._by_server = True
        self._close_soon(CloseCode.SLOW_CONSUMER)

    def _close_soon(self, code: CloseCode | None = None) -> None:
        if code is not None:
            self.wire.close_with(code)
        if not self._closing:
            self._closing = True
            self.front.tasks.start_soon(self._close, name=f"close {self.connection_id}")

    async def _close(self) -> None:
        self._closing = True
        assert self.wire.close is not None, "set by whoever decided to close"
        # A client that is silent, or that we told to go, did not leave by itself.
        self._by_server = True
        await self._connection.close(self.wire.close.code, self.wire.close.reason)

    def _ended(self) -> None:
        self._closing = True
        self.wire.closed()
        self.front.wheel.discard(self)
        self.front.sessions.discard(self)
        for ref in tuple(self.follows):
            self.stop_following(ref, by_server=self._by_server)
        if self.admitted:
            self.front.dismiss(self.principal)
        self.front.services.metrics.connection_closed(self._connection.close_code)
