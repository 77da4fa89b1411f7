"""Several nodes on one clustered log, and what each hears by itself."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
from tests.support.redis import shared_redis

from turnwire_protocol import Entry
from turnwire_server.eventlog.base import ConversationRef, EventLog, Intent, RequestRef, Roll
from turnwire_server.eventlog.redis import RedisEventLog

from .kit import RECORDED_CANCEL_S, RESERVATION_S, RETENTION_S, Clock, LogKit, text_of

LEASE_S = 5.0
WAIT_S = 5.0
PARTITIONS = 4


def redis_engine(url: str, **options: Any) -> RedisEventLog:
    """An engine with the times of the contract. Without ``clock`` the server's own time counts."""
    return RedisEventLog(
        url,
        **{
            "partitions": PARTITIONS,
            "lease_s": LEASE_S,
            "retention_s": RETENTION_S,
            "reservation_s": RESERVATION_S,
            "recorded_cancel_s": RECORDED_CANCEL_S,
            **options,
        },
    )


async def settle(log: EventLog) -> None:
    """As if the archive had been looked at, and held nothing open that the log does not know."""
    for doubt in await log.in_doubt():
        await log.settle(doubt)


async def past_the_lease(log: EventLog, clock: Clock) -> None:
    """A lease time passes in which somebody is there, who looks for orphans now and then as nodes do."""
    for _ in range(4):
        await log.orphans()
        clock.forward(LEASE_S / 4)
    clock.forward(0.01)


@asynccontextmanager
async def redis_nodes(
    count: int = 1, *, url: str | None = None, clock: Clock | None = None, **options: Any
) -> AsyncIterator[list[LogKit]]:
    """So many nodes in one name space, with nothing in doubt. At the end they are closed in good order."""
    own = {"prefix": f"t{uuid.uuid4().hex[:12]}", "clock": clock, **options}
    async with AsyncExitStack() as stack:
        kits = []
        for _ in range(count):
            log = redis_engine(url or shared_redis().url, **own)
            await log.open()
            stack.push_async_callback(log.aclose)
            kits.append(LogKit(log, clock or Clock(), _never))
        await settle(kits[0].log)
        if clock is not None:
            await past_the_lease(kits[0].log, clock)
        yield kits


async def _never() -> EventLog:
    raise AssertionError("these nodes are not restarted by the kit")


class Ear:
    """A `Keeper` and listener that remembers, and can be waited on."""

    def __init__(self, log: EventLog) -> None:
        self.intents: list[tuple[RequestRef, ConversationRef, Intent]] = []
        self.positions: dict[ConversationRef, tuple[str, int]] = {}
        self.entries: dict[ConversationRef, list[tuple[str, Entry]]] = {}
        self.orphans = 0
        self.doubts = 0
        self.missing: set[RequestRef] = set()
        self.rolls: list[tuple[ConversationRef, str, int | None, Roll]] = []
        self._changed = anyio.Event()
        log.listen(self._listen)

    def heard(self, request: RequestRef, conversation: ConversationRef, intents: Sequence[Intent]) -> None:
        self.intents += [(request, conversation, intent) for intent in intents]
        self._tell()

    def positioned(self, conversation: ConversationRef, epoch: str, seq: int) -> None:
        self.positions[conversation] = (epoch, seq)
        self._tell()

    def orphaned(self) -> None:
        self.orphans += 1
        self._tell()

    def doubted(self) -> None:
        self.doubts += 1
        self._tell()

    def attended(self, conversation: ConversationRef, node: str, base: int | None, roll: Roll) -> None:
        self.rolls.append((conversation, node, base, roll))
        self._tell()

    def missed(self, requests: Sequence[RequestRef]) -> None:
        self.missing |= set(requests)
        self._tell()

    def _listen(self, conversation: ConversationRef, epoch: str, entries: Sequence[Entry]) -> None:
        self.entries.setdefault(conversation, []).extend((epoch, entry) for entry in entries)
        self._tell()

    def _tell(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    def texts(self, conversation: ConversationRef) -> list[str]:
        return [text_of(entry.event) for _, entry in self.entries.get(conversation, [])]

    def kinds(self) -> list[str]:
        return [intent.kind for _, _, intent in self.intents]

    async def until(self, condition: Callable[[], bool], within_s: float = WAIT_S) -> None:
        """Wait until ``condition`` holds; it is looked at whenever something was heard."""
        with anyio.fail_after(within_s):
            while not condition():
                await self._changed.wait()


@asynccontextmanager
async def listening(log: EventLog) -> AsyncIterator[Ear]:
    """The log keeps its lease and hears the others inside the block."""
    ear = Ear(log)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(log.run, ear)
        if isinstance(log, RedisEventLog):
            with anyio.fail_after(WAIT_S):
                while not log._following.is_connected:
                    await anyio.sleep(0.005)
        yield ear
        tasks.cancel_scope.cancel()
