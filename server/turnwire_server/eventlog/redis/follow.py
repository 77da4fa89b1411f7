"""What other nodes write: sharded pub/sub carries it, and positions are compared now and then.

Pub/sub may lose, repeat or delay anything; nothing depends on it but speed. Each address has one reader task with one
connection for all partitions that live there. Every second, more often while a reader is not connected and at once when
one has come back, the ends of all watched logs are asked for in one script per server; whoever is behind reads the log.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import anyio
import msgpack  # type: ignore[import-untyped]
import orjson
from anyio.abc import TaskGroup

from turnwire_protocol import Entry
from turnwire_server.eventlog.base import ConversationRef, Intent, Keeper, LogUnavailable, RequestRef
from turnwire_server.telemetry.metrics import Metrics

from .rolls import roll_heard
from .scripts import Scripts
from .server import FAULTS, Address, Server

logger = logging.getLogger(__name__)

Tell = Callable[[ConversationRef, str, Sequence[Entry]], None]

_COMPARE_S = 1.0
_COMPARE_BLIND_S = 0.2
# Without any message for so long the connection is asked whether it lives, and given up when it does not answer.
_QUIET_S = 1.0
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 2.0


class _Reader:
    """One connection that hears all partitions of one address."""

    def __init__(self, address: Address, partitions: list[int]) -> None:
        self.address = address
        self.partitions = partitions
        self.scope = anyio.CancelScope()
        self.is_connected = False
        self.pubsub: Any = None
        """While it listens."""
        self.heard = 0.0
        """When something came last, on the monotonic clock."""
        self.silence = anyio.CancelScope()
        """Cancelled when too little comes."""


class Following:
    """Watches conversations for this node. `run` keeps it going."""

    def __init__(self, server: Server, scripts: Scripts, owner: str, tags: Mapping[int, str], tell: Tell) -> None:
        self._server = server
        self._scripts = scripts
        self._owner = owner.encode()
        self._tags = tags
        self._tell = tell
        self._watched: dict[ConversationRef, str] = {}
        self._readers: dict[Address, _Reader] = {}
        self._keeper: Keeper | None = None
        self._compare_now = anyio.Event()
        self.metrics: Metrics | None = None

    def watch(self, conversation: ConversationRef, tag: str) -> None:
        self._watched[conversation] = tag

    def unwatch(self, conversation: ConversationRef) -> None:
        self._watched.pop(conversation, None)

    def is_watched(self, conversation: ConversationRef) -> bool:
        return conversation in self._watched

    @property
    def is_connected(self) -> bool:
        """Whether everything that others write can be heard at once."""
        return bool(self._readers) and all(reader.is_connected for reader in self._readers.values())

    def positioned(self, conversation: ConversationRef, epoch: str, seq: int = 0) -> None:
        """This node itself has changed a log otherwise than by entries."""
        if self._keeper is not None and conversation in self._watched:
            self._keeper.positioned(conversation, epoch, seq)

    async def run(self, keeper: Keeper) -> None:
        self._keeper = keeper
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._compare, name="compare positions")
            tasks.start_soon(self._tend, name="tend pub/sub")
            await self._keep_readers(keeper)

    # --- positions ---------------------------------------------------------------------------------------

    async def _compare(self) -> None:
        while True:
            with anyio.move_on_after(_COMPARE_S if self.is_connected else _COMPARE_BLIND_S):
                await self._compare_now.wait()
            self._compare_now = anyio.Event()
            try:
                await self.compare()
            except LogUnavailable as error:
                logger.debug("positions were not compared: %s", error)
            except Exception:
                logger.exception("positions were not compared; it is tried again")

    async def compare(self) -> None:
        """Ask where all watched logs end, and tell the keeper."""
        groups: dict[str, list[ConversationRef]] = {}
        for conversation, tag in self._watched.items():
            groups.setdefault(tag if self._server.is_cluster else self._tags[0], []).append(conversation)

        async def one(tag: str) -> None:
            refs = groups[tag]
            arguments: list[str] = []
            for ref in refs:
                arguments += [self._watched.get(ref, tag), f"{ref.tenant_id}/{ref.conversation_id}"]
            self._positioned(refs, await self._scripts.run("positions", tag, *arguments))

        _, errors = await self._scripts.each(groups, one)
        if errors:
            logger.debug("positions were not compared everywhere: %s", errors[0])

    def _positioned(self, refs: Sequence[ConversationRef], answer: Sequence[bytes]) -> None:
        if self.metrics is not None:
            self.metrics.position_checks_total.inc()
        for index, ref in enumerate(refs):
            epoch, seq = answer[2 * index].decode(), int(answer[2 * index + 1])
            if self._keeper is not None and ref in self._watched:
                self._keeper.positioned(ref, epoch, seq)

    # --- pub/sub -----------------------------------------------------------------------------------------

    async def _keep_readers(self, keeper: Keeper) -> None:
        """One reader per address; begun anew when other partitions live there."""
        async with anyio.create_task_group() as tasks:
            while True:
                try:
                    self._arrange(await self._server.homes(self._tags), tasks, keeper)
                except LogUnavailable as error:
                    logger.debug("cannot tell where the partitions are: %s", error)
                await anyio.sleep(_COMPARE_S if self._readers else _FIRST_PAUSE_S)

    def _arrange(self, homes: Mapping[Address, list[int]], tasks: TaskGroup, keeper: Keeper) -> None:
        for address, reader in tuple(self._readers.items()):
            if homes.get(address) != reader.partitions:
                del self._readers[address]
                reader.scope.cancel()
        for address, partitions in homes.items():
            if address not in self._readers:
                reader = self._readers[address] = _Reader(address, partitions)
                tasks.start_soon(self._read, reader, keeper, name=f"pub/sub {address}")

    async def _read(self, reader: _Reader, keeper: Keeper) -> None:
        pause = _FIRST_PAUSE_S
        with reader.scope:
            while True:
                pubsub = self._server.at(reader.address).pubsub()
                try:
                    # One by one: channels of different slots cannot be asked for together.
                    for partition in reader.partitions:
                        await pubsub.ssubscribe(f"{self._tags[partition]}ch")
                    reader.pubsub, reader.heard = pubsub, time.monotonic()
                    with anyio.CancelScope() as reader.silence:
                        await self._listen(pubsub, reader, keeper)
                    if reader.silence.cancelled_caught:
                        raise TimeoutError("no answer to a ping")
                except FAULTS as error:
                    logger.warning("pub/sub at %s:%s broke off: %s", *reader.address, error or type(error).__name__)
                finally:
                    reader.pubsub = None
                    pause = _FIRST_PAUSE_S if reader.is_connected else min(pause * 2, _LONGEST_PAUSE_S)
                    self._is_connected(reader, False)
                    with anyio.CancelScope(shield=True), anyio.move_on_after(1):
                        await pubsub.aclose()  # type: ignore[no-untyped-call]
                await anyio.sleep(pause)

    def _is_connected(self, reader: _Reader, connected: bool) -> None:
        reader.is_connected = connected
        if self.metrics is not None:
            self.metrics.pubsub_connected.set(int(self.is_connected))

    async def _listen(self, pubsub: Any, reader: _Reader, keeper: Keeper) -> None:
        channels = len(reader.partitions)
        # Past `get_message`, which makes three timers and a dozen calls of each message: one comes with every delta.
        read = pubsub.connection.read_response
        while True:
            response = await read(timeout=math.inf, push_request=True)
            reader.heard = time.monotonic()
            kind = response[0] if isinstance(response, list) else b"pong"
            if kind == b"smessage":
                self._received(response[2], keeper)
            elif kind == b"ssubscribe":
                channels -= 1
                if channels == 0:
                    self._is_connected(reader, True)
                    self._compare_now.set()
                    keeper.orphaned()
            elif kind == b"sunsubscribe":
                raise ConnectionError("a partition has moved")

    async def _tend(self) -> None:
        """Ask connections that have been quiet whether they live, and give up those that do not answer."""
        while True:
            await anyio.sleep(_QUIET_S)
            for reader in tuple(self._readers.values()):
                quiet = time.monotonic() - reader.heard
                if quiet > 3 * _QUIET_S:
                    reader.silence.cancel()
                elif quiet > 0.9 * _QUIET_S and reader.pubsub is not None:
                    with contextlib.suppress(*FAULTS):
                        await reader.pubsub.ping()

    def _received(self, data: bytes, keeper: Keeper) -> None:
        try:
            message = msgpack.unpackb(data, raw=True, strict_map_key=False)
            if message[0] == self._owner and message[1] in (b"e", b"o", b"d", b"p"):
                return
            self._handle(message, keeper)
        except Exception:  # one bad message must not end the listening
            logger.exception("a message of another node was not understood")

    def _handle(self, message: Sequence[Any], keeper: Keeper) -> None:
        match message[1]:
            case b"e":
                for tenant, conversation, epoch, first, ts, bodies in message[2]:
                    ref = ConversationRef(tenant.decode(), conversation.decode())
                    if ref in self._watched:
                        entries = [Entry(int(first) + i, int(ts), body) for i, body in enumerate(bodies)]
                        self._tell(ref, epoch.decode(), entries)
            case b"n":
                _, _, tenant, conversation, epoch, seq = message
                ref = ConversationRef(tenant.decode(), conversation.decode())
                if ref in self._watched:
                    keeper.positioned(ref, epoch.decode(), int(seq))
            case b"i":
                _, _, tenant, request, conversation, k, kind, body = message
                intent = Intent(int(k), kind.decode(), orjson.loads(body))
                home = ConversationRef(tenant.decode(), conversation.decode())
                keeper.heard(RequestRef(tenant.decode(), request.decode()), home, [intent])
            case b"p":
                node, _, name, base, version, users, left = message
                tenant_id, _, conversation_id = name.decode().partition("/")
                ref = ConversationRef(tenant_id, conversation_id)
                if ref in self._watched:
                    roll = roll_heard(version, users, left)
                    keeper.attended(ref, node.decode(), int(base) if base else None, roll)
            case b"o":
                keeper.orphaned()
            case b"d":
                keeper.doubted()
