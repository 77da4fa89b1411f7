"""Who a connection acts for: tokens in, `Principal` out.

A leaf: it imports the settings and nothing else of the server. The application builds one authenticator for
the process with `build_authenticator`; the transport asks it about each token it is given.
"""

from turnwire_server.auth.build import build_authenticator
from turnwire_server.auth.dev import DEV_TENANT, DEV_USER, DevAuthenticator, dev_secret
from turnwire_server.auth.jwt_tokens import JwtAuthenticator, make_token
from turnwire_server.auth.keys import FixedKey, KeySource
from turnwire_server.auth.principal import (
    Authenticator,
    AuthError,
    AuthUnavailable,
    ExpiredToken,
    InvalidToken,
    Principal,
)
from turnwire_server.auth.tokens import bearer_token, choose_token

__all__ = [
    "DEV_TENANT",
    "DEV_USER",
    "AuthError",
    "AuthUnavailable",
    "Authenticator",
    "DevAuthenticator",
    "ExpiredToken",
    "FixedKey",
    "InvalidToken",
    "JwtAuthenticator",
    "KeySource",
    "Principal",
    "bearer_token",
    "build_authenticator",
    "choose_token",
    "dev_secret",
    "make_token",
]
