"""What conversations and turns work with, put together once by ``app``."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from turnwire_server.archive.base import Archive
from turnwire_server.eventlog.base import EventLog
from turnwire_server.eventlog.group_commit import GroupCommit
from turnwire_server.gateway.estimates import EstimatesByTenant
from turnwire_server.gateway.router import Router
from turnwire_server.gateway.usage import TokenCounter
from turnwire_server.orchestration.classify import Rules
from turnwire_server.orchestration.guards import Guards
from turnwire_server.retrieval.service import Retrieval
from turnwire_server.settings import Settings
from turnwire_server.telemetry.metrics import Metrics
from turnwire_server.telemetry.tracing import Tracer
from turnwire_server.tenants import TenantDirectory
from turnwire_server.tools.executor import ToolExecutor

from .memories import Memories
from .quotas import Quotas
from .reports import Reports


@dataclass(frozen=True, slots=True)
class Services:
    """Shared by all turns and conversations of the node. ``clock`` gives seconds since the Unix epoch.

    ``checkpoint`` does the storage's own housekeeping, now and then.
    """

    settings: Settings
    log: EventLog
    archive: Archive
    commit: GroupCommit
    router: Router
    tools: ToolExecutor
    counter: TokenCounter
    estimates: EstimatesByTenant
    tenants: TenantDirectory
    metrics: Metrics
    tracer: Tracer
    quotas: Quotas
    reports: Reports
    guards: Guards
    retrieval: Retrieval
    rules: Rules
    checkpoint: Callable[[], Awaitable[None]]
    clock: Callable[[], float] = field(default=time.time)
    memories: Memories = field(default_factory=Memories)

    def now_ms(self) -> int:
        return int(self.clock() * 1000)
