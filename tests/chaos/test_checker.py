"""The checker reports nothing of a story that goes as it should, and every guarantee that a spoilt one breaks."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tests.chaos.checker import LAWS, check, excerpt
from tests.chaos.records import ArchivedRequest, Call, Evidence, Happened
from tests.chaos.story import ASKED, ONE, TALK, TWO, Story, log, snapshot_at
from tests.chaos.streams import Violation
from tests.chaos.summary import summary, worst_recovery

Spoil = Callable[[Story], None]
SPOILT: list[tuple[int, str, Spoil]] = []
"""The guarantee, a piece of what is to be said, and how the story is spoilt."""


def breaks(guarantee: int, said: str) -> Callable[[Spoil], Spoil]:
    def keep(spoil: Spoil) -> Spoil:
        SPOILT.append((guarantee, said, spoil))
        return spoil

    return keep


def _archived(story: Story, request_id: str) -> ArchivedRequest:
    return next(request for request in story.evidence.archive.requests if request.request_id == request_id)


# --- 0: answers that must not be ----------------------------------------------------------------------------


@breaks(0, "was answered with internal")
def an_internal_error(story: Story) -> None:
    story.ask("alice", {"type": "request.status", "request_id": ONE})
    story.answer("alice", {"type": "error", "code": "internal", "message": "oh"})


# --- 1: one order ---------------------------------------------------------------------------------------------


@breaks(1, "seq 11 of epoch e1")
def two_events_at_one_seq(story: Story) -> None:
    story.at_seq("bob", 11, arguments={"other": 1})


@breaks(1, "was shown with other text")
def a_delta_with_two_texts(story: Story) -> None:
    story.at_seq("bob", 4, text="«r1/1.1» LOST")


@breaks(1, "differ")
def a_merged_delta_with_other_text(story: Story) -> None:
    story.at_seq("bob", 9, text="«r1/1.2» ONE")


@breaks(1, "after 9 of epoch e1: message was")
def a_state_that_differs(story: Story) -> None:
    story.at_seq("bob", 9, text="«r1/1.2» ONE")


@breaks(1, "other messages had ended")
def an_end_that_differs(story: Story) -> None:
    message = copy.deepcopy(log()[18]["message"])
    message["parts"][0]["text"] += "!"
    story.at_seq("bob", 19, message=message)


@breaks(1, "was running, and now")
def a_snapshot_that_shows_nothing_running(story: Story) -> None:
    for record in story.records:
        for message in record.messages:
            if message["type"] == "conversation.snapshot" and record.client == "bob":
                message["active"] = []


# --- 2: nothing is shown that is not in the log ---------------------------------------------------------------


@breaks(2, "says that the log ends at 7, when 26 had been shown")
def a_log_that_has_become_shorter(story: Story) -> None:
    story.connect("carol")
    story.open("carol", 7)


@breaks(2, "after its end at 19")
def a_snapshot_that_shows_an_ended_request_running(story: Story) -> None:
    snapshot = snapshot_at(26)
    snapshot["active"] = snapshot_at(17)["active"]
    story.connect("carol")
    story.open("carol", 26, snapshot=snapshot)


@breaks(2, "has not the message of its end at 19")
def a_snapshot_without_an_answer(story: Story) -> None:
    snapshot = snapshot_at(26)
    snapshot["messages"] = [m for m in snapshot["messages"] if m["message_id"] != f"{ONE}-out"]
    story.connect("carol")
    story.open("carol", 26, snapshot=snapshot)


@breaks(2, "knows it up to 15, not 18")
def a_snapshot_with_an_old_state(story: Story) -> None:
    story.connect("carol")
    story.open("carol", 18, snapshot={**snapshot_at(15), "seq": 18})


@breaks(2, "has nothing of it")
def a_snapshot_that_has_lost_a_request(story: Story) -> None:
    story.connect("carol")
    story.open("carol", 18, snapshot={**snapshot_at(18), "active": []})


@breaks(2, "when this client had been shown 26")
def a_snapshot_that_goes_back(story: Story) -> None:
    story.frame("alice", snapshot_at(20))


@breaks(2, "the assistant message is not in the history in the end")
def an_answer_that_newcomers_do_not_find(story: Story) -> None:
    story.records[-1].messages[0]["messages"].pop()


@breaks(2, "is not the archived one")
def an_answer_that_newcomers_find_changed(story: Story) -> None:
    _archived(story, ONE).input["parts"][0]["text"] = ASKED[ONE]
    story.records[-1].messages[0]["messages"][0]["parts"][0]["text"] = "[r1] hullo"


@breaks(2, "is in the history and not in the archive")
def a_message_that_the_archive_does_not_know(story: Story) -> None:
    story.evidence.archive.requests.pop()


# --- 3: one turn for each id ----------------------------------------------------------------------------------


@breaks(3, "2 archive records")
def two_records_of_one_request(story: Story) -> None:
    story.evidence.archive.requests.append(copy.deepcopy(_archived(story, ONE)))


@breaks(3, "is not in the archive")
def an_acknowledged_request_that_is_gone(story: Story) -> None:
    story.evidence.archive.requests.pop()


@breaks(3, "archived with")
def a_request_archived_with_other_content(story: Story) -> None:
    _archived(story, ONE).input["parts"][0]["text"] = "other"


@breaks(3, "acknowledged for other content")
def two_contents_of_one_id(story: Story) -> None:
    story.ask("alice", {"type": "request.create", "request_id": ONE, "conversation_id": TALK, "input": "other"})
    story.answer("alice", story.ack(ONE, 26, "completed", duplicate=True))


@breaks(3, "a conflict with itself")
def a_repeat_that_is_refused(story: Story) -> None:
    story.ask("alice", {"type": "request.create", "request_id": ONE, "conversation_id": TALK, "input": ASKED[ONE]})
    story.answer("alice", {"type": "error", "code": "idempotency_conflict", "message": "no"})


@breaks(3, "started 2 times")
def two_owners_that_start(story: Story) -> None:
    again = {**log()[1], "seq": 27, "run": 2}
    story.frame("alice", again)


@breaks(3, "attempt (2, 1) is followed by (2, 1)")
def two_owners_that_make_the_same_attempt(story: Story) -> None:
    story.frame("alice", {**log()[13], "seq": 27})


@breaks(3, "run 1 goes on after 3 began")
def an_older_run_that_goes_on(story: Story) -> None:
    for client in ("alice", "bob"):
        story.at_seq(client, 7, run=3)
        story.at_seq(client, 14, run=2)


# --- 4: one ending --------------------------------------------------------------------------------------------


@breaks(4, "has no ending in the archive")
def a_request_that_never_ends(story: Story) -> None:
    request = _archived(story, ONE)
    request.state, request.outcome = "open", None


@breaks(4, "but an ending of failed")
def an_ending_of_another_outcome(story: Story) -> None:
    _archived(story, ONE).outcome = "failed"


@breaks(4, "2 terminal events")
def two_ends(story: Story) -> None:
    story.frame("alice", {**log()[25], "seq": 27})


@breaks(4, "comes after the terminal event")
def an_event_after_the_end(story: Story) -> None:
    story.frame("alice", {**log()[24], "seq": 27})


@breaks(4, "message.completed was shown, failed is archived")
def an_end_that_is_archived_otherwise(story: Story) -> None:
    request = _archived(story, ONE)
    request.state = request.outcome = "failed"


@breaks(4, "is not the archived one")
def an_answer_that_is_archived_otherwise(story: Story) -> None:
    request = _archived(story, ONE)
    request.answer = {**(request.answer or {}), "created_at": 2}


@breaks(4, "the archive does not know it")
def an_end_without_an_archive_record(story: Story) -> None:
    story.evidence.archive.requests.pop()


@breaks(4, "still runs in the end")
def a_request_that_runs_for_ever(story: Story) -> None:
    story.records[-1].messages[0]["active"] = snapshot_at(18)["active"]


@breaks(4, "archived as completed")
def a_cancel_that_is_told_a_wrong_end(story: Story) -> None:
    story.ask("alice", {"type": "request.cancel", "request_id": ONE})
    story.answer("alice", {"type": "ack", "request_id": ONE, "outcome": "already_terminal", "state": "failed"})


@breaks(4, "did not end after SIGTERM")
def a_node_that_does_not_drain(story: Story) -> None:
    story.evidence.notes += ["node-1 did not end after SIGTERM", "(retried) something harmless"]


# --- 5, 6: cancelling and leaving -------------------------------------------------------------------------------


@breaks(5, "answered with 'cancelling', and it completed")
def a_cancel_that_was_not_kept(story: Story) -> None:
    request = _archived(story, TWO)
    request.state = request.outcome = "completed"


@breaks(5, "answered with 'recorded', and it completed")
def a_recorded_cancel_that_was_not_kept(story: Story) -> None:
    story.ask("alice", {"type": "request.cancel", "request_id": ONE})
    story.answer("alice", {"type": "ack", "request_id": ONE, "outcome": "recorded"})


@breaks(5, "after the cancel was answered")
def a_delta_after_the_cancel(story: Story) -> None:
    story.at_seq("bob", 25, from_seq=25)
    for record in story.records:
        if record.client == "bob" and record.messages and record.messages[0].get("seq") == 25:
            record.messages.insert(0, log()[23])


@breaks(6, "nobody has cancelled it")
def an_end_that_nobody_wanted(story: Story) -> None:
    request = _archived(story, ONE)
    request.state = request.outcome = "cancelled"


@breaks(6, "without a cancel and without a fault")
def a_call_that_was_left_with_its_followers(story: Story) -> None:
    story.evidence.calls.append(Call(ONE, 1, 3, "node-1", 1.0, gone=1.1, text="«r1/1.3» x y", sent="«r1/1.3»"))
    story.evidence.faults.append(Happened("client cut", "client-1", 1.0, 1.0))
    story.evidence.faults.append(Happened("node kill", "node-1", 2.0, 3.0))


# --- 7: recovery and text ---------------------------------------------------------------------------------------


@breaks(7, "seq 6 is missing")
def a_hole(story: Story) -> None:
    story.without_seq("alice", 6)


@breaks(7, "OffsetMismatch")
def a_delta_that_does_not_fit(story: Story) -> None:
    story.at_seq("alice", 9, offset=3)


@breaks(7, "UnknownRequest")
def an_event_of_a_request_that_was_never_created(story: Story) -> None:
    story.frame("alice", {**log()[1], "seq": 27, "request_id": "r3"})


@breaks(7, "is not the end e1/26")
def a_replay_that_counts_wrongly(story: Story) -> None:
    story.connect("alice")
    since = {"epoch": "e1", "seq": 20}
    story.ask("alice", {"type": "conversation.open", "conversation_id": TALK, "since": since})
    opened = {"type": "conversation.opened", "conversation_id": TALK, "epoch": "e1", "seq": 26}
    story.answer("alice", {**opened, "verdict": "replayed", "missed": 5})


@breaks(7, "before the snapshot that was announced")
def an_event_before_its_snapshot(story: Story) -> None:
    story.connect("carol")
    story.ask("carol", {"type": "conversation.open", "conversation_id": TALK})
    opened = {"type": "conversation.opened", "conversation_id": TALK, "epoch": "e1", "seq": 26}
    story.answer("carol", {**opened, "verdict": "snapshot"})
    story.frame("carol", log()[25])


@breaks(7, "that is not followed")
def an_event_that_was_not_asked_for(story: Story) -> None:
    story.connect("carol")
    story.frame("carol", log()[25])


@breaks(7, "a replay after no cursor")
def a_replay_that_was_not_asked_for(story: Story) -> None:
    story.connect("carol")
    story.ask("carol", {"type": "conversation.open", "conversation_id": TALK})
    opened = {"type": "conversation.opened", "conversation_id": TALK, "epoch": "e1", "seq": 26}
    story.answer("carol", {**opened, "verdict": "replayed", "missed": 3})


@breaks(7, "was said by no call")
def a_doubled_text(story: Story) -> None:
    answer = copy.deepcopy(_archived(story, ONE).answer) or {}
    answer["parts"][2]["text"] = "«r1/2.1»«r1/2.1» two three"
    _archived(story, ONE).answer = answer


@breaks(7, "' three' is missing")
def a_completed_answer_without_its_end(story: Story) -> None:
    answer = copy.deepcopy(_archived(story, ONE).answer) or {}
    answer["parts"][2]["text"] = "«r1/2.1» two"
    _archived(story, ONE).answer = answer


@breaks(7, "(None), '' is missing")
def a_completed_answer_of_a_call_that_broke_off(story: Story) -> None:
    story.evidence.calls[2] = replace(story.evidence.calls[2], finish=None)


@breaks(7, "step 1 is in the answer after 2")
def steps_in_the_wrong_order(story: Story) -> None:
    answer = copy.deepcopy(_archived(story, ONE).answer) or {}
    answer["parts"].reverse()
    _archived(story, ONE).answer = answer


@breaks(7, "completed without any text")
def a_completed_answer_without_text(story: Story) -> None:
    request = _archived(story, ONE)
    request.answer = {**(request.answer or {}), "parts": []}


# --- 12: the ledger -------------------------------------------------------------------------------------------


@breaks(12, "2 rows for attempt 1.2")
def two_rows_of_one_attempt(story: Story) -> None:
    story.evidence.archive.usage.append(story.evidence.archive.usage[1])


@breaks(12, "step 1 has 1 rows for 2 calls (0 of them before a loss)")
def a_call_without_a_row(story: Story) -> None:
    story.evidence.archive.usage.pop(0)


@breaks(12, "of the ledger")
def a_sum_of_other_attempts(story: Story) -> None:
    story.evidence.archive.usage[0].outcome = "node_lost"


@breaks(12, "its attempts sum up to")
def a_wrong_sum(story: Story) -> None:
    story.at_seq("alice", 18, input_tokens=41)
    story.at_seq("bob", 18, input_tokens=41)


@breaks(12, "its attempts 0.003")
def a_wrong_price(story: Story) -> None:
    story.at_seq("alice", 18, cost_usd="0.004")
    story.at_seq("bob", 18, cost_usd="0.004")


@breaks(12, "which no call said")
def a_row_with_figures_of_its_own(story: Story) -> None:
    story.evidence.calls[1] = replace(story.evidence.calls[1], usage=(11, 2))


# --- the tests ------------------------------------------------------------------------------------------------


def test_nothing_is_reported_of_a_story_that_goes_as_it_should() -> None:
    assert check(Story().evidence).violations == []


@pytest.mark.parametrize(("guarantee", "said", "spoil"), SPOILT, ids=[spoil.__name__ for _, _, spoil in SPOILT])
def test_a_spoilt_story_is_reported(guarantee: int, said: str, spoil: Spoil) -> None:
    story = Story()
    spoil(story)
    found = check(story.evidence).violations
    assert [v for v in found if v.guarantee == guarantee and said in v.text], "\n".join(map(str, found))


def test_every_law_and_every_guarantee_is_broken_by_some_story() -> None:
    assert {guarantee for guarantee, _, _ in SPOILT} == {0, 1, 2, 3, 4, 5, 6, 7, 12}
    silent = set(LAWS)
    for _, _, spoil in SPOILT:
        story = Story()
        spoil(story)
        seen = check(story.evidence).seen
        silent -= {law for law in silent if list(law(story.evidence, seen))}
    assert not silent


def test_calls_before_a_loss_need_no_row_and_calls_after_it_do() -> None:
    story = Story()
    story.evidence.archive.usage.pop(0)
    story.evidence.calls[0].began = 3.0
    story.evidence.faults.append(Happened("redis flushall", "redis", 2.0, 2.0))
    said = [v.text for v in check(story.evidence).violations if "rows for 2 calls" in v.text]
    assert said == []  # the other call of the step began before the loss
    story.evidence.calls[1].began = 3.0
    assert [v for v in check(story.evidence).violations if "1 rows for 2 calls (0 of them" in v.text]


def test_a_call_left_in_a_trouble_of_a_node_is_excused() -> None:
    story = Story()
    story.evidence.calls.append(Call(ONE, 1, 3, "node-1", 1.0, gone=2.5, text="«r1/1.3» x y", sent="«r1/1.3»"))
    story.evidence.faults.append(Happened("node kill", "node-1", 2.0, 3.0))
    assert [v for v in check(story.evidence).violations if v.guarantee == 6] == []


def test_evidence_is_the_same_after_it_was_saved(tmp_path: Path) -> None:
    story = Story()
    story.evidence.faults.append(Happened("node kill", "node-1", 2.0, 3.0))
    story.evidence.save(tmp_path / "evidence.json")
    assert Evidence.load(tmp_path / "evidence.json") == story.evidence


def test_what_is_shown_of_a_violation_names_its_records_calls_and_rows() -> None:
    story = Story()
    shown = excerpt(story.evidence, Violation(4, "something", ONE, TALK, (0,)))
    for piece in ("guarantee 4", "[0]", "message.completed", "«r1/2.1» two three", "UsageLine"):
        assert piece in shown


def test_the_summary_counts_and_finds_the_worst_recovery() -> None:
    story = Story()
    started = next(r.at for r in story.records if any(m.get("seq") == 3 for m in r.messages))
    story.evidence.faults.append(Happened("node kill", "node-1", started, 3.0))
    for record in story.records:
        if record.at > started:
            record.at += 2.0
    gap, request_id, kind = worst_recovery(story.evidence)
    assert (round(gap), request_id, kind) == (2, ONE, "node kill")
    line = summary(story.evidence, check(story.evidence).seen)
    assert "2 turns (1 completed, 1 cancelled)" in line
    assert "1 faults (1 node kill)" in line
