"""Providers that fail, at two nodes that are one cluster: what one node learns the other uses within a second."""

from __future__ import annotations

import asyncio
import time

import pytest
from tests.support.client import Client, connected
from tests.support.cluster import Node, running_cluster
from tests.support.mongo import fresh_database
from tests.support.provider import Script, running_provider
from tests.support.redis import running_redis

LIMITS = {"first_token_timeout_s": 1.0, "idle_timeout_s": 1.0, "connect_timeout_s": 1.0, "breaker_open_s": 60}

FAULTS = {
    "errors": Script.http_error(500, "oops"),
    "busy": Script.http_error(429, "slow down", headers={"retry-after": "60"}),
    "refused": Script.http_error(401, "bad key"),
    "silent": Script.never_answers(),
    "cut": Script.cut_after("half "),
}


async def answered_by(client: Client, request: str) -> tuple[list[str], float]:
    """The deployments that were asked, and how long the answer took."""
    began = time.monotonic()
    await client.create(request, f"c-{request}", "hello")
    assert (await client.terminal(request))["type"] == "message.completed"
    usage = await client.event("usage.completed", request)
    asked = [attempt["deployment"] for attempt in usage["attempts"]]
    assert asked == [event["deployment"] for event in client.events("step.started", request)], "each has its row"
    return asked, time.monotonic() - began


@pytest.mark.parametrize("fault", FAULTS)
async def test_what_one_node_learns_the_other_uses_within_a_second(fault: str) -> None:
    async with running_provider(0, FAULTS[fault]) as bad, running_provider() as good, running_redis() as redis:
        sections = {
            "deployments": [
                {"name": "first", "model": "m", "base_url": bad.base_url, **LIMITS},
                {"name": "second", "model": "m", "base_url": good.base_url, **LIMITS},
            ],
            "routes": [{"name": "default", "deployments": ["first", "second"], "max_attempts": 3}],
        }
        async with (
            fresh_database() as (mongo_url, database),
            running_cluster(
                good.base_url, redis_port=redis.port, mongo_url=mongo_url, database=database, nodes=2, **sections
            ) as cluster,
        ):
            a, b = cluster.nodes
            async with connected(a.url) as at_a, connected(b.url) as at_b:
                number = 0
                while True:  # until it is left alone
                    number += 1
                    asked, took = await answered_by(at_a, f"a{number}")
                    if asked == ["second"]:
                        break
                    assert asked == ["first", "second"]
                    assert took < LIMITS["first_token_timeout_s"] + 4
                    assert number < 6
                await asyncio.sleep(1)  # the promise that is tested
                before = len(bad.requests)
                for number in range(5):
                    asked, _ = await answered_by(at_b, f"b{number}")
                    assert asked == ["second"]
                assert len(bad.requests) == before


async def metrics_of(node: Node) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
    writer.write(f"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1:{node.port}\r\nConnection: close\r\n\r\n".encode())
    text = (await reader.read()).decode()
    writer.close()
    return text


async def test_a_provider_that_answers_again_is_used_again_by_both() -> None:
    async with running_provider(0, Script.http_error(503, "down")) as bad, running_provider() as good:
        limits = {**LIMITS, "breaker_open_s": 4}
        sections = {
            "deployments": [
                {"name": "first", "model": "m", "base_url": bad.base_url, **limits},
                {"name": "second", "model": "m", "base_url": good.base_url, **limits},
            ],
            "routes": [{"name": "default", "deployments": ["first", "second"], "max_attempts": 3}],
        }
        async with (
            running_redis() as redis,
            fresh_database() as (mongo_url, database),
            running_cluster(
                good.base_url, redis_port=redis.port, mongo_url=mongo_url, database=database, nodes=2, **sections
            ) as cluster,
        ):
            a, b = cluster.nodes
            async with connected(a.url) as at_a, connected(b.url) as at_b, asyncio.timeout(60):
                number = 0
                while (await answered_by(at_a, f"a{number}"))[0] != ["second"]:
                    number += 1
                assert 'deployment_left_total{deployment="first",reason="provider_error"}' in await metrics_of(a)
                assert 'deployment_skipped_total{deployment="first",reason="open"} 1.0' in await metrics_of(a)
                assert 'deployment_open{deployment="first"} 1.0' in await metrics_of(a)
                await asyncio.sleep(1)
                bad.default = good.default
                number = 0
                while (await answered_by(at_b, f"b{number}"))[0] != ["first"]:
                    number += 1
                await asyncio.sleep(1)
                assert (await answered_by(at_a, "last"))[0] == ["first"]
                assert 'deployment_open{deployment="first"} 0.0' in await metrics_of(b)
