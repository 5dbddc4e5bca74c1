from __future__ import annotations

from contextlib import nullcontext

import pytest

from llamatelemetry.backends.protocol import ModelInfo, StreamEnd, Usage
from llamatelemetry.backends.request import InferenceRequest
from llamatelemetry.clock import ManualClock
from llamatelemetry.inference import metrics
from llamatelemetry.inference.metering import install_meter
from llamatelemetry.inference.observation import Observation, Told

END = StreamEnd(finish_reason="stop", usage=Usage(input_tokens=5, output_tokens=2))
MODEL = ModelInfo(model="m", provider="transformers", in_process=True)


def observe(clock: ManualClock, sink) -> Observation:
    return Observation(InferenceRequest(prompt=""), MODEL, sink, clock=clock.clock)


def test_an_observed_inference_is_a_record_like_the_engines_own(sink):
    clock = ManualClock()
    seen = observe(clock, sink)
    seen.started()
    clock.advance(0.5)
    seen.token()
    clock.advance(0.25)
    seen.token()
    seen.finish(END, text="ab")
    [record] = sink.records
    assert metrics.time_to_first_token(record) == 0.5
    assert metrics.time_per_output_token(record) == 0.25
    assert (record.text, record.usage.input_tokens) == ("ab", 5)


def test_where_there_is_no_queue_none_is_measured(sink):
    clock = ManualClock()
    seen = observe(clock, sink)
    clock.advance(0.001)
    seen.started()
    seen.expects(5)
    seen.finish(END)
    assert metrics.queue_time(sink.records[0]) is None
    assert metrics.preparation_time(sink.records[0]) is None


def test_a_queue_of_the_library_is_told_afterwards(sink):
    clock = ManualClock()
    seen = observe(clock, sink)
    begun = clock.now_ns()
    clock.advance(3)
    seen.started(begun + 1_000_000_000)
    seen.tokens_at([begun + 2_000_000_000, begun + 2_500_000_000])
    seen.finish(END)
    [record] = sink.records
    assert (metrics.queue_time(record), metrics.time_to_first_token(record)) == (1.0, 2.0)


def test_it_ends_once_whatever_comes_after(sink):
    seen = observe(ManualClock(), sink)
    seen.started()
    seen.finish(StreamEnd(finish_reason="cancelled"))
    seen.finish(END)
    assert [record.finish_reason for record in sink.records] == ["cancelled"]


def test_its_end_may_be_told_afterwards(sink):
    clock = ManualClock()
    seen = observe(clock, sink)
    seen.started()
    begun = clock.now_ns()
    clock.advance(3)
    seen.tokens_at([begun + 1_000_000_000, begun + 2_000_000_000])
    seen.finish(END, at_ns=begun + 2_000_000_000)
    [record] = sink.records
    assert metrics.duration(record) == 2.0
    assert metrics.time_per_output_token(record) == 1.0


def test_time_that_the_reader_takes_is_not_the_models(sink):
    clock = ManualClock()
    seen = observe(clock, sink)
    seen.started()
    seen.token()
    clock.advance(5)
    seen.held_back(4_000_000_000)
    seen.token()
    seen.finish(END)
    [record] = sink.records
    assert metrics.inter_token_latencies(record) == (1.0,)
    assert metrics.consumer_wait(record) == 4.0


class LateTrace:
    """Keeps what makes a record until somebody calls it."""

    trace_id = traceparent = None

    def __init__(self):
        self.makes = []
        self.records = []

    def begin(self, opening):
        return self

    def active(self):
        return nullcontext()

    def finish(self, record):
        self.records.append(record)

    def finish_later(self, make):
        self.makes.append(make)


def test_how_it_ended_is_found_out_later_and_when_is_not(sink):
    clock, late = ManualClock(), LateTrace()
    seen = observe(clock, late)
    seen.started()
    begun = clock.now_ns()
    clock.advance(2)
    told = Told(request=InferenceRequest(prompt="in full", max_tokens=7), end=END, tokens_ns=[begun + 1_000_000_000])
    seen.finish_later(lambda: told)
    seen.finish_later(lambda: told)
    clock.advance(30)
    [make] = late.makes
    record = make()
    assert (metrics.duration(record), metrics.time_to_first_token(record)) == (2.0, 1.0)
    assert record.opening.request.max_tokens == 7


def test_an_end_before_the_call_was_over_is_told_later_too():
    clock, late = ManualClock(), LateTrace()
    seen = observe(clock, late)
    seen.started()
    begun = clock.now_ns()
    clock.advance(2)
    seen.finish_later(lambda: Told(request=InferenceRequest(prompt=""), end=END, at_ns=begun + 1_500_000_000))
    assert metrics.duration(late.makes[0]()) == 1.5


def test_where_hardware_is_measured_the_end_is_found_out_at_once(meter):
    late = LateTrace()
    seen = observe(ManualClock(), late)
    seen.started()
    told = Told(request=InferenceRequest(prompt=""), end=END, tokens_ns=[1, 2])
    seen.finish_later(lambda: told)
    assert not late.makes
    assert len(late.records[0].token_ns) == 2
    [work] = meter.works
    assert len(work.work().token_ns) == 2
    assert work.work().ended_ns is not None


class CountingMeter:
    """Measures nothing, of every request."""

    def __init__(self):
        self.works = []

    def begin(self, work):
        self.works.append(work)
        return self

    def wait(self, timeout_s=None):
        return None


@pytest.fixture
def meter():
    meter = CountingMeter()
    install_meter(meter)
    yield meter
    install_meter(None)
