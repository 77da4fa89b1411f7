"""Where a token is found in a request, and which of two counts."""

from __future__ import annotations

import pytest

from turnwire_server.auth import InvalidToken, Principal, bearer_token, choose_token


@pytest.mark.parametrize(
    ("header", "token"),
    [
        (None, None),
        ("", None),
        ("Basic dXNlcjpwYXNz", None),
        ("Bearer abc.def-g_h~+/==", "abc.def-g_h~+/=="),
        ("bearer   abc ", "abc"),
        ("BEARER abc", "abc"),
    ],
)
def test_the_bearer_token_is_taken_from_the_header(header: str | None, token: str | None) -> None:
    assert bearer_token(header) == token


@pytest.mark.parametrize("header", ["Bearer", "Bearer ", "Bearer a b", "Bearer a,b", "Bearer ü", "Bearer \x00"])
def test_a_bearer_header_without_one_token_is_refused(header: str) -> None:
    with pytest.raises(InvalidToken):
        bearer_token(header)


@pytest.mark.parametrize(
    ("header", "hello", "chosen"),
    [(None, None, None), ("a", None, "a"), (None, "a", "a"), ("a", "a", "a"), (None, "", "")],
)
def test_the_one_token_there_is_counts(header: str | None, hello: str | None, chosen: str | None) -> None:
    assert choose_token(header, hello) == chosen


@pytest.mark.parametrize("hello", ["b", "", "aa", "\ud800"])
def test_two_tokens_that_differ_are_refused(hello: str) -> None:
    with pytest.raises(InvalidToken, match="differ"):
        choose_token("a", hello)


def test_a_refreshed_principal_is_the_same_user_only_in_the_same_tenant() -> None:
    principal = Principal("acme", "ann", frozenset({"a"}), 1.0)
    assert principal.is_same_user(Principal("acme", "ann", expires_at=2.0))
    assert not principal.is_same_user(Principal("acme", "bob"))
    assert not principal.is_same_user(Principal("other", "ann"))
