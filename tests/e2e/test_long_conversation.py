"""A conversation of 2,000 turns: each costs what the fortieth did, and its beginning can still be asked for.

Most of the long one is put into the archive as turns would have left it, with a summary that has nothing of the fact;
what is measured are real turns behind it, beside those of a conversation that has just begun.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from tests.contracts.kit import op
from tests.e2e.test_summaries import BUDGET, summaries, summarising, until_quiet
from tests.support.client import Client, connected
from tests.support.provider import Script

from turnwire_protocol import Message, TextPart
from turnwire_server.app import App
from turnwire_server.archive.base import Billing, ConversationRecord, RequestRecord
from turnwire_server.archive.summaries import SummaryRecord

TURNS, REAL = 2_000, 60
FACT = "my locker in the station has the number 4711-violet"
ASKED = "Which number does my locker have?"


def note(number: int) -> str:
    return FACT if number == 3 else f"note {number}: the weather in place {number % 97} is as it was, nothing is to do"


def short_record(body: dict[str, Any]) -> Script:
    return Script.text("They talked about this and that.")


async def seeded(app: App, turns: int) -> None:
    """`long` has so many turns, all but the last four of them summarised."""
    archive = app.front.services.archive
    await archive.create_conversation(op(), ConversationRecord("default", "long", "dev", "tenant", 1, 1))
    records = [(asked(number), replied(number)) for number in range(1, turns + 1)]
    # All at once, since they are committed together.
    await asyncio.gather(*(archive.insert_request(op(), record) for record, _ in records))
    ending, billing = {"outcome": "completed", "usage": {}}, Billing("dev", "long")
    await asyncio.gather(
        *(
            archive.end_request(
                "default", record.request_id, ending=ending, answer=answer, usage=[], billing=billing, run=1, ended_at=1
            )
            for record, answer in records
        )
    )
    covered = turns - 4
    text = "They talked about this and that."
    assert await archive.put_summary(SummaryRecord("default", "long", f"a{covered}", covered, 90, text, 1))


def message(number: int, role: Any, message_id: str, text: str, parent_id: str | None) -> Message:
    return Message(
        message_id=message_id,
        request_id=f"s{number}",
        role=role,
        parts=[TextPart(text=text)],
        status="complete",
        created_at=number,
        parent_id=parent_id,
        ordinal=number,
    )


def asked(number: int) -> RequestRecord:
    said = message(number, "user", f"u{number}", note(number), f"a{number - 1}" if number > 1 else None)
    return RequestRecord("default", f"s{number}", "long", "dev", "print", number, {}, said, f"a{number}", number)


def replied(number: int) -> Message:
    return message(number, "assistant", f"a{number}", f"noted {number}", f"u{number}")


async def turns(client: Client, app: App, conversation: str, numbers: range) -> list[dict[str, Any]]:
    """What the prompts of these had in them."""
    contexts = []
    for number in numbers:
        name = f"{conversation}-{number}"
        await client.create(name, conversation, note(number))
        contexts.append((await client.event("step.started", name))["context"])
        await client.terminal(name)
        await until_quiet(app)
    return contexts


@pytest.mark.parametrize("is_long", [True, False])
async def test_a_turn_of_a_long_conversation_costs_the_same_and_its_third_is_found_again(is_long: bool) -> None:
    async with summarising() as (large, small, app):
        small.default = short_record
        if is_long:
            await seeded(app, TURNS - REAL - 1)
        name, first = ("long", TURNS - REAL) if is_long else ("c1", 1)
        async with connected(app.url) as alice:
            contexts = await turns(alice, app, name, range(first, first + REAL))
            await alice.create("last", name, ASKED)
            context = (await alice.event("step.started", "last"))["context"]
            await alice.terminal("last")
        tokens = [one["tokens"] for one in contexts[-40:]]
        assert max(tokens) <= BUDGET
        assert 0.6 * BUDGET < sum(tokens) / len(tokens) < 0.9 * BUDGET, "whatever the length"
        assert sum(one["left_out"] for one in contexts) == 0
        assert context["tokens"] <= BUDGET
        assert context["summary"] > (90 if is_long else 1)
        assert FACT in json.dumps(large.requests[-1].messages[0]), "found by its words; the summary has nothing of it"
        assert len(small.requests) < REAL / 2
        if not is_long:
            assert (await summaries(app))[0].up_to > REAL - 20
