from __future__ import annotations

import json

import pytest

from llamatelemetry.backends.protocol import Alternative, BackendTimings, ModelInfo, StreamEnd, Usage
from llamatelemetry.backends.request import InferenceRequest
from llamatelemetry.clock import ManualClock
from llamatelemetry.errors import BackendConnectionError
from llamatelemetry.inference.events import EventRecorder
from llamatelemetry.inference.record import FinishedRecord, KVHold
from llamatelemetry.otel.content import content_of
from llamatelemetry.otel.facts import attempts_of, facts_of, phases_of
from llamatelemetry.otel.redaction import Redactor

MODEL = ModelInfo(model="m", provider="llamacpp", slots=4, owned=True)
CHAT = InferenceRequest(prompt="x")


class Plain:
    def text(self, text: str) -> str:
        return text


def record_of(*steps: str, request: InferenceRequest = CHAT, end: StreamEnd | None = None, error=None, **admission):
    """A record made by the steps named, a second apart."""
    clock = ManualClock(0)
    recorder = EventRecorder(request, MODEL, streaming=False, queue_depth=0, clock=clock.clock)
    for step in steps:
        clock.advance(1)
        if step == "admitted":
            recorder.admitted(**admission)
        elif step == "attempt_failed":
            recorder.attempt_failed("503")
        else:
            getattr(recorder, step)()
    clock.advance(1)
    return recorder.finish(end or StreamEnd(finish_reason="stop"), text="", error=error)


def facts(record: FinishedRecord):
    return facts_of(record, Plain())


def phases(record: FinishedRecord) -> list[tuple[str, int, int]]:
    return [(phase.name, start // 10**9, end // 10**9) for phase, start, end in phases_of(record)]


def test_an_admission_is_told_with_its_reason_delay_slot_and_pages():
    hold = KVHold(pages=3, page_size=16, estimated=True, cached_estimate=32)
    found = facts(record_of("queued", "admitted", "dispatched", "token", kv=hold, reason="prefix", slot=2))
    assert (found.preparation_s, found.scheduling_delay_s, found.queue_duration_s) == (1, 1, 3)
    assert (found.admission, found.slot_id) == ("prefix", 2)
    assert (found.kv_pages, found.kv_page_size, found.kv_estimated, found.kv_cached_estimate) == (3, 16, True, 32)


def test_each_of_several_answers_is_told_with_its_reason():
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    others = (
        Alternative(finish_reason="length", text="b", reasoning="because"),
        Alternative(finish_reason="tool_calls", tool_calls=(call,)),
    )
    record = record_of("dispatched", end=StreamEnd(finish_reason="stop", alternatives=others))
    found = facts(record)
    assert (found.finish_reasons, found.finish_reason) == (("stop", "length", "tool_calls"), "stop")
    content = content_of(record, Redactor())
    said = json.loads(content.output_messages or "")
    assert [message["finish_reason"] for message in said] == ["stop", "length", "tool_calls"]
    assert [[part["type"] for part in message["parts"]] for message in said] == [
        [],
        ["reasoning", "text"],
        ["tool_call"],
    ]


def test_a_prompt_whose_words_nobody_knows_is_no_empty_prompt():
    record = record_of("dispatched", request=InferenceRequest(prompt=""))
    content = content_of(record, Redactor())
    assert (content.input_messages, content.input_text) == (None, None)
    assert json.loads(content.output_messages or "")[0]["role"] == "assistant"


def test_what_nobody_counted_is_unknown():
    found = facts(record_of("dispatched", "token"))
    assert (found.admission, found.scheduling_delay_s, found.kv_pages, found.kv_estimated) == (None,) * 4


@pytest.mark.parametrize(
    ("steps", "attempts", "last"),
    [
        ((), 0, "queue"),
        (("admitted",), 0, "queue"),
        (("dispatched",), 1, "prefill"),
        (("dispatched", "token"), 1, "decode"),
        (("dispatched", "attempt_failed"), 1, "queue"),
        (("dispatched", "attempt_failed", "dispatched", "token"), 2, "decode"),
    ],
)
def test_tries_are_counted_and_the_last_phase_is_known(steps, attempts, last):
    record = record_of(*steps)
    assert (facts(record).attempts, facts(record).last_phase) == (attempts, last)
    assert phases(record)[-1][0] == last


def test_the_time_of_tries_that_failed_is_the_queues_and_each_has_its_moment():
    record = record_of(
        "dispatched", "attempt_failed", "dispatched", "attempt_failed", "admitted", "dispatched", "token"
    )
    assert phases(record) == [("queue", 0, 6), ("prefill", 6, 7), ("decode", 7, 8)]
    assert [(fact.number, fact.error_type, at // 10**9) for fact, at in attempts_of(record)] == [
        (1, "503", 2),
        (2, "503", 4),
    ]


def test_a_request_given_up_between_two_tries_ends_in_the_queue():
    record = record_of("dispatched", "attempt_failed", error=BackendConnectionError("a", "b"))
    assert phases(record) == [("queue", 0, 3)]
    assert facts(record).error_type == "BackendConnectionError"


def test_the_address_is_that_of_the_backend_that_answered():
    other = ModelInfo(model="m", provider="llamacpp", server_address="127.0.0.1", server_port=8081, owned=False)
    found = facts(record_of("admitted", "dispatched", "token", model=other))
    assert (found.server_address, found.server_port) == ("127.0.0.1", 8081)
    assert found.server_request_duration_s is None
    assert facts(record_of("admitted", "dispatched", "token")).server_request_duration_s == 2


def test_embeddings_have_dimensions_a_prefill_and_no_decode():
    end = StreamEnd(
        finish_reason="stop",
        usage=Usage(input_tokens=5),
        timings=BackendTimings(prefill_ms=400.0),
        embeddings=((0.5, 0.5, 0.0), (0.0, 1.0, 0.0)),
    )
    record = record_of("dispatched", request=InferenceRequest(input=["a", "b"]), end=end)
    found = facts(record)
    assert (found.operation, found.embedding_dimensions, found.input_tokens) == ("embeddings", 3, 5)
    assert (found.output_tokens, found.total_tokens, found.time_to_first_token_s) == (None, None, None)
    assert found.openinference_span_kind == "EMBEDDING"
    assert phases(record) == [("queue", 0, 1), ("prefill", 1, 2)]
    prefill = phases_of(record)[1][0]
    assert (prefill.prefill_duration_s, prefill.backend_wait_s) == (0.4, 0.6)
