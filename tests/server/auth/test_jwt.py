"""What makes a token good, what makes it merely old, and what makes it no token at all."""

from __future__ import annotations

import base64
import hmac
import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from turnwire_server.auth import ExpiredToken, FixedKey, InvalidToken, JwtAuthenticator, Principal, make_token

SECRET = "a secret of at least thirty-two bytes"
NOW = 1_750_000_000.0
CLAIMS: dict[str, Any] = {"sub": "ann", "tenant": "acme", "exp": int(NOW) + 60}


def authenticator(**options: Any) -> JwtAuthenticator:
    options = {"leeway_s": 10, "now": lambda: NOW, **options}
    return JwtAuthenticator(FixedKey(SECRET), ("HS256",), **options)


def signed(drop: str | None = None, **claims: Any) -> str:
    merged = {**CLAIMS, **claims}
    payload = json.dumps({name: merged[name] for name in merged if name != drop}).encode()
    return jwt.PyJWS().encode(payload, SECRET, algorithm="HS256")  # unlike jwt.encode it looks at no claim


def forged(header: object, claims: object = CLAIMS, signature: bytes = b"") -> str:
    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    return f"{part(header)}.{part(claims)}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


async def test_a_good_token_names_user_tenant_scopes_and_expiry() -> None:
    token = signed(scope="conversations:read  conversations:operate", jti="t-1")
    assert await authenticator().authenticate(token) == Principal(
        tenant_id="acme",
        user_id="ann",
        scopes=frozenset({"conversations:read", "conversations:operate"}),
        expires_at=NOW + 60 + 10,
        token_id="t-1",
    )


@pytest.mark.parametrize("user", ["auth0|5f7c", "ann@example.org", "Анна Ω", "x" * 128])
async def test_users_may_be_called_as_identity_providers_call_them(user: str) -> None:
    assert (await authenticator().authenticate(signed(sub=user))).user_id == user


@pytest.mark.parametrize(
    "token",
    [
        signed(drop="sub"),
        signed(drop="tenant"),
        signed(drop="exp"),
        signed(sub=""),
        signed(sub=7),
        signed(sub="x" * 129),
        signed(sub="line\nbreak"),
        signed(sub="\ud800"),
        signed(tenant=""),
        signed(tenant=7),
        signed(tenant=["acme"]),
        signed(tenant="a b"),
        signed(tenant="acme\n"),
        signed(tenant="x" * 65),
        signed(tenant="ácme"),
        signed(exp="tomorrow"),
        signed(exp=str(int(NOW) + 60)),
        signed(exp=True),
        signed(exp=None),
        signed(exp=1e300),
        signed(exp=float("nan")),
        signed(exp=-1),
        signed(scope=["a"]),
        signed(scope=None),
        signed(nbf="soon"),
        signed(nbf=NOW + 11),
    ],
)
async def test_a_token_with_a_missing_or_wrong_claim_is_invalid(token: str) -> None:
    with pytest.raises(InvalidToken):
        await authenticator().authenticate(token)


async def test_a_token_that_is_merely_old_is_expired() -> None:
    with pytest.raises(ExpiredToken):
        await authenticator().authenticate(signed(exp=int(NOW) - 10))


async def test_the_clock_difference_is_tolerated_on_both_ends() -> None:
    principal = await authenticator().authenticate(signed(exp=int(NOW) - 9, nbf=int(NOW) + 10))
    assert principal.expires_at == NOW + 1


@pytest.mark.parametrize(
    "token",
    [
        signed(exp=1, tenant="a b"),
        signed(exp=1, sub=""),
        signed(exp=1, scope=3),
        signed(exp=1, nbf=NOW + 100),
        jwt.encode({**CLAIMS, "exp": 1}, "another secret of thirty-two bytes and more", algorithm="HS256"),
    ],
)
async def test_an_old_token_with_any_other_fault_is_invalid(token: str) -> None:
    with pytest.raises(InvalidToken):
        await authenticator().authenticate(token)


@pytest.mark.parametrize(
    ("claims", "is_good"),
    [
        ({"iss": "us", "aud": "turnwire"}, True),
        ({"iss": "us", "aud": ["other", "turnwire"]}, True),
        ({"iss": "us"}, False),
        ({"aud": "turnwire"}, False),
        ({"iss": "them", "aud": "turnwire"}, False),
        ({"iss": "us", "aud": "other"}, False),
        ({"iss": ["us"], "aud": "turnwire"}, False),
        ({"iss": "us", "aud": {"turnwire": 1}}, False),
    ],
)
async def test_issuer_and_audience_must_be_the_configured_ones(claims: dict[str, Any], is_good: bool) -> None:
    checked = authenticator(issuer="us", audience="turnwire")
    if is_good:
        assert (await checked.authenticate(signed(**claims))).user_id == "ann"
    else:
        with pytest.raises(InvalidToken, match="another issuer or for another audience"):
            await checked.authenticate(signed(**claims))
        with pytest.raises(InvalidToken):
            await checked.authenticate(signed(**claims, exp=1))


async def test_issuer_and_audience_are_not_looked_at_unless_configured() -> None:
    assert (await authenticator().authenticate(signed(iss="any", aud=["any"]))).user_id == "ann"


@pytest.mark.parametrize(
    "token",
    [
        None,
        "",
        "abc",
        "a.b.c",
        "\ud800.b.c",
        "x" * 20_000,
        signed()[:-4],
        signed() + "AAAA",
        forged({"alg": "none", "typ": "JWT"}),
        forged({"alg": "None"}),
        forged({"alg": ["HS256"]}),
        forged({"alg": "HS256"}, signature=b"\x00" * 32),
        forged({}),
        forged([]),
        forged({"alg": "HS256", "kid": {"a": 1}}),
        forged({"alg": "HS256"}, claims=[[[1]]]),
        jwt.encode(CLAIMS, SECRET * 2, algorithm="HS512"),
        jwt.encode(CLAIMS, SECRET + "!", algorithm="HS256"),
    ],
)
async def test_anything_that_is_no_accepted_signed_token_is_invalid(token: str | None) -> None:
    with pytest.raises(InvalidToken) as caught:
        await authenticator().authenticate(token)
    assert caught.value.__cause__ is None
    assert not token or token not in str(caught.value)


async def test_a_public_key_cannot_be_used_as_a_shared_secret() -> None:
    # The classic confusion: the attacker signs HS256 with the public key, which everybody has.
    pem = (
        rsa.generate_private_key(65537, 2048).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    checked = JwtAuthenticator(FixedKey(pem.decode()), ("RS256",), now=lambda: NOW)
    unsigned = forged({"alg": "HS256", "typ": "JWT"}).rpartition(".")[0]
    signature = hmac.digest(pem, unsigned.encode(), "sha256")
    with pytest.raises(InvalidToken, match="algorithm"):
        await checked.authenticate(forged({"alg": "HS256", "typ": "JWT"}, signature=signature))


async def test_a_public_key_checks_tokens_of_its_private_half_only() -> None:
    key, other = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    checked = JwtAuthenticator(FixedKey(pem), ("ES256",), now=lambda: NOW)
    assert (await checked.authenticate(jwt.encode(CLAIMS, key, algorithm="ES256"))).user_id == "ann"
    with pytest.raises(InvalidToken, match="signature"):
        await checked.authenticate(jwt.encode(CLAIMS, other, algorithm="ES256"))


async def test_a_made_token_is_accepted() -> None:
    token = make_token(SECRET, "ann", "acme", ["a", "b"], ttl_s=5, issuer="us", audience="tw", now=NOW)
    principal = await authenticator(issuer="us", audience="tw").authenticate(token)
    assert (principal.user_id, principal.tenant_id, set(principal.scopes)) == ("ann", "acme", {"a", "b"})
    assert principal.expires_at == NOW + 5 + 10
    assert principal.token_id


@pytest.mark.parametrize(("user", "tenant"), [("", "acme"), ("a\x00", "acme"), ("ann", "a b"), ("ann", "")])
def test_a_token_that_nobody_would_accept_is_not_made(user: str, tenant: str) -> None:
    with pytest.raises(ValueError, match="must have 1 to"):
        make_token(SECRET, user, tenant)


def test_nothing_printable_shows_the_secret() -> None:
    assert SECRET not in repr(authenticator())
