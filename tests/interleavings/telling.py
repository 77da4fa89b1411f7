"""Carries a plan out against a server, and writes down what everybody saw and when."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

import websockets
from tests.support.client import Client, Message, connected
from tests.support.server import token

from turnwire_protocol import Entry
from turnwire_server.app import App
from turnwire_server.archive.base import UsageRow
from turnwire_server.eventlog.base import ConversationRef

from .plan import CLIENT_TOOLS, END, LIMITS, TABS, Act, Plan
from .scripted import Asked, Model
from .timed_tools import RUNS, Run

AUTHOR, STRANGER, TENANT = "alice", "bob", "acme"
_FOR_EVER_S = 1e9
NEVER = float("inf")
_PATIENCE_S = 2.5
_CREATES = {"steer": "steer", "queue": "queue", "supersede": "interrupt"}
# Of what is done next when a turn hangs: its deadline, its tools' time, the patience of whoever waits.
ENDS_WITHIN_S = 15 * LIMITS["turn_deadline_s"]


@dataclass
class Sent:
    """A command on its way. ``answered`` is when its answer came, ``done`` when it was carried out at the latest."""

    tab: Tab
    at: float
    command: Message
    answer: Message | None = None
    answered: float = NEVER
    done: float = NEVER

    @property
    def kind(self) -> str:
        return str(self.command["type"])

    @property
    def outcome(self) -> str:
        """What was answered: an outcome, a state, the code of an error, or nothing."""
        answer = self.answer or {}
        return str(answer.get("code") or answer.get("outcome") or answer.get("state") or answer.get("type") or "")


class Tab:
    """One connection; reads all the time."""

    def __init__(self, name: str, client: Client) -> None:
        self.name = name
        self.client = client
        self.received: list[tuple[float, Message]] = []
        self.sent: list[Sent] = []
        self.opened_at = asyncio.get_running_loop().time()
        self.closed_at = NEVER
        self.error: Exception | None = None
        self._news = asyncio.Event()

    async def read(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                for message in await self.client.read_frame(_FOR_EVER_S):
                    self.received.append((loop.time(), message))
                    self._answered(loop.time(), message)
                self._tell()
        except websockets.ConnectionClosed:
            self.closed_at = min(self.closed_at, loop.time())
        except Exception as error:  # what the client found wrong is judged with the rest
            self.error = error
        finally:
            self._tell()

    def _answered(self, now: float, message: Message) -> None:
        for sent in self.sent:
            if "ref" in message and sent.command["id"] == message["ref"]:
                sent.answer, sent.answered = message, now
                for before in self.sent[: self.sent.index(sent) + 1]:
                    before.done = min(before.done, now)  # commands are carried out in order

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def until_news(self) -> None:
        await self._news.wait()

    async def until(self, condition: Callable[[], Any]) -> None:
        """Until it holds, or the connection is gone."""
        while not condition() and self.error is None and self.closed_at == NEVER:
            await self._news.wait()

    async def send(self, command: Message, *, waits: bool) -> Sent:
        sent = Sent(self, asyncio.get_running_loop().time(), command)
        self.sent.append(sent)
        await self.client.send(command)
        if waits:
            await self.until(lambda: sent.answer is not None)
        return sent

    def ended(self, request_id: str) -> bool:
        return any(m.get("terminal") and m["request_id"] == request_id for _, m in self.received)


@dataclass
class Record:
    """All there is to judge by. Times are the loop's; those of the log count from ``epoch_ms``."""

    plan: Plan
    tabs: list[Tab] = field(default_factory=list)
    onlooker: Tab | None = None
    requests: list[str] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    usage: dict[str, list[UsageRow]] = field(default_factory=dict)
    history: list[Message] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    away: list[tuple[float, float]] = field(default_factory=list)
    """When no connection of the author was there."""

    @property
    def sent(self) -> list[Sent]:
        return [sent for tab in self.tabs for sent in tab.sent]

    def id(self, which: str) -> str:
        return f"{self.plan.name}.{which}"


class Teller:
    """Tells one story."""

    def __init__(self, plan: Plan, app: App, model: Model, tasks: asyncio.TaskGroup) -> None:
        self.record = Record(plan)
        self._plan = plan
        self._app = app
        self._model = model
        self._tasks = tasks
        self._tabs: dict[str, Tab] = {}
        self._stack = AsyncExitStack()
        self._marks = itertools.count(1)
        model.steps[plan.name].extend(plan.steps)

    async def tell(self) -> Record:
        loop = asyncio.get_running_loop()
        async with self._stack, asyncio.timeout(ENDS_WITHIN_S * 4):
            for name in TABS:
                self._tabs[name] = await self._connect(name, AUTHOR)
                self.record.tabs.append(self._tabs[name])
                await self._open(self._tabs[name], visibility="tenant")
            self.record.onlooker = onlooker = await self._connect("O", STRANGER)
            await self._open(onlooker)
            await self._create(self._tabs["A"], "r", {"on_disconnect": self._plan.on_disconnect}, waits=True)
            for act in self._plan.acts:
                if act.by is not None:
                    await self._until_next(onlooker, act.by)
                await asyncio.sleep(act.after_s)
                await self._do(act)
            self._note_away()
            for tab in self._tabs.values():
                if tab.closed_at == NEVER:
                    await tab.send({"type": "ping", "id": self._mark()}, waits=True)
            await asyncio.sleep(1)  # what was said and not waited for has been carried out, or never will be
            began = loop.time()
            for request_id in self._created():
                await onlooker.until(lambda request_id=request_id: onlooker.ended(request_id))
            assert loop.time() - began < ENDS_WITHIN_S, f"it took {loop.time() - began:.1f} s to end"
            if "A" not in self._here():
                await self._come_back("A")
            self._model.steps[self._plan.name].clear()
            await self._create(self._tabs["A"], "last", {}, waits=True)
            for tab in (self._tabs["A"], onlooker):
                await tab.until(lambda tab=tab: tab.ended(self._id("last")))
            await self._collect()
        return self.record

    async def _until_next(self, onlooker: Tab, kind: str) -> None:
        """Until something happens once more; not for long, since it may have happened for the last time."""

        def count() -> int:
            if kind == END:
                return self._model.ended[self._plan.name]
            return sum(message["type"] == kind for _, message in onlooker.received)

        before = count()
        with suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE_S):
                while count() == before:
                    await (self._model.has_ended(self._plan.name) if kind == END else onlooker.until_news())

    # --- doing -------------------------------------------------------------------------------------------

    async def _do(self, act: Act) -> None:
        tab = self._tabs[act.tab]
        if act.what == "come back" and act.tab not in self._here():
            await self._come_back(act.tab)
            return
        if act.tab not in self._here():
            return
        target = self.record.requests[-1] if act.newest else self.record.requests[0]
        command: Message = {"request_id": target}
        match act.what:
            case "come back":
                return
            case "leave":
                await self._leave(act.tab)
                return
            case "all leave":
                for name in sorted(self._here()):
                    await self._leave(name)
                return
            case "open again":
                await self._open_again(tab)
                return
            case "steer" | "queue" | "supersede":
                which = f"{act.what}{len(self.record.requests)}"
                await self._create(tab, which, {"on_busy": _CREATES[act.what]}, waits=act.waits)
                return
            case "tentative" | "retracted" | "confirmed":
                command |= {"type": "request.interrupt", "phase": act.what}
                if act.place is not None:
                    command["presented"] = {"part": act.place[0], "offset": act.place[1]}
                elif act.words is not None:
                    words = tab.client.text(target).split()[: act.words]
                    command["presented"] = {"text": " ".join(words)}
            case "presented":
                assert act.place is not None, "drawn with it"
                command |= {"type": "request.presented", "part": act.place[0], "offset": act.place[1]}
            case "cancel":
                command |= {"type": "request.cancel"}
            case _:
                call = self._newest_call(tab, act.what)
                if call is None:
                    return
                command = call
        await tab.send({**command, "id": self._mark()}, waits=act.waits and act.what != "presented")

    def _newest_call(self, tab: Tab, what: str) -> Message | None:
        """The command about the newest call that this tab knows to be open."""
        kinds = {
            "claim": ("tool.claim", ("tool.called",)),
            "result": ("tool.result", ("tool.running", "tool.called")),
            "approve": ("tool.approve", ("tool.approval_required",)),
            "deny": ("tool.deny", ("tool.approval_required",)),
            "cancel call": ("tool.cancel", ("tool.called",)),
        }
        kind, known_by = kinds[what]
        for _, message in reversed(tab.received):
            if message["type"] in known_by and (what != "claim" or message["where"] == "client"):
                command: Message = {"type": kind, "request_id": message["request_id"], "call_id": message["call_id"]}
                if what == "result":
                    command["output"] = {"by": tab.name, "mark": next(self._marks)}
                return command
        return None

    async def _create(self, tab: Tab, which: str, fields: Message, *, waits: bool) -> None:
        self.record.requests.append(self._id(which))
        command = {
            "type": "request.create",
            "id": self._mark(),
            "request_id": self._id(which),
            "conversation_id": self._plan.name,
            "input": f"<{self._id(which)}>",
            "tools": CLIENT_TOOLS,
            **fields,
        }
        await tab.send(command, waits=waits)

    async def _open(self, tab: Tab, **fields: Any) -> None:
        command = {"type": "conversation.open", "id": self._mark(), "conversation_id": self._plan.name, **fields}
        await tab.send(command, waits=True)

    async def _open_again(self, tab: Tab) -> None:
        known = self._plan.name in tab.client.folds
        await self._open(tab, **({"since": tab.client.cursor(self._plan.name)} if known else {}))

    async def _connect(self, name: str, user: str, before: Client | None = None) -> Tab:
        options: dict[str, Any] = {"token": token(user, TENANT, ttl_s=_FOR_EVER_S), "hello": False, "before": before}
        client = await self._stack.enter_async_context(connected(self._app.url, **options))
        tab = Tab(name, client)
        self._tasks.create_task(tab.read())
        who = {"name": "tab", "version": "1", "instance_id": f"{self._plan.name}.{name}"}
        await tab.send({"type": "hello", "id": self._mark(), "token": options["token"], "client": who}, waits=True)
        return tab

    async def _leave(self, name: str) -> None:
        tab = self._tabs[name]
        tab.closed_at = asyncio.get_running_loop().time()
        await tab.client.socket.close()

    async def _come_back(self, name: str) -> None:
        before = self._tabs[name].client
        self._tabs[name] = tab = await self._connect(name, AUTHOR, before)
        self.record.tabs.append(tab)
        await self._open_again(tab)

    def _here(self) -> set[str]:
        return {name for name, tab in self._tabs.items() if tab.closed_at == NEVER}

    def _note_away(self) -> None:
        """Between the last one's leaving and the first one's coming back."""
        moments = sorted(
            [(tab.opened_at, 1) for tab in self.record.tabs] + [(tab.closed_at, -1) for tab in self.record.tabs]
        )
        here, since = 0, NEVER
        for at, step in moments:
            if here == 0 and since < at:
                self.record.away.append((since, at))
            here += step
            since = at if here == 0 else NEVER
        if since < NEVER:
            self.record.away.append((since, NEVER))

    def _created(self) -> list[str]:
        """The requests that are owned, or may be."""
        refused = {
            s.command["request_id"]
            for s in self.record.sent
            if s.kind == "request.create" and "code" in (s.answer or {})
        }
        lost = {s.command["request_id"] for s in self.record.sent if s.kind == "request.create" and s.answer is None}
        known = {m["request_id"] for _, m in self.record.onlooker.received if m["type"] == "message.created"}  # type: ignore[union-attr]
        return [r for r in self.record.requests if r not in refused and (r not in lost or r in known)]

    def _id(self, which: str) -> str:
        return self.record.id(which)

    def _mark(self) -> str:
        return f"m{next(self._marks)}"

    # --- what there is in the end ------------------------------------------------------------------------

    async def _collect(self) -> None:
        record, services = self.record, self._app.front.services
        page = await services.log.read(
            ConversationRef(TENANT, self._plan.name), 0, limit=100_000, max_bytes=100_000_000
        )
        record.entries = list(page.entries)
        for request_id in record.requests:
            record.usage[request_id] = list(await services.archive.usage(TENANT, request_id))
        sent = await self._tabs["A"].send(
            {"type": "conversation.history", "id": self._mark(), "conversation_id": self._plan.name, "limit": 100},
            waits=True,
        )
        assert sent.answer is not None, "waited for"
        record.history = sent.answer["items"]
        record.asked = [asked for asked in self._model.asked if asked.request_id.startswith(f"{self._plan.name}.")]
        record.runs = [run for run in RUNS if run.request_id.startswith(f"{self._plan.name}.")]
