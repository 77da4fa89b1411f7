"""What stands behind ``storage.redis_url``: one server, the current primary of a Sentinel service, or a Cluster.

The rest of the engine sees a client that runs scripts and, per address, the partitions that live there. Nothing here
repeats a call by itself: a lost reply does not say whether a script was run, so only the caller may send it again.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

import anyio
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff

from turnwire_server.eventlog.base import LogUnavailable

from .cluster import FAULTS, Address, Cluster

__all__ = ["FAULTS", "Address", "Place", "Server", "UnfitServer"]

Mode = Literal["standalone", "sentinel", "cluster"]
T = TypeVar("T")

logger = logging.getLogger(__name__)

_SCHEMES: Mapping[str, tuple[Mode, bool]] = {
    "redis": ("standalone", False),
    "rediss": ("standalone", True),
    "redis+sentinel": ("sentinel", False),
    "rediss+sentinel": ("sentinel", True),
    "redis+cluster": ("cluster", False),
    "rediss+cluster": ("cluster", True),
}
# Connections of one node to one server: group commit uses one, commands a few; the rest is for bursts of look-ups.
_CONNECTIONS = 64
_OLDEST_MAJOR = 7  # sharded pub/sub


class UnfitServer(LogUnavailable):
    """The server answers but must not be used: it says which setting is wrong."""


@dataclass(frozen=True, slots=True)
class Place:
    """A Redis URL, read."""

    mode: Mode
    addresses: tuple[Address, ...]
    service: str
    database: int
    options: Mapping[str, Any]

    @classmethod
    def of(cls, url: str) -> Place:
        """Raises ValueError with what is wrong; the text never holds the URL, which may hold a password."""
        parts = urlsplit(url)
        if parts.scheme not in _SCHEMES:
            raise ValueError(f"the scheme must be one of {', '.join(_SCHEMES)}")
        mode, tls = _SCHEMES[parts.scheme]
        credentials, _, hosts = parts.netloc.rpartition("@")
        user, _, password = credentials.partition(":")
        path = [unquote(piece) for piece in parts.path.split("/") if piece]
        service = path.pop(0) if mode == "sentinel" and path else ""
        if mode == "sentinel" and not service:
            raise ValueError("a Sentinel URL names its service: redis+sentinel://host:port,host:port/SERVICE")
        if len(path) > 1 or (path and not path[0].isdigit()) or (path and mode == "cluster"):
            raise ValueError("after the host comes at most a database number, and none for a Cluster")
        options: dict[str, Any] = {"username": unquote(user) or None, "password": unquote(password) or None}
        if tls:
            options["ssl"] = True
            options.update({name: value for name, value in parse_qsl(parts.query) if name.startswith("ssl_")})
        default = 26379 if mode == "sentinel" else 6379
        addresses = tuple(_address(host, default) for host in hosts.split(",") if host)
        if not addresses or (mode == "standalone" and len(addresses) > 1):
            raise ValueError("a host is needed, and only one without +sentinel or +cluster")
        return cls(mode, addresses, service, int(path[0]) if path else 0, options)


def _address(text: str, default_port: int) -> Address:
    match = re.fullmatch(r"(\[[^\]]+\]|[^:]+)(?::(\d+))?", text)
    if match is None:
        raise ValueError("a host must look like name:port")
    return match[1].strip("[]"), int(match[2] or default_port)


class Server:
    """The client for a `Place`. Call `open` first and `aclose` last; a loop of its own may reopen it."""

    def __init__(self, place: Place, *, timeout_s: float, prefix: str) -> None:
        self.place = place
        self._timeout_s = timeout_s
        self._prefix = prefix
        self._client: Redis | None = None
        self._cluster: Cluster | None = None
        self._sentinel: Sentinel | None = None

    def __repr__(self) -> str:
        return f"<Server {self.place.mode} {self.place.addresses}>"

    @property
    def is_cluster(self) -> bool:
        return self.place.mode == "cluster"

    @property
    def client(self) -> Redis:
        """Of the one server that has everything; not of a Cluster."""
        assert self._client is not None, "open comes first"
        return self._client

    def open(self) -> None:
        """Make the client; it connects when it is used."""
        match self.place.mode:
            case "standalone":
                (address,) = self.place.addresses
                self._client = self._to(address)
            case "sentinel":
                # The URL holds one password: the sentinels are asked with the same one as the server.
                options = {**self._options(), "db": self.place.database}
                self._sentinel = Sentinel(  # type: ignore[no-untyped-call]
                    list(self.place.addresses), sentinel_kwargs={**self._options(), "socket_timeout": 1.0}, **options
                )
                self._client = self._sentinel.master_for(
                    self.place.service, connection_pool_class=SentinelConnectionPool
                )
            case "cluster":
                self._cluster = Cluster(self.place.addresses, self._to)

    async def aclose(self) -> None:
        if self._client is not None:
            await self._client.aclose()
        if self._cluster is not None:
            await self._cluster.aclose()
        if self._sentinel is not None:
            for sentinel in self._sentinel.sentinels:
                await sentinel.aclose()
        self._client = self._cluster = None

    async def keep(self) -> None:
        """Keep an eye on the servers, until cancelled."""
        if self._cluster is not None:
            await self._cluster.keep()

    async def run(self, key: str, call: Callable[[Redis], Awaitable[T]]) -> T:
        """``call`` with a client for whoever has ``key``. Raises what it raises, see `FAULTS`."""
        if self._cluster is not None:
            return await self._cluster.run(key, call)
        return await call(self.client)

    def home(self, key: str) -> Address:
        """Where ``key`` lies, as far as is known."""
        nowhere = self.place.addresses[0]
        return nowhere if self._cluster is None else self._cluster.home(key) or nowhere

    def suspect(self, key: str) -> None:
        """Whoever has ``key`` does not answer in time."""
        if self._cluster is not None and (address := self._cluster.home(key)) is not None:
            self._cluster.suspect(address)

    async def homes(self, tags: Mapping[int, str]) -> dict[Address, list[int]]:
        """Which partitions live at which address now. Raises `LogUnavailable`."""
        if self._cluster is None:
            return {self.place.addresses[0]: list(tags)}
        await _asked(self._cluster.learn())
        out: dict[Address, list[int]] = {}
        for partition, tag in tags.items():
            address = self._cluster.home(tag)
            if address is not None:
                out.setdefault(address, []).append(partition)
        return out

    def at(self, address: Address) -> Redis:
        """A client for one address, to subscribe there. Of a Sentinel service it is always the primary's."""
        return self.client if self._cluster is None else self._cluster.at(address)

    def _to(self, address: Address) -> Redis:
        pool = BlockingConnectionPool(
            host=address[0],
            port=address[1],
            db=self.place.database,
            max_connections=_CONNECTIONS,
            timeout=self._timeout_s,
            **self._pool_options(),
        )
        return Redis.from_pool(pool)

    def _options(self) -> dict[str, Any]:
        return {
            **self.place.options,
            "socket_timeout": self._timeout_s,
            "socket_connect_timeout": self._timeout_s,
            "socket_keepalive": True,
            "health_check_interval": 0,
            "retry": Retry(NoBackoff(), 0),
            "protocol": 2,
            "client_name": f"turnwire-{self._prefix}",
        }

    def _pool_options(self) -> dict[str, Any]:
        options = self._options()
        if options.pop("ssl", False):
            from redis.asyncio.connection import SSLConnection

            options["connection_class"] = SSLConnection
        return options

    # --- what an operator set ----------------------------------------------------------------------------

    async def primaries(self) -> dict[str, Redis]:
        """Every server that holds data, by its address. Raises `LogUnavailable`."""
        if self._cluster is None:
            host, port = self.place.addresses[0]
            return {f"{host}:{port}": self.client}
        await _asked(self._cluster.learn())
        return {f"{host}:{port}": self.at((host, port)) for host, port in self._cluster.primaries}

    async def _infos(self, section: str) -> dict[str, tuple[Redis, Mapping[str, Any]]]:
        """INFO of all that answer. Raises `LogUnavailable` when none does."""
        found: dict[str, tuple[Redis, Mapping[str, Any]]] = {}
        errors: list[LogUnavailable] = []

        async def ask(name: str, client: Redis) -> None:
            try:
                found[name] = client, await _asked(client.info(section))
            except LogUnavailable as error:
                errors.append(error)

        async with anyio.create_task_group() as tasks:
            for name, client in (await self.primaries()).items():
                tasks.start_soon(ask, name, client)
        if not found:
            raise errors[0] if errors else LogUnavailable("the Redis Cluster has no primary")
        return found

    async def check(self, *, durability: str) -> None:
        """Refuse servers whose settings would break a promise. Raises `UnfitServer` or `LogUnavailable`."""
        if durability == "always" and self.place.mode != "standalone":
            raise UnfitServer('storage.redis_durability = "always" is for one server: a fail-over may lose writes')
        for name, (client, info) in (await self._infos("everything")).items():
            version = str(info["redis_version"])
            if int(version.split(".", 1)[0]) < _OLDEST_MAJOR:
                raise UnfitServer(f"Redis at {name} is version {version}; {_OLDEST_MAJOR} or later is needed")
            policy = info.get("maxmemory_policy", "noeviction")
            if policy != "noeviction":
                raise UnfitServer(
                    f"Redis at {name} has maxmemory-policy {policy}: it would drop turns that run. "
                    "Set maxmemory-policy noeviction"
                )
            if info.get("role", "master") != "master":
                raise UnfitServer(f"Redis at {name} is a replica; the URL must lead to the primary")
            if durability == "always":
                await self._check_always(name, client, info)
            if self.is_cluster and await _setting(client, "cluster-require-full-coverage") == "yes":
                logger.warning(
                    "Redis at %s has cluster-require-full-coverage yes: while one shard is away, all of them refuse. "
                    "Set it to no",
                    name,
                )

    async def _check_always(self, name: str, client: Redis, info: Mapping[str, Any]) -> None:
        if not info.get("aof_enabled") or await _setting(client, "appendfsync") != "always":
            raise UnfitServer(
                f'storage.redis_durability = "always" needs appendonly yes and appendfsync always at {name}'
            )

    async def memory_ratio(self) -> float:
        """The fullest server's share of its ``maxmemory``; 0 where there is no limit."""
        ratios = [0.0]
        for _, info in (await self._infos("memory")).values():
            if info.get("maxmemory"):
                ratios.append(info["used_memory"] / info["maxmemory"])
        return max(ratios)

    async def describe(self) -> dict[str, str]:
        """For `turnwire check`."""
        out: dict[str, str] = {"mode": self.place.mode}
        for name, (_, info) in (await self._infos("everything")).items():
            fsync = "appendonly" if info.get("aof_enabled") else "no append-only file"
            limit = f"{info['maxmemory'] // 2**20} MB" if info.get("maxmemory") else "no limit"
            out[name] = (
                f"Redis {info['redis_version']}, {info.get('maxmemory_policy', 'noeviction')}, {fsync}, memory {limit}"
            )
        return out


async def _setting(client: Redis, name: str) -> str:
    """As CONFIG GET tells it; nothing where that is not allowed."""
    try:
        found = await client.config_get(name)
    except FAULTS:
        return ""
    value: Any = found.get(name, found.get(name.encode()))  # type: ignore[call-overload]
    return value.decode() if isinstance(value, bytes) else str(value)


async def _asked(call: Awaitable[Any]) -> Any:
    try:
        return await call
    except FAULTS as error:
        raise LogUnavailable(f"Redis does not answer: {error}") from error
