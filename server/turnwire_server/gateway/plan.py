"""Which deployment a step asks next: one plan for each step. Pure: time, randomness and the gates' state come in.

The route says who may be asked, in which order; weights draw the order anew for each step. Then, again and again:

- the first that lets calls in, those asked less often first;
- one that has failed comes again after a back-off, longer each time, or after what the provider asked for, whichever is
  longer; another one is asked at once;
- what is left depends on whose fault the last failure was (`Blame`): a request that is wrong or refused for its content
  goes nowhere else, one that is too long only to models with a larger context, and a deployment that refuses its
  credentials, or says that trying again is no use, is not asked again by this step;
- when nobody can be asked now, somebody is waited for, unless all are known to stay away for longer than the step has;
- `max_attempts` calls and `budget_s` seconds, and the step has failed with its last error. The budget is for beginning
  calls; one that has begun has its deployment's own limits.

A step is *cornered* when all deployments that it may still ask have failed it or are left alone; it may then probe
sooner than those who have somewhere else to go.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

from turnwire_server.gateway.backoff import backoff, not_before
from turnwire_server.gateway.errors import Blame, ProviderError, ProviderErrorKind
from turnwire_server.gateway.gate import Gate

if TYPE_CHECKING:
    from turnwire_server.settings import Deployment, Route


_SHORTEST_WAIT_S = 0.01
"""Whatever the clock says: who waits lets others run."""


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask this deployment now: its gate has room. `skipped` are those before it, each with `open` or `full`."""

    name: str
    skipped: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait at these gates until one lets in, but not beyond `until`; then look again. `name` is the likeliest."""

    at: tuple[str, ...]
    until: float
    name: str


@dataclass(frozen=True, slots=True)
class Stop:
    """Nobody is asked any more."""

    error: ProviderError


Choice = Ask | Wait | Stop


def ordered(route: Route, rng: Random) -> Sequence[str]:
    """The route's deployments in the order of one step: those with weights first, drawn by them one after the other,
    then the rest as they stand."""
    if not route.weights:
        return route.deployments
    drawn = {name: weight for name in route.deployments if (weight := route.weights.get(name))}
    out: list[str] = []
    while drawn:
        (name,) = rng.choices(tuple(drawn), tuple(drawn.values()))
        del drawn[name]
        out.append(name)
    # A weight of 0 keeps a deployment out of the draw: it is there for when the others fail.
    return [*out, *(name for name in route.deployments if not route.weights.get(name))]


class Plan:
    """See the module. Ask `choose`; after `Ask` say `begun`, and `failed` when it has."""

    def __init__(
        self, route: Route, deployments: Sequence[Deployment], gates: Mapping[str, Gate], now: float, rng: Random
    ) -> None:
        self._route = route
        self._left = {deployment.name: deployment for deployment in deployments}
        self._gates = gates
        self._rng = rng
        self._deadline = now + route.budget_s
        self._attempts = 0
        self._tries = dict.fromkeys(self._left, 0)
        self._ready_at = dict.fromkeys(self._left, now)
        self._error: ProviderError | None = None

    @property
    def attempts(self) -> int:
        return self._attempts

    @property
    def names(self) -> Sequence[str]:
        """Those that may still be asked, in order."""
        return tuple(self._left)

    def begun(self, name: str) -> None:
        """A call of this deployment is being made."""
        self._attempts += 1
        self._tries[name] += 1

    def failed(self, name: str, error: ProviderError, now: float) -> None:
        """It has failed."""
        self._error = error
        match error.blame:
            case Blame.REQUEST | Blame.CONTENT:
                self._left.clear()
            case Blame.CONTEXT:
                self._keep_larger(name)
            case Blame.DEPLOYMENT if not error.retryable:
                self._left.pop(name, None)
        wait_s = backoff(self._tries[name], self._route.backoff_s, self._route.backoff_most_s, self._rng)
        if error.retry_after_s is not None:
            wait_s = max(wait_s, not_before(error.retry_after_s, self._rng))
        self._ready_at[name] = now + wait_s

    def choose(self, now: float) -> Choice:
        """What to do now. Nothing changes by asking."""
        if not self._left or self._attempts >= self._route.max_attempts or now >= self._deadline:
            return self._stop()
        gates = self._gates
        order = self._order(now)
        ready = [name for name in order if self._ready_at[name] <= now]
        cornered = all(self._tries[name] or gates[name].breaker.is_open for name in order)
        for name in ready:
            if gates[name].has_room(now, cornered=cornered):
                return Ask(name, self._skipped(name))
        return self._wait(order, ready, now, cornered=cornered)

    def other_than(self, taken: str, now: float) -> str | None:
        """A second deployment to ask beside one that is slow: one that has room now, and is not to be probed."""
        if self._attempts >= self._route.max_attempts or now >= self._deadline:
            return None
        for name in self._order(now):
            gate = self._gates[name]
            is_free = self._ready_at[name] <= now and not gate.breaker.is_open and gate.has_room(now)
            if name != taken and is_free:
                return name
        return None

    def following(self, now: float) -> str | None:
        """Who will be asked next, as far as can be told."""
        match self.choose(now):
            case Ask(name) | Wait(name=name):
                return name
            case _:
                return None

    def _order(self, now: float) -> list[str]:
        """The route's order among those asked equally often. One that is left alone, its probe not yet due, stands
        behind those, as if it had been asked once more: an early probe may cost its whole time limit."""
        gates, tries = self._gates, self._tries

        def key(name: str) -> int:
            breaker = gates[name].breaker
            return tries[name] + (breaker.is_open and not breaker.may_call(now))

        return sorted(self._left, key=key)

    def _skipped(self, chosen: str) -> tuple[tuple[str, str], ...]:
        before = itertools.takewhile(lambda name: name != chosen, self._left)
        return tuple((name, _why(self._gates[name])) for name in before if not self._tries[name])

    def _wait(self, order: Sequence[str], ready: Sequence[str], now: float, *, cornered: bool) -> Choice:
        soonest = {name: self._soonest(name, now, cornered=cornered) for name in order}
        likeliest = min(order, key=lambda name: soonest[name])
        if soonest[likeliest] >= self._deadline:
            return self._stop()
        gates = self._gates
        at = tuple(name for name in ready if cornered or gates[name].is_full or not gates[name].breaker.is_open)
        # Elsewhere nobody lets in by himself: the end of a back-off, and of a breaker's time when one is not cornered.
        looks = [soonest[name] for name in order if name not in at]
        return Wait(at, max(now + _SHORTEST_WAIT_S, min([self._deadline, *looks])), likeliest)

    def _soonest(self, name: str, now: float, *, cornered: bool) -> float:
        breaker = self._gates[name].breaker
        at = max(now, self._ready_at[name])
        return max(at, breaker.may_probe_at(cornered=cornered)) if breaker.is_open else at

    def _keep_larger(self, name: str) -> None:
        failed = self._left.get(name)
        size = (failed.context_tokens if failed else None) or 0
        self._left = {each: other for each, other in self._left.items() if (other.context_tokens or 0) > size}

    def _stop(self) -> Stop:
        if self._error is not None:
            return Stop(self._error)
        names = ", ".join(f"'{name}'" for name in self._left)
        reasons = [self._gates[name].breaker for name in self._left]
        away = [breaker for breaker in reasons if breaker.is_open]
        if len(away) == len(reasons):
            kind = next((kind for kind in ProviderErrorKind if away and kind.value == away[0].reason), None)
            said = f"No model can be reached: {names} failed lately and is given time to recover. Please try again."
            return Stop(ProviderError(kind or ProviderErrorKind.ERROR, said, retryable=True))
        said = f"All places at {names} stayed busy for {self._route.budget_s:g} s. Please try again."
        return Stop(ProviderError(ProviderErrorKind.RATE_LIMITED, said, retryable=True))


def _why(gate: Gate) -> str:
    return "open" if gate.breaker.is_open else "full"
