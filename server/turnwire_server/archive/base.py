"""The archive port: conversations, messages, requests and usage, for good.

The log forgets; the archive does not, until a conversation is deleted (its usage stays). Writes that decide
something are inserted once or ended once and carry the operation id of who wrote them, so that a repeat after a
lost reply is recognised as one's own. Everything is addressed within a tenant.

Cancels are kept here too, because the log may lose its last writes and a cancel that was acknowledged may not be lost
(DESIGN section 2, 5a): a request that bears the mark of one ends as cancelled, or merged into the next, or not at all.

This layer stores documents and answers look-ups by index. It does not check roles and knows no events. Above it
is ``conversations``; the engines share the contract in ``tests/contracts/archive.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal, Protocol

from turnwire_protocol import Message

from .prompts import PromptArchive
from .summaries import SummaryArchive
from .sums import Dimension, UsageSum
from .tenants import TenantArchive

Role = Literal["viewer", "editor", "owner"]

ENDINGS_OF_CANCELLED = frozenset({"cancelled", "merged"})
"""The outcomes that a request with a cancel mark can end with."""


MOST_RUNS_TRACED = 64
"""Runs of one request that leave a trace: one that is parked and spoken to again and again has no end of them."""


class ArchiveUnavailable(Exception):
    """The archive did not answer. ``unknown`` is False when it is known that nothing was written."""

    def __init__(self, message: str, *, unknown: bool = True) -> None:
        super().__init__(message)
        self.unknown = unknown


@dataclass(frozen=True, slots=True)
class ConversationRecord:
    """A conversation. ``ordinal`` and ``head`` are those of its newest request and of that one's answer."""

    tenant_id: str
    conversation_id: str
    owner_id: str
    visibility: Literal["private", "tenant"]
    created_at: int
    updated_at: int
    title: str | None = None
    metadata: Mapping[str, Any] | None = None
    members: Mapping[str, Role] = field(default_factory=dict)
    ordinal: int = 0
    head: str | None = None


@dataclass(frozen=True, slots=True)
class ContextRecord:
    """One key of what the users of a conversation share. ``op`` names this change of it.

    ``place`` is that of its event, in the log's epoch at that time; None until it is known that the event is there.
    """

    key: str
    version: int
    value: Any
    by: str
    op: str
    place: tuple[str, int] | None = None


class ContextFull(Exception):
    """A conversation has as many keys of shared context as it may have."""


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """A request. ``state`` is ``open`` until it ends, then the terminal wire state of PROTOCOL section 4.

    ``title`` is for the conversation if it has none yet.
    """

    tenant_id: str
    request_id: str
    conversation_id: str
    user_id: str
    fingerprint: str
    ordinal: int
    spec: Mapping[str, Any]
    input: Message
    answer_id: str
    created_at: int
    title: str | None = None
    state: str = "open"
    run: int = 1
    ended_at: int | None = None
    ending: Mapping[str, Any] | None = None
    answer: Message | None = None
    checkpoint: Mapping[str, Any] | None = None
    """Where a parked turn goes on, only while it is open; see `Archive.park_request`."""
    cancel: Mapping[str, Any] | None = None
    """The first cancel, ``{"by": user id, "reason": text or None}``; see `Archive.record_cancel`."""
    presented: int = 0
    """How far the answer was presented, as far as that was told after the end; see `Archive.amend_answer`."""
    effects: int = 0
    """How many runs of tools that may not run twice were begun; see `Archive.note_effects`."""
    fence: int = 0
    """The highest that an owner has left; see `Archive.take_request`."""


@dataclass(frozen=True, slots=True)
class DueReport:
    """A request whose end is to be reported to a webhook. ``tries`` counts this one."""

    record: RequestRecord
    tries: int


@dataclass(frozen=True, slots=True)
class UsageRow:
    """One attempt of one step in the ledger; it outlives its conversation. Money is a decimal string in USD."""

    step: int
    attempt: int
    deployment: str
    outcome: str
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    cost_usd: str
    source: str


@dataclass(frozen=True, slots=True)
class Billing:
    """What the rows of a request are summed by besides their own fields, its tenant and the time: kept with each row,
    since the ledger outlives the request. ``feature`` is the client's own label."""

    user_id: str
    conversation_id: str
    route: str | None = None
    feature: str | None = None


@dataclass(frozen=True, slots=True)
class MessagePage:
    """Messages of one branch, oldest first; ``next`` is the ``before`` of the page with older ones."""

    items: Sequence[Message]
    next: str | None = None


@dataclass(frozen=True, slots=True)
class ConversationPage:
    """Conversations, the one last changed first; ``next`` is the ``before`` of the following page."""

    items: Sequence[ConversationRecord]
    next: str | None = None


class Archive(TenantArchive, PromptArchive, SummaryArchive, Protocol):
    """Long-term records; those of tenants are in `tenants`, those of prompts in `prompts`, summaries in
    `summaries`. All calls raise
    `ArchiveUnavailable`."""

    async def open(self) -> None:
        """Get ready; makes tables and indexes that are missing."""

    async def aclose(self) -> None:
        """Let go of everything."""

    async def ping(self) -> None:
        """Raise `ArchiveUnavailable` unless it answers."""

    async def describe(self) -> Mapping[str, str]:
        """What an operator wants to know of the storage, by name."""

    # --- conversations ---------------------------------------------------------------------------------

    async def create_conversation(self, op: str, record: ConversationRecord) -> tuple[ConversationRecord, bool]:
        """Insert once. Returns what stands, and whether it is by this ``op`` (also when this is a repeat)."""

    async def conversation(self, tenant_id: str, conversation_id: str) -> ConversationRecord | None:
        """The record, or None."""

    async def list_conversations(
        self, tenant_id: str, user_id: str | None, *, limit: int, before: str | None = None
    ) -> ConversationPage:
        """Those the user owns, is a member of, or sees as one of the tenant's; all with ``user_id`` None.

        ``before`` is a ``next`` of an earlier page; anything else raises ValueError.
        """

    async def set_member(self, tenant_id: str, conversation_id: str, user_id: str, role: Role | None) -> bool:
        """Give or take a role. False when the conversation is absent."""

    async def set_context(
        self, tenant_id: str, conversation_id: str, record: ContextRecord, *, keys: int
    ) -> ContextRecord | None:
        """Put the record in place of the one of its key, unless that has the same or a higher version.

        Returns what stands for the key then; None when the conversation is absent. Raises `ContextFull` when the
        key would be one more than ``keys``.
        """

    async def context(self, tenant_id: str, conversation_id: str) -> Sequence[ContextRecord]:
        """What is shared in a conversation, by key."""

    async def place_context(self, tenant_id: str, conversation_id: str, record: ContextRecord) -> None:
        """Keep the ``place`` of a record that stands, found by its key and ``op``; else do nothing."""

    async def delete_conversation(self, tenant_id: str, conversation_id: str) -> None:
        """Drop it with its messages, requests and their marks, shared context, traces and feedback. The usage ledger
        stays, and so do cancels of requests that were absent. A conversation that is absent is no error.

        The record itself goes last: what was interrupted is still there to be found and deleted again.
        """

    async def expire(self, before_ms: int, *, limit: int) -> Sequence[tuple[str, str]]:
        """Tenant and id of conversations that have not changed since ``before_ms``, the oldest first.

        Those with a request that has not ended are left out. Nothing is changed: the caller deletes each from the
        log and then from here.
        """

    # --- requests --------------------------------------------------------------------------------------

    async def insert_request(self, op: str, record: RequestRecord) -> tuple[RequestRecord, bool]:
        """Insert once with the user's message. Returns what stands, and whether it is by this ``op``.

        A conversation has one request of each ordinal. When another one has the place of a new request, nothing is
        inserted, and the newest request of the conversation is what stands: of another id, and never by this ``op``.
        The conversation knows of it then, so that whoever claims again upon that is given a place of its own.

        It looks for no cancel. Whoever inserts asks `recorded_cancel` *after* this has answered: then a cancel that
        came at the same time is either kept to be found, or has marked the request.
        """

    async def request(self, tenant_id: str, request_id: str) -> RequestRecord | None:
        """The record, or None."""

    async def take_request(self, tenant_id: str, request_id: str, fence: int) -> RequestRecord | None:
        """Leave the fence of whoever goes on with an open request, unless there is a higher one.

        Returns the record as it stands then; None when it is absent. If its ``fence`` is higher, the request has a
        later owner; if it has ended, nothing was changed.
        """

    async def end_request(
        self,
        tenant_id: str,
        request_id: str,
        *,
        ending: Mapping[str, Any],
        answer: Message | None,
        usage: Sequence[UsageRow],
        billing: Billing,
        run: int,
        ended_at: int,
    ) -> RequestRecord | None:
        """End an open request, once: ``ending["outcome"]`` becomes its state.

        Returns the record as it stands, whose ending is an earlier one if it was ended before; None when there is
        no such request (its conversation was deleted): then only the usage is written. Usage rows are inserted
        once by step and attempt, with ``billing`` and ``ended_at``. The checkpoint of a parked turn goes.

        A request with a cancel mark ends with one of `ENDINGS_OF_CANCELLED` and with nothing else: any other ending
        is refused, and the record comes back open with its mark. The caller then ends it as cancelled, with the
        same usage rows: those of an ending that was overtaken by a cancel may stand already. Of `record_cancel`
        and this one comes first: the mark is there before the ending, or the request is found ended.
        """

    async def note_effects(self, tenant_id: str, request_id: str, effects: int) -> None:
        """Keep how many runs of tools that may not run twice an open request has begun; it only grows."""

    async def amend_answer(
        self, tenant_id: str, request_id: str, answer: Message, *, presented: int
    ) -> RequestRecord | None:
        """Put ``answer`` in place of the stored one of a request that has ended: what was presented of it.

        Summaries that cover it go with it.

        ``presented`` only grows: nothing is changed when the same or more stands already. ``ending`` stays as it was.
        Returns the record as it stands; None when there is no such request that has ended.
        """

    async def request_of(self, tenant_id: str, message_id: str) -> RequestRecord | None:
        """The request whose input or answer has this id, or None."""

    async def record_cancel(
        self,
        tenant_id: str,
        request_id: str,
        user_id: str,
        *,
        by: str,
        reason: str | None,
        at: int,
        any_user: bool = False,
    ) -> RequestRecord | None:
        """Mark an open request of this user, or of anybody with ``any_user``, as cancelled, unless it is already.

        Returns the record as it stands then: open with its mark (which may be an earlier one), or ended and
        unchanged. None when it is another user's, and nothing is kept; None when it is absent, and the cancel is
        kept for this user's request of that id, see `recorded_cancel`. Kept again it only gets younger.
        """

    async def recorded_cancel(
        self, tenant_id: str, request_id: str, user_id: str, *, since: int
    ) -> Mapping[str, Any] | None:
        """The cancel that came before this user's request of that id, as `RequestRecord.cancel`.

        None when there is none whose ``at``, in milliseconds, is ``since`` or later. It stays when it was found.
        """

    async def forget_cancels(self, before: int) -> None:
        """Drop the kept cancels of absent requests whose ``at`` is earlier. Marks on requests stay."""

    async def park_request(self, tenant_id: str, request_id: str, *, checkpoint: Mapping[str, Any] | None) -> bool:
        """Keep where a turn goes on that waits without an owner; None removes it.

        False, and nothing is changed, when the request is absent or has ended.
        """

    async def open_requests(
        self, tenant_id: str | None = None, *, limit: int, after: tuple[int, str, str] | None = None
    ) -> Sequence[RequestRecord]:
        """Requests that have not ended, by creation, tenant and id.

        ``after`` is ``(created_at, tenant_id, request_id)`` of the last one of the page before.
        """

    async def jobs(
        self, tenant_id: str | None = None, *, states: Sequence[str] = (), since_ms: int = 0, limit: int
    ) -> Sequence[RequestRecord]:
        """Requests in the background that were created at ``since_ms`` or later, the newest first: those whose `state`
        is one of ``states``, or all. They go with their conversation."""

    async def due_reports(self, op: str, now_ms: int, *, pauses_ms: Sequence[int], limit: int) -> Sequence[DueReport]:
        """Requests whose ``spec`` has `reported`, which have ended and whose end has yet to be reported: those that are
        due, the longest due first. Each is due again after the pause of its try unless it is `reported` before, and
        after as many tries as there are pauses no more. A repeat of ``op`` gives the same again."""

    async def reported(self, tenant_id: str, request_id: str) -> None:
        """The end of a request has been reported. One that is not there is no error."""

    # --- messages --------------------------------------------------------------------------------------

    async def messages(
        self,
        tenant_id: str,
        conversation_id: str,
        *,
        leaf: str | None,
        limit: int,
        max_bytes: int,
        below: bool = False,
        up_to_ordinal: int | None = None,
        without: Sequence[str] = (),
    ) -> MessagePage:
        """The branch that ends in message ``leaf`` (excluded itself when ``below``), newest ``limit`` of it.

        Messages of requests in ``without``, of requests with a higher ordinal than ``up_to_ordinal``, and answers
        that do not stand yet are passed over, not an end. An unknown leaf gives an empty page; an unknown parent (its
        claim was given back, or has yet to come here) is no end either: the newest older request takes its place.
        """

    async def message(self, tenant_id: str, conversation_id: str, message_id: str) -> Message | None:
        """One message; None for an unknown one, also for an answer that does not stand yet."""

    # --- the rest --------------------------------------------------------------------------------------

    async def usage(self, tenant_id: str, request_id: str) -> Sequence[UsageRow]:
        """The ledger rows of a request, by step and attempt."""

    async def spent(self, tenant_id: str, since_ms: int) -> Decimal:
        """What the tenant's rows that were written at ``since_ms`` or later cost together, in USD; exact."""

    async def usage_sums(
        self,
        by: Sequence[Dimension],
        *,
        tenant_id: str | None = None,
        since_ms: int = 0,
        until_ms: int | None = None,
    ) -> Sequence[UsageSum]:
        """The ledger summed by ``by``, of one tenant or of all, of rows written at ``since_ms`` or later and before
        ``until_ms``. Exact; in the order of their keys. What no row has is not there."""

    async def add_feedback(
        self, tenant_id: str, request_id: str, user_id: str, *, rating: int | str, comment: str | None, at: int
    ) -> bool:
        """Keep a user's feedback on a request, the newest counts. False when there is no such request."""

    async def add_trace(self, tenant_id: str, request_id: str, fence: int, record: Mapping[str, Any]) -> bool:
        """Keep what one run of a request, told by its fence, has to say of itself: once, the first counts.

        False, and nothing is kept, when there is no such request or it has as many as `MOST_RUNS_TRACED`.
        """

    async def traces(self, tenant_id: str, request_id: str) -> Sequence[dict[str, Any]]:
        """What the runs of a request have left, by fence."""
