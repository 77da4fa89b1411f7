"""Whether a deployment may be asked: one breaker for each, by its own calls and by what other nodes say. Pure.

Four states and what moves between them:

    CLOSED      all calls go. Enough failures, or one that speaks for all (credentials, "wait so long"), open it.
    OPEN        no call goes until a time that grows with each failed probe; then one call is the probe.
    PROBING     that call is under way, here or on another node; no other goes.
    RECOVERING  the probe was answered. So many calls may wait for an answer at once, and with each answer one more:
                the callers that an outage has gathered do not fall upon a provider that has only just come back.
                Answered often enough, or for long enough, it is CLOSED; one failure, and it is OPEN again, for longer.

Who has somewhere else to go is refused while it is OPEN. Who has not (`cornered`) may probe sooner, still one at a
time, but never before a time that the provider itself has named.

A call takes a `Ticket`; its result counts only in the generation in which it began, so an answer to a call from before
the outage closes nothing. What was learned here is taken with `news` and told to others, who `hear` it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum
from random import Random

from turnwire_server.gateway.backoff import backoff, not_before
from turnwire_server.gateway.errors import Blame, ProviderError, ProviderErrorKind


class BreakerState(Enum):
    """See the module."""

    CLOSED = "closed"
    OPEN = "open"
    PROBING = "probing"
    RECOVERING = "recovering"


CORNERED_S, CORNERED_MOST_S = 0.5, 5.0
"""Between two probes of callers that have nobody else: doubled from the first to the second."""

FIRST_ALLOWANCE = 2
"""Calls that may wait for an answer at once just after the probe."""

LONGEST_NAMED_S = 3600.0
"""A provider that asks to be left alone for longer is asked again after an hour: its clock may be wrong."""

_REMEMBERED = 128
"""Results kept for the window; with more calls than that in it the newest count."""

# One of these speaks for all calls; the others have to come together.
_AT_ONCE = frozenset({ProviderErrorKind.AUTH, ProviderErrorKind.RATE_LIMITED})


@dataclass(frozen=True, slots=True)
class BreakerRules:
    """When it opens, and for how long. `probe_s` is how long a probe may take before another one is made; with
    `places` calls let in at once again it has recovered."""

    failures: int = 3
    window_s: float = 30.0
    open_s: float = 10.0
    open_most_s: float = 120.0
    probe_s: float = 65.0
    places: int = 200


@dataclass(frozen=True, slots=True)
class Ticket:
    """One call's leave to go."""

    generation: int
    is_probe: bool


@dataclass(frozen=True, slots=True)
class News:
    """What a node has learned. `for_s` is how long nobody is to ask, `hard_s` how long of it the provider has asked
    for itself; `opens` how often in a row it has been opened. Not open: it answers again."""

    is_open: bool
    for_s: float = 0.0
    hard_s: float = 0.0
    opens: int = 0
    reason: str = ""


class Breaker:
    """One deployment's. After `failed` and `answered` ask `news`."""

    def __init__(self, rules: BreakerRules, rng: Random) -> None:
        self.rules = rules
        self._rng = rng
        self.state = BreakerState.CLOSED
        self.reason = ""
        """Why it was opened last, in the words of `ProviderError.reason`."""
        self._generation = 0
        self._results: deque[tuple[float, bool]] = deque(maxlen=_REMEMBERED)
        self._opens = 0
        self._until = 0.0  # of OPEN: then somebody may probe; of PROBING: then the probe is taken for lost
        self._cornered_at = 0.0
        self._hard_until = 0.0
        self._probes_here = False
        self._allowance = 0
        self._unanswered = 0
        self._recovers_since = 0.0
        self._news: News | None = None

    def __repr__(self) -> str:
        return f"<Breaker {self.state.value} {self.reason} opens={self._opens} allowance={self._allowance}>"

    @property
    def is_open(self) -> bool:
        """Whether it is to be left alone by those who have somewhere else to go; until when is another question."""
        return self.state in (BreakerState.OPEN, BreakerState.PROBING)

    @property
    def opens(self) -> int:
        return self._opens

    def may_call(self, now: float, *, cornered: bool = False) -> bool:
        """Whether a call may go now. Follow it with `begin`."""
        match self.state:
            case BreakerState.CLOSED:
                return True
            case BreakerState.RECOVERING:
                return self._unanswered < self._allowance
            case _:
                return now >= self.may_probe_at(cornered=cornered)

    def may_probe_at(self, *, cornered: bool) -> float:
        """While it is open: when the next probe may go."""
        if cornered and self.state is BreakerState.OPEN:
            return max(self._hard_until, min(self._until, self._cornered_at))
        return self._until

    def begin(self, now: float) -> Ticket:
        """A call goes; `may_call` has just said that it may. End it with `answered`, `failed` or `withdrawn`."""
        is_probe = self.is_open
        if is_probe:
            self._move(BreakerState.PROBING)
            self._until, self._probes_here = now + self.rules.probe_s, True
        self._unanswered += 1
        return Ticket(self._generation, is_probe)

    def answered(self, ticket: Ticket, now: float) -> None:
        """The model has begun to answer."""
        if ticket.generation != self._generation:
            return
        self._unanswered -= 1
        match self.state:
            case BreakerState.CLOSED:
                self._results.append((now, True))
            case BreakerState.PROBING:
                self._recover(now)
                self._news = News(is_open=False)
            case BreakerState.RECOVERING:
                self._allowance += 1
                if self._allowance >= self.rules.places or self._has_recovered(now):
                    self._close()
            case BreakerState.OPEN:
                raise AssertionError("opening begins a generation")

    def failed(self, ticket: Ticket, error: ProviderError, now: float, *, had_answered: bool) -> None:
        """The call has failed, also in the middle of its answer. What is the request's own fault is an answer."""
        if error.blame is not Blame.DEPLOYMENT:
            if not had_answered:
                self.answered(ticket, now)
            return
        if ticket.generation != self._generation:
            return
        if not had_answered:
            self._unanswered -= 1
        if self._has_recovered(now):
            self._close()
        self._results.append((now, False))
        speaks_for_all = error.kind in _AT_ONCE or error.retry_after_s is not None
        if error.kind is ProviderErrorKind.AUTH and error.retryable:
            speaks_for_all = False  # there is a new key by now
        if self.state is not BreakerState.CLOSED or speaks_for_all or self._has_enough(now):
            self._open(error.reason, now, error.retry_after_s)

    def withdrawn(self, ticket: Ticket, now: float, *, had_answered: bool) -> None:
        """The call ended without saying anything about the deployment: its caller has left."""
        if ticket.generation != self._generation or had_answered:
            return
        self._unanswered -= 1
        if ticket.is_probe and self.state is BreakerState.PROBING:
            self._move(BreakerState.OPEN)
            self._until = self._cornered_at = now
            self._probes_here = False

    def probed_elsewhere(self, ticket: Ticket, now: float, for_s: float) -> None:
        """Another node has the probe: this one's must not be made. In `for_s` it is asked again who has it."""
        if ticket.generation == self._generation:
            self._unanswered -= 1
            self._until, self._probes_here = now + for_s, False

    def hear(self, news: News, now: float) -> None:
        """What another node has learned."""
        if self.state is BreakerState.PROBING and self._probes_here:
            return  # this node is about to know better
        if news.is_open:
            was_until = self._until if self.is_open else 0.0
            self._begin_open(news.reason, max(self._opens, news.opens))
            self._until = max(was_until, now + news.for_s)
            self._hard_until = now + news.hard_s
            self._cornered_at = now + self._between_cornered()
        elif self.is_open:
            self._recover(now)

    def news(self) -> News | None:
        """What others should know; once."""
        news, self._news = self._news, None
        return news

    def _has_enough(self, now: float) -> bool:
        results = self._results
        while results and results[0][0] < now - self.rules.window_s:
            results.popleft()
        failures = sum(not is_good for _, is_good in results)
        return failures >= self.rules.failures and 2 * failures >= len(results)

    def _open(self, reason: str, now: float, retry_after_s: float | None) -> None:
        self._begin_open(reason, self._opens + 1)
        rules = self.rules
        hard_s = 0.0 if retry_after_s is None else not_before(min(retry_after_s, LONGEST_NAMED_S), self._rng)
        # A time that the provider has named is taken at its word: not shorter, and no longer for a first failure.
        is_named = retry_after_s is not None and self._opens == 1
        for_s = hard_s if is_named else max(hard_s, backoff(self._opens, rules.open_s, rules.open_most_s, self._rng))
        self._until, self._hard_until = now + for_s, now + hard_s
        self._cornered_at = now + self._between_cornered()
        self._news = News(True, for_s, hard_s, self._opens, reason)

    def _between_cornered(self) -> float:
        return backoff(self._opens, CORNERED_S, CORNERED_MOST_S, self._rng)

    def _begin_open(self, reason: str, opens: int) -> None:
        self._move(BreakerState.OPEN)
        self._begin_generation()
        self.reason, self._opens, self._probes_here = reason, opens, False

    def _recover(self, now: float) -> None:
        self._move(BreakerState.RECOVERING)
        self._begin_generation()
        self._allowance, self._recovers_since, self._probes_here = FIRST_ALLOWANCE, now, False

    def _has_recovered(self, now: float) -> bool:
        return self.state is BreakerState.RECOVERING and now - self._recovers_since >= self.rules.window_s

    def _close(self) -> None:
        self._move(BreakerState.CLOSED)
        self._opens, self.reason = 0, ""

    def _begin_generation(self) -> None:
        self._generation += 1
        self._unanswered = 0
        self._results.clear()

    def _move(self, state: BreakerState) -> None:
        self.state = state
