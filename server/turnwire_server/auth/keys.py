"""Where the keys to check signatures with come from. Fixed keys here, fetched ones in `jwks`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from jwt import PyJWK

Key = str | PyJWK


class KeySource(Protocol):
    """The keys that may have signed a token."""

    async def find(self, kid: str | None, algorithm: str) -> Sequence[Key]:
        """The keys to try for a token whose header names `kid` and `algorithm`; the algorithm is an accepted
        one. Empty when there is none. Raises AuthUnavailable when that cannot be known now."""
        ...


class FixedKey:
    """One key from the configuration: a shared secret or a public key as PEM."""

    def __init__(self, key: str) -> None:
        self._key = key

    def __repr__(self) -> str:
        return "FixedKey(…)"

    async def find(self, kid: str | None, algorithm: str) -> Sequence[Key]:
        """The key, whatever `kid` says: signers may name it as they like."""
        return (self._key,)
