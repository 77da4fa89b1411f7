"""What a round of chaos leaves behind: everything the clients saw, what the provider saw, what the archive holds.

The clients only write records; what they mean is `checker`'s. All clients live in one process and one event loop, so
the order of the list is the order in which things happened. Can be saved and read again, to look at a violation later.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import orjson

Message = dict[str, Any]
Kind = Literal["connected", "sent", "frame", "closed"]


@dataclass(slots=True)
class Record:
    """One thing that happened on one connection: it was made, a frame was sent, one came, it ended."""

    at: float
    """Seconds since the round began."""
    client: str
    connection: int
    node: str
    kind: Kind
    messages: list[Message] = field(default_factory=list)
    note: str = ""

    @property
    def place(self) -> tuple[str, int]:
        """Names the connection."""
        return self.client, self.connection


@dataclass(slots=True)
class Call:
    """One model call as the provider saw it. ``call`` counts the calls of a step from 1."""

    request_id: str
    step: int
    call: int
    node: str
    began: float
    ended: float | None = None
    gone: float | None = None
    """When the server had left before the answer was through."""
    text: str = ""
    """All text it was to send."""
    sent: str = ""
    """What of it had certainly been sent, and perhaps one piece more."""
    finish: str | None = None
    """The finish reason it sent; None: it never got there."""
    usage: tuple[int, int] | None = None
    """What it said that it cost."""


@dataclass(slots=True)
class ArchivedRequest:
    """One request as the archive holds it. Two of one id are two items."""

    request_id: str
    conversation_id: str
    state: str
    run: int
    input: Message
    answer: Message | None
    outcome: str | None
    """The outcome that its ending names."""


@dataclass(slots=True)
class UsageLine:
    """One row of the ledger."""

    request_id: str
    step: int
    attempt: int
    outcome: str
    input_tokens: int
    output_tokens: int
    cost_usd: str
    source: str


@dataclass(slots=True)
class Archived:
    """The content of the archive."""

    requests: list[ArchivedRequest] = field(default_factory=list)
    usage: list[UsageLine] = field(default_factory=list)


@dataclass(slots=True)
class Happened:
    """A fault as it was carried out."""

    kind: str
    target: str
    began: float
    ended: float


@dataclass(slots=True)
class Evidence:
    """All of one round."""

    seed: int = 0
    records: list[Record] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    archive: Archived = field(default_factory=Archived)
    faults: list[Happened] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What went wrong in the round itself: a node that did not drain, a client that never came back."""
    calm_at: float = 0.0
    """When the last fault was over and nothing new was asked any more."""

    def save(self, file: Path) -> None:
        """Write it as JSON."""
        file.write_bytes(orjson.dumps(asdict(self)))

    @classmethod
    def load(cls, file: Path) -> Self:
        """Read what `save` wrote."""
        data = orjson.loads(file.read_bytes())
        archive = data.pop("archive")
        return cls(
            seed=data["seed"],
            records=[Record(**record) for record in data["records"]],
            calls=[Call(**{**call, "usage": call["usage"] and tuple(call["usage"])}) for call in data["calls"]],
            archive=Archived(
                [ArchivedRequest(**request) for request in archive["requests"]],
                [UsageLine(**line) for line in archive["usage"]],
            ),
            faults=[Happened(**fault) for fault in data["faults"]],
            notes=data["notes"],
            calm_at=data["calm_at"],
        )


class Recorder:
    """Where all clients of a round write."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self._began = time.monotonic()

    def now(self) -> float:
        """Seconds since the round began."""
        return round(time.monotonic() - self._began, 4)

    def since_start(self, monotonic: float) -> float:
        """A `time.monotonic()` as seconds since the round began."""
        return round(monotonic - self._began, 4)

    def add(
        self,
        client: str,
        connection: int,
        node: str,
        kind: Kind,
        messages: list[Message] | None = None,
        note: str = "",
    ) -> None:
        self.records.append(Record(self.now(), client, connection, node, kind, messages or [], note))
