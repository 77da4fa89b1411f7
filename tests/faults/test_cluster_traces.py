"""One trace over nodes: who hands a turn over leaves its part, who is killed leaves none and its taker says so."""

from __future__ import annotations

from collections.abc import Sequence

from opentelemetry.proto.trace.v1.trace_pb2 import Span
from tests.support.collector import Collector, attributes_of, running_collector
from tests.support.provider import Script
from tests.support.stand import LONG_S, running_stand

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def runs(spans: Sequence[Span], request_id: str = "r1") -> list[Span]:
    found = [span for span in spans if attributes_of(span).get("turnwire.request_id") == request_id]
    return sorted(found, key=lambda span: span.start_time_unix_nano)


async def ended(collector: Collector) -> list[Span]:
    await collector.until(
        lambda spans: any(attributes_of(run)["turnwire.outcome"] == "completed" for run in runs(spans))
    )
    return runs(collector.spans)


async def test_a_killed_run_is_told_of_by_its_taker_in_the_trace_of_the_client() -> None:
    async with running_collector() as (collector, url), running_stand(telemetry={"otlp_endpoint": url}) as stand:
        stand.says("r1", Script.stalled_after("half ", "an "))
        async with stand.client(stand.a) as first:
            await first.make("r1", "c1", traceparent=PARENT)
            await first.until_said("r1", "half an ")
            await stand.a.kill()
        async with stand.client(stand.b, before=first) as client:
            await client.reopen("c1")
            await client.terminal("r1", LONG_S)
        (run,) = await ended(collector)
        assert (run.trace_id.hex(), run.parent_span_id.hex()) == (PARENT[3:35], PARENT[36:52])
        assert attributes_of(run)["turnwire.run"] == 2
        names = [event.name for event in run.events]
        assert names[:2] == ["turnwire.recovered", "turnwire.attempt.node_lost"]
        assert attributes_of(run)["turnwire.attempts"] == 2, "the lost one is accounted"
        chats = [span for span in collector.spans if span.name.startswith("chat")]
        assert [attributes_of(chat)["turnwire.outcome"] for chat in chats] == ["completed"]


async def test_a_run_that_is_handed_over_and_the_one_that_goes_on_are_one_trace() -> None:
    async with running_collector() as (collector, url):
        async with running_stand(server={"drain_s": 0.2}, telemetry={"otlp_endpoint": url}) as stand:
            stand.says("r1", Script.stalled_after("half "))
            async with stand.client(stand.a) as first:
                await first.make("r1", "c1")
                await first.until_said("r1", "half ")
                stand.a.drain()
                await first.until_lost()
            async with stand.client(stand.b, before=first) as client:
                await client.reopen("c1")
                await client.until_ended("c1", "r1")
            await ended(collector)
            await collector.until(lambda spans: len(runs(spans)) == 2)
        before, after = runs(collector.spans)
        assert before.trace_id == after.trace_id
        assert before.span_id != after.span_id
        assert [attributes_of(run)["turnwire.outcome"] for run in (before, after)] == ["handed_over", "completed"]
