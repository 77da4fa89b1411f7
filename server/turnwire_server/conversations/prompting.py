"""Which prompt a new request gets: the version, chosen once, and its text, which the request keeps to its end.

A tenant names a prompt of the registry in place of a text (`[tenants.NAME] prompt`). Of its conversations a share may
have the candidate: which ones hangs on the conversation alone, so that it keeps its version as long as nobody changes
the prompt. Tenants that are served as `default` have its prompts.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import orjson

from turnwire_protocol import CommandError, ErrorCode
from turnwire_server.archive.prompts import PromptRecord, PromptVersion
from turnwire_server.auth import Principal
from turnwire_server.orchestration.prompts import PromptTemplate, TemplateFault, Variable, VariableFault
from turnwire_server.settings import Tenant
from turnwire_server.settings.tree import DEFAULT_TENANT
from turnwire_server.tenants import PromptDirectory

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Prompted:
    """A request's system prompt, and the version that it was made of, if it was."""

    text: str | None
    name: str | None = None
    version: int | None = None

    def to_json(self) -> dict[str, Any] | None:
        """What the request keeps besides the text."""
        return None if self.name is None else {"name": self.name, "version": self.version}


@dataclass(frozen=True, slots=True)
class Asked:
    """What there is to know of a request for its prompt. ``at_ms`` is in milliseconds since the Unix epoch."""

    principal: Principal
    conversation_id: str
    route: str
    variables: Mapping[str, str] | None
    at_ms: int

    def built_in(self) -> dict[str, str]:
        day = datetime.fromtimestamp(self.at_ms / 1000, UTC).date().isoformat()
        return {
            "tenant": self.principal.tenant_id,
            "user": self.principal.user_id,
            "date": day,
            "route": self.route,
        }


async def prompted(prompts: PromptDirectory, tenant: Tenant, asked: Asked, *, is_default: bool) -> Prompted:
    """The prompt of a new request. Raises `CommandError`, and `ArchiveUnavailable` where the archive is needed."""
    if tenant.prompt is None:
        if asked.variables:
            names = ", ".join(f"'{name}'" for name in sorted(asked.variables))
            raise _bad(f"there is no {names}; this tenant's prompt has no variables")
        return Prompted(tenant.system_prompt)
    owner = DEFAULT_TENANT if is_default else asked.principal.tenant_id
    record = await prompts.find(owner, tenant.prompt)
    number = None if record is None else version_for(record, asked.conversation_id)
    found = None if record is None or number is None else await prompts.version(record, number)
    if found is None:
        logger.error("prompt %s of tenant %s has no released version", tenant.prompt, owner)
        raise CommandError(
            ErrorCode.UNAVAILABLE, "the tenant's prompt has no released version; its administrator must act"
        )
    try:
        text = template_of(found).render(asked.variables or {}, asked.built_in())
    except TemplateFault as fault:
        logger.error("version %d of prompt %s of tenant %s cannot be used: %s", number, found.name, owner, fault)
        raise CommandError(
            ErrorCode.UNAVAILABLE, "the tenant's prompt cannot be used; its administrator must act"
        ) from None
    except VariableFault as fault:
        raise _bad(str(fault)) from None
    return Prompted(text, found.name, found.version)


def version_for(record: PromptRecord, conversation_id: str) -> int | None:
    """The version that a conversation gets; None when nothing is released."""
    if record.candidate is None or record.released is None:
        return record.released
    content = orjson.dumps([record.tenant_id, record.name, conversation_id])
    drawn = int.from_bytes(hashlib.sha256(content).digest()[:8], "big") % 100
    return record.candidate if drawn < record.share else record.released


def template_of(version: PromptVersion) -> PromptTemplate:
    """Its template. Raises `TemplateFault` when this server would not have taken it."""
    return _judged(version.text, orjson.dumps(version.variables))


@lru_cache(maxsize=256)
def _judged(text: str, variables: bytes) -> PromptTemplate:
    kept: dict[str, dict[str, Any]] = orjson.loads(variables)
    return PromptTemplate(text, {name: Variable.from_json(table) for name, table in kept.items()})


def _bad(text: str) -> CommandError:
    return CommandError(ErrorCode.BAD_COMMAND, f"variables: {text}")
