from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.metrics import CallbackOptions, Meter, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from llamatelemetry.otel.standing_metrics import StandingMeterProvider


def measuring() -> tuple[MeterProvider, InMemoryMetricReader]:
    reader = InMemoryMetricReader()
    return MeterProvider([reader], shutdown_on_exit=False), reader


def read(reader: InMemoryMetricReader) -> dict[str, Any]:
    data = reader.get_metrics_data()
    if data is None:
        return {}
    metrics = [m for group in data.resource_metrics for scoped in group.scope_metrics for m in scoped.metrics]
    return {metric.name: metric for metric in metrics}


def one(_: CallbackOptions) -> list[Observation]:
    return [Observation(1, {"k": "v"})]


def instruments(meter: Meter) -> dict[str, Any]:
    return {
        "counter": meter.create_counter("counter", "{x}", "Counts."),
        "updown": meter.create_up_down_counter("updown"),
        "gauge": meter.create_gauge("gauge"),
        "histogram": meter.create_histogram("histogram", "s", explicit_bucket_boundaries_advisory=[1, 2]),
        "ocounter": meter.create_observable_counter("ocounter", [one]),
        "oupdown": meter.create_observable_up_down_counter("oupdown", [one]),
        "ogauge": meter.create_observable_gauge("ogauge", [one], "By"),
    }


def measure(made: dict[str, Any]) -> None:
    made["counter"].add(2, {"k": "v"})
    made["updown"].add(-1)
    made["gauge"].set(5)
    made["histogram"].record(1.5)


def test_instruments_made_at_any_time_lead_to_the_provider_of_the_moment() -> None:
    standing = StandingMeterProvider()
    made = instruments(standing.get_meter("scope"))
    measure(made)
    for _ in range(2):
        provider, reader = measuring()
        standing.lead_to(provider)
        measure(made)
        found = read(reader)
        assert set(found) == set(made)
        assert found["counter"].data.data_points[0].value == 2, "counts begin anew with each provider"
        assert (found["counter"].unit, found["counter"].description) == ("{x}", "Counts.")
        assert tuple(found["histogram"].data.data_points[0].explicit_bounds) == (1, 2)
        assert found["ogauge"].data.data_points[0].value == 1
        assert found["ogauge"].unit == "By"


def test_an_instrument_made_once_there_is_a_provider_works_at_once() -> None:
    standing = StandingMeterProvider()
    provider, reader = measuring()
    standing.lead_to(provider)
    standing.get_meter("scope").create_counter("c").add(1)
    assert read(reader)["c"].data.data_points[0].value == 1


def test_an_instrument_asked_for_twice_is_the_same(recwarn: pytest.WarningsRecorder) -> None:
    meter = StandingMeterProvider().get_meter("scope")
    assert meter.create_counter("c") is meter.create_counter("c")
    assert meter.create_counter("c") is not meter.create_counter("d")


def test_what_libraries_ask_of_an_sdk_provider_reaches_it() -> None:
    standing = StandingMeterProvider()
    provider, _ = measuring()
    standing.lead_to(provider)
    assert standing.force_flush()
