"""Which deployments a step may be asked, and the walk along them.

The router owns the providers, one gate for each, and knows the routes. What is decided lies in `plan` (one step),
`breaker` and `gate` (one deployment), which keep no time; here the clock is read, timers are set and waits are waited.
What a failure means for the client is the turn's.

    walk = router.walk(route, caller)
    while (call := await walk.next()) is not None:
        ... ask call.provider; call.answered() with the first token ...
        walk.ended(call, error)          # exactly once, also when the turn is cancelled
    walk.error                           # why nobody is asked any more

Below: `gateway.providers`. Beside: `health`, through which nodes tell each other what they learn.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Self

from turnwire_server.gateway.breaker import Breaker, BreakerRules, BreakerState, News
from turnwire_server.gateway.errors import ProviderError
from turnwire_server.gateway.gate import Gate, Pass
from turnwire_server.gateway.health.base import Board
from turnwire_server.gateway.health.sharing import ASK_AGAIN_S, Sharing
from turnwire_server.gateway.plan import Ask, Plan, Stop, Wait, ordered
from turnwire_server.gateway.provider import Provider
from turnwire_server.gateway.providers import provider_for
from turnwire_server.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from turnwire_server.settings import Deployment, Route

logger = logging.getLogger(__name__)


class UnknownRoute(LookupError):
    """There is no route of this name, or none for this caller: the difference is nobody's business."""

    def __init__(self, name: str) -> None:
        super().__init__(f"unknown route '{name}'")
        self.name = name


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, as far as it decides what may be asked. Empty `regions`: wherever it is computed; `routes` is None:
    all those that the features open."""

    tenant: str
    features: frozenset[str] = frozenset()
    regions: frozenset[str] = frozenset()
    routes: frozenset[str] | None = None

    def may_ask(self, deployment: Deployment) -> bool:
        is_near = not self.regions or deployment.region in self.regions
        return is_near and self.features.issuperset(deployment.features)

    def may_use(self, route: Route) -> bool:
        is_open = self.routes is None or route.name in self.routes
        return is_open and self.features.issuperset(route.features)


NOBODY = Caller("")


class Call:
    """One call of a deployment that may be made now. See the module."""

    __slots__ = ("_gate", "_leave", "_loop", "_metrics", "_sharing", "provider")

    def __init__(
        self,
        provider: Provider,
        gate: Gate,
        leave: Pass,
        loop: asyncio.AbstractEventLoop,
        metrics: Metrics | None,
        sharing: Sharing | None,
    ) -> None:
        self.provider = provider
        self._gate = gate
        self._leave: Pass | None = leave
        self._loop = loop
        self._metrics = metrics
        self._sharing = sharing

    def __repr__(self) -> str:
        return f"<Call {self.name}>"

    @property
    def name(self) -> str:
        return self._gate.name

    @property
    def deployment(self) -> Deployment:
        return self.provider.deployment

    def answered(self) -> None:
        """The first token has come. Safe to repeat."""
        if self._leave is not None and not self._leave.had_answered:
            self._gate.answered(self._leave, self._loop.time())
            self._after_probe(self._leave)

    def end(self, error: ProviderError | None = None) -> None:
        """It is over. Safe to repeat; the first counts."""
        leave, self._leave = self._leave, None
        if leave is not None:
            self._gate.leave(leave, self._loop.time(), error)
            self._after_probe(leave)
            if self._metrics is not None:
                self._metrics.deployment_calls.labels(self.name).set(self._gate.in_flight)
                if error is not None:
                    self._metrics.deployment_left_total.labels(self.name, error.reason).inc()

    def _after_probe(self, leave: Pass) -> None:
        if leave.ticket.is_probe and self._sharing is not None:
            self._sharing.probed(self.name)


class _Waiting:
    """A walk that waits at some gates. See `gate.Waiter`."""

    def __init__(self, tenant: str, loop: asyncio.AbstractEventLoop) -> None:
        self.tenant = tenant
        self.future: asyncio.Future[tuple[Gate, Pass] | None] = loop.create_future()

    @property
    def is_waiting(self) -> bool:
        return not self.future.done()

    def let_in(self, gate: Gate, leave: Pass) -> None:
        self.future.set_result((gate, leave))

    def look_again(self) -> None:
        if not self.future.done():
            self.future.set_result(None)


class Router:
    """The providers of all deployments, and the routes over them. Close it with `aclose`."""

    def __init__(
        self,
        providers: Mapping[str, Provider],
        routes: Iterable[Route],
        *,
        rng: Random | None = None,
        metrics: Metrics | None = None,
        board: Board | None = None,
    ) -> None:
        self._providers = dict(providers)
        self._routes = {route.name: route for route in routes}
        self._rng = rng or Random()  # noqa: S311 - spreads load
        self._metrics = metrics
        self._timers: dict[str, asyncio.TimerHandle] = {}
        if not self._routes:
            raise ValueError("a router needs a route")
        for route in self._routes.values():
            for name in route.deployments:
                if name not in self._providers:
                    raise ValueError(f"route '{route.name}' names the unknown deployment '{name}'")
        self._gates = {name: self._gate_for(provider.deployment) for name, provider in self._providers.items()}
        self._sharing = None if board is None else Sharing(board, self._heard)

    @classmethod
    def open(
        cls,
        deployments: Iterable[Deployment],
        routes: Iterable[Route],
        environ: Mapping[str, str],
        *,
        metrics: Metrics | None = None,
        board: Board | None = None,
    ) -> Self:
        """A router with a provider for each deployment. Nothing is connected before the first call."""
        providers = {each.name: provider_for(each, environ) for each in deployments}
        return cls(providers, routes, metrics=metrics, board=board)

    async def run(self) -> None:
        """Shares what is learned with other nodes, until cancelled; without a board there are none."""
        if self._sharing is not None:
            await self._sharing.run()

    async def aclose(self) -> None:
        """Closes all providers. Their streams must have been left before."""
        for timer in self._timers.values():
            timer.cancel()
        await asyncio.gather(*(provider.aclose() for provider in self._providers.values()))

    @property
    def default_route(self) -> str:
        """The first route: for tenants that have none of their own."""
        return next(iter(self._routes))

    @property
    def gates(self) -> Mapping[str, Gate]:
        """The state of each deployment, to look at."""
        return self._gates

    def has_route(self, name: str, caller: Caller = NOBODY) -> bool:
        """Whether this caller may choose that route, and anybody on it would answer."""
        route = self._routes.get(name)
        return route is not None and caller.may_use(route) and bool(self._allowed(route, caller))

    def route(self, name: str | None = None) -> Route:
        """The route of this name, or the default one; raises `UnknownRoute`."""
        name = self.default_route if name is None else name
        try:
            return self._routes[name]
        except KeyError:
            raise UnknownRoute(name) from None

    def first(self, route: str | None, caller: Caller) -> Deployment:
        """The deployment that stands first on a route for this caller; raises `UnknownRoute`."""
        return self._allowed_on(self.route(route), caller)[0]

    def walk(self, route: str | None, caller: Caller) -> Walk:
        """One step's way along a route. Raises `UnknownRoute` when nobody on it may be asked by this caller."""
        chosen = self.route(route)
        return Walk(self, chosen, self._allowed_on(chosen, caller), caller.tenant)

    def _allowed_on(self, route: Route, caller: Caller) -> Sequence[Deployment]:
        allowed = self._allowed(route, caller)
        if not allowed:
            raise UnknownRoute(route.name)
        return allowed

    def _allowed(self, route: Route, caller: Caller) -> list[Deployment]:
        deployments = [self._providers[name].deployment for name in ordered(route, self._rng)]
        return [each for each in deployments if caller.may_ask(each)]

    def _gate_for(self, deployment: Deployment) -> Gate:
        rules = BreakerRules(
            failures=deployment.breaker_failures,
            window_s=deployment.breaker_window_s,
            open_s=deployment.breaker_open_s,
            open_most_s=max(deployment.breaker_open_s, deployment.breaker_open_most_s),
            probe_s=deployment.connect_timeout_s + deployment.first_token_timeout_s,
            places=deployment.max_concurrency,
        )
        breaker = Breaker(rules, self._rng)
        return Gate(deployment.name, deployment.max_concurrency, breaker, self._learned)

    def _learned(self, gate: Gate, news: News) -> None:
        """A breaker of this node has moved by what this node saw."""
        if self._sharing is not None:
            self._sharing.tell(gate.name, news)
        self._say(gate, news, "")

    def _heard(self, name: str, news: News) -> None:
        """Another node has learned something."""
        gate = self._gates.get(name)
        if gate is None or (not news.is_open and not gate.breaker.is_open):
            return
        gate.hear(news, asyncio.get_running_loop().time())
        self._set_timer(gate, asyncio.get_running_loop())
        self._say(gate, news, ", says another node")

    def _say(self, gate: Gate, news: News, by: str) -> None:
        if news.is_open:
            logger.warning("deployment %s is left alone for %.1f s%s: %s", gate.name, news.for_s, by, news.reason)
        else:
            logger.info("deployment %s answers again%s", gate.name, by)
        if self._metrics is not None:
            self._metrics.deployment_open.labels(gate.name).set(int(gate.breaker.is_open))

    # --- for walks -----------------------------------------------------------------------------------------

    def call(self, gate: Gate, leave: Pass, loop: asyncio.AbstractEventLoop) -> Call:
        """The call that a pass stands for."""
        if self._metrics is not None:
            self._metrics.deployment_calls.labels(gate.name).set(gate.in_flight)
        return Call(self._providers[gate.name], gate, leave, loop, self._metrics, self._sharing)

    async def is_ours(self, gate: Gate, leave: Pass, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether the call may be made: a probe only when no other node makes one. If not, the place is given back."""
        if self._sharing is None or not leave.ticket.is_probe:
            return True
        for_s = gate.breaker.rules.probe_s
        try:
            if await self._sharing.may_probe(gate.name, for_s):
                return True
        except BaseException:
            gate.leave(leave, loop.time())
            self._sharing.probed(gate.name)
            raise
        gate.probed_elsewhere(leave, loop.time(), ASK_AGAIN_S)
        self._set_timer(gate, loop)
        return False

    def count_skipped(self, skipped: Iterable[tuple[str, str]]) -> None:
        if self._metrics is not None:
            for name, reason in skipped:
                self._metrics.deployment_skipped_total.labels(name, reason).inc()

    def plan(self, route: Route, deployments: Sequence[Deployment], now: float) -> Plan:
        return Plan(route, deployments, self._gates, now, self._rng)

    async def wait(self, wait: Wait, tenant: str, loop: asyncio.AbstractEventLoop) -> tuple[Gate, Pass] | None:
        """Until one of the gates lets in; None: look again."""
        waiter = _Waiting(tenant, loop)
        gates = [self._gates[name] for name in wait.at]
        for gate in gates:
            gate.wait(waiter)
            self._set_timer(gate, loop)
        timer = loop.call_at(wait.until, waiter.look_again)
        began = loop.time()
        try:
            return await waiter.future
        except asyncio.CancelledError:
            if not waiter.future.cancelled() and (entered := waiter.future.result()) is not None:
                entered[0].leave(entered[1], loop.time())
            raise
        finally:
            timer.cancel()
            for gate in gates:
                gate.forget(waiter)
            if self._metrics is not None:
                self._metrics.deployment_wait_seconds.observe(loop.time() - began)

    def _set_timer(self, gate: Gate, loop: asyncio.AbstractEventLoop) -> None:
        """Has the gate's own time told to it, once for all who wait there."""
        if (timer := self._timers.pop(gate.name, None)) is not None:
            timer.cancel()
        if (when := gate.next_timer()) is not None:
            self._timers[gate.name] = loop.call_at(when, self._pump, gate, loop)

    def _pump(self, gate: Gate, loop: asyncio.AbstractEventLoop) -> None:
        self._timers.pop(gate.name, None)
        gate.pump(loop.time())
        self._set_timer(gate, loop)

    def __repr__(self) -> str:
        return f"Router(routes={list(self._routes)}, deployments={list(self._gates.values())})"


class Walk:
    """See the module. `next` is not to be called while a call is under way."""

    def __init__(self, router: Router, route: Route, deployments: Sequence[Deployment], tenant: str) -> None:
        self.route = route
        self.error: ProviderError | None = None
        self._router = router
        self._tenant = tenant
        self._loop = asyncio.get_running_loop()
        self._plan = router.plan(route, deployments, self._loop.time())

    def __repr__(self) -> str:
        return f"<Walk {self.route.name} attempts={self._plan.attempts}>"

    async def next(self) -> Call | None:
        """The next call to make, as soon as there is one; None when there is none and will be none, see `error`."""
        while True:
            now = self._loop.time()
            match self._plan.choose(now):
                case Ask(name, skipped):
                    if skipped:
                        self._router.count_skipped(skipped)
                    gate = self._router.gates[name]
                    entered = gate, gate.enter(self._tenant, now)
                case Wait() as wait:
                    waited = await self._router.wait(wait, self._tenant, self._loop)
                    if waited is None:
                        continue
                    entered = waited
                case Stop(error):
                    self.error = error
                    return None
            gate, leave = entered
            if not await self._router.is_ours(gate, leave, self._loop):
                continue
            self._plan.begun(gate.name)
            return self._router.call(gate, leave, self._loop)

    def second(self, first: Call) -> Call | None:
        """Another call to make beside one that is slow, if another deployment has room for it now."""
        now = self._loop.time()
        name = self._plan.other_than(first.name, now)
        if name is None:
            return None
        gate = self._router.gates[name]
        leave = gate.enter(self._tenant, now)
        self._plan.begun(name)
        return self._router.call(gate, leave, self._loop)

    def ended(self, call: Call, error: ProviderError | None = None) -> None:
        """A call is over: it has failed, or whatever it was has ended with what was answered."""
        call.end(error)
        if error is not None:
            self._plan.failed(call.name, error, self._loop.time())

    def following(self) -> str | None:
        """The deployment that will be asked next, as far as can be told; None when nobody will be."""
        return self._plan.following(self._loop.time())


__all__ = ["NOBODY", "BreakerState", "Call", "Caller", "Router", "UnknownRoute", "Walk"]
