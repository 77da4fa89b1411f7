"""What is found in documents for one turn: searched once a run, told on the wire, put into every prompt of the turn.

A taker searches anew, and says so: what was found before is gone with its node, and documents may have changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from turnwire_protocol import RetrievalCompleted, RetrievalFailed, RetrievalStarted, Source
from turnwire_server.orchestration.shared import Data
from turnwire_server.orchestration.sources import FOUND, NOT_SEARCHED, NOTHING_FOUND, data_of_sources
from turnwire_server.retrieval.documents import Found, RetrievalUnavailable
from turnwire_server.settings import Route

from . import endings
from .checks import Checks
from .endings import Draft
from .services import Services
from .spec import TurnSpec
from .writer import TurnWriter

_TOLD_CHARS = 500
_TOLD_SOURCES = 50


class Finding:
    """That of one turn on this node."""

    def __init__(self, services: Services, spec: TurnSpec, writer: TurnWriter, checks: Checks) -> None:
        self._services = services
        self._spec = spec
        self._writer = writer
        self._checks = checks
        self._found: Found | None = None
        self._is_done = False

    async def search(self, route: Route) -> Draft | None:
        """Search, unless that is done or the route does without. How the turn ends where it cannot do without."""
        if route.retrieval == "never" or self._is_done:
            return None
        self._is_done = True
        head: dict[str, Any] = {"conversation_id": self._spec.conversation_id, "request_id": self._spec.request_id}
        query = self._checks.of_input("\n".join(self._spec.texts), route) or ""
        self._writer.event(RetrievalStarted(**head, query=query[:_TOLD_CHARS]))
        try:
            found = await self._services.retrieval.find(
                self._spec.tenant_id,
                query,
                budget_tokens=route.retrieval_tokens,
                limit_s=self._services.settings.limits.retrieval_s,
            )
        except RetrievalUnavailable as error:
            self._writer.event(RetrievalFailed(**head, reason=str(error)))
            if route.retrieval == "optional":
                return None
            text = "the documents that this answer needs cannot be searched at the moment; try again"
            return endings.failed("unavailable", text, retryable=True)
        passages = [replace(passage, text=self._checks.of_data(passage.text, route)) for passage in found.passages]
        self._found = replace(found, passages=passages)
        sources = [
            Source(id=source.id, title=source.title, score=source.score) for source in found.sources[:_TOLD_SOURCES]
        ]
        self._writer.event(RetrievalCompleted(**head, documents=found.documents, sources=sources))
        return None

    def says(self, route: Route) -> str | None:
        """What the model is told of it, besides the passages."""
        if route.retrieval == "never":
            return None
        if self._found is None:
            return NOT_SEARCHED
        return FOUND if self._found.passages else NOTHING_FOUND

    def data(self) -> Sequence[Data]:
        """The passages, for the prompt."""
        return data_of_sources(self._found.passages) if self._found is not None else ()
