"""What is measured: each kind of server, how it is started, which client speaks its wire, and what it needs.

A peer is a rival, built the way its own documentation says; README.md has what each does and does not do. Its packages
lie in an environment of its own, which a make target installs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.processes import ROOT, Command, module

PEER_STREAMS = 20
"""With a hundred, rivals need a core or more: they send late, in fewer writes, or fall behind for good."""


@dataclass(frozen=True, slots=True)
class Places:
    """What the servers use; a store's URL is empty unless a kind that is measured needs it."""

    provider_url: str
    redis_url: str = ""
    cluster_url: str = ""
    mongo_url: str = ""
    collector_url: str = ""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of server."""

    client: str
    """The name of its client in `clients/`."""
    command: Callable[[Places], Command]
    needs: frozenset[str] = frozenset()
    """`redis`, `cluster` (of Redis), `mongo`, `collector` (of traces). The provider is always there."""
    is_on_demand: bool = False
    """Measured only when it is asked for by name."""
    streams: int | None = None
    """How many streams at most; None: `PEER_STREAMS` for a peer, else the plan's."""
    is_idle_measured: bool = False
    installed: Path | None = None
    """What is there once its environment is installed; None for what `make` always sets up."""
    make_target: str = ""

    @property
    def is_peer(self) -> bool:
        return self.installed is not None


def _embedded(places: Places) -> Command:
    return module("turnwire_target", "--provider", places.provider_url)


def _redis(places: Places) -> Command:
    stores = ["--redis-url", places.redis_url, "--mongo-url", places.mongo_url]
    return module("turnwire_target", "--provider", places.provider_url, *stores)


def _cluster(places: Places) -> Command:
    stores = ["--redis-url", places.cluster_url, "--mongo-url", places.mongo_url]
    return module("turnwire_target", "--provider", places.provider_url, *stores)


def _untraced(command: Callable[[Places], Command]) -> Callable[[Places], Command]:
    return lambda places: _with(command(places), "--no-traces")


def _exporting(command: Callable[[Places], Command]) -> Callable[[Places], Command]:
    return lambda places: _with(command(places), "--otlp-url", places.collector_url)


def _with(command: Command, *arguments: str) -> Command:
    return replace(command, argv=[*command.argv, *arguments])


_NODE_PEERS = Path(__file__).parent / "peers" / "node"


def _node(script: str) -> Callable[[Places], Command]:
    """A peer on Node, the one that its packages bring or else the one in PATH."""

    def command(places: Places) -> Command:
        brought = next(_NODE_PEERS.glob("node_modules/node-linux-*/bin/node"), None)
        env = {"NODE_ENV": "production", "BENCH_PROVIDER": places.provider_url, "REDIS_URL": places.redis_url}
        return Command([str(brought or "node"), f"{script}.mjs"], env, _NODE_PEERS)

    return command


def _node_peer(name: str) -> Kind:
    installed = _NODE_PEERS / "node_modules" / ".installed"
    return Kind(name, _node(name), frozenset({"redis"}), installed=installed, make_target="bench-node")


def _python(name: str, environment: str, needs: frozenset[str] = frozenset(), streams: int | None = None) -> Kind:
    """A peer in Python, which its environment's own interpreter runs."""
    folder = ROOT / environment

    def command(places: Places) -> Command:
        serve = [str(folder / "bin" / "python"), "-m", f"benchmarks.peers.{name}.serve"]
        stores = ["--redis-url", places.redis_url] if "redis" in needs else []
        return Command([*serve, "--provider", places.provider_url, *stores])

    return Kind(name, command, needs, streams, installed=folder / ".installed", make_target="bench-python")


KINDS: Mapping[str, Kind] = {
    "bare": Kind("bare", lambda places: module("bare_pipe", "--provider", places.provider_url), is_idle_measured=True),
    "embedded": Kind("turnwire", _embedded, is_idle_measured=True),
    "redis": Kind("turnwire", _redis, frozenset({"redis", "mongo"}), is_idle_measured=True),
    "cluster": Kind("turnwire", _cluster, frozenset({"cluster", "mongo"}), is_on_demand=True),
    # What telemetry costs: nothing kept or sent, and all of it sent to a collector as well as kept.
    "untraced": Kind("turnwire", _untraced(_embedded), is_on_demand=True),
    "exporting": Kind("turnwire", _exporting(_embedded), frozenset({"collector"}), is_on_demand=True),
    "redis_untraced": Kind("turnwire", _untraced(_redis), frozenset({"redis", "mongo"}), is_on_demand=True),
    "redis_exporting": Kind(
        "turnwire", _exporting(_redis), frozenset({"redis", "mongo", "collector"}), is_on_demand=True
    ),
    "socketio": _node_peer("socketio"),
    "aisdk": _node_peer("aisdk"),
    "by_hand": _python("by_hand", ".venv-by-hand", frozenset({"redis"})),
    "chainlit": _python("chainlit", ".venv-chainlit", streams=10),
    "litellm": _python("litellm", ".venv-litellm-proxy", streams=10),
}
DEFAULT = tuple(name for name, kind in KINDS.items() if not (kind.is_peer or kind.is_on_demand))
PEERS = tuple(name for name, kind in KINDS.items() if kind.is_peer)


def runs(names: Sequence[str], streams: int, *, all_with: bool = False) -> list[tuple[str, int]]:
    """What one round measures, each with its number of streams: the plan's, or as many as a peer keeps up with.

    The bare pipe and Turnwire are measured with as many, too, since all cost less a delta the busier they are.
    """

    def most(kind: Kind) -> int:
        return streams if all_with else kind.streams or (PEER_STREAMS if kind.is_peer else streams)

    wanted = {name: min(streams, most(KINDS[name])) for name in names}
    counts = {count for name, count in wanted.items() if name != "bare"} or {streams}
    return [
        (name, count)
        for count in sorted(counts, reverse=True)
        for name in names
        if wanted[name] == count or not KINDS[name].is_peer
    ]


def not_installed(names: Sequence[str]) -> list[str]:
    """For each of these whose environment is not there, what installs it."""
    kinds = ((name, KINDS[name]) for name in names)
    return [
        f"{name}: make {kind.make_target}" for name, kind in kinds if kind.installed and not kind.installed.exists()
    ]
