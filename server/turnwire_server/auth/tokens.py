"""Where a token is in a request, and which one counts. Pure functions; tokens are not judged here."""

from __future__ import annotations

import hmac
import re

from turnwire_server.auth.principal import InvalidToken

_BEARER = re.compile(r"bearer +([A-Za-z0-9._~+/-]+=*) *", re.IGNORECASE)


def bearer_token(header: str | None) -> str | None:
    """The token of an `Authorization` header; None where there is none or it is of another scheme (a proxy's
    own `Basic`, say). Raises InvalidToken for a `Bearer` header that holds no token."""
    if header is None or header.partition(" ")[0].lower() != "bearer":
        return None
    found = _BEARER.fullmatch(header)
    if found is None:
        raise InvalidToken("the Authorization header must be 'Bearer' and one token")
    return found[1]


def choose_token(header_token: str | None, hello_token: str | None) -> str | None:
    """The token that counts when it may come in the header and in `hello` (SPEC section 2).

    Raises InvalidToken when both came and differ: picking one would let whoever controls the other believe
    that theirs was checked.
    """
    if header_token is None or hello_token is None:
        return hello_token if header_token is None else header_token
    if not hmac.compare_digest(header_token.encode(), hello_token.encode("utf-8", "surrogatepass")):
        raise InvalidToken("the token in the header and the one in hello differ")
    return header_token
