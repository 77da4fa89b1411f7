"""Development authentication, and which authenticator a configuration gets."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from turnwire_server.auth import (
    DevAuthenticator,
    ExpiredToken,
    InvalidToken,
    JwtAuthenticator,
    build_authenticator,
    dev_secret,
    make_token,
)
from turnwire_server.settings import build_settings

SECRET = "a secret of at least thirty-two bytes"


async def test_without_a_token_everybody_is_the_development_user(tmp_path: Path) -> None:
    principal = await DevAuthenticator(tmp_path).authenticate(None)
    assert (principal.tenant_id, principal.user_id, principal.expires_at) == ("default", "dev", None)


async def test_a_development_token_names_somebody_else(tmp_path: Path) -> None:
    token = make_token(dev_secret(tmp_path), "ann", "acme", ["conversations:read"])
    principal = await DevAuthenticator(tmp_path).authenticate(token)
    assert (principal.tenant_id, principal.user_id) == ("acme", "ann")
    assert principal.scopes == {"conversations:read"}


async def test_a_development_token_expires(tmp_path: Path) -> None:
    token = make_token(dev_secret(tmp_path), "ann", "acme", ttl_s=-60)
    with pytest.raises(ExpiredToken):
        await DevAuthenticator(tmp_path).authenticate(token)


@pytest.mark.parametrize("token", ["", "nonsense", make_token(SECRET, "ann", "acme")])
async def test_a_wrong_token_does_not_fall_back_to_the_development_user(tmp_path: Path, token: str) -> None:
    with pytest.raises(InvalidToken):
        await DevAuthenticator(tmp_path).authenticate(token)


def test_the_secret_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    directory = tmp_path / "new" / "data"
    secret = dev_secret(directory)
    assert len(secret) >= 43
    assert dev_secret(directory) == secret
    assert [path.name for path in directory.iterdir()] == ["dev-secret"]
    assert stat.S_IMODE((directory / "dev-secret").stat().st_mode) == 0o600


def test_processes_that_start_together_get_the_same_secret(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        secrets = set(pool.map(lambda _: dev_secret(tmp_path), range(64)))
    assert len(secrets) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["dev-secret"]


def test_a_damaged_secret_is_reported_and_not_used(tmp_path: Path) -> None:
    (tmp_path / "dev-secret").write_text("short")
    with pytest.raises(ValueError, match="damaged: delete it"):
        dev_secret(tmp_path)


async def test_development_mode_builds_the_development_authenticator(tmp_path: Path) -> None:
    settings = build_settings({"server": {"data_dir": str(tmp_path / "data")}}, {})
    assert isinstance(build_authenticator(settings), DevAuthenticator)
    assert (tmp_path / "data" / "dev-secret").exists()


async def test_a_shared_secret_builds_an_authenticator_with_issuer_and_audience(tmp_path: Path) -> None:
    auth = {"mode": "jwt", "jwt_secret": SECRET, "issuer": "us", "audience": "tw"}
    settings = build_settings({"auth": auth, "server": {"data_dir": str(tmp_path / "data")}}, {})
    authenticator = build_authenticator(settings)
    good = make_token(SECRET, "ann", "acme", issuer="us", audience="tw")
    assert (await authenticator.authenticate(good)).user_id == "ann"
    for token in (None, make_token(SECRET, "ann", "acme"), make_token(SECRET, "ann", "acme", issuer="us")):
        with pytest.raises(InvalidToken):
            await authenticator.authenticate(token)
    assert not (tmp_path / "data").exists()


async def test_a_public_key_builds_an_authenticator_for_its_algorithm() -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    authenticator = build_authenticator(build_settings({"auth": {"mode": "jwt", "jwt_public_key": pem}}, {}))
    assert isinstance(authenticator, JwtAuthenticator)
    assert "EdDSA" in repr(authenticator)


async def test_a_key_set_address_is_not_asked_before_the_first_token() -> None:
    auth = {"mode": "jwt", "jwks_url": "http://127.0.0.1:1/jwks"}
    assert "0 keys" in repr(build_authenticator(build_settings({"auth": auth}, {})))
