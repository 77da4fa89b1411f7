"""Faults that no key has alone: names that lead nowhere, keys that contradict each other.

Functions over tables that are valid by themselves, pure but for a look whether files are there. They yield faults
rather than raise, so that one start shows all of them.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Set
from typing import Any

import jwt
from cryptography.exceptions import UnsupportedAlgorithm

from turnwire_server.settings.addresses import is_one_redis
from turnwire_server.settings.context import ContextSettings
from turnwire_server.settings.faults import ABSENT, Fault
from turnwire_server.settings.limits import Limits
from turnwire_server.settings.models import Deployment, Route, Tenant
from turnwire_server.settings.retrieval import RetrievalSettings
from turnwire_server.settings.tables import (
    AlertSettings,
    AuthSettings,
    JobSettings,
    ServerSettings,
    StorageSettings,
    TelemetrySettings,
)
from turnwire_server.settings.tools import McpServerSettings

KEY_SOURCES = ("jwt_secret", "jwt_public_key", "jwks_url")
SECRET_ALGORITHMS = {"HS256": 32, "HS384": 48, "HS512": 64}
"""Algorithms with a shared secret and the bytes it must have (RFC 7518, section 3.2)."""
KEY_ALGORITHMS = (
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
)  # fmt: skip
JWKS_DEFAULT_ALGORITHMS = ("RS256", "ES256", "EdDSA")

_ORIGIN = re.compile(r"https?://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:\d{1,5})?")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:\d{1,5})?")


def check_server(server: ServerSettings, auth: AuthSettings | None) -> Iterator[Fault]:
    is_dev = auth is not None and auth.mode == "dev"
    if is_dev and not server.is_loopback:
        yield Fault(
            "server.host",
            server.host,
            'must be a loopback address (127.0.0.1, ::1, localhost) while auth.mode is "dev", which lets everyone in',
        )
    for key, entries, pattern, example in (
        ("server.allowed_origins", server.allowed_origins, _ORIGIN, "https://app.example.org"),
        ("server.allowed_hosts", server.allowed_hosts, _HOST, "chat.example.org"),
    ):
        for index, entry in enumerate(entries or ()):
            if entry == "*" and is_dev:
                yield Fault(f"{key}.{index}", entry, 'is allowed only with auth.mode = "jwt"')
            elif entry != "*" and not pattern.fullmatch(entry):
                yield Fault(f"{key}.{index}", entry, f"must look like {example}, with :port where needed")


def check_webhook(section: str, settings: AlertSettings | JobSettings, environ: Mapping[str, str]) -> Iterator[Fault]:
    variable = settings.webhook_secret_env
    if variable is not None and not environ.get(variable, "").strip():
        yield Fault(f"{section}.webhook_secret_env", variable, "names an environment variable that is not set")


def check_telemetry(telemetry: TelemetrySettings, environ: Mapping[str, str]) -> Iterator[Fault]:
    variable = telemetry.otlp_headers_env
    if variable is not None and not environ.get(variable, "").strip():
        yield Fault("telemetry.otlp_headers_env", variable, "names an environment variable that is not set")


def check_storage(storage: StorageSettings) -> Iterator[Fault]:
    redis, mongo = storage.redis_url, storage.mongo_url
    if (redis is None) != (mongo is None):
        absent, given = ("redis_url", "mongo_url") if redis is None else ("mongo_url", "redis_url")
        yield Fault(
            f"storage.{absent}",
            ABSENT,
            f"missing: must be given together with storage.{given}; the clustered log (Redis) and the clustered "
            "archive (MongoDB) work only with each other",
        )
    if storage.redis_durability == "always" and redis is not None and not is_one_redis(redis):
        yield Fault(
            "storage.redis_durability",
            storage.redis_durability,
            "is possible with one server only (redis:// or rediss://): a fail-over may lose what was written last",
        )


def check_limits(limits: Limits) -> Iterator[Fault]:
    if limits.input_chars * 3 > limits.frame_bytes:
        yield Fault(
            "limits.input_chars",
            limits.input_chars,
            f"must be at most a third of limits.frame_bytes ({limits.frame_bytes}), "
            "since a character takes up to three bytes",
        )
    if limits.tail_bytes > limits.tails_bytes:
        yield Fault(
            "limits.tail_bytes",
            limits.tail_bytes,
            f"must be at most limits.tails_bytes ({limits.tails_bytes})",
        )


def check_auth(auth: AuthSettings) -> Iterator[Fault]:
    sources = [key for key in KEY_SOURCES if getattr(auth, key) is not None]
    if auth.mode == "dev":
        # Somebody who names a key wants tokens checked; starting open would be the worst reading of it.
        keys = [key for key in (*KEY_SOURCES, "algorithms", "issuer", "audience") if getattr(auth, key) is not None]
        if keys:
            yield Fault("auth.mode", "dev", f'must be "jwt" when {", ".join(keys)} is set')
        return
    if len(sources) != 1:
        found = f"these are set: {', '.join(sources)}" if sources else "none is set"
        yield Fault("auth.mode", "jwt", f"needs exactly one of {', '.join(KEY_SOURCES)}; {found}")
        return
    match sources[0]:
        case "jwt_secret":
            yield from _check_secret(auth)
        case "jwt_public_key":
            yield from _check_public_key(auth)
        case _:
            yield from _check_algorithms(auth, KEY_ALGORITHMS, "a key set")


def accepted_algorithms(auth: AuthSettings) -> tuple[str, ...]:
    """The configured algorithms, or those that go with the key source."""
    if auth.algorithms is not None:
        return auth.algorithms
    if auth.jwt_secret is not None:
        return ("HS256",)
    if auth.jwt_public_key is not None:
        return tuple(name for name in KEY_ALGORITHMS if _fits(name, auth.jwt_public_key))
    return JWKS_DEFAULT_ALGORITHMS


def _check_secret(auth: AuthSettings) -> Iterator[Fault]:
    assert auth.jwt_secret is not None  # it is the one key source, see check_auth
    yield from _check_algorithms(auth, tuple(SECRET_ALGORITHMS), "a shared secret")
    length = len(auth.jwt_secret.get_secret_value().encode())
    for name in accepted_algorithms(auth):
        needed = SECRET_ALGORITHMS.get(name, 0)
        if length < needed:
            yield Fault("auth.jwt_secret", auth.jwt_secret, f"must have at least {needed} bytes for {name}")


def _check_public_key(auth: AuthSettings) -> Iterator[Fault]:
    pem = auth.jwt_public_key
    assert pem is not None  # it is the one key source, see check_auth
    fitting = [] if "PRIVATE KEY" in pem else [name for name in KEY_ALGORITHMS if _fits(name, pem)]
    if not fitting:
        yield Fault(
            "auth.jwt_public_key", pem, "must be a public key as PEM text: RSA (2048 bits or more), EC or Ed25519"
        )
        return
    yield from _check_algorithms(auth, fitting, "this public key")


def _check_algorithms(auth: AuthSettings, fitting: Iterable[str], source: str) -> Iterator[Fault]:
    fitting = tuple(fitting)
    for index, name in enumerate(auth.algorithms or ()):
        if name.lower() == "none":
            yield Fault(f"auth.algorithms.{index}", name, "is never accepted: it means unsigned tokens")
        elif name not in fitting:
            expected = f"must be one of {', '.join(fitting)} with {source}"
            yield Fault(f"auth.algorithms.{index}", name, expected)


def _fits(algorithm: str, pem: str) -> bool:
    try:
        implementation: Any = jwt.get_algorithm_by_name(algorithm)
        # Too short an RSA key is answered with a text; such a key would check nothing.
        return implementation.check_key_length(implementation.prepare_key(pem)) is None
    except (jwt.PyJWTError, UnsupportedAlgorithm, ValueError, TypeError):
        return False


def check_deployments(deployments: Mapping[int, Deployment], environ: Mapping[str, str]) -> Iterator[Fault]:
    for index, deployment in deployments.items():
        key = f"deployments.{index}"
        if deployment.api_key_env is not None and deployment.api_key(environ) is None:
            yield Fault(f"{key}.api_key_env", deployment.api_key_env, "this environment variable is not set")
        if (path := deployment.api_key_file) is not None and not (path.is_file() and os.access(path, os.R_OK)):
            yield Fault(f"{key}.api_key_file", str(path), "there is no file here that can be read")


def check_retrieval(
    retrieval: RetrievalSettings, deployments: Mapping[int, Deployment], known: Set[str], routes: Mapping[int, Route]
) -> Iterator[Fault]:
    """`known` are the names of all deployments, also of those with a fault of their own."""
    if retrieval.overlap_tokens * 2 > retrieval.chunk_tokens:
        most = f"must be at most half of retrieval.chunk_tokens ({retrieval.chunk_tokens})"
        yield Fault("retrieval.overlap_tokens", retrieval.overlap_tokens, most)
    name = retrieval.embeddings
    if name is None:
        return
    if name not in known:
        yield Fault("retrieval.embeddings", name, f"no such deployment; there are: {_listed(known)}")
    if any(each.name == name and each.kind != "openai" for each in deployments.values()):
        yield Fault("retrieval.embeddings", name, 'must be a deployment of kind "openai"')
    for index, route in routes.items():
        if name in route.deployments:
            yield Fault(f"routes.{index}.deployments", name, "makes vectors (retrieval.embeddings) and cannot answer")


def check_routes(routes: Mapping[int, Route], deployments: Set[str], guards: Set[str]) -> Iterator[Fault]:
    for index, route in routes.items():
        key = f"routes.{index}"
        for name in route.deployments:
            if name not in deployments:
                expected = f"no such deployment; there are: {_listed(deployments)}"
                yield Fault(f"{key}.deployments", name, expected)
        yield from _check_unique(f"{key}.deployments", route.deployments)
        for name in route.guards:
            if name not in guards:
                yield Fault(f"{key}.guards", name, f"no such guard; there are: {_listed(guards)}")
        yield from _check_unique(f"{key}.guards", route.guards)
        for name in route.weights:
            if name not in route.deployments:
                expected = f"is not one of the route's deployments: {_listed(set(route.deployments))}"
                yield Fault(f"{key}.weights.{name}", route.weights[name], expected)


def check_context(context: ContextSettings, routes: Set[str]) -> Iterator[Fault]:
    if context.summary_route is not None and context.summary_route not in routes:
        yield Fault("context.summary_route", context.summary_route, f"no such route; there are: {_listed(routes)}")


def check_tenants(
    tenants: Mapping[str, Tenant], known_routes: Set[str], routes: Iterable[Route], deployments: Iterable[Deployment]
) -> Iterator[Fault]:
    """`known_routes` are the names of all routes, also of those with a fault of their own."""
    routes_by_name = {route.name: route for route in routes}
    by_name = {deployment.name: deployment for deployment in deployments}
    regions = {deployment.region for deployment in by_name.values()}
    for tenant_id, tenant in tenants.items():
        key = f"tenants.{tenant_id}"
        named = [("route", tenant.route), ("classifier", tenant.classifier)]
        named += [("routes", name) for name in tenant.routes or ()]
        named += [("classify", name) for name in tenant.classify]
        for field, name in named:
            if name is not None and name not in known_routes:
                yield Fault(f"{key}.{field}", name, f"no such route; there are: {_listed(known_routes)}")
        if tenant.classifier is not None:
            yield from _check_classifier(f"{key}.classifier", tenant, routes_by_name)
        for region in tenant.regions:
            if region not in regions:
                known = _listed({region for region in regions if region is not None})
                yield Fault(f"{key}.regions", region, f"no deployment is there; there are: {known}")
        route = next(iter(routes_by_name.values()), None) if tenant.route is None else routes_by_name.get(tenant.route)
        if route is not None and not _serves(route, tenant, by_name):
            yield Fault(
                f"{key}.route",
                tenant.route or ABSENT,
                f"nobody on route '{route.name}' may answer this tenant: see its features and regions, and those of "
                "the route and its deployments",
            )


def _check_classifier(key: str, tenant: Tenant, routes: Mapping[str, Route]) -> Iterator[Fault]:
    without = {name for name in tenant.classify if (route := routes.get(name)) is not None and not route.purpose}
    if len(tenant.classify) < 2:
        yield Fault(key, tenant.classifier, "needs two routes or more in classify to choose from")
    elif without:
        yield Fault(key, tenant.classifier, f"needs a purpose for every route in classify; without: {_listed(without)}")


def _serves(route: Route, tenant: Tenant, deployments: Mapping[str, Deployment]) -> bool:
    """Whether anybody on the route may answer the tenant. Names that lead nowhere are told elsewhere."""
    features = set(tenant.features)
    if not features.issuperset(route.features):
        return False
    found = [deployments.get(name) for name in route.deployments]
    return any(
        each is None or (features.issuperset(each.features) and (not tenant.regions or each.region in tenant.regions))
        for each in found
    )


def check_mcp_servers(servers: Mapping[int, McpServerSettings], environ: Mapping[str, str]) -> Iterator[Fault]:
    names = {server.name for server in servers.values()}
    for index, server in servers.items():
        key = f"mcp_servers.{index}"
        for within, variable in server.variables():
            if not environ.get(variable):
                yield Fault(f"{key}.{within}", ABSENT, f"the environment variable {variable} is not set")
        # Tools are called <server>_<tool>: "git" with a tool "hub_search" and "git_hub" with "search" would be one.
        for other in sorted(names):
            if server.name.startswith(f"{other}_"):
                yield Fault(
                    f"{key}.name", server.name, f'must not begin with the name of another server, "{other}", and _'
                )


def check_names(section: str, names: Iterable[str]) -> Iterator[Fault]:
    """Names of `[[deployments]]`, `[[routes]]` and `[[mcp_servers]]` are keys: each may appear once."""
    names = list(names)
    for name, count in Counter(names).items():
        if count > 1:
            index = len(names) - 1 - names[::-1].index(name)
            yield Fault(f"{section}.{index}.name", name, "must be given only once")


def _check_unique(key: str, names: Iterable[str]) -> Iterator[Fault]:
    for name, count in Counter(names).items():
        if count > 1:
            yield Fault(key, name, "must be given only once")


def _listed(names: Set[str]) -> str:
    return ", ".join(sorted(names)) or "none"
