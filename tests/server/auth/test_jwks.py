"""Keys fetched from a real HTTP endpoint: kept, renewed, rotated, and missed when it is away."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import jwt
import pytest
from tests.server.auth.key_server import KeyServer, running_key_server

from turnwire_server.auth import AuthUnavailable, ExpiredToken, InvalidToken, JwtAuthenticator
from turnwire_server.auth.jwks import JwksKeys

ALGORITHMS = ("RS256", "ES256", "EdDSA")
CLAIMS: dict[str, Any] = {"sub": "ann", "tenant": "acme", "exp": int(time.time()) + 86_400}  # for a whole run


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def authenticator(server: KeyServer, clock: Clock, *, timeout_s: float = 5) -> JwtAuthenticator:
    keys = JwksKeys(server.url, ALGORITHMS, timeout_s=timeout_s, clock=clock)
    return JwtAuthenticator(keys, ALGORITHMS)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_a_token_signed_with_a_published_key_is_accepted(algorithm: str) -> None:
    async with asyncio.timeout(60), running_key_server() as server:
        server.add("k1", algorithm)
        checked = authenticator(server, Clock())
        for _ in range(3):
            assert (await checked.authenticate(server.sign("k1", CLAIMS))).user_id == "ann"
        assert server.requests == 1


async def test_an_old_token_is_expired_and_a_forged_one_invalid() -> None:
    async with asyncio.timeout(60), running_key_server() as server:
        server.add("k1")
        server.add("k2")
        checked = authenticator(server, Clock())
        with pytest.raises(ExpiredToken):
            await checked.authenticate(server.sign("k1", {**CLAIMS, "exp": 1}))
        with pytest.raises(InvalidToken):
            await checked.authenticate(server.sign("k1", CLAIMS, header={"kid": "k2"}))


async def test_an_algorithm_that_is_not_accepted_causes_no_fetch() -> None:
    async with asyncio.timeout(60), running_key_server() as server:
        server.add("k1")
        checked = authenticator(server, Clock())
        with pytest.raises(InvalidToken):
            await checked.authenticate(jwt.encode(CLAIMS, "x" * 32, algorithm="HS256", headers={"kid": "k1"}))
        assert server.requests == 0


async def test_a_shared_secret_in_a_key_set_is_never_used() -> None:
    async with asyncio.timeout(60), running_key_server() as server:
        server.add("k1")
        server.entries.append({"kty": "oct", "kid": "s", "k": "eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHg"})
        checked = JwtAuthenticator(JwksKeys(server.url, ALGORITHMS), ALGORITHMS)
        with pytest.raises(InvalidToken):
            await checked.authenticate(jwt.encode(CLAIMS, "x" * 32, algorithm="HS256", headers={"kid": "s"}))


async def test_a_rotated_key_is_fetched_when_a_token_names_it() -> None:
    async with asyncio.timeout(60), running_key_server() as server:
        clock = Clock()
        server.add("old")
        checked = authenticator(server, clock)
        await checked.authenticate(server.sign("old", CLAIMS))
        server.entries.clear()
        server.add("new")
        clock.now += 10
        assert (await checked.authenticate(server.sign("new", CLAIMS))).user_id == "ann"
        with pytest.raises(InvalidToken):
            await checked.authenticate(server.sign("old", CLAIMS))
        assert server.requests == 2


async def test_unknown_keys_are_asked_for_at_most_every_interval() -> None:
    async with asyncio.timeout(60), running_key_server() as server:
        clock = Clock()
        server.add("k1")
        checked = authenticator(server, clock)
        await checked.authenticate(server.sign("k1", CLAIMS))
        for step in range(40):
            clock.now += 1
            with pytest.raises(InvalidToken):
                await checked.authenticate(server.sign("k1", CLAIMS, header={"kid": f"made-up-{step}"}))
        assert server.requests == 1 + 4


async def test_many_who_need_the_keys_cause_one_fetch() -> None:
    async with asyncio.timeout(60), running_key_server() as server:
        server.add("k1")
        server.may_answer.clear()
        clock = Clock()
        checked = authenticator(server, clock)
        token = server.sign("k1", CLAIMS)
        async with asyncio.TaskGroup() as group:
            waiting = [group.create_task(checked.authenticate(token)) for _ in range(20)]
            await server.asked.wait()
            clock.now += 20  # slower than the interval between two fetches
            server.may_answer.set()
        assert {task.result().user_id for task in waiting} == {"ann"}
        assert server.requests == 1


async def test_a_withdrawn_key_stops_working_once_the_keys_are_old() -> None:
    async with asyncio.timeout(60), running_key_server() as server:
        clock = Clock()
        server.add("stolen")
        server.add("good")
        checked = authenticator(server, clock)
        await checked.authenticate(server.sign("stolen", CLAIMS))
        del server.entries[0]
        clock.now += 300
        with pytest.raises(InvalidToken):
            await checked.authenticate(server.sign("stolen", CLAIMS))
        assert (await checked.authenticate(server.sign("good", CLAIMS))).user_id == "ann"


@pytest.mark.parametrize("fault", ["status", "no json", "no keys", "no usable key", "too large", "gone"])
async def test_known_keys_go_on_counting_while_the_endpoint_fails(fault: str, caplog: pytest.LogCaptureFixture) -> None:
    async with asyncio.timeout(60):
        clock = Clock()
        async with running_key_server() as server:
            server.add("k1")
            checked = authenticator(server, clock)
            await checked.authenticate(server.sign("k1", CLAIMS))
            server.status = 503 if fault == "status" else 200
            bodies = {
                "no json": b"<html>",
                "no keys": b"[]",
                "no usable key": b'{"keys": [{"kty": "oct", "k": "eHg"}, 3, {"kty": "EC"}]}',
                "too large": b" " * 1_100_000,
            }
            server.body = bodies.get(fault)
            clock.now += 1000
            if fault != "gone":
                assert (await checked.authenticate(server.sign("k1", CLAIMS))).user_id == "ann"
                assert server.requests == 2
        if fault == "gone":
            assert (await checked.authenticate(server.sign("k1", CLAIMS))).user_id == "ann"
        assert "cannot be fetched" in caplog.text
        # An unknown key cannot be judged now: its bearer must not be sent away for good.
        with pytest.raises(AuthUnavailable):
            await checked.authenticate(server.sign("k1", CLAIMS, header={"kid": "new"}))


async def test_without_any_keys_a_token_cannot_be_judged() -> None:
    async with asyncio.timeout(60):
        async with running_key_server() as server:
            server.add("k1")
        clock = Clock()
        checked = authenticator(server, clock)
        for _ in range(2):
            with pytest.raises(AuthUnavailable):
                await checked.authenticate(server.sign("k1", CLAIMS))


async def test_an_endpoint_that_comes_back_is_used_again() -> None:
    async with asyncio.timeout(60), running_key_server() as server:
        clock = Clock()
        server.add("k1")
        server.status = 500
        checked = authenticator(server, clock)
        with pytest.raises(AuthUnavailable):
            await checked.authenticate(server.sign("k1", CLAIMS))
        server.status = 200
        clock.now += 10
        assert (await checked.authenticate(server.sign("k1", CLAIMS))).user_id == "ann"


async def test_a_silent_endpoint_is_given_up_after_the_timeout() -> None:
    async with asyncio.timeout(60), running_key_server() as server:
        server.add("k1")
        server.may_answer.clear()
        checked = authenticator(server, Clock(), timeout_s=0.05)
        with pytest.raises(AuthUnavailable):
            await checked.authenticate(server.sign("k1", CLAIMS))
        server.may_answer.set()


async def test_with_a_usable_key_nobody_waits_for_another_s_fetch() -> None:
    async with asyncio.timeout(60), running_key_server() as server:
        clock = Clock()
        server.add("k1")
        checked = authenticator(server, clock)
        token = server.sign("k1", CLAIMS)
        await checked.authenticate(token)
        server.asked.clear()
        server.may_answer.clear()
        clock.now += 1000
        async with asyncio.TaskGroup() as group:
            renewing = group.create_task(checked.authenticate(token))
            await server.asked.wait()
            assert (await checked.authenticate(token)).user_id == "ann"
            assert not renewing.done()
            server.may_answer.set()


async def test_a_token_that_names_no_key_is_tried_with_all_that_fit() -> None:
    async with asyncio.timeout(60), running_key_server() as server:
        for kid in ("a", "b", "c"):
            server.add(kid)
        server.add("rsa", "RS256")
        checked = authenticator(server, Clock())
        _, key = server.keys["c"]
        token = jwt.encode(CLAIMS, key, algorithm="ES256")
        assert (await checked.authenticate(token)).user_id == "ann"


async def test_keys_for_encryption_or_for_another_algorithm_are_not_used() -> None:
    async with asyncio.timeout(60), running_key_server() as server:
        server.add("enc", use="enc")
        server.add("other", "RS256", alg="RS512")
        server.add("good", "RS256", alg="RS256")
        checked = authenticator(server, Clock())
        assert (await checked.authenticate(server.sign("good", CLAIMS))).user_id == "ann"
        for kid in ("enc", "other"):
            with pytest.raises(InvalidToken):
                await checked.authenticate(server.sign(kid, CLAIMS))
