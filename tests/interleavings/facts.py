"""What is known of a story once it has been told, in the order in which judges want it.

Times are the loop's; those of the log are whole milliseconds of it.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from tests.support.virtual_server import EPOCH_S

from turnwire_protocol import ConversationFold, Message

from .scripted import Asked
from .telling import NEVER, Record, Sent

DELTAS = ("output_text.delta", "reasoning.delta", "tool.arguments.delta")
ROUNDING_S = 0.0011
SLACK_S = 0.5
ENDING_S = 0.05
"""From the decision how a turn ends to its last event, a few steps of the storage."""

__all__ = ["DELTAS", "ENDING_S", "NEVER", "ROUNDING_S", "SLACK_S", "Facts", "at", "is_confirmed", "supersedes", "units"]


class Facts:
    """Made of a record; folds the whole log as a client would."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.events: defaultdict[str, list[Any]] = defaultdict(list)
        """The log, by request."""
        self.whole: dict[str, Message] = {}
        """The answers as they were before their ends cut them."""
        self.fold = ConversationFold()
        self.orders: defaultdict[str, list[Sent]] = defaultdict(list)
        """What was said to each request."""
        for entry in record.entries:
            event: Any = entry.event
            if (request_id := entry.request_id) is not None:
                self.events[request_id].append(event)
                if getattr(event, "terminal", False) and (answer := self.fold.active[request_id].message()) is not None:
                    self.whole[request_id] = answer
            self.fold.apply(event)
        for sent in record.sent:
            if "request_id" in sent.command:
                self.orders[sent.command["request_id"]].append(sent)

    def end(self, request_id: str) -> tuple[str, Any]:
        """The outcome and the last event."""
        last = self.events[request_id][-1]
        return last.type.removeprefix("message."), last

    def asked(self, request_id: str) -> list[Asked]:
        """The calls of the model."""
        return [asked for asked in self.record.asked if asked.request_id == request_id]

    def stops(self, request_id: str) -> list[Sent]:
        """What may have ended a request: one that is created with `on_busy: interrupt` may have meant any of them."""
        return [
            sent
            for sent in self.record.sent
            if supersedes(sent)
            or (sent.command.get("request_id") == request_id and (sent.kind == "request.cancel" or is_confirmed(sent)))
        ]


def at(event: Any) -> float:
    """When it was written."""
    return float(event.ts / 1000 - EPOCH_S)


def is_confirmed(sent: Sent) -> bool:
    """An interrupt that ends the turn."""
    return sent.kind == "request.interrupt" and sent.command.get("phase", "confirmed") == "confirmed"


def supersedes(sent: Sent) -> bool:
    """A request that ends the one that runs."""
    return sent.command.get("on_busy") == "interrupt"


def units(text: str) -> int:
    """UTF-16 code units."""
    return len(text.encode("utf-16-le")) // 2
