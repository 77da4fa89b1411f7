"""One client of a chaos round: follows conversations, asks, repeats, cancels, loses its connection and comes back.

It behaves as the protocol asks of a good client: a create that was not answered is sent again with its id, a
conversation is taken up again at the cursor, and one in which it has cancelled something that it has not seen end is
opened without. It judges nothing and folds nothing: it writes everything down, and `checker` reads it afterwards. All
connections go through a proxy of its own, so that it can be cut off alone.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import websockets
from tests.chaos.answers import input_text
from tests.chaos.records import Message, Recorder
from tests.chaos.schedule import Act, Schedule, own_conversation
from tests.support.cluster import Node
from tests.support.proxy import Proxy

from turnwire_protocol import codec_for

ANSWER_S = 6.0
"""So long a client waits for an answer before it takes the connection for dead. Commands are answered within 10 s, but
a node that is paused answers nothing, and no client would wait for it for so long."""
CONNECT_S = 2.0
LATER = frozenset({"unavailable", "overloaded", "rate_limited"})
"""Errors after which the same command is sent again."""


@dataclass(slots=True)
class Known:
    """A request as the clients together know it, only to decide when something is to be done to it."""

    request_id: str
    conversation_id: str
    text: str
    author: int
    owned: bool = False
    started: asyncio.Event = field(default_factory=asyncio.Event)
    speaks: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class World:
    """What the clients of a round share."""

    def __init__(self, schedule: Schedule, nodes: Sequence[Node], recorder: Recorder) -> None:
        self.schedule = schedule
        self.nodes = nodes
        self.recorder = recorder
        self.requests: dict[str, Known] = {}
        self.clients: list[ChaosClient] = []
        self.closing = asyncio.Event()
        """Set when nothing new is begun any more."""

    def saw(self, event: Message) -> None:
        """Somebody was shown this event."""
        known = self.requests.get(event.get("request_id", ""))
        if known is None:
            return
        kind = event["type"]
        if event.get("terminal"):
            for happened in (known.started, known.speaks, known.ended):
                happened.set()
        elif kind == "message.started":
            known.started.set()
        elif kind in ("output_text.delta", "tool.started"):
            known.speaks.set()


class ChaosClient:
    """Client ``number`` of a round; `run` carries out its acts."""

    def __init__(self, world: World, number: int, proxy: Proxy, *, name: str = "") -> None:
        self.name = name or f"client-{number}"
        self.proxy = proxy
        self._world = world
        self._number = number
        self._codec = codec_for(world.schedule.codecs[number % len(world.schedule.codecs)])
        # Where to connect next is not part of the schedule: how often it is asked is up to what happens.
        self._rng = random.Random(f"{world.schedule.seed}:way:{self.name}")
        self._marks = itertools.count(1)
        self._connections = 0
        self._socket: websockets.ClientConnection | None = None
        self._node = ""
        self._reader: asyncio.Task[None] | None = None
        self._answers: dict[str, asyncio.Future[Message | None]] = {}
        self._connecting = asyncio.Lock()
        self.cursors: dict[str, Message] = {}
        self._following: set[str] = set()
        self._unsure: dict[str, str] = {}
        """Requests that were cancelled here and have not been seen to end, with their conversations."""
        self._moved = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._way = "open"
        self._wanted_node = 1

    def __repr__(self) -> str:
        return f"<{self.name} at {self._node or 'nowhere'} follows={sorted(self._following)}>"

    # --- acts -------------------------------------------------------------------------------------------

    async def run(self, acts: Sequence[Act]) -> None:
        """Carry out the acts until the round closes, and see through what was begun."""
        self._wanted_node = acts[0].node if acts else 1
        for act in acts:
            if await self._closes_within(act.wait):
                break
            await self._carry_out(act)
        await asyncio.gather(*tuple(self._tasks))

    async def _carry_out(self, act: Act) -> None:
        match act.kind:
            case "create":
                self._spawn(self._create(act))
            case "create and leave":
                await self._create_and_leave(act)
            case "drop":
                await self._drop(act)
            case "status":
                if request := self._any_request(act.number):
                    await self.call({"type": "request.status", "request_id": request.request_id})
            case "repeat":
                if request := self._any_request(act.number):
                    self._spawn(self._repeat(request, act))
            case "conflict":
                if request := self._any_request(act.number):
                    await self.call(self._creation(request, text=f"{request.text} and something else"))
            case "cancel unknown":
                await self._cancel(f"nobody-{self._number}-{act.number}-{next(self._marks)}", "")
            case "cancel known":
                if request := self._any_request(act.number, running=True):
                    await self._cancel(request.request_id, request.conversation_id)
            case "open again":
                await self.open(act.conversation)
            case _:
                raise AssertionError(act.kind)

    def _any_request(self, number: int, *, running: bool = False) -> Known | None:
        """One of the owned requests, but nobody else's in a conversation of its own: who repeats it would follow it."""
        known = [
            r
            for r in self._world.requests.values()
            if r.owned and not (running and r.ended.is_set()) and self._may_follow(r)
        ]
        return known[number % len(known)] if known else None

    async def _create(self, act: Act) -> None:
        request_id = _request_id(self._world.schedule.seed, self._number, act.number)
        text = input_text(request_id, act.words)
        request = Known(request_id, act.conversation, text, self._number)
        self._world.requests[request_id] = request
        if act.cancel == "before":
            await self._cancel(request_id, act.conversation)
        if act.again:
            self._spawn(self._repeat(request, act))
        if act.cancel not in ("", "before", "in the same frame"):
            self._spawn(self._cancel_in_time(request, act))
        beside = [{"type": "request.cancel", "request_id": request_id}] if act.cancel == "in the same frame" else []
        await self._until_owned(request, beside)

    def _may_follow(self, request: Known) -> bool:
        return request.author == self._number or request.conversation_id != own_conversation(request.author)

    async def _create_and_leave(self, act: Act) -> None:
        """Ask, and be gone for longer than the grace time while nobody else follows: the turn must go on."""
        await self._create(replace(act, again="", cancel=""))
        request = self._world.requests[_request_id(self._world.schedule.seed, self._number, act.number)]
        with suppress(TimeoutError):
            async with asyncio.timeout(2):
                await request.started.wait()
        await self._hang_up()
        if not await self._closes_within(0.6 + (act.words % 4) / 5):
            await self.connected()

    async def _until_owned(self, request: Known, beside: Sequence[Message] = ()) -> None:
        """Send the create until it is owned or refused for good."""
        while True:
            answer = await self.call(self._creation(request), *beside)
            beside = ()
            if answer is not None and answer["type"] == "ack":
                request.owned = True
                return
            if answer is not None and answer["code"] not in LATER:
                return
            if self._world.closing.is_set() and answer is None and self._socket is None:
                return
            await asyncio.sleep(self._rng.uniform(0.1, 0.5))

    def _creation(self, request: Known, text: str = "") -> Message:
        command: Message = {
            "type": "request.create",
            "request_id": request.request_id,
            "conversation_id": request.conversation_id,
            "input": text or request.text,
        }
        # A conversation that is not followed yet is taken up where this client left it.
        if request.conversation_id not in self._following and (since := self._since(request.conversation_id)):
            command["since"] = since
        return command

    async def _repeat(self, request: Known, act: Act) -> None:
        """The same create once more, by a connection that may be another's."""
        await asyncio.sleep(self._rng.uniform(0, 0.3))
        other = self._world.clients[act.other]
        if act.again == "other node" and other._may_follow(request):
            await other._until_owned(request)
        else:
            await self._until_owned(request)

    async def _cancel_in_time(self, request: Known, act: Act) -> None:
        waits: dict[str, asyncio.Event] = {"when started": request.started, "at the first delta": request.speaks}
        awaited = waits.get(act.cancel, request.speaks if act.cancel in ("twice", "by another") else None)
        if awaited is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(5):
                    await awaited.wait()
        client = self._world.clients[act.other] if act.cancel == "by another" else self
        await client._cancel(request.request_id, request.conversation_id)
        if act.cancel == "twice":
            await client._cancel(request.request_id, request.conversation_id)

    async def _cancel(self, request_id: str, conversation_id: str) -> None:
        """Sent until it is answered: what is not acknowledged counts for nothing."""
        for _ in range(20):
            answer = await self.call({"type": "request.cancel", "request_id": request_id})
            if answer is not None and answer.get("code") not in LATER:
                if answer.get("outcome") == "cancelling" and conversation_id:
                    known = self._world.requests.get(request_id)
                    if known is None or not known.ended.is_set():
                        self._unsure[request_id] = conversation_id
                return
            if self._world.closing.is_set():
                return
            await asyncio.sleep(self._rng.uniform(0.1, 0.5))

    async def _drop(self, act: Act) -> None:
        """Lose the connection and come back, to any node and in any way."""
        self._wanted_node, self._way = act.node, act.way
        if self._socket is not None:
            if act.number % 2:
                self.proxy.cut()
            else:
                await self._hang_up()
        if not await self._closes_within((act.number % 7) / 7):
            await self.connected()

    # --- commands ---------------------------------------------------------------------------------------

    async def call(self, command: Message, *beside: Message, wait_s: float = ANSWER_S) -> Message | None:
        """Send a command (and others in the same frame) and return its answer; None when none came."""
        if not await self.connected():
            return None
        return await self._ask(command, *beside, wait_s=wait_s)

    async def _ask(self, command: Message, *beside: Message, wait_s: float = ANSWER_S) -> Message | None:
        mark = f"m{next(self._marks)}"
        future: asyncio.Future[Message | None] = asyncio.get_running_loop().create_future()
        self._answers[mark] = future
        try:
            await self._send({**command, "id": mark}, *({**b, "id": f"m{next(self._marks)}"} for b in beside))
            async with asyncio.timeout(wait_s):
                return await future
        except TimeoutError:
            await self._hang_up("no answer")
            return None
        except websockets.ConnectionClosed:
            return None
        finally:
            self._answers.pop(mark, None)

    async def open(self, conversation_id: str) -> Message | None:
        """Follow a conversation from where this client left it; for one that is followed, ask where it stands."""
        if not await self.connected():
            return None
        return await self._open(conversation_id)

    async def _open(self, conversation_id: str) -> Message | None:
        command: Message = {"type": "conversation.open", "conversation_id": conversation_id}
        if conversation_id not in self._following and (since := self._since(conversation_id)):
            command["since"] = since
        return await self._ask(command)

    def _since(self, conversation_id: str) -> Message | None:
        if conversation_id in self._unsure.values():
            return None
        return self.cursors.get(conversation_id)

    async def _send(self, *commands: Message) -> None:
        socket = self._socket
        if socket is None:
            raise websockets.ConnectionClosedError(None, None)
        frame = self._codec.join([self._codec.encode(command) for command in commands])
        self._world.recorder.add(self.name, self._connections, self._node, "sent", list(commands))
        await socket.send(frame if self._codec.binary else frame.decode())

    # --- the connection ---------------------------------------------------------------------------------

    async def connected(self, limit_s: float = 8.0) -> bool:
        """Have a connection that has said hello and follows what it is to follow; False when there is none to be had
        within the time. Nodes that do not answer are passed over."""
        async with self._connecting:
            with suppress(TimeoutError):
                async with asyncio.timeout(limit_s):
                    while self._socket is None:
                        node = self._world.nodes[(self._wanted_node - 1) % len(self._world.nodes)]
                        if not await self._connect(node):
                            await self._hang_up()
                            self._wanted_node += 1
                            await asyncio.sleep(self._rng.uniform(0.05, 0.3))
                    return True
            await self._hang_up()
            return False

    async def _connect(self, node: Node) -> bool:
        self.proxy.target = node.port
        try:
            async with asyncio.timeout(CONNECT_S):
                socket = await websockets.connect(
                    node.url,
                    host="127.0.0.1",
                    port=self.proxy.port,
                    subprotocols=[websockets.Subprotocol(self._codec.name)],
                    max_size=None,
                    compression=None,
                    ping_interval=None,
                    close_timeout=0.5,
                    open_timeout=None,
                )
        except (OSError, EOFError, TimeoutError, websockets.WebSocketException):
            return False
        self._connections += 1
        self._node = node.name
        self._following = set()
        self._world.recorder.add(self.name, self._connections, self._node, "connected")
        self._socket = socket
        self._reader = asyncio.create_task(self._read(socket, self._connections))
        if await self._ask(self._hello(), wait_s=CONNECT_S) is None or not await self._take_up():
            return False
        return self._socket is socket

    def _hello(self) -> Message:
        hello: Message = {"type": "hello", "client": {"name": "chaos", "version": "1", "instance_id": self.name}}
        if self._way == "hello":
            follows = self._follows()
            entries = [{"conversation_id": c, "since": since} for c in follows if (since := self._since(c))]
            hello["resume"] = entries
        return hello

    def _follows(self) -> tuple[str, ...]:
        every = self._world.schedule
        return every.follows[self._number] if self._number < len(every.follows) else every.conversations

    async def _take_up(self) -> bool:
        """Follow again what was followed before."""
        if self._way == "resume":
            mine = [r for r in self._world.requests.values() if r.owned and r.conversation_id in self._follows()]
            if mine:
                request = mine[-1]
                command: Message = {"type": "request.resume", "request_id": request.request_id}
                if since := self._since(request.conversation_id):
                    command["since"] = since
                if await self._ask(command) is None:
                    return False
        for conversation_id in self._follows():
            if conversation_id not in self._following:
                answer = await self._open(conversation_id)
                if answer is None or answer["type"] == "error":
                    return False
        return True

    async def _hang_up(self, note: str = "") -> None:
        socket, self._socket = self._socket, None
        if socket is not None:
            if note:
                self._world.recorder.add(self.name, self._connections, self._node, "closed", note=note)
            with suppress(Exception):
                async with asyncio.timeout(1):
                    await socket.close()
            socket.transport.abort()
        if self._reader is not None and self._reader is not asyncio.current_task():
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
            self._reader = None

    async def _read(self, socket: websockets.ClientConnection, connection: int) -> None:
        note = ""
        try:
            async for data in socket:
                frame = [message for message in self._codec.decode(data) if isinstance(message, dict)]
                self._world.recorder.add(self.name, connection, self._node, "frame", frame)
                self._take(frame)
            note = f"{socket.close_code} {socket.close_reason}"
        except websockets.ConnectionClosed as closed:
            note = str(closed)
        finally:
            self._world.recorder.add(self.name, connection, self._node, "closed", note=note)
            if self._socket is socket:
                self._socket = None
                self._following = set()
                self._wanted_node += 1
            for future in self._answers.values():
                if not future.done():
                    future.set_result(None)

    def _take(self, frame: Sequence[Message]) -> None:
        ends: dict[str, int] = {}
        for message in frame:
            kind = message["type"]
            conversation_id = message.get("conversation_id", "")
            if kind == "goaway":
                self._wanted_node += 1
                self._spawn(self._go_elsewhere())
            elif kind == "conversation.snapshot":
                self.cursors[conversation_id] = {"epoch": message["epoch"], "seq": message["seq"]}
                for request_id in [r for r, c in self._unsure.items() if c == conversation_id]:
                    if all(active["request_id"] != request_id for active in message["active"]):
                        del self._unsure[request_id]
                ends.pop(conversation_id, None)
            elif "verdict" in message:
                self._placed(message, conversation_id)
            elif "seq" in message:
                ends[conversation_id] = max(message["seq"], ends.get(conversation_id, 0))
                self._world.saw(message)
                if message.get("terminal"):
                    self._unsure.pop(message["request_id"], None)
            if (future := self._answers.get(message.get("ref", ""))) is not None and not future.done():
                future.set_result(message)
        for conversation_id, seq in ends.items():
            cursor = self.cursors.get(conversation_id)
            if cursor is not None and seq > cursor["seq"]:
                cursor = self.cursors[conversation_id] = {"epoch": cursor["epoch"], "seq": seq}
        self._moved.set()
        self._moved = asyncio.Event()

    def _placed(self, answer: Message, conversation_id: str) -> None:
        was_following = conversation_id in self._following
        self._following.add(conversation_id)
        if answer["verdict"] == "live" and not was_following:
            self.cursors[conversation_id] = {"epoch": answer["epoch"], "seq": answer["seq"]}

    async def _go_elsewhere(self) -> None:
        """Told to go: come back to another node after a moment."""
        if not await self._closes_within(self._rng.uniform(0.05, 0.5)):
            await self._come_back()

    async def _come_back(self) -> None:
        await self._hang_up()
        await self.connected()

    # --- the end ----------------------------------------------------------------------------------------

    async def settle(self, limit_s: float) -> list[str]:
        """With everything healed: read every followed conversation to its end. Returns what did not work."""
        failures = []
        for conversation_id in self._follows():
            try:
                async with asyncio.timeout(limit_s):
                    while not await self._is_at_end(conversation_id):
                        await asyncio.sleep(0.05)
            except TimeoutError:
                failures.append(f"{self.name} did not get to the end of {conversation_id} ({self!r})")
        return failures

    async def _is_at_end(self, conversation_id: str) -> bool:
        """Ask where the log ends, and read until there."""
        answer = await self.open(conversation_id)
        if answer is None or answer["type"] == "error":
            return False
        with suppress(TimeoutError):
            async with asyncio.timeout(3):
                while True:
                    cursor = self.cursors.get(conversation_id, {})
                    if cursor.get("epoch") == answer["epoch"] and cursor["seq"] >= answer["seq"]:
                        return True
                    await self._moved.wait()
        return False

    async def aclose(self) -> None:
        """Hang up for good."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*tuple(self._tasks), return_exceptions=True)
        await self._hang_up()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _closes_within(self, seconds: float) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._world.closing.wait()
        return self._world.closing.is_set()


def _request_id(seed: int, client: int, number: int) -> str:
    return f"s{seed}.c{client}.{number}"
