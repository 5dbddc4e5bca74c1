from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamatelemetry.backends.protocol import BackendTimings, ModelInfo, StreamEnd, Usage
from llamatelemetry.backends.request import InferenceRequest
from llamatelemetry.clock import ManualClock
from llamatelemetry.inference import metrics
from llamatelemetry.inference.events import EventRecorder
from llamatelemetry.inference.record import FinishedRecord

MODEL = ModelInfo(model="m", provider="echo")


def record_of(
    *,
    queue_s: float | None = 0.5,
    gaps_s: tuple[float, ...] = (1.0, 0.25, 0.25),
    tail_s: float = 0.0,
    output_tokens: int | None = None,
    timings: BackendTimings | None = None,
) -> FinishedRecord:
    clock = ManualClock()
    recorder = EventRecorder(InferenceRequest(prompt="x"), MODEL, streaming=True, queue_depth=0, clock=clock.clock)
    if queue_s is not None:
        clock.advance(queue_s)
        recorder.dispatched()
        for gap in gaps_s:
            clock.advance(gap)
            recorder.token()
    clock.advance(tail_s)
    end = StreamEnd(
        finish_reason="stop",
        usage=Usage(output_tokens=output_tokens),
        timings=timings or BackendTimings(),
    )
    return recorder.finish(end, text="")


def test_figures_follow_from_the_timestamps() -> None:
    record = record_of(tail_s=0.1)
    assert metrics.queue_time(record) == pytest.approx(0.5)
    assert metrics.time_to_first_token(record) == pytest.approx(1.5)
    assert metrics.duration(record) == pytest.approx(2.1)
    assert metrics.time_per_output_token(record) == pytest.approx(0.3)
    assert metrics.tokens_per_second(record) == pytest.approx(4.0)
    assert metrics.inter_token_latencies(record) == pytest.approx((0.25, 0.25))


def test_the_backends_count_is_believed_over_the_number_of_deltas() -> None:
    record = record_of(output_tokens=5)
    assert metrics.output_tokens(record) == 5
    assert metrics.time_per_output_token(record) == pytest.approx(0.5 / 4)


def test_a_single_token_has_no_time_per_output_token_and_no_speed() -> None:
    record = record_of(gaps_s=(1.0,), tail_s=0.5)
    assert metrics.time_to_first_token(record) == pytest.approx(1.5)
    assert metrics.time_per_output_token(record) is None
    assert metrics.tokens_per_second(record) is None
    assert metrics.inter_token_latencies(record) == ()


def test_a_request_that_never_ran_has_only_a_duration() -> None:
    record = record_of(queue_s=None, tail_s=3.0)
    assert metrics.duration(record) == pytest.approx(3.0)
    assert metrics.queue_time(record) is None
    assert metrics.time_to_first_token(record) is None
    assert metrics.output_tokens(record) is None


def test_prefill_speed_is_the_backends_own_and_none_without_it() -> None:
    assert metrics.prefill_tokens_per_second(record_of()) is None
    measured = BackendTimings(prefill_ms=250.0, prefill_tokens=100)
    assert metrics.prefill_tokens_per_second(record_of(timings=measured)) == pytest.approx(400.0)
    nothing_computed = BackendTimings(prefill_ms=0.0, prefill_tokens=0)
    assert metrics.prefill_tokens_per_second(record_of(timings=nothing_computed)) is None


@given(st.lists(st.floats(0, 100), max_size=50), st.floats(0, 1))
def test_a_percentile_is_one_of_the_values_with_that_share_at_or_below_it(values: list[float], share: float) -> None:
    ordered = sorted(values)
    found = metrics.percentile(ordered, share)
    if not values:
        assert found is None
    else:
        assert found in values
        assert sum(value <= found for value in values) >= share * len(values) - 1e-9


@given(
    st.floats(0, 10),
    st.lists(st.floats(0, 5), min_size=1, max_size=30).map(tuple),
    st.floats(0, 1),
)
def test_times_add_up_and_never_run_backwards(queue_s: float, gaps_s: tuple[float, ...], tail_s: float) -> None:
    record = record_of(queue_s=queue_s, gaps_s=gaps_s, tail_s=tail_s)
    ttft = metrics.time_to_first_token(record)
    assert ttft is not None
    assert 0 <= (metrics.queue_time(record) or 0) <= ttft <= metrics.duration(record)
    assert ttft + sum(metrics.inter_token_latencies(record)) <= metrics.duration(record) + 1e-6
    assert len(metrics.inter_token_latencies(record)) == len(gaps_s) - 1


def test_the_scheduling_delay_is_what_lies_between_admission_and_dispatch():
    clock = ManualClock()
    recorder = EventRecorder(InferenceRequest(prompt="x"), MODEL, streaming=True, queue_depth=0, clock=clock.clock)
    recorder.admitted(reason="next")
    clock.advance(0.5)
    waiting = recorder.finish(StreamEnd(finish_reason="cancelled"), text="")
    recorder.dispatched()
    assert metrics.scheduling_delay(recorder.finish(StreamEnd(finish_reason="stop"), text="")) == 0.5
    assert metrics.scheduling_delay(waiting) is None
    assert metrics.scheduling_delay(record_of()) is None


def test_preparing_a_request_ends_when_it_joins_the_queue():
    clock = ManualClock()
    recorder = EventRecorder(InferenceRequest(prompt="x"), MODEL, streaming=True, queue_depth=0, clock=clock.clock)
    clock.advance(0.25)
    assert metrics.preparation_time(recorder.finish(StreamEnd(finish_reason="error"), text="")) is None
    recorder.queued()
    clock.advance(1)
    assert metrics.preparation_time(recorder.finish(StreamEnd(finish_reason="stop"), text="")) == 0.25
