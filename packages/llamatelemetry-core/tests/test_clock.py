from __future__ import annotations

from llamatelemetry.backends.protocol import ModelInfo, StreamEnd
from llamatelemetry.backends.request import InferenceRequest
from llamatelemetry.clock import SYSTEM_CLOCK, Clock, ManualClock
from llamatelemetry.inference.events import EventRecorder


def test_a_manual_clock_moves_only_when_told() -> None:
    manual = ManualClock(start_ns=10)
    assert (manual.clock.monotonic_ns(), manual.clock.time_ns()) == (10, 10)
    manual.clock.sleep(1.5)
    assert manual.now_ns() == 1_500_000_010


def test_the_system_clock_never_goes_back() -> None:
    moments = [SYSTEM_CLOCK.monotonic_ns() for _ in range(1000)]
    assert moments == sorted(moments)


def test_a_stepped_wall_clock_does_not_bend_a_record() -> None:
    manual = ManualClock()
    wall = [5_000_000_000]
    clock = Clock(monotonic_ns=manual.now_ns, time_ns=lambda: wall[0], sleep=manual.advance)
    recorder = EventRecorder(
        InferenceRequest(prompt="x"), ModelInfo(model="m", provider="p"), streaming=False, queue_depth=0, clock=clock
    )
    recorder.dispatched()
    manual.advance(1)
    wall[0] -= 3_600_000_000_000
    recorder.token()
    record = recorder.finish(StreamEnd(finish_reason="stop"), text="")
    assert record.opening.submitted_ns == 5_000_000_000
    assert list(record.token_ns) == [6_000_000_000]
    assert record.finished_ns == 6_000_000_000
