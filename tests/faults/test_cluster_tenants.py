"""Tenants of the archive while MongoDB is away: who is known stays, who is not is told to come back."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import pytest
import websockets
from tests.support.client import CallError, Client, connected
from tests.support.cluster import Node
from tests.support.mongo import running_mongo
from tests.support.provider import Gate, Script
from tests.support.server import SECRET, token
from tests.support.stand import LONG_S, Stand, running_stand

from turnwire_server.archive.base import ArchiveUnavailable
from turnwire_server.archive.mongo import MongoArchive
from turnwire_server.archive.tenants import AuditEntry

SECTIONS: dict[str, Any] = {
    "auth": {"mode": "jwt", "jwt_secret": SECRET},
    "tenants": {"filed": {}},
    "limits": {"tenant_refresh_s": 0.2, "command_timeout_s": 2},
    "storage": {"archive_wait_s": 0.5, "mongo_timeout_s": 0.5},
}


async def put(stand: Stand, tenant: str, settings: dict[str, Any], replaces: int) -> None:
    url, name = stand.mongo
    archive = MongoArchive(url, name, timeout_s=10)
    entry = AuditEntry(uuid.uuid4().hex, 1, "root", "tenant.set", tenant)
    try:
        async with asyncio.timeout(LONG_S):
            while True:
                try:
                    await archive.open()
                    assert (await archive.put_tenant(tenant, settings, replaces=replaces, entry=entry))[1]
                    return
                except ArchiveUnavailable:
                    await asyncio.sleep(0.1)
    finally:
        await archive.aclose()


async def refused(node: Node, tenant: str) -> tuple[str, int | None]:
    async with connected(node.url, hello=False) as client:
        with pytest.raises(CallError) as caught:
            await client.call({"type": "hello", "token": token("alice", tenant)})
        await until_closed(client)
        return caught.value.code, client.socket.close_code


async def until_closed(client: Client) -> None:
    with pytest.raises(websockets.ConnectionClosed):
        while True:
            await client.read_frame(LONG_S)


async def test_tenants_stay_as_they_were_known_and_changes_count_once_it_is_back() -> None:
    gate = Gate()
    async with running_mongo() as mongo:
        url = f"{mongo.url}?retryWrites=false"
        async with running_stand(mongo_url=url, lease_s=10, **SECTIONS) as stand:
            await put(stand, "acme", {"features": ["a"]}, 0)
            await put(stand, "globex", {}, 0)
            stand.says("r1", Script.text("one ", gate, "two"))
            async with connected(stand.a.url, token=token()) as alice:
                await alice.create("r1", "c1", "r1")
                await alice.event("output_text.delta", "r1")
                await mongo.kill()
                async with connected(stand.a.url, token=token("bob")) as bob:
                    assert bob.welcome["features"] == ["a"]
                async with connected(stand.b.url, token=token("alice", "filed")):
                    pass
                assert await refused(stand.a, "globex") == ("unavailable", 4010)
                assert await refused(stand.b, "acme") == ("unavailable", 4010)
                gate.open()
                assert (await alice.terminal("r1", LONG_S))["type"] == "message.completed"
                await mongo.start()
                await put(stand, "acme", {"suspended": True}, 1)
                await until_closed(alice)
                assert alice.socket.close_code == 4503
            for node in (stand.a, stand.b):
                assert await refused(node, "acme") == ("forbidden", 4503)
            async with connected(stand.b.url, token=token("alice", "globex")):
                pass
