"""Runs the Lua steps, and knows what a refused one means.

Each step is one file, with ``_common.lua`` in front. A refusal is an error whose first word says why; nothing was
written then. `INCARNATION`: the server lost or may have lost writes since it was last used; the partition gets a new
incarnation and the step is sent again. `DOUBT`: the partition must be compared with the archive first.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Awaitable, Callable, Iterable
from functools import cache
from importlib.resources import files
from typing import Any, TypeVar

import anyio
from redis.exceptions import NoScriptError, OutOfMemoryError, ResponseError

from turnwire_server.eventlog.base import LogFull, LogUnavailable

from .server import FAULTS, Address, Server

Argument = str | bytes | int
T = TypeVar("T")
# How often a step is sent again after the partition was given a new incarnation: more than two servers in a row that
# each lost everything mean that something else is wrong.
_INCARNATIONS = 5
# Steps that begin something: without memory they are refused for good, while others are sent again until there is some.
_NEW = ("reserve", "claim")
# Of one server so many partitions are asked at once, and each so long, when all are.
_AT_ONCE = 8
_ASKED_S = 1.0


class Silent(LogUnavailable):
    """The server did not answer, whatever it was asked."""


class InDoubt(LogUnavailable):
    """The partition may have lost something; it is being compared with the archive."""


@cache
def _text(name: str) -> tuple[str, bytes]:
    """The digest and the source of a step."""
    folder = files(__package__) / "lua"
    source = (folder / "_common.lua").read_bytes() + (folder / f"{name}.lua").read_bytes()
    return hashlib.sha1(source, usedforsecurity=False).hexdigest(), source


class Scripts:
    """Steps on one server or cluster, for one owner. ``clock`` gives seconds; None: the server's own time counts."""

    def __init__(
        self,
        server: Server,
        *,
        prefix: str,
        owner: str,
        lease_s: float,
        keeps_over_restart: bool,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._server = server
        self._prefix = prefix
        self._owner = owner
        self._lease_ms = int(lease_s * 1000)
        self._keeps = keeps_over_restart
        self._clock = clock
        self.doubted: Callable[[], None] = lambda: None
        """Called when a partition turns out to be in doubt."""
        self.incarnated: Callable[[], None] = lambda: None
        """Called when a partition was given a new incarnation by this node."""

    def tag(self, partition: int) -> str:
        """What all keys of a partition begin with; the braces make it their hash tag."""
        return f"{{{self._prefix}:{partition}}}:"

    async def run(self, name: str, tag: str, *arguments: Argument) -> Any:
        """The answer of a step. Raises `LogUnavailable`, `InDoubt` or `LogFull`."""
        for _ in range(_INCARNATIONS):
            try:
                return await self._send(name, tag, arguments)
            except ResponseError as error:
                word, _, rest = str(error).partition(" ")
                match word:
                    case "INCARNATION":
                        await self.incarnate(rest.split(" ", 1)[0])
                    case "DOUBT":
                        self.doubted()
                        raise InDoubt("the log is being compared with the archive after a loss") from None
                    case "FULL":
                        raise LogFull(rest) from None
                    case "GAP":
                        raise AssertionError(rest) from None
                    case _ if isinstance(error, OutOfMemoryError) and name in _NEW:
                        raise LogFull("Redis has no memory left") from error
                    case _:
                        raise LogUnavailable(f"Redis refused {name}: {error}") from error
            except FAULTS as error:
                raise Silent(f"Redis did not answer {name}: {error or type(error).__name__}") from error
        raise LogUnavailable("Redis changes its identity with every call")

    async def each(
        self, tags: Iterable[str], call: Callable[[str], Awaitable[T]], *, limit_s: float = _ASKED_S
    ) -> tuple[dict[str, T], list[LogUnavailable]]:
        """The answers of many partitions, and what the others raised. A server that is silent holds up no other: each
        is asked by itself, a few partitions at once, none for longer than ``limit_s``, and no more after a silence."""
        answers: dict[str, T] = {}
        errors: list[LogUnavailable] = []
        servers: dict[Address, tuple[anyio.CapacityLimiter, list[Silent]]] = {}

        async def one(tag: str) -> None:
            limiter, silences = servers.setdefault(self._server.home(tag), (anyio.CapacityLimiter(_AT_ONCE), []))
            async with limiter:
                try:
                    if silences:
                        raise silences[0]
                    with anyio.fail_after(limit_s):
                        answers[tag] = await call(tag)
                except TimeoutError:
                    self._server.suspect(tag)
                    errors.append(Silent(f"Redis did not answer within {limit_s:g} s"))
                    silences.append(Silent(str(errors[-1])))
                except LogUnavailable as error:
                    errors.append(error)
                    if isinstance(error, Silent):
                        silences.append(error)

        async with anyio.create_task_group() as tasks:
            for tag in tags:
                tasks.start_soon(one, tag)
        return answers, errors

    async def incarnate(self, tag: str) -> None:
        """Give a partition a new incarnation, unless somebody has."""
        arguments = (uuid.uuid4().hex[:12], "1" if self._keeps else "0")
        try:
            _, is_new = await self._send("incarnate", tag, arguments)
        except FAULTS as error:
            raise Silent(f"Redis did not answer: {error or type(error).__name__}") from error
        if is_new == b"1":
            self.incarnated()
            self.doubted()

    async def _send(self, name: str, tag: str, arguments: tuple[Argument, ...]) -> Any:
        digest, source = _text(name)
        now = "" if self._clock is None else int(self._clock() * 1000)
        key = f"{tag}meta"
        call = (1, key, tag, now, self._owner, self._lease_ms, *arguments)

        async def send(client: Any) -> Any:
            try:
                return await client.evalsha(digest, *call)
            except NoScriptError:
                return await client.eval(source, *call)

        return await self._server.run(key, send)
