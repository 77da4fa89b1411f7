"""The part of the archive port that is about tenants: how each is set, and who changed what.

A tenant's settings are a table as the configuration file would have it, changed by version, so that two
administrators do not overwrite each other. Each change is told in the audit log, and so are acts of operators on what
belongs to others; a change without its entry must never be, whoever dies. Whether a table means anything is judged
above.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class TenantRecord:
    """A tenant as it was set last. ``version`` counts its changes from 1, removals and what comes after them too."""

    tenant_id: str
    version: int
    settings: Mapping[str, Any] | None
    """None: it was removed."""
    changed_at: int
    changed_by: str


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """An act of an administrator or operator. ``at`` is in milliseconds since the Unix epoch.

    ``op`` names the act: it is kept once. ``details`` never hold what users wrote.
    """

    op: str
    at: int
    actor: str
    act: str
    tenant_id: str
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AuditPage:
    """Entries, the newest first; ``next`` is the ``before`` of the page with older ones."""

    items: Sequence[AuditEntry]
    next: str | None = None


class TenantArchive(Protocol):
    """All calls raise `ArchiveUnavailable`."""

    async def tenant(self, tenant_id: str) -> TenantRecord | None:
        """The record, also of a tenant that was removed; None when it never was."""

    async def tenants(self, tenant_ids: Sequence[str] | None = None) -> Sequence[TenantRecord]:
        """Those that have not been removed, by id; of the named ones, if any are named."""

    async def tenant_versions(self, tenant_ids: Sequence[str]) -> Mapping[str, int]:
        """The versions of these, also of those that were removed. What never was is left out."""

    async def put_tenant(
        self, tenant_id: str, settings: Mapping[str, Any] | None, *, replaces: int, entry: AuditEntry
    ) -> tuple[TenantRecord | None, bool]:
        """Put these settings in place of those of version ``replaces`` (0: there never was one); None removes it.

        Returns what stands, and whether ``entry.op`` was carried out, by this call or an earlier one, also when it was
        replaced since. Change and entry are written together or not at all; of an op that was refused nothing stays.
        """

    async def add_audit(self, entry: AuditEntry) -> AuditEntry:
        """Keep the entry, once. Returns the one of its ``op`` that stands."""

    async def audit(self, tenant_id: str | None = None, *, limit: int, before: str | None = None) -> AuditPage:
        """The newest entries, of one tenant or of all.

        ``before`` is a ``next`` of an earlier page; anything else raises ValueError.
        """


def page_of(entries: Sequence[AuditEntry], limit: int) -> AuditPage:
    """The first ``limit`` of entries that come newest first, of which one more was looked for."""
    items = entries[:limit]
    return AuditPage(items, f"{items[-1].at}.{items[-1].op}" if len(entries) > limit else None)


def page_mark(before: str | None) -> tuple[int, str] | None:
    """The place in the order of entries that ``before`` names."""
    if before is None:
        return None
    at, dot, op = before.partition(".")
    if not dot or not at.isascii() or not at.isdigit() or len(at) > 18:
        raise ValueError("is not a `next` that was given")
    return int(at), op
