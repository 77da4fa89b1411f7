"""Several server processes that are one cluster, each of which can be killed, paused, drained and cut off alone.

    async with running_redis() as redis, running_mongo() as mongo, running_provider() as provider:
        async with running_cluster(provider.base_url, redis_port=redis.port, mongo_url=mongo.url) as cluster:
            a, b, c = cluster.nodes
            ... clients connect to a.url ...
            await a.kill(); await a.start()
            await a.start(crash="append:before:4")  # kills itself there, see `cluster_node`
            b.stop(); b.cont()                      # SIGSTOP past the lease, SIGCONT
            await c.terminate()                     # drains; c.exit_code
            a.redis.pause(); b.mongo.cut()          # its own proxies, see `proxy`

Without Redis and MongoDB there is one node with the embedded engines (``nodes=1``), which keeps its directory over
restarts. A node keeps its port as well. Unrealistic in that all nodes have one clock (unless started with a wrong
one) and loopback's speed, and in that a proxy knows one address: Redis Cluster, whose nodes name each other's
real addresses, can be used but not be cut off.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from tests.support.nursery import Process, born
from tests.support.proxy import Proxy, running_proxy
from tests.support.redis import data_root, free_port

START_S = 90.0
Tree = Mapping[str, Any]


class NodeDied(Exception):
    """A node did not start."""


class Node:
    """One node. Made by `running_cluster`; not started twice at once."""

    def __init__(self, name: str, directory: Path, tree: Tree, environ: Mapping[str, str]) -> None:
        self.name = name
        self.directory = directory
        self.tree = tree
        self.environ = environ
        self.port: int = tree["server"]["port"]
        self.starts = 0
        self.redis: Proxy | None = None
        """Between this node and Redis; None in embedded mode, and with Cluster or Sentinel."""
        self.mongo: Proxy | None = None
        """Between this node and MongoDB; None in embedded mode."""
        self._process: Process | None = None
        self._stopped = False

    def __repr__(self) -> str:
        state = "stopped" if self._stopped else "up" if self.is_up else "down"
        return f"<Node {self.name} {state} starts={self.starts}>"

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/v1"

    @property
    def is_up(self) -> bool:
        return self._process is not None and self._process.exit_code is None

    @property
    def is_stopped(self) -> bool:
        return self._stopped

    @property
    def exit_code(self) -> int | None:
        """Of the last start, once it has ended; negative: the signal."""
        return None if self._process is None else self._process.exit_code

    @property
    def pid(self) -> int:
        assert self._process is not None, "it was started before"
        return self._process.pid

    @property
    def log_file(self) -> Path:
        """What the node logged, over all its starts."""
        return self.directory / f"{self.name}.log"

    async def start(self, **faults: Any) -> None:
        """Start it and wait until it listens. ``faults`` are what is to go wrong in it, see `cluster_node`."""
        assert not self.is_up, f"{self!r} runs already"
        self.starts += 1
        arguments = [json.dumps(self.tree), json.dumps(dict(self.environ)), json.dumps(faults)]
        with self.log_file.open("ab") as log:
            log.write(f"--- start {self.starts} {faults or ''} ---\n".encode())
            log.flush()
            self._process = await born(arguments, log=log)
        async with asyncio.timeout(START_S):
            line = await self._process.line()
        if not line:
            await self.gone()
            raise NodeDied(f"{self.name} did not start:\n{self.log_file.read_text()[-4000:]}")

    async def kill(self) -> None:
        """`kill -9`, and wait until it is gone; also of a stopped one."""
        if self.is_up:
            self._signal(signal.SIGKILL)
        await self.gone()

    def stop(self) -> None:
        """SIGSTOP: it is there, its sockets are open, and it does nothing."""
        self._signal(signal.SIGSTOP)
        self._stopped = True

    async def halted(self) -> None:
        """Wait until it has stopped itself, see `cluster_node`; `cont` lets it go on."""
        async with asyncio.timeout(START_S):
            while Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
                await asyncio.sleep(0.005)
        self._stopped = True

    def cont(self) -> None:
        """SIGCONT: it goes on as if no time had passed."""
        self._signal(signal.SIGCONT)
        self._stopped = False

    def drain(self) -> None:
        """SIGTERM, without waiting; `gone` waits for the end."""
        self._signal(signal.SIGTERM)

    async def terminate(self) -> int:
        """SIGTERM; the exit code."""
        self.drain()
        return await self.gone()

    async def gone(self) -> int:
        """Wait for its end; the exit code."""
        assert self._process is not None, "it was started before"
        async with asyncio.timeout(START_S):
            code = await self._process.gone()
        self._stopped = False
        return code

    def _signal(self, number: signal.Signals) -> None:
        # asyncio's own way looks whether it has ended and would signal nobody; a race is no error here.
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)


class Cluster:
    """Made by `running_cluster`."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.nodes = tuple(nodes)

    def __repr__(self) -> str:
        return f"<Cluster {list(self.nodes)}>"

    @property
    def up(self) -> list[Node]:
        """The nodes that run and are not stopped."""
        return [node for node in self.nodes if node.is_up and not node.is_stopped]

    def heal(self) -> None:
        """No network fault and no stopped node any more."""
        for node in self.nodes:
            for proxy in (node.redis, node.mongo):
                if proxy is not None:
                    proxy.resume()
            if node.is_stopped:
                node.cont()

    async def kill(self) -> None:
        """All of them."""
        await asyncio.gather(*(node.kill() for node in self.nodes if node.is_up))


@asynccontextmanager
async def running_cluster(
    provider_url: str,
    *,
    nodes: int = 3,
    redis_port: int | None = None,
    redis_url: str | None = None,
    mongo_url: str | None = None,
    lease_s: float = 1.0,
    prefix: str = "tw",
    database: str = "turnwire",
    directory: Path | None = None,
    environ: Callable[[str], Mapping[str, str]] = lambda _name: {},
    faults: Sequence[Tree] = (),
    **sections: Any,
) -> AsyncIterator[Cluster]:
    """``nodes`` servers that listen inside the block, killed at its end if they still live.

    With ``redis_port`` every node has a proxy to Redis; with ``redis_url`` (Cluster, Sentinel) it has none.
    ``faults`` are those of the first nodes at their first start, see `Node.start`.
    ``sections`` are merged over the settings of every node, table by table, with ``deployment`` for the one that there
    is; ``environ`` gives a node's environment
    from its name. In ``directory`` the nodes leave their logs and, embedded, their data.
    """
    async with AsyncExitStack() as stack:
        place = directory or Path(stack.enter_context(tempfile.TemporaryDirectory(dir=data_root())))
        made = []
        for number in range(1, nodes + 1):
            name = f"node-{number}"
            proxies: dict[str, Proxy] = {}
            storage: dict[str, Any] = {"lease_s": lease_s}
            if redis_port is not None:
                proxies["redis"] = await stack.enter_async_context(running_proxy(redis_port))
                storage |= {"redis_url": f"redis://127.0.0.1:{proxies['redis'].port}/0", "redis_prefix": prefix}
            elif redis_url is not None:
                storage |= {"redis_url": redis_url, "redis_prefix": prefix}
            if mongo_url is not None:
                proxies["mongo"] = await stack.enter_async_context(running_proxy(urlsplit(mongo_url).port or 27017))
                storage |= {"mongo_url": through(mongo_url, proxies["mongo"].port), "mongo_database": database}
            if "redis_url" not in storage and mongo_url is None:
                assert nodes == 1, "the embedded engines have one node"
            data_dir = place / name
            data_dir.mkdir(exist_ok=True)
            node = Node(name, place, _tree(name, data_dir, provider_url, storage, sections), environ(name))
            node.redis, node.mongo = proxies.get("redis"), proxies.get("mongo")
            made.append(node)
        cluster = Cluster(made)
        stack.push_async_callback(cluster.kill)
        given = [*faults, *({} for _ in made)]
        await asyncio.gather(*(node.start(**given[number]) for number, node in enumerate(made)))
        yield cluster


def through(url: str, port: int) -> str:
    """The same address by way of a proxy's port; a driver must not find out the real one and go there."""
    parts = urlsplit(url)
    user, at, _ = parts.netloc.rpartition("@")
    query = parts.query if "directConnection" in parts.query else f"{parts.query}&directConnection=true".lstrip("&")
    return urlunsplit(parts._replace(netloc=f"{user}{at}127.0.0.1:{port}", query=query, path=parts.path or "/"))


def _tree(name: str, data_dir: Path, provider_url: str, storage: Tree, sections: Tree) -> dict[str, Any]:
    tree: dict[str, Any] = {
        "server": {
            "port": free_port(),
            "data_dir": str(data_dir),
            "node_id": name,
            "drain_s": 2,
            "playground": False,
            "log_level": "info",
        },
        "storage": dict(storage),
        "limits": {"commands_per_s": 10_000, "errors_per_minute": 10_000, "connections_per_user": 1_000},
        "deployments": [{"name": "test", "model": "test-model", "base_url": provider_url}],
        "routes": [{"name": "default", "deployments": ["test"], "max_attempts": 1}],
    }
    for section, values in sections.items():
        if section == "deployment":
            tree["deployments"] = [{**tree["deployments"][0], **values}]
            continue
        tree[section] = {**tree.get(section, {}), **values} if isinstance(values, Mapping) else values
    return tree
