"""Spans, what is kept of them, and what is taken out of them before."""

from __future__ import annotations

import orjson
import pytest

from turnwire_server.settings import SettingsError, build_settings
from turnwire_server.telemetry import redactor
from turnwire_server.telemetry.metrics import Metrics
from turnwire_server.telemetry.tracing import RunTrace, Span, Tracer, trace_id_of
from turnwire_server.telemetry.tracing import tracer as tracer_module
from turnwire_server.telemetry.tracing.policy import DETECTORS, MOST_TEXT, check, redact_trace
from turnwire_server.telemetry.tracing.record import MOST_BYTES, merged, record_of
from turnwire_server.telemetry.tracing.spans import MOST_EVENTS, MOST_SPANS


def run(detectors: tuple[str, ...] = (), *spans: Span) -> RunTrace:
    return RunTrace("acme", "r1", "a" * 32, 1, 7, detectors, list(spans))


def test_all_runs_of_a_request_find_the_same_trace_and_no_other_request_has_it() -> None:
    ids = [trace_id_of(*names, None) for names in (("acme", "r1"), ("acme", "r2"), ("acmer", "1"), ("other", "r1"))]
    assert len(set(ids)) == len(ids)
    assert {len(one) for one in ids} == {32}
    assert trace_id_of("acme", "r1", None) == ids[0]


def test_spans_and_events_are_bounded_and_what_is_left_out_is_counted() -> None:
    trace = run()
    for number in range(MOST_SPANS + 3):
        span = trace.begin(Span(f"s{number}", 1.0))
    for _ in range(MOST_EVENTS + 3):
        span.event(1.0, "again")
    assert (len(trace.spans), trace.left_out, len(span.events)) == (MOST_SPANS, 3, MOST_EVENTS)
    assert record_of(trace)["left_out"] == 3


def test_a_record_is_bounded_whatever_its_spans_hold() -> None:
    big = [Span(f"s{number}", 1.0, attributes={"turnwire.text": "x" * 4000}) for number in range(100)]
    record = record_of(run((), *big))
    assert len(orjson.dumps(record)) < MOST_BYTES + 1000
    assert record["left_out"] == 100 - len(record["spans"]) > 0


def test_runs_are_merged_by_time_and_say_whose_they_are() -> None:
    first, second = run((), Span("late", 2.0)), run((), Span("early", 1.0))
    second.run = 2
    found = merged([record_of(first), record_of(second)])
    assert found is not None
    assert [(span["name"], span["run"]) for span in found["spans"]] == [("early", 2), ("late", 1)]
    assert merged([]) is None


@pytest.mark.parametrize(
    ("detector", "found", "left"),
    [
        ("email", "ann.smith+x@mail.example.org", "a@b, @ann"),
        ("card", "4111-1111-1111-1111", "4111 1111 1111 1112"),
        ("phone", "+49 (0)30 123456-7", "1700000000123"),
        ("ip", "192.168.0.1", "version 1.2.3"),
        ("iban", "DE89 3704 0044 0532 0130 00", "DE89"),
    ],
)
def test_detectors_find_what_they_are_for_and_nothing_like_it(detector: str, found: str, left: str) -> None:
    redact = DETECTORS[detector]
    assert redact(f"before {found} after") == "before [hidden] after"
    assert redact(left) == left


def test_everything_in_a_span_that_is_text_goes_through() -> None:
    mail, key = "ann@example.org", "sk-abcdefghijklmnop1234"
    said = f"{mail} {key}"
    span = Span(said, 1.0, attributes={"turnwire.a": said, "turnwire.b": [said], "turnwire.n": 3})
    span.event(1.0, "happened", text=said)
    span.end(2.0, said)
    trace = run(("email",), span)
    redact_trace(trace, redactor())
    assert orjson.dumps(record_of(trace)).count(b"[hidden] [hidden]") == 5
    assert not [secret for secret in (mail, key) if secret in str(span)]
    assert span.attributes["turnwire.n"] == 3


def test_an_id_is_found_again_though_it_looks_like_a_number_that_is_hidden() -> None:
    card = "4111111111111111"
    span = Span("s", 1.0, attributes={"turnwire.request_id": card, "turnwire.other": card})
    redact_trace(run(("card",), span), redactor())
    assert span.attributes == {"turnwire.request_id": card, "turnwire.other": "[hidden]"}


def test_a_long_text_is_cut() -> None:
    span = Span("s", 1.0, attributes={"turnwire.text": "x" * 100_000})
    redact_trace(run((), span), redactor())
    assert len(str(span.attributes["turnwire.text"])) == MOST_TEXT + 1


@pytest.mark.parametrize("entry", ["mail", "re:(", "re:x*", ""])
def test_a_detector_that_cannot_be_used_stops_the_start(entry: str) -> None:
    assert check(entry) is not None
    with pytest.raises(SettingsError) as refused:
        build_settings({"tenants": {"acme": {"redact": ["email", entry]}}}, {})
    assert "tenants.acme.redact" in str(refused.value)


def test_headers_for_the_collector_are_read_from_their_variable_and_are_secret() -> None:
    tree = {"telemetry": {"otlp_headers_env": "HEADERS"}}
    environ = {"HEADERS": "authorization=Bearer a=b , x-team = tea"}
    settings = build_settings(tree, environ)
    assert settings.telemetry.otlp_headers(environ) == {"authorization": "Bearer a=b", "x-team": "tea"}
    assert {"Bearer a=b", "tea"} <= set(settings.secret_values(environ))
    with pytest.raises(SettingsError):
        build_settings(tree, {})


async def test_what_does_not_fit_or_is_not_taken_is_counted_and_the_rest_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tracer_module, "MOST_WAITING", 2)
    metrics, kept = Metrics(), []

    async def keep(tenant: str, request: str, fence: int, record: object) -> bool:
        if not kept:
            kept.append("refused")
            raise ConnectionError
        kept.append(request)
        return True

    tracer = Tracer(keep, redactor(), metrics)
    for _ in range(3):
        tracer.take(run((), Span("s", 1.0)))
    await tracer.aclose()
    assert kept == ["refused", "r1"]
    lines = metrics.render()[1].decode()
    for reason in ("full", "archive"):
        assert f'turnwire_traces_dropped_total{{reason="{reason}"}} 1.0' in lines
