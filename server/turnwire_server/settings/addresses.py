"""Addresses of backends. They may hold passwords, so nothing here repeats any part of one.

Only the form is judged: whether somebody answers there is found out at the start, and said without the address.
"""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import SplitResult, unquote, urlsplit

from pydantic import AfterValidator, SecretStr

_HOST = r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)"
_ONE = re.compile(rf"{_HOST}(?::\d{{1,5}})?")
_LISTED = re.compile(rf"{_HOST}(?::\d{{1,5}})?(?:,{_HOST}(?::\d{{1,5}})?)*")
_DATABASE = re.compile(r"(?:/\d*)?")
_SERVICE = re.compile(r"/[^/]+(?:/\d+)?")
_NOTHING = re.compile(r"/?")
# Per scheme without TLS: what the hosts and the path must look like, and the form in words.
_REDIS = {
    "redis": (_ONE, _DATABASE, "[user:password@]host[:port][/db]"),
    "redis+sentinel": (_LISTED, _SERVICE, "[user:password@]host:port,host:port/service[/db]"),
    "redis+cluster": (_LISTED, _NOTHING, "[user:password@]host:port,host:port"),
}
_SCHEMES = {scheme: scheme for scheme in _REDIS} | {scheme.replace("redis", "rediss"): scheme for scheme in _REDIS}
_ANY_REDIS = f"must begin with {', '.join(f'{scheme}://' for scheme in _SCHEMES)}"


def is_one_redis(address: SecretStr) -> bool:
    """Whether the address names one server, neither Sentinels nor a Cluster."""
    return urlsplit(address.get_secret_value()).scheme in ("redis", "rediss")


def passwords_in(address: SecretStr) -> tuple[str, ...]:
    """The password in an address, as it is written there and as it is sent; nothing where there is none."""
    login, at, _ = urlsplit(address.get_secret_value()).netloc.rpartition("@")
    written = login.partition(":")[2]
    return (written, unquote(written)) if at and written else ()


def _redis_address(address: SecretStr) -> SecretStr:
    parts = _split(address)
    if parts is None or parts.scheme not in _SCHEMES:
        raise ValueError(_ANY_REDIS)
    hosts, path, form = _REDIS[_SCHEMES[parts.scheme]]
    is_formed = hosts.fullmatch(_hosts(parts)) and path.fullmatch(parts.path) and not parts.fragment
    if not is_formed or not all(option.startswith("ssl_") for option in parts.query.split("&") if option):
        raise ValueError(f"must look like {parts.scheme}://{form}; special characters of a password are written as %XX")
    return address


def _mongo_address(address: SecretStr) -> SecretStr:
    parts = _split(address)
    if parts is None or parts.scheme not in ("mongodb", "mongodb+srv"):
        raise ValueError("must begin with mongodb:// or mongodb+srv://")
    hosts = _ONE if parts.scheme == "mongodb+srv" else _LISTED
    if not hosts.fullmatch(_hosts(parts)) or parts.fragment:
        raise ValueError(
            "must look like mongodb://[user:password@]host[:port],host[:port]/?replicaSet=name;"
            " special characters of a password are written as %XX"
        )
    return address


def _split(address: SecretStr) -> SplitResult | None:
    try:
        return urlsplit(address.get_secret_value())
    except ValueError:
        return None


def _hosts(parts: SplitResult) -> str:
    return parts.netloc.rpartition("@")[2]


RedisAddress = Annotated[SecretStr, AfterValidator(_redis_address)]
MongoAddress = Annotated[SecretStr, AfterValidator(_mongo_address)]
