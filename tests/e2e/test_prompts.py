"""Prompts by version: chosen when a request is created, kept by it, told with its answer, changed while servers run."""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import Any

import pytest
from tests.e2e.test_tenants import FILED, QUICK, put
from tests.support.client import CallError, connected
from tests.support.provider import Gate, Script
from tests.support.server import Nodes, token
from tests.support.stack import running_stack

from turnwire_server.app import App
from turnwire_server.archive.prompts import PromptRecord, PromptVersion
from turnwire_server.archive.tenants import AuditEntry

SUPPORT = {"prompt": "support"}


class Registry:
    """A tenant's prompt `support`, changed as the command line does."""

    def __init__(self, app: App, tenant: str = "acme") -> None:
        self.app = app
        self.tenant = tenant
        self.record = PromptRecord(tenant, "support", 0, 0, None, None, 0, 0, "root")

    async def add(self, text: str, **variables: dict[str, Any]) -> int:
        number = self.record.versions + 1
        new = PromptVersion(self.tenant, "support", number, text, variables)
        await self._put(new, versions=number)
        return number

    async def use(self, released: int | None, candidate: int | None = None, share: int = 0) -> None:
        await self._put(released=released, candidate=candidate, share=share)

    async def _put(self, new: PromptVersion | None = None, **fields: Any) -> None:
        entry = AuditEntry(uuid.uuid4().hex, int(time.time() * 1000), "root", "prompt.test", self.tenant)
        kept = {name: getattr(self.record, name) for name in PromptRecord.__slots__}
        record = PromptRecord(**{**kept, **fields, "revision": self.record.revision + 1})
        stands, done = await self.app.front.services.archive.put_prompt(record, entry=entry, new=new)
        assert done
        assert stands is not None
        self.record = stands
        await self._until_known()

    async def _until_known(self) -> None:
        """Wait until every node that has asked for it has this revision."""
        key = (self.tenant, "support")
        async with asyncio.timeout(10):
            for node in self.app.apps if isinstance(self.app, Nodes) else (self.app,):
                known = node.front.services.tenants.prompts._known
                while key in known and known[key].record != self.record:
                    await asyncio.sleep(0.01)


async def test_a_prompt_is_filled_in_and_its_version_told_with_the_answer() -> None:
    async with running_stack(jwt=True, tenants=FILED, limits=QUICK) as (provider, app):
        await put(app, "acme", SUPPORT)
        registry = Registry(app)
        text = "Be {{ tone }} to {{ customer }} of {{ tenant }}, says {{ user }} by {{ route }} on {{ date }}."
        await registry.use(await registry.add(text, customer={}, tone={"default": "kind"}))
        async with connected(app.url, token=token()) as alice, connected(app.url, token=token()) as other:
            await alice.create("r1", "c1", "hello", variables={"customer": "Bo"})
            started = await alice.event("message.started", "r1")
            ended = await alice.terminal("r1")
            assert started["prompt"] == ended["message"]["prompt"] == {"name": "support", "version": 1}
            kept = await app.front.services.archive.request("acme", "r1")
            assert kept is not None, "with all that whoever takes the turn over needs"
            assert kept.spec["prompt"] == {"name": "support", "version": 1}
            assert kept.spec["tenant"]["system_prompt"].startswith("Be kind to Bo of acme")
            await other.call({"type": "conversation.open", "conversation_id": "c1"})
            await other.until(lambda: "c1" in other.folds)
            assert other.folds["c1"].view()["messages"][1]["prompt"] == {"name": "support", "version": 1}
            await alice.call(
                {"type": "request.regenerate", "request_id": "r2", "message_id": ended["message"]["message_id"],
                 "variables": {"customer": "Cy", "tone": "short"}}
            )  # fmt: skip
            await alice.terminal("r2")
        today = time.strftime("%Y-%m-%d", time.gmtime())
        assert [request.messages[0]["content"] for request in provider.requests] == [
            f"Be kind to Bo of acme, says alice by default on {today}.",
            f"Be short to Cy of acme, says alice by default on {today}.",
        ]


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        (None, "variables: 'customer' must be given"),
        ({"customer": "Bo", "colour": "red"}, "variables: there is no 'colour'; this prompt has: customer"),
        ({"customer": "B" * 11}, "variables: 'customer' has more than 10 characters"),
        ({"customer": 7}, "variables.customer: expected a string"),
    ],
)
async def test_variables_that_do_not_fit_are_named_and_the_id_stays_free(
    variables: dict[str, Any] | None, said: str
) -> None:
    async with running_stack(jwt=True, tenants=FILED, limits=QUICK) as (provider, app):
        await put(app, "acme", SUPPORT)
        registry = Registry(app)
        await registry.use(await registry.add("For {{ customer }}", customer={"max_chars": 10}))
        async with connected(app.url, token=token()) as alice:
            given = {} if variables is None else {"variables": variables}
            with pytest.raises(CallError) as caught:
                await alice.create("r1", "c1", "hello", **given)
            assert (caught.value.code, caught.value.error["message"]) == ("bad_command", said)
            await alice.create("r1", "c1", "hello", variables={"customer": "Bo"})
            await alice.terminal("r1")
        assert [request.messages[0]["content"] for request in provider.requests] == ["For Bo"]


async def test_a_tenant_without_a_prompt_takes_no_variables_and_one_without_a_release_says_so() -> None:
    async with running_stack(jwt=True, tenants=FILED, limits=QUICK) as (_provider, app):
        async with connected(app.url, token=token("alice", "filed")) as filed:
            with pytest.raises(CallError, match="there is no 'customer'; this tenant's prompt has no variables"):
                await filed.create("r1", "c1", "hello", variables={"customer": "Bo"})
            await filed.create("r1", "c1", "hello", variables={})
            assert "prompt" not in (await filed.terminal("r1"))["message"]
        await put(app, "acme", SUPPORT)
        registry = Registry(app)
        async with connected(app.url, token=token()) as alice:
            for _ in range(2):  # without any version, and with a draft alone
                with pytest.raises(CallError, match="the tenant's prompt has no released version") as caught:
                    await alice.create("r1", "c1", "hello")
                assert caught.value.code == "unavailable"
                await registry.add("a draft")
            await registry.use(1)
            await alice.create("r1", "c1", "hello")
            await alice.terminal("r1")


async def test_a_release_counts_for_the_next_request_and_a_request_keeps_the_version_it_was_created_with() -> None:
    gate = Gate()
    async with running_stack(jwt=True, tenants=FILED, limits=QUICK) as (provider, app):
        await put(app, "acme", SUPPORT)
        registry = Registry(app)
        await registry.use(await registry.add("one"))
        async with connected(app.url, token=token()) as alice, connected(app.url, token=token()) as other:
            provider.script(Script.text("a", gate))
            await alice.create("r1", "c1", "hello")
            await alice.event("output_text.delta", "r1")
            await alice.create("r2", "c1", "and then", on_busy="queue")
            await registry.use(await registry.add("two"))
            for number, client in enumerate((alice, other)):
                await client.create(f"next-{number}", f"next-{number}", "hello")
                assert (await client.terminal(f"next-{number}"))["message"]["prompt"]["version"] == 2
            gate.open()
            assert (await alice.terminal("r2"))["message"]["prompt"]["version"] == 1
        prompts = [request.messages[0]["content"] for request in provider.requests]
        assert prompts == ["one", "two", "two", "one"]


async def test_a_candidate_has_its_share_and_a_conversation_stays_with_its_version() -> None:
    async with running_stack(jwt=True, tenants=FILED, limits=QUICK) as (_provider, app):
        await put(app, "acme", SUPPORT)
        registry = Registry(app)
        await registry.add("one")
        await registry.add("two")
        await registry.use(1, candidate=2, share=30)
        async with connected(app.url, token=token()) as alice:

            async def versions(turn: int) -> list[int]:
                found = []
                for number in range(40):
                    await alice.create(f"r{turn}-{number}", f"c{number}", "hello")
                    found.append((await alice.terminal(f"r{turn}-{number}"))["message"]["prompt"]["version"])
                return found

            first = await versions(1)
            assert 4 <= first.count(2) <= 20, first
            assert await versions(2) == first
            await registry.use(1, candidate=2, share=100)
            assert set(await versions(3)) == {2}
            await registry.use(1)
            assert set(await versions(4)) == {1}


async def test_prompts_are_each_tenant_s_own_and_those_of_default_are_for_whoever_it_serves() -> None:
    tenants = {"default": SUPPORT, "globex": SUPPORT}
    async with running_stack(jwt=True, tenants=tenants, limits=QUICK) as (provider, app):
        for tenant in ("default", "globex", "acme"):
            registry = Registry(app, tenant)
            await registry.use(await registry.add(f"{tenant} for {{{{ tenant }}}}"))
        for tenant in ("acme", "globex"):  # acme has no settings of its own: it is served as the default
            async with connected(app.url, token=token("alice", tenant)) as alice:
                await alice.create("r1", "c1", "hello")
                await alice.terminal("r1")
        prompts = [request.messages[0]["content"] for request in provider.requests]
        assert prompts == ["default for acme", "globex for globex"]
