from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Any

import pytest
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Sampler

from llamatelemetry.artifacts.lineage import ModelLineage
from llamatelemetry.backends.echo import EchoBackend, EchoScript
from llamatelemetry.backends.protocol import ModelInfo, StreamEnd, Usage
from llamatelemetry.backends.request import InferenceRequest, SamplingParams
from llamatelemetry.clock import ManualClock
from llamatelemetry.config import Settings
from llamatelemetry.errors import BackendResponseError, RequestCancelledError
from llamatelemetry.inference.engine import InferenceEngine
from llamatelemetry.inference.events import EventRecorder
from llamatelemetry.inference.observation import Observation, Told
from llamatelemetry.inference.record import FinishedRecord, KVHold, Opening
from llamatelemetry.inference.sink import install_sink
from llamatelemetry.otel.recorder import OUTER_INFERENCE_KEY, Recorder, inside_inference
from llamatelemetry.otel.redaction import Redactor
from llamatelemetry.testing.semconv import assert_valid_metrics, assert_valid_spans


class StarRedactor(Redactor):
    def text(self, text: str) -> str:
        return text.replace("secret", "***")


class Bench:
    """A recorder on in-memory exporters, installed as the process's sink."""

    def __init__(self, sampler: Sampler = ALWAYS_ON, *, enrichers: Any = (), **settings: Any) -> None:
        self.spans = InMemorySpanExporter()
        self.logs = InMemoryLogRecordExporter()
        self.reader = InMemoryMetricReader()
        self.settings = Settings(**settings)
        self.tracers = TracerProvider(sampler=sampler, shutdown_on_exit=False)
        self.tracers.add_span_processor(SimpleSpanProcessor(self.spans))
        self.meters = MeterProvider([self.reader], shutdown_on_exit=False)
        self.loggers = LoggerProvider(shutdown_on_exit=False)
        self.loggers.add_log_record_processor(SimpleLogRecordProcessor(self.logs))
        self.recorder = Recorder(
            tracer=self.tracers.get_tracer("t"),
            meter=self.meters.get_meter("t"),
            logger=self.loggers.get_logger("t"),
            settings=self.settings,
            redactor=StarRedactor(keys=self.settings.redact_keys),
            enrichers=enrichers,
        )
        install_sink(self.recorder)

    def finished(self) -> dict[str, ReadableSpan]:
        assert self.recorder.flush(10)
        return {span.name: span for span in self.spans.get_finished_spans()}

    def inference(self) -> ReadableSpan:
        [span] = [span for name, span in self.finished().items() if name.endswith(" echo")]
        return span

    def points(self) -> dict[str, list[Any]]:
        assert self.recorder.flush(10)
        data = self.reader.get_metrics_data()
        assert_valid_metrics(data)
        return {
            metric.name: list(metric.data.data_points)
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def close(self) -> None:
        install_sink(None)
        self.recorder.shutdown(5)
        self.tracers.shutdown()
        self.meters.shutdown()
        self.loggers.shutdown()


@pytest.fixture
def make_bench() -> Iterator[Callable[..., Bench]]:
    benches: list[Bench] = []

    def make(*arguments: Any, **settings: Any) -> Bench:
        benches.append(Bench(*arguments, **settings))
        return benches[-1]

    yield make
    for bench in benches:
        bench.close()


SCRIPT = EchoScript(tokens=["a", "b", "c", "d"], prefill_s=1.0, per_token_s=0.25)
CHAT = InferenceRequest(
    messages=[{"role": "system", "content": "be brief"}, {"role": "user", "content": "my secret is x"}],
    max_tokens=16,
    sampling=SamplingParams(temperature=0, top_k=40),
    stop=["END"],
    seed=1,
    tenant="acme",
    conversation_id="c1",
)


def ask(request: InferenceRequest = CHAT, script: EchoScript = SCRIPT, *, stream: bool = True) -> None:
    clock = ManualClock()
    with InferenceEngine(EchoBackend(script, clock=clock.clock), clock=clock.clock) as engine:
        if stream:
            for _ in engine.stream(request):
                pass
        else:
            engine.generate(request)


def test_one_inference_span_whose_phases_tile_it(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench()
    ask()
    spans = bench.finished()
    assert set(spans) == {"chat echo", "queue", "prefill", "decode"}
    root = spans["chat echo"]
    edges = [root.start_time]
    for name in ("queue", "prefill", "decode"):
        assert spans[name].parent == root.context
        assert spans[name].start_time == edges[-1]
        edges.append(spans[name].end_time)
    assert edges[-1] == root.end_time
    assert [later - earlier for earlier, later in pairwise(edges)] == [
        0,
        1_000_000_000,
        750_000_000,
    ]
    assert_valid_spans(list(spans.values()), bench.settings.semconv)


def test_both_vocabularies_are_emitted_with_the_same_figures(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench()
    ask()
    attributes = bench.inference().attributes or {}
    expected = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "echo",
        "gen_ai.system": "echo",
        "gen_ai.request.model": "echo",
        "gen_ai.request.max_tokens": 16,
        "gen_ai.request.temperature": 0.0,
        "gen_ai.request.top_k": 40,
        "gen_ai.request.stop_sequences": ("END",),
        "gen_ai.request.stream": True,
        "gen_ai.conversation.id": "c1",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.response.time_to_first_chunk": 1.0,
        "gen_ai.usage.input_tokens": 6,
        "gen_ai.usage.output_tokens": 4,
        "gen_ai.usage.cache_read.input_tokens": 0,
        "llm.system": "echo",
        "llm.model": "echo",
        "llm.input.tokens": 6,
        "llm.output.tokens": 4,
        "llm.tokens.total": 10,
        "llm.tokens_per_sec": 4.0,
        "llm.request.duration_ms": 1750.0,
        "llm.finish_reason": "stop",
        "llamatelemetry.request.tenant": "acme",
        "llamatelemetry.time_to_first_token": 1.0,
        "llamatelemetry.time_per_output_token": 0.25,
        "llamatelemetry.queue.duration": 0.0,
        "llamatelemetry.inter_token_latency.max": 0.25,
    }
    assert {name: attributes.get(name) for name in expected} == expected
    assert "gen_ai.input.messages" not in attributes
    assert bench.finished()["decode"].attributes == {
        "llm.phase": "decode",
        "llamatelemetry.decode.duration": 0.75,
        "llamatelemetry.backend.wait": 0.0,
    }


def test_an_answer_taken_whole_is_not_called_a_stream(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench()
    ask(stream=False)
    attributes = bench.inference().attributes or {}
    assert "gen_ai.request.stream" not in attributes
    assert "gen_ai.response.time_to_first_chunk" not in attributes
    assert attributes["llamatelemetry.time_to_first_token"] == 1.0


def test_metrics_have_the_conventions_buckets_and_lead_to_their_trace(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench()
    ask()
    points = bench.points()
    assert set(points) >= {
        "gen_ai.client.operation.duration",
        "gen_ai.client.operation.time_to_first_chunk",
        "gen_ai.client.token.usage",
        "gen_ai.server.request.duration",
        "gen_ai.server.time_to_first_token",
        "gen_ai.server.time_per_output_token",
        "llamatelemetry.queue.duration",
    }
    [duration] = points["gen_ai.client.operation.duration"]
    assert duration.explicit_bounds[:3] == (0.01, 0.02, 0.04)
    assert duration.explicit_bounds[-1] == 81.92
    assert duration.sum == pytest.approx(1.75)
    span = bench.inference()
    assert span.context is not None
    assert [exemplar.trace_id for exemplar in duration.exemplars] == [span.context.trace_id]
    tokens = {point.attributes["gen_ai.token.type"]: point.sum for point in points["gen_ai.client.token.usage"]}
    assert tokens == {"input": 6, "output": 4}


def test_a_span_that_does_not_record_costs_nothing_and_its_metrics_still_count(
    make_bench: Callable[..., Bench],
) -> None:
    class Untouchable:
        def on_start(self, opening: Opening) -> None:
            pass

        def on_finish(self, record: FinishedRecord) -> Mapping[str, Any]:
            raise AssertionError("nothing is built for a span that does not record")

    bench = make_bench(ALWAYS_OFF, enrichers=[Untouchable()], capture_content="SPAN_AND_EVENT")
    ask()
    assert bench.finished() == {}
    assert bench.logs.get_finished_logs() == ()
    assert bench.points()["gen_ai.client.operation.duration"][0].count == 1


def test_the_parent_is_the_callers_span_from_threads_and_tasks(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench()
    tracer = bench.tracers.get_tracer("app")
    traces: dict[str, int] = {}

    def call(name: str, engine: InferenceEngine) -> None:
        with tracer.start_as_current_span(name) as parent:
            result = engine.generate(InferenceRequest(prompt=name))
            traces[name] = parent.get_span_context().span_id
            assert result.trace_id == trace.format_trace_id(parent.get_span_context().trace_id)

    with InferenceEngine(EchoBackend()) as engine:
        threads = [threading.Thread(target=call, args=(f"t{n}", engine)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert bench.recorder.flush(10)
    parents = [
        span.parent.span_id
        for span in bench.spans.get_finished_spans()
        if span.name == "text_completion echo" and span.parent is not None
    ]
    assert sorted(parents) == sorted(traces.values())


def test_a_failure_is_an_error_with_its_type_and_its_secrets_taken_out(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench()
    script = EchoScript(tokens=["a", "b"], fail_after=1, failure=lambda: BackendResponseError("bad secret", status=500))
    with pytest.raises(BackendResponseError):
        ask(script=script, stream=False)
    spans = bench.finished()
    span = bench.inference()
    assert span.status.status_code is trace.StatusCode.ERROR
    assert span.status.description == "bad ***"
    attributes = span.attributes or {}
    assert attributes["error.type"] == "500"
    assert attributes["llm.error"] == "bad ***"
    assert attributes["gen_ai.response.finish_reasons"] == ("error",)
    assert attributes["gen_ai.usage.output_tokens"] == 1
    assert {"queue", "prefill", "decode"} < set(spans)
    [point] = bench.points()["gen_ai.client.operation.duration"]
    assert point.attributes["error.type"] == "500"
    assert_valid_spans(list(spans.values()), bench.settings.semconv)


def test_a_cancel_ends_the_span_once_and_is_no_error(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench()
    with InferenceEngine(EchoBackend(EchoScript(tokens=["a"] * 1000, per_token_s=0.01))) as engine:
        stream = engine.stream(CHAT)
        next(stream)
        stream.close()
        with pytest.raises(RequestCancelledError):
            stream.result(10)
    span = bench.inference()
    assert span.status.status_code is trace.StatusCode.UNSET
    assert (span.attributes or {})["gen_ai.response.finish_reasons"] == ("cancelled",)
    assert "error.type" not in (span.attributes or {})


def test_content_is_exported_only_where_asked_and_redacted(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(capture_content="SPAN_AND_EVENT", semconv=("gen_ai", "openinference"))
    ask()
    attributes = bench.inference().attributes or {}
    assert json.loads(str(attributes["gen_ai.input.messages"])) == [
        {"role": "system", "parts": [{"type": "text", "content": "be brief"}]},
        {"role": "user", "parts": [{"type": "text", "content": "my *** is x"}]},
    ]
    assert json.loads(str(attributes["gen_ai.output.messages"])) == [
        {"role": "assistant", "parts": [{"type": "text", "content": "abcd"}], "finish_reason": "stop"}
    ]
    assert (attributes["input.value"], attributes["output.value"]) == ("my *** is x", "abcd")
    [log] = bench.logs.get_finished_logs()
    assert log.log_record.event_name == "gen_ai.client.inference.operation.details"
    assert log.log_record.trace_id == bench.inference().context.trace_id
    assert "secret" not in str(log.log_record.attributes)


@pytest.mark.parametrize(("capture", "on_span", "events"), [("SPAN_ONLY", True, 0), ("EVENT_ONLY", False, 1)])
def test_each_place_for_content_is_its_own_choice(
    make_bench: Callable[..., Bench], capture: str, *, on_span: bool, events: int
) -> None:
    bench = make_bench(capture_content=capture)
    ask()
    assert ("gen_ai.input.messages" in (bench.inference().attributes or {})) == on_span
    assert len(bench.logs.get_finished_logs()) == events


def test_a_secret_that_a_caller_is_told_apart_by_is_taken_out_too(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench()
    ask(InferenceRequest(prompt="hi", max_tokens=4, tenant="secret-1", conversation_id="secret-2", stop=["secret-3"]))
    attributes = bench.inference().attributes or {}
    assert attributes["llamatelemetry.request.tenant"] == "***-1"
    assert attributes["gen_ai.conversation.id"] == "***-2"
    assert attributes["gen_ai.request.stop_sequences"] == ("***-3",)
    assert "secret" not in str(attributes)


def test_what_a_denied_key_holds_is_on_no_span_and_no_event_wherever_it_stands(
    make_bench: Callable[..., Bench],
) -> None:
    bench = make_bench(
        capture_content="SPAN_AND_EVENT",
        redact_keys=("llamatelemetry.request.tenant", "gen_ai.request.model", "password"),
        enrichers=[Enriching({"password": "enriched"})],
    )
    call = {"function": {"name": "login", "arguments": '{"user": "ada", "password": ["hunter2"]}'}}
    tool = {"type": "function", "function": {"name": "login", "parameters": {"password": {"default": "hunter2"}}}}
    asked = [{"role": "assistant", "content": None, "tool_calls": [call]}]
    ask(InferenceRequest(messages=asked, tools=[tool], max_tokens=4, tenant="hunter2"))
    attributes = bench.inference().attributes or {}
    assert attributes["llamatelemetry.request.tenant"] == "[redacted:denied]"
    assert attributes["gen_ai.request.model"] == "[redacted:denied]"
    assert attributes["password"] == "[redacted:denied]"
    [given] = json.loads(str(attributes["gen_ai.input.messages"]))
    assert json.loads(given["parts"][0]["arguments"]) == {"user": "ada", "password": "[redacted:denied]"}
    [log] = bench.logs.get_finished_logs()
    for exported in (attributes, log.log_record.attributes):
        assert "hunter2" not in str(exported)


class Named:
    """What JSON has no form for, and is told as text."""

    def __str__(self) -> str:
        return "a secret object"


def test_what_is_told_as_text_is_redacted_as_text(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(capture_content="SPAN_ONLY")
    tool = {"type": "function", "function": {"name": "f", "a secret key": 1, "default": Named()}}
    ask(InferenceRequest(messages=[{"role": "user", "content": ["in", "pieces"]}], tools=[tool], max_tokens=4))
    attributes = bench.inference().attributes or {}
    assert json.loads(str(attributes["gen_ai.tool.definitions"])) == [
        {"type": "function", "function": {"name": "f", "a *** key": 1, "default": "a *** object"}}
    ]
    [given] = json.loads(str(attributes["gen_ai.input.messages"]))
    assert [part["content"] for part in given["parts"]] == ["in", "pieces"]


def test_messages_that_cannot_be_told_cost_the_messages_and_nothing_else(
    make_bench: Callable[..., Bench], caplog: pytest.LogCaptureFixture
) -> None:
    bench = make_bench(capture_content="SPAN_AND_EVENT")
    ask(InferenceRequest(messages=[{"role": "assistant", "content": "x", "tool_calls": ["no call"]}], max_tokens=4))
    attributes = bench.inference().attributes or {}
    assert "gen_ai.input.messages" not in attributes
    assert attributes["gen_ai.usage.output_tokens"] == 4
    assert {"queue", "prefill", "decode"} < set(bench.finished())
    assert bench.points()["gen_ai.client.operation.duration"]
    assert "content_of fails" in caplog.text


class Enriching:
    """Adds the same attributes to every span."""

    def __init__(self, attributes: dict[str, Any]) -> None:
        self._attributes = attributes

    def on_start(self, opening: Opening) -> None:
        pass

    def on_finish(self, record: FinishedRecord) -> dict[str, Any]:
        return self._attributes


class ByHand:
    """A request that is taken through its life by hand, on a clock of its own."""

    def __init__(self, bench: Bench, request: InferenceRequest = CHAT, *, lineage: ModelLineage | None = None) -> None:
        self.clock = ManualClock()
        model = ModelInfo(model="echo", provider="echo", in_process=True, owned=True, lineage=lineage)
        self.events = EventRecorder(request, model, streaming=True, queue_depth=0, clock=self.clock.clock)
        self._trace = bench.recorder.begin(self.events.opening)

    def finish(self, end: StreamEnd) -> None:
        self._trace.finish(self.events.finish(end, text=""))


def test_failed_tries_are_events_and_pages_and_reason_are_told(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench()
    request = ByHand(bench)
    hold = KVHold(pages=2, page_size=16, estimated=True, cached_estimate=16)
    for reason in ("BackendConnectionError", "503"):
        request.events.admitted(kv=hold, reason="aged")
        request.events.dispatched()
        request.clock.advance(1)
        request.events.attempt_failed(reason)
    request.events.admitted(kv=hold, reason="next", slot=1)
    request.clock.advance(0.5)
    request.events.dispatched()
    request.events.token()
    request.finish(StreamEnd(finish_reason="stop"))
    span = bench.inference()
    assert [
        (event.name, dict(event.attributes or {}), event.timestamp - (span.start_time or 0)) for event in span.events
    ] == [
        (
            "llamatelemetry.attempt.failed",
            {"llamatelemetry.attempt.number": number, "error.type": kind},
            number * 1_000_000_000,
        )
        for number, kind in ((1, "BackendConnectionError"), (2, "503"))
    ]
    expected = {
        "llamatelemetry.request.attempts": 3,
        "llamatelemetry.scheduler.reason": "next",
        "llamatelemetry.scheduler.delay": 0.5,
        "llamatelemetry.queue.duration": 2.5,
        "llamatelemetry.slot.id": 1,
        "llamatelemetry.kv.pages": 2,
        "llamatelemetry.kv.page_size": 16,
        "llamatelemetry.kv.estimated": True,
        "llamatelemetry.kv.cached_tokens_estimate": 16,
    }
    attributes = span.attributes or {}
    assert {name: attributes.get(name) for name in expected} == expected
    assert span.status.status_code is trace.StatusCode.UNSET
    assert_valid_spans(list(bench.finished().values()), bench.settings.semconv)
    points = bench.points()
    assert points["llamatelemetry.scheduler.delay"][0].sum == 0.5
    [finished] = points["llamatelemetry.requests.finished"]
    assert finished.attributes["llamatelemetry.request.phase"] == "decode"


def test_embeddings_have_their_own_span_and_their_texts_are_exported_only_where_asked(
    make_bench: Callable[..., Bench],
) -> None:
    profiles = ("gen_ai", "gen_ai_next", "llm", "openinference")
    for capture, texts in (("NO_CONTENT", None), ("SPAN_AND_EVENT", '["my ***", "b"]')):
        bench = make_bench(capture_content=capture, semconv=profiles)
        request = ByHand(bench, InferenceRequest(input=["my secret", "b"], max_tokens=4))
        request.events.dispatched()
        request.clock.advance(1)
        request.finish(
            StreamEnd(finish_reason="stop", usage=Usage(input_tokens=3, output_tokens=0), embeddings=((0.0, 1.0),) * 2)
        )
        spans = bench.finished()
        assert set(spans) == {"embeddings echo", "queue", "prefill"}
        attributes = spans["embeddings echo"].attributes or {}
        assert attributes["gen_ai.embeddings.dimension.count"] == 2
        assert attributes["openinference.span.kind"] == "EMBEDDING"
        assert attributes["llm.request.type"] == "embeddings"
        assert attributes.get("input.value") == texts
        assert bench.logs.get_finished_logs() == ()
        assert_valid_spans(list(spans.values()), profiles)
        points = bench.points()
        assert points["gen_ai.client.embeddings.duration"][0].sum == pytest.approx(1.0)
        assert "gen_ai.client.inference.duration" not in points


def test_counting_a_prompt_on_a_slow_tokenizer_is_told_apart_from_waiting_for_a_turn(
    make_bench: Callable[..., Bench],
) -> None:
    bench = make_bench()
    clock = ManualClock()

    class SlowTokenizer(EchoBackend):
        def tokenize(self, text: str) -> list[int]:
            clock.advance(0.5)
            return super().tokenize(text)

    with InferenceEngine(SlowTokenizer(clock=clock.clock), clock=clock.clock) as engine:
        engine.generate(InferenceRequest(prompt="x"))
    attributes = bench.inference().attributes or {}
    assert attributes["llamatelemetry.queue.preparation"] == 0.5
    assert attributes["llamatelemetry.queue.duration"] == 0.5


def test_a_reader_that_held_its_answer_back_is_measured(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench()
    request = ByHand(bench)
    request.events.dispatched()
    request.events.token()
    request.clock.advance(2)
    request.events.held_back(1_500_000_000)
    request.finish(StreamEnd(finish_reason="stop"))
    assert bench.points()["llamatelemetry.consumer.wait"][0].sum == 1.5
    assert (bench.finished()["decode"].attributes or {})["llamatelemetry.consumer.wait"] == 1.5


@pytest.mark.parametrize(("steps", "phase"), [(0, "queue"), (1, "prefill"), (2, "decode")])
def test_a_cancelled_request_is_counted_with_the_phase_that_it_gave_up_in(
    make_bench: Callable[..., Bench], steps: int, phase: str
) -> None:
    bench = make_bench()
    request = ByHand(bench)
    for step in (request.events.dispatched, request.events.token)[:steps]:
        step()
    request.finish(StreamEnd(finish_reason="cancelled"))
    [finished] = bench.points()["llamatelemetry.requests.finished"]
    assert finished.value == 1
    assert finished.attributes["llamatelemetry.request.finish_reason"] == "cancelled"
    assert finished.attributes["llamatelemetry.request.phase"] == phase


def test_an_enricher_adds_and_a_broken_one_takes_nothing_away(
    make_bench: Callable[..., Bench], caplog: pytest.LogCaptureFixture
) -> None:
    class Adds:
        def on_start(self, opening: Opening) -> None:
            self.thread = threading.current_thread()

        def on_finish(self, record: FinishedRecord) -> Mapping[str, Any]:
            assert threading.current_thread() is not self.thread
            return {"my.figure": 42}

    class Breaks:
        def on_start(self, opening: Opening) -> None:
            raise RuntimeError("start")

        def on_finish(self, record: FinishedRecord) -> Mapping[str, Any]:
            raise RuntimeError("finish")

    bench = make_bench(enrichers=[Breaks(), Adds()])
    ask()
    ask()
    assert all(
        (span.attributes or {})["my.figure"] == 42
        for span in bench.spans.get_finished_spans()
        if span.name == "chat echo"
    )
    assert bench.recorder.flush(10)
    assert [record.message for record in caplog.records].count("enricher Breaks fails and adds nothing") == 1


def test_inside_an_outer_inference_span_no_second_one_is_made(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench()
    outer = bench.tracers.get_tracer("outer").start_span("chat outer")
    token = otel_context.attach(otel_context.set_value(OUTER_INFERENCE_KEY, object(), trace.set_span_in_context(outer)))
    try:
        with InferenceEngine(EchoBackend()) as engine:
            result = engine.generate(CHAT)
    finally:
        otel_context.detach(token)
        outer.end()
    assert result.trace_id == trace.format_trace_id(outer.get_span_context().trace_id)
    assert set(bench.finished()) == {"chat outer"}


@pytest.mark.parametrize("standing", ["verified", "unverified", "missing"])
def test_an_inference_links_to_the_span_that_made_its_model_and_says_how_sure_that_is(
    make_bench: Callable[..., Bench], standing: Any
) -> None:
    bench = make_bench()
    made_by = ModelLineage(standing=standing, run_id="run-7", trace_id="1" * 32, span_id="2" * 16)
    ByHand(bench, lineage=made_by).finish(StreamEnd(finish_reason="stop"))
    span = bench.inference()
    (link,) = span.links
    assert (link.context.trace_id, link.context.span_id) == (int("1" * 32, 16), int("2" * 16, 16))
    assert link.context.is_remote
    told = {"llamatelemetry.model.manifest": standing, "llamatelemetry.model.run.id": "run-7"}
    assert dict(link.attributes or {}) == told
    assert span.attributes is not None
    assert told.items() <= dict(span.attributes).items()
    assert_valid_spans(bench.spans.get_finished_spans(), bench.settings.semconv)


@pytest.mark.parametrize(
    ("lineage", "manifest"),
    [
        (None, None),
        (ModelLineage(standing="tampered", problem="it was changed"), "tampered"),
        (ModelLineage(standing="verified"), "verified"),
        (ModelLineage(standing="missing", run_id="run-7", trace_id="1" * 32), "missing"),
    ],
)
def test_there_is_no_link_where_no_span_is_known_or_what_was_said_of_one_was_refuted(
    make_bench: Callable[..., Bench], lineage: ModelLineage | None, manifest: str | None
) -> None:
    bench = make_bench()
    ByHand(bench, lineage=lineage).finish(StreamEnd(finish_reason="stop"))
    span = bench.inference()
    assert span.links == ()
    assert (span.attributes or {}).get("llamatelemetry.model.manifest") == manifest
    assert_valid_spans(bench.spans.get_finished_spans(), bench.settings.semconv)


def test_more_records_than_can_wait_drop_the_oldest_and_are_counted() -> None:
    gate = threading.Event()

    class Gate:
        def on_start(self, opening: Opening) -> None:
            pass

        def on_finish(self, record: FinishedRecord) -> Mapping[str, Any]:
            gate.wait(10)
            return {}

    bench = Bench(enrichers=[Gate()])
    try:
        small = Recorder(
            tracer=bench.tracers.get_tracer("t"),
            meter=bench.meters.get_meter("t"),
            logger=bench.loggers.get_logger("t"),
            settings=bench.settings,
            redactor=StarRedactor(),
            enrichers=[Gate()],
            max_waiting=3,
        )
        install_sink(small)
        with InferenceEngine(EchoBackend(slots=1)) as engine:
            for n in range(10):
                engine.generate(InferenceRequest(prompt="x", request_id=str(n)))
        gate.set()
        assert small.flush(10)
        names = [
            (span.attributes or {})["llamatelemetry.request.id"]
            for span in bench.spans.get_finished_spans()
            if span.name == "text_completion echo"
        ]
        assert names[-3:] == ["7", "8", "9"]
        dropped = 10 - len(names)
        assert dropped >= 6
        assert bench.points()["llamatelemetry.records.dropped"][0].value == dropped
        assert small.shutdown(5) == dropped
    finally:
        gate.set()
        bench.close()


def test_live_engines_are_observed(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench()
    slow = EchoScript(tokens=["x"] * 1000, per_token_s=0.01)
    with InferenceEngine(EchoBackend(slow, slots=1)) as engine:
        stream = engine.stream(CHAT)
        next(stream)
        futures = [engine.submit(CHAT) for _ in range(2)]
        points = bench.points()
        assert [point.value for point in points["llamatelemetry.queue.depth"]] == [2]
        assert [point.value for point in points["llamatelemetry.requests.active"]] == [1]
        for future in futures:
            future.cancel()
        stream.close()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # forking with threads is what is tested
def test_a_forked_child_records_its_own_and_not_its_parents(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench()
    ask()
    assert bench.recorder.flush(10)
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        bench.spans.clear()
        ask(InferenceRequest(prompt="child"))
        bench.recorder.flush(5)
        os.write(write, ",".join(sorted(span.name for span in bench.spans.get_finished_spans())).encode())
        os._exit(0)
    os.close(write)
    os.waitpid(pid, 0)
    with os.fdopen(read) as pipe:
        assert pipe.read() == "decode,prefill,queue,text_completion echo"


def test_what_is_traced_while_the_model_is_asked_is_inside_its_span(make_bench):
    running = make_bench()

    class Traced(EchoBackend):
        def stream(self, request, placement):
            running.tracers.get_tracer("library").start_span("http").end()
            yield from super().stream(request, placement)

    with InferenceEngine(Traced()) as engine:
        engine.generate(InferenceRequest(prompt="one"))
    spans = running.finished()
    assert spans["http"].parent.span_id == running.inference().context.span_id


def test_an_inference_inside_another_of_ours_has_no_second_span(make_bench):
    running = make_bench()

    class Outer(EchoBackend):
        def stream(self, request, placement):
            with InferenceEngine(EchoBackend(model="inner")) as inner:
                inner.generate(request)
            yield from super().stream(request, placement)

    with InferenceEngine(Outer()) as engine:
        engine.generate(InferenceRequest(prompt="one"))
    assert [name for name in running.finished() if name.startswith("text_completion")] == ["text_completion echo"]
    assert not inside_inference()


def test_a_span_whose_record_cannot_be_made_ends_all_the_same(
    make_bench: Callable[..., Bench], caplog: pytest.LogCaptureFixture
) -> None:
    bench = make_bench()
    observation = Observation(CHAT, ModelInfo(model="m", provider="echo", in_process=True), bench.recorder)
    observation.started()
    observation.finish_later(lambda: Told(request=CHAT, end=1 / 0))  # type: ignore[arg-type]
    [span] = bench.finished().values()
    assert span.end_time is not None
    assert "could not record a request" in caplog.text
