"""The key set of a token's signer, fetched over HTTP and kept (RFC 7517).

Fetched when a token first needs it, again when it is old, and at once when a token names a key that is not
in it (signers rotate keys), but never more often than a stated interval: otherwise anybody could make this
server hammer the signer with made-up key names. While the signer is away the last key set goes on being
used. Fetches never block the event loop, and everybody who needs one waits for the same one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import aiohttp
import anyio
import orjson
from cryptography.exceptions import UnsupportedAlgorithm
from jwt import PyJWK, PyJWTError

from turnwire_server.auth.keys import Key
from turnwire_server.auth.principal import AuthUnavailable

logger = logging.getLogger(__name__)

MAX_BYTES = 1_048_576
"""Largest key set that is read; real ones have 1 to 20 kB."""
MAX_KEYS_TRIED = 8
"""Most keys tried for a token that does not name its key, so that one token costs a bounded time."""


class JwksKeys:
    """The keys at one address. `clock` is monotonic seconds and comes in for tests."""

    def __init__(
        self,
        url: str,
        algorithms: Iterable[str],
        *,
        timeout_s: float = 5,
        refresh_s: float = 300,
        min_interval_s: float = 10,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = url
        self._algorithms = tuple(algorithms)
        self._timeout_s, self._refresh_s, self._min_interval_s = timeout_s, refresh_s, min_interval_s
        self._clock = clock
        self._lock = anyio.Lock()
        self._keys: dict[str, list[tuple[str | None, PyJWK]]] = {}  # by algorithm
        self._fetched_at: float | None = None
        self._tried_at: float | None = None
        self._tries = 0

    def __repr__(self) -> str:
        count = len({kid for keys in self._keys.values() for kid, _ in keys})
        return f"JwksKeys({self._url!r}, {count} keys, fetched_at={self._fetched_at})"

    async def find(self, kid: str | None, algorithm: str) -> Sequence[Key]:
        """As KeySource. An unknown key name within the interval after a good fetch is simply unknown."""
        found = self._lookup(kid, algorithm)
        if found and not self._is_old():
            return found
        # With a usable key at hand nobody waits for somebody else's fetch.
        if not (found and self._lock.locked()):
            await self._refresh()
            found = self._lookup(kid, algorithm)
        if not found and (self._fetched_at is None or self._fetched_at != self._tried_at):
            raise AuthUnavailable("the token cannot be checked now, since the signer's keys cannot be fetched")
        return found

    def _lookup(self, kid: str | None, algorithm: str) -> list[PyJWK]:
        keys = [key for name, key in self._keys.get(algorithm, ()) if kid is None or name == kid]
        return keys[:MAX_KEYS_TRIED]

    def _is_old(self) -> bool:
        return self._fetched_at is None or self._clock() - self._fetched_at >= self._refresh_s

    async def _refresh(self) -> None:
        """One fetch for all who wait: who gets the lock after a fetch that ended meanwhile uses its result."""
        tries = self._tries
        async with self._lock:
            now = self._clock()
            is_too_soon = self._tried_at is not None and now - self._tried_at < self._min_interval_s
            if self._tries != tries or is_too_soon:
                return
            self._tried_at = now
            try:
                # Shielded (and bounded): a client that leaves must not spoil the fetch for the others.
                with anyio.CancelScope(shield=True):
                    keys = read_key_set(await self._fetch(), self._algorithms)
            except (OSError, aiohttp.ClientError, TimeoutError, ValueError) as error:
                logger.warning("key set at %s cannot be fetched: %s: %s", self._url, type(error).__name__, error)
            else:
                self._keys, self._fetched_at = keys, now
            self._tries += 1

    async def _fetch(self) -> bytes:
        # An HTTP client of its own for each fetch: minutes lie between two, and nothing has to be closed later.
        with anyio.fail_after(self._timeout_s):
            async with aiohttp.ClientSession() as session, session.get(self._url) as response:
                response.raise_for_status()
                body = await response.content.read(MAX_BYTES + 1)
                while len(body) <= MAX_BYTES and (more := await response.content.read(MAX_BYTES)):
                    body += more
        if len(body) > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES} bytes")
        return body


def read_key_set(body: bytes, algorithms: Sequence[str]) -> dict[str, list[tuple[str | None, PyJWK]]]:
    """The usable keys of a key set by algorithm. Keys of other kinds are skipped, as RFC 7517 section 5 asks.
    Raises ValueError when it is no key set or holds no usable key, so that such an answer replaces nothing."""
    parsed = orjson.loads(body)
    entries = parsed.get("keys") if isinstance(parsed, dict) else None
    if not isinstance(entries, list):
        raise ValueError("the answer is not a key set")
    keys: dict[str, list[tuple[str | None, PyJWK]]] = {}
    for entry in entries:
        if not isinstance(entry, dict) or entry.get("use", "sig") != "sig":
            continue
        kid = entry.get("kid")
        for algorithm in algorithms:
            # A key that names its algorithm is for that one; another may be used with all that fit its kind.
            if entry.get("alg", algorithm) == algorithm and (key := _read_key(entry, algorithm)) is not None:
                keys.setdefault(algorithm, []).append((kid if isinstance(kid, str) else None, key))
    if not keys:
        raise ValueError("the key set has no key for an accepted algorithm")
    return keys


def _read_key(entry: Mapping[str, Any], algorithm: str) -> PyJWK | None:
    try:
        return PyJWK(dict(entry), algorithm)
    except (PyJWTError, UnsupportedAlgorithm, ValueError, TypeError, KeyError):
        return None
