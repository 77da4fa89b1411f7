"""What all connections of a node share, and the limits that hold among them."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING

import anyio
from anyio.abc import TaskGroup

from turnwire_protocol import (
    CloseCode,
    CommandError,
    ConversationDeleted,
    ErrorCode,
    ErrorMessage,
    Notice,
    WireLimits,
)
from turnwire_server.archive.base import ArchiveUnavailable
from turnwire_server.auth import Authenticator, Principal
from turnwire_server.conversations.alerts import Alert
from turnwire_server.conversations.hub import ConversationHub
from turnwire_server.conversations.interrupts import Interrupts
from turnwire_server.conversations.quotas import Account
from turnwire_server.conversations.requests import Requests
from turnwire_server.conversations.roles import role_of
from turnwire_server.conversations.services import Services
from turnwire_server.conversations.shared_context import SharedContexts
from turnwire_server.conversations.snapshots import Snapshots
from turnwire_server.conversations.spec import TurnSpec
from turnwire_server.conversations.threads import Threads
from turnwire_server.conversations.tool_commands import ToolCommands
from turnwire_server.eventlog.base import ConversationRef
from turnwire_server.settings import Tenant
from turnwire_server.tenants import TenantRefused, TenantUnusable

from .flush import show_presence
from .follower import Place
from .timers import TimerWheel

if TYPE_CHECKING:
    from .session import Session

logger = logging.getLogger(__name__)

_ASK_AGAIN_MS = 1000


class Frontend:
    """Made once by ``app``. ``tasks`` is the node's group for writers of connections that fell behind."""

    def __init__(
        self,
        services: Services,
        hub: ConversationHub,
        requests: Requests,
        threads: Threads,
        authenticator: Authenticator,
        tasks: TaskGroup,
    ) -> None:
        self.services = services
        self.settings = services.settings
        self.hub = hub
        hub.attendances.show = show_presence
        services.quotas.settled, services.quotas.alerts.raised = self._settled, self._alerted
        self.requests = requests
        self.interrupts = Interrupts(hub, requests)
        self.threads = threads
        self.contexts = SharedContexts(hub)
        self.snapshots = Snapshots(services)
        self.tool_commands = ToolCommands(hub, self.snapshots)
        self.authenticator = authenticator
        self.tasks = tasks
        self.wheel = TimerWheel()
        self.port: int | None = None
        """The port really bound; the configured one may be 0."""
        limits = self.settings.limits
        self.catching_up = anyio.CapacityLimiter(limits.catchup_concurrency)
        self.sessions: set[Session] = set()
        self._by_user: Counter[tuple[str, str]] = Counter()
        self._by_tenant: Counter[str] = Counter()
        services.tenants.changed, services.tenants.in_use = self._tenant_changed, lambda: self._by_tenant
        self.write_room = limits.send_buffer_bytes // 2
        """Bytes that may wait for a socket before what is ready for it has to wait elsewhere."""
        self.wire_limits = WireLimits(
            frame_bytes=limits.frame_bytes,
            commands_per_s=limits.commands_per_s,
            errors_per_minute=limits.errors_per_minute,
            hello_timeout_s=limits.hello_timeout_s,
            heartbeat_s=limits.heartbeat_s,
            auth_grace_s=limits.auth_grace_s,
            resume_entries=limits.resume_entries,
            input_chars=limits.input_chars,
            metadata_bytes=limits.metadata_bytes,
        )

    async def tenant(self, principal: Principal) -> Tenant:
        """The tenant as it is set now; `forbidden` when it is not served, `unavailable` when that cannot be told."""
        try:
            return await self.services.tenants.find(principal.tenant_id)
        except TenantRefused as refused:
            raise CommandError(ErrorCode.FORBIDDEN, str(refused)) from None
        except TenantUnusable as error:
            raise CommandError(ErrorCode.UNAVAILABLE, str(error), retry_after_ms=_ASK_AGAIN_MS) from None
        except ArchiveUnavailable as error:
            logger.warning("a tenant was not looked up: %s", error)
            text = "the server's storage did not answer in time; come back"
            raise CommandError(ErrorCode.UNAVAILABLE, text, retry_after_ms=_ASK_AGAIN_MS) from None

    def _tenant_changed(self, tenant_id: str, refusal: str | None) -> None:
        """The connections of a tenant that is not served any more are closed."""
        if refusal is None:
            return
        for session in tuple(self.sessions):
            if session.admitted and session.principal.tenant_id == tenant_id:
                session.send(ErrorMessage.of(CommandError(ErrorCode.FORBIDDEN, refusal)))
                session.close_with(CloseCode.FORBIDDEN)

    def admit(self, principal: Principal, tenant: Tenant) -> None:
        """Count a connection of this principal, or refuse it as `overloaded`."""
        limits = self.settings.limits
        if self._by_user[principal.tenant_id, principal.user_id] >= (
            tenant.connections_per_user or limits.connections_per_user
        ):
            raise CommandError(ErrorCode.OVERLOADED, "too many connections of this user")
        if self._by_tenant[principal.tenant_id] >= (tenant.connections or limits.connections_per_tenant):
            raise CommandError(ErrorCode.OVERLOADED, "too many connections of this tenant")
        self._by_user[principal.tenant_id, principal.user_id] += 1
        self._by_tenant[principal.tenant_id] += 1

    def dismiss(self, principal: Principal) -> None:
        """A connection that was admitted is gone."""
        for counter, key in ((self._by_user, (principal.tenant_id, principal.user_id)),):
            counter[key] -= 1
            if counter[key] <= 0:
                del counter[key]
        self._by_tenant[principal.tenant_id] -= 1
        if self._by_tenant[principal.tenant_id] <= 0:
            del self._by_tenant[principal.tenant_id]

    def _settled(self, spec: TurnSpec, account: Account) -> None:
        """A request has ended: its author's connections that follow it learn what is left."""
        conversation = self.hub.find(spec.conversation)
        for place in () if conversation is None else tuple(conversation.followers):
            assert isinstance(place, Place), "the transport is the only one that follows"
            if place.session.principal.user_id == spec.user_id:
                place.session.tell_limits(account)

    def _alerted(self, alert: Alert) -> None:
        """A budget comes to its end: the tenant's operators are told."""
        for session in self.sessions:
            if session.admitted and session.principal.tenant_id == alert.tenant_id and session.is_operator:
                session.send(Notice(kind="budget", message=str(alert), details=alert.to_wire()))

    def recheck_roles(self, ref: ConversationRef) -> None:
        """Roles have changed: those who may no longer view stop following."""
        conversation = self.hub.find(ref)
        if conversation is None:
            return
        if conversation.record is None:
            self.hub.read_again(ref)  # and come here again
            return
        for place in tuple(conversation.followers):
            assert isinstance(place, Place), "the transport is the only one that follows"
            if role_of(conversation.record, place.session.principal) is None:
                place.session.stop_following(ref, by_server=True)
                place.session.send(
                    Notice(
                        kind="access_revoked",
                        conversation_id=ref.conversation_id,
                        message="your access to this conversation was taken back",
                    )
                )

    def deleted(self, ref: ConversationRef) -> None:
        """A conversation is gone: its followers are told and follow it no longer."""
        self.snapshots.forget(ref)
        conversation = self.hub.find(ref)
        if conversation is None:
            return
        for place in tuple(conversation.followers):
            assert isinstance(place, Place), "the transport is the only one that follows"
            place.session.stop_following(ref, by_server=True)
            place.session.send(ConversationDeleted(conversation_id=ref.conversation_id))
        self.hub.forget(conversation)
