"""The tool calls of an answer: whoever runs them, and whoever has to agree before (PROTOCOL section 6).

A call is in the log before it is run, so that a taker knows that it may have been. One with side effects is run at
most once: when its node dies while it runs, its outcome is unknown; all others run again, with the same idempotency
key. What clients say (claims, results, decisions) comes as intents, is decided by the log's first answer to each
question, and is heard again by a taker. A turn in which everything waits for people is parked: it costs nothing until
somebody speaks.
"""

from __future__ import annotations

import hashlib
import logging
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio
import orjson
from anyio.lowlevel import checkpoint_if_cancelled

from turnwire_protocol import (
    ToolApprovalRequired,
    ToolApproved,
    ToolArgumentsDelta,
    ToolCalled,
    ToolCallPart,
    ToolCompleted,
    ToolDenied,
    ToolFailed,
    ToolProgress,
    ToolRunning,
    ToolStarted,
    utf16_len,
)
from turnwire_server.eventlog.base import Intent, LogUnavailable, PostOutcome
from turnwire_server.tools.errors import InvalidArguments
from turnwire_server.tools.executor import ToolCall, parse_arguments
from turnwire_server.tools.registry import Tool

from .closing import close_call, question, result_event
from .patience import until_answered
from .progress import Progress
from .services import Services
from .spec import TurnSpec
from .turn_tools import TurnTools
from .writer import TurnWriter

logger = logging.getLogger(__name__)

KINDS = frozenset({"approve", "deny", "expire", "claim", "lapse", "result", "cancel_call"})
"""The kinds of intents that are about calls. Each has its ``call_id`` in the body."""

# How often it is looked whether the client that has claimed a call is still there.
_PRESENCE_LOOK_S = 2.0


class Parked(Exception):
    """Everything waits for people: the turn is to be given up until ``until`` (ms), or until somebody speaks."""

    def __init__(self, until: int) -> None:
        super().__init__()
        self.until = until


def digest(arguments: Mapping[str, Any]) -> str:
    """Names the arguments that somebody was asked to agree to."""
    return hashlib.sha256(orjson.dumps(arguments, option=orjson.OPT_SORT_KEYS)).hexdigest()


@dataclass(slots=True)
class _Call:
    """A call that the model is writing."""

    call_id: str
    name: str
    tool: Tool | None
    text: str = ""
    length: int = 0


@dataclass(slots=True)
class _Said:
    """What was said about one call. ``changed`` is set when something is added."""

    decision: Intent | None = None
    claims: list[Intent] = field(default_factory=list)
    lapses: int = 0
    result: Intent | None = None
    is_cancelled: bool = False
    changed: anyio.Event = field(default_factory=anyio.Event)

    def tell(self) -> None:
        changed, self.changed = self.changed, anyio.Event()
        changed.set()


class Calls:
    """The calls of one answer. ``is_present`` tells whether a user's client instance is connected anywhere."""

    def __init__(
        self, services: Services, spec: TurnSpec, writer: TurnWriter, progress: Progress, tools: TurnTools, run: int
    ) -> None:
        self.is_present: Callable[[str, str], Awaitable[bool]]
        self.say: Callable[[Intent], None] = lambda intent: None
        """Tells the turn what this node itself has put into its inbox."""
        self._services = services
        self._spec = spec
        self._writer = writer
        self._progress = progress
        self._tools = tools
        self._run = run
        self._head: dict[str, Any] = {"conversation_id": spec.conversation_id, "request_id": spec.request_id}
        self._writing: dict[int, _Call] = {}
        self._said: dict[str, _Said] = {}
        self._running: dict[str, ToolCall] = {}
        self._waiting: dict[str, int] = {}  # calls that wait for people, and until when (ms)
        self._open = 0
        self._is_stopping = False

    @property
    def is_empty(self) -> bool:
        """Whether the model has called nothing in this step."""
        return not self._writing

    def hear(self, intent: Intent) -> None:
        """Something was said about a call."""
        call_id = intent.body["call_id"]
        said = self._about(call_id)
        match intent.kind:
            case "approve" | "deny" | "expire":
                said.decision = said.decision or intent
            case "claim":
                if all(claim.k != intent.k for claim in said.claims):
                    said.claims.append(intent)
            case "lapse":
                said.lapses = max(said.lapses, intent.body["turn"])
            case "result":
                said.result = said.result or intent
            case "cancel_call":
                said.is_cancelled = True
                if call_id in self._running:
                    self._running[call_id].cancel()
        said.tell()

    def stop(self) -> bool:
        """The node goes away: no call may keep it. True when all wait for people, and the turn is parked at once."""
        self._is_stopping = True
        for call in self._running.values():
            call.cancel()
        if not self._waiting or len(self._waiting) < self._open:
            return False
        for call_id in list(self._waiting):
            self._about(call_id).tell()
        return True

    # --- the model writes ----------------------------------------------------------------------------------

    def begin(self, index: int, name: str) -> None:
        """The model has begun a call."""
        # The provider's own id is unique in one answer at best; ours has to be unique in the request.
        call_id = f"call_{uuid.uuid4().hex[:16]}"
        tool = self._tools.offered.get(name)
        self._writing[index] = _Call(call_id, name, tool)
        self._writer.event(
            ToolStarted(
                **self._head,
                call_id=call_id,
                part=self._writer.buffer.add_call_part(),
                name=name,
                where=tool.where if tool else "server",
                interruptible=tool.interruptible if tool else False,
                side_effect=tool.side_effect if tool else False,
            )
        )

    def write(self, index: int, text: str) -> None:
        """More of the arguments."""
        call = self._writing[index]
        self._writer.event(ToolArgumentsDelta(**self._head, call_id=call.call_id, offset=call.length, text=text))
        call.text += text
        call.length += utf16_len(text)

    def forget(self) -> None:
        """A step begins, or begins again: what was being written is taken back or done."""
        self._writing = {}

    # --- they are run --------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run what the model has called in this step, side by side. Raises `Parked`."""
        ready: list[tuple[str, Tool, dict[str, Any], str]] = []
        for call in self._writing.values():
            try:
                arguments = parse_arguments(call.text)
                if call.tool is not None:
                    arguments = call.tool.validate(arguments)
            except (InvalidArguments, ValueError) as error:
                self._fail(call.call_id, "never_started", str(error))
                continue
            where = call.tool.where if call.tool is not None else "server"
            # With a checkpoint: from now on the step is not begun again, since a client may begin the call.
            called = ToolCalled(**self._head, call_id=call.call_id, where=where, arguments=arguments)
            self._writer.event(called, checkpoint=True)
            if call.tool is None:
                self._fail(call.call_id, "never_started", f"there is no tool '{call.name}'")
                continue
            ready.append((call.call_id, call.tool, arguments, "called"))
        self._writing = {}
        await self._side_by_side(ready)

    async def settle(self) -> None:
        """After a take-over in the middle of a step's tools: go on with those that may be run, or run again, and tell
        the truth of the rest. Raises `Parked`."""
        await self._recall()
        ready: list[tuple[str, Tool, dict[str, Any], str]] = []
        for part in self._writer.fold.partial.to_parts():
            if not isinstance(part, ToolCallPart) or part.state in ("completed", "failed"):
                continue
            tool = self._tools.get(part.name)
            is_client_s = part.state == "running" and tool is not None and tool.where == "client"
            if part.state == "running" and not is_client_s and (tool is None or not tool.may_run_again):
                self._fail(part.call_id, "unknown", "the server died while this ran; its effect is unknown")
            elif tool is None or not isinstance(part.arguments, dict):
                self._fail(part.call_id, "never_started", "the server died before this was run")
            else:
                ready.append((part.call_id, tool, part.arguments, part.state))
        await self._side_by_side(ready)

    async def _recall(self) -> None:
        """What an earlier owner was told of the calls, and had not come to act upon, is told again."""
        spec = self._spec
        look = partial(self._services.log.request, spec.request, spec.conversation)
        info = await until_answered(look, "looking at what was decided")
        for intent in sorted(info.decided.values() if info else (), key=lambda intent: intent.k):
            self.hear(intent)

    async def _side_by_side(self, calls: list[tuple[str, Tool, dict[str, Any], str]]) -> None:
        errors: list[Exception] = []

        async def carry_out(*call: Any) -> None:
            try:
                await self._carry_out(*call)
            except Exception as error:  # one that ends the turn: the others are not waited for
                errors.append(error)
                tasks.cancel_scope.cancel()
            finally:
                self._open -= 1

        self._open = len(calls)
        async with anyio.create_task_group() as tasks:
            for call in calls:
                tasks.start_soon(carry_out, *call, name=f"tool {call[1].name}")
        if errors:
            # Whoever waits for people is no fault: a fault of another call goes before it.
            raise next((error for error in errors if not isinstance(error, Parked)), errors[0])

    async def _carry_out(self, call_id: str, tool: Tool, arguments: dict[str, Any], state: str) -> None:
        said = self._about(call_id)
        # A decision about a call of which the log shows no question has been told: it was agreed to.
        is_agreed = state == "called" and said.decision is not None
        if tool.approval == "always" and state != "running" and not is_agreed:
            agreed = await self._agreed(call_id, tool, arguments, said)
            if agreed is None:
                return
            arguments = agreed
        if tool.where == "client" and (state == "running" or not said.is_cancelled):
            await self._by_a_client(call_id, tool, said, is_running=state == "running")
        elif said.is_cancelled and state == "running":
            outcome = "unknown" if tool.side_effect else "cancelled"
            self._fail(call_id, outcome, "it was cancelled, and the server died while it ran")
        elif said.is_cancelled:
            self._fail(call_id, "never_started", "it was cancelled before it was run")
        else:
            await self._here(call_id, tool, arguments)

    # --- on this node --------------------------------------------------------------------------------------

    async def _here(self, call_id: str, tool: Tool, arguments: dict[str, Any]) -> None:
        scope = anyio.CancelScope()

        async def begin() -> None:
            await self._note_effect(tool)
            self._writer.event(ToolRunning(**self._head, call_id=call_id, run=self._run), checkpoint=True)
            await self._writer.flush()  # before the tool is run: a taker must know that it may have been
            await checkpoint_if_cancelled()  # nothing is begun once the turn is stopped
            # What is not interruptible is let finish, within its time, when the turn is cancelled or interrupted.
            scope.shield = not tool.interruptible

        def progress(fraction: float | None, message: str | None) -> None:
            self._writer.event(ToolProgress(**self._head, call_id=call_id, fraction=fraction, message=message))

        spec = self._spec
        call = ToolCall(
            tool=tool,
            arguments=arguments,
            tenant_id=spec.tenant_id,
            user_id=spec.user_id,
            conversation_id=spec.conversation_id,
            request_id=spec.request_id,
            call_id=call_id,
            begin=begin,
            progress=progress,
        )
        self._running[call_id] = call
        try:
            with scope:
                await self._services.tools.run(call)
        finally:
            del self._running[call_id]
            # Also when the turn is stopped: what is known of the call is told.
            if (result := call.result) is None:
                pass
            elif result.outcome == "completed":
                self._complete(call_id, result.output, result.duration_ms)
            else:
                self._fail(call_id, result.outcome, result.error)

    async def _note_effect(self, tool: Tool) -> None:
        """Before the world is changed: whoever takes the turn over must know, also from a log that has lost this."""
        if tool.may_run_again:
            return
        self._progress.effects += 1
        if self._services.log.is_shared:
            archive, spec = self._services.archive, self._spec
            note = partial(archive.note_effects, spec.tenant_id, spec.request_id, self._progress.effects)
            await until_answered(note, "noting a side effect")

    def _complete(self, call_id: str, output: Any, duration_ms: int) -> None:
        event = ToolCompleted(**self._head, call_id=call_id, output=output, duration_ms=duration_ms)
        self._writer.event(event, checkpoint=True)

    def _fail(self, call_id: str, outcome: Any, error: str) -> None:
        self._writer.event(ToolFailed(**self._head, call_id=call_id, outcome=outcome, error=error), checkpoint=True)

    # --- by people and their clients -----------------------------------------------------------------------

    async def _agreed(self, call_id: str, tool: Tool, arguments: dict[str, Any], said: _Said) -> dict[str, Any] | None:
        """The arguments that a person has agreed to; None when nobody has."""
        part = next((p for p in self._writer.fold.partial.to_parts() if _is_call(p, call_id)), None)
        approval = part.approval if isinstance(part, ToolCallPart) else None
        if approval is not None:
            expires_at = approval.expires_at
        else:
            limit_s = tool.approval_timeout_s or self._services.settings.limits.approval_timeout_s
            expires_at = await self._now_ms() + int(limit_s * 1000)
            if said.decision is None:
                required = ToolApprovalRequired(
                    **self._head, call_id=call_id, expires_at=expires_at, arguments=arguments
                )
                self._writer.event(required, checkpoint=True)
        while said.decision is None and not said.is_cancelled:
            if not await self._until_said(call_id, said.changed, expires_at):
                await self._decide("expire", call_id, {}, question("approval", call_id))
        decision = said.decision
        if decision is None:
            self._fail(call_id, "cancelled", "it was cancelled while it waited for an approval")
            return None
        body = decision.body
        if decision.kind == "expire":
            self._fail(call_id, "timed_out", "nobody approved this in time")
            return None
        if decision.kind == "deny":
            self._writer.event(ToolDenied(**self._head, call_id=call_id, by=body["by"], reason=body.get("reason")))
            because = f": {body['reason']}" if body.get("reason") else ""
            self._fail(call_id, "denied", f"the user did not allow this{because}")
            return None
        if body["digest"] != digest(arguments):
            self._fail(call_id, "never_started", "what was approved is not what was to be run")
            return None
        edited = body.get("arguments")
        self._writer.event(
            ToolApproved(**self._head, call_id=call_id, by=body["by"], arguments=edited), checkpoint=True
        )
        try:
            return tool.validate(arguments if edited is None else edited)
        except InvalidArguments as error:
            self._fail(call_id, "never_started", str(error))
            return None

    async def _by_a_client(self, call_id: str, tool: Tool, said: _Said, *, is_running: bool) -> None:
        limit_s = tool.timeout_s or self._services.settings.limits.client_tool_timeout_s
        # Kept over a take-over: to be parked must not give it more time.
        until = self._progress.until.setdefault(call_id, await self._now_ms() + int(limit_s * 1000))
        told = len(said.claims) if is_running else 0  # how many claims the log shows
        late = "the client did not finish this in time"
        while said.result is None and not said.is_cancelled and await self._now_ms() < until:
            changed = said.changed  # taken before anything is awaited: what is said meanwhile is not slept over
            if len(said.claims) > told:
                told = len(said.claims)
                await self._note_effect(tool)
                self._writer.event(ToolRunning(**self._head, call_id=call_id, run=self._run), checkpoint=True)
            if len(said.claims) <= said.lapses:
                await self._until_said(call_id, changed, until)
                continue
            is_gone = await self._until_gone(said.claims[-1].body, changed, until)
            if is_gone and await self._lapse(call_id, len(said.claims)) and not tool.may_run_again:
                late = "the client that ran this is gone; its effect is unknown"
                break
        closed = await close_call(self._services, self._spec, call_id, self.say)
        if (result := said.result or closed.result) is not None:
            event = result_event(self._head, call_id, result, until, await self._now_ms(), limit_s)
            self._writer.event(event, checkpoint=True)
        elif said.is_cancelled:
            self._fail(call_id, "unknown" if closed.was_claimed else "cancelled", "it was cancelled")
        elif not closed.was_claimed:
            self._fail(call_id, "timed_out", "no client took this up in time")
        else:
            self._fail(call_id, "timed_out" if tool.may_run_again else "unknown", late)

    async def _until_said(self, call_id: str, changed: anyio.Event, until: int) -> bool:
        """Wait for people; False when the time is up. Raises `Parked` when nothing else is going on."""
        self._waiting[call_id] = until
        park_after_s = self._services.settings.limits.park_after_s
        try:
            while True:
                if self._is_stopping and len(self._waiting) == self._open:
                    raise Parked(min(self._waiting.values()))
                left_s = (until - await self._now_ms()) / 1000
                if left_s <= 0:
                    return False
                with anyio.move_on_after(min(left_s, park_after_s)):
                    await changed.wait()
                    return True
                if len(self._waiting) == self._open and left_s > park_after_s:
                    raise Parked(min(self._waiting.values()))
        finally:
            del self._waiting[call_id]

    async def _until_gone(self, claim: Mapping[str, Any], changed: anyio.Event, until: int) -> bool:
        """Whether the client that has claimed a call is gone for good; False when something was said, or time is up."""
        missing_since: float | None = None
        while True:
            left_s = (until - await self._now_ms()) / 1000
            if left_s <= 0:
                return False
            with anyio.move_on_after(min(_PRESENCE_LOOK_S, left_s)):
                await changed.wait()
                return False
            try:
                is_here = await self.is_present(claim["by"], claim["instance"])
            except LogUnavailable:
                continue
            now = anyio.current_time()
            missing_since = None if is_here else missing_since or now
            if missing_since is not None and now - missing_since >= self._services.settings.limits.claim_lapse_s:
                return True

    async def _lapse(self, call_id: str, turn: int) -> bool:
        return await self._decide("lapse", call_id, {"turn": turn}, question("lapse", call_id, turn))

    async def _decide(self, kind: str, call_id: str, body: dict[str, Any], decides: str) -> bool:
        """Say something to this turn itself, so that the first answer counts. False when it was another's."""
        spec = self._spec
        posted = await until_answered(
            lambda: self._services.log.post(
                f"{kind}:{spec.request_id}:{decides}",
                spec.request,
                kind,
                {"call_id": call_id, **body},
                user_id=spec.user_id,
                any_user=True,
                decides=decides,
                conversation=spec.conversation,
            ),
            "deciding about a tool",
        )
        if posted.intent is not None:
            self.say(posted.intent)
        return posted.outcome is PostOutcome.STORED

    async def _now_ms(self) -> int:
        # Told by the log's clock: a taker compares with it.
        return await until_answered(self._services.log.now_ms, "asking for the time")

    def _about(self, call_id: str) -> _Said:
        return self._said.setdefault(call_id, _Said())


def _is_call(part: object, call_id: str) -> bool:
    return isinstance(part, ToolCallPart) and part.call_id == call_id
