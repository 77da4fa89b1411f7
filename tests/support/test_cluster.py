"""The nodes of a test cluster can be had, killed, paused, drained and started again."""

from __future__ import annotations

import pytest
from tests.support.client import connected
from tests.support.cluster import NodeDied, running_cluster, through
from tests.support.provider import running_provider


async def test_a_node_keeps_its_port_and_its_data_over_every_kind_of_end() -> None:
    async with running_provider() as provider, running_cluster(provider.base_url, nodes=1) as cluster:
        (node,) = cluster.nodes
        port = node.port
        async with connected(node.url) as client:
            assert client.welcome["node_id"] == "node-1"
            await client.create("r1", "c1", "hello")
            await client.terminal("r1")
            node.stop()
            assert cluster.up == []
            with pytest.raises(TimeoutError):
                await client.read_frame(0.2)
            cluster.heal()
            assert (await client.status("r1"))["state"] == "completed"
        await node.kill()
        assert node.exit_code == -9
        await node.start()
        assert node.port == port
        async with connected(node.url) as client:
            assert (await client.status("r1"))["state"] == "completed"
        assert await node.terminate() == 0
        assert node.starts == 2


async def test_a_node_that_cannot_start_says_why() -> None:
    with pytest.raises(NodeDied, match="no_such_key"):
        async with running_cluster("http://127.0.0.1:1/v1", nodes=1, server={"no_such_key": 1}):
            pass


def test_an_address_leads_through_the_proxy_and_stays_there() -> None:
    assert through("mongodb://127.0.0.1:5/", 7) == "mongodb://127.0.0.1:7/?directConnection=true"
    assert through("mongodb://u:p@host:5/?a=1", 7) == "mongodb://u:p@127.0.0.1:7/?a=1&directConnection=true"
