"""From a command to its answer: the one place where the wire's commands meet what the server can do.

Each handler does what one command asks and writes the answer; the order of answer and events is kept here (the answer
first, SPEC section 4). Errors are raised as `CommandError` and written by the session.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import anyio

from turnwire_protocol import (
    TERMINAL_STATES,
    Ack,
    AnyCommand,
    AuthRefresh,
    CloseCode,
    CommandError,
    ContextSet,
    ConversationDelete,
    ConversationHistory,
    ConversationLeave,
    ConversationList,
    ConversationOpen,
    ConversationOpened,
    ConversationShare,
    Cursor,
    ErrorCode,
    ErrorMessage,
    FeedbackCreate,
    Hello,
    Member,
    Ping,
    Pong,
    PresenceSet,
    RequestCancel,
    RequestCreate,
    RequestInterrupt,
    RequestPresented,
    RequestRegenerate,
    RequestResume,
    RequestResumed,
    RequestState,
    RequestStateAnswer,
    RequestStatus,
    ResumeEntry,
    ServerInfo,
    ToolApprove,
    ToolCancel,
    ToolClaim,
    ToolCommand,
    ToolDeny,
    ToolResult,
    Welcome,
)
from turnwire_server import __version__
from turnwire_server.archive.base import ConversationRecord, Role
from turnwire_server.auth import AuthUnavailable, ExpiredToken, InvalidToken, Principal, choose_token
from turnwire_server.conversations.roles import require
from turnwire_server.eventlog.base import ConversationRef

from .follower import Placed

if TYPE_CHECKING:
    from .session import Session

_PUBLISHED_LIMITS = (
    "frame_bytes",
    "input_chars",
    "event_bytes",
    "commands_per_s",
    "errors_per_minute",
    "metadata_bytes",
    "resume_entries",
    "follows_per_connection",
    "page_items",
)


async def dispatch(session: Session, command: AnyCommand) -> None:
    """Carry out one command and write its answer. Raises `CommandError` for whatever must not be."""
    match command:
        case Hello():
            await _hello(session, command)
        case AuthRefresh():
            await _refresh(session, command)
        case Ping():
            session.send(Pong(ref=command.id, server_time=session.front.services.now_ms()))
        case ConversationOpen():
            await _open(session, command)
        case ConversationLeave():
            session.stop_following(_ref(session, command.conversation_id))
            session.send(Ack(ref=command.id, conversation_id=command.conversation_id))
        case ConversationList():
            page = await session.front.threads.list(session.principal, command)
            page.ref = command.id
            session.send(page)
        case ConversationHistory():
            messages = await session.front.threads.history(session.principal, command)
            messages.ref = command.id
            session.send(messages)
        case ConversationShare():
            await session.front.threads.share(session.principal, command)
            session.send(Ack(ref=command.id, conversation_id=command.conversation_id))
            session.front.recheck_roles(_ref(session, command.conversation_id))
        case ConversationDelete():
            await _delete(session, command)
        case RequestCreate():
            await _create(session, command)
        case RequestResume():
            await _resume(session, command.id, command.request_id, command.since)
        case RequestStatus():
            found = await session.front.requests.find(session.principal, command.request_id)
            session.send(RequestStateAnswer(ref=command.id, **_fields(found.state)))
        case RequestCancel():
            await _cancel(session, command)
        case RequestRegenerate():
            await _create(session, command)
        case RequestInterrupt():
            await _interrupt(session, command)
        case RequestPresented():
            await session.front.interrupts.presented(session.principal, command)
        case ContextSet():
            await session.front.contexts.set(session.principal, command)
            session.send(Ack(ref=command.id, conversation_id=command.conversation_id))
        case PresenceSet():
            await _presence(session, command)
        case ToolCommand():
            await _tool(session, command)
        case FeedbackCreate():
            await session.front.requests.feedback(session.principal, command)
            session.send(Ack(ref=command.id, request_id=command.request_id))


# --- the connection --------------------------------------------------------------------------------------


async def _authenticate(session: Session, token: str | None) -> Principal:
    """The principal of a token; whatever is wrong with it also decides the close code."""
    try:
        return await session.front.authenticator.authenticate(token)
    except ExpiredToken as error:
        session.wire.close_with(CloseCode.TOKEN_EXPIRED)
        raise CommandError(ErrorCode.UNAUTHENTICATED, str(error)) from None
    except InvalidToken as error:
        session.wire.close_with(CloseCode.UNAUTHENTICATED)
        raise CommandError(ErrorCode.UNAUTHENTICATED, str(error)) from None
    except AuthUnavailable as error:
        session.wire.close_with(CloseCode.OVERLOADED)
        raise CommandError(ErrorCode.UNAVAILABLE, str(error)) from None


async def _hello(session: Session, command: Hello) -> None:
    front = session.front
    try:
        token = choose_token(session.header_token, command.token)
    except InvalidToken as error:
        session.wire.close_with(CloseCode.UNAUTHENTICATED)
        raise CommandError(ErrorCode.UNAUTHENTICATED, str(error)) from None
    session.principal = principal = await _authenticate(session, token)
    session.header_token = None
    try:
        tenant = await front.tenant(principal)
        front.admit(principal, tenant)
    except CommandError as error:
        code = CloseCode.FORBIDDEN if error.code is ErrorCode.FORBIDDEN else CloseCode.OVERLOADED
        session.wire.close_with(code)
        raise
    session.admitted = True
    named = None if command.client is None else command.client.instance_id
    session.instance_id = named or session.connection_id
    session.traceparent = command.traceparent
    session.wire.welcomed(_monotonic(principal.expires_at, front.services.clock()), time.monotonic())
    limits = front.settings.limits
    session.send(
        Welcome(
            ref=command.id,
            connection_id=session.connection_id,
            tenant_id=principal.tenant_id,
            user_id=principal.user_id,
            node_id=front.settings.server.node_id,
            server=ServerInfo(name="turnwire", version=__version__),
            server_time=front.services.now_ms(),
            heartbeat_s=limits.heartbeat_s,
            expires_at=_expires_ms(principal),
            features=list(tenant.features),
            limits={name: getattr(limits, name) for name in _PUBLISHED_LIMITS},
        )
    )
    for index, entry in enumerate(command.resume):
        await _resume_entry(session, f"resume.{index}", entry)


async def _resume_entry(session: Session, ref: str, entry: ResumeEntry) -> None:
    try:
        if entry.request_id is not None:
            await _resume(session, ref, entry.request_id, entry.since)
        else:
            assert entry.conversation_id is not None, "the model wants exactly one"
            again = ConversationOpen(id=ref, conversation_id=entry.conversation_id, since=entry.since, create=False)
            await _open(session, again)
    except CommandError as error:
        error.ref = ref
        session.send(ErrorMessage.of(error))


async def _refresh(session: Session, command: AuthRefresh) -> None:
    try:
        principal = await session.front.authenticator.authenticate(command.token)
    except AuthUnavailable as error:
        raise CommandError(ErrorCode.UNAVAILABLE, str(error)) from None
    except (InvalidToken, ExpiredToken) as error:
        # The old token counts until it expires; a client may try again with a better one.
        raise CommandError(ErrorCode.UNAUTHENTICATED, str(error)) from None
    if not session.principal.is_same_user(principal):
        raise CommandError(ErrorCode.FORBIDDEN, "the new token is of another user or tenant")
    session.principal = principal
    session.wire.refreshed(_monotonic(principal.expires_at, session.front.services.clock()), time.monotonic())
    session.send(Ack(ref=command.id, expires_at=_expires_ms(principal)))
    for ref in tuple(session.follows):
        session.front.recheck_roles(ref)


def _expires_ms(principal: Principal) -> int | None:
    return None if principal.expires_at is None else int(principal.expires_at * 1000)


def _monotonic(expires_at: float | None, now: float) -> float | None:
    """Wall-clock time of a token, as the wire's clock has it."""
    return None if expires_at is None else time.monotonic() + expires_at - now


# --- conversations ---------------------------------------------------------------------------------------


def _ref(session: Session, conversation_id: str) -> ConversationRef:
    return ConversationRef(session.principal.tenant_id, conversation_id)


async def _open(session: Session, command: ConversationOpen) -> None:
    record, role, created = await session.front.threads.open(session.principal, command)
    ref = ConversationRef(record.tenant_id, record.conversation_id)
    async with session.front.hub.pinned(ref) as conversation:
        place, placed = await session.follow(conversation, command.since)
        present = await session.front.hub.attendances.present(conversation)
        place.attends_from, place.untold = conversation.attendance.changes, frozenset()
        if command.segments is not None:
            session.ask_for_segments(place, command.segments)
        session.send(
            ConversationOpened(
                ref=command.id,
                conversation_id=ref.conversation_id,
                epoch=placed.epoch,
                seq=placed.seq,
                verdict=placed.verdict,
                missed=placed.missed,
                created=created,
                role=role,
                members=_members(record, role),
                present=present,
            )
        )
        session.release(place)


def _members(record: ConversationRecord, role: Role) -> list[Member]:
    owner = Member(user_id=record.owner_id, role="owner")
    return [owner, *(Member(user_id=user_id, role=held) for user_id, held in record.members.items())]


async def _delete(session: Session, command: ConversationDelete) -> None:
    front = session.front
    ref = await front.threads.delete(session.principal, command.conversation_id, front.requests.emptied)
    session.send(Ack(ref=command.id, conversation_id=command.conversation_id))
    front.deleted(ref)


async def _presence(session: Session, command: PresenceSet) -> None:
    record = await session.front.hub.record(_ref(session, command.conversation_id))
    require(record, command.conversation_id, session.principal, "viewer")
    place = session.follows.get(_ref(session, command.conversation_id))
    if place is None:
        raise CommandError(ErrorCode.INVALID_STATE, "only who follows a conversation is present in it; open it first")
    session.front.hub.attendances.says(place.conversation, place, command.state)
    session.send(Ack(ref=command.id, conversation_id=command.conversation_id))


# --- requests --------------------------------------------------------------------------------------------


async def _create(session: Session, command: RequestCreate | RequestRegenerate) -> None:
    front = session.front
    if command.traceparent is None and session.traceparent is not None:
        command = command.model_copy(update={"traceparent": session.traceparent})
    create = front.requests.create if isinstance(command, RequestCreate) else front.requests.regenerate
    result = await create(session.principal, await front.tenant(session.principal), command)  # type: ignore[arg-type]
    try:
        async with front.hub.pinned(result.conversation) as conversation:
            begin = None if result.is_duplicate else Cursor(result.epoch, result.seq)
            place, placed = await session.follow(conversation, command.since, begin)
            if command.segments is not None and result.state not in TERMINAL_STATES:
                session.ask_for_segments(place, command.segments, command.request_id)
            if result.interrupts is not None:
                session.mute(result.interrupts)
            session.send(
                Ack(
                    ref=command.id,
                    request_id=command.request_id,
                    conversation_id=result.conversation.conversation_id,
                    epoch=placed.epoch,
                    seq=placed.seq,
                    state=result.state,  # type: ignore[arg-type]
                    duplicate=result.is_duplicate,
                    verdict=placed.verdict,
                    missed=placed.missed,
                )
            )
            session.release(place)
            if result.account is not None:
                session.tell_limits(result.account)
    finally:
        if result.begin is not None:
            with anyio.CancelScope(shield=True):
                await result.begin()


async def _resume(session: Session, ref: str | None, request_id: str, since: Cursor | None) -> None:
    found = await session.front.requests.find(session.principal, request_id)
    conversation_ref = _ref(session, found.state.conversation_id)
    async with session.front.hub.pinned(conversation_ref) as conversation:
        place, placed = await session.follow(conversation, since)
        session.send(_resumed(ref, found.state, placed))
        session.release(place)


def _resumed(ref: str | None, state: RequestState, placed: Placed) -> RequestResumed:
    return RequestResumed(
        ref=ref,
        epoch=placed.epoch,
        seq=placed.seq,
        verdict=placed.verdict,
        missed=placed.missed,
        **_fields(state),
    )


async def _cancel(session: Session, command: RequestCancel) -> None:
    result = await session.front.requests.cancel(session.principal, command)
    if result.outcome == "cancelling":
        session.mute(command.request_id)
    session.send(
        Ack(
            ref=command.id,
            request_id=command.request_id,
            outcome=result.outcome,
            state=result.state,  # type: ignore[arg-type]
        )
    )
    if result.carry_out is not None:
        with anyio.CancelScope(shield=True):
            await result.carry_out()


async def _interrupt(session: Session, command: RequestInterrupt) -> None:
    result = await session.front.interrupts.interrupt(session.principal, command)
    if result.outcome == "interrupting":
        session.mute(command.request_id)
    session.send(Ack(ref=command.id, request_id=command.request_id, outcome=result.outcome))
    if result.carry_out is not None:
        with anyio.CancelScope(shield=True):
            await result.carry_out()


async def _tool(session: Session, command: ToolCommand) -> None:
    tools, principal = session.front.tool_commands, session.principal
    instance_id = session.instance_id or session.connection_id
    match command:
        case ToolClaim():
            await tools.claim(principal, command, instance_id)
        case ToolResult():
            await tools.result(principal, command, instance_id)
        case ToolApprove():
            await tools.approve(principal, command)
        case ToolDeny():
            await tools.deny(principal, command)
        case ToolCancel():
            await tools.cancel(principal, command)
    session.send(Ack(ref=command.id, request_id=command.request_id, call_id=command.call_id))


def _fields(state: RequestState) -> dict[str, Any]:
    return {name: getattr(state, name) for name in RequestState.__slots__}
