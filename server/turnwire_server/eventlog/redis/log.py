"""`EventLog` on Redis: each step is one script, in the partition where its conversation lies.

A request id's record lies in a partition of its own, so two steps take more than one call: a claim writes the request
and then looks for cancels in the record, a cancel looks for the request, writes the record and looks again. Whichever
comes first, one of the two sees the other (guarantee 5). The archive's unique index has the last word on who has an id.
"""

from __future__ import annotations

import logging
import uuid
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import anyio
import msgpack  # type: ignore[import-untyped]
import orjson

from turnwire_protocol import Entry, LogEvent, RequestEvent, encode_body
from turnwire_server.eventlog.base import (
    Append,
    Appended,
    Base,
    Busy,
    Claimed,
    ConversationRef,
    Doubt,
    Fenced,
    Finished,
    Forgotten,
    Intent,
    Keeper,
    Listener,
    Live,
    LogFull,
    LogUnavailable,
    OnBusy,
    Outdated,
    Owned,
    Page,
    Position,
    Posted,
    PostOutcome,
    Reentry,
    RequestInfo,
    RequestRef,
    Reservation,
    ReservationLost,
    Roll,
    Sealed,
    Unheard,
)
from turnwire_server.telemetry.metrics import Metrics

from .follow import Following
from .leases import Leases
from .rolls import rolls_of, rolls_said, versions_of
from .scripts import Argument, InDoubt, Scripts
from .server import FAULTS, Place, Server
from .views import View, entries_of, intents_of, live_of, packed, partition_of

logger = logging.getLogger(__name__)
T = TypeVar("T")

# Where requests of this node and others it asked for lie; what is no longer here is looked up in its record.
_HOMES = 50_000
_ORPHANS_AT_ONCE = 200
# Seconds that a part of the log has to answer when a node starts.
_OPEN_S = 5.0
_UNARCHIVED_AT_ONCE = 100
_TRIMMED_AT_ONCE = 200
_TRIM_S = 5.0
_QUIET_S = 3600.0
_LONGEST_KEPT_S = 3600.0
# A claim or look-up that meets a partition in doubt waits so long for it to be settled before it is refused.
_DOUBT_WAIT_S = 1.0
_DOUBT_LOOK_S = 0.1
_MEMORY_LOOK_S = 1.0


class RedisEventLog:
    """See the port. ``clock`` is for tests; without it the server's own time counts, as it must with many nodes."""

    is_shared = True

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "tw",
        partitions: int = 64,
        durability: str = "everysec",
        timeout_s: float = 5.0,
        lease_s: float = 5.0,
        retention_s: float,
        reservation_s: float,
        recorded_cancel_s: float,
        memory_limit: float = 0.8,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.owner = uuid.uuid4().hex
        self._server = Server(Place.of(url), timeout_s=timeout_s, prefix=prefix)
        self._scripts = Scripts(
            self._server,
            prefix=prefix,
            owner=self.owner,
            lease_s=lease_s,
            keeps_over_restart=durability == "always",
            clock=clock,
        )
        self._prefix = prefix
        self._partitions = partitions
        self._durability = durability
        self._lease_s = lease_s
        self._retention_s = retention_s
        self._reservation_s = reservation_s
        self._recorded_cancel_s = recorded_cancel_s
        self._memory_limit = memory_limit
        self._memory_ratio = 0.0
        # A record outlives the reservation and the request's stay in the log; while the request lives it is renewed.
        self._record_ms = int(2000 * max(_LONGEST_KEPT_S, retention_s, reservation_s, recorded_cancel_s))
        self._keep_ms = int(1000 * max(retention_s, 60.0))
        self._listeners: list[Listener] = []
        self._homes: OrderedDict[RequestRef, ConversationRef] = OrderedDict()
        self._settled = anyio.Event()
        self._tags = {partition: self._scripts.tag(partition) for partition in range(partitions)}
        self._leases = Leases(self._scripts, lease_s)
        self._following = Following(self._server, self._scripts, self.owner, self._tags, self._tell)

    def __repr__(self) -> str:
        return f"<RedisEventLog {self.owner[:8]} {self._server!r}>"

    # --- life --------------------------------------------------------------------------------------------

    async def open(self) -> None:
        self._server.open()
        await self._server.check(durability=self._durability)
        await self._fix_partitions()
        # A busy server answers the first calls slowly, and nobody waits for this node yet.
        await self._each(lambda tag: self._scripts.run("doubt", tag, "", ""), limit_s=_OPEN_S)

    async def _fix_partitions(self) -> None:
        """How many partitions there are is fixed at first use: their number decides where everything lies."""
        fixed = int(await self._kept(f"{{{self._prefix}}}:partitions", str(self._partitions).encode()))
        if fixed != self._partitions:
            raise LogUnavailable(
                f"this Redis was first used with storage.partitions = {fixed}, not {self._partitions}; "
                "the number cannot be changed while there is anything in it"
            )

    async def run(self, keeper: Keeper) -> None:
        self._scripts.doubted = keeper.doubted
        keeper.doubted()
        keeper.orphaned()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._leases.run, keeper, name="leases")
            tasks.start_soon(self._following.run, keeper, name="following")
            tasks.start_soon(self._watch_memory, name="memory")
            tasks.start_soon(self._server.keep, name="servers")

    async def _watch_memory(self) -> None:
        while True:
            try:
                self._memory_ratio = await self._server.memory_ratio()
            except LogUnavailable as error:
                logger.debug("the memory of Redis is not known: %s", error)
            except Exception:
                logger.exception("asking Redis for its memory failed; it is tried again")
            if self._following.metrics is not None:
                self._following.metrics.redis_memory_used_ratio.set(self._memory_ratio)
            await anyio.sleep(_MEMORY_LOOK_S)

    def measure(self, metrics: Metrics) -> None:
        """Say where the figures of this log go."""
        self._scripts.incarnated = metrics.incarnations_total.inc
        self._leases.metrics = self._following.metrics = metrics

    async def aclose(self) -> None:
        self._listeners.clear()
        await self._leases.give_up()
        await self._server.aclose()

    def listen(self, listener: Listener) -> None:
        self._listeners.append(listener)

    def watch(self, conversation: ConversationRef) -> None:
        self._following.watch(conversation, self._tag(conversation))

    def unwatch(self, conversation: ConversationRef) -> None:
        self._following.unwatch(conversation)

    async def announce(
        self, rolls: Mapping[ConversationRef, tuple[int | None, Roll]], kept_s: float
    ) -> Mapping[ConversationRef, Mapping[str, int]]:
        groups: dict[str, list[ConversationRef]] = {}
        for ref in rolls:
            groups.setdefault(self._tag(ref), []).append(ref)
        versions: dict[ConversationRef, Mapping[str, int]] = {}

        async def one(tag: str) -> None:
            said: list[Argument] = [int(kept_s * 1000)]
            for ref in groups[tag]:
                said += rolls_said(ref, *rolls[ref])
            answers = await self._scripts.run("announce", tag, *said)
            versions.update(zip(groups[tag], map(versions_of, answers), strict=True))

        _, errors = await self._scripts.each(groups, one)
        if errors:
            logger.debug("followers were not announced everywhere: %s", errors[0])
        return versions

    async def present(self, conversation: ConversationRef) -> Mapping[str, Roll]:
        name = f"{conversation.tenant_id}/{conversation.conversation_id}"
        return rolls_of(await self._scripts.run("present", self._tag(conversation), name))

    # --- the steps -----------------------------------------------------------------------------------

    async def reserve(
        self, op: str, request: RequestRef, conversation_id: str, user_id: str, fingerprint: str
    ) -> Reservation:
        mine = (conversation_id, user_id, fingerprint)
        lapsed = ""
        while True:
            record = await self._scripts.run(
                "reserve",
                self._record_tag(request),
                _id(request),
                *mine,
                self._record_ms,
                op,
                lapsed,
            )
            held = (record[0].decode(), record[1].decode(), record[2].decode())
            known = await self._view(request, ConversationRef(request.tenant_id, held[0]))
            if known is not None:
                return Reservation(False, *await self._agree(request, held, known))
            if held == mine:
                return Reservation(True, *held)
            if int(record[5]) - int(record[3]) < self._reservation_s * 1000 or lapsed == record[4].decode():
                return Reservation(False, *held)
            lapsed = record[4].decode()

    async def _agree(self, request: RequestRef, held: tuple[str, str, str], known: View) -> tuple[str, str, str]:
        """What the request itself says counts: its record may have been lost, and taken again for other content."""
        fields = known.fields
        true = (known.conversation.conversation_id, fields["user"].decode(), fields["fingerprint"].decode())
        if held != true:
            await self._record(request, "write", *true, self._record_ms)
        return true

    async def release(self, op: str, request: RequestRef, *, claim_op: str = "") -> Owned | None:
        record, _, _ = await self._record(request)
        if claim_op and record[4].decode() not in ("", claim_op):
            record = (*record[:4], b"")  # somebody else reserved it
        home = self._home(record, request)
        if home is None:
            return None
        answer = await self._scripts.run(
            "release",
            self._tag(home),
            op,
            request.tenant_id,
            request.request_id,
            home.conversation_id,
            self._keep_ms,
            record[4] or claim_op,
            claim_op,
        )
        token = answer[0].decode()
        if token:
            await self._record(request, "drop", token)
        if len(answer) == 1:
            return None
        return self._took(View(answer[1]))

    async def claim(
        self,
        op: str,
        request: RequestRef,
        conversation: ConversationRef,
        spec: dict[str, Any],
        *,
        base: Base,
        on_busy: OnBusy,
        queue_limit: int,
    ) -> Claimed | Busy | Outdated:
        if self._memory_ratio > self._memory_limit:
            raise LogFull(f"Redis uses more than {self._memory_limit:.0%} of its memory")
        record, _, _ = await self._record(request)
        user_id, fingerprint = record[1].decode(), record[2].decode()
        if record[0].decode() != conversation.conversation_id or not record[4]:
            raise ReservationLost(f"request {request.request_id} lost its reservation before it was claimed")
        answer = await self._scripts.run(
            "claim",
            self._tag(conversation),
            op,
            request.tenant_id,
            request.request_id,
            conversation.conversation_id,
            user_id,
            fingerprint,
            spec.get("answer_id") or "",
            orjson.dumps(spec),
            "1" if "parent_id" in spec else "0",
            spec.get("parent_id") or "",
            base.ordinal,
            base.head or "",
            on_busy.value,
            queue_limit,
            _rand(),
            record[4],
            "1" if base.is_fresh else "0",
        )
        if answer[0] == b"outdated":
            return Outdated()
        if answer[0] == b"released":
            raise ReservationLost(f"request {request.request_id} has been released")
        if answer[0] == b"busy":
            return Busy(answer[1].decode(), full=answer[2] == b"1")
        is_mine, view = answer[1] == b"1", View(answer[3])
        if is_mine:
            self._took(view)
            view = await self._with_recorded(request, user_id, view)
        memory_s = int(answer[4]) / 1000
        return Claimed(view.owned(), int(answer[2]), is_mine, view.position, view.behind, memory_s)

    async def _with_recorded(self, request: RequestRef, user_id: str, view: View) -> View:
        """The request with the cancels that its record holds in its inbox. Looked for after the request was written."""
        _, cancels, now = await self._record(request, "look", self._record_ms)
        fresh: list[Argument] = []
        for i in range(0, len(cancels), 5):
            user, at, op, kind, body = cancels[i : i + 5]
            if user.decode() == user_id and now - int(at) <= self._recorded_cancel_s * 1000:
                fresh += [op, kind, body]
        if not fresh:
            return view
        found = await self._scripts.run("inbox", self._tag(view.conversation), *_ids(view), *fresh)
        return View(found[0]) if found else view

    def lane(self, conversation: ConversationRef) -> int:
        return self.partition(conversation) if self._server.is_cluster else 0

    async def append(self, batch: Sequence[Append]) -> Sequence[Appended | Fenced | Forgotten]:
        # Encoded here, on the event loop, once: the same bytes go to Redis and to every follower.
        bodies = [[encode_body(event) for event in append.events] for append in batch]
        # As one argument: the client's library takes longer over each than the rest of the step takes.
        said = [
            (
                self._tag(append.conversation),
                append.request.tenant_id,
                append.request.request_id,
                append.conversation.conversation_id,
                str(append.fence),
                append.n,
                append.taken,
                append.state or "",
                b"" if append.checkpoint is None else orjson.dumps(append.checkpoint),
                append.epoch,
                b"" if append.reentry is None else packed(append.reentry, _rand()),
                body,
            )
            for append, body in zip(batch, bodies, strict=True)
        ]
        raw = await self._scripts.run(
            "append", self._tag(batch[0].conversation), msgpack.packb(said, use_bin_type=False)
        )
        out: list[Appended | Fenced | Forgotten] = []
        for append, body, answer in zip(batch, bodies, raw, strict=True):
            if answer == b"F":
                out.append(Fenced())
            elif isinstance(answer, bytes):
                out.append(Forgotten(answer[1:].decode()))
            else:
                out.append(self._appended(append, body, answer))
                if append.reentry is not None:
                    await self._is_back(append.request, append.conversation, append.reentry)
        return out

    def _appended(self, append: Append, bodies: Sequence[bytes], answer: Sequence[Any]) -> Appended:
        epoch, first, ts, new = answer[0].decode(), int(answer[1]), int(answer[2]), int(answer[3])
        entries = entries_of(answer[4])
        entries += [Entry(first + i, ts, body) for i, body in enumerate(bodies[len(bodies) - new :])]
        self._tell(append.conversation, epoch, entries)
        if append.reentry is not None:
            self._following.positioned(append.conversation, epoch)
        return Appended(epoch, entries, intents_of(answer[5]) if answer[5] else [])

    async def emit(self, op: str, conversation: ConversationRef, events: Sequence[LogEvent]) -> Sequence[Entry]:
        arguments: list[Argument] = []
        for event in events:
            arguments += [event.request_id if isinstance(event, RequestEvent) else "", encode_body(event)]
        epoch, flat = await self._settled_call(
            "emit",
            self._tag(conversation),
            op,
            conversation.tenant_id,
            conversation.conversation_id,
            _rand(),
            self._keep_ms,
            *arguments,
        )
        entries = entries_of(flat)
        self._tell(conversation, epoch.decode(), entries)
        return entries

    async def post(
        self,
        op: str,
        request: RequestRef,
        kind: str,
        body: dict[str, Any],
        *,
        user_id: str,
        any_user: bool = False,
        ending: dict[str, Any] | None = None,
        decides: str = "",
        conversation: ConversationRef | None = None,
    ) -> Posted:
        said: tuple[Argument, ...] = (kind, orjson.dumps(body), user_id, "1" if any_user else "0")
        ended: tuple[Argument, ...] = ("", "") if ending is None else (ending["outcome"], orjson.dumps(ending))
        ended = (*ended, decides)
        home = self._homes.get(request) or conversation
        if home is not None and (posted := await self._post(home, op, request, said, ended, body)) is not None:
            return posted
        # It is not where it should be, or nobody here knows where that is.
        record, _, _ = await self._record(request)
        place = self._home(record, request, conversation)
        if place is not None and place != home:
            posted = await self._post(place, op, request, said, ended, body)
            if posted is not None:
                return posted
        if record[0] and record[1].decode() != user_id:
            return _RECORDED  # somebody else's: nothing comes of it
        keep_ms = int(self._recorded_cancel_s * 1000)
        record, _, _ = await self._record(request, "cancel", user_id, op, kind, said[1], keep_ms)
        home = self._home(record, request, conversation)
        if home is not None and (posted := await self._post(home, op, request, said, ended, body)) is not None:
            return posted
        return _RECORDED

    async def _post(
        self,
        home: ConversationRef,
        op: str,
        request: RequestRef,
        said: Sequence[Argument],
        ended: Sequence[Argument],
        body: dict[str, Any],
    ) -> Posted | None:
        """What became of it where the request should be; None when it is not there."""
        answer = await self._scripts.run(
            "post", self._tag(home), op, request.tenant_id, request.request_id, home.conversation_id, *said, *ended
        )
        match answer[0]:
            case b"absent":
                return None
            case b"other" | b"recorded":
                return _RECORDED
            case b"settled":
                return Posted(PostOutcome.SETTLED, answer[1].decode())
            case b"decided":
                return Posted(PostOutcome.DECIDED, intent=intents_of(answer[1:])[0])
        intent = Intent(int(answer[1]), str(said[0]), body)
        if answer[0] == b"ended":
            return Posted(PostOutcome.ENDED, answer[3].decode(), intent, self._took(View(answer[2])))
        return Posted(PostOutcome.STORED, intent=intent)

    async def note(self, request: RequestRef, presented: int, *, conversation: ConversationRef) -> bool:
        arguments = (request.tenant_id, request.request_id, presented)
        return bool(await self._scripts.run("note", self._tag(conversation), *arguments) == b"1")

    async def seal(
        self,
        op: str,
        request: RequestRef,
        fence: int,
        ending: dict[str, Any],
        *,
        taken: int,
        epoch: str = "",
        home: ConversationRef | None = None,
    ) -> Sealed | Unheard | Fenced | Forgotten:
        home = await self._find(request, home)
        if home is None:
            return Fenced()
        answer = await self._scripts.run(
            "seal",
            self._tag(home),
            request.tenant_id,
            request.request_id,
            home.conversation_id,
            fence,
            ending["outcome"],
            orjson.dumps(ending),
            taken,
            epoch,
        )
        match answer[0]:
            case b"sealed":
                return Sealed(orjson.loads(answer[1]), int(answer[2]))
            case b"unheard":
                return Unheard(intents_of(answer[1]))
            case b"forgotten":
                return Forgotten(answer[1].decode())
        return Fenced()

    async def _is_back(self, request: RequestRef, home: ConversationRef, reentry: Reentry) -> None:
        """A turn has been put back: it is this node's as before, and found by its id as before."""
        self._remember(request, home)
        self._leases.hold(self._tag(home), _id(request))
        owner = (home.conversation_id, reentry.spec["user_id"], reentry.spec["fingerprint"])
        try:
            await self._record(request, "write", *owner, self._record_ms)
        except LogUnavailable as error:  # see `_renew_records`
            logger.info("the record of request %s is not back yet: %s", request.request_id, error)

    def _lost(self, epoch: str, reentry: Reentry | None) -> tuple[Argument, Argument]:
        """What a step needs that may find its turn forgotten. Without a re-entry it must find it."""
        return ("", "") if reentry is None else (epoch, packed(reentry, _rand()))

    async def finish(
        self,
        op: str,
        request: RequestRef,
        fence: int,
        events: Sequence[LogEvent],
        *,
        archived: bool = True,
        epoch: str = "",
        reentry: Reentry | None = None,
    ) -> Finished | Fenced:
        home = await self._find(request, _home_in(request, reentry))
        if home is None:
            return Fenced()
        answer = await self._scripts.run(
            "finish",
            self._tag(home),
            request.tenant_id,
            request.request_id,
            home.conversation_id,
            fence,
            "1" if archived else "0",
            int(self._retention_s * 1000),
            *self._lost(epoch, reentry),
            *(encode_body(event) for event in events),
        )
        if answer[0] != b"finished":
            return Fenced()
        self._leases.let_go(self._tag(home), _id(request))
        entries = entries_of(answer[2])
        self._tell(home, answer[1].decode(), entries)
        following = self._took(View(answer[4])) if len(answer) > 4 else None
        return Finished(entries, following, [request_id.decode() for request_id in answer[3]])

    async def archived(self, request: RequestRef) -> None:
        home = await self._find(request)
        if home is not None:
            await self._scripts.run("archived", self._tag(home), request.tenant_id, request.request_id)

    async def take_over(self, op: str, request: RequestRef) -> Owned | None:
        home = await self._find(request)
        if home is None:
            return None
        answer = await self._scripts.run(
            "take_over", self._tag(home), op, request.tenant_id, request.request_id, home.conversation_id
        )
        if not answer:
            return None
        view = View(answer[0])
        self._took(view)
        # Its claimer may have died before it looked for cancels in the record.
        return (await self._with_recorded(request, view.fields["user"].decode(), view)).owned()

    async def hand_over(
        self, request: RequestRef, fence: int, *, parked_until: int | None = None, taken: int = 0
    ) -> bool:
        home = await self._find(request)
        if home is None:
            return False
        until: Argument = "" if parked_until is None else parked_until
        arguments = (request.tenant_id, request.request_id, home.conversation_id, fence, until, taken)
        done = bool(await self._scripts.run("hand_over", self._tag(home), *arguments) == b"1")
        if done:
            self._leases.let_go(self._tag(home), _id(request))
        return done

    async def disown(self, request: RequestRef) -> None:
        home = await self._find(request)
        if home is not None:
            await self._scripts.run("disown", self._tag(home), request.tenant_id, request.request_id)

    async def mine(self) -> Sequence[RequestRef]:
        return [_request(member) for member in self._leases.owned()]

    async def rebuild(
        self,
        op: str,
        conversation: ConversationRef,
        base: Base,
        requests: Sequence[tuple[RequestRef, dict[str, Any]]],
        *,
        above: int = 0,
    ) -> Sequence[RequestRef]:
        arguments: list[Argument] = []
        for request, spec in sorted(requests, key=lambda pair: int(pair[1]["ordinal"])):
            # In this order: whoever finds the request finds its record.
            await self._record(
                request, "write", conversation.conversation_id, spec["user_id"], spec["fingerprint"], self._record_ms
            )
            arguments += [
                request.request_id,
                spec["user_id"],
                spec["fingerprint"],
                spec["answer_id"],
                orjson.dumps(spec),
                spec.get("parent_id") or "",
                spec["ordinal"],
            ]
            self._remember(request, conversation)
        entered = await self._scripts.run(
            "rebuild",
            self._tag(conversation),
            op,
            conversation.tenant_id,
            conversation.conversation_id,
            base.ordinal,
            base.head or "",
            _rand(),
            above,
            *arguments,
        )
        return [RequestRef(conversation.tenant_id, request_id.decode()) for request_id in entered]

    def partition(self, conversation: ConversationRef) -> int:
        return partition_of(conversation.tenant_id, conversation.conversation_id, self._partitions)

    async def in_doubt(self) -> Sequence[Doubt]:
        states = await self._each(lambda tag: self._scripts.run("doubt", tag, "", ""))
        return [
            Doubt(partition, state[2].decode(), int(state[1]) / 1000)
            for partition, state in states.items()
            if state[0] == b"0"
        ]

    async def settle(self, doubt: Doubt) -> None:
        await self._scripts.run("doubt", self._tags[doubt.partition], "settle", doubt.incarnation)
        settled, self._settled = self._settled, anyio.Event()
        settled.set()

    async def doubt(self, partition: int) -> None:
        await self._scripts.run("doubt", self._tags[partition], "doubt", "")
        self._scripts.doubted()

    async def delete(self, op: str, conversation: ConversationRef) -> None:
        dropped = await self._settled_call(
            "delete",
            self._tag(conversation),
            op,
            conversation.tenant_id,
            conversation.conversation_id,
            self._keep_ms,
        )
        for i in range(0, len(dropped), 2):
            await self._record(RequestRef(conversation.tenant_id, dropped[i].decode()), "drop", dropped[i + 1])

    # --- looking -------------------------------------------------------------------------------------

    async def position(self, conversation: ConversationRef) -> Position:
        return (await self._page(conversation, _rand(), 0, 0, 0)).position

    async def read(self, conversation: ConversationRef, after: int, *, limit: int, max_bytes: int) -> Page:
        return await self._page(conversation, "", after, limit, max_bytes)

    async def _page(self, conversation: ConversationRef, rand: str, after: int, limit: int, max_bytes: int) -> Page:
        epoch, seq, trimmed, flat = await self._settled_call(
            "position",
            self._tag(conversation),
            conversation.tenant_id,
            conversation.conversation_id,
            rand,
            after,
            limit,
            max_bytes,
        )
        return Page(Position(epoch.decode(), int(seq), int(trimmed)), entries_of(flat))

    async def live(self, conversation: ConversationRef) -> Live:
        epoch, seq, trimmed, ordinal, head, sure, found = await self._settled_call(
            "live", self._tag(conversation), conversation.tenant_id, conversation.conversation_id, _rand()
        )
        newest = head.decode() or None
        requests, hidden = [], []
        for raw in reversed(found):
            if raw[2] == b"0":  # not shown to anybody yet, so the conversation still ends before it
                newest = raw[4].decode() or None if newest == raw[3].decode() else newest
                hidden.append(raw[0].decode())
            else:
                requests.append(live_of(raw))
        base = Base(int(ordinal), newest, is_fresh=sure == b"1")
        return Live(Position(epoch.decode(), int(seq), int(trimmed)), base, requests[::-1], hidden)

    async def request(self, request: RequestRef, conversation: ConversationRef | None = None) -> RequestInfo | None:
        home = await self._find(request, conversation)
        view = None if home is None else await self._view(request, home)
        return None if view is None else view.info()

    async def running(self, conversations: Sequence[ConversationRef]) -> set[ConversationRef]:
        groups: dict[str, list[ConversationRef]] = {}
        for conversation in conversations:
            groups.setdefault(self._tag(conversation), []).append(conversation)

        async def one(tag: str) -> set[ConversationRef]:
            refs = groups[tag]
            answers = await self._scripts.run(
                "running", tag, *(f"{ref.tenant_id}/{ref.conversation_id}" for ref in refs)
            )
            return {ref for ref, answer in zip(refs, answers, strict=True) if answer == b"1"}

        found, errors = await self._scripts.each(groups, one)
        if errors and not found:
            raise errors[0]
        return {ref for refs in found.values() for ref in refs}

    async def orphans(self) -> Sequence[RequestInfo]:
        async def one(tag: str) -> tuple[list[RequestInfo], str]:
            found, next_ms = await self._scripts.run("orphans", tag, _ORPHANS_AT_ONCE)
            return await self._infos(tag, found) if found else [], next_ms

        answers = (await self._each(one)).values()
        self._leases.expects(min((int(next_ms) / 1000 for _, next_ms in answers if next_ms), default=None))
        infos = [info for found, _ in answers for info in found]
        return sorted(infos, key=lambda info: (info.conversation.conversation_id, info.ordinal))

    async def _infos(self, tag: str, found: Sequence[Sequence[bytes]]) -> list[RequestInfo]:
        raw = await self._scripts.run("request", tag, *(word for triple in found for word in triple))
        views = [View(view) for view in raw if view]
        for view in views:
            self._remember(view.request, view.conversation)
        return [view.info() for view in views if view.fields["phase"] in (b"queued", b"running", b"sealed")]

    async def unarchived(self, conversation: ConversationRef | None = None) -> Sequence[Owned]:
        if conversation is not None:
            names = (conversation.tenant_id, conversation.conversation_id)
            views = [View(raw) for raw in await self._scripts.run("unarchived_of", self._tag(conversation), *names)]
            for view in views:
                self._remember(view.request, view.conversation)
            return sorted((view.owned() for view in views), key=lambda owned: owned.ordinal)
        answers = await self._each(lambda tag: self._scripts.run("unarchived", tag, _UNARCHIVED_AT_ONCE))
        kept: list[tuple[int, View]] = []
        for found in answers.values():
            kept += [(int(float(found[i])), View(found[i + 1])) for i in range(0, len(found), 2)]
        for _, view in kept:
            self._remember(view.request, view.conversation)
        return [view.owned() for _, view in sorted(kept, key=lambda pair: pair[0])]

    async def now_ms(self) -> int:
        """Any server's; one that is silent is passed over."""
        errors: list[LogUnavailable] = []
        for tag in {self._server.home(tag): tag for tag in self._tags.values()}.values():
            # The record of no request: only the time is wanted.
            answers, errors = await self._scripts.each(
                [tag], lambda tag: self._scripts.run("record", tag, "", "look", "")
            )
            if answers:
                return int(answers[tag][2])
        raise errors[0]

    async def elect(self, chore: str, seconds: float) -> bool:
        key = f"{{{self._prefix}}}:chore:{chore}"
        me = self.owner.encode()
        return await self._kept(key, me, int(seconds * 1000)) == me

    async def _kept(self, key: str, value: bytes, keep_ms: int | None = None) -> bytes:
        """What ``key`` holds: ``value``, unless there is something already."""

        async def keep(client: Any) -> bytes:
            await client.set(key, value, nx=True, px=keep_ms)
            return bytes(await client.get(key) or b"")

        try:
            return await self._server.run(key, keep)
        except FAULTS as error:
            raise LogUnavailable(f"Redis does not answer: {error or type(error).__name__}") from error

    async def trim(self) -> int:
        retention_ms, quiet_ms = int(self._retention_s * 1000), int(max(_QUIET_S, self._retention_s) * 1000)

        async def one(tag: str) -> int:
            gone = 0
            while True:
                count, looked = await self._scripts.run("trim", tag, retention_ms, quiet_ms, _TRIMMED_AT_ONCE)
                gone += int(count)
                if int(looked) < _TRIMMED_AT_ONCE:
                    return gone

        await self._renew_records()
        return sum((await self._each(one, limit_s=_TRIM_S)).values())

    async def _renew_records(self) -> None:
        """Records of what this node runs live on, and come back when the server that had them lost them."""
        homes = {request: home for request in await self.mine() if (home := self._homes.get(request)) is not None}
        by_tag: dict[str, list[RequestRef]] = {}
        for request in homes:
            by_tag.setdefault(self._record_tag(request), []).append(request)

        async def one(tag: str) -> None:
            for request in by_tag[tag]:
                with suppress(LogUnavailable):
                    await self._renew_record(request, homes[request])

        await self._scripts.each(by_tag, one, limit_s=_TRIM_S)

    async def _renew_record(self, request: RequestRef, home: ConversationRef) -> None:
        view = await self._view(request, home)
        if view is not None:
            user, fingerprint = view.fields["user"], view.fields["fingerprint"]
            await self._record(request, "write", home.conversation_id, user, fingerprint, self._record_ms)

    async def ping(self) -> Sequence[str]:
        async def one(tag: str) -> None:
            with suppress(InDoubt):
                await self._scripts.run("ping", tag)

        answers, errors = await self._scripts.each(self._tags.values(), one)
        if not answers:
            raise errors[0]
        return [f"{len(errors)} of {self._partitions} partitions do not answer: {errors[0]}"] if errors else []

    async def describe(self) -> Mapping[str, str]:
        return {**await self._server.describe(), "partitions": str(self._partitions)}

    # --- inside --------------------------------------------------------------------------------------

    def _tag(self, conversation: ConversationRef) -> str:
        return self._tags[self.partition(conversation)]

    def _record_tag(self, request: RequestRef) -> str:
        return self._tags[partition_of(request.tenant_id, request.request_id, self._partitions)]

    async def _record(self, request: RequestRef, what: str = "look", *arguments: Argument) -> tuple[Any, Any, int]:
        record, cancels, now = await self._scripts.run(
            "record", self._record_tag(request), _id(request), what, *(arguments or ("",))
        )
        return record, cancels, int(now)

    def _home(
        self, record: Sequence[bytes], request: RequestRef, conversation: ConversationRef | None = None
    ) -> ConversationRef | None:
        if record[0]:
            return ConversationRef(request.tenant_id, record[0].decode())
        return conversation or self._homes.get(request)

    async def _find(self, request: RequestRef, conversation: ConversationRef | None = None) -> ConversationRef | None:
        """Where a request lies: known here, said by the caller, or in its record."""
        home = self._homes.get(request)
        if home is not None:
            return home
        try:
            record, _, _ = await self._record(request)
        except LogUnavailable:
            if conversation is None:
                raise
            return conversation
        return self._home(record, request, conversation)

    async def _view(self, request: RequestRef, home: ConversationRef) -> View | None:
        (raw,) = await self._scripts.run(
            "request", self._tag(home), request.tenant_id, request.request_id, home.conversation_id
        )
        if not raw:
            self._homes.pop(request, None)  # it may begin anew elsewhere
            return None
        view = View(raw)
        if view.conversation.conversation_id != view.fields["conversation"].decode():
            return None
        return view

    def _took(self, view: View) -> Owned:
        """Something is this node's now."""
        self._remember(view.request, view.conversation)
        self._leases.hold(self._tag(view.conversation), _id(view.request), view.epoch)
        return view.owned()

    def _remember(self, request: RequestRef, home: ConversationRef) -> None:
        self._homes[request] = home
        self._homes.move_to_end(request)
        if len(self._homes) > _HOMES:
            self._homes.popitem(last=False)

    async def _settled_call(self, name: str, tag: str, *arguments: Argument) -> Any:
        """A step that has to wait while its partition is in doubt, but not for long."""
        deadline = anyio.current_time() + _DOUBT_WAIT_S
        while True:
            settled = self._settled
            try:
                return await self._scripts.run(name, tag, *arguments)
            except InDoubt:
                if anyio.current_time() >= deadline:
                    raise
            # Another part may be settled first, and by another node.
            with anyio.move_on_after(_DOUBT_LOOK_S):
                await settled.wait()

    async def _each(self, call: Callable[[str], Awaitable[T]], *, limit_s: float | None = None) -> dict[int, T]:
        """The answers of all partitions that answer. Raises what the first one raised when none does."""
        limits = {} if limit_s is None else {"limit_s": limit_s}
        answers, errors = await self._scripts.each(self._tags.values(), call, **limits)
        if not answers:
            raise errors[0]
        if errors:
            logger.debug("%d of %d partitions do not answer: %s", len(errors), self._partitions, errors[0])
        return {partition: answers[tag] for partition, tag in self._tags.items() if tag in answers}

    def _tell(self, conversation: ConversationRef, epoch: str, entries: Sequence[Entry]) -> None:
        if entries and self._following.is_watched(conversation):
            for listener in self._listeners:
                listener(conversation, epoch, entries)


_RECORDED = Posted(PostOutcome.RECORDED)


def _id(request: RequestRef) -> str:
    return f"{request.tenant_id}/{request.request_id}"


def _home_in(request: RequestRef, reentry: Reentry | None) -> ConversationRef | None:
    """Where a turn lies, said by its owner; a log that has lost it does not know."""
    conversation_id = None if reentry is None else reentry.spec.get("conversation_id")
    return None if conversation_id is None else ConversationRef(request.tenant_id, conversation_id)


def _request(member: str) -> RequestRef:
    tenant_id, _, request_id = member.partition("/")
    return RequestRef(tenant_id, request_id)


def _ids(view: View) -> Iterable[str]:
    return view.request.tenant_id, view.request.request_id, view.conversation.conversation_id


def _rand() -> str:
    return uuid.uuid4().hex[:12]
