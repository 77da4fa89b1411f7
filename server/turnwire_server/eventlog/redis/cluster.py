"""Which server of a Redis Cluster has what, and calls to the one that has it.

Written here because the library's cluster client shares one state among all shards: while one of them does not answer
it finds out the topology anew, and every call waits for that. Here a shard that is silent harms nobody but those who
want something of it, and these are refused at once: whoever found it silent has waited long enough for all. A call that
was redirected has not been carried out and is sent on; a call that was not answered is never sent again from here.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeVar

import anyio
from redis.asyncio import Redis
from redis.crc import key_slot
from redis.exceptions import AskError, ClusterDownError, MovedError, RedisError, ResponseError

logger = logging.getLogger(__name__)

Address = tuple[str, int]
T = TypeVar("T")

FAULTS = (RedisError, OSError, TimeoutError, RuntimeError, AttributeError)
"""What a call may raise when the server does not answer. RuntimeError: uvloop, for a socket that was just closed.
AttributeError: redis-py, for a connection that was torn down while it was being set up."""

_REDIRECTS = 5
# One that knows the topology answers at once; another is asked when it takes this long.
_LEARN_S = 0.5
# How often it is looked whether a silent server is back, and how long calls to it are refused if nobody looks.
_LOOK_S = 0.2
_SILENT_S = 1.0


class Cluster:
    """Clients for all servers of a Cluster. `keep` has to run, or silent servers are found back a little later."""

    def __init__(self, seeds: Sequence[Address], connect: Callable[[Address], Redis]) -> None:
        self._seeds = tuple(seeds)
        self._connect = connect
        self._clients: dict[Address, Redis] = {}
        self._ranges: list[tuple[int, int, Address]] = []
        self._moved: dict[int, Address] = {}
        self._known: set[Address] = set(seeds)
        self._silent: dict[Address, float] = {}
        self._learning = anyio.Lock()
        self._version = 0
        self._is_stale = True
        self._unknown_until = 0.0

    def __repr__(self) -> str:
        return f"<Cluster primaries={self.primaries} silent={list(self._silent)}>"

    @property
    def primaries(self) -> list[Address]:
        """Those that have slots, as far as is known."""
        return list(dict.fromkeys(address for _, _, address in self._ranges))

    def at(self, address: Address) -> Redis:
        if address not in self._clients:
            self._clients[address] = self._connect(address)
        return self._clients[address]

    def home(self, key: str) -> Address | None:
        """Who has this key, as far as is known."""
        slot = key_slot(key.encode())
        if slot in self._moved:
            return self._moved[slot]
        return next((address for first, last, address in self._ranges if first <= slot <= last), None)

    async def run(self, key: str, call: Callable[[Redis], Awaitable[T]]) -> T:
        """``call`` with a client for whoever has ``key``. Raises what the call raises, or OSError."""
        if self._is_stale or self.home(key) is None:
            await self.learn()
        for _ in range(_REDIRECTS):
            address = self.home(key)
            if address is None:
                raise ConnectionError("nobody in the Cluster has this part")
            if self._silent.get(address, 0.0) > time.monotonic():
                raise ConnectionError(f"{address[0]}:{address[1]} does not answer")
            try:
                return await call(self.at(address))
            except MovedError as error:
                self._moved[key_slot(key.encode())] = _target(error, address)
                self._is_stale = True
            except AskError as error:
                return await self._asking(_target(error, address), call)
            except ClusterDownError:
                self._is_stale = True
                raise
            except ResponseError:
                raise
            except FAULTS:
                self.suspect(address)
                raise
        raise ConnectionError("the Cluster sends calls on and on")

    async def _asking(self, address: Address, call: Callable[[Redis], Awaitable[T]]) -> T:
        async with self.at(address).client() as single:
            await single.execute_command("ASKING")  # type: ignore[no-untyped-call]
            return await call(single)

    def suspect(self, address: Address) -> None:
        """It did not answer: refuse calls until it does, and find out who else may have its part."""
        self._silent[address] = time.monotonic() + _SILENT_S
        self._is_stale = True

    async def keep(self) -> None:
        """Look whether silent servers are back, until cancelled."""
        while True:
            await anyio.sleep(_LOOK_S)
            async with anyio.create_task_group() as tasks:
                for address in tuple(self._silent):
                    tasks.start_soon(self._look, address)

    async def _look(self, address: Address) -> None:
        try:
            with anyio.fail_after(_LEARN_S):
                await self.at(address).ping()
        except FAULTS:
            self._silent[address] = time.monotonic() + _SILENT_S
        else:
            self._silent.pop(address, None)

    async def learn(self) -> None:
        """Ask anybody who has what. Raises OSError when nobody answers."""
        version = self._version
        async with self._learning:
            if version != self._version:
                return  # it was just asked
            if time.monotonic() < self._unknown_until:
                raise ConnectionError("no server of the Cluster answers")
            for address in self._informants():
                try:
                    with anyio.fail_after(_LEARN_S):
                        slots = await self.at(address).execute_command("CLUSTER SLOTS")  # type: ignore[no-untyped-call]
                except FAULTS as error:
                    logger.debug("%s:%s does not tell the topology: %s", *address, error)
                    continue
                self._learned(slots, address)
                return
            self._unknown_until = time.monotonic() + _LOOK_S
        raise ConnectionError("no server of the Cluster answers")

    def _informants(self) -> Iterable[Address]:
        """Those that are likely to answer first; among them anybody, so that one that is wrong is not always asked."""
        now = time.monotonic()
        addresses = list({*self._known, *self._seeds})
        random.shuffle(addresses)
        return sorted(addresses, key=lambda address: self._silent.get(address, 0.0) > now)

    def _learned(self, slots: Sequence[Sequence[object]], informant: Address) -> None:
        ranges, known = [], set()
        for first, last, *servers in slots:
            addresses = [_address(server, informant) for server in servers]
            ranges.append((int(str(first)), int(str(last)), addresses[0]))
            known.update(addresses)
        self._ranges, self._known, self._moved = ranges, known, {}
        self._version += 1
        self._is_stale = False
        for address in set(self._silent) - known:
            del self._silent[address]

    async def aclose(self) -> None:
        for client in self._clients.values():
            await client.aclose()
        self._clients.clear()
        self._is_stale = True


def _address(server: object, informant: Address) -> Address:
    """As CLUSTER SLOTS gives it: host, port, id, …; no host means the one that was asked."""
    assert isinstance(server, list)
    host = (server[0] or b"").decode()
    return host or informant[0], int(server[1])


def _target(error: AskError, asked: Address) -> Address:
    return error.host or asked[0], int(error.port)
