"""Two nodes that are one cluster, and everything that a test of faults wants to know about them afterwards.

    async with running_stand() as stand:
        async with stand.client(stand.a) as client:
            await client.create("r1", "c1", "r1")
            ...
            await stand.a.kill()
        async with stand.client(stand.b, before=client) as client:      # goes on with what that one had, cursor and all
            await client.reopen("c1")
            ...
            await stand.check(client, "c1", r1="completed")

Requests are told apart by their input: `stand.says("r1", script, …)` are the provider's answers to it in order, then
and without any it says "one two three of r1" (`answer_to`). `check` judges what must hold after any fault (DESIGN,
guarantees 1, 2, 4, 12 and 13): all clients of the stand were shown the same at the same place, a fresh client on each
node is shown what the one that came through is, one ending each in the archive, in the log and for each client and
epoch, the history as it should be, and one row of the ledger for each call that the provider got.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import orjson
import websockets
from tests.chaos.contents import read_mongo
from tests.chaos.records import Archived
from tests.support.client import CallError, Client, Message, connected
from tests.support.cluster import Cluster, Node, running_cluster
from tests.support.mongo import fresh_database
from tests.support.provider import ControlledProvider, Script, running_provider
from tests.support.redis import RedisServer, shared_redis

from turnwire_protocol import TERMINAL_STATES

LEASE_S = 1.0
LONG_S = 60.0
"""No wait of a test is longer; on a machine with nothing else to do all are far shorter."""
_PAUSE_S = 0.02
_PARTITIONS = 8
"""Each is asked for orphans several times in a lease: with few a node costs a tenth of what it does with 64."""


def answer_to(request_id: str) -> str:
    """What the provider says to it when nothing else was ordered."""
    return f"one two three of {request_id}"


def _as_usual(text: str) -> Script:
    words = answer_to(text).split(" ")
    return Script.text(words[0], *(f" {word}" for word in words[1:]))


class Witness:
    """What all clients of a test were shown."""

    def __init__(self) -> None:
        self.states: dict[tuple[str, str, int], dict[str, Any]] = {}
        """What a client knew that stood at this place of a conversation's log."""
        self.epochs: defaultdict[str, list[str]] = defaultdict(list)
        """Of each conversation, in the order in which they were first shown."""

    def shown(self, conversation_id: str, view: dict[str, Any]) -> None:
        """A client knows so much now. Raises when another one was shown anything else at the same place."""
        epoch, seq = view["epoch"], view["seq"]
        if epoch not in self.epochs[conversation_id]:
            self.epochs[conversation_id].append(epoch)
        known = self.states.setdefault((conversation_id, epoch, seq), view)
        assert known == view, f"two meanings of {conversation_id} {epoch}/{seq}: {known} and {view}"


class Traveller(Client):
    """A client that goes from node to node and tells the witness what it was shown."""

    def __init__(self, witness: Witness, before: Client | None, *args: Any) -> None:
        super().__init__(*args)
        self.witness = witness
        self.ended: Counter[tuple[str, str, str]] = Counter()
        """Terminal events by conversation, epoch and request, over the whole journey."""
        self._mute: set[str] = set()
        self._partial: set[str] = set()
        """Conversations of which it was not told what was before: it was the first to create something in them."""
        self._awaited: set[str] = set()
        """Conversations of which a snapshot was announced and has not come."""
        if isinstance(before, Traveller):
            self.messages = list(before.messages)
            self.ended = before.ended
            self._mute = before._mute

    def _fold(self, frame: list[Message]) -> None:
        super()._fold(frame)
        self._awaited -= {m["conversation_id"] for m in frame if m["type"] == "conversation.snapshot"}
        for conversation_id in {message.get("conversation_id") for message in frame} & set(self.folds):
            fold = self.folds[conversation_id]
            for message in frame:
                if message.get("terminal") and message["conversation_id"] == conversation_id:
                    key = (conversation_id, fold.epoch, message["request_id"])
                    self.ended[key] += 1
                    assert self.ended[key] == 1, f"a second end: {message}"
            if not self._mute & set(fold.active) and conversation_id not in self._partial | self._awaited:
                self.witness.shown(conversation_id, fold.view())

    def _place(self, answer: Message) -> None:
        conversation_id = answer["conversation_id"]
        if answer["verdict"] == "snapshot":
            self._awaited.add(conversation_id)
        if conversation_id in self._awaited:  # `live` as well, meanwhile: from what is about to come
            self._partial.discard(conversation_id)
            return
        if conversation_id in self.folds:
            self._partial.discard(conversation_id)
        elif answer["verdict"] == "live" and answer["seq"] > 0:
            self._partial.add(conversation_id)
        super()._place(answer)

    async def send(self, *commands: Message) -> None:
        # From the answer to a cancel on this connection gets no more deltas of it, so it knows less than others.
        self._mute |= {command["request_id"] for command in commands if command["type"] == "request.cancel"}
        await super().send(*commands)

    async def insist(self, command: Message, wait_s: float = LONG_S) -> Message:
        """Send a command again for as long as it is answered `unavailable`, as clients are to do."""
        deadline = time.monotonic() + wait_s
        while True:
            try:
                return await self.call(command)
            except CallError as error:
                if error.code != "unavailable" or time.monotonic() > deadline:
                    raise
            await asyncio.sleep(_PAUSE_S)

    async def make(self, request_id: str, conversation_id: str, **fields: Any) -> Message:
        """Create a request with its id as input, however often it takes."""
        return await self.insist(creation(request_id, conversation_id, **fields))

    async def reopen(self, conversation_id: str) -> Message:
        """Follow again from where this client stands."""
        return await self.insist(
            {"type": "conversation.open", "conversation_id": conversation_id, "since": self.cursor(conversation_id)}
        )

    def said(self, request_id: str, conversation_id: str = "c1") -> str:
        """The text of an answer as it is known here, whether it has ended or not."""
        fold = self.folds[conversation_id]
        if request_id in fold.active:
            parts: Any = fold.active[request_id].partial.to_parts()
        else:
            parts = next(
                (m.parts for m in fold.messages.values() if m.request_id == request_id and m.role == "assistant"), ()
            )
        return "".join(getattr(part, "text", "") for part in parts)

    async def until_said(self, request_id: str, text: str, conversation_id: str = "c1") -> None:
        """Wait until the answer, as it is known here, begins with ``text``."""
        await self.until(
            lambda: conversation_id in self.folds and self.said(request_id, conversation_id).startswith(text), LONG_S
        )

    async def until_ended(self, conversation_id: str, *request_ids: str) -> None:
        """Wait until these have ended, and nothing else runs."""

        def have_ended() -> bool:
            fold = self.folds.get(conversation_id)
            if fold is None or fold.active:
                return False
            known = {message.request_id for message in fold.messages.values() if message.role == "assistant"}
            return set(request_ids) <= known

        await self.until(have_ended, LONG_S)

    async def until_lost(self, *commands: Message) -> None:
        """Send these and read until the connection is gone."""
        try:
            await self.send(*commands)
            while True:
                await self.read_frame(LONG_S)
        except websockets.ConnectionClosed:
            return


class Stand:
    """Made by `running_stand`."""

    def __init__(
        self,
        cluster: Cluster,
        provider: ControlledProvider,
        redis: RedisServer | None,
        prefix: str,
        mongo: tuple[str, str],
    ) -> None:
        self.cluster = cluster
        self.provider = provider
        self.redis = redis
        self.prefix = prefix
        self.mongo = mongo
        self.witness = Witness()
        self._answers: defaultdict[str, deque[Script]] = defaultdict(deque)
        provider.default = self._answer

    @property
    def a(self) -> Node:
        return self.cluster.nodes[0]

    @property
    def b(self) -> Node:
        return self.cluster.nodes[1]

    def says(self, text: str, *scripts: Script) -> None:
        """What the provider answers to this input, call by call."""
        self._answers[text].extend(scripts)

    def _answer(self, body: dict[str, Any]) -> Script:
        text = str(body["messages"][-1]["content"])
        return self._answers[text].popleft() if self._answers[text] else _as_usual(text)

    def calls(self, text: str) -> int:
        """How often the provider was asked this."""
        return sum(request.messages[-1]["content"] == text for request in self.provider.requests)

    def index_of(self, text: str, nth: int = 0) -> int:
        """The index of the nth request at the provider that asked this."""
        return [n for n, request in enumerate(self.provider.requests) if request.messages[-1]["content"] == text][nth]

    @asynccontextmanager
    async def client(self, node: Node, *, before: Client | None = None) -> AsyncIterator[Traveller]:
        def kind(*args: Any) -> Traveller:
            return Traveller(self.witness, before, *args)

        async with connected(node.url, before=before, kind=kind) as client:
            yield client

    async def archive(self) -> Archived:
        return await asyncio.to_thread(read_mongo, *self.mongo)

    async def until_settled(self) -> None:
        """Wait until the log, after a loss, has been compared with the archive."""
        assert self.redis is not None
        async with asyncio.timeout(LONG_S):
            for partition in range(_PARTITIONS):
                while await self.redis.command("HGET", f"{{{self.prefix}:{partition}}}:meta", "ready") != "1":
                    await asyncio.sleep(_PAUSE_S)

    async def until_archived(self, *request_ids: str, wait_s: float = LONG_S) -> None:
        """Wait until the archive holds the ends of these: where it was away they come some time after the clients'."""
        async with asyncio.timeout(wait_s):
            while True:
                states = {request.request_id: request.state for request in (await self.archive()).requests}
                if all(states.get(request_id) in TERMINAL_STATES for request_id in request_ids):
                    return
                await asyncio.sleep(0.05)

    # --- what must hold --------------------------------------------------------------------------------

    async def check(
        self,
        client: Traveller,
        conversation_id: str,
        outcomes: Mapping[str, str],
        *,
        texts: Mapping[str, str] | None = None,
        spare: int = 0,
        unaccounted: int = 0,
    ) -> None:
        """Judge a conversation whose requests, in this order, have come to these ends. ``client`` has come through.

        ``texts`` are answers that are not the usual one. ``spare`` rows may stand in the ledger for calls that were
        never made: one for each kill. ``unaccounted`` calls may have none: those that log and owner forgot together.
        """
        await client.until_ended(conversation_id, *outcomes)
        expected: list[tuple[str, str, str]] = []
        for request_id, outcome in outcomes.items():
            text = (texts or {}).get(request_id, answer_to(request_id) if outcome == "completed" else None)
            expected.append(("user", "complete", request_id))
            expected.append(("assistant", {"completed": "complete"}.get(outcome, outcome), text or ""))
        for node in self.cluster.up:
            await self._check_newcomer(node, client, conversation_id, expected)
        await self.until_archived(*outcomes)
        archive = await self.archive()
        stored = [request for request in archive.requests if request.conversation_id == conversation_id]
        assert [(r.request_id, r.state, r.outcome) for r in stored] == [(r, o, o) for r, o in outcomes.items()]
        assert [text_of(request.answer) for request in stored] == [text for role, _, text in expected if role != "user"]
        for request_id in outcomes:
            rows = Counter((u.step, u.attempt) for u in archive.usage if u.request_id == request_id)
            assert all(count == 1 for count in rows.values()), rows
            calls = self.calls(request_id)
            assert calls - unaccounted <= len(rows) <= calls + spare, f"{request_id}: {calls} calls, {rows}"
        if self.redis is not None:
            await self._check_log(self.redis, conversation_id)

    async def _check_newcomer(
        self, node: Node, client: Traveller, conversation_id: str, expected: list[tuple[str, str, str]]
    ) -> None:
        async with self.client(node) as fresh:
            await fresh.insist({"type": "conversation.open", "conversation_id": conversation_id})
            await fresh.until(lambda: conversation_id in fresh.folds)
            fold, mine = fresh.folds[conversation_id], client.folds[conversation_id]
            await client.until(lambda: (mine.epoch, mine.seq) == (fold.epoch, fold.seq))
            assert mine.view() == fold.view()
            view = [(m.role, m.status, text_of(m)) for m in fold.branch()]
            assert view == expected, f"{node.name} shows {view}"

    async def _check_log(self, redis: RedisServer, conversation_id: str) -> None:
        """One terminal event for each request that the log itself has seen to its end."""
        terminals: Counter[str] = Counter()
        for entry in await self.entries(redis, conversation_id):
            if entry.get("terminal"):
                terminals[entry["request_id"]] += 1
            else:
                assert entry.get("request_id") not in terminals, f"after the end: {entry}"
        assert all(count == 1 for count in terminals.values()), terminals

    async def entries(self, redis: RedisServer, conversation_id: str) -> list[dict[str, Any]]:
        """The bodies in the log of a conversation of the test's tenant, past the server's own code."""
        for key in await redis.command("KEYS", f"{{{self.prefix}:*}}:s:default/{conversation_id}"):
            stream = await redis.command("XRANGE", key, "-", "+")
            return [orjson.loads(dict(zip(f[::2], f[1::2], strict=True))["b"]) for _, f in stream]
        return []


def creation(request_id: str, conversation_id: str, **fields: Any) -> Message:
    """The command that creates a request with its id as input."""
    return {
        "type": "request.create",
        "request_id": request_id,
        "conversation_id": conversation_id,
        "input": request_id,
        **fields,
    }


def cancelling(request_id: str) -> Message:
    """The command that cancels a request."""
    return {"type": "request.cancel", "request_id": request_id}


def text_of(message: Any) -> str:
    """The text of a message of any kind."""
    if message is None:
        return ""
    parts = message["parts"] if isinstance(message, dict) else message.parts
    return "".join(part.get("text", "") if isinstance(part, dict) else getattr(part, "text", "") for part in parts)


async def until_logged(node: Node, pattern: str, wait_s: float = LONG_S) -> None:
    """Wait until a node has logged something since it was started last."""
    async with asyncio.timeout(wait_s):
        while True:
            if re.search(pattern, node.log_file.read_text().rpartition("--- start ")[2]):
                return
            await asyncio.sleep(_PAUSE_S)


@asynccontextmanager
async def running_stand(
    *,
    nodes: int = 2,
    redis: RedisServer | None = None,
    redis_url: str | None = None,
    mongo_url: str | None = None,
    lease_s: float = LEASE_S,
    **sections: Any,
) -> AsyncIterator[Stand]:
    """A cluster on the servers that all tests share, in a prefix and a database of its own; or on the given ones.

    ``sections`` are for `running_cluster`: settings, and the ``faults`` of the first nodes.
    """
    async with AsyncExitStack() as stack:
        if mongo_url is None:
            mongo_url, database = await stack.enter_async_context(fresh_database())
        else:
            database = "turnwire"
        shared = shared_redis()
        prefix = shared.new_prefix()
        if redis is None and redis_url is None:
            redis = shared.server
        provider = await stack.enter_async_context(running_provider())
        cluster = await stack.enter_async_context(
            running_cluster(
                provider.base_url,
                nodes=nodes,
                redis_port=redis.port if redis is not None and redis_url is None else None,
                redis_url=redis_url,
                mongo_url=mongo_url,
                lease_s=lease_s,
                prefix=prefix,
                database=database,
                **{**sections, "storage": {"partitions": _PARTITIONS, **sections.get("storage", {})}},
            )
        )
        yield Stand(cluster, provider, redis, prefix, (mongo_url, database))


async def at_each(points: Iterable[str], scenario: Callable[[str], Coroutine[Any, Any, None]]) -> None:
    """The same at several points at once, each on a stand of its own: most of a fault's time is waiting for a lease."""

    async def one(point: str) -> None:
        try:
            await scenario(point)
        except BaseException as error:
            error.add_note(f"at {point}")
            raise

    async with asyncio.TaskGroup() as group:
        for point in points:
            group.create_task(one(point))
