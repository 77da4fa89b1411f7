"""Within an epoch a seq is written once, whatever Redis loses (guarantee 1), and what an owner has said is not lost
while it lives (guarantee 7).

Two turns of one conversation append while the server goes back to older copies of its data, loses everything, or only
seems to have lost something. Whatever anybody was ever told is remembered by epoch and seq.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.examples import examples

from turnwire_protocol import Entry
from turnwire_server.eventlog.base import Append, Appended, Fenced, Forgotten, LogUnavailable, Owned, Reentry

from .eventlog_writing import member
from .kit import LogKit, op, text_of
from .test_eventlog_redis_loss import Losing, losing

_STEPS = st.one_of(
    st.tuples(st.just("say"), st.integers(0, 1), st.integers(1, 3)),
    st.tuples(st.just("say"), st.integers(0, 1), st.integers(1, 3)),
    st.tuples(st.just("emit"), st.just(0), st.just(0)),
    st.tuples(st.sampled_from(["keep", "go_back", "lose", "restart", "settle"]), st.just(0), st.just(0)),
)


@dataclass
class Speaker:
    """An owner as the server's is: it counts what it has handed over, and puts everything back when asked."""

    kit: LogKit
    owned: Owned
    epoch: str
    said: list[str] = field(default_factory=list)
    taken_back: int = 0
    lost: bool = False

    async def say(self, texts: list[str], seen: Seen) -> None:
        append = self.kit.append(self.owned, len(self.said), *texts, epoch=self.epoch)
        while not self.lost:
            (answer,) = await self.kit.log.append([append])
            if isinstance(answer, Fenced):
                self.lost = True
            elif isinstance(answer, Forgotten):
                if append.reentry is None:
                    self.said += texts
                append = self._whole()
            else:
                self._written(append, answer, texts, seen)
                return

    def _whole(self) -> Append:
        owned = self.owned
        story = Reentry(owned.spec, owned.ordinal, 1, len(self.said), "streaming", {"said": list(self.said)})
        return Append(owned.request, owned.conversation, owned.fence, 0, (), epoch=self.epoch, reentry=story)

    def _written(self, append: Append, answer: Appended, texts: list[str], seen: Seen) -> None:
        self.epoch = answer.epoch
        seen.told(answer.epoch, answer.entries)
        if append.reentry is None:
            self.said += texts


class Seen:
    """What anybody was ever told."""

    def __init__(self) -> None:
        self._meanings: dict[tuple[str, int], bytes] = {}
        self._shown: dict[str, list[tuple[int, dict[str, list[str]]]]] = {}

    def told(self, epoch: str, entries: Sequence[Entry]) -> None:
        for entry in entries:
            assert self._meanings.setdefault((epoch, entry.seq), entry.body) == entry.body, (epoch, entry.seq)

    def shown(self, epoch: str, seq: int, state: dict[str, list[str]], entries: Sequence[Entry]) -> None:
        """A snapshot. Whoever got an earlier one of this epoch, and all entries since, sees the same."""
        for before, old in self._shown.setdefault(epoch, []):
            for request_id, texts in old.items():
                assert texts + _texts(entries, request_id, before) == state[request_id], (epoch, before, seq)
        self._shown[epoch].append((seq, state))


async def look(place: Losing, seen: Seen, speakers: list[Speaker]) -> None:
    """What a follower that comes now is shown: a snapshot, and all that is in the log."""
    kit = place.there
    live = await kit.log.live(kit.ref())
    page = await kit.log.read(kit.ref(), 0, limit=10_000, max_bytes=10_000_000)
    epoch = live.position.epoch
    assert page.position.epoch == epoch
    assert [entry.seq for entry in page.entries] == list(range(page.position.trimmed + 1, page.position.seq + 1))
    seen.told(epoch, page.entries)
    state = {
        request.request_id: [
            *(request.checkpoint or {"said": []})["said"],
            *_texts(page.entries, request.request_id, request.checkpoint_seq),
        ]
        for request in live.requests
    }
    seen.shown(epoch, live.position.seq, state, page.entries)
    for speaker in speakers:
        # One whose epoch is older does not know yet that something was lost.
        if not speaker.lost and speaker.epoch == epoch:
            assert state[speaker.owned.request.request_id] == speaker.said


def _texts(entries: Sequence[Entry], request_id: str, after: int) -> list[str]:
    return [text_of(entry.event) for entry in entries if entry.seq > after and entry.request_id == request_id]


@settings(
    max_examples=examples(15), deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@given(st.lists(_STEPS, min_size=5, max_size=25))
def test_a_seq_has_one_meaning_in_its_epoch_and_what_the_living_said_is_shown(
    steps: list[tuple[str, int, int]],
) -> None:
    asyncio.run(_play(steps))


async def _play(steps: list[tuple[str, int, int]]) -> None:
    seen = Seen()
    count = 0
    async with asyncio.timeout(60), losing() as place:
        owned = [await place.here.begin("r1", "0"), await place.there.begin("r2", "0")]
        speakers = [
            Speaker(kit, turn, turn.epoch, ["0"]) for kit, turn in zip((place.here, place.there), owned, strict=True)
        ]
        place.keep()
        for what, who, how_many in steps:
            match what:
                case "say":
                    texts = [str(count + i) for i in range(1, how_many + 1)]
                    count += how_many
                    await speakers[who].say(texts, seen)
                case "emit":
                    count += 1
                    try:
                        entries = await place.there.log.emit(op(), place.there.ref(), [member(f"user-{count}")])
                    except LogUnavailable:
                        continue  # there is nothing yet to add it to
                    seen.told((await place.there.log.position(place.there.ref())).epoch, entries)
                case "keep":
                    place.keep()
                case "go_back":
                    await place.go_back()
                case "lose":
                    await place.lose_everything()
                case "restart":
                    await place.restart()
                case "settle":
                    await place.settle()
                case _:
                    raise AssertionError(what)
            with suppress(LogUnavailable):  # in doubt, and nothing is there yet
                await look(place, seen, speakers)
