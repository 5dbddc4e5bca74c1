from __future__ import annotations

import threading
from dataclasses import dataclass, field

import pytest

from llamatelemetry.backends.echo import EchoBackend
from llamatelemetry.backends.protocol import BackendTimings, ModelInfo, StreamEnd, Usage
from llamatelemetry.backends.request import InferenceRequest
from llamatelemetry.clock import ManualClock
from llamatelemetry.inference.engine import InferenceEngine
from llamatelemetry.inference.events import EventRecorder
from llamatelemetry.inference.metering import HardwareUse, WorkInProgress, install_meter
from llamatelemetry.inference.record import KVHold

T0 = 1_700_000_000_000_000_000


@dataclass(frozen=True)
class Use:
    energy_j: float | None = 1.5
    memory_peak_bytes: int | None = 3_000_000
    memory_delta_bytes: int | None = -1_000_000


@dataclass
class Meter:
    seen: list[WorkInProgress] = field(default_factory=list)
    waits: list[float | None] = field(default_factory=list)

    def begin(self, work: WorkInProgress) -> Meter:
        self.seen.append(work)
        return self

    def wait(self, timeout_s: float | None = None) -> HardwareUse | None:
        self.waits.append(timeout_s)
        return Use()


@pytest.fixture
def meter():
    meter = Meter()
    install_meter(meter)
    yield meter
    install_meter(None)


def begin() -> tuple[EventRecorder, ManualClock]:
    clock = ManualClock(T0)
    request, model = InferenceRequest(prompt="x"), ModelInfo(model="m", provider="echo")
    return EventRecorder(request, model, streaming=False, queue_depth=0, clock=clock.clock), clock


def test_a_result_has_the_figures_of_whoever_measures_and_asks_when_it_is_read(meter):
    with InferenceEngine("echo") as engine:
        result = engine.generate(InferenceRequest(prompt="one two"))
    assert meter.waits == []
    assert (result.energy_j, result.vram_peak_mb, result.vram_delta_mb) == (1.5, 3.0, -1.0)
    assert meter.waits == [None, None, None]


def test_a_meter_is_shown_each_request_once_and_sees_its_tokens_and_its_end(meter):
    with InferenceEngine("echo") as engine:
        result = engine.generate(InferenceRequest(prompt="one two three"))
    (shown,) = meter.seen
    work = shown.work()
    assert len(work.token_ns) == result.output_tokens == 3
    assert work.begun_ns == work.dispatched_ns <= work.token_ns[0] <= work.token_ns[-1] <= work.ended_ns
    assert shown.served_by.provider == "echo"


def test_a_request_that_never_ran_is_not_shown(meter):
    running, let_go = threading.Event(), threading.Event()

    class OneAtATime(EchoBackend):
        def stream(self, request, placement):
            running.set()
            let_go.wait(10)
            yield from super().stream(request, placement)

    with InferenceEngine(OneAtATime()) as engine:
        first = engine.submit(InferenceRequest(prompt="one"))
        assert running.wait(10)
        waiting = engine.submit(InferenceRequest(prompt="two"))
        waiting.cancel()
        let_go.set()
        first.result(10)
    assert len(meter.seen) == 1


def test_without_a_meter_nothing_is_known():
    with InferenceEngine("echo") as engine:
        result = engine.generate(InferenceRequest(prompt="one"))
    assert (result.energy_j, result.vram_peak_mb, result.vram_delta_mb) == (None, None, None)


def test_prefill_is_what_the_engine_expects_until_the_backend_says():
    recorder, _ = begin()
    recorder.queued(100)
    recorder.admitted(kv=KVHold(pages=3, page_size=16, estimated=True, cached_estimate=32))
    recorder.dispatched()
    assert recorder.work().prefill_tokens == 68
    assert recorder.work().ended_ns is None
    recorder.finish(StreamEnd(finish_reason="stop", usage=Usage(input_tokens=101, cached_tokens=11)), text="")
    assert recorder.work().prefill_tokens == 90
    assert recorder.work().ended_ns == T0


def test_the_count_of_the_backends_own_prefill_goes_before_its_usage():
    recorder, _ = begin()
    recorder.dispatched()
    end = StreamEnd(
        finish_reason="stop", usage=Usage(input_tokens=101), timings=BackendTimings(prefill_ms=1, prefill_tokens=7)
    )
    recorder.finish(end, text="")
    assert recorder.work().prefill_tokens == 7


def test_work_begins_with_the_first_try_and_counts_from_the_last():
    recorder, clock = begin()
    recorder.dispatched()
    clock.advance(1)
    recorder.attempt_failed("503")
    assert (recorder.work().begun_ns, recorder.work().dispatched_ns) == (T0, T0)
    clock.advance(1)
    recorder.dispatched()
    assert (recorder.work().begun_ns, recorder.work().dispatched_ns) == (T0, T0 + 2_000_000_000)
