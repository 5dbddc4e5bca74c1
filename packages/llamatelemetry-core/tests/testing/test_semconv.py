from __future__ import annotations

import dataclasses

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, View
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, Status, StatusCode
from pytest_genai_semconv import GenAISpanComplianceError, assert_chat_span, assert_genai_span_compliant

from llamatelemetry.semconv import engine_metrics, server_metrics, spans
from llamatelemetry.semconv.catalogue import ALL_PROFILES, instruments
from llamatelemetry.semconv.facts import AttemptFacts, InferenceFacts, PhaseFacts, ServerStartFacts
from llamatelemetry.semconv.gpu import GPUFacts, gpu_attributes, gpu_section_attributes
from llamatelemetry.semconv.measurements import measurements, request_instruments
from llamatelemetry.semconv.metrics import model_metric_attributes
from llamatelemetry.semconv.profiles import (
    attempt_attributes,
    attributes_for,
    phase_attributes,
    server_start_attributes,
)
from llamatelemetry.testing.semconv import (
    EmittedEvent,
    EmittedLink,
    EmittedMetric,
    EmittedSpan,
    assert_valid_metrics,
    assert_valid_spans,
    metrics_from_sdk,
    span_from_sdk,
    violations_of_metrics,
    violations_of_spans,
)

DEFAULT = ("gen_ai", "llm")
T0 = 1_700_000_000_000_000_000
FACTS = InferenceFacts(
    operation="chat",
    provider="llamacpp",
    request_model="SmolLM2",
    server_address="127.0.0.1",
    server_port=8080,
    stream=True,
    max_tokens=64,
    temperature=0,
    stop_sequences=("\n",),
    output_type="json",
    response_id="chatcmpl-1",
    response_model="SmolLM2.gguf",
    finish_reasons=("stop",),
    finish_reason="stop",
    time_to_first_chunk_s=0.1,
    input_tokens=31,
    output_tokens=64,
    total_tokens=95,
    cached_tokens=0,
    request_id="r",
    priority=0,
    queue_duration_s=0.001,
    duration_s=0.7,
    duration_ms=700.0,
    server_request_duration_s=0.69,
    server_time_to_first_token_s=0.09,
    server_time_per_output_token_s=0.01,
    scheduling_delay_s=0.0002,
    admission="next",
    attempts=2,
    last_phase="decode",
    kv_pages=6,
    kv_page_size=16,
    kv_estimated=True,
    kv_cached_estimate=0,
)


class Emitter:
    """Emits one request through the SDK, as the recorder does: phases from times, after the fact."""

    def __init__(self):
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = self.provider.get_tracer("test")

    def request(self, facts=FACTS, profiles=DEFAULT, *, kind=SpanKind.CLIENT, failed=False):
        span = self.tracer.start_span(
            spans.span_name(facts.operation, facts.request_model),
            kind=kind,
            start_time=T0,
            attributes=attributes_for(facts, profiles),
        )
        parent = trace.set_span_in_context(span)
        edges = [T0, T0 + 1_000_000, T0 + 100_000_000, T0 + 690_000_000]
        phases = (
            PhaseFacts(name="queue"),
            PhaseFacts(name="prefill", prefill_duration_s=0.09, backend_wait_s=0.009),
            PhaseFacts(name="decode", decode_duration_s=0.5, backend_wait_s=0.09),
        )
        for number in range(1, facts.attempts or 1):
            attempt = AttemptFacts(number=number, error_type="BackendConnectionError")
            span.add_event(spans.ATTEMPT_FAILED_EVENT, attempt_attributes(attempt), T0 + 100 * number)
        if facts.operation == "embeddings":
            phases = phases[:2]
        for phase, start, end in zip(phases, edges, edges[1:], strict=False):
            child = self.tracer.start_span(
                phase.name, parent, start_time=start, attributes=phase_attributes(phase, profiles)
            )
            child.end(end)
        if failed:
            span.set_status(Status(StatusCode.ERROR, "the server went away"))
        span.end(T0 + 700_000_000)
        return self.exporter.get_finished_spans()


@pytest.fixture
def emitter():
    emitter = Emitter()
    yield emitter
    emitter.provider.shutdown()


@pytest.fixture
def good(emitter):
    """A valid request's spans, to be broken: queue, prefill, decode, request."""
    return [span_from_sdk(span) for span in emitter.request()]


def changed(spans_, index, *, drop=(), attributes=None, **fields):
    span = spans_[index]
    kept = {name: value for name, value in span.attributes.items() if name not in drop} | (attributes or {})
    return [*spans_[:index], dataclasses.replace(span, attributes=kept, **fields), *spans_[index + 1 :]]


@pytest.mark.parametrize("profiles", [DEFAULT, ALL_PROFILES, *((profile,) for profile in ALL_PROFILES)])
def test_what_the_tables_emit_passes(emitter, profiles):
    assert violations_of_spans(emitter.request(profiles=profiles), profiles) == []


def test_a_failed_request_passes_with_its_error(emitter):
    facts = dataclasses.replace(FACTS, error_type="StreamInterruptedError", error_message="the server went away")
    assert_valid_spans(emitter.request(facts, failed=True), DEFAULT)


def test_spans_of_others_are_passed_over(emitter, good):
    other = EmittedSpan(
        name="prefill",
        kind="SERVER",
        trace_id=good[0].trace_id,
        span_id="1" * 16,
        parent_id=None,
        start_ns=2,
        end_ns=1,
        attributes={"http.route": "/"},
    )
    assert violations_of_spans([*good, other], DEFAULT) == []


@pytest.mark.parametrize("missing", ["gen_ai.operation.name", "gen_ai.provider.name", "llamatelemetry.request.id"])
def test_a_missing_required_attribute_is_named(good, missing):
    (found,) = [line for line in violations_of_spans(changed(good, 3, drop=(missing,)), DEFAULT) if "required" in line]
    assert f"{missing} is required and missing" in found


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("gen_ai.request.max_tokens", 64.0),
        ("gen_ai.request.max_tokens", True),
        ("gen_ai.request.temperature", 0),
        ("gen_ai.response.finish_reasons", "stop"),
        ("gen_ai.response.finish_reasons", (1,)),
        ("llamatelemetry.request.id", 7),
        ("llm.stream", 1),
    ],
)
def test_a_wrong_type_is_named(good, name, value):
    found = violations_of_spans(changed(good, 3, attributes={name: value}), DEFAULT)
    assert any(f"{name}={value!r} is not of type" in line for line in found)


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_an_impossible_amount_is_named(good, value):
    (found,) = violations_of_spans(changed(good, 3, attributes={"llamatelemetry.time_to_first_token": value}), DEFAULT)
    assert "is no amount of s" in found


@pytest.mark.parametrize("name", ["gen_ai.usage.total_tokens", "llm.speed", "llamatelemetry.mood", "openinference.x"])
def test_a_name_that_no_table_has_is_named(good, name):
    (found,) = violations_of_spans(changed(good, 3, attributes={name: "x"}), DEFAULT)
    assert f"no table of these profiles has {name}" in found


def test_an_attribute_of_a_profile_that_was_not_chosen_is_named(good):
    found = violations_of_spans(good, ("gen_ai",))
    assert any("no table of these profiles has llm.model" in line for line in found)
    assert any("no table of these profiles has llm.phase" in line for line in found)


def test_our_names_on_a_span_of_no_table_are_named(good):
    stray = dataclasses.replace(good[1], name="warm-up", parent_id=None)
    found = violations_of_spans([good[0], stray, good[2], good[3]], DEFAULT)
    assert any("llamatelemetry.prefill.duration is on a span that no table describes" in line for line in found)


EMBEDDINGS = dataclasses.replace(
    FACTS,
    operation="embeddings",
    embedding_dimensions=384,
    openinference_span_kind="EMBEDDING",
    last_phase="prefill",
)


@pytest.mark.parametrize("profiles", [DEFAULT, ALL_PROFILES, *((profile,) for profile in ALL_PROFILES)])
def test_embeddings_pass_without_a_decode(emitter, profiles):
    emitted = [span_from_sdk(span) for span in emitter.request(EMBEDDINGS, profiles)]
    assert [span.name for span in emitted] == ["queue", "prefill", "embeddings SmolLM2"]
    assert violations_of_spans(emitted, profiles) == []


@pytest.mark.parametrize("profiles", [DEFAULT, ("openinference",)])
def test_embeddings_that_generate_are_named(emitter, profiles):
    emitted = [span_from_sdk(span) for span in emitter.request(EMBEDDINGS, profiles)]
    decode = dataclasses.replace(emitted[1], name="decode", start_ns=emitted[1].end_ns, end_ns=emitted[1].end_ns + 1)
    emitted = changed([*emitted, decode], 2, attributes={"llamatelemetry.time_to_first_token": 0.1})
    unknown, phases = violations_of_spans(emitted, profiles)
    assert "no table of these profiles has llamatelemetry.time_to_first_token" in unknown
    assert "its phases are queue, prefill, decode, not queue, prefill in order" in phases


def failed_try(number=1, time_ns=T0 + 100, name=spans.ATTEMPT_FAILED_EVENT, **attributes):
    known = attempt_attributes(AttemptFacts(number=number, error_type="503"))
    return EmittedEvent(name=name, time_ns=time_ns, attributes=known | attributes)


@pytest.mark.parametrize(
    ("events", "words"),
    [
        ([failed_try(name="llamatelemetry.mood")], "event 'llamatelemetry.mood': no table has it"),
        ([failed_try(number="1")], "llamatelemetry.attempt.number='1' is not of type int"),
        ([failed_try(mood="x")], "event 'llamatelemetry.attempt.failed': may not carry mood"),
        ([failed_try(time_ns=T0 - 1)], "is not after the one before and within its span"),
        ([failed_try(time_ns=T0 + 10**9)], "is not after the one before and within its span"),
        ([failed_try(time_ns=T0 + 2), failed_try(2, T0 + 1)], "is not after the one before and within its span"),
        ([failed_try(2)], "its failed tries are numbered [2]"),
        ([], "0 tries failed, and 2 are said to have been made"),
        ([failed_try(number) for number in (1, 2, 3)], "3 tries failed, and 2 are said to have been made"),
    ],
)
def test_an_event_that_no_table_allows_is_named(good, events, words):
    assert any(words in line for line in violations_of_spans(changed(good, 3, events=tuple(events)), DEFAULT))


def test_a_request_that_failed_while_it_waited_for_another_try_passes(good):
    events = (failed_try(1), failed_try(2, T0 + 200))
    assert violations_of_spans(changed(good, 3, events=events), DEFAULT) == []


def test_events_of_others_are_passed_over(good):
    events = (*good[3].events, EmittedEvent(name="exception", time_ns=0, attributes={"x": 1}))
    assert violations_of_spans(changed(good, 3, events=events), DEFAULT) == []


def linked(good, *, span_says=None, **link_says):
    """The request's spans, with what its model's manifest is on the span and on a link to what made the model."""
    names = {"manifest": "llamatelemetry.model.manifest", "run_id": "llamatelemetry.model.run.id"}
    on_link = {names[name]: value for name, value in link_says.items()}
    on_span = on_link if span_says is None else {names[name]: value for name, value in span_says.items()}
    link = EmittedLink(trace_id="1" * 32, span_id="2" * 16, attributes=on_link)
    return changed(good, 3, attributes=on_span, links=(link,))


def test_a_link_to_what_made_the_model_passes_and_so_do_links_of_others(good):
    assert violations_of_spans(linked(good, manifest="verified", run_id="r"), DEFAULT) == []
    assert violations_of_spans(linked(good, manifest="missing"), DEFAULT) == []
    other = EmittedLink(trace_id="1" * 32, span_id="2" * 16, attributes={"messaging.batch": 1})
    assert violations_of_spans(changed(good, 3, links=(other, other)), DEFAULT) == []


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"manifest": "tampered"}, "leads to what was refuted"),
        ({"run_id": "r"}, "llamatelemetry.model.manifest is required and missing"),
        ({"manifest": 5}, "is not of type string"),
        ({"manifest": "verified", "span_says": {"manifest": "missing"}}, "and the span says 'missing'"),
    ],
)
def test_a_link_that_cannot_be_true_is_named(good, facts, words):
    assert any(words in line for line in violations_of_spans(linked(good, **facts), DEFAULT))


def test_a_model_is_made_by_one_span(good):
    (link,) = linked(good, manifest="verified")[3].links
    twice = changed(good, 3, attributes=dict(link.attributes), links=(link, link))
    assert any("has 2 links" in line for line in violations_of_spans(twice, DEFAULT))


def test_false_streaming_is_named(good):
    (found, _) = violations_of_spans(changed(good, 3, attributes={"gen_ai.request.stream": False}), DEFAULT)
    assert "gen_ai.request.stream is sent only when true" in found


def test_an_address_without_a_port_is_named(good):
    (found,) = violations_of_spans(changed(good, 3, drop=("server.port",)), DEFAULT)
    assert "server.address comes without server.port" in found


def test_profiles_that_disagree_are_named(good):
    (found,) = violations_of_spans(changed(good, 3, attributes={"llm.input.tokens": 30}), DEFAULT)
    assert "another profile says" in found


def test_a_name_that_is_not_operation_and_model_is_named(good):
    (found,) = violations_of_spans(changed(good, 3, name="inference"), DEFAULT)
    assert "the name is not its operation and model" in found


@pytest.mark.parametrize(("index", "kind"), [(3, "SERVER"), (1, "CLIENT")])
def test_a_wrong_kind_is_named(good, index, kind):
    (found,) = violations_of_spans(changed(good, index, kind=kind), DEFAULT)
    assert f"kind is {kind}" in found


def test_an_error_without_status_and_a_status_without_error_are_named(good):
    named = violations_of_spans(changed(good, 3, attributes={"error.type": "500", "llm.error": "no"}), DEFAULT)
    assert [line.split(": ")[1] for line in named] == [
        "llm.error and status ERROR go together",
        "error.type and status ERROR go together",
    ]
    assert len(violations_of_spans(changed(good, 3, failed=True), DEFAULT)) == 2


@pytest.mark.parametrize(
    ("index", "fields", "words"),
    [
        (1, {"start_ns": T0 + 1_000_001}, "prefill starts 1 ns after queue ends"),
        (1, {"start_ns": T0 + 999_999}, "prefill starts 1 ns before queue ends"),
        (0, {"start_ns": T0 + 5}, "queue starts 5 ns after the request starts"),
        (2, {"end_ns": T0 + 700_000_007}, "decode ends 7 ns after the request"),
    ],
)
def test_a_gap_between_phases_is_named(good, index, fields, words):
    (found,) = violations_of_spans(changed(good, index, **fields), DEFAULT)
    assert words in found


def test_a_phase_that_runs_backwards_is_named(good):
    assert any("ends before it starts" in line for line in violations_of_spans(changed(good, 2, end_ns=T0), DEFAULT))


@pytest.mark.parametrize("kept", [[3], [0, 2, 3], [1, 2, 3], [0, 0, 1, 2, 3]])
def test_phases_that_are_missing_or_doubled_are_named(good, kept):
    (found,) = violations_of_spans([good[index] for index in kept], DEFAULT)
    assert "not queue, prefill, decode in order" in found


@pytest.mark.parametrize("kept", [[0, 3], [0, 1, 3]])
def test_a_request_that_ended_early_has_fewer_phases(good, kept):
    assert violations_of_spans([good[index] for index in kept], DEFAULT) == []


def test_each_request_is_held_against_its_own_phases(emitter):
    emitter.request()
    assert violations_of_spans(emitter.request(kind=SpanKind.INTERNAL), DEFAULT) == []


GPUS = GPUFacts(
    ids=("GPU-1", "GPU-2"),
    names=("Tesla T4", "Tesla T4"),
    scope="device",
    memory_before_bytes=1000,
    memory_delta_bytes=-200,
    memory_peak_bytes=1500,
    process_memory_bytes=900,
    utilization=1.0,
    energy_j=12.5,
    energy_idle_j=3.0,
    energy_method="counter",
    energy_uncertainty_j=0.2,
    temperature_max_c=-4.0,
    throttle_reasons=(),
)


def section(**changed):
    """A span that a user named, which says what GPUs did in it."""
    facts = gpu_section_attributes(dataclasses.replace(GPUS, **changed))
    return EmittedSpan(
        name="load the data",
        kind="PRODUCER",
        trace_id="1" * 32,
        span_id="2" * 16,
        parent_id=None,
        start_ns=T0,
        end_ns=T0 + 5,
        attributes=facts | {"mine": 1},
    )


@pytest.mark.parametrize("profiles", [DEFAULT, *((profile,) for profile in ALL_PROFILES)])
def test_what_gpus_did_is_allowed_on_a_request_of_any_profile(emitter, profiles):
    spans_ = [span_from_sdk(span) for span in emitter.request(profiles=profiles)]
    assert violations_of_spans(changed(spans_, 3, attributes=gpu_attributes(GPUS)), profiles) == []


def test_what_gpus_did_is_allowed_on_any_span_that_a_user_names(good):
    assert violations_of_spans([*good, section()], DEFAULT) == []


def test_a_section_says_no_more_of_ours_than_gpus_do():
    bad = dataclasses.replace(section(), attributes={**section().attributes, "llamatelemetry.slot.id": 1})
    assert violations_of_spans([bad], DEFAULT) == [
        "span 'load the data' (2222222222222222): llamatelemetry.slot.id is on a span that no table describes"
    ]


def test_idle_energy_on_a_request_is_named(good):
    broken = changed(good, 3, attributes=gpu_section_attributes(GPUS))
    assert [line.partition(": ")[2] for line in violations_of_spans(broken, DEFAULT)] == [
        "no table of these profiles has llamatelemetry.gpu.energy.idle"
    ]


def test_what_gpus_did_on_a_phase_is_named(good):
    broken = changed(good, 2, attributes=gpu_attributes(GPUFacts(ids=("GPU-1",))))
    assert [line.partition(": ")[2] for line in violations_of_spans(broken, DEFAULT)] == [
        "no table of these profiles has llamatelemetry.gpu.ids"
    ]


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"ids": None}, "does not say which GPUs its figures are of"),
        ({"names": ("Tesla T4",)}, "1 names are given to 2 GPUs"),
        ({"utilization": 37.0}, "llamatelemetry.gpu.utilization=37.0 is no amount of 1"),
        ({"energy_j": -0.1}, "llamatelemetry.gpu.energy=-0.1 is no amount of J"),
        ({"temperature_max_c": float("nan")}, "llamatelemetry.gpu.temperature.max=nan is no amount of Cel"),
        ({"memory_peak_bytes": 999}, "peak GPU memory is 999, and 1000 was in use"),
        ({"memory_delta_bytes": 501}, "peak GPU memory is 1500, and 1501 was in use"),
        ({"memory_peak_bytes": 1500.5}, "llamatelemetry.gpu.memory.peak=1500.5 is not of type int"),
        ({"energy_method": None}, "energy comes without its method"),
    ],
)
def test_a_figure_of_gpus_that_cannot_be_true_is_named(good, facts, words):
    broken = changed(good, 3, attributes=gpu_attributes(dataclasses.replace(GPUS, **facts)))
    for spans_ in (broken, [section(**facts)]):
        assert [line.partition(": ")[2] for line in violations_of_spans(spans_, DEFAULT)] == [words]


def test_a_gpu_that_told_nothing_but_its_name_passes(good):
    assert violations_of_spans(changed(good, 3, attributes=gpu_attributes(GPUFacts(ids=("GPU-1",)))), DEFAULT) == []


def test_a_servers_start_is_checked(emitter):
    facts = ServerStartFacts(runtime="xllamacpp", pid=42)
    emitter.tracer.start_span(spans.SERVER_START_SPAN, attributes=server_start_attributes(facts)).end()
    emitter.tracer.start_span(spans.SERVER_START_SPAN, attributes={"process.pid": 42}).end()
    (found,) = violations_of_spans(emitter.exporter.get_finished_spans(), DEFAULT)
    assert "llamatelemetry.server.runtime is required and missing" in found


def test_an_assertion_lists_every_violation(good):
    broken = changed(good, 3, drop=("gen_ai.provider.name",), attributes={"llamatelemetry.mood": "x"})
    with pytest.raises(AssertionError, match=r"(?s)gen_ai.provider.name is required.*llamatelemetry.mood"):
        assert_valid_spans(broken, DEFAULT)


@pytest.mark.parametrize("profiles", [DEFAULT, ALL_PROFILES, ("gen_ai_next",)])
@pytest.mark.parametrize("provider", ["openai"])
def test_an_independent_checker_finds_nothing_either(emitter, profiles, provider):
    span = emitter.request(dataclasses.replace(FACTS, provider=provider, top_k=40, seed=1), profiles)[-1]
    assert_genai_span_compliant(span)
    assert_chat_span(span, request_model="SmolLM2")


def test_an_independent_checker_finds_nothing_in_embeddings_either(emitter):
    assert_genai_span_compliant(emitter.request(dataclasses.replace(EMBEDDINGS, provider="openai"), ALL_PROFILES)[-1])


def test_the_independent_checkers_one_objection_is_that_it_lists_no_local_runtime(emitter):
    with pytest.raises(GenAISpanComplianceError) as raised:
        assert_chat_span(emitter.request()[-1])
    (objection,) = raised.value.violations
    assert "gen_ai.provider.name has invalid value 'llamacpp'" in objection


def test_the_independent_checker_reads_spans_from_files_too(good):
    with pytest.raises(GenAISpanComplianceError, match=r"missing required attribute gen_ai\.operation\.name"):
        assert_genai_span_compliant(changed(good, 3, drop=("gen_ai.operation.name",))[3])


def collect(profiles=DEFAULT, views=(), facts=FACTS, **overrides):
    """Records one request and every observable through the SDK, as tabled but for ``overrides``."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], views=views, shutdown_on_exit=False)
    meter = provider.get_meter("test")
    recorders = {}
    for row in (dataclasses.replace(tabled, **overrides) for tabled in request_instruments(profiles)):
        if row.kind == "histogram":
            recorders[row.name] = meter.create_histogram(
                row.name, row.unit, row.brief, explicit_bucket_boundaries_advisory=row.buckets
            ).record
        else:
            recorders[row.name] = meter.create_counter(row.name, row.unit, row.brief).add
    for name, value, attributes in measurements(facts, profiles):
        recorders[name](value, attributes)
    data = reader.get_metrics_data()
    provider.shutdown()
    return data


@pytest.mark.parametrize("profiles", [DEFAULT, ALL_PROFILES, ("gen_ai_next",), ("llm",)])
def test_the_metrics_that_the_tables_emit_pass(profiles):
    data = collect(profiles)
    assert {metric.name for metric in metrics_from_sdk(data)} == {name for name, _, _ in measurements(FACTS, profiles)}
    assert violations_of_metrics(data) == []


def test_observed_metrics_pass():
    from opentelemetry.metrics import Observation

    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    meter = provider.get_meter("test")
    rows = (*engine_metrics.ENGINE[:-1], *server_metrics.SERVER)
    values = {"string": "x", "boolean": True, "int": 1}

    def observer(row):
        own = {each.name: values[each.type] for each in row.attributes}
        return lambda _options: [Observation(1, own | model_metric_attributes(provider="llamacpp", model="m"))]

    for row in rows:
        getattr(meter, f"create_{row.kind}")(row.name, [observer(row)], row.unit, row.brief)
    meter.create_counter("llamatelemetry.records.dropped", "{record}", "x").add(1)
    data = reader.get_metrics_data()
    provider.shutdown()
    assert {metric.name for metric in metrics_from_sdk(data)} == {
        row.name for row in (*rows, engine_metrics.RECORDS_DROPPED)
    }
    assert_valid_metrics(data)


def test_no_metrics_at_all_is_no_violation():
    assert violations_of_metrics(None) == []


def test_a_wrong_unit_is_named():
    found = violations_of_metrics(collect(unit="ms"))
    assert "metric gen_ai.client.operation.duration: unit is 'ms', not 's'" in found


def test_wrong_buckets_are_named():
    found = violations_of_metrics(collect(buckets=(1.0, 2.0)))
    assert any("gen_ai.client.operation.duration: buckets are (1.0, 2.0)" in line for line in found)


def test_buckets_that_a_view_took_away_are_named():
    view = View(instrument_name="llamatelemetry.queue.duration", aggregation=ExplicitBucketHistogramAggregation([5]))
    (found,) = violations_of_metrics(collect(views=[view]))
    assert found.startswith("metric llamatelemetry.queue.duration: buckets are (5")


def test_a_missing_description_is_named():
    assert "metric llamatelemetry.queue.duration: has no description" in violations_of_metrics(collect(brief=""))


def test_a_wrong_kind_of_instrument_is_named():
    found = violations_of_metrics(collect(kind="counter"))
    assert "metric llamatelemetry.queue.duration: is a monotonic_sum, not a histogram" in found


def test_an_unknown_instrument_is_named():
    metric = EmittedMetric(name="gen_ai.client.mood", unit="1", description="x", shape="gauge", points=())
    other = dataclasses.replace(metric, name="http.server.duration")
    assert violations_of_metrics([metric, other]) == ["metric gen_ai.client.mood: no table has it"]


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"llamatelemetry.request.id": "r"}, "may not carry llamatelemetry.request.id"),
        ({"user": "u"}, "may not carry user"),
        ({"gen_ai.operation.name": 1}, "gen_ai.operation.name=1 is not of type string"),
    ],
)
def test_an_attribute_that_a_metric_may_not_carry_is_named(attributes, words):
    (metric,) = [m for m in metrics_from_sdk(collect()) if m.name == "llamatelemetry.queue.duration"]
    (point,) = metric.points
    point = dataclasses.replace(point, attributes={**point.attributes, **attributes})
    assert violations_of_metrics([dataclasses.replace(metric, points=(point,))]) == [
        f"metric llamatelemetry.queue.duration: {words}"
    ]


def test_a_point_without_its_required_attributes_is_named():
    row = instruments()["gen_ai.client.token.usage"]
    (metric,) = [m for m in metrics_from_sdk(collect()) if m.name == row.name]
    bare = dataclasses.replace(metric.points[0], attributes={})
    with pytest.raises(AssertionError, match=r"gen_ai.token.type is required and missing"):
        assert_valid_metrics([dataclasses.replace(metric, points=(bare,))])
