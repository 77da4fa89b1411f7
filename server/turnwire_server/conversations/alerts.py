"""Tells people that a tenant's budget comes to its end: at 80 % and at 100 % of it, once in each day and month.
One that was changed is another budget.

Each node sees how a tenant stands whenever it lets a request in or settles one. The first node that sees a level says
so in the log and to the webhook, which the archive's audit log decides; every node tells its own connections.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import anyio

from turnwire_server.archive.base import Archive, ArchiveUnavailable
from turnwire_server.archive.tenants import AuditEntry
from turnwire_server.gateway.usage import usd_text
from turnwire_server.quotas.base import Rules, Standing, usd
from turnwire_server.settings import AlertSettings

from .webhook import post

logger = logging.getLogger(__name__)

LEVELS = (80, 100)
_TRIES = 5
_PAUSE_S = 1.0
_MOST_WAITING = 1_000
# A webhook that is slow must not keep the log and the audit log from being told of the next alert.
_AT_ONCE = 4
_MOST_KNOWN = 100_000


@dataclass(frozen=True, slots=True)
class Alert:
    """A budget of which `percent` has been spent. ``at`` is when that was seen, ``ends_at`` when the next begins, in
    milliseconds since the Unix epoch."""

    tenant_id: str
    period: Literal["day", "month"]
    percent: int
    spent_usd: str
    budget_usd: str
    ends_at: int
    at: int

    def __str__(self) -> str:
        spent = f"{self.spent_usd} of {self.budget_usd} USD"
        return f"{self.percent} % of the budget of this {self.period} is spent: {spent}"

    def to_wire(self) -> dict[str, Any]:
        """The fields that a connection of the tenant is told."""
        return {name: value for name, value in asdict(self).items() if name != "tenant_id"}

    @property
    def key(self) -> str:
        """The same for everybody who sees it."""
        return f"budget:{self.tenant_id}:{self.period}:{self.ends_at}:{self.budget_usd}:{self.percent}"


class Alerts:
    """`run` delivers what `look` finds; ``secret`` signs it."""

    def __init__(
        self,
        settings: AlertSettings,
        secret: str | None,
        archive: Archive,
    ) -> None:
        self._settings = settings
        self._secret = secret
        self._archive = archive
        self._me = uuid.uuid4().hex
        self._known: dict[tuple[str, str, int], tuple[int, int]] = {}
        self._waiting: asyncio.Queue[Alert] = asyncio.Queue(_MOST_WAITING)
        self._outgoing: asyncio.Queue[Alert] = asyncio.Queue(_MOST_WAITING)
        self._undelivered = 0
        self.raised: Callable[[Alert], None] = lambda alert: None
        """Called once on each node for each alert."""

    def look(self, tenant_id: str, rules: Rules, standing: Standing) -> None:
        """How a tenant stands; never waits."""
        for period, limit, spent, left_ms in (
            ("day", rules.nano_per_day, standing.day_nano, standing.day_left_ms),
            ("month", rules.nano_per_month, standing.month_nano, standing.month_left_ms),
        ):
            if limit is None:
                continue
            level = max((each for each in LEVELS if spent * 100 >= each * limit), default=0)
            ends_at = standing.at_ms + left_ms
            # Turns that began before a budget was changed still stand against the old one.
            key = tenant_id, period, limit
            known_end, known = self._known.get(key, (0, 0))
            if level > (known if known_end == ends_at else 0):
                while len(self._known) >= _MOST_KNOWN:
                    del self._known[next(iter(self._known))]
                self._known[key] = ends_at, level
                told = usd_text(usd(spent)), usd_text(usd(limit))
                self._raise(Alert(tenant_id, period, level, *told, ends_at, standing.at_ms))  # type: ignore[arg-type]

    def _raise(self, alert: Alert) -> None:
        self.raised(alert)
        try:
            self._waiting.put_nowait(alert)
        except asyncio.QueueFull:
            logger.error("too many budget alerts wait; one of tenant %s is not delivered", alert.tenant_id)

    async def run(self) -> None:
        """Until cancelled."""
        url = self._settings.webhook_url
        try:
            async with anyio.create_task_group() as tasks:
                if url is not None:
                    for _ in range(_AT_ONCE):
                        tasks.start_soon(self._deliver_all, url, name="webhook")
                while True:
                    await self._tell(await self._waiting.get())
        finally:
            if self._undelivered:
                logger.error("%d budget alerts were not delivered: the server is going away", self._undelivered)

    async def _tell(self, alert: Alert) -> None:
        try:
            if not await self._is_first(alert):
                logger.info("tenant %s: %s; another node has told it", alert.tenant_id, alert)
                return
            logger.warning("tenant %s: %s", alert.tenant_id, alert)
            if self._settings.webhook_url is not None:
                self._outgoing.put_nowait(alert)
                self._undelivered += 1
        except asyncio.QueueFull:
            logger.error("too many budget alerts wait; one of tenant %s is not delivered", alert.tenant_id)
        except Exception:
            logger.exception("a budget alert of tenant %s was not told", alert.tenant_id)

    async def _deliver_all(self, url: str) -> None:
        while True:
            alert = await self._outgoing.get()
            try:
                await self._deliver(url, alert)
            except Exception:
                logger.exception("a budget alert of tenant %s was not delivered", alert.tenant_id)
            self._undelivered -= 1

    async def _is_first(self, alert: Alert) -> bool:
        """Told twice rather than never: whoever cannot find out takes itself for the first."""
        try:
            entry = AuditEntry(
                op=alert.key,
                at=alert.at,
                actor="turnwire",
                act="budget.alert",
                tenant_id=alert.tenant_id,
                details={**alert.to_wire(), "seen_by": self._me},
            )
            return (await self._archive.add_audit(entry)).details.get("seen_by") == self._me
        except ArchiveUnavailable as error:
            logger.warning("whether a budget alert was given before is not known: %s", error)
            return True

    async def _deliver(self, url: str, alert: Alert) -> None:
        said, timeout_s = {"type": "budget.alert", **asdict(alert)}, self._settings.webhook_timeout_s
        pause_s = _PAUSE_S
        for tries_left in reversed(range(_TRIES)):
            problem = await post(url, said, alert.key, secret=self._secret, timeout_s=timeout_s)
            if problem is None:
                return
            if tries_left:
                await asyncio.sleep(pause_s)
                pause_s *= 2
        logger.error("the webhook did not take a budget alert of tenant %s: %s", alert.tenant_id, problem)
