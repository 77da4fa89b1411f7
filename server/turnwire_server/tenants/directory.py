"""The tenants that this node has to do with, as they are now.

A tenant that the configuration file names is as the file says; any other as its record in the archive says; one without
a record is the file's `default`, or is refused. What was read is kept, and as long as somebody asks for it, compared
with the archive again and again: versions first, and only what has another one is read. So a change is live here after
`limits.tenant_refresh_s`. While the archive is away everything stays as it was known last.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field

import anyio

from turnwire_server.archive.base import Archive, ArchiveUnavailable
from turnwire_server.archive.tenants import TenantRecord
from turnwire_server.settings import Settings, SettingsError, Tenant
from turnwire_server.settings.tenants import stored_tenant
from turnwire_server.tenants.prompts import PromptDirectory

logger = logging.getLogger(__name__)

# Nobody has asked for it in this time: it is forgotten, and read again by whoever asks next.
_KEPT_S = 600.0
# Compared in one query.
_PAGE = 1_000


class TenantRefused(Exception):
    """The tenant is not served: it is suspended, or nobody knows it. The text is for its clients."""


class TenantUnusable(Exception):
    """The tenant's record makes no sense with the configuration of this node, and never has. The log says why."""


@dataclass(slots=True)
class _Known:
    """What is known of a tenant that the file does not name. ``version`` 0: it has no record."""

    version: int
    tenant: Tenant | None
    """None: it is not served, or its record could not be used yet."""
    is_usable: bool = True
    asked_at: float = field(default_factory=time.monotonic)


class TenantDirectory:
    """One for the node. `run` keeps it up to date."""

    def __init__(self, settings: Settings, archive: Archive) -> None:
        self._settings = settings
        self._archive = archive
        self.prompts = PromptDirectory(archive)
        """Their prompts, kept up to date with them."""
        self._known: dict[str, _Known] = {}
        self._is_away = False
        self.changed: Callable[[str, str | None], None] = lambda tenant_id, refusal: None
        """Called with the id of each tenant that has another version now, and why it is refused, if it is."""
        self.in_use: Callable[[], Container[str]] = tuple
        """Those that must not be forgotten although nobody asks for them: they have connections."""

    def __repr__(self) -> str:
        return f"<TenantDirectory of {len(self._known)}{' without its archive' if self._is_away else ''}>"

    async def find(self, tenant_id: str) -> Tenant:
        """How the tenant is set now. Reads the archive for one that is not known here.

        Raises `TenantRefused`, `TenantUnusable`, and `ArchiveUnavailable` where the archive is needed and away.
        """
        if self._file_has(tenant_id):
            return _served(tenant_id, self._settings.tenants[tenant_id])
        if tenant_id not in self._known:
            record = await self._archive.tenant(tenant_id)
            if tenant_id not in self._known:  # else somebody else was quicker
                self._learn(tenant_id, record)
        known = self._known[tenant_id]
        known.asked_at = time.monotonic()
        if not known.is_usable:
            raise TenantUnusable(f"the settings of the tenant '{tenant_id}' cannot be used; its administrator must act")
        return _served(tenant_id, known.tenant)

    async def refusal(self, tenant_id: str) -> str | None:
        """Why the tenant may have nothing more done for it; None when it may, as far as that can be told now."""
        try:
            await self.find(tenant_id)
        except TenantRefused as refused:
            return str(refused)
        except (ArchiveUnavailable, TenantUnusable):
            return None
        return None

    def _file_has(self, tenant_id: str) -> bool:
        return tenant_id in self._settings.tenants

    # --- up to date --------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Compare with the archive until cancelled."""
        while True:
            await anyio.sleep(self._settings.limits.tenant_refresh_s)
            try:
                await self.refresh()
            except Exception:
                logger.exception("tenants were not compared with the archive; it is tried again")

    async def refresh(self) -> None:
        """Compare what is known with the archive, once."""
        try:
            await self._compare()
            await self.prompts.refresh()
        except ArchiveUnavailable as error:
            if not self._is_away:
                logger.warning("tenants stay as they were known: %s", error)
            self._is_away = True
            return
        self._is_away = False
        long_ago, in_use = time.monotonic() - _KEPT_S, self.in_use()
        for tenant_id, known in tuple(self._known.items()):
            if known.asked_at < long_ago and tenant_id not in in_use:
                del self._known[tenant_id]

    async def _compare(self) -> None:
        ids = list(self._known)
        for page in (ids[start : start + _PAGE] for start in range(0, len(ids), _PAGE)):
            versions = await self._archive.tenant_versions(page)
            changed = [tenant_id for tenant_id in page if versions.get(tenant_id, 0) != self._known[tenant_id].version]
            if changed:
                records = {record.tenant_id: record for record in await self._archive.tenants(changed)}
                for tenant_id in changed:
                    self._learn(tenant_id, records.get(tenant_id), versions.get(tenant_id, 0))
                    self.changed(tenant_id, await self.refusal(tenant_id))

    def _learn(self, tenant_id: str, record: TenantRecord | None, version: int = 0) -> None:
        """What the archive has said. ``version`` is that of a removed tenant."""
        before = self._known.get(tenant_id)
        if record is not None:
            version = record.version
        if record is None or record.settings is None:
            known = _Known(version, self._settings.tenant(tenant_id))
        else:
            known = self._judged(record, record.settings, before)
        if before is not None:
            known.asked_at = before.asked_at
            logger.info("tenant %s has changed: version %d", tenant_id, known.version)
        self._known[tenant_id] = known

    def _judged(self, record: TenantRecord, table: Mapping[str, object], before: _Known | None) -> _Known:
        """A record that cannot be used leaves what was known before it."""
        try:
            tenant, gone = stored_tenant(self._settings, record.tenant_id, table)
        except SettingsError as error:
            stays = before is not None and before.is_usable
            consequence = "the settings before it stay" if stays else "the tenant is not served"
            logger.error(
                "version %d of tenant %s cannot be used here, %s: %s",
                record.version,
                record.tenant_id,
                consequence,
                "; ".join(str(error).splitlines()),
            )
            return _Known(record.version, before.tenant if before is not None else None, is_usable=stays)
        if gone:
            logger.warning(
                "tenant %s: routes that are not configured are left out: %s", record.tenant_id, ", ".join(gone)
            )
        return _Known(record.version, tenant)


def _served(tenant_id: str, tenant: Tenant | None) -> Tenant:
    if tenant is None:
        raise TenantRefused(f"the tenant '{tenant_id}' is not served here")
    if tenant.suspended:
        raise TenantRefused(f"the tenant '{tenant_id}' is suspended")
    return tenant
