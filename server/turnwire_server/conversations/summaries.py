"""Summaries of what prompts have no room for: made by a small model after a turn has ended, never before one.

A turn uses what summary there is; whether another one is needed is looked at when it is over. Then the older part of
what stands word for word goes into the summary, half of the room stays, and until that has filled up again nothing is
done: so a turn costs the same however long its conversation is. What summaries cost is in the ledger, under the feature
`summary`.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Sequence
from functools import partial

import anyio

from turnwire_protocol import Message, StepContext
from turnwire_server.archive.base import ArchiveUnavailable, Billing, UsageRow
from turnwire_server.archive.summaries import SummaryRecord
from turnwire_server.eventlog.base import ConversationRef
from turnwire_server.gateway.errors import ProviderError
from turnwire_server.gateway.provider import Chunk, ModelRequest, Text, Usage
from turnwire_server.gateway.router import Walk
from turnwire_server.gateway.usage import Outcome
from turnwire_server.orchestration.context import chat_messages
from turnwire_server.orchestration.summary import portion, split, summary_prompt

from .history import Branch, branch_before, branch_with
from .ledger import Ledger, OpenAttempt
from .patience import until_answered
from .services import Services
from .spec import TurnSpec, prompt_budget

logger = logging.getLogger(__name__)

FEATURE = "summary"
# Of the room for the history: so full that the next turns would have none, and what stays of it word for word.
_FULL, _STAYS = 0.75, 0.5
# Of what a model takes, or of this, where nobody knows: what is summarised at once.
_USUAL_TOKENS = 8_000
_ROUNDS = 8
_LIMIT_S = 120.0
_LAST_WORDS_S = 5.0
_TOOL_CHARS = 1_000
_PAGE_BYTES = 4 * 1024 * 1024


class Summaries:
    """Those that this node makes, one at a time in a conversation."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._making: set[ConversationRef] = set()

    def is_needed(self, spec: TurnSpec, used: StepContext | None) -> bool:
        """Whether a turn that has ended leaves too little room. ``used`` is what its last prompt had in it."""
        route = self._services.settings.context.summary_route
        if route is None or used is None or used.budget is None or spec.conversation in self._making:
            return False
        room = used.budget - (used.tokens - used.history)
        is_full = used.left_out > 0 or used.history > room * _FULL
        return is_full and room > 0 and self._services.router.has_route(route, spec.caller())

    async def make(self, spec: TurnSpec, used: StepContext) -> None:
        """Make the summary that a turn has left to be made. Whatever fails is logged, and tried after the next turn."""
        assert used.budget is not None, "see is_needed"
        self._making.add(spec.conversation)
        try:
            with anyio.move_on_after(_LIMIT_S) as scope:
                room = used.budget - (used.tokens - used.history)
                await self._make(spec, int(room * _STAYS))
            if scope.cancelled_caught:
                logger.warning("a summary of a conversation took too long; it is tried again after its next turn")
        except ArchiveUnavailable as error:
            logger.warning("a summary was not made: %s", error)
        except Exception:
            logger.exception("making a summary failed; it is tried again after the next turn")
        finally:
            self._making.discard(spec.conversation)

    async def _make(self, spec: TurnSpec, keep_tokens: int) -> None:
        archive = self._services.archive
        branch = await branch_with(archive, spec)
        covered, _ = split(branch.messages, keep_tokens, self._tokens)
        if not covered:
            return
        text = await self._text(spec, None if branch.summary is None else branch.summary.text, covered)
        if text is None:
            return
        last = covered[-1]
        record = SummaryRecord(
            tenant_id=spec.tenant_id,
            conversation_id=spec.conversation_id,
            leaf=last.message_id,
            up_to=last.ordinal or 0,
            version=1 if branch.summary is None else branch.summary.version + 1,
            text=text,
            created_at=self._services.now_ms(),
        )
        if not await archive.put_summary(record):
            return
        # From now on whoever amends an answer finds it; what was amended while it was made is looked for here.
        if not await self._still(spec, branch, covered):
            await archive.drop_summaries(spec.tenant_id, spec.conversation_id, record.up_to)
        elif self._services.settings.context.memory_tokens:
            await self._services.memories.of(archive, record)  # so that the next turn need not wait for it

    async def _still(self, spec: TurnSpec, branch: Branch, covered: Sequence[Message]) -> bool:
        """Whether the archive holds what the summary was made of: what it covers, and the one before it."""
        known = await self._services.archive.summaries(spec.tenant_id, spec.conversation_id, limit=1_000)
        if branch.summary is not None and branch.summary not in known:
            return False
        missing = {message.message_id: message for message in covered}
        leaf: str | None = covered[-1].message_id
        is_first = True
        while leaf is not None and missing:
            page = await self._services.archive.messages(
                spec.tenant_id,
                spec.conversation_id,
                leaf=leaf,
                below=not is_first,
                limit=len(covered) + 1,
                max_bytes=_PAGE_BYTES,
            )
            if any(missing.pop(message.message_id, message) != message for message in page.items):
                return False
            leaf, is_first = page.next, False
        return not missing

    def _tokens(self, message: Message) -> int:
        return self._services.counter.estimate_prompt_tokens(chat_messages([message], {}))

    # --- asking the model ------------------------------------------------------------------------------

    async def _text(self, spec: TurnSpec, text: str | None, covered: list[Message]) -> str | None:
        """The summary, in as many calls as it takes; None when nobody has made it."""
        for _ in range(_ROUNDS):
            if await self._services.tenants.refusal(spec.tenant_id) is not None:
                return None
            part = portion(covered, self._at_once(spec), self._tokens)
            text = await self._ask(spec, text, part)
            covered = covered[len(part) :]
            if text is None or not covered:
                return text
        logger.warning("what is to be summarised is too long; it is tried again after the next turn")
        return None

    def _at_once(self, spec: TurnSpec) -> int:
        context = self._services.settings.context
        deployment = self._services.router.first(context.summary_route, spec.caller())
        budget = prompt_budget({"max_output_tokens": context.summary_tokens}, deployment, context.summary_tokens)
        # The summary before it and what is said around it have to go in as well.
        return max(1, int((budget or _USUAL_TOKENS) * 0.6) - context.summary_tokens)

    async def _ask(self, spec: TurnSpec, before: str | None, turns: Sequence[Message]) -> str | None:
        context = self._services.settings.context
        guards = self._services.router.route(context.summary_route).guards
        cleaned = partial(self._services.guards.cleaned, guards)
        prompt = summary_prompt(before, turns, context.summary_tokens, _TOOL_CHARS, cleaned)
        ledger = Ledger(self._services.estimates.of(spec.tenant_id))
        try:
            return await self._answer(self._services.router.walk(context.summary_route, spec.caller()), prompt, ledger)
        finally:
            if rows := ledger.usage_rows():
                with anyio.move_on_after(_LAST_WORDS_S, shield=True) as scope:
                    await self._account(spec, rows)
                if scope.cancelled_caught:
                    logger.warning("what a summary cost is not in the ledger: the archive did not answer")

    async def _answer(self, walk: Walk, prompt: list[dict[str, str]], ledger: Ledger) -> str | None:
        request = ModelRequest(messages=prompt, max_output_tokens=self._services.settings.context.summary_tokens)
        attempt = 0
        while (call := await walk.next()) is not None:
            attempt += 1
            entry = ledger.begin(1, attempt, call.deployment, prompt)
            outcome: Outcome = "cancelled"
            error: ProviderError | None = None
            try:
                async with call.provider.stream(request) as stream:
                    async for chunks in stream:
                        call.answered()
                        _take(entry, chunks)
                outcome = "completed"
            except ProviderError as failed:
                outcome, error = "failed", failed
            finally:
                ledger.close(entry, outcome)
                walk.ended(call, error)
            if outcome == "completed":
                return "".join(entry.texts).strip() or None
        logger.warning("no summary was made: %s", walk.error)
        return None

    async def _account(self, spec: TurnSpec, rows: Sequence[UsageRow]) -> None:
        """Rows of no request: its id is none that a client can choose."""
        billing = Billing(spec.user_id, spec.conversation_id, self._services.settings.context.summary_route, FEATURE)
        request_id, at = f"summary/{uuid.uuid4().hex}", self._services.now_ms()
        await until_answered(
            lambda: self._services.archive.end_request(
                spec.tenant_id,
                request_id,
                ending={"outcome": "completed"},
                answer=None,
                usage=rows,
                billing=billing,
                run=1,
                ended_at=at,
            ),
            "accounting a summary",
        )


def _take(entry: OpenAttempt, chunks: Sequence[Chunk]) -> None:
    for chunk in chunks:
        if isinstance(chunk, Text):
            entry.generated(chunk.text)
        elif isinstance(chunk, Usage):
            entry.reported(chunk)


async def history_of(services: Services, spec: TurnSpec) -> Branch:
    """What a turn goes on from: word for word, and the summary of what was before."""
    return await branch_before(services.archive, spec, summarised=services.settings.context.summary_route is not None)
