from __future__ import annotations

from collections.abc import Iterator

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from llamatelemetry.backends.protocol import ModelInfo
from llamatelemetry.inference import live
from llamatelemetry.inference.live import EngineStats
from llamatelemetry.otel.instruments import Instruments
from llamatelemetry.testing.semconv import assert_valid_metrics

MODEL = ModelInfo(model="m", provider="test")
STATS = EngineStats(
    model=MODEL,
    queue_depth=5,
    queued_tokens=900,
    requests_active=4,
    slots=8,
    kv_pages_used=20,
    kv_pages_limit=64,
    kv_pages_shared=6,
    prefix_queries_tokens=100,
    prefix_hits_tokens=60,
    prefix_reported_queries_tokens=90,
    prefix_reported_hits_tokens=45,
    rejected={"queue_full_requests": 3, "context_overflow": 1},
    retried=2,
)
OURS = ("queue.", "requests.", "slots.", "kv.", "prefix_cache.")


class Engine:
    """Says what it is told to."""

    def __init__(self, stats: EngineStats) -> None:
        self._stats = stats
        live.add(self)

    def stats(self) -> EngineStats:
        return self._stats

    def close(self, *, drain: bool = True) -> None:
        live.discard(self)


class Observed:
    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self.provider = MeterProvider([self._reader], shutdown_on_exit=False)
        Instruments(self.provider.get_meter("t"), ("gen_ai",))

    def values(self) -> dict[str, dict[tuple[object, ...], int]]:
        """Figures by name and by the attributes beyond provider and model."""
        data = self._reader.get_metrics_data()
        assert_valid_metrics(data)
        return {
            metric.name.removeprefix("llamatelemetry."): {
                tuple(value for name, value in point.attributes.items() if not name.startswith("gen_ai.")): point.value
                for point in metric.data.data_points
            }
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }


@pytest.fixture
def observed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Observed]:
    monkeypatch.setattr(live, "_engines", type(live._engines)())
    monkeypatch.setattr(live, "_closed", type(live._closed)())
    made = Observed()
    yield made
    made.provider.shutdown()


def test_everything_an_engine_says_is_observed(observed: Observed) -> None:
    engine = Engine(STATS)
    assert observed.values() == {
        "queue.depth": {(): 5},
        "queue.tokens": {(): 900},
        "requests.active": {(): 4},
        "requests.rejected": {("queue_full_requests",): 3, ("context_overflow",): 1},
        "requests.retried": {(): 2},
        "slots.limit": {(): 8},
        "kv.pages.used": {(True,): 20},
        "kv.pages.shared": {(True,): 6},
        "kv.pages.limit": {(True,): 64},
        "prefix_cache.queries": {("engine",): 100, ("backend",): 90},
        "prefix_cache.hits": {("engine",): 60, ("backend",): 45},
    }
    engine.close()


def test_what_an_engine_does_not_know_is_not_observed_as_zero(observed: Observed) -> None:
    engine = Engine(EngineStats(model=MODEL))
    assert set(observed.values()) == {"queue.depth", "requests.active", "requests.retried"}
    engine.close()


def test_engines_of_one_model_are_one_figure_and_estimated_pages_are_not_added_to_true_ones(
    observed: Observed,
) -> None:
    engines = [
        Engine(EngineStats(model=MODEL, queue_depth=1, kv_pages_used=2)),
        Engine(EngineStats(model=MODEL, queue_depth=2, kv_pages_used=3)),
        Engine(EngineStats(model=MODEL, kv_pages_used=7, kv_estimated=False)),
    ]
    values = observed.values()
    assert values["queue.depth"] == {(): 3}
    assert values["kv.pages.used"] == {(True,): 5, (False,): 7}
    for engine in engines:
        engine.close()


def test_each_backend_of_an_engine_is_told_apart_and_what_they_share_is_not(observed: Observed) -> None:
    backends = tuple(
        EngineStats(
            model=ModelInfo(model="m", provider="test", server_address="127.0.0.1", server_port=port),
            requests_active=active,
            slots=4,
        )
        for port, active in ((8080, 3), (8081, 1))
    )
    engine = Engine(EngineStats(model=MODEL, queue_depth=9, requests_active=4, slots=8, backends=backends))
    values = observed.values()
    assert values["requests.active"] == {("127.0.0.1", 8080): 3, ("127.0.0.1", 8081): 1}
    assert values["slots.limit"] == {("127.0.0.1", 8080): 4, ("127.0.0.1", 8081): 4}
    assert values["queue.depth"] == {(): 9}
    engine.close()


def test_counts_stay_when_an_engine_is_closed_and_levels_go(observed: Observed) -> None:
    Engine(STATS).close()
    other = Engine(EngineStats(model=MODEL, rejected={"context_overflow": 2}, prefix_reported_hits_tokens=5))
    values = observed.values()
    assert values["requests.rejected"] == {("queue_full_requests",): 3, ("context_overflow",): 3}
    assert values["prefix_cache.hits"] == {("engine",): 60, ("backend",): 50}
    assert values["queue.depth"] == {(): 0}
    assert "kv.pages.used" not in values
    other.close()
