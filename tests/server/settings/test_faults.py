"""Every wrong value is refused by key, value and expectation; all at once; secrets are never shown."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from turnwire_server.settings import Limits, SettingsError, accepted_algorithms, build_settings

SECRET = "a secret of at least thirty-two bytes"


def fault_lines(tree: dict[str, Any], environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        build_settings(tree, environ or {})
    return str(caught.value).splitlines()


def public_pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


@pytest.mark.parametrize(
    ("section", "key", "value", "line"),
    [
        ("limits", "heartbeat_s", -3, "limits.heartbeat_s: -3: must be greater than 0"),
        ("limits", "heartbeat_s", "fast", 'limits.heartbeat_s: "fast": must be a number'),
        ("limits", "heartbeat_s", float("nan"), "limits.heartbeat_s: NaN: must be a finite number"),
        ("limits", "connections", 0, "limits.connections: 0: must be at least 1"),
        ("limits", "connections", 1.5, "limits.connections: 1.5: must be a whole number"),
        ("limits", "connections", True, "limits.connections: true: must not be true or false"),
        ("limits", "connections", [1], "limits.connections: a list: must be a whole number"),
        ("limits", "resume_entries", 65, "limits.resume_entries: 65: must be at most 64"),
        (
            "limits",
            "takeover_cost_usd",
            "much",
            'limits.takeover_cost_usd: "much": must be a number, best written as a text: "0.15"',
        ),
        ("limits", "frame_bites", 1, "limits.frame_bites: unknown key; did you mean frame_bytes?"),
        (
            "limits",
            "input_chars",
            400_000,
            "limits.input_chars: 400000: must be at most a third of limits.frame_bytes (1048576), "
            "since a character takes up to three bytes",
        ),
        (
            "limits",
            "tail_bytes",
            2**30,
            "limits.tail_bytes: 1073741824: must be at most limits.tails_bytes (67108864)",
        ),
        ("server", "port", 65536, "server.port: 65536: must be at most 65535"),
        ("server", "host", "", 'server.host: "": must have at least 1 characters'),
        ("server", "host", 3, "server.host: 3: must be a text"),
        ("server", "playground", "perhaps", 'server.playground: "perhaps": must be true or false'),
        (
            "server",
            "log_level",
            "loud",
            "server.log_level: \"loud\": must be 'debug', 'info', 'warning' or 'error'",
        ),
        (
            "server",
            "allowed_origins",
            ["app.example.org"],
            'server.allowed_origins.0: "app.example.org": must look like https://app.example.org, '
            "with :port where needed",
        ),
        ("server", "allowed_origins", "https://a.example", "must be a list"),
        ("server", "allowed_hosts", ["*"], 'server.allowed_hosts.0: "*": is allowed only with auth.mode = "jwt"'),
        ("storage", "redis_durability", "no", "storage.redis_durability: \"no\": must be 'always' or 'everysec'"),
        ("storage", "mongo_database", "a.b", 'storage.mongo_database: "a.b": must match ^[A-Za-z0-9_-]{1,63}$'),
        ("storage", "redis_prefix", "a{b}", 'storage.redis_prefix: "a{b}": must match'),
        ("storage", "partitions", 0, "storage.partitions: 0: must be at least 1"),
        ("storage", "partitions", 1025, "storage.partitions: 1025: must be at most 1024"),
        ("storage", "conversation_expiry_days", 0, "storage.conversation_expiry_days: 0: must be at least 1"),
        ("auth", "mode", "open", "auth.mode: \"open\": must be 'dev' or 'jwt'"),
        ("auth", "leeway_s", 301, "auth.leeway_s: 301: must be at most 300"),
    ],
)
def test_a_wrong_value_is_refused_with_key_value_and_expectation(
    section: str, key: str, value: object, line: str
) -> None:
    lines = fault_lines({section: {key: value}})
    assert len(lines) == 1
    assert line in lines[0]


def test_every_limit_refuses_a_negative_number() -> None:
    lines = fault_lines({"limits": dict.fromkeys(Limits.model_fields, -1)})
    assert {line.split(":")[0] for line in lines} == {f"limits.{key}" for key in Limits.model_fields}


def test_all_faults_come_at_once() -> None:
    lines = fault_lines(
        {
            "server": {"port": -1, "host": "0.0.0.0"},
            "limits": {"heartbeat_s": 0, "nonsense_q": 1},
            "deployments": [{"name": "a", "model": "m", "input_usd_per_mtok": "-1"}, {"name": "b"}],
            "routes": [{"name": "r", "deployments": ["c"]}],
            "tenants": {"acme": {"route": "s"}, "not a name": {}},
            "nonsense": 1,
        }
    )
    keys = [line.split(":")[0] for line in lines]
    assert sorted(keys) == [
        "deployments.0.input_usd_per_mtok",
        "deployments.1.model",
        "limits.heartbeat_s",
        "limits.nonsense_q",
        "nonsense",
        "routes.0.deployments",
        "server.port",
        "tenants.acme.route",
        "tenants.not a name",
    ]


def test_a_section_of_the_wrong_kind_is_refused() -> None:
    lines = fault_lines({"server": 3, "routes": {"a": 1}, "tenants": [1]})
    assert lines == [
        "server: 3: must be a table",
        "routes: a table: must be a list",
        "tenants: a list: must be a table of tables",
    ]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org"])
def test_development_authentication_refuses_an_address_that_others_can_reach(host: str) -> None:
    (line,) = fault_lines({"server": {"host": host}})
    assert line.startswith(f'server.host: "{host}": must be a loopback address')


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.0.1", "::1", "localhost", "LOCALHOST"])
def test_development_authentication_accepts_loopback(host: str) -> None:
    assert build_settings({"server": {"host": host}}, {}).server.is_loopback


def test_signed_tokens_may_be_served_on_any_address() -> None:
    tree = {"server": {"host": "0.0.0.0"}, "auth": {"mode": "jwt", "jwt_secret": SECRET}}
    assert not build_settings(tree, {}).server.is_loopback


REDIS, MONGO = "redis://:hunter22@r", "mongodb://u:hunter22@m"


@pytest.mark.parametrize(("given", "absent"), [("redis_url", "mongo_url"), ("mongo_url", "redis_url")])
def test_one_clustered_engine_without_the_other_is_refused(given: str, absent: str) -> None:
    (line,) = fault_lines({"storage": {given: REDIS if given == "redis_url" else MONGO}})
    assert line.startswith(f"storage.{absent}: missing: must be given together with storage.{given}")
    assert "hunter22" not in line


@pytest.mark.parametrize(
    "address",
    [
        "redis://localhost",
        "redis://u:p%40ss@[::1]:6379/3",
        "rediss://r.example.org:6380",
        "redis+sentinel://a:26379,b:26379/main",
        "redis+sentinel://:pw@a:26379/main/2",
        "redis+cluster://a:7000,b:7001",
        "rediss+cluster://u:p@[fd00::1]:7000,b",
        "rediss+sentinel://a/main?ssl_ca_certs=/etc/ssl/ca.pem",
    ],
)
def test_every_form_of_a_redis_address_is_accepted(address: str) -> None:
    storage = build_settings({"storage": {"redis_url": address, "mongo_url": MONGO}}, {}).storage
    assert storage.redis_url is not None
    assert storage.redis_url.get_secret_value() == address


@pytest.mark.parametrize(
    "address",
    [
        "mongodb://localhost",
        "mongodb://u:p%40ss@a:27017,b:27018/db?replicaSet=rs0&authSource=admin",
        "mongodb+srv://u:p@cluster.example.org/?retryWrites=true",
    ],
)
def test_every_form_of_a_mongodb_address_is_accepted(address: str) -> None:
    storage = build_settings({"storage": {"redis_url": REDIS, "mongo_url": address}}, {}).storage
    assert storage.mongo_url is not None
    assert storage.mongo_url.get_secret_value() == address


@pytest.mark.parametrize(
    ("key", "address", "expected"),
    [
        ("redis_url", "hunter22", "must begin with redis://, redis+sentinel://, redis+cluster://, rediss://"),
        ("redis_url", "http://hunter22@r", "must begin with redis://"),
        ("redis_url", "redis://hunter22@", "must look like redis://[user:password@]host[:port][/db]"),
        ("redis_url", "redis://:hunter/22@r", "special characters of a password are written as %XX"),
        ("redis_url", "redis://a:1,b:2?hunter22", "must look like redis://"),
        ("redis_url", "redis://a:1/one?password=hunter22", "must look like redis://"),
        ("redis_url", "redis+sentinel://:hunter22@a:1,b:2", "must look like redis+sentinel://"),
        ("redis_url", "redis+cluster://:hunter22@a/1", "must look like redis+cluster://"),
        ("redis_url", "redis://[hunter22", "must begin with redis://"),
        ("mongo_url", "hunter22", "must begin with mongodb:// or mongodb+srv://"),
        ("mongo_url", "mongodb://u:hunter/22@m", "must look like mongodb://"),
        ("mongo_url", "mongodb+srv://u:hunter22@a,b", "must look like mongodb://"),
    ],
)
def test_a_malformed_address_is_refused_and_not_shown(key: str, address: str, expected: str) -> None:
    (line,) = fault_lines({"storage": {"redis_url": REDIS, "mongo_url": MONGO, key: address}})
    assert line.startswith(f"storage.{key}: (secret): ")
    assert expected in line
    assert "hunter" not in line


def test_durability_over_a_fail_over_is_not_promised() -> None:
    both = {"redis_durability": "always", "mongo_url": MONGO}
    assert build_settings({"storage": {**both, "redis_url": REDIS}}, {}).storage.redis_durability == "always"
    for address in ("redis+cluster://a:1", "redis+sentinel://a:1/main"):
        (line,) = fault_lines({"storage": {**both, "redis_url": address}})
        assert line.startswith('storage.redis_durability: "always": is possible with one server only')


def test_passwords_in_addresses_are_known_as_secrets() -> None:
    addresses = {"redis_url": "redis://:p%40ss-one@r", "mongo_url": "mongodb://u:pass-two@m"}
    settings = build_settings({"storage": addresses}, {})
    assert set(settings.secret_values({})) == {"p%40ss-one", "p@ss-one", "pass-two"}
    assert "pass-two" not in repr(settings)


@pytest.mark.parametrize(
    ("auth", "line"),
    [
        (
            {"mode": "jwt"},
            'auth.mode: "jwt": needs exactly one of jwt_secret, jwt_public_key, jwks_url; none is set',
        ),
        (
            {"mode": "jwt", "jwt_secret": SECRET, "jwks_url": "https://x/y"},
            'auth.mode: "jwt": needs exactly one of jwt_secret, jwt_public_key, jwks_url; '
            "these are set: jwt_secret, jwks_url",
        ),
        ({"jwt_secret": SECRET}, 'auth.mode: "dev": must be "jwt" when jwt_secret is set'),
        ({"issuer": "x"}, 'auth.mode: "dev": must be "jwt" when issuer is set'),
        (
            {"mode": "jwt", "jwt_secret": "short"},
            "auth.jwt_secret: (secret): must have at least 32 bytes for HS256",
        ),
        (
            {"mode": "jwt", "jwt_secret": SECRET, "algorithms": ["HS512"]},
            "auth.jwt_secret: (secret): must have at least 64 bytes for HS512",
        ),
        (
            {"mode": "jwt", "jwt_secret": SECRET, "algorithms": ["HS256", "none"]},
            'auth.algorithms.1: "none": is never accepted: it means unsigned tokens',
        ),
        (
            {"mode": "jwt", "jwt_secret": SECRET, "algorithms": ["RS256"]},
            'auth.algorithms.0: "RS256": must be one of HS256, HS384, HS512 with a shared secret',
        ),
        (
            {"mode": "jwt", "jwks_url": "https://x/y", "algorithms": ["HS256"]},
            'auth.algorithms.0: "HS256": must be one of RS256, RS384, RS512, PS256, PS384, PS512, '
            "ES256, ES384, ES512, EdDSA with a key set",
        ),
        (
            {"mode": "jwt", "jwks_url": "https://x/y", "algorithms": []},
            "auth.algorithms: a list: must have at least 1 entries",
        ),
        (
            {"mode": "jwt", "jwks_url": "file:///keys"},
            'auth.jwks_url: "file:///keys": must be an address that begins with http:// or https://',
        ),
        (
            {"mode": "jwt", "jwt_public_key": "no key"},
            "auth.jwt_public_key: (secret): must be a public key as PEM text: RSA (2048 bits or more), EC or Ed25519",
        ),
    ],
)
def test_authentication_that_contradicts_itself_is_refused(auth: dict[str, Any], line: str) -> None:
    assert fault_lines({"auth": auth}) == [line]


@pytest.mark.parametrize(
    ("key", "fitting"),
    [
        (rsa.generate_private_key(65537, 2048), {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}),
        (ec.generate_private_key(ec.SECP256R1()), {"ES256"}),
        (ec.generate_private_key(ec.SECP384R1()), {"ES384"}),
        (ed25519.Ed25519PrivateKey.generate(), {"EdDSA"}),
    ],
    ids=["rsa", "p256", "p384", "ed25519"],
)
def test_a_public_key_accepts_the_algorithms_of_its_kind(key: Any, fitting: set[str]) -> None:
    auth = {"mode": "jwt", "jwt_public_key": public_pem(key)}
    assert set(accepted_algorithms(build_settings({"auth": auth}, {}).auth)) == fitting
    (line,) = fault_lines({"auth": {**auth, "algorithms": ["HS256"]}})
    assert line.startswith('auth.algorithms.0: "HS256": must be one of')


def test_a_private_key_in_place_of_the_public_one_is_refused_and_not_shown() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    (line,) = fault_lines({"auth": {"mode": "jwt", "jwt_public_key": pem}})
    assert line.startswith("auth.jwt_public_key: (secret): must be a public key")


def test_a_short_rsa_key_is_refused() -> None:
    pem = public_pem(rsa.generate_private_key(65537, 1024))
    (line,) = fault_lines({"auth": {"mode": "jwt", "jwt_public_key": pem}})
    assert "2048 bits or more" in line


def test_secrets_are_shown_neither_in_faults_nor_in_repr() -> None:
    # Right key with a wrong value, misspelled key, key in the place of its variable's name, wrong kind.
    secret = "sk-very-secret-0123456789"
    trees: list[dict[str, Any]] = [
        {"auth": {"mode": "jwt", "jwt_secret": secret}},
        {"auth": {"jwt_secrt": secret}},
        {"auth": {"jwt_secret": [secret]}},
        {"auth": secret},
        {"deployments": secret},
        {"deployments": [secret]},
        {"storage": {"redis_url": secret, "mongo_url": secret}},
        {"deployments": [{"name": "a", "model": "m", "api_key_env": secret}]},
        {"deployments": [{"name": "a", "model": "m", "api_key": secret}]},
        {"deployments": [{"name": "a", "model": "m", "base_url": f"ftp://user:{secret}@x"}]},
    ]
    for tree in trees:
        assert secret not in "\n".join(fault_lines(tree))
    settings = build_settings({"auth": {"mode": "jwt", "jwt_secret": SECRET}}, {})
    assert SECRET not in repr(settings)
    assert SECRET not in str(settings.model_dump())
    assert settings.secret_values({}) == (SECRET,)


def test_long_values_are_cut() -> None:
    (line,) = fault_lines({"server": {"log_level": "x" * 1000}})
    assert len(line) < 200
