"""`[server]`, `[storage]`, `[auth]`, `[alerts]` and `[telemetry]`: where the server listens, where it keeps things,
whom it believes, whom it tells.

The tables only hold values and answer questions about themselves. Whether keys fit together (a public
address with development authentication, say) is judged in `checks`, which sees the whole tree.
"""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator

from turnwire_server.settings.addresses import MongoAddress, RedisAddress
from turnwire_server.settings.section import (
    Bytes,
    HttpAddress,
    Name,
    Seconds,
    SecondsOrNone,
    Section,
)

LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "[::1]")
DATABASE_PATTERN = r"^[A-Za-z0-9_-]{1,63}$"
ANY_ADDRESS = frozenset({"0.0.0.0", "::"})  # noqa: S104 - compared with, not bound


class ServerSettings(Section):
    """The listener and the process."""

    host: Annotated[str, Field(min_length=1, max_length=255)] = "127.0.0.1"
    """Address to listen on. Development authentication allows loopback addresses only."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8787
    """Port to listen on; 0 takes any free one."""
    data_dir: Path = Path("data")
    """Directory of the embedded database and of the development secret; made when absent. Only one process
    can use it."""
    node_id: Name = Field(default_factory=lambda: f"node-{secrets.token_hex(4)}")
    """Name of this process in `welcome` and in logs. Random by default: nothing stored depends on it."""
    playground: bool = True
    """Whether `GET /` serves the playground."""
    allowed_origins: tuple[str, ...] | None = None
    """Web origins whose pages may connect, as `https://app.example.org`. Absent: the server's own host and
    port. A client without `Origin` is no browser and always allowed. `"*"` allows every page (`jwt` only)."""
    allowed_hosts: tuple[str, ...] | None = None
    """`Host` headers that are answered, with the port unless it is the scheme's own. Absent: the server's own
    host and port; needed behind a proxy or with host `0.0.0.0`, which is no name. Without this check a page
    could reach a developer's server under a name of its own. `"*"` allows every name (`jwt` only)."""
    drain_s: SecondsOrNone = 30
    """Seconds that running turns have to finish after SIGTERM. Most platforms kill after 30 s by themselves:
    set their time a little higher than this."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """How much is logged."""

    @field_validator("data_dir")
    @classmethod
    def _expand_home(cls, value: Path) -> Path:
        return value.expanduser()

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect. Names other than `localhost` are not looked up."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host.lower() == "localhost"

    def hosts(self, port: int | None = None) -> frozenset[str]:
        """`Host` headers to answer. `port` is the port really bound, needed when the configured one is 0."""
        if self.allowed_hosts is not None:
            return frozenset(host.lower() for host in self.allowed_hosts)
        bound = self.port if port is None else port
        names = {f"[{self.host}]" if ":" in self.host else self.host.lower()}
        if self.is_loopback or self.host in ANY_ADDRESS:
            names |= {*LOOPBACK_HOSTS}
        with_port = {f"{name}:{bound}" for name in names}
        return frozenset(with_port | names if bound == 80 else with_port)

    def origins(self, port: int | None = None) -> frozenset[str]:
        """Origins whose pages may connect; by default those of `hosts`, with `https` only where the hosts
        were configured (then a proxy may stand in front)."""
        if self.allowed_origins is not None:
            return frozenset(origin.lower() for origin in self.allowed_origins)
        hosts = self.hosts(port) - {"*"}
        schemes = ("http",) if self.allowed_hosts is None else ("http", "https")
        return frozenset(f"{scheme}://{host}" for scheme in schemes for host in hosts)

    def allows_host(self, host: str | None, port: int | None = None) -> bool:
        """Whether a request with this `Host` header is answered. HTTP/1.1 always has one."""
        allowed = self.hosts(port)
        return "*" in allowed or (host is not None and host.lower() in allowed)

    def allows_origin(self, origin: str | None, port: int | None = None) -> bool:
        """Whether a request with this `Origin` header may connect; None (not a browser) always may."""
        if origin is None:
            return True
        allowed = self.origins(port)
        return "*" in allowed or origin.lower() in allowed


class StorageSettings(Section):
    """The log and the archive: embedded, or clustered when both addresses are set."""

    redis_url: RedisAddress | None = None
    """Address of the clustered log: `redis://[user:password@]host[:port][/db]` for one server,
    `redis+sentinel://[user:password@]host:port,host:port/service[/db]` for a set watched by Sentinels,
    `redis+cluster://[user:password@]host:port,host:port` for a Redis Cluster; with TLS `rediss` in place of
    `redis`. Redis 7 or later. Absent: the log is embedded in `data_dir`."""
    redis_prefix: Name = "tw"
    """Text that the names of all keys begin with, so that several installations can share a server."""
    redis_durability: Literal["always", "everysec"] = "everysec"
    """`everysec`: a restart or fail-over of Redis may lose what was written last, and every conversation begins
    a new epoch after it. `always`: one server with `appendfsync always`, checked at the start, which keeps all
    over a restart."""
    redis_timeout_s: Seconds = 5
    """Seconds one command to Redis may take."""
    partitions: Annotated[int, Field(ge=1, le=1024)] = 64
    """Parts that conversations are spread over in Redis; on a Cluster a part lies on one node. Fixed at first use:
    with another number nothing that is stored would be found."""
    mongo_url: MongoAddress | None = None
    """Address of the clustered archive, as `mongodb://…` or `mongodb+srv://…`: a replica set or a sharded
    cluster. Absent: the archive is embedded in `data_dir`."""
    mongo_database: Annotated[str, Field(pattern=DATABASE_PATTERN)] = "turnwire"
    """Database of the clustered archive; made when absent, with its collections and indexes."""
    mongo_timeout_s: Seconds = 5
    """Seconds one call to the archive may take."""
    conversation_expiry_days: Annotated[int, Field(ge=1, le=36_500)] | None = None
    """Days after its last change that a conversation is deleted with all its messages; the usage ledger stays.
    Conversations with a request that has not ended are spared. Absent: kept for good."""
    retention_s: Seconds = 600
    """Seconds the events of a finished request stay replayable; later a client gets a snapshot. Short,
    because a hundred busy streams write gigabytes an hour; the messages themselves are kept for good."""
    lease_s: Seconds = 5
    """Seconds after which the work of a dead process is taken over."""
    archive_wait_s: Seconds = 5
    """Seconds an ending waits for the archive before it is shown as not yet archived."""
    outage_hold_s: Seconds = 20
    """Seconds a turn reads on from its provider while the log does not answer."""
    outage_buffer_bytes: Bytes = 1_048_576
    """Bytes a turn keeps at most while the log does not answer."""


class AuthSettings(Section):
    """Whose tokens are believed."""

    mode: Literal["dev", "jwt"] = "dev"
    """`dev`: everyone on this machine is user `dev` of tenant `default`, loopback only. `jwt`: signed
    tokens."""
    jwt_secret: SecretStr | None = None
    """Secret shared with whoever signs (HS256, HS384, HS512); at least as many bytes as the digest has: 32,
    48 or 64, because a shorter one can be guessed from a single token."""
    jwt_public_key: str | None = None
    """Public key of whoever signs, as PEM text."""
    jwks_url: HttpAddress | None = None
    """Address of the signer's key set (JWKS), from which keys are fetched as they change."""
    algorithms: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Signature algorithms that are accepted. Absent: `HS256` with a secret, those that fit with a public
    key, `RS256`, `ES256` and `EdDSA` with a key set."""
    issuer: Annotated[str, Field(min_length=1)] | None = None
    """What a token's `iss` must be; absent: not looked at."""
    audience: Annotated[str, Field(min_length=1)] | None = None
    """What a token's `aud` must be or contain; absent: not looked at."""
    leeway_s: Annotated[float, Field(ge=0, le=300)] = 10
    """Seconds by which the clocks of the signer and this machine may differ."""
    jwks_timeout_s: Seconds = 5
    """Seconds one fetch of the key set may take."""
    jwks_refresh_s: Seconds = 300
    """Seconds after which the key set is fetched anew, so that a withdrawn key stops working."""
    jwks_min_interval_s: Seconds = 10
    """Seconds between two fetches at least, however many tokens with unknown keys come."""


class TelemetrySettings(Section):
    """Traces of requests: what is kept of them and where they go."""

    trace_record: bool = True
    """Whether a compact trace of each request is kept in the archive, for `turnwire trace`."""
    capture_content: bool = False
    """Whether spans hold what was said: prompts, answers, arguments and results of tools, messages of errors. It goes
    through the redaction first, which finds what it knows and not what it does not."""
    otlp_endpoint: HttpAddress | None = None
    """Address of an OpenTelemetry collector (OTLP over HTTP), without `/v1/traces`; absent: nothing is exported."""
    otlp_headers_env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = None
    """Name of the environment variable with the headers of each export, as `name=value,name=value`."""
    sample: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Share of traces that are exported, the same ones on all nodes; records are kept of all."""

    def otlp_headers(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Their values are secrets."""
        said = environ.get(self.otlp_headers_env, "") if self.otlp_headers_env is not None else ""
        pairs = (entry.partition("=") for entry in said.split(",") if "=" in entry)
        return {name.strip(): value.strip() for name, _, value in pairs}


class JobSettings(Section):
    """Who is told when a request in the background has ended."""

    webhook_url: HttpAddress | None = None
    """Address that gets the end of each as a `POST` of JSON; absent: nobody is told."""
    webhook_secret_env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = None
    """Name of the environment variable with the secret that signs it: `Turnwire-Signature: sha256=…` is the HMAC of the
    body."""
    webhook_timeout_s: Seconds = 10
    """Seconds one delivery may take."""
    webhook_pause_s: Seconds = 10
    """Seconds after which a delivery that was not taken is tried again, doubled each time, an hour at most."""
    webhook_tries: Annotated[int, Field(ge=1, le=100)] = 20
    """Deliveries of one end at most; 20 are some twelve hours."""


class AlertSettings(Section):
    """Who is told when a tenant's budget comes to its end."""

    webhook_url: HttpAddress | None = None
    """Address that gets each alert as a `POST` of JSON; absent: alerts are logged and shown to the tenant's operators
    only."""
    webhook_secret_env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = None
    """Name of the environment variable with the secret that signs alerts: `Turnwire-Signature: sha256=…` is the
    HMAC of the body."""
    webhook_timeout_s: Seconds = 10
    """Seconds one delivery may take. It is tried five times, with pauses that double."""
