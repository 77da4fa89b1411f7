"""The part of the archive port that is about prompts: templates by version, and which of them are used.

A version is written once and never changed. What changes is the record of the prompt's name: how many versions there
are, which one is released and which one is tried. It is changed by revision, like a tenant, with its entry in the audit
log. What a template means is judged above.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from .tenants import AuditEntry

PromptState = Literal["draft", "candidate", "released"]
PromptKey = tuple[str, str]
"""Tenant and name of a prompt."""


@dataclass(frozen=True, slots=True)
class PromptVersion:
    """A template, for good. ``variables`` is a table by name, of what each has to be; times are in milliseconds since
    the Unix epoch."""

    tenant_id: str
    name: str
    version: int
    text: str
    variables: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    note: str | None = None
    created_at: int = 0
    created_by: str = ""


@dataclass(frozen=True, slots=True)
class PromptRecord:
    """A prompt as it stands. ``revision`` counts its changes from 1, ``versions`` its versions, the newest is the last.

    ``share`` is the part of conversations, in percent, that gets ``candidate`` instead of ``released``.
    """

    tenant_id: str
    name: str
    revision: int
    versions: int
    released: int | None
    candidate: int | None
    share: int
    changed_at: int
    changed_by: str

    def state(self, version: int) -> PromptState:
        """What becomes of one of its versions."""
        if version == self.released:
            return "released"
        return "candidate" if version == self.candidate else "draft"


class PromptArchive(Protocol):
    """All calls raise `ArchiveUnavailable`."""

    async def prompt(self, tenant_id: str, name: str) -> PromptRecord | None:
        """The record, or None."""

    async def prompts(self, tenant_id: str) -> Sequence[PromptRecord]:
        """A tenant's, by name."""

    async def prompt_revisions(self, keys: Sequence[PromptKey]) -> Mapping[PromptKey, int]:
        """The revisions of these. What is not there is left out."""

    async def prompt_version(self, tenant_id: str, name: str, version: int) -> PromptVersion | None:
        """One version, or None."""

    async def prompt_versions(self, tenant_id: str, name: str) -> Sequence[PromptVersion]:
        """All versions, the first one first."""

    async def put_prompt(
        self, record: PromptRecord, *, entry: AuditEntry, new: PromptVersion | None = None
    ) -> tuple[PromptRecord | None, bool]:
        """Put the record in place of the one of the revision before its own (0: there never was one). With ``new``, its
        last version, which comes with it.

        Returns what stands, and whether ``entry.op`` was carried out, by this call or an earlier one, also when it was
        replaced since. Record, version and entry are written together or not at all; of an op that was refused nothing
        is ever seen.
        """
