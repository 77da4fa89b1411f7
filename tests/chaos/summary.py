"""One line about a round. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from itertools import pairwise

from tests.chaos.records import Evidence, Message
from tests.chaos.streams import Seen

_LONGEST_LOOK_S = 60.0


def summary(evidence: Evidence, seen: Seen) -> str:
    """What happened, how much of it, and how long the worst of it was felt."""
    archive = evidence.archive
    outcomes = Counter(request.state for request in archive.requests)
    faults = Counter(fault.kind for fault in evidence.faults)
    takeovers = sum(request.run - 1 for request in archive.requests)
    gap, request_id, kind = worst_recovery(evidence)
    epochs = sum(len(epochs) - 1 for epochs in seen.epochs.values())
    words = [
        f"seed {evidence.seed}",
        f"{len(archive.requests)} turns ({_counts(outcomes)})",
        f"{seen.events} events",
        f"{sum(faults.values())} faults ({_counts(faults)})",
        f"{takeovers} take-overs",
        f"{epochs} new epochs",
        f"worst recovery {gap:.1f}s" + (f" ({request_id} after {kind})" if kind else ""),
    ]
    return ", ".join(words)


def worst_recovery(evidence: Evidence) -> tuple[float, str, str]:
    """The longest time from the beginning of a fault (not of a client) to the next event of a request that was running
    then: how long, which request, after which fault. Includes what the provider's own stalls add."""
    faults = [fault for fault in evidence.faults if not fault.kind.startswith("client")]
    worst = (0.0, "", "")
    for request_id, times in _event_times(evidence).items():
        for before, after in pairwise(times):
            for fault in faults:
                if before <= fault.began < after and worst[0] < after - fault.began < _LONGEST_LOOK_S:
                    worst = (after - fault.began, request_id, fault.kind)
    return worst


def _event_times(evidence: Evidence) -> Mapping[str, list[float]]:
    """When each event of a request was first shown to anybody, from its start on: waiting in a queue is no recovery."""
    times: dict[str, list[float]] = defaultdict(list)
    shown: set[tuple[str, int]] = set()
    for at, event in _shown(evidence):
        request_id, seq = event["request_id"], event["seq"]
        if (request_id, seq) not in shown and (request_id in times or event["type"] == "message.started"):
            shown.add((request_id, seq))
            times[request_id].append(at)
    return times


def _shown(evidence: Evidence) -> Iterator[tuple[float, Message]]:
    for record in evidence.records:
        if record.kind == "frame":
            for message in record.messages:
                if "seq" in message and "verdict" not in message and "request_id" in message:
                    yield record.at, message


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counter.most_common()) or "none"
