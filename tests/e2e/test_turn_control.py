"""What people do to a running turn: interrupt it, say what they have heard of it, steer it, go beside it, redo it."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.client import CallError, Client, connected
from tests.support.provider import ControlledProvider, Gate, Script
from tests.support.server import token
from tests.support.stack import running_stack


async def _interrupt(client: Client, request_id: str, **fields: Any) -> Any:
    answer = await client.call({"type": "request.interrupt", "request_id": request_id, **fields})
    return answer["outcome"]


async def _presented(client: Client, request_id: str, part: int, offset: int) -> None:
    await client.send({"type": "request.presented", "request_id": request_id, "part": part, "offset": offset})


async def _presented_so_far(client: Client, request_id: str, offset: int) -> None:
    """The report has been taken: commands of one connection are carried out in their order."""
    await _presented(client, request_id, 0, offset)
    assert (await client.status(request_id))["presented"] == {"part": 0, "offset": offset}


async def _streaming(client: Client, provider: ControlledProvider, *steps: Any, request: str = "r1") -> None:
    """`r1` has said the texts before the first step that is none, and waits."""
    provider.script(Script.text(*steps))
    await client.create(request, "c1", f"question {request}")
    said = "".join(step for step in steps[: next(i for i, s in enumerate(steps) if not isinstance(s, str))])
    await client.until(lambda: client.text(request) == said)


def _texts(message: Any) -> list[str]:
    return [part["text"] for part in message["parts"]]


def _deltas(client: Client, request_id: str) -> list[Any]:
    return [m for m in client.events(request_id=request_id) if m["type"].endswith(".delta")]


# --- barge-in --------------------------------------------------------------------------------------------


async def test_a_confirmed_interrupt_ends_the_turn_and_keeps_what_was_presented() -> None:
    async with running_stack() as (provider, app), connected(app.url) as client, connected(app.url) as other:
        await other.open("c1")
        await _streaming(client, provider, "One two three. ", "Four five.", Gate())
        await _presented_so_far(client, "r1", 14)
        assert await _interrupt(client, "r1") == "interrupting"
        ending = await client.terminal("r1")
        assert ending["type"] == "message.interrupted"
        assert (ending["generated"], ending["sent"], ending["presented"]) == (25, 25, 14)
        assert (ending["reason"], ending["basis"]) == ("interrupted", "reported")
        assert _texts(ending["message"]) == ["One two three."]
        assert ending["message"]["status"] == "interrupted"
        await provider.client_gone(0)
        assert (await other.terminal("r1")) == ending
        assert (await client.status("r1"))["state"] == "interrupted"
        await client.create("r2", "c1", "and?")
        await client.terminal("r2")
        assert [m["content"] for m in provider.requests[-1].messages] == ["question r1", "One two three.", "and?"]


async def test_without_a_report_all_that_was_sent_counts_as_presented() -> None:
    async with running_stack() as (provider, app), connected(app.url) as client:
        await _streaming(client, provider, "One two.", Gate())
        await _interrupt(client, "r1")
        ending = await client.terminal("r1")
        assert (ending["presented"], ending["sent"], ending["basis"]) == (8, 8, "assumed")
        assert _texts(ending["message"]) == ["One two."]


async def test_the_interrupt_itself_may_say_how_far() -> None:
    async with running_stack() as (provider, app), connected(app.url) as client:
        await _streaming(client, provider, "One two three four.", Gate())
        await _interrupt(client, "r1", presented={"part": 0, "offset": 7})
        ending = await client.terminal("r1")
        assert (_texts(ending["message"]), ending["basis"]) == (["One two"], "reported")


async def test_it_may_say_so_in_words_that_are_not_quite_the_same() -> None:
    async with running_stack() as (provider, app), connected(app.url) as client:
        await _streaming(client, provider, "It costs **42** dollars, doesn’t it? And more.", Gate())
        await _interrupt(client, "r1", presented={"text": "it costs forty two dollars doesn't it"})
        ending = await client.terminal("r1")
        assert _texts(ending["message"]) == ["It costs **42** dollars, doesn’t it?"]


async def test_nothing_heard_leaves_no_answer_in_the_next_prompt() -> None:
    async with running_stack() as (provider, app), connected(app.url) as client:
        await _streaming(client, provider, "One two.", Gate())
        await _interrupt(client, "r1", presented={"part": 0, "offset": 0})
        ending = await client.terminal("r1")
        assert (ending["message"]["parts"], ending["presented"]) == ([], 0)
        await client.create("r2", "c1", "second")
        await client.terminal("r2")
        assert [(m["role"], m["content"]) for m in provider.requests[-1].messages] == [
            ("user", "question r1\n\nsecond")
        ]


@pytest.mark.parametrize("offset", [10_000, 2**40])
async def test_a_report_beyond_the_end_is_clamped(offset: int) -> None:
    async with running_stack() as (provider, app), connected(app.url) as client:
        await _streaming(client, provider, "One 😀.", Gate())
        await _presented(client, "r1", 7, offset)
        await _interrupt(client, "r1")
        ending = await client.terminal("r1")
        assert (ending["presented"], ending["basis"], _texts(ending["message"])) == (7, "reported", ["One 😀."])


async def test_a_report_within_a_surrogate_pair_stays_before_it() -> None:
    async with running_stack() as (provider, app), connected(app.url) as client:
        await _streaming(client, provider, "One 😀.", Gate())
        await _interrupt(client, "r1", presented={"part": 0, "offset": 5})
        assert _texts((await client.terminal("r1"))["message"]) == ["One "]


async def test_reports_only_grow() -> None:
    async with running_stack() as (provider, app), connected(app.url) as client:
        await _streaming(client, provider, "One two three.", Gate())
        await _presented_so_far(client, "r1", 7)
        await _presented(client, "r1", 0, 3)
        assert (await client.status("r1"))["presented"] == {"part": 0, "offset": 7}


async def test_a_second_interrupt_and_a_cancel_after_it_change_nothing() -> None:
    async with running_stack() as (provider, app), connected(app.url) as client:
        await _streaming(client, provider, "One two.", Gate())
        await _interrupt(client, "r1")
        await client.terminal("r1")
        assert await _interrupt(client, "r1") == "amended"
        assert (await client.cancel("r1"))["state"] == "interrupted"
        assert len([m for m in client.messages if m.get("terminal")]) == 1


async def test_an_interrupt_of_a_queued_request_ends_it() -> None:
    async with running_stack() as (provider, app), connected(app.url) as client:
        gate = Gate()
        await _streaming(client, provider, "One", gate)
        await client.create("r2", "c1", "second")
        await client.event("request.queued", "r2")
        assert await _interrupt(client, "r2") == "interrupting"
        ending = await client.terminal("r2")
        assert (ending["type"], ending["presented"], ending["sent"]) == ("message.interrupted", 0, 0)
        gate.open()
        await client.terminal("r1")
        assert len(provider.requests) == 1


async def test_before_the_first_token_there_is_nothing_to_keep() -> None:
    async with running_stack() as (provider, app), connected(app.url) as client:
        provider.script(Script.never_answers())
        await client.create("r1", "c1", "hello")
        await provider.request_received()
        await _interrupt(client, "r1")
        ending = await client.terminal("r1")
        assert (ending["type"], ending["sent"], ending["message"]["parts"]) == ("message.interrupted", 0, [])
        await provider.client_gone(0)


# --- tentative -------------------------------------------------------------------------------------------


async def test_a_tentative_interrupt_holds_the_answer_back_and_its_retraction_lets_it_go_on() -> None:
    first, second = Gate(), Gate()
    async with running_stack(limits={"interrupt_hold_s": 60}) as (provider, app), connected(app.url) as client:
        await _streaming(client, provider, "One ", first, "two ", second, "three.")
        assert await _interrupt(client, "r1", phase="tentative") == "held"
        first.open()
        await second.reached()  # it was generated
        for _ in range(3):
            assert (await client.call({"type": "ping"}))["type"] == "pong"
        assert client.text("r1") == "One "
        assert await _interrupt(client, "r1", phase="retracted") == "resumed"
        await client.until(lambda: client.text("r1") == "One two ")
        second.open()
        assert _texts((await client.terminal("r1"))["message"]) == ["One two three."]


async def test_a_tentative_interrupt_that_nobody_confirms_is_taken_for_retracted() -> None:
    gate = Gate()
    async with running_stack(limits={"interrupt_hold_s": 0.2}) as (provider, app), connected(app.url) as client:
        await _streaming(client, provider, "One ", gate, "two.")
        await _interrupt(client, "r1", phase="tentative")
        gate.open()
        assert _texts((await client.terminal("r1"))["message"]) == ["One two."]


async def test_what_was_held_back_and_then_interrupted_was_generated_and_never_sent() -> None:
    first, second = Gate(), Gate()
    async with running_stack(limits={"interrupt_hold_s": 60}) as (provider, app), connected(app.url) as client:
        await _streaming(client, provider, "One ", first, "two ", second)
        await _interrupt(client, "r1", phase="tentative")
        first.open()
        await second.reached()
        await _interrupt(client, "r1")
        ending = await client.terminal("r1")
        assert (ending["sent"], ending["generated"] >= ending["sent"]) == (4, True)
        assert _texts(ending["message"]) == ["One "]
        assert client.text("r1") == "One "


# Most answers are complete long before they have been spoken: the user interrupts when the model has finished.
async def test_an_answer_that_is_complete_while_it_is_held_back_is_held_to_its_end() -> None:
    gate = Gate()
    async with running_stack(limits={"interrupt_hold_s": 60}) as (provider, app), connected(app.url) as client:
        await _streaming(client, provider, "One ", gate, "two.")
        assert await _interrupt(client, "r1", phase="tentative") == "held"
        gate.open()
        await provider.until(lambda: provider.requests[0].is_over())
        for _ in range(3):
            assert (await client.status("r1"))["state"] == "streaming"
        assert await _interrupt(client, "r1") == "interrupting"
        ending = await client.terminal("r1")
        assert (ending["sent"], ending["generated"], _texts(ending["message"])) == (4, 8, ["One "])


# It was merged and then forgotten with the text that was not to be shown: what the user had said was nowhere.
async def test_what_was_folded_into_an_answer_that_is_held_back_and_then_interrupted_is_not_lost() -> None:
    gate, second = Gate(), Gate()
    async with running_stack(limits={"interrupt_hold_s": 60}) as (provider, app), connected(app.url) as client:
        await _streaming(client, provider, "One ", gate, "two ", second)
        await _interrupt(client, "r1", phase="tentative")
        gate.open()
        await second.reached()
        await client.create("r2", "c1", "and three", on_busy="steer")
        assert (await client.terminal("r2"))["type"] == "message.merged"
        await _interrupt(client, "r1")
        ending = await client.terminal("r1")
        assert [steered["request_id"] for steered in ending["message"]["steered"]] == ["r2"]
        await client.create("r3", "c1", "and four")
        await client.terminal("r3")
        assert [m["content"] for m in provider.requests[-1].messages] == [
            "question r1",
            "One ",
            "and three\n\nand four",
        ]


async def test_what_is_held_back_is_bounded() -> None:
    gate = Gate()
    limits = {"interrupt_hold_s": 60, "held_chars": 100}
    async with running_stack(limits=limits) as (provider, app), connected(app.url) as client:
        provider.script(Script.text("One ", gate, *(["x" * 1000] * 200)))
        await client.create("r1", "c1", "hello")
        await client.until(lambda: client.text("r1") == "One ")
        await _interrupt(client, "r1", phase="tentative")
        gate.open()
        await _interrupt(client, "r1", phase="retracted")
        assert len(_texts((await client.terminal("r1"))["message"])[0]) == 200_004


async def test_a_tentative_interrupt_of_what_waits_in_the_queue_holds_it_when_its_turn_comes() -> None:
    gate = Gate()
    async with running_stack(limits={"interrupt_hold_s": 60}) as (provider, app), connected(app.url) as client:
        await _streaming(client, provider, "One ", gate, "two.")
        await client.create("r2", "c1", "next")
        assert await _interrupt(client, "r2", phase="tentative") == "held"
        gate.open()
        await client.terminal("r1")
        for _ in range(3):
            await client.call({"type": "ping"})
        assert await _interrupt(client, "r2", phase="retracted") == "resumed"
        resumed = next(n for n, message in enumerate(client.messages) if message.get("outcome") == "resumed")
        assert client.messages.index(await client.event("message.started", "r2")) > resumed
        assert (await client.terminal("r2"))["type"] == "message.completed"


# --- after the end ---------------------------------------------------------------------------------------


async def test_a_report_after_the_end_amends_the_answer_for_everybody_and_for_the_next_prompt() -> None:
    async with running_stack() as (provider, app), connected(app.url) as client, connected(app.url) as other:
        await other.open("c1")
        provider.script(Script.text("One two three four."))
        await client.create("r1", "c1", "count")
        await client.terminal("r1")
        for offset in (7, 13):
            await _presented(client, "r1", 0, offset)
        await client.until(lambda: len(client.events("message.amended")) == 2)
        amended = client.events("message.amended")[-1]
        assert (amended["presented"], amended["sent"], amended["basis"]) == (13, 19, "reported")
        assert _texts(amended["message"]) == ["One two three"]
        await other.until(lambda: other.events("message.amended")[-1:] == [amended])
        await client.create("r2", "c1", "and?")
        await client.terminal("r2")
        assert provider.requests[-1].messages[1]["content"] == "One two three"
        history = await client.call({"type": "conversation.history", "conversation_id": "c1"})
        assert _texts(history["items"][1]) == ["One two three"]
        async with connected(app.url) as late:
            await late.open("c1")
            snapshot = await late.event("conversation.snapshot")
            assert snapshot["messages"][1] == amended["message"]


async def test_an_interrupt_after_the_end_only_amends_and_less_than_before_changes_nothing() -> None:
    async with running_stack() as (provider, app), connected(app.url) as client:
        provider.script(Script.text("One two three."))
        await client.create("r1", "c1", "count")
        await client.terminal("r1")
        assert await _interrupt(client, "r1", presented={"text": "one two"}) == "amended"
        amended = await client.event("message.amended")
        assert (_texts(amended["message"]), amended["message"]["status"]) == (["One two"], "interrupted")
        assert await _interrupt(client, "r1", presented={"part": 0, "offset": 3}) == "amended"
        await client.status("r1")
        assert len(client.events("message.amended")) == 1


async def test_a_late_report_gives_back_what_the_interrupt_had_cut() -> None:
    async with running_stack() as (provider, app), connected(app.url) as client:
        await _streaming(client, provider, "One two three.", Gate())
        await _interrupt(client, "r1", presented={"part": 0, "offset": 3})
        await client.terminal("r1")
        await _presented(client, "r1", 0, 7)
        amended = await client.event("message.amended")
        assert (_texts(amended["message"]), amended["message"]["status"]) == (["One two"], "interrupted")


# --- who may ---------------------------------------------------------------------------------------------


async def test_others_interrupt_only_as_owners_and_report_never() -> None:
    async with running_stack(jwt=True) as (provider, app):
        async with (
            connected(app.url, token=token("alice")) as alice,
            connected(app.url, token=token("bob")) as bob,
            connected(app.url, token=token("mallory")) as mallory,
        ):
            await alice.open("c1")
            share: Any = {"type": "conversation.share", "conversation_id": "c1", "user_id": "bob", "role": "editor"}
            await alice.call(share)
            await _streaming(alice, provider, "One two.", Gate())
            await bob.open("c1")
            for client, code in ((bob, "forbidden"), (mallory, "not_found")):
                with pytest.raises(CallError) as refused:
                    await _interrupt(client, "r1")
                assert refused.value.code == code
                with pytest.raises(CallError) as refused:
                    await client.call({"type": "request.presented", "request_id": "r1", "part": 0, "offset": 1})
                assert refused.value.code == code
            with pytest.raises(CallError) as refused:
                await bob.create("r2", "c1", "me first", on_busy="interrupt")
            assert refused.value.code == "forbidden"
            with pytest.raises(CallError) as refused:
                await bob.create("r3", "c1", "me too", on_busy="steer")
            assert refused.value.code == "forbidden"
            assert (await bob.status("r1"))["state"] == "streaming"
            provider.script(Script.text("Three."))
            provider.script(Script.text("Four."))
            await bob.create("r4", "c1", "then I wait")
            await bob.event("request.queued", "r4")
            await alice.create("r5", "c1", "no, me", on_busy="interrupt")
            await alice.terminal("r5")
            assert (await alice.terminal("r1"))["reason"] == "superseded"
            await bob.terminal("r4")


async def test_what_nobody_knows_cannot_be_interrupted() -> None:
    async with running_stack() as (_provider, app), connected(app.url) as client:
        for command in ({"type": "request.interrupt"}, {"type": "request.presented", "part": 0, "offset": 1}):
            with pytest.raises(CallError) as refused:
                await client.call({**command, "request_id": "r9"})
            assert refused.value.code == "not_found"


# --- on_busy ---------------------------------------------------------------------------------------------


async def test_on_busy_interrupt_ends_the_running_turn_and_goes_first() -> None:
    async with running_stack() as (provider, app), connected(app.url) as client:
        await _streaming(client, provider, "One two.", Gate())
        await client.create("r2", "c1", "waits")
        await client.event("request.queued", "r2")
        await client.create("r3", "c1", "now", on_busy="interrupt")
        before = len(client.messages)
        await client.terminal("r2")
        ended = [m["request_id"] for m in client.messages if m.get("terminal")]
        assert ended == ["r1", "r3", "r2"]
        ending = await client.terminal("r1")
        assert (ending["type"], ending["reason"]) == ("message.interrupted", "superseded")
        assert not [m for m in client.messages[before:] if m["type"].endswith("delta") and m["request_id"] == "r1"]
        asked = provider.requests[1].messages
        assert [(m["role"], m["content"]) for m in asked] == [
            ("user", "question r1"),
            ("assistant", "One two."),
            ("user", "now"),
        ], "what waits is not said to the model yet"


async def test_on_busy_interrupt_with_nobody_busy_just_runs() -> None:
    async with running_stack() as (_provider, app), connected(app.url) as client:
        ack = await client.create("r1", "c1", "hello", on_busy="interrupt")
        assert ack["state"] == "preparing"
        assert (await client.terminal("r1"))["type"] == "message.completed"


async def test_steering_ends_the_step_where_it_stands_and_goes_on_with_what_was_said() -> None:
    async with running_stack() as (provider, app), connected(app.url) as client:
        await _streaming(client, provider, "One two", Gate())
        provider.script(Script.text("Uno dos."))
        await client.create("r2", "c1", "in Spanish", on_busy="steer", target="r1")
        merged = await client.terminal("r2")
        assert (merged["type"], merged["into"]) == ("message.merged", "r1")
        applied = await client.event("steer.applied", "r1")
        assert applied["from"] == "r2"
        ending = await client.terminal("r1")
        assert (ending["type"], _texts(ending["message"])) == ("message.completed", ["One two", "Uno dos."])
        assert ending["message"]["steered"] == [{"part": 1, "request_id": "r2"}]
        said = [("user", "question r1"), ("assistant", "One two"), ("user", "in Spanish")]
        assert [(m["role"], m["content"]) for m in provider.requests[1].messages] == said
        usage = await client.event("usage.completed", "r1")
        assert [attempt["outcome"] for attempt in usage["attempts"]] == ["cancelled", "completed"]
        assert client.events("usage.completed", "r2") == []
        assert (await client.status("r2"))["state"] == "merged"
        await client.create("r3", "c1", "thanks")
        await client.terminal("r3")
        asked = [(m["role"], m["content"]) for m in provider.requests[2].messages]
        assert asked == [*said, ("assistant", "Uno dos."), ("user", "thanks")]
        async with connected(app.url) as late:
            await late.open("c1")
            await late.event("conversation.snapshot")
            assert late.folds["c1"].view() == client.folds["c1"].view()


async def test_steering_before_the_first_token_begins_the_step_anew() -> None:
    async with running_stack() as (provider, app), connected(app.url) as client:
        provider.script(Script.never_answers())
        provider.script(Script.text("Both."))
        await client.create("r1", "c1", "first")
        await provider.request_received()
        await client.create("r2", "c1", "second", on_busy="steer")
        await client.terminal("r1")
        assert (await client.terminal("r2"))["type"] == "message.merged"
        assert [m["content"] for m in provider.requests[1].messages] == ["first\n\nsecond"]


async def test_steering_what_does_not_run_is_refused_and_leaves_the_id_free() -> None:
    async with running_stack() as (provider, app), connected(app.url) as client:
        await _streaming(client, provider, "One", Gate())
        with pytest.raises(CallError) as refused:
            await client.create("r2", "c1", "hey", on_busy="steer", target="r9")
        assert refused.value.code == "invalid_state"
        ack = await client.create("r2", "c1", "other words")
        assert (ack["duplicate"], ack["state"]) == (False, "queued")


async def test_steering_nobody_is_a_turn_of_its_own() -> None:
    async with running_stack() as (_provider, app), connected(app.url) as client:
        await client.create("r1", "c1", "hello", on_busy="steer")
        assert (await client.terminal("r1"))["type"] == "message.completed"


async def test_a_steered_request_can_be_cancelled_while_it_waits_and_then_changes_nothing() -> None:
    async with running_stack() as (provider, app), connected(app.url) as client:
        gate = Gate()
        await _streaming(client, provider, "One", gate)
        await client.create("r2", "c1", "queue me")
        await client.event("request.queued", "r2")
        await client.cancel("r2")
        gate.open()
        assert _texts((await client.terminal("r1"))["message"]) == ["One"]


async def test_parallel_turns_run_side_by_side_on_their_own_branches() -> None:
    async with running_stack() as (provider, app), connected(app.url) as client:
        await client.create("r0", "c1", "hello")
        parent = (await client.terminal("r0"))["message"]["message_id"]
        gate = Gate()
        await _streaming(client, provider, "One", gate)
        provider.script(Script.text("Beside."))
        ack = await client.create("r2", "c1", "beside", on_busy="parallel", parent_id=parent)
        assert ack["state"] == "preparing"
        assert _texts((await client.terminal("r2"))["message"]) == ["Beside."]
        assert (await client.status("r1"))["state"] == "streaming"
        gate.open()
        await client.terminal("r1")
        assert [m["content"] for m in provider.requests[-1].messages][-1] == "beside"


# --- anew ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["answer", "question"])
async def test_regenerating_answers_the_same_input_anew_beside_the_old(which: str) -> None:
    async with running_stack() as (provider, app), connected(app.url) as client:
        provider.script(Script.text("Old."))
        provider.script(Script.text("New."))
        await client.create("r1", "c1", "hello")
        old = (await client.terminal("r1"))["message"]
        message_id = old["message_id"] if which == "answer" else old["parent_id"]
        command = {"type": "request.regenerate", "request_id": "r2", "message_id": message_id}
        ack = await client.call(command)
        assert (ack["conversation_id"], ack["duplicate"]) == ("c1", False)
        assert _texts((await client.terminal("r2"))["message"]) == ["New."]
        assert [m["content"] for m in provider.requests[1].messages] == ["hello"]
        assert (await client.call(command))["duplicate"] is True
        history = await client.call({"type": "conversation.history", "conversation_id": "c1"})
        assert [_texts(item) for item in history["items"]] == [["hello"], ["New."]]
        leaf = {"type": "conversation.history", "conversation_id": "c1", "leaf": old["message_id"]}
        assert [_texts(item) for item in (await client.call(leaf))["items"]] == [["hello"], ["Old."]]


async def test_an_unknown_message_cannot_be_answered_anew() -> None:
    async with running_stack() as (_provider, app), connected(app.url) as client:
        with pytest.raises(CallError) as refused:
            await client.call({"type": "request.regenerate", "request_id": "r2", "message_id": "msg_9"})
        assert refused.value.code == "not_found"


async def test_editing_a_message_begins_a_branch_at_its_parent() -> None:
    async with running_stack() as (provider, app), connected(app.url) as client:
        await client.create("r1", "c1", "first")
        first = (await client.terminal("r1"))["message"]
        await client.create("r2", "c1", "secnod")
        await client.terminal("r2")
        await client.create("r3", "c1", "second", parent_id=first["message_id"])
        await client.terminal("r3")
        assert [m["content"] for m in provider.requests[-1].messages if m["role"] == "user"] == ["first", "second"]
        history = await client.call({"type": "conversation.history", "conversation_id": "c1"})
        assert [_texts(item)[0] for item in history["items"] if item["role"] == "user"] == ["first", "second"]
