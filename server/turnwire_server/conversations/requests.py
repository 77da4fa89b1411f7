"""What clients ask of requests: create, status, cancel, feedback (SPEC section 4).

The order of a life is kept here: reserve, claim, archive, then the answer to the client, then the first event. Every
step is safe to repeat, so a create that was interrupted anywhere is completed by sending it again, and a repeat of
one that stands attaches to it. Nothing here knows of sockets; `CreateResult.begin` is called once the answer is out.
"""

from __future__ import annotations

import logging
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from functools import partial

import anyio
from anyio.abc import TaskGroup

from turnwire_protocol import (
    CommandError,
    ErrorCode,
    FeedbackCreate,
    InputText,
    LogEvent,
    Message,
    RequestCancel,
    RequestCreate,
    RequestQueued,
    RequestRegenerate,
    RequestState,
)
from turnwire_server.archive.base import ArchiveUnavailable, ConversationRecord, RequestRecord
from turnwire_server.auth import Principal
from turnwire_server.eventlog.base import (
    Append,
    Appended,
    Base,
    Busy,
    Claimed,
    ConversationRef,
    Intent,
    LogFull,
    LogUnavailable,
    OnBusy,
    Outdated,
    Owned,
    Phase,
    Posted,
    PostOutcome,
    RequestInfo,
    RequestRef,
    ReservationLost,
)
from turnwire_server.gateway.router import Caller
from turnwire_server.settings import Tenant
from turnwire_server.settings.tree import DEFAULT_TENANT
from turnwire_server.tools.schema import UnusableSchema

from . import endings
from .audit import note_operation
from .hub import ConversationHub
from .opening import created_event, ensure_archived, kept_cancel, request_record
from .patience import see_through, until_answered
from .presented import Place
from .prompting import Asked, Prompted, prompted
from .quotas import Account
from .roles import acts_by_scope, allows, require, role_of, taken
from .spec import TurnSpec, fingerprint
from .threads import Threads
from .turn import Turn
from .turn_tools import client_tool

logger = logging.getLogger(__name__)

# A request that steers waits like any other until it is folded in.
_CLAIMS = {
    "queue": OnBusy.QUEUE,
    "steer": OnBusy.QUEUE,
    "reject": OnBusy.REJECT,
    "interrupt": OnBusy.FRONT,
    "parallel": OnBusy.PARALLEL,
}
# How long the repeat of a create waits for the first one, which another connection or node is just carrying out.
_CONFIRM_POLL_S = 0.02
# How long a cancel's answer waits for the archive to have it as well.
_KEEP_CANCEL_S = 1.0


class _PlaceTaken(CommandError):
    """The claim was undone: after a loss of the log another request has got the same ordinal."""


@dataclass(frozen=True, slots=True)
class CreateResult:
    """A request that is durably owned. For a new one ``seq`` is where its events begin."""

    conversation: ConversationRef
    epoch: str
    seq: int
    state: str
    is_duplicate: bool
    begin: Callable[[], Awaitable[None]] | None = None
    interrupts: str | None = None
    """The running request that this one ends."""
    account: Account | None = None
    """How its tenant stands now, if it has limits."""


@dataclass(frozen=True, slots=True)
class CancelResult:
    """The answer to a cancel. ``carry_out`` is called once the answer is out."""

    outcome: str
    state: str | None = None
    carry_out: Callable[[], Awaitable[None]] | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """A request that the principal may see."""

    state: RequestState
    answer: Message | None
    """The answer, once the request has ended."""


class Requests:
    """Commands on requests, for all connections of the node."""

    def __init__(self, hub: ConversationHub, threads: Threads, tasks: TaskGroup) -> None:
        self._hub = hub
        self._services = hub.services
        self._threads = threads
        self._tasks = tasks
        self._creating: dict[RequestRef, anyio.Event] = {}
        self._absences: dict[tuple[ConversationRef, str], object] = {}
        self._claiming: Counter[ConversationRef] = Counter()
        self._deleting: Counter[ConversationRef] = Counter()
        hub.author_left = self._author_left
        hub.show_queued = self._show_queued
        hub.press = self._press

    # --- create ------------------------------------------------------------------------------------------

    async def create(self, principal: Principal, tenant: Tenant, command: RequestCreate) -> CreateResult:
        """Own the request, or attach to the one that has its id.

        Raises `CommandError`; whatever it says but `unavailable`, the id is free afterwards or another's.
        """
        ref = RequestRef(principal.tenant_id, command.request_id)
        while (other := self._creating.get(ref)) is not None:
            await other.wait()
        self._creating[ref] = done = anyio.Event()
        try:
            try:
                return await self._create(principal, tenant, command, ref)
            except _PlaceTaken:  # the log counts on from what the archive has, now that it has been told
                return await self._create(principal, tenant, command, ref)
        finally:
            del self._creating[ref]
            done.set()

    async def _create(
        self, principal: Principal, tenant: Tenant, command: RequestCreate, ref: RequestRef
    ) -> CreateResult:
        op = uuid.uuid4().hex
        print_ = fingerprint(principal.user_id, command.conversation_id, command)
        held = await self._services.log.reserve(op, ref, command.conversation_id, principal.user_id, print_)
        if (held.conversation_id, held.user_id, held.fingerprint) != (
            command.conversation_id,
            principal.user_id,
            print_,
        ):
            raise _conflict(ref)
        existing = await self._existing(ref, print_, op)
        if existing is not None:
            return existing
        # From the claim on somebody owns the request: a client that leaves now must not leave it half made.
        try:
            claimed, account = await see_through(
                self._tasks,
                lambda: self._own(principal, tenant, command, ref, op),
                self._begin_if_mine,
                f"creating request {ref.request_id}",
            )
        except CommandError as error:
            is_over = error.code in (ErrorCode.RATE_LIMITED, ErrorCode.QUOTA_EXCEEDED)
            if is_over and await self._services.log.request(ref) is not None:
                return await self._attach(ref)  # another node has let it in meanwhile: a repeat is never over a limit
            raise
        if not claimed.mine:
            return await self._attach(ref)
        return CreateResult(
            conversation=claimed.owned.conversation,
            epoch=claimed.owned.epoch,
            seq=claimed.seq,
            state="queued" if claimed.position is not None else "preparing",
            is_duplicate=False,
            begin=lambda: self._begin(claimed),
            interrupts=claimed.behind if command.on_busy == "interrupt" else None,
            account=account,
        )

    async def regenerate(self, principal: Principal, tenant: Tenant, command: RequestRegenerate) -> CreateResult:
        """As `create`, of the input that a message of the conversation has or answers, beside it."""
        record = await self._services.archive.request_of(principal.tenant_id, command.message_id)
        conversation = None
        if record is not None:
            conversation = await self._hub.record(ConversationRef(record.tenant_id, record.conversation_id))
        if record is None or conversation is None or role_of(conversation, principal) is None:
            raise CommandError(ErrorCode.NOT_FOUND, f"no message '{command.message_id}'")
        said = command.model_dump(
            exclude_unset=True, exclude={"type", "message_id", "tools", "segments", "traceparent"}
        )
        create = RequestCreate(
            **said,
            tools=command.tools,
            segments=command.segments,
            traceparent=command.traceparent,
            conversation_id=record.conversation_id,
            input=[InputText(kind="text", text=text) for text in TurnSpec.from_json(record.spec, 0).texts],
            parent_id=record.input.parent_id,
        )
        return await self.create(principal, tenant, create)

    async def _own(
        self, principal: Principal, tenant: Tenant, command: RequestCreate, ref: RequestRef, op: str
    ) -> tuple[Claimed, Account | None]:
        """The claim, and the request in the archive, however long they take to answer."""
        conversation = ConversationRef(principal.tenant_id, command.conversation_id)
        with self._claims(conversation), self._hub.at_work(ref):
            spec: TurnSpec | None = None
            try:
                record, (route, candidates) = await self._allowed(principal, tenant, command)
                now_ms = self._services.now_ms()
                prompt = await self._prompted(principal, tenant, command, route, now_ms)
                reported = command.background and self._services.reports.are_wanted
                new = TurnSpec.create(
                    command, principal, tenant, route, now_ms, prompt, candidates=candidates, reported=reported
                )
                account = await self._services.quotas.reserve(new)
                spec = new
                claimed = await self._claim(principal, record, spec, command, op)
            except CommandError:
                await self._release(op, ref, spec)
                raise
            if claimed.mine:
                await self._archive(claimed, op)
                claimed = await self._with_forgotten_cancel(claimed)
            elif account is not None:
                await self._give_back(spec)
            return claimed, account

    async def _give_back(self, spec: TurnSpec) -> None:
        """Another node has claimed the request. It holds what was reserved here, unless it has settled that already:
        then this was reserved once more, and nobody will settle it."""
        log = self._services.log
        info = await until_answered(lambda: log.request(spec.request), "looking at a request")
        if info is not None and info.phase is Phase.FINISHED:
            await self._services.quotas.release(spec)

    async def _with_forgotten_cancel(self, claimed: Claimed) -> Claimed:
        """A cancel that was acknowledged before the request was known, and that the log has lost (guarantee 5)."""
        owned = claimed.owned
        if claimed.memory_s > self._services.settings.limits.recorded_cancel_s or owned.intents:
            return claimed
        kept = await kept_cancel(self._services, owned)
        return claimed if kept is None else replace(claimed, owned=replace(owned, intents=(kept,)))

    async def _release(self, op: str, ref: RequestRef, spec: TurnSpec | None = None) -> None:
        """Give the id back, with what ``spec`` has reserved, and start whoever waited behind it."""
        if spec is not None:
            await self._services.quotas.release(spec)
        release = partial(self._services.log.release, op, ref, claim_op=op)
        following = await until_answered(release, "releasing a request")
        if following is not None:
            self._hub.start_next(following)

    async def _existing(self, ref: RequestRef, print_: str, op: str) -> CreateResult | None:
        """The request when it stands already, in the log or, long after, in the archive alone."""
        info = await self._services.log.request(ref)
        if info is not None:
            return await self._attach(ref)
        record = await self._services.archive.request(ref.tenant_id, ref.request_id)
        if record is None:
            return None
        if record.fingerprint != print_:
            await self._release(op, ref)
            raise _conflict(ref)
        if record.state == "open":
            # The log has lost it, and is told so, lest it has not noticed: it is entered again, and a repeat attaches.
            home = ConversationRef(ref.tenant_id, record.conversation_id)
            await self._services.log.doubt(self._services.log.partition(home))
            raise CommandError(ErrorCode.UNAVAILABLE, "the log has lost this request for the moment; send it again")
        await self._release(op, ref)
        conversation = ConversationRef(ref.tenant_id, record.conversation_id)
        position = await self._services.log.position(conversation)
        return CreateResult(conversation, position.epoch, position.seq, record.state, True)

    async def _attach(self, ref: RequestRef) -> CreateResult:
        """A duplicate: wait until the first is durably owned, as this answer says the same."""
        while True:
            info = await self._services.log.request(ref)
            if info is None:
                raise CommandError(ErrorCode.UNAVAILABLE, "the first request of this id was not taken; send it again")
            if info.confirmed:
                break
            await anyio.sleep(_CONFIRM_POLL_S)
        position = await self._services.log.position(info.conversation)
        return CreateResult(info.conversation, position.epoch, position.seq, info.state, True)

    async def _allowed(
        self, principal: Principal, tenant: Tenant, command: RequestCreate
    ) -> tuple[ConversationRecord, tuple[str, Sequence[str]]]:
        """Its conversation and route (see `_route`), unless anything forbids it but what the tenant has used and what
        else runs."""
        if self._hub.is_draining:
            raise CommandError(ErrorCode.UNAVAILABLE, "this server is going away; connect again and send it there")
        if ConversationRef(principal.tenant_id, command.conversation_id) in self._deleting:
            # What is owned in a conversation that is just going away would end without a word.
            raise CommandError(ErrorCode.UNAVAILABLE, "the conversation is being deleted; send it again")
        limits = self._services.settings.limits
        if self._hub.running_turns >= limits.running_turns:
            raise CommandError(ErrorCode.OVERLOADED, "too many turns are running here", retry_after_ms=1000)
        route = self._route(principal.tenant_id, tenant, command)
        record = await self._conversation(principal, command)
        await self._check_parent(record, command)
        self._check_tools(command)
        if command.target is not None:
            await self._check_target(record, command.target)
        return record, route

    async def _prompted(
        self, principal: Principal, tenant: Tenant, command: RequestCreate, route: str, now_ms: int
    ) -> Prompted:
        is_default = tenant is self._services.settings.tenants.get(DEFAULT_TENANT)
        asked = Asked(principal, command.conversation_id, route, command.variables, now_ms)
        return await prompted(self._services.tenants.prompts, tenant, asked, is_default=is_default)

    async def _claim(
        self, principal: Principal, record: ConversationRecord, spec: TurnSpec, command: RequestCreate, op: str
    ) -> Claimed:
        ref = spec.request
        claimed = await self._try_claim(ref, spec, command, op, Base(record.ordinal, record.head, is_fresh=False))
        if isinstance(claimed, Outdated):
            fresh = await self._hub.refresh(spec.conversation)
            if fresh is None:
                raise CommandError(ErrorCode.UNAVAILABLE, "the conversation is being deleted; send it again")
            claimed = await self._try_claim(ref, spec, command, op, Base(fresh.ordinal, fresh.head))
            assert not isinstance(claimed, Outdated), "a fresh base is never outdated"
        if isinstance(claimed, Busy):
            text = "too many requests wait in this conversation" if claimed.full else "a turn is running"
            raise CommandError(ErrorCode.BUSY, text, request_id=command.request_id, details={"behind": claimed.behind})
        if claimed.mine and claimed.position is not None and command.on_busy in ("interrupt", "steer"):
            await self._check_authority(principal, record, command.on_busy, command.target or claimed.behind)
        return claimed

    def _check_tools(self, command: RequestCreate) -> None:
        for tool in command.tools or ():
            if self._services.tools.registry.get(tool.name) is not None:
                raise CommandError(ErrorCode.BAD_COMMAND, f"tools: '{tool.name}' is the name of a tool of the server")
            try:
                client_tool(tool.model_dump(), self._services.settings.limits.tool_schema_bytes)
            except UnusableSchema as error:
                raise CommandError(ErrorCode.BAD_COMMAND, f"tools: '{tool.name}': {error}") from None

    async def _check_target(self, record: ConversationRecord, target: str) -> None:
        ref = ConversationRef(record.tenant_id, record.conversation_id)
        info = await self._services.log.request(RequestRef(record.tenant_id, target), ref)
        if info is None or info.conversation != ref or info.phase not in (Phase.RUNNING, Phase.PARKED):
            raise CommandError(ErrorCode.INVALID_STATE, f"target: request '{target}' does not run here")

    async def _check_authority(
        self, principal: Principal, record: ConversationRecord, on_busy: str, running: str | None
    ) -> None:
        """Another user's turn is only an owner's to end or to steer, and an operator's if that can be told."""
        is_owner = allows(role_of(record, principal), "owner")
        if running is None or (is_owner and not acts_by_scope(record, principal)):
            return
        ref = ConversationRef(record.tenant_id, record.conversation_id)
        info = await self._services.log.request(RequestRef(record.tenant_id, running), ref)
        if info is None or info.user_id == principal.user_id:
            return
        if not is_owner:
            raise CommandError(ErrorCode.FORBIDDEN, "the turn that runs is another user's; this needs the role 'owner'")
        try:
            await note_operation(self._services, principal, record, f"request.{on_busy}", request_id=running)
        except ArchiveUnavailable as error:
            raise CommandError(ErrorCode.UNAVAILABLE, "the archive does not answer; send it again") from error

    async def _try_claim(
        self, ref: RequestRef, spec: TurnSpec, command: RequestCreate, op: str, base: Base
    ) -> Claimed | Busy | Outdated:
        try:
            return await until_answered(
                lambda: self._services.log.claim(
                    op,
                    ref,
                    spec.conversation,
                    spec.to_json(command),
                    base=base,
                    on_busy=_CLAIMS[command.on_busy],
                    queue_limit=self._services.settings.limits.queued_per_conversation,
                ),
                f"claiming request {ref.request_id}",
            )
        except ReservationLost as error:
            raise CommandError(
                ErrorCode.UNAVAILABLE, "the request could not be owned in time; send it again"
            ) from error
        except LogFull as error:
            raise CommandError(ErrorCode.OVERLOADED, f"nothing new is begun: {error}", retry_after_ms=5000) from error

    def _route(self, tenant_id: str, tenant: Tenant, command: RequestCreate) -> tuple[str, Sequence[str]]:
        """The route that was asked for, or that the tenant's rules choose, or its usual one; with the last the routes
        among which a model is to choose."""
        router = self._services.router
        usual = tenant.route or router.default_route
        routes = None if tenant.routes is None else frozenset((*tenant.routes, *tenant.classify, usual))
        caller = Caller(tenant_id, frozenset(tenant.features), frozenset(tenant.regions), routes)
        name = command.route or usual
        if not router.has_route(name, caller):
            raise CommandError(ErrorCode.BAD_COMMAND, f"route: there is no route '{name}'")
        if command.route is not None or not tenant.classify:
            return name, ()
        open_to = [candidate for candidate in tenant.classify if router.has_route(candidate, caller)]
        ruled = self._services.rules.route_of("\n".join(part.text for part in command.parts()), open_to)
        if ruled is not None:
            return ruled, ()
        return usual, open_to if tenant.classifier is not None and len(open_to) > 1 else ()

    async def _conversation(self, principal: Principal, command: RequestCreate) -> ConversationRecord:
        record = await self._hub.record(ConversationRef(principal.tenant_id, command.conversation_id))
        if record is None:
            record, _ = await self._threads.create(principal, command.conversation_id)
        if role_of(record, principal) is None:
            raise taken(command.conversation_id)
        require(record, command.conversation_id, principal, "editor")
        return record

    async def _check_parent(self, record: ConversationRecord, command: RequestCreate) -> None:
        if command.parent_id is None:
            return
        ref = ConversationRef(record.tenant_id, record.conversation_id)
        if await self._services.archive.message(*_key(ref), command.parent_id) is not None:
            return
        live = await self._services.log.live(ref)
        if not any(request.spec["answer_id"] == command.parent_id for request in live.requests):
            raise CommandError(ErrorCode.NOT_FOUND, f"parent_id: no message '{command.parent_id}' in this conversation")

    async def _archive(self, claimed: Claimed, op: str) -> None:
        """The claim holds; the archive decides. If it says no the claim is undone, as if it had never been."""
        record = request_record(claimed.owned)
        try:
            stands, ours = await self._services.archive.insert_request(record.input.message_id, record)
        except ArchiveUnavailable as error:
            # Unknown: the turn begins all the same and archives itself; the client asks again. Known: undone.
            if error.unknown:
                self._tasks.start_soon(self._begin, claimed, False)
            else:
                await self._release(op, claimed.owned.request, TurnSpec.from_owned(claimed.owned))
            raise CommandError(ErrorCode.UNAVAILABLE, "the archive does not answer; send it again") from error
        if not ours:
            await self._release(op, claimed.owned.request, TurnSpec.from_owned(claimed.owned))
            if stands.request_id != record.request_id:
                await self._hub.refresh(claimed.owned.conversation)
                raise _PlaceTaken(ErrorCode.UNAVAILABLE, "another request has its place; send it again")
            if stands.fingerprint == record.fingerprint:
                # The log had lost it, and has yet to find it in the archive.
                await self._services.log.doubt(self._services.log.partition(claimed.owned.conversation))
                raise CommandError(ErrorCode.UNAVAILABLE, "this request is being recovered; send it again")
            raise _conflict(claimed.owned.request)

    async def _begin_if_mine(self, owned: tuple[Claimed, Account | None]) -> None:
        claimed, _ = owned
        if claimed.mine:
            await self._begin(claimed)

    async def _begin(self, claimed: Claimed, is_archived: bool = True) -> None:
        """Show the request: a running one starts, a queued one says where it stands."""
        owned = claimed.owned
        if claimed.position is None:
            self._hub.start(Turn(self._services, owned, is_archived=is_archived))
            return
        await self._show_queued(owned, claimed.position, claimed.behind, is_archived=is_archived)

    async def _show_queued(
        self, owned: Owned, position: int | None, behind: str | None = None, *, is_archived: bool = False
    ) -> None:
        if not is_archived and not await ensure_archived(self._services.archive, owned):
            following = await until_answered(
                partial(self._services.log.release, uuid.uuid4().hex, owned.request), "releasing a request"
            )
            if following is not None:  # the id belongs to an older request
                self._hub.start_next(following)
            return
        kept = None if is_archived else await kept_cancel(self._services, owned)
        queued = RequestQueued(
            conversation_id=owned.conversation.conversation_id,
            request_id=owned.request.request_id,
            position=position or 1,
            behind=behind,
        )
        events: list[LogEvent] = [created_event(owned), queued]
        append = Append(owned.request, owned.conversation, owned.fence, 0, events, state="queued")
        (answer,) = await until_answered(lambda: self._services.log.append([append]), "queueing")
        # Fenced: whoever finished the one before has started it meanwhile, and shows it itself.
        if not isinstance(answer, Appended):
            return
        heard = owned.intents if kept is None else (*owned.intents, kept)
        for intent in [*heard, *answer.intents]:
            if intent.kind == "cancel" or (intent.kind == "interrupt" and intent.body["phase"] == "confirmed"):
                await self._end_queued(owned, intent)
        await self._press(owned)

    async def _press(self, owned: Owned) -> None:
        """Say to the turn that runs what one that waits wants of it: to end, or to take it in. Safe to repeat."""
        spec = TurnSpec.from_owned(owned)
        if spec.on_busy not in ("interrupt", "steer"):
            return
        log = self._services.log
        info = await until_answered(lambda: log.request(owned.request, owned.conversation), "looking at a request")
        running = None if info is None or info.phase is not Phase.QUEUED else spec.target or info.behind
        if running is None:
            return
        ref, body = RequestRef(spec.tenant_id, running), {"from": spec.request_id}
        if spec.on_busy == "interrupt":
            body = {"phase": "confirmed", "reason": "superseded", "by": spec.user_id}
        posted = await until_answered(
            lambda: log.post(
                f"press:{spec.request_id}",
                ref,
                spec.on_busy,
                body,
                user_id=spec.user_id,
                any_user=True,
                conversation=owned.conversation,
            ),
            f"saying something to request {running}",
        )
        if posted.outcome is PostOutcome.STORED and posted.intent is not None:
            self._hub.heard(ref, owned.conversation, [posted.intent])

    # --- status and cancel -------------------------------------------------------------------------------

    async def find(self, principal: Principal, request_id: str) -> Found:
        """The state of a request, for those who may view its conversation; `not_found` for all others."""
        ref = RequestRef(principal.tenant_id, request_id)
        info = await self._look(ref)
        record = None
        if info is None or not info.confirmed or info.phase is Phase.FINISHED:
            record = await self._services.archive.request(*_request_key(ref))
        # Before its first event the archive decides: a request that is in there has been, or will be, acknowledged.
        if record is None and (info is None or not info.confirmed):
            raise _unknown(request_id)
        if info is None and record is not None and record.state == "open":
            # The log may have lost the way to it, but not the request.
            info = await self._services.log.request(ref, ConversationRef(ref.tenant_id, record.conversation_id))
        conversation_id = (
            info.conversation.conversation_id if info is not None else _archived_state(record).conversation_id
        )
        conversation = await self._hub.record(ConversationRef(ref.tenant_id, conversation_id))
        if conversation is None or role_of(conversation, principal) is None:
            raise _unknown(request_id)
        state = _state_of(info) if info is not None else _archived_state(record)
        return Found(state, record.answer if record is not None else None)

    async def _look(self, ref: RequestRef) -> RequestInfo | None:
        """What the log knows of a request. The part that knows the way to it may be away, while the request is not."""
        try:
            return await self._services.log.request(ref)
        except LogUnavailable:
            record = await self._services.archive.request(*_request_key(ref))
            if record is None:
                raise
            return await self._services.log.request(ref, ConversationRef(ref.tenant_id, record.conversation_id))

    async def cancel(self, principal: Principal, command: RequestCancel) -> CancelResult:
        """Stop a request, known or not yet (SPEC section 4). What it answers is durable."""
        ref = RequestRef(principal.tenant_id, command.request_id)
        any_user = False
        home: ConversationRef | None = None
        info: RequestInfo | None = None
        here = self._hub.running(ref)
        if here is not None and here.owned.spec["user_id"] == principal.user_id:
            home = here.owned.conversation  # its author's, and it runs here: there is nothing to look up first
        elif (info := await self._look(ref)) is not None:
            if info.user_id != principal.user_id:
                any_user = await self._may_cancel(principal, info.conversation, ref.request_id)
        else:
            record = await self._services.archive.request(*_request_key(ref))
            if record is not None and record.state != "open":
                conversation = await self._hub.record(ConversationRef(ref.tenant_id, record.conversation_id))
                if conversation is not None and role_of(conversation, principal) is not None:
                    return CancelResult("already_terminal", record.state)
            elif record is not None:
                home = ConversationRef(ref.tenant_id, record.conversation_id)
                is_other = record.user_id != principal.user_id
                any_user = is_other and await self._may_cancel(principal, home, ref.request_id)
        return await see_through(
            self._tasks,
            lambda: self._cancel(ref, principal.user_id, command.reason, any_user=any_user, info=info, home=home),
            self._carry_out,
            f"cancelling request {ref.request_id}",
        )

    async def _cancel(
        self,
        ref: RequestRef,
        user_id: str,
        reason: str | None,
        *,
        any_user: bool,
        info: RequestInfo | None,
        home: ConversationRef | None = None,
    ) -> CancelResult:
        posted = await self._post_cancel(ref, user_id, reason, any_user=any_user, info=info, home=home)
        if posted.outcome is not PostOutcome.SETTLED and self._services.log.is_shared:
            settled = await self._keep_cancel(ref, user_id, reason, posted, any_user=any_user)
            if settled is not None:
                return settled
        place = info.conversation if info is not None else home
        if place is None and posted.outcome is PostOutcome.STORED:  # it was claimed meanwhile
            info = await until_answered(lambda: self._services.log.request(ref), "looking at a request")
            place = None if info is None else info.conversation
        return self._answer(ref, place, posted)

    async def _carry_out(self, result: CancelResult) -> None:
        if result.carry_out is not None:
            await result.carry_out()

    def _answer(self, ref: RequestRef, place: ConversationRef | None, posted: Posted) -> CancelResult:
        match posted.outcome:
            case PostOutcome.RECORDED:
                return CancelResult("recorded")
            case PostOutcome.SETTLED:
                return CancelResult("already_terminal", posted.state)
            case PostOutcome.ENDED:
                assert posted.owned is not None
                owned = posted.owned
                return CancelResult("cancelling", carry_out=lambda: self._hub.conclude(owned))
        if place is not None and posted.intent is not None:
            self._hub.heard(ref, place, [posted.intent])
        return CancelResult("cancelling")

    async def _keep_cancel(
        self, ref: RequestRef, user_id: str, reason: str | None, posted: Posted, *, any_user: bool
    ) -> CancelResult | None:
        """What is acknowledged must survive a log that loses its last writes: the archive keeps it as well, and knows
        what the log may have lost. Not for long where the archive does not answer: the log alone has it then."""

        async def keep() -> RequestRecord | None:
            return await self._services.archive.record_cancel(
                ref.tenant_id,
                ref.request_id,
                user_id,
                by=user_id,
                reason=reason,
                at=await self._services.log.now_ms(),
                any_user=any_user,
            )

        record: RequestRecord | None = None
        with anyio.move_on_after(_KEEP_CANCEL_S):
            record = await until_answered(keep, "keeping a cancel")
        if record is None or posted.outcome is PostOutcome.ENDED:
            return None
        if posted.outcome is PostOutcome.STORED and record.state == "cancelled":
            return None  # by this one: the turn was quicker than its archive
        if record.state != "open":
            return CancelResult("already_terminal", record.state)
        if posted.outcome is PostOutcome.RECORDED:
            # The log has lost it and its owner has yet to put it back; whoever ends it asks the archive.
            turn = self._hub.turn(ConversationRef(ref.tenant_id, record.conversation_id), ref.request_id)
            if turn is not None:
                await turn.recall()
            return CancelResult("cancelling")
        return None

    async def _may_cancel(self, principal: Principal, ref: ConversationRef, request_id: str) -> bool:
        """An owner may cancel anybody's; a member without that right is told so, a stranger learns nothing."""
        record = await self._hub.record(ref)
        role = None if record is None else role_of(record, principal)
        if role is None:
            return False
        if not allows(role, "owner"):
            raise CommandError(ErrorCode.FORBIDDEN, "only its author or an owner of the conversation may cancel this")
        assert record is not None, "who has a role in it has found it"
        await note_operation(self._services, principal, record, "request.cancel", request_id=request_id)
        return True

    async def _post_cancel(
        self,
        ref: RequestRef,
        user_id: str,
        reason: str | None,
        *,
        any_user: bool,
        info: RequestInfo | None,
        home: ConversationRef | None,
    ) -> Posted:
        body = {"by": user_id, "reason": reason}
        ending = None
        if info is not None and info.phase is Phase.QUEUED:
            ending = self._queued_ending(info, user_id, reason)
        op = f"cancel:{uuid.uuid4().hex}"
        place = info.conversation if info is not None else home
        # Its answer is needed: a queued request that it ended is concluded by whoever ended it.
        return await until_answered(
            lambda: self._services.log.post(
                op, ref, "cancel", body, user_id=user_id, any_user=any_user, ending=ending, conversation=place
            ),
            f"cancelling request {ref.request_id}",
        )

    def _queued_ending(self, info: RequestInfo, by: str, reason: str | None) -> dict[str, object]:
        spec = TurnSpec.from_json(info.spec, info.ordinal)
        draft = endings.cancelled(by, reason)
        return endings.unstarted(spec, draft, self._services.now_ms())

    async def _end_queued(self, owned: Owned, intent: Intent) -> None:
        """End what was cancelled or interrupted before anybody was shown it; if it runs by now, its turn hears that."""
        body = intent.body
        if intent.kind == "cancel":
            draft = endings.cancelled(body["by"], body.get("reason"))
        else:
            draft = endings.interrupted(body["reason"])
        ending = endings.unstarted(TurnSpec.from_owned(owned), draft, self._services.now_ms())
        posted = await until_answered(
            lambda: self._services.log.post(
                f"unshown:{owned.request.request_id}:{intent.k}",
                owned.request,
                intent.kind,
                body,
                user_id=body["by"],
                any_user=True,
                ending=ending,
                conversation=owned.conversation,
            ),
            f"ending request {owned.request.request_id}",
        )
        if posted.outcome is PostOutcome.ENDED and posted.owned is not None:
            await self._hub.conclude(posted.owned)
        elif posted.outcome is PostOutcome.STORED and posted.intent is not None:
            self._hub.heard(owned.request, owned.conversation, [posted.intent])

    # --- the rest ----------------------------------------------------------------------------------------

    @asynccontextmanager
    async def emptied(self, ref: ConversationRef, by: str) -> AsyncIterator[None]:
        """Cancel everything that has not ended in a conversation and wait for the ends; begin nothing new in it as
        long as the block lasts, in which it is deleted."""
        self._deleting[ref] += 1
        try:
            cancelled: set[str] = set()
            while self._claiming[ref] or await self._services.log.running([ref]):
                live = await self._services.log.live(ref)
                for request_id in {request.request_id for request in live.requests} - cancelled:
                    cancelled.add(request_id)
                    await self._cancel_live(RequestRef(ref.tenant_id, request_id), by, "conversation deleted")
                await anyio.sleep(_CONFIRM_POLL_S)
            yield
        finally:
            self._deleting -= Counter({ref: 1})

    @contextmanager
    def _claims(self, ref: ConversationRef) -> Iterator[None]:
        """Something is being begun in this conversation: `emptied` waits for it."""
        self._claiming[ref] += 1
        try:
            yield
        finally:
            self._claiming -= Counter({ref: 1})

    async def feedback(self, principal: Principal, command: FeedbackCreate) -> None:
        """Keep a rating of a request that the principal may see."""
        await self.find(principal, command.request_id)
        await self._services.archive.add_feedback(
            principal.tenant_id,
            command.request_id,
            principal.user_id,
            rating=command.rating,
            comment=command.comment,
            at=self._services.now_ms(),
        )

    async def _cancel_live(self, ref: RequestRef, by: str, reason: str) -> None:
        info = await self._services.log.request(ref)
        if info is not None and info.phase in (Phase.QUEUED, Phase.RUNNING, Phase.PARKED):
            await self._carry_out(await self._cancel(ref, by, reason, any_user=True, info=info))

    def _author_left(self, ref: ConversationRef, user_id: str) -> None:
        self._absences[ref, user_id] = absence = object()
        self._tasks.start_soon(self._cancel_if_gone, ref, user_id, absence, name="disconnect grace")

    async def _cancel_if_gone(self, ref: ConversationRef, user_id: str, absence: object) -> None:
        """`on_disconnect: "cancel"`: after the grace time without a connection of the author following."""
        try:
            if not await self._bound_to(ref, user_id):
                return
            await anyio.sleep(self._services.settings.limits.disconnect_grace_s)
            if self._absences.get((ref, user_id)) is not absence:
                return  # back in the meantime and gone again: that absence has a time of its own
            conversation = self._hub.find(ref)
            if self._hub.is_draining or (conversation is not None and conversation.is_present(user_id)):
                return
            if await self._hub.attendances.is_present(ref, user_id):
                return  # on another node
            for request_id in await self._bound_to(ref, user_id):
                await self._cancel_live(RequestRef(ref.tenant_id, request_id), user_id, "disconnected")
        except (LogUnavailable, ArchiveUnavailable) as error:
            logger.warning("requests of a user who left were not cancelled: %s", error)
        finally:
            if self._absences.get((ref, user_id)) is absence:
                del self._absences[ref, user_id]

    async def _bound_to(self, ref: ConversationRef, user_id: str) -> set[str]:
        """The requests of a conversation that end when this user is gone."""
        conversation = self._hub.find(ref)
        # Those that run here are known before their first event is in the log.
        specs = [] if conversation is None else [turn.spec for turn in conversation.turns.values()]
        bound = {s.request_id for s in specs if s.on_disconnect == "cancel" and s.user_id == user_id}
        live = await self._services.log.live(ref)
        waiting = (r for r in live.requests if r.spec["on_disconnect"] == "cancel" and r.spec["user_id"] == user_id)
        return bound | {request.request_id for request in waiting}


def _key(ref: ConversationRef) -> tuple[str, str]:
    return ref.tenant_id, ref.conversation_id


def _request_key(ref: RequestRef) -> tuple[str, str]:
    return ref.tenant_id, ref.request_id


def _conflict(ref: RequestRef) -> CommandError:
    return CommandError(
        ErrorCode.IDEMPOTENCY_CONFLICT,
        "this request_id was used for something else; choose a new one",
        request_id=ref.request_id,
    )


def _unknown(request_id: str) -> CommandError:
    return CommandError(ErrorCode.NOT_FOUND, f"no request '{request_id}'", request_id=request_id)


def _state_of(info: RequestInfo) -> RequestState:
    return RequestState(
        request_id=info.request.request_id,
        conversation_id=info.conversation.conversation_id,
        state=info.state,  # type: ignore[arg-type]
        message_id=info.spec["answer_id"] if info.phase is not Phase.QUEUED else None,
        run=info.run,
        last_seq=info.last_seq,
        created_at=info.spec["created_at"],
        position=info.position,
        presented=Place.decode(info.presented).to_wire() if info.presented else None,
    )


def _archived_state(record: RequestRecord | None) -> RequestState:
    assert record is not None, "one of log and archive knows the request"
    return RequestState(
        request_id=record.request_id,
        conversation_id=record.conversation_id,
        state="preparing" if record.state == "open" else record.state,  # type: ignore[arg-type]
        message_id=record.answer_id,
        run=record.run,
        last_seq=0,
        created_at=record.created_at,
        presented=Place.decode(record.presented).to_wire() if record.presented else None,
    )
