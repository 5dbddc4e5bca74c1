from __future__ import annotations

from llamatelemetry.backends.protocol import ModelInfo, StreamEnd, Usage
from llamatelemetry.backends.request import InferenceRequest
from llamatelemetry.clock import ManualClock
from llamatelemetry.inference import metrics
from llamatelemetry.inference.observation import Observation

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
