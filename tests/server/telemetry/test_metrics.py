"""The figures: what Prometheus is told, and what it must never be told."""

from __future__ import annotations

import pytest
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.parser import text_string_to_metric_families

from turnwire_server.telemetry import Metrics


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    _, body = metrics.render()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


def figures(metrics: Metrics) -> list[MetricWrapperBase]:
    return [value for value in vars(metrics).values() if isinstance(value, MetricWrapperBase)]


def test_figures_are_rendered_as_prometheus_reads_them() -> None:
    metrics = Metrics()
    metrics.commands_total.labels(type="request.create", outcome="ok").inc()
    metrics.turns_running.inc(3)
    metrics.append_batch_size.observe(7)
    metrics.tokens_total.labels(deployment="mini", kind="input").inc(120)
    content_type, body = metrics.render()
    assert content_type.startswith("text/plain")
    assert b"# HELP turnwire_turns_running" in body
    found = samples(metrics)
    assert found["turnwire_commands_total", (("outcome", "ok"), ("type", "request.create"))] == 1
    assert found["turnwire_turns_running", ()] == 3
    assert found["turnwire_append_batch_size_bucket", (("le", "10.0"),)] == 1
    assert found["turnwire_append_batch_size_bucket", (("le", "5.0"),)] == 0
    assert found["turnwire_tokens_total", (("deployment", "mini"), ("kind", "input"))] == 120


def test_two_servers_in_one_process_share_no_figures() -> None:
    first, second = Metrics(), Metrics()
    first.snapshots_total.inc()
    assert samples(first)["turnwire_snapshots_total", ()] == 1
    assert samples(second)["turnwire_snapshots_total", ()] == 0


def test_connections_are_counted_open_and_by_close_code() -> None:
    metrics = Metrics()
    for code in (1000, 4001, None):
        metrics.connection_opened()
        metrics.connection_closed(code)
    metrics.connection_opened()
    found = samples(metrics)
    assert found["turnwire_connections_open", ()] == 1
    assert found["turnwire_connections_total", (("close_code", "1000"),)] == 1
    assert found["turnwire_connections_total", (("close_code", "4001"),)] == 1
    assert found["turnwire_connections_total", (("close_code", "other"),)] == 1


def test_a_client_cannot_make_series_by_its_close_codes() -> None:
    metrics = Metrics()
    for code in range(3000, 5000):
        metrics.connection_opened()
        metrics.connection_closed(code)
    series = [labels for name, labels in samples(metrics) if name == "turnwire_connections_total"]
    assert len(series) == 11  # the ten codes the server gives, and "other"


def test_no_label_could_name_a_tenant_user_or_request() -> None:
    labels = {label for figure in figures(Metrics()) for label in figure._labelnames}
    from_commands = {"close_code", "type", "outcome", "reason"}
    from_settings = {"deployment", "kind", "check", "backend", "tool", "server"}
    of_the_protocol = {"limit"}
    assert labels == from_commands | from_settings | of_the_protocol


@pytest.mark.parametrize("figure", figures(Metrics()), ids=lambda figure: figure._name)
def test_every_figure_has_the_project_s_name_and_an_explanation(figure: MetricWrapperBase) -> None:
    assert figure._name.startswith("turnwire_")
    assert len(figure._documentation) > 10
