"""Redis servers as children of the test, on free private loopback ports: one alone, a Cluster, a Sentinel trio.

    async with running_redis() as redis:                      # redis.url
        await redis.kill(); await redis.start()               # with its data
        await redis.kill(); await redis.start(empty=True)     # without
        redis.stop(); redis.cont()                            # SIGSTOP, SIGCONT
        await redis.flushall()
    async with running_redis_cluster(replicas=1) as cluster:  # cluster.url
        await cluster.fail_over(cluster.primary_of(slot))
    async with running_redis_sentinel() as sentinel:          # sentinel.url
        await sentinel.promote_without_the_last_writes(write)

Real servers, never skipped: without `redis-server` every test that needs one fails and says what to install. Data lie
in memory (`/dev/shm`) where there is such a place. Unrealistic in that `kill -9` loses nothing that Redis has handed
to the kernel, `everysec` or not: for lost writes use `empty=True`, `flushall`, or a promotion. Servers are children
in the foreground and die with the process that started them, however that ends.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import ctypes
import itertools
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

START_S = 60.0
ANSWER_S = 10.0
SLOTS = 16_384
_POLL_S = 0.01
_PR_SET_PDEATHSIG = 1
Reply = Any
"""str, int, None or a list of these."""

# Outside the range that the kernel takes ports for outgoing connections from: a server that is killed and started
# again finds its port free. Begins anywhere, since several test runs may share the machine.
_ports = itertools.cycle(random.sample(range(15_000, 32_000), 17_000))


class RedisMissing(Exception):
    """There is no `redis-server` on this machine."""

    def __init__(self) -> None:
        super().__init__("redis-server is not installed; apt-get install redis-server (7.0 or later)")


class RedisError(Exception):
    """Redis answered with an error."""


def free_port() -> int:
    """A port on loopback that nobody listens on, and that outgoing connections do not get."""
    for port in _ports:
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("the cycle never ends")


def data_root() -> str | None:
    """Where data of test servers lie: in memory, if the machine has such a place."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent() -> None:
    """For `preexec_fn`: the kernel kills this child as soon as its parent is gone."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


class RedisServer:
    """One server. Made by `running_redis` and its like; it keeps its port and directory over restarts."""

    def __init__(self, directory: Path, options: Mapping[str, str], *, sentinel_conf: str | None = None) -> None:
        self.port = free_port()
        self.directory = directory
        self.options = dict(options)
        self.starts = 0
        self._sentinel_conf = sentinel_conf
        self._process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"<RedisServer {self.port} {'up' if self.is_up else 'down'} starts={self.starts}>"

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def is_up(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        """What the server wrote, over all its starts."""
        file = self.directory / "redis.log"
        return file.read_text() if file.exists() else ""

    # --- life -------------------------------------------------------------------------------------------

    async def start(self, *, empty: bool = False) -> None:
        """Start it and wait until it has loaded its data; with ``empty`` these are deleted before."""
        self.launch(empty=empty)
        deadline = time.monotonic() + START_S
        while not self._answers(deadline):
            await asyncio.sleep(_POLL_S)

    def start_blocking(self) -> None:
        """`start` for those who have no event loop."""
        self.launch()
        deadline = time.monotonic() + START_S
        while not self._answers(deadline):
            time.sleep(_POLL_S)

    def launch(self, *, empty: bool = False) -> None:
        """Start it without waiting."""
        assert not self.is_up, "it runs already"
        program = shutil.which("redis-server")
        if program is None:
            raise RedisMissing
        if empty:
            shutil.rmtree(self.directory / "data", ignore_errors=True)
        (self.directory / "data").mkdir(parents=True, exist_ok=True)
        self.starts += 1
        self._process = subprocess.Popen(
            [program, *self._arguments()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=die_with_parent,
        )

    def _arguments(self) -> list[str]:
        common = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "protected-mode": "no",
            "dir": str(self.directory / "data"),
            "logfile": str(self.directory / "redis.log"),
        }
        words = [word for name, value in {**common, **self.options}.items() for word in (f"--{name}", value)]
        if self._sentinel_conf is None:
            return words
        conf = self.directory / "sentinel.conf"  # the server writes what it learns into it
        if not conf.exists():
            conf.write_text(self._sentinel_conf)
        return [str(conf), "--sentinel", *words]

    def _answers(self, deadline: float) -> bool:
        if not self.is_up or time.monotonic() > deadline:
            raise RedisError(f"redis-server on {self.port} did not start:\n{self.log[-2000:]}")
        try:
            return bool(self.command_blocking("PING") == "PONG")
        except (OSError, RedisError):  # not yet, or loading
            return False

    async def kill(self) -> None:
        """`kill -9`, and wait until it is gone."""
        self.kill_blocking()

    def kill_blocking(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(START_S)

    def stop(self) -> None:
        """SIGSTOP: it is there and does not answer."""
        self._signal(signal.SIGSTOP)

    def cont(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None, "it was started before"
        self._process.send_signal(number)

    # --- talking ----------------------------------------------------------------------------------------

    async def command(self, *words: str | int) -> Reply:
        """Send one command over a connection of its own and return the answer. Raises `RedisError`, OSError."""
        async with asyncio.timeout(START_S):
            return await asyncio.to_thread(self.command_blocking, *words)

    def command_blocking(self, *words: str | int) -> Reply:
        with socket.create_connection(("127.0.0.1", self.port), timeout=ANSWER_S) as sock:
            sock.sendall(_encoded(words))
            with sock.makefile("rb") as stream:
                return _read_reply(stream)

    async def flushall(self) -> None:
        """Drop everything: what an operator's slip does."""
        await self.command("FLUSHALL")

    async def info(self, section: str) -> dict[str, str]:
        """A section of INFO."""
        answer = await self.command("INFO", section)
        return dict(line.split(":", 1) for line in answer.splitlines() if ":" in line)


def _encoded(words: Sequence[str | int]) -> bytes:
    parts = [str(word).encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)


def _read_reply(stream: BinaryIO) -> Reply:
    line = stream.readline()
    if not line.endswith(b"\r\n"):
        raise ConnectionResetError("Redis closed the connection")
    kind, rest = line[:1], line[1:-2].decode()
    match kind:
        case b"+":
            return rest
        case b"-":
            raise RedisError(rest)
        case b":":
            return int(rest)
        case b"$":
            return None if rest == "-1" else stream.read(int(rest) + 2)[:-2].decode()
        case b"*":
            return None if rest == "-1" else [_read_reply(stream) for _ in range(int(rest))]
    raise RedisError(f"not understood: {line!r}")


# --- one alone -------------------------------------------------------------------------------------------------

_DURABLE = {"appendonly": "yes", "appendfsync": "everysec", "save": ""}
_IN_MEMORY = {"appendonly": "no", "save": ""}


@contextmanager
def _directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="turnwire-redis-", dir=data_root()) as name:
        yield Path(name)


@asynccontextmanager
async def running_redis(**options: str) -> AsyncIterator[RedisServer]:
    """A server that is up inside the block. Options are Redis's own, with `_` for `-`."""
    with _directory() as directory:
        server = RedisServer(directory, {**_DURABLE, **_redis_names(options)})
        try:
            await server.start()
            yield server
        finally:
            server.kill_blocking()


def _redis_names(options: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in options.items()}


class SharedRedis:
    """One server for a whole test run, started at the first use; every user takes a prefix of its own."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._server: RedisServer | None = None
        self._prefixes = itertools.count(1)

    @property
    def server(self) -> RedisServer:
        if self._server is None:
            server = RedisServer(self._stack.enter_context(_directory()), _IN_MEMORY)
            self._stack.callback(server.kill_blocking)
            server.start_blocking()
            self._server = server
        return self._server

    @property
    def url(self) -> str:
        return self.server.url

    def new_prefix(self) -> str:
        """A key prefix that no other test has."""
        return f"t{next(self._prefixes)}"

    def close(self) -> None:
        """Kill it and delete its data."""
        self._server = None
        self._stack.close()


_shared = SharedRedis()


def shared_redis() -> SharedRedis:
    """The server of this test run. It dies with the process; nobody restarts or flushes it."""
    if _shared._server is None:
        atexit.register(_shared.close)
    return _shared


def _addresses(servers: Sequence[RedisServer]) -> str:
    return ",".join(f"127.0.0.1:{server.port}" for server in servers)


# --- Cluster ---------------------------------------------------------------------------------------------------

NODE_TIMEOUT_MS = 1000


class RedisCluster:
    """Made by `running_redis_cluster`: primaries, each with as many replicas, that know each other."""

    def __init__(self, servers: Sequence[RedisServer], replicas: int) -> None:
        self.servers = tuple(servers)
        self._primaries = len(servers) // (replicas + 1)

    @property
    def url(self) -> str:
        """As `storage.redis_url` wants it."""
        return f"redis+cluster://{_addresses(self.servers)}"

    async def primary_of(self, slot: int) -> RedisServer:
        """The node that serves a slot, as any node that is up says."""
        by_port = {server.port: server for server in self.servers}
        for server in self.servers:
            with contextlib.suppress(OSError, RedisError):
                shards = await server.command("CLUSTER", "SLOTS")
                for first, last, primary, *_ in shards:
                    if first <= slot <= last and by_port[primary[1]].is_up:
                        return by_port[primary[1]]
        raise RedisError(f"nobody serves slot {slot}")

    async def slot_of(self, key: str) -> int:
        """The slot of a key or hash tag."""
        up = next(server for server in self.servers if server.is_up)
        return int(await up.command("CLUSTER", "KEYSLOT", key))

    async def fail_over(self, slot: int) -> RedisServer:
        """Kill the primary of ``slot`` and wait until its replica serves; returns the one killed."""
        old = await self.primary_of(slot)
        await old.kill()
        await self.until_served(slot)
        return old

    async def until_served(self, slot: int = 0, limit_s: float = START_S) -> None:
        """Wait until somebody serves ``slot``, and the cluster knows that it is whole again."""
        async with asyncio.timeout(limit_s):
            while True:
                with contextlib.suppress(OSError, RedisError):
                    server = await self.primary_of(slot)
                    if "cluster_state:ok" in str(await server.command("CLUSTER", "INFO")):
                        return
                await asyncio.sleep(_POLL_S)

    async def form(self) -> None:
        """Introduce the nodes to each other, spread the slots, make replicas follow."""
        primaries = self.servers[: self._primaries]
        for index, server in enumerate(primaries):
            first, last = SLOTS * index // self._primaries, SLOTS * (index + 1) // self._primaries - 1
            await server.command("CLUSTER", "ADDSLOTSRANGE", first, last)
            await server.command("CLUSTER", "SET-CONFIG-EPOCH", index + 1)
        first_server = self.servers[0]
        for server in self.servers[1:]:
            await server.command(
                "CLUSTER", "MEET", "127.0.0.1", first_server.port, first_server.options["cluster-port"]
            )
        await self._until(lambda info: f"cluster_known_nodes:{len(self.servers)}" in info)
        for index, server in enumerate(self.servers[self._primaries :]):
            primary = primaries[index % self._primaries]
            await _until_ok(partial(self._replicate, server, primary))
        await self._until(lambda info: "cluster_state:ok" in info)
        for server in self.servers[self._primaries :]:
            await _until_true(partial(_is_in_step, server))

    @staticmethod
    async def _replicate(server: RedisServer, primary: RedisServer) -> None:
        await server.command("CLUSTER", "REPLICATE", str(await primary.command("CLUSTER", "MYID")))

    async def _until(self, holds: Callable[[str], bool]) -> None:
        for server in self.servers:
            await _until_true(partial(_info_holds, server, holds))


async def _info_holds(server: RedisServer, holds: Callable[[str], bool]) -> bool:
    return holds(str(await server.command("CLUSTER", "INFO")))


async def _is_in_step(replica: RedisServer) -> bool:
    return (await replica.info("replication")).get("master_link_status") == "up"


async def _until_ok(act: Callable[[], Awaitable[None]], limit_s: float = START_S) -> None:
    async with asyncio.timeout(limit_s):
        while True:
            try:
                return await act()
            except RedisError:
                await asyncio.sleep(_POLL_S)


async def _until_true(ask: Callable[[], Awaitable[bool]], limit_s: float = START_S) -> None:
    async with asyncio.timeout(limit_s):
        while True:
            with contextlib.suppress(OSError, RedisError):
                if await ask():
                    return
            await asyncio.sleep(_POLL_S)


@asynccontextmanager
async def running_redis_cluster(primaries: int = 3, replicas: int = 0, **options: str) -> AsyncIterator[RedisCluster]:
    """A Redis Cluster that serves all slots inside the block."""
    async with AsyncExitStack() as stack:
        servers = []
        for _ in range(primaries * (replicas + 1)):
            cluster = {
                "cluster-enabled": "yes",
                "cluster-config-file": "nodes.conf",
                "cluster-node-timeout": str(NODE_TIMEOUT_MS),
                "cluster-port": str(free_port()),
                # Else one shard that is away takes all others with it.
                "cluster-require-full-coverage": "no",
                "repl-diskless-sync-delay": "0",
            }
            server = RedisServer(stack.enter_context(_directory()), {**_DURABLE, **cluster, **_redis_names(options)})
            stack.callback(server.kill_blocking)
            server.launch()
            servers.append(server)
        for server in servers:
            await _until_true(partial(_pongs, server))
        formed = RedisCluster(servers, replicas)
        await formed.form()
        yield formed


async def _pongs(server: RedisServer) -> bool:
    return bool(await server.command("PING") == "PONG")


# --- Sentinel --------------------------------------------------------------------------------------------------

SENTINEL_NAME = "turnwire"
DOWN_AFTER_MS = 500
# Sentinels that do not agree on who is to do it try again after twice this time.
FAIL_OVER_MS = 1500


class RedisSentinel:
    """Made by `running_redis_sentinel`: one primary, one replica, three sentinels."""

    def __init__(self, primary: RedisServer, replica: RedisServer, sentinels: Sequence[RedisServer]) -> None:
        self.servers = (primary, replica)
        self.sentinels = tuple(sentinels)

    @property
    def url(self) -> str:
        """As `storage.redis_url` wants it."""
        return f"redis+sentinel://{_addresses(self.sentinels)}/{SENTINEL_NAME}"

    async def primary(self) -> RedisServer:
        """Whom the sentinels name."""
        by_port = {server.port: server for server in self.servers}
        answer = await self.sentinels[0].command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SENTINEL_NAME)
        return by_port[int(str(answer[1]))]

    async def other(self) -> RedisServer:
        """The one that is not the primary now."""
        primary = await self.primary()
        return next(server for server in self.servers if server is not primary)

    async def fail_over(self) -> RedisServer:
        """Kill the primary and wait until the replica has its place; returns the one killed."""
        old, heir = await self._pair()
        await old.kill()
        await _until_true(lambda: self._leads(heir))
        return old

    async def promote_without_the_last_writes(self, write: Callable[[RedisServer], Awaitable[None]]) -> RedisServer:
        """Fail over so that what ``write`` does is acknowledged by the old primary and unknown to the new one.

        The replica is stopped while ``write`` runs, the primary killed before it goes on: its buffers may hold some of
        the writes, so the stream to it is cut first. Returns the one killed.
        """
        old, heir = await self._pair()
        await old.command("CONFIG", "SET", "repl-timeout", 3600)
        heir.stop()
        await old.command("CLIENT", "KILL", "TYPE", "REPLICA")
        try:
            await write(old)
            await old.kill()
        finally:
            heir.cont()
        await _until_true(lambda: self._leads(heir))
        return old

    async def _pair(self) -> tuple[RedisServer, RedisServer]:
        """The primary and its replica, once that is in step: after a fail-over the sentinels take some 10 s to make the
        old primary follow, and until then it knows nothing of what was written since."""
        pair: list[RedisServer] = []

        async def is_in_step() -> bool:
            # Asked anew each time: an earlier fail-over may just be coming to its end.
            pair[:] = await self.primary(), await self.other()
            return await _is_in_step(pair[1])

        await _until_true(is_in_step, limit_s=2 * START_S)
        return pair[0], pair[1]

    async def _leads(self, server: RedisServer) -> bool:
        return await self.primary() is server and (await server.info("replication"))["role"] == "master"


@asynccontextmanager
async def running_redis_sentinel(**options: str) -> AsyncIterator[RedisSentinel]:
    """A primary with a replica in step and three sentinels that know of both, inside the block."""
    async with AsyncExitStack() as stack:

        async def up(options: Mapping[str, str], conf: str | None = None) -> RedisServer:
            server = RedisServer(stack.enter_context(_directory()), options, sentinel_conf=conf)
            stack.callback(server.kill_blocking)
            await server.start()
            return server

        own = {**_DURABLE, "repl-diskless-sync-delay": "0", **_redis_names(options)}
        primary = await up(own)
        replica = await up({**own, "replicaof": f"127.0.0.1 {primary.port}"})
        await _until_true(lambda: _is_in_step(replica))
        conf = (
            f"sentinel monitor {SENTINEL_NAME} 127.0.0.1 {primary.port} 2\n"
            f"sentinel down-after-milliseconds {SENTINEL_NAME} {DOWN_AFTER_MS}\n"
            f"sentinel failover-timeout {SENTINEL_NAME} {FAIL_OVER_MS}\n"
        )
        sentinels = [await up({}, conf) for _ in range(3)]
        trio = RedisSentinel(primary, replica, sentinels)
        for sentinel in sentinels:
            await _until_true(partial(_knows_all, sentinel))
        yield trio


async def _knows_all(sentinel: RedisServer) -> bool:
    answer = await sentinel.command("SENTINEL", "MASTER", SENTINEL_NAME)
    fields = dict(zip(answer[::2], answer[1::2], strict=True))
    return (fields["num-slaves"], fields["num-other-sentinels"]) == ("1", "2")


@contextmanager
def redis_cluster_for_many(primaries: int = 3, replicas: int = 1, **options: str) -> Iterator[RedisCluster]:
    """`running_redis_cluster` for a whole module of tests, each of which has an event loop of its own."""
    loop = asyncio.new_event_loop()
    context = running_redis_cluster(primaries, replicas, **options)
    try:
        yield loop.run_until_complete(context.__aenter__())
    finally:
        loop.run_until_complete(context.__aexit__(None, None, None))
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
