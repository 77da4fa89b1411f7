"""The prompts that this node has to do with, as they are now.

As with tenants, what was read is kept, and as long as somebody asks for it, compared with the archive again and again:
revisions first, and only what has another one is read. A version never changes, so its template is read and judged
once. While the archive is away everything stays as it was known last.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field

from turnwire_server.archive.prompts import PromptArchive, PromptKey, PromptRecord, PromptVersion

logger = logging.getLogger(__name__)

# Nobody has asked for it in this time: it is forgotten, and read again by whoever asks next.
_KEPT_S = 600.0
# Compared in one query.
_PAGE = 1_000


@dataclass(slots=True)
class KnownPrompt:
    """A prompt as the archive has it, with the versions of it that were asked for."""

    record: PromptRecord | None
    """None: there is none of that name."""
    versions: dict[int, PromptVersion] = field(default_factory=dict)
    asked_at: float = field(default_factory=time.monotonic)


class PromptDirectory:
    """One for the node. Whoever keeps the tenants up to date calls `refresh`."""

    def __init__(self, archive: PromptArchive) -> None:
        self._archive = archive
        self._known: dict[PromptKey, KnownPrompt] = {}

    def __repr__(self) -> str:
        return f"<PromptDirectory of {len(self._known)}>"

    async def find(self, tenant_id: str, name: str) -> PromptRecord | None:
        """How the prompt stands now. Raises `ArchiveUnavailable` for one that is not known here while it is away."""
        key = (tenant_id, name)
        known = self._known.get(key)
        if known is None:
            record = await self._archive.prompt(*key)
            known = self._known.setdefault(key, KnownPrompt(record))  # somebody else may have been quicker
        known.asked_at = time.monotonic()
        return known.record

    async def version(self, record: PromptRecord, version: int) -> PromptVersion | None:
        """One version of a prompt that was found. Raises as `find`."""
        known = self._known.get((record.tenant_id, record.name))
        if known is not None and (found := known.versions.get(version)) is not None:
            return found
        read = await self._archive.prompt_version(record.tenant_id, record.name, version)
        if read is not None and (known := self._known.get((record.tenant_id, record.name))) is not None:
            known.versions[version] = read
        return read

    async def refresh(self) -> None:
        """Compare what is known with the archive, once. Raises `ArchiveUnavailable`."""
        long_ago = time.monotonic() - _KEPT_S
        for key in [key for key, known in self._known.items() if known.asked_at < long_ago]:
            del self._known[key]
        keys = list(self._known)
        for page in (keys[start : start + _PAGE] for start in range(0, len(keys), _PAGE)):
            revisions = await self._archive.prompt_revisions(page)
            for key in page:
                known = self._known[key]
                if revisions.get(key, 0) != (0 if known.record is None else known.record.revision):
                    known.record = await self._archive.prompt(*key)
                    logger.info("prompt %s of tenant %s has changed", key[1], key[0])
