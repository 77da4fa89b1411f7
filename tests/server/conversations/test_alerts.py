"""Alerts of budgets that come to their end: told once for each budget, whatever the webhook does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from tests.support.webhook import WEBHOOK_SECRET, Webhook, running_webhook

from turnwire_server.archive import sqlite as archive_sqlite
from turnwire_server.archive.sqlite import SqliteArchive
from turnwire_server.conversations.alerts import Alert, Alerts
from turnwire_server.quotas.base import Rules, Standing
from turnwire_server.settings import AlertSettings
from turnwire_server.sqlite import Database


def spent(nano: int, at_ms: int = 1_000_000) -> Standing:
    return Standing(at_ms, 0, 0, 0, 0, nano, nano, 0, 60_000, 3_600_000)


@pytest.fixture
async def archive(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SqliteArchive]:
    database = Database(tmp_path_factory.mktemp("alerts"))
    await database.open([*archive_sqlite.SCHEMA])
    yield SqliteArchive(database)
    await database.aclose()


@asynccontextmanager
async def alerting(archive: SqliteArchive, url: str | None) -> AsyncIterator[tuple[Alerts, list[Alert]]]:
    raised: list[Alert] = []
    alerts = Alerts(AlertSettings(webhook_url=url), WEBHOOK_SECRET, archive)
    alerts.raised = raised.append
    running = asyncio.create_task(alerts.run())
    try:
        yield alerts, raised
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def taken(hook: Webhook) -> tuple[str, int, str]:
    async with asyncio.timeout(20):
        alert = await hook.taken.get()
    return alert["tenant_id"], alert["percent"], alert["budget_usd"]


async def test_a_budget_that_was_raised_is_told_of_again(archive: SqliteArchive) -> None:
    """Once, although turns that began before still stand against the old one."""
    async with running_webhook() as (hook, url), alerting(archive, url) as (alerts, raised):
        hook.refusals = 0
        for nano, limit in ((100, 100), (101, 1000), (110, 100), (850, 1000), (860, 100), (870, 1000)):
            alerts.look("acme", Rules(nano_per_day=limit), spent(nano))
        assert [(alert.percent, alert.budget_usd) for alert in raised] == [(100, "0.0000001"), (80, "0.000001")]
        assert {await taken(hook), await taken(hook)} == {("acme", 100, "0.0000001"), ("acme", 80, "0.000001")}
        assert len((await archive.audit("acme", limit=10)).items) == 2


async def test_the_next_day_is_told_of_again(archive: SqliteArchive) -> None:
    async with alerting(archive, None) as (alerts, raised):
        for at_ms in (1_000_000, 2_000_000):
            alerts.look("acme", Rules(nano_per_day=100), spent(80, at_ms))
            alerts.look("acme", Rules(nano_per_day=100), spent(90, at_ms))
        assert [alert.ends_at for alert in raised] == [1_060_000, 2_060_000]


async def test_a_redirect_is_no_delivery(archive: SqliteArchive) -> None:
    async with running_webhook() as (hook, url), alerting(archive, url) as (alerts, _):
        hook.redirects, hook.refusals = 1, 0
        alerts.look("acme", Rules(nano_per_day=100), spent(80))
        assert await taken(hook) == ("acme", 80, "0.0000001")


async def test_a_webhook_that_hangs_holds_up_nobody_else(
    archive: SqliteArchive, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither the log and the audit log, nor the end of the server, which says what was not delivered."""
    caplog.set_level(logging.WARNING)
    async with running_webhook() as (hook, url):
        hook.hung = asyncio.Event()
        async with alerting(archive, url) as (alerts, _):
            for number in range(10):
                alerts.look(f"tenant-{number}", Rules(nano_per_day=100), spent(80))
            async with asyncio.timeout(20):
                await hook.begun.get()
                while len((await archive.audit(limit=20)).items) < 10:
                    await asyncio.sleep(0.01)
            began = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - began < 5
        hook.hung.set()
    told = [record.getMessage() for record in caplog.records]
    assert "10 budget alerts were not delivered: the server is going away" in told
