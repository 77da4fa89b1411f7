"""What clients say about tool calls: claims, results, approvals and cancels (SPEC section 6).

Whoever is first is decided by the log (`EventLog.post` with a question); the turn hears of it, on whatever node it runs
or once it goes on. A claim has turns: one that has lapsed leaves the next to whoever comes.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from turnwire_protocol import (
    CommandError,
    ErrorCode,
    ToolApprove,
    ToolCallPart,
    ToolCancel,
    ToolClaim,
    ToolCommand,
    ToolDeny,
    ToolResult,
)
from turnwire_server.auth import Principal
from turnwire_server.eventlog.base import Intent, Phase, Posted, PostOutcome, RequestInfo, RequestRef
from turnwire_server.tools.errors import InvalidArguments
from turnwire_server.tools.output import UnusableOutput, usable

from .audit import note_operation
from .calls import digest
from .closing import lapses, question
from .hub import ConversationHub
from .patience import until_answered
from .sight import sight
from .snapshots import Snapshots
from .spec import TurnSpec
from .turn_tools import TurnTools

_AnyToolCommand = ToolClaim | ToolResult | ToolApprove | ToolDeny | ToolCancel


class ToolCommands:
    """The commands, for all connections of the node."""

    def __init__(self, hub: ConversationHub, snapshots: Snapshots) -> None:
        self._hub = hub
        self._services = hub.services
        self._snapshots = snapshots

    async def claim(self, principal: Principal, command: ToolClaim, instance_id: str) -> None:
        """Only the one whose claim this acknowledges runs the call. Raises `already_settled`."""
        found = await self._call(principal, command)
        assert found is not None, "nothing that was said before is compared"
        info, part = found
        if info.user_id != principal.user_id:
            raise CommandError(ErrorCode.FORBIDDEN, "only clients of its author run this call")
        _must_be_a_client_s(part)
        if part.state in ("started", "waiting_approval"):
            raise _state(f"the call cannot be claimed while it is '{part.state}'")
        turn = 1 + lapses(info, part.call_id)
        body = {"by": principal.user_id, "instance": instance_id}
        posted = await self._post(info, "claim", part, body, question("claim", part.call_id, turn))
        if posted.outcome is PostOutcome.DECIDED and not _is_held_by(posted.intent, principal, instance_id):
            raise _settled("another client runs this call")

    async def result(self, principal: Principal, command: ToolResult, instance_id: str) -> None:
        """The result of a call, from whoever has claimed it."""
        body: dict[str, Any] = {"call_id": command.call_id, "error": command.error}
        if command.error is None:
            try:
                output = usable(command.output, self._services.settings.limits.tool_output_bytes)
            except UnusableOutput as error:
                raise CommandError(ErrorCode.TOO_LARGE, f"output: {error}") from None
            body = {"call_id": command.call_id, "output": output}
        found = await self._call(principal, command, said=("result", body))
        if found is None:
            return
        info, part = found
        _must_be_a_client_s(part)
        claim = info.decided.get(question("claim", part.call_id, 1 + lapses(info, part.call_id)))
        if claim is None or not _is_held_by(claim, principal, instance_id):
            raise _state("this client has not claimed the call, or its claim has lapsed")
        posted = await self._post(info, "result", part, body, question("result", part.call_id))
        if posted.outcome is PostOutcome.DECIDED:
            raise _settled("the call has a result already")

    async def approve(self, principal: Principal, command: ToolApprove) -> None:
        """Let a call be run, with other arguments if there are any. One decision counts."""
        said: dict[str, Any] = {"call_id": command.call_id, "by": principal.user_id}
        if command.arguments is not None:
            said["arguments"] = command.arguments
        found = await self._call(principal, command, owner_for_others=True, said=("approve", said))
        if found is None:
            return
        info, part = found
        body: dict[str, Any] = {**said, "digest": digest(self._asked_for(info, part))}
        if command.arguments is not None:
            tools = TurnTools(self._services, TurnSpec.from_json(info.spec, info.ordinal))
            tool = tools.get(part.name)
            try:
                body["arguments"] = command.arguments if tool is None else tool.validate(command.arguments)
            except InvalidArguments as error:
                raise CommandError(ErrorCode.BAD_COMMAND, f"arguments: {error}") from None
        await self._decide(info, "approve", part, body)

    async def deny(self, principal: Principal, command: ToolDeny) -> None:
        """Do not let a call be run."""
        body = {"call_id": command.call_id, "by": principal.user_id, "reason": command.reason}
        found = await self._call(principal, command, owner_for_others=True, said=("deny", body))
        if found is not None:
            info, part = found
            self._asked_for(info, part)
            await self._decide(info, "deny", part, body)

    async def cancel(self, principal: Principal, command: ToolCancel) -> None:
        """Stop one call; the turn goes on and is told so."""
        body = {"call_id": command.call_id, "by": principal.user_id}
        found = await self._call(principal, command, owner_for_others=True, said=("cancel_call", body))
        if found is None:
            return
        info, part = found
        if part.state == "started":
            raise _state("the model is still writing this call")
        await self._post(info, "cancel_call", part, body, question("cancel", part.call_id))

    # --- inside --------------------------------------------------------------------------------------------

    async def _call(
        self,
        principal: Principal,
        command: _AnyToolCommand,
        *,
        owner_for_others: bool = False,
        said: tuple[str, Mapping[str, Any]] | None = None,
    ) -> tuple[RequestInfo, ToolCallPart] | None:
        """The request and the call in it; None when ``said`` is what was said and counted before: a repeat.

        Raises `not_found`, `forbidden`, and `already_settled` for what is over.
        """
        ref = RequestRef(principal.tenant_id, command.request_id)
        seen = await sight(self._hub, principal, ref, others="owner" if owner_for_others else None)
        if seen.info is not None and said is not None and _was_said(seen.info, *said):
            return None
        info = seen.live
        if info is None:
            ending = None if seen.record is None else seen.record.ending
            if ending is not None and all(p.get("call_id") != command.call_id for p in ending["answer"]["parts"]):
                raise _unknown(command)
            raise _settled("the turn has ended")
        if info.phase is Phase.QUEUED:
            raise _unknown(command)  # the model has not been asked yet
        part = await self._part(info, command.call_id)
        if part is None:
            raise _unknown(command)
        if part.state in ("completed", "failed"):
            raise _settled(f"the call has {part.state}")
        if seen.author != principal.user_id:
            about = {"request_id": ref.request_id, "call_id": part.call_id}
            await note_operation(self._services, principal, seen.conversation, command.type, **about)
        return info, part

    async def _part(self, info: RequestInfo, call_id: str) -> ToolCallPart | None:
        snapshot = await self._snapshots.build(info.conversation)
        for active in snapshot.active:
            if active.request_id == info.request.request_id and active.message is not None:
                for part in active.message.parts:
                    if isinstance(part, ToolCallPart) and part.call_id == call_id:
                        return part
        return None

    def _asked_for(self, info: RequestInfo, part: ToolCallPart) -> Mapping[str, Any]:
        """The arguments that somebody is asked to agree to."""
        if part.approval is None:
            if question("approval", part.call_id) in info.decided:
                raise _settled("it was decided already")
            raise _state("nobody is asked to approve this call")
        return part.approval.arguments

    async def _decide(self, info: RequestInfo, kind: str, part: ToolCallPart, body: dict[str, Any]) -> None:
        posted = await self._post(info, kind, part, body, question("approval", part.call_id))
        if posted.outcome is PostOutcome.DECIDED:
            raise _settled("it was decided already")

    async def _post(
        self, info: RequestInfo, kind: str, part: ToolCallPart, body: dict[str, Any], decides: str
    ) -> Posted:
        op = f"{kind}:{uuid.uuid4().hex}"
        posted = await until_answered(
            lambda: self._services.log.post(
                op,
                info.request,
                kind,
                {**body, "call_id": part.call_id},
                user_id=info.user_id,
                any_user=True,
                decides=decides,
                conversation=info.conversation,
            ),
            "saying something about a tool",
        )
        if posted.outcome is PostOutcome.SETTLED:
            raise _settled("the turn has ended")
        if posted.outcome is PostOutcome.RECORDED:
            raise CommandError(ErrorCode.UNAVAILABLE, "the log has lost this request for the moment; try again")
        if posted.intent is not None and posted.outcome is PostOutcome.STORED:
            self._hub.heard(info.request, info.conversation, [posted.intent])
        return posted


def _was_said(info: RequestInfo, kind: str, body: Mapping[str, Any]) -> bool:
    about = {"approve": "approval", "deny": "approval", "cancel_call": "cancel"}.get(kind, kind)
    first = info.decided.get(question(about, body["call_id"]))
    return first is not None and first.kind == kind and {**first.body, "digest": None} == {**body, "digest": None}


def _is_held_by(claim: Intent | None, principal: Principal, instance_id: str) -> bool:
    return claim is not None and (claim.body["by"], claim.body["instance"]) == (principal.user_id, instance_id)


def _must_be_a_client_s(part: ToolCallPart) -> None:
    if part.where != "client":
        raise _state("the server runs this call")


def _unknown(command: ToolCommand) -> CommandError:
    text = f"no call '{command.call_id}' in request '{command.request_id}'"
    return CommandError(ErrorCode.NOT_FOUND, text, request_id=command.request_id)


def _settled(why: str) -> CommandError:
    return CommandError(ErrorCode.ALREADY_SETTLED, why)


def _state(why: str) -> CommandError:
    return CommandError(ErrorCode.INVALID_STATE, why)
