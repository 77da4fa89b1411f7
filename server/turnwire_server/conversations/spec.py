"""What a turn is to do, as it is stored with its claim: enough to run it on any node after any crash.

Made once from `request.create` and never changed, but for the ordinal and parent that the claim gives it. It holds
the tenant's configuration of that moment, because a turn keeps the configuration it started with (DESIGN section 6).
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal, Self

import orjson

from turnwire_protocol import Message, PromptUsed, RequestCreate, TextPart
from turnwire_server.archive.base import Billing
from turnwire_server.auth import Principal
from turnwire_server.eventlog.base import ConversationRef, Owned, RequestRef
from turnwire_server.gateway.router import Caller
from turnwire_server.settings import Deployment, Tenant

from .prompting import Prompted

_FEATURE = re.compile(r"[A-Za-z0-9_.:-]{1,64}")

LIMITS = ("requests_per_minute", "tokens_per_minute", "budget_usd_per_day", "budget_usd_per_month")

OnBusyMode = Literal["queue", "reject", "interrupt", "steer", "parallel"]


def limits_of(tenant: Tenant) -> dict[str, Any] | None:
    """The tenant's limits, as they are kept in JSON; None when it has none."""
    kept = {name: value for name in LIMITS if (value := getattr(tenant, name)) is not None}
    return {name: str(value) if isinstance(value, Decimal) else value for name, value in kept.items()} or None


def prompt_budget(tenant: Mapping[str, Any], deployment: Deployment, output_tokens: int) -> int | None:
    """Tokens that a prompt may have: of the tenant, and of the deployment with room for an answer; None when neither
    says. ``output_tokens`` are expected of a tenant that has no limit for them."""
    found = [most] if (most := tenant.get("max_context_tokens")) is not None else []
    if deployment.context_tokens is not None:
        expected: int = tenant.get("max_output_tokens") or output_tokens
        # An answer may be allowed to be longer than the model can hold at all.
        found.append(deployment.context_tokens - min(expected, deployment.context_tokens // 2))
    return min(found, default=None)


def fingerprint(user_id: str, conversation_id: str, command: RequestCreate) -> str:
    """Equal for the same content under one request id: user, conversation, parent and decoded input."""
    parent = "" if command.from_root else command.parent_id
    content = [user_id, conversation_id, parent, [part.text for part in command.parts()]]
    return hashlib.sha256(orjson.dumps(content)).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class TurnSpec:
    """See the module. ``created_at`` is in milliseconds since the Unix epoch."""

    tenant_id: str
    conversation_id: str
    request_id: str
    user_id: str
    fingerprint: str
    input_id: str
    answer_id: str
    texts: tuple[str, ...]
    created_at: int
    route: str | None
    on_disconnect: Literal["continue", "cancel"]
    tenant: Mapping[str, Any]
    metadata: Mapping[str, Any] | None = None
    context: Mapping[str, Any] | None = None
    tools: Sequence[Mapping[str, Any]] = ()
    """What the client runs, as it declared them."""
    scopes: Sequence[str] = ()
    candidates: Sequence[str] = ()
    """Routes among which a model is to choose; none: ``route`` is known."""
    classifier: str | None = None
    """The route whose model chooses."""
    background: bool = False
    """Whether nobody waits for it: it is tried again, later, where another turn would end."""
    reported: bool = False
    """Whether a webhook is told that it has ended."""
    on_busy: OnBusyMode = "queue"
    target: str | None = None
    prompt: Mapping[str, Any] | None = None
    """Name and version of the prompt that ``tenant["system_prompt"]`` was made of."""
    traceparent: str | None = None
    """Where the client's own trace stands, if it has one (W3C)."""
    ordinal: int = 0
    parent_id: str | None = None

    @classmethod
    def create(
        cls,
        command: RequestCreate,
        principal: Principal,
        tenant: Tenant,
        route: str,
        now_ms: int,
        prompt: Prompted,
        *,
        candidates: Sequence[str] = (),
        reported: bool = False,
    ) -> Self:
        """The spec of a new request."""
        unique = uuid.uuid4().hex[:20]
        return cls(
            tenant_id=principal.tenant_id,
            conversation_id=command.conversation_id,
            request_id=command.request_id,
            user_id=principal.user_id,
            fingerprint=fingerprint(principal.user_id, command.conversation_id, command),
            input_id=f"msg_{unique}u",
            answer_id=f"msg_{unique}a",
            texts=tuple(part.text for part in command.parts()),
            created_at=now_ms,
            route=route,
            on_disconnect=command.on_disconnect,
            tenant={
                "system_prompt": prompt.text,
                "max_context_tokens": tenant.max_context_tokens,
                "max_output_tokens": tenant.max_output_tokens,
                "features": list(tenant.features),
                "regions": list(tenant.regions),
                "tools": None if tenant.tools is None else list(tenant.tools),
                "limits": limits_of(tenant),
                **({"redact": list(tenant.redact)} if tenant.redact else {}),
            },
            metadata=command.metadata,
            context=command.context,
            tools=[tool.model_dump() for tool in command.tools or ()],
            scopes=sorted(principal.scopes),
            candidates=list(candidates),
            classifier=tenant.classifier if candidates else None,
            background=command.background,
            reported=reported,
            on_busy=command.on_busy,
            target=command.target,
            prompt=prompt.to_json(),
            traceparent=command.traceparent,
        )

    def to_json(self, command: RequestCreate) -> dict[str, Any]:
        """For the claim. Without ``parent_id`` the claim puts the conversation's newest message there."""
        kept = {name: getattr(self, name) for name in self.__slots__ if name not in ("parent_id", "ordinal")}
        if command.parent_id is not None or command.from_root:
            kept["parent_id"] = command.parent_id
        return kept

    @classmethod
    def from_owned(cls, owned: Owned) -> Self:
        return cls.from_json(owned.spec, owned.ordinal)

    @classmethod
    def from_json(cls, spec: Mapping[str, Any], ordinal: int) -> Self:
        known = {name: spec[name] for name in cls.__slots__ if name in spec}
        return cls(**{**known, "texts": tuple(spec["texts"]), "ordinal": ordinal})

    @property
    def conversation(self) -> ConversationRef:
        return ConversationRef(self.tenant_id, self.conversation_id)

    @property
    def request(self) -> RequestRef:
        return RequestRef(self.tenant_id, self.request_id)

    def caller(self) -> Caller:
        """Who asks, for the router. The route was judged when the request was made."""
        tenant = self.tenant
        return Caller(self.tenant_id, frozenset(tenant.get("features") or ()), frozenset(tenant.get("regions") or ()))

    def billing(self, route: str | None = None) -> Billing:
        """What its usage is summed by; ``route`` is the one that was chosen while it ran."""
        return Billing(self.user_id, self.conversation_id, route or self.route, self.feature)

    @property
    def feature(self) -> str | None:
        """The client's label for what it does here, if it has given one that can be one (SPEC section 4)."""
        label = (self.metadata or {}).get("feature")
        return label if isinstance(label, str) and _FEATURE.fullmatch(label) else None

    def prompt_used(self) -> PromptUsed | None:
        """The version of the prompt that it is answered with, as its answer has it."""
        return None if self.prompt is None else PromptUsed(name=self.prompt["name"], version=self.prompt["version"])

    def user_message(self) -> Message:
        """The user's message as it is stored."""
        return Message(
            message_id=self.input_id,
            request_id=self.request_id,
            role="user",
            author=self.user_id,
            parts=[TextPart(text=text) for text in self.texts],
            status="complete",
            created_at=self.created_at,
            parent_id=self.parent_id,
            ordinal=self.ordinal,
        )
