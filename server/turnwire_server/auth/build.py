"""Picks the authenticator that the configuration asks for."""

from __future__ import annotations

from turnwire_server.auth.dev import DevAuthenticator
from turnwire_server.auth.jwt_tokens import JwtAuthenticator
from turnwire_server.auth.keys import FixedKey, KeySource
from turnwire_server.auth.principal import Authenticator
from turnwire_server.settings import AuthSettings, Settings, accepted_algorithms


def build_authenticator(settings: Settings) -> Authenticator:
    """The authenticator of `settings`, which are known to be consistent. In development mode this makes the
    data directory and the secret in it and raises OSError or ValueError where that fails."""
    auth = settings.auth
    if auth.mode == "dev":
        return DevAuthenticator(settings.server.data_dir)
    return JwtAuthenticator(
        _key_source(auth),
        accepted_algorithms(auth),
        issuer=auth.issuer,
        audience=auth.audience,
        leeway_s=auth.leeway_s,
    )


def _key_source(auth: AuthSettings) -> KeySource:
    if auth.jwt_secret is not None:
        return FixedKey(auth.jwt_secret.get_secret_value())
    if auth.jwt_public_key is not None:
        return FixedKey(auth.jwt_public_key)
    assert auth.jwks_url is not None  # settings.checks.check_auth wants exactly one key source
    # Loaded only here: its HTTP client takes a quarter of the time that a server needs to start.
    from turnwire_server.auth.jwks import JwksKeys

    return JwksKeys(
        auth.jwks_url,
        accepted_algorithms(auth),
        timeout_s=auth.jwks_timeout_s,
        refresh_s=auth.jwks_refresh_s,
        min_interval_s=auth.jwks_min_interval_s,
    )
