"""Tells a webhook that requests in the background have ended: at least once each, whatever dies in between.

That an end is to be told is in the archive from the request's beginning, so there is nothing to be written with the
ending. Whoever finds one due has it for the pause of that try; then it is due again, here or on another node.
"""

from __future__ import annotations

import logging
import time
import uuid
from typing import Any

import anyio

from turnwire_protocol import to_wire
from turnwire_server.archive.base import Archive, ArchiveUnavailable, DueReport, RequestRecord
from turnwire_server.settings import JobSettings
from turnwire_server.telemetry.metrics import Metrics

from .webhook import post

logger = logging.getLogger(__name__)

_LOOK_S = 5.0
_LONGEST_PAUSE_S = 3600.0
_AT_ONCE = 8


class Reports:
    """`run` tells what is due; ``secret`` signs it."""

    def __init__(self, settings: JobSettings, secret: str | None, archive: Archive, metrics: Metrics) -> None:
        self._settings = settings
        self._secret = secret
        self._archive = archive
        self._metrics = metrics
        self._ended = anyio.Event()
        # A try has its whole time before the next one may begin.
        longest = [min(settings.webhook_pause_s * 2.0**n, _LONGEST_PAUSE_S) for n in range(settings.webhook_tries)]
        self._pauses_ms = [int((pause_s + settings.webhook_timeout_s) * 1000) for pause_s in longest]

    @property
    def are_wanted(self) -> bool:
        return self._settings.webhook_url is not None

    def ended(self) -> None:
        """One has just ended here: it need not wait until somebody looks."""
        self._ended.set()

    async def run(self) -> None:
        """Until cancelled."""
        url = self._settings.webhook_url
        while url is not None:
            self._ended = anyio.Event()
            try:
                found = await self._due()
            except ArchiveUnavailable as error:
                logger.debug("ends to be reported were not looked for: %s", error)
                found = []
            async with anyio.create_task_group() as tasks:
                for report in found:
                    tasks.start_soon(self._tell, url, report, name="webhook")
            if not found:
                with anyio.move_on_after(_LOOK_S):
                    await self._ended.wait()

    async def _due(self) -> list[DueReport]:
        now_ms = int(time.time() * 1000)
        found = await self._archive.due_reports(uuid.uuid4().hex, now_ms, pauses_ms=self._pauses_ms, limit=_AT_ONCE)
        return list(found)

    async def _tell(self, url: str, report: DueReport) -> None:
        record, timeout_s = report.record, self._settings.webhook_timeout_s
        try:
            problem = await post(url, said_of(record), named(record), secret=self._secret, timeout_s=timeout_s)
            is_last = report.tries >= len(self._pauses_ms)
            if problem is None or is_last:
                await self._archive.reported(record.tenant_id, record.request_id)
            outcome = "taken" if problem is None else "given_up" if is_last else "refused"
            self._metrics.job_reports_total.labels(outcome).inc()
            if problem is not None and is_last:
                logger.error("the webhook did not take the end of request %s: %s", record.request_id, problem)
        except ArchiveUnavailable as error:
            logger.warning("the end of request %s may be reported once more: %s", record.request_id, error)
        except Exception:
            logger.exception("the end of request %s was not reported", record.request_id)


def named(record: RequestRecord) -> str:
    """The same for each try."""
    return f"request.ended:{record.tenant_id}:{record.request_id}"


def said_of(record: RequestRecord) -> dict[str, Any]:
    """What is told of a request that has ended."""
    ending = record.ending or {}
    return {
        "type": "request.ended",
        "tenant_id": record.tenant_id,
        "conversation_id": record.conversation_id,
        "request_id": record.request_id,
        "user_id": record.user_id,
        "state": record.state,
        **({"error": ending["fields"]["error"]} if "error" in ending.get("fields", {}) else {}),
        "message": None if record.answer is None else to_wire(record.answer),
        "usage": ending.get("usage"),
        "ended_at": record.ended_at,
    }
