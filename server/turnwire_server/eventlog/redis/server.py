"""What stands behind ``storage.redis_url``: one server, the current primary of a Sentinel service, or a Cluster.

The rest of the engine sees a client that runs scripts and, per address, the partitions that live there. Nothing here
repeats a call by itself: a lost reply does not say whether a script was run, so only the caller may send it again.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast
from urllib.parse import parse_qsl, unquote, urlsplit

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from turnwire_server.eventlog.base import LogUnavailable

Mode = Literal["standalone", "sentinel", "cluster"]
Address = tuple[str, int]

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

FAULTS = (RedisError, OSError, TimeoutError, RuntimeError)
"""What a call may raise when the server does not answer. RuntimeError: uvloop, for a socket that was just closed."""


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
        self._client: Any = None
        self._sentinel: Sentinel | None = None
        self._nodes: dict[Address, Redis] = {}

    def __repr__(self) -> str:
        return f"<Server {self.place.mode} {self.place.addresses}>"

    @property
    def is_cluster(self) -> bool:
        return self.place.mode == "cluster"

    @property
    def client(self) -> Any:
        """Runs a command where its first key lies."""
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
                self._client = RedisCluster(
                    startup_nodes=[ClusterNode(host, port) for host, port in self.place.addresses],
                    require_full_coverage=False,
                    cluster_error_retry_attempts=0,
                    max_connections=_CONNECTIONS,
                    **self._options(),
                )

    async def aclose(self) -> None:
        for client in (*self._nodes.values(), *([self._client] if self._client is not None else [])):
            await client.aclose()
        if self._sentinel is not None:
            for sentinel in self._sentinel.sentinels:
                await sentinel.aclose()
        self._nodes.clear()
        self._client = None

    async def homes(self, tags: Mapping[int, str]) -> dict[Address, list[int]]:
        """Which partitions live at which address now. Raises `LogUnavailable`."""
        if not self.is_cluster:
            return {self.place.addresses[0]: list(tags)}
        cluster = cast("RedisCluster", self.client)
        out: dict[Address, list[int]] = {}
        try:
            await cluster.initialize()
            for partition, tag in tags.items():
                node = cluster.nodes_manager.get_node_from_slot(cluster.keyslot(tag))
                out.setdefault((node.host, int(node.port)), []).append(partition)
        except FAULTS as error:
            raise LogUnavailable(f"the Redis Cluster does not answer: {error}") from error
        return out

    def at(self, address: Address) -> Redis:
        """A client for one address, to subscribe there. Of a Sentinel service it is always the primary's."""
        if not self.is_cluster:
            return cast("Redis", self.client)
        if address not in self._nodes:
            self._nodes[address] = self._to(address)
        return self._nodes[address]

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
        """Every server that holds data, by its address."""
        if not self.is_cluster:
            host, port = self.place.addresses[0]
            return {f"{host}:{port}": self.client}
        cluster = cast("RedisCluster", self.client)
        await cluster.initialize()
        return {f"{node.host}:{node.port}": self.at((node.host, int(node.port))) for node in cluster.get_primaries()}

    async def check(self, *, durability: str) -> None:
        """Refuse servers whose settings would break a promise. Raises `UnfitServer` or `LogUnavailable`."""
        if durability == "always" and self.place.mode != "standalone":
            raise UnfitServer('storage.redis_durability = "always" is for one server: a fail-over may lose writes')
        for name, client in (await _asked(self.primaries())).items():
            info = await _asked(client.info("everything"))
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

    async def _check_always(self, name: str, client: Redis, info: Mapping[str, Any]) -> None:
        fsync = await _asked(client.config_get("appendfsync"))
        if not info.get("aof_enabled") or fsync.get("appendfsync", fsync.get(b"appendfsync")) not in (
            "always",
            b"always",
        ):
            raise UnfitServer(
                f'storage.redis_durability = "always" needs appendonly yes and appendfsync always at {name}'
            )

    async def memory_ratio(self) -> float:
        """The fullest server's share of its ``maxmemory``; 0 where there is no limit."""
        ratios = [0.0]
        for client in (await _asked(self.primaries())).values():
            info = await _asked(client.info("memory"))
            if info.get("maxmemory"):
                ratios.append(info["used_memory"] / info["maxmemory"])
        return max(ratios)

    async def describe(self) -> dict[str, str]:
        """For `turnwire check`."""
        out: dict[str, str] = {"mode": self.place.mode}
        for name, client in (await _asked(self.primaries())).items():
            info = await _asked(client.info("everything"))
            fsync = "appendonly" if info.get("aof_enabled") else "no append-only file"
            limit = f"{info['maxmemory'] // 2**20} MB" if info.get("maxmemory") else "no limit"
            out[name] = (
                f"Redis {info['redis_version']}, {info.get('maxmemory_policy', 'noeviction')}, {fsync}, memory {limit}"
            )
        return out


async def _asked(call: Awaitable[Any]) -> Any:
    try:
        return await call
    except FAULTS as error:
        raise LogUnavailable(f"Redis does not answer: {error}") from error
