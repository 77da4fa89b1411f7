"""What the claims of a token must be to name a user of a tenant. Pure: time comes in as `now`.

The signature, issuer and audience are checked before (`jwt_tokens`). Expiry is checked here and last, since
`ExpiredToken` invites the client to come back and must be said only of tokens that are otherwise good.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from turnwire_server.auth.principal import ExpiredToken, InvalidToken, Principal

_TENANT = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_USER_CHARS = 128
_LATEST_S = 253_402_300_799  # the last second of the year 9999; later times overflow other people's clocks


def is_tenant_id(value: object) -> bool:
    """Whether a tenant may be called so: the id alphabet of the protocol, at most 64 characters."""
    return isinstance(value, str) and _TENANT.fullmatch(value) is not None


def is_user_id(value: object) -> bool:
    """Whether a user may be called so: printable, at most 128 characters. Identity providers use mail
    addresses, `auth0|…` and the like, so the id alphabet would be too narrow."""
    return isinstance(value, str) and 0 < len(value) <= _USER_CHARS and value.isprintable()


def principal_from(claims: Mapping[str, Any], now: float, leeway_s: float) -> Principal:
    """The principal that verified claims name. Raises InvalidToken or ExpiredToken."""
    user, tenant, scope = claims.get("sub"), claims.get("tenant"), claims.get("scope", "")
    if not is_user_id(user):
        raise InvalidToken("the claim 'sub' must be a text of 1 to 128 printable characters")
    if not is_tenant_id(tenant):
        raise InvalidToken("the claim 'tenant' must be a text of 1 to 64 characters of A-Z a-z 0-9 _ - . :")
    if not isinstance(scope, str):
        raise InvalidToken("the claim 'scope' must be a text of scopes with spaces between them")
    not_before = _time(claims, "nbf") if "nbf" in claims else -math.inf
    if not_before > now + leeway_s:
        raise InvalidToken("the token is not valid yet")
    expires_at = _time(claims, "exp") + leeway_s
    if expires_at <= now:
        raise ExpiredToken("the token has expired")
    token_id = claims.get("jti")
    return Principal(
        tenant_id=str(tenant),
        user_id=str(user),
        scopes=frozenset(scope.split()),
        expires_at=expires_at,
        token_id=token_id if isinstance(token_id, str) else None,
    )


def _time(claims: Mapping[str, Any], name: str) -> float:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _LATEST_S:
        raise InvalidToken(f"the claim '{name}' must be a time in seconds since 1970")
    return float(value)
