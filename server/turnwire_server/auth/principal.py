"""Who a connection acts for, and what every way of finding out has in common.

Below the transport, which hands tokens in and turns what is raised here into the wire's `unauthenticated`.
Knows nothing of connections, roles or conversations; whether a tenant is served is the settings' business.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Principal:
    """A user of a tenant, taken from a token and never from a message."""

    tenant_id: str
    user_id: str
    scopes: frozenset[str] = frozenset()
    expires_at: float | None = None
    """Unix time in seconds from which the token no longer counts, the permitted clock difference included;
    None for an identity that does not expire."""
    token_id: str | None = None
    """The token's `jti`, for logs; never the token."""

    def is_same_user(self, other: Principal) -> bool:
        """Whether a refreshed token may take this one's place (SPEC section 2, `auth.refresh`)."""
        return (self.tenant_id, self.user_id) == (other.tenant_id, other.user_id)


class AuthError(Exception):
    """A token was not accepted. The text is for the client and never contains the token."""


class InvalidToken(AuthError):
    """The token will never be accepted: answer `unauthenticated`, close 4501."""


class ExpiredToken(AuthError):
    """The token is good in every respect but its age: answer `unauthenticated`, close 4401, so that the
    client fetches a new one and comes back."""


class AuthUnavailable(AuthError):
    """The token cannot be judged now, because the signer's keys cannot be had: answer `unavailable`, close
    with a code after which clients come back. Saying `unauthenticated` would send good users away for good."""


class Authenticator(Protocol):
    """One way of telling who somebody is. One instance serves the whole process and all connections."""

    async def authenticate(self, token: str | None) -> Principal:
        """The principal of `token`; None means that the client gave none.

        Raises InvalidToken, ExpiredToken (only where everything else is valid) or AuthUnavailable. May wait
        for the network, never longer than the settings' `auth.jwks_timeout_s` for one fetch.
        """
        ...
