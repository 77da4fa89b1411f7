"""Signed tokens (JWT): checking them, and making them for development.

The signature is checked with PyJWT and the algorithms that the configuration accepts, never with what the
token itself asks for. Keys come from a `KeySource`, the meaning of the claims from `claims`.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable
from typing import Any

import jwt

from turnwire_server.auth.claims import is_tenant_id, is_user_id, principal_from
from turnwire_server.auth.keys import Key, KeySource
from turnwire_server.auth.principal import InvalidToken, Principal

MAX_TOKEN_CHARS = 16_384
"""Longest token that is looked at. Identity providers that list a user's groups reach 12 kB; a header takes
8 kB, `hello` a whole frame."""

# What PyJWT may raise on bytes from a stranger: its own errors, and Python's for lone surrogates, numbers
# without end and nesting without end.
_BROKEN = (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError)


class JwtAuthenticator:
    """Believes tokens that one of `keys` has signed. `now` is Unix seconds and comes in for tests."""

    def __init__(
        self,
        keys: KeySource,
        algorithms: Iterable[str],
        *,
        issuer: str | None = None,
        audience: str | None = None,
        leeway_s: float = 10,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._keys = keys
        self._algorithms = tuple(algorithms)
        self._issuer, self._audience, self._leeway_s = issuer, audience, leeway_s
        self._now = now
        assert self._algorithms, "without a list PyJWT would take the algorithm from the key"

    def __repr__(self) -> str:
        return f"JwtAuthenticator({self._keys!r}, algorithms={self._algorithms})"

    async def authenticate(self, token: str | None) -> Principal:
        """See Authenticator."""
        if not token:
            raise InvalidToken("a token is needed")
        if len(token) > MAX_TOKEN_CHARS:
            raise InvalidToken(f"the token is longer than {MAX_TOKEN_CHARS} characters")
        kid, algorithm = self._read_header(token)
        keys = await self._keys.find(kid, algorithm)
        return principal_from(self._verify(token, keys, algorithm), self._now(), self._leeway_s)

    def _read_header(self, token: str) -> tuple[str | None, str]:
        """The key's name and the algorithm, both unverified: they only choose among what is accepted."""
        try:
            header = jwt.get_unverified_header(token)
        except _BROKEN:
            raise InvalidToken("the token is not a JWT") from None
        algorithm, kid = header.get("alg"), header.get("kid")
        if algorithm not in self._algorithms:
            raise InvalidToken("the token is signed with an algorithm that is not accepted")
        return kid, str(algorithm)

    def _verify(self, token: str, keys: Iterable[Key], algorithm: str) -> dict[str, Any]:
        """The claims, signed by one of `keys`. Times are left to `claims`, which judges expiry last."""
        for key in keys:
            try:
                return jwt.decode(
                    token,
                    key,
                    algorithms=[algorithm],
                    issuer=self._issuer,
                    audience=self._audience,
                    options={
                        "verify_exp": False,
                        "verify_nbf": False,
                        "verify_iat": False,
                        "verify_sub": False,
                        "verify_jti": False,
                        "verify_iss": self._issuer is not None,
                        "verify_aud": self._audience is not None,
                        "enforce_minimum_key_length": True,
                    },
                )
            except (jwt.InvalidIssuerError, jwt.InvalidAudienceError, jwt.MissingRequiredClaimError):
                raise InvalidToken("the token is from another issuer or for another audience") from None
            except _BROKEN:
                continue
        raise InvalidToken("the token's signature fits no known key")


def make_token(
    secret: str,
    user: str,
    tenant: str,
    scopes: Iterable[str] = (),
    ttl_s: float = 3600,
    *,
    algorithm: str = "HS256",
    issuer: str | None = None,
    audience: str | None = None,
    now: float | None = None,
) -> str:
    """A token signed with a shared secret, for development and tests. Raises ValueError for names that no
    authenticator would accept, so that the mistake shows where it is made."""
    if not is_user_id(user):
        raise ValueError("a user must have 1 to 128 printable characters")
    if not is_tenant_id(tenant):
        raise ValueError("a tenant must have 1 to 64 characters of A-Z a-z 0-9 _ - . :")
    issued_at = time.time() if now is None else now
    claims: dict[str, Any] = {
        "sub": user,
        "tenant": tenant,
        "iat": int(issued_at),
        "exp": int(issued_at + ttl_s),
        "jti": uuid.uuid4().hex,
    }
    optional = {"scope": " ".join(scopes), "iss": issuer, "aud": audience}
    claims |= {name: value for name, value in optional.items() if value}
    return jwt.encode(claims, secret, algorithm=algorithm)
