"""Which `Host` and `Origin` headers are answered."""

from __future__ import annotations

from typing import Any

import pytest

from turnwire_server.settings import ServerSettings, build_settings

JWT = {"mode": "jwt", "jwt_secret": "a secret of at least thirty-two bytes"}


def server(**keys: Any) -> ServerSettings:
    return build_settings({"server": keys, "auth": JWT}, {}).server


def test_the_own_host_and_port_are_answered_in_every_loopback_form() -> None:
    settings = server()
    for host in ("127.0.0.1:8787", "localhost:8787", "[::1]:8787", "LocalHost:8787"):
        assert settings.allows_host(host)
        assert settings.allows_origin(f"http://{host}")


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "http://localhost:8788",
        "https://localhost:8787",
        "http://localhost:8787.evil.example",
        "http://localhost",
        "null",
        "",
    ],
)
def test_a_page_of_another_origin_is_refused(origin: str) -> None:
    assert not server().allows_origin(origin)


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8787", "localhost", "localhost:80", "", None])
def test_another_host_is_refused(host: str | None) -> None:
    assert not server().allows_host(host)


def test_a_client_that_is_no_browser_needs_no_origin() -> None:
    assert server().allows_origin(None)


def test_a_port_chosen_by_the_system_is_the_one_that_counts() -> None:
    settings = server(port=0)
    assert settings.allows_host("127.0.0.1:4711", 4711)
    assert settings.allows_origin("http://localhost:4711", 4711)
    assert not settings.allows_host("127.0.0.1:0", 4711)


def test_on_port_80_browsers_leave_the_port_out() -> None:
    settings = server(port=80)
    assert settings.allows_host("localhost")
    assert settings.allows_origin("http://localhost")


def test_a_lan_address_is_answered_under_itself_only() -> None:
    assert server(host="10.0.0.5").hosts() == {"10.0.0.5:8787"}
    assert server(host="fd00::5").hosts() == {"[fd00::5]:8787"}


def test_configured_hosts_replace_the_own_and_stand_for_pages_with_and_without_tls() -> None:
    settings = server(host="0.0.0.0", allowed_hosts=["Chat.example.org"])
    assert settings.allows_host("chat.example.org")
    assert not settings.allows_host("localhost:8787")
    assert settings.origins() == {"http://chat.example.org", "https://chat.example.org"}


def test_configured_origins_replace_the_own() -> None:
    settings = server(allowed_origins=["https://App.example.org"])
    assert settings.origins() == {"https://app.example.org"}
    assert settings.allows_origin("https://app.example.org")
    assert not settings.allows_origin("http://localhost:8787")


def test_a_star_allows_all_and_a_star_of_hosts_allows_no_page() -> None:
    assert server(allowed_origins=["*"]).allows_origin("https://anything.example")
    settings = server(allowed_hosts=["*"])
    assert settings.allows_host("anything")
    assert not settings.allows_origin("http://anything")
