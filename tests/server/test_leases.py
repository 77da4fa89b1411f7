"""When a node says that its leases were not renewed in time. Unrealistic in that time only passes while it sleeps."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import anyio.lowlevel
import pytest

from turnwire_server.eventlog.redis import leases
from turnwire_server.eventlog.redis.leases import Leases

LEASE_S = 10.0


class Enough(Exception):
    """The loop has gone round often enough."""


async def warned(monkeypatch: pytest.MonkeyPatch, *, held_from: int, renews: bool) -> bool:
    """Whether it warned in twenty rounds, of which it held a lease from one on."""
    now, rounds, said = 0.0, 0, []

    async def sleep(seconds: float) -> None:
        nonlocal now, rounds
        now, rounds = now + seconds, rounds + 1
        if rounds == held_from:
            kept.hold("tag", "acme/r1")
        if rounds == 20:
            raise Enough
        await anyio.lowlevel.checkpoint()

    async def each(tags: Any, call: Any, **_: Any) -> tuple[dict[str, Any], list[Any]]:
        return {tag: await call(tag) for tag in tags} if renews else {}, []

    async def run(*_: Any) -> tuple[bytes, list[Any], list[bytes], bytes]:
        return b"1", [], [b"acme/r1"], b"inc"

    monkeypatch.setattr(leases, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(leases, "anyio", SimpleNamespace(sleep=sleep))
    monkeypatch.setattr(leases.logger, "warning", lambda *text: said.append(text))
    kept = Leases(SimpleNamespace(each=each, run=run), LEASE_S)  # type: ignore[arg-type]
    with pytest.raises(Enough):
        await kept.run(SimpleNamespace(orphaned=lambda: None, missed=lambda _: None))  # type: ignore[arg-type]
    assert now > 3 * LEASE_S
    return bool(said)


async def test_a_node_that_held_nothing_for_long_has_missed_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not await warned(monkeypatch, held_from=16, renews=True)


async def test_a_lease_that_is_not_renewed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await warned(monkeypatch, held_from=1, renews=False)
