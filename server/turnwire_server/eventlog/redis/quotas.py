"""What tenants use, counted in Redis for all nodes: see `quotas.base`, whose port it serves.

Each step is one call of one script on the tenant's own keys, which have one hash tag, so a Cluster spreads tenants. It
has connections of its own, so that it never waits for the log. Nothing here has to survive: what was lost is counted
anew from the ledger.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import Any

from redis.exceptions import NoScriptError, ResponseError

from turnwire_server.eventlog.base import LogUnavailable
from turnwire_server.quotas.base import (
    Admitted,
    Demand,
    LimitName,
    QuotasUnavailable,
    Refused,
    Rules,
    Standing,
    Uncounted,
)

from .server import FAULTS, Place, Server

_SCRIPT = (files(__package__) / "lua" / "quota.lua").read_bytes()
_DIGEST = hashlib.sha1(_SCRIPT, usedforsecurity=False).hexdigest()

_LIMITS: dict[bytes, LimitName] = {
    b"requests_per_minute": "requests_per_minute",
    b"tokens_per_minute": "tokens_per_minute",
    b"budget_usd_per_day": "budget_usd_per_day",
    b"budget_usd_per_month": "budget_usd_per_month",
}


class RedisQuotas:
    """Call `open` first and `aclose` last. ``clock`` gives seconds; None: the server's own time counts."""

    def __init__(
        self, url: str, *, prefix: str = "tw", timeout_s: float = 5.0, clock: Callable[[], float] | None = None
    ) -> None:
        self._server = Server(Place.of(url), timeout_s=timeout_s, prefix=prefix)
        self._prefix = prefix
        self._clock = clock

    def open(self) -> None:
        """It connects when it is used."""
        self._server.open()

    async def aclose(self) -> None:
        await self._server.aclose()

    async def reserve(
        self, tenant_id: str, request_id: str, demand: Demand, rules: Rules, *, hold_ms: int, recount_ms: int
    ) -> Admitted | Refused | Uncounted:
        limits = (rules.requests_per_minute, rules.tokens_per_minute, rules.nano_per_day, rules.nano_per_month)
        said = ("" if limit is None else limit for limit in limits)
        answer = await self._run(
            "reserve", tenant_id, request_id, demand.tokens, demand.nano, *said, hold_ms, recount_ms
        )
        match answer[0]:
            case b"uncounted":
                return Uncounted(*map(int, answer[1:]))
            case b"refused":
                return Refused(_LIMITS[answer[1]], int(answer[2]), _standing(answer))
        return Admitted(_standing(answer))

    async def settle(self, tenant_id: str, request_id: str, tokens: int, nano: int) -> Standing | None:
        answer = await self._run("settle", tenant_id, request_id, tokens, nano)
        return None if answer[0] == b"unknown" else _standing(answer)

    async def release(self, tenant_id: str, request_id: str) -> None:
        await self._run("release", tenant_id, request_id)

    async def count(self, tenant_id: str, asked: Uncounted, day_nano: int, month_nano: int) -> bool:
        answer = await self._run("count", tenant_id, "", asked.generation, asked.settled_nano, day_nano, month_nano)
        return bool(answer[0] == b"counted")

    async def _run(self, step: str, tenant_id: str, request_id: str, *arguments: str | int) -> list[Any]:
        tag = f"{{{self._prefix}:quota:{tenant_id}}}:"
        keys = [f"{tag}window", f"{tag}holds", f"{tag}expiry", f"{tag}money"]
        now = "" if self._clock is None else int(self._clock() * 1000)
        said = (*keys, step, now, request_id, *arguments)
        try:
            try:
                return await self._call(keys[0], lambda client: client.evalsha(_DIGEST, len(keys), *said))
            except NoScriptError:
                return await self._call(keys[0], lambda client: client.eval(_SCRIPT, len(keys), *said))
        except (*FAULTS, ResponseError, LogUnavailable) as error:
            raise QuotasUnavailable(f"Redis does not answer: {error or type(error).__name__}") from error

    async def _call(self, key: str, call: Callable[[Any], Awaitable[Any]]) -> list[Any]:
        answer: list[Any] = await self._server.run(key, call)
        return answer


def _standing(answer: list[Any]) -> Standing:
    return Standing(*map(int, answer[3:]))
