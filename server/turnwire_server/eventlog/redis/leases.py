"""This node's leases: one per partition in which it owns work, renewed each third of their time.

Redis judges them by its own clock alone. A renewal also brings what was said to this node's turns, so that they hear it
within a third of the lease without any pub/sub. The loop also knows when the next lease of anybody may run out, so that
a dead node is noticed at that moment and not at the next round.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Iterable

import anyio

from turnwire_server.eventlog.base import ConversationRef, Keeper, LogUnavailable, RequestRef
from turnwire_server.telemetry.metrics import Metrics

from .scripts import Scripts
from .views import intents_of

logger = logging.getLogger(__name__)

_SOONEST_S = 0.05
# A server that takes longer holds up its own partitions only.
_ASKED_S = 1.0


class Leases:
    """Kept alive by `run`."""

    def __init__(self, scripts: Scripts, lease_s: float) -> None:
        self._scripts = scripts
        self._lease_s = lease_s
        self._held: dict[str, set[str]] = {}
        self._incarnations: dict[str, str] = {}
        self._soonest_s: float | None = None
        self._renewed_at = time.monotonic()
        self.metrics: Metrics | None = None

    def hold(self, tag: str, member: str, epoch: str = "") -> None:
        """The node owns this request in this partition now; as of this epoch, if it was told just now."""
        self._held.setdefault(tag, set()).add(member)
        if epoch:
            self._incarnations.setdefault(tag, epoch.rpartition(".")[2])

    def let_go(self, tag: str, member: str) -> None:
        """The node does not own it any more, by its own doing."""
        self._held.get(tag, set()).discard(member)

    def owned(self) -> Iterable[str]:
        """Members of what is owned, as of the last renewal."""
        return [member for members in self._held.values() for member in members]

    def expects(self, seconds: float | None) -> None:
        """The next lease of any node runs out in so many seconds, unless it is renewed."""
        self._soonest_s = seconds

    async def run(self, keeper: Keeper) -> None:
        """Renew, and ask for orphans when a lease may have run out, until cancelled."""
        next_renewal = time.monotonic()
        while True:
            now = time.monotonic()
            if not self._held:
                self._renewed_at = now  # there is nothing to renew
            if now - self._renewed_at > self._lease_s and self._held:
                # Nothing has to stop: what this node writes is refused as soon as another has taken it over.
                logger.warning("this node's leases could not be renewed in time; its turns may be taken over")
                self._renewed_at = now
                if self.metrics is not None:
                    self.metrics.lease_lost_total.inc()
            if now >= next_renewal:
                next_renewal = now + self._lease_s / 3
                await self._renew(keeper)
            keeper.orphaned()
            await anyio.sleep(max(min(next_renewal - time.monotonic(), self._until_orphans()), _SOONEST_S))

    def _until_orphans(self) -> float:
        # All nodes see the same lease run out: spread, so that they do not all reach for the same turns.
        soonest = self._lease_s / 3 if self._soonest_s is None else self._soonest_s
        return soonest + random.uniform(0.0, 0.05)  # noqa: S311

    async def _renew(self, keeper: Keeper) -> None:
        began = time.monotonic()

        async def one(tag: str) -> None:
            try:
                await self._renew_one(tag, keeper)
                self._renewed_at = time.monotonic()
            except LogUnavailable:
                raise
            except Exception:  # the node must not die of it
                logger.exception("a lease was not renewed; it is tried again")

        _, errors = await self._scripts.each(tuple(self._held), one, limit_s=min(_ASKED_S, self._lease_s / 4))
        if errors:
            logger.warning("%d of %d leases were not renewed: %s", len(errors), len(self._held), errors[0])
        if self.metrics is not None and self._held:
            self.metrics.lease_renewal_seconds.observe(time.monotonic() - began)

    async def _renew_one(self, tag: str, keeper: Keeper) -> None:
        before = frozenset(self._held.get(tag, ()))
        lives, inboxes, mine, incarnation = await self._scripts.run("renew", tag, "0")
        members = {member.decode() for member in mine}
        # A turn that has nothing to write just now would not find out before its time to show itself is over.
        was, self._incarnations[tag] = self._incarnations.get(tag), incarnation.decode()
        is_new = was != self._incarnations[tag]
        if missed := before | members if is_new else before - members:
            keeper.missed([_request(member) for member in missed])
        # What came to be owned while the call was under way is not in its answer.
        self._held[tag] = members | (self._held.get(tag, set()) - before)
        if lives == b"0" and not self._held[tag]:
            del self._held[tag]
            self._incarnations.pop(tag, None)
        for member, conversation, flat in inboxes:
            request = _request(member.decode())
            home = ConversationRef(request.tenant_id, conversation.decode())
            keeper.heard(request, home, intents_of(flat))

    async def give_up(self) -> None:
        """The node goes: what it still owns is free at once."""

        async def one(tag: str) -> None:
            await self._scripts.run("renew", tag, "1")

        with anyio.CancelScope(shield=True):
            _, errors = await self._scripts.each(tuple(self._held), one, limit_s=_ASKED_S)
        if errors:
            logger.warning("%d leases were not given up: %s", len(errors), errors[0])
        self._held.clear()


def _request(member: str) -> RequestRef:
    tenant_id, _, request_id = member.partition("/")
    return RequestRef(tenant_id, request_id)
