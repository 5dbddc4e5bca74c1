from __future__ import annotations

from llamatelemetry.backends.protocol import ModelInfo, StreamEnd
from llamatelemetry.backends.request import InferenceRequest
from llamatelemetry.clock import ManualClock
from llamatelemetry.inference.events import EventRecorder
from llamatelemetry.inference.record import Attempt, KVHold
from llamatelemetry.inference.result import result_from

T0 = 1_700_000_000_000_000_000
HOLD = KVHold(pages=3, page_size=16, estimated=True, cached_estimate=32)
END = StreamEnd(finish_reason="stop")


def begin(request: InferenceRequest | None = None) -> tuple[EventRecorder, ManualClock]:
    clock = ManualClock(T0)
    request = request or InferenceRequest(prompt="x")
    model = ModelInfo(model="m", provider="echo")
    return EventRecorder(request, model, streaming=False, queue_depth=0, clock=clock.clock), clock


def test_a_request_that_nobody_said_more_about_has_no_facts_that_nobody_measured():
    recorder, _ = begin()
    record = recorder.finish(END, text="")
    assert (record.kv, record.admission, record.admitted_ns, record.slot_id) == (None, None, None, None)
    assert (record.attempts, record.embeddings) == ((), ())
    assert result_from(record, trace_id=None, raw={}).kv_pages is None


def test_an_admission_says_when_why_where_and_with_how_much():
    recorder, clock = begin()
    clock.advance(2)
    recorder.admitted(kv=HOLD, reason="aged", slot=3)
    clock.advance(0.001)
    recorder.dispatched()
    record = recorder.finish(END, text="")
    assert (record.admitted_ns, record.dispatched_ns) == (T0 + 2_000_000_000, T0 + 2_001_000_000)
    assert (record.kv, record.admission, record.slot_id) == (HOLD, "aged", 3)
    assert result_from(record, trace_id=None, raw={}).kv_pages == 3


def test_the_backend_knows_better_which_slot_it_was():
    recorder, _ = begin()
    recorder.admitted(slot=3)
    assert recorder.finish(StreamEnd(finish_reason="stop", slot_id=1), text="").slot_id == 1


def test_a_request_whose_try_failed_waits_again_until_the_next():
    recorder, clock = begin()
    recorder.admitted(reason="next")
    recorder.dispatched()
    clock.advance(1)
    recorder.attempt_failed("BackendConnectionError")
    clock.advance(1)
    recorder.attempt_failed("503")
    waiting = recorder.finish(END, text="")
    recorder.admitted(reason="prefix")
    recorder.dispatched()
    ran = recorder.finish(END, text="")
    failed = (
        Attempt(failed_ns=T0 + 1_000_000_000, error_type="BackendConnectionError"),
        Attempt(failed_ns=T0 + 2_000_000_000, error_type="503"),
    )
    assert waiting.attempts == ran.attempts == failed
    assert (waiting.dispatched_ns, waiting.admitted_ns) == (None, None)
    assert (ran.dispatched_ns, ran.admission) == (T0 + 2_000_000_000, "prefix")


def test_embeddings_reach_the_result():
    recorder, _ = begin(InferenceRequest(input=["a", "b"]))
    vectors = ((1.0, 0.0), (0.0, 1.0))
    record = recorder.finish(StreamEnd(finish_reason="stop", embeddings=vectors), text="")
    assert result_from(record, trace_id=None, raw={}).embeddings == vectors


def test_a_record_is_of_the_backend_that_it_was_sent_to():
    recorder, _ = begin()
    assert recorder.finish(END, text="").model.model == "m"
    other = ModelInfo(model="m", provider="echo", server_address="127.0.0.1", server_port=8081)
    recorder.admitted(model=other)
    assert recorder.finish(END, text="").model == other
