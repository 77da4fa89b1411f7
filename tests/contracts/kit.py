"""What the contract suites share: a clock that tests move, and an engine that can be started anew.

A new engine adds a factory: an async context manager that takes the clock and gives a `LogKit` or `ArchiveKit`.
Engines that keep their own time (servers) answer `LogKit.keeps_own_time` and skip what needs the clock moved.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from turnwire_protocol import LogEvent, Message, MessageCompleted, OutputTextDelta, TextPart
from turnwire_server.archive.base import Archive
from turnwire_server.eventlog.base import (
    Append,
    Appended,
    Base,
    Busy,
    Claimed,
    ConversationRef,
    EventLog,
    Finished,
    OnBusy,
    Owned,
    RequestRef,
    Sealed,
)

RETENTION_S = 600.0
RESERVATION_S = 60.0
RECORDED_CANCEL_S = 300.0

_ops = itertools.count(1)


def op() -> str:
    """A new operation id."""
    return f"op-{next(_ops)}"


class Clock:
    """Seconds since the Unix epoch, as the test says."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def forward(self, seconds: float) -> None:
        self.now += seconds


@dataclass
class ArchiveKit:
    """An archive that is empty at first."""

    archive: Archive


@dataclass
class LogKit:
    """A log that is empty at first, and short words for what tests do with it."""

    log: EventLog
    clock: Clock
    restart: Callable[[], Awaitable[EventLog]]
    """The same data, as the next start of a node finds it."""
    tenant: str = "acme"
    conversation: str = "talk"
    claims: dict[str, Claimed] = field(default_factory=dict)

    async def restarted(self) -> EventLog:
        self.log = await self.restart()
        return self.log

    def ref(self, conversation: str | None = None) -> ConversationRef:
        return ConversationRef(self.tenant, conversation or self.conversation)

    def request(self, request_id: str) -> RequestRef:
        return RequestRef(self.tenant, request_id)

    def spec(self, request_id: str, **fields: Any) -> dict[str, Any]:
        """As much of a spec as the log looks into."""
        return {"user_id": "ann", "fingerprint": f"print-{request_id}", "answer_id": f"answer-{request_id}", **fields}

    async def reserve(self, request_id: str, conversation: str | None = None, user: str = "ann") -> bool:
        held = await self.log.reserve(
            op(), self.request(request_id), conversation or self.conversation, user, f"print-{request_id}"
        )
        return held.fresh

    async def try_claim(
        self,
        request_id: str,
        *,
        conversation: str | None = None,
        user: str = "ann",
        base: Base = Base(),  # noqa: B008 - frozen
        on_busy: OnBusy = OnBusy.QUEUE,
        queue_limit: int = 5,
        **spec: Any,
    ) -> Claimed | Busy:
        await self.reserve(request_id, conversation, user)
        answer = await self.log.claim(
            op(),
            self.request(request_id),
            self.ref(conversation),
            self.spec(request_id, user_id=user, **spec),
            base=base,
            on_busy=on_busy,
            queue_limit=queue_limit,
        )
        if isinstance(answer, Claimed):
            self.claims[request_id] = answer
        return answer

    async def claim(self, request_id: str, **options: Any) -> Claimed:
        answer = await self.try_claim(request_id, **options)
        assert isinstance(answer, Claimed), answer
        return answer

    async def begin(self, request_id: str, *texts: str, **options: Any) -> Owned:
        """Claimed, and with events in the log: by default one."""
        written = {name: options.pop(name) for name in ("checkpoint", "state") if name in options}
        claimed = await self.claim(request_id, **options)
        await self.say(claimed.owned, 0, *(texts or ("begin",)), **written)
        return claimed.owned

    async def say(self, owned: Owned, n: int, *texts: str, **fields: Any) -> Appended:
        (answer,) = await self.log.append([self.append(owned, n, *texts, **fields)])
        assert isinstance(answer, Appended), answer
        return answer

    def append(self, owned: Owned, n: int, *texts: str, **fields: Any) -> Append:
        events = [said(owned, text) for text in texts]
        return Append(owned.request, owned.conversation, owned.fence, n, events, **fields)

    async def seal(self, owned: Owned, outcome: str = "completed", taken: int = 0) -> dict[str, Any]:
        answer = await self.log.seal(op(), owned.request, owned.fence, ending(outcome), taken=taken)
        assert isinstance(answer, Sealed), answer
        return answer.ending

    async def finish(self, owned: Owned, **options: Any) -> Finished:
        answer = await self.log.finish(op(), owned.request, owned.fence, [ended(owned)], **options)
        assert isinstance(answer, Finished), answer
        return answer

    async def end(self, owned: Owned, outcome: str = "completed", **options: Any) -> Finished:
        await self.seal(owned, outcome, taken=1_000)
        return await self.finish(owned, **options)

    async def cancel(self, request_id: str, *, user: str = "ann", **options: Any) -> Any:
        return await self.log.post(op(), self.request(request_id), "cancel", {"by": user}, user_id=user, **options)

    async def texts(self, conversation: str | None = None, after: int = 0) -> list[str]:
        """What the log holds, as the texts of its events."""
        page = await self.log.read(self.ref(conversation), after, limit=10_000, max_bytes=10_000_000)
        return [text_of(entry.event) for entry in page.entries]


def said(owned: Owned, text: str) -> LogEvent:
    return OutputTextDelta(
        conversation_id=owned.conversation.conversation_id,
        request_id=owned.request.request_id,
        part=0,
        offset=0,
        text=text,
    )


def ended(owned: Owned, text: str = "end") -> LogEvent:
    answer = Message(
        message_id=owned.spec["answer_id"],
        request_id=owned.request.request_id,
        role="assistant",
        parts=[TextPart(text=text)],
        status="complete",
        created_at=1,
    )
    return MessageCompleted(
        conversation_id=owned.conversation.conversation_id,
        request_id=owned.request.request_id,
        message=answer,
        finish_reason="stop",
    )


def ending(outcome: str = "completed") -> dict[str, Any]:
    return {"outcome": outcome, "fields": {}}


def text_of(event: Any) -> str:
    return event.text if isinstance(event, OutputTextDelta) else f"<{event.type}>"
