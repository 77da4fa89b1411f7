"""What a running tool knows of its call, and how it reports its progress.

Created by the executor, one for each run. Safe to use from a thread.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import orjson

Progress = Callable[[float | None, str | None], None]
"""Reports how far a tool is: a fraction from 0 to 1, a message for people, or both."""


def idempotency_key(tenant_id: str, request_id: str, call_id: str) -> str:
    """64 hexadecimal digits, the same for every run of one call on any node, and for no other call."""
    # As JSON, since ids may hold any separator.
    return hashlib.sha256(orjson.dumps([tenant_id, request_id, call_id])).hexdigest()


@dataclass(frozen=True, slots=True)
class ToolContext:
    """Annotate a parameter of a tool with this to be given it; the model does not see the parameter."""

    tenant_id: str
    user_id: str
    conversation_id: str
    request_id: str
    call_id: str
    attempt: int = 1
    """Which run of this call by this node it is; retries count on."""
    _progress: Progress = field(default=lambda fraction, message: None, repr=False)
    _is_cancelled: Callable[[], bool] = field(default=lambda: False, repr=False)

    @property
    def idempotency_key(self) -> str:
        """Hand it to whatever the tool changes, so that a repeated run (a retry, another node after a crash) is
        recognised there: it is the same for every run of this call."""
        return idempotency_key(self.tenant_id, self.request_id, self.call_id)

    def progress(self, fraction: float | None = None, message: str | None = None) -> None:
        """Tell how far the tool is: ``fraction`` from 0 to 1, a ``message`` for people, or both.

        Never waits and never fails, and may be called as often as one likes: of several in a tenth of a second the
        newest is shown.
        """
        self._progress(fraction, message)

    @property
    def is_cancelled(self) -> bool:
        """Whether nobody waits for the result any more. A tool that runs in a thread cannot be interrupted; one that
        takes long should look here now and then and return."""
        return self._is_cancelled()
