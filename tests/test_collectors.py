"""A real llama.cpp run, seen by real receivers: OTLP over HTTP and gRPC, replay, Prometheus."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import requests
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from prometheus_client.parser import text_string_to_metric_families

import llamatelemetry
from llamatelemetry import InferenceEngine, InferenceRequest, InferenceResult, SamplingParams
from llamatelemetry.llama.server import LlamaServer
from llamatelemetry.otel.replay import replay
from llamatelemetry.testing.collector import OtlpSink, plain, running_rotel

REQUEST = InferenceRequest(
    messages=[{"role": "user", "content": "Write to me@example.com about the sea."}],
    max_tokens=8,
    sampling=SamplingParams(temperature=0),
    conversation_id="conversation-7",
)


def run_once(server: LlamaServer) -> InferenceResult:
    with InferenceEngine("llamacpp", server_url=server.url) as engine:
        stream = engine.stream(REQUEST)
        for _ in stream:
            pass
        result = stream.result()
    report = llamatelemetry.shutdown()
    assert report.complete
    return result


def check_spans(sink: OtlpSink, result: InferenceResult) -> None:
    spans = {span.name: span for span in sink.spans if span.trace_id.hex() == result.trace_id}
    assert set(spans) == {"chat SmolLM2-135M-Instruct", "queue", "prefill", "decode"}
    root = spans["chat SmolLM2-135M-Instruct"]
    attributes = plain(root.attributes)
    expected = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "llamacpp",
        "gen_ai.request.max_tokens": 8,
        "gen_ai.request.temperature": 0.0,
        "gen_ai.request.stream": True,
        "gen_ai.conversation.id": "conversation-7",
        "gen_ai.usage.input_tokens": result.input_tokens,
        "gen_ai.usage.output_tokens": result.output_tokens,
        "gen_ai.usage.cache_read.input_tokens": result.cached_tokens,
        "gen_ai.response.finish_reasons": (result.finish_reason,),
        "llm.system": "llamacpp",
        "llm.tokens.total": (result.input_tokens or 0) + (result.output_tokens or 0),
        "llamatelemetry.model.architecture": "llama",
        "server.address": "127.0.0.1",
    }
    assert {name: attributes.get(name) for name in expected} == expected
    assert attributes["gen_ai.response.id"].startswith("chatcmpl-")
    edges = [root.start_time_unix_nano]
    for name in ("queue", "prefill", "decode"):
        assert spans[name].parent_span_id == root.span_id
        assert spans[name].start_time_unix_nano == edges[-1]
        edges.append(spans[name].end_time_unix_nano)
    assert edges[-1] == root.end_time_unix_nano


def check_metrics(sink: OtlpSink, result: InferenceResult) -> None:
    metrics: dict[str, Metric] = {metric.name: metric for metric in sink.metrics}
    [duration] = metrics["gen_ai.client.operation.duration"].histogram.data_points
    assert duration.sum == pytest.approx((result.duration_ms or 0) / 1e3)
    assert list(duration.explicit_bounds)[:2] == [0.01, 0.02]
    assert [exemplar.trace_id.hex() for exemplar in duration.exemplars] == [result.trace_id]
    tokens = {
        plain(point.attributes)["gen_ai.token.type"]: point.sum
        for point in metrics["gen_ai.client.token.usage"].histogram.data_points
    }
    assert tokens == {"input": result.input_tokens, "output": result.output_tokens}


def check_logs(sink: OtlpSink, result: InferenceResult) -> None:
    [event] = sink.log_records
    assert event.event_name == "gen_ai.client.inference.operation.details"
    assert event.trace_id.hex() == result.trace_id
    attributes = plain(event.attributes)
    assert "about the sea" in attributes["gen_ai.input.messages"]
    assert "me@example.com" not in attributes["gen_ai.input.messages"]
    assert result.text.strip()[:10] in attributes["gen_ai.output.messages"]


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_a_real_collector_receives_traces_metrics_and_logs(
    server: LlamaServer, protocol: Literal["http/protobuf", "grpc"]
) -> None:
    with OtlpSink() as sink, running_rotel(protocol, pass_on_to=sink.endpoint) as rotel:
        llamatelemetry.init(
            otlp_endpoint=rotel.endpoint, otlp_protocol=protocol, service_name="sea", capture_content="EVENT_ONLY"
        )
        result = run_once(server)
        assert sink.wait_for(lambda s: len(s.spans) >= 4 and s.metrics and s.log_records)
        check_spans(sink, result)
        check_metrics(sink, result)
        check_logs(sink, result)
        resources = [group.resource for request in sink.requests for group in getattr(request, "resource_spans", ())]
        assert {plain(resource.attributes)["service.name"] for resource in resources} == {"sea"}


def identity(sink: OtlpSink) -> dict[str, Any]:
    return {
        "spans": sorted(
            (span.trace_id, span.span_id, span.SerializeToString(deterministic=True)) for span in sink.spans
        ),
        # Not by their bytes: a body that is nothing may be sent as nothing or as an empty value.
        "logs": sorted(
            (record.trace_id, record.event_name, record.time_unix_nano, str(plain(record.attributes)))
            for record in sink.log_records
        ),
        "metrics": sorted(metric.SerializeToString(deterministic=True) for metric in sink.metrics),
    }


def test_replayed_files_say_exactly_what_a_direct_export_would_have(server: LlamaServer, telemetry) -> None:
    with OtlpSink() as direct, OtlpSink() as again:
        telemetry.start(
            otlp_endpoint=direct.endpoint,
            traces_exporters=["otlp", "file"],
            logs_exporters=["otlp", "file"],
            metrics_exporters=["file"],
            capture_content="SPAN_AND_EVENT",
        )
        result = run_once(server)
        with running_rotel(pass_on_to=again.endpoint) as rotel:
            summary = replay(telemetry.folder, rotel.endpoint)
            assert again.wait_for(lambda s: len(s.spans) >= 4 and s.metrics and s.log_records)
        sent, replayed = identity(direct), identity(again)
        assert replayed["spans"] == sent["spans"]
        assert replayed["logs"] == sent["logs"]
        assert summary.spans == len(sent["spans"]) == len(replayed["spans"])
        assert summary.log_records == len(replayed["logs"]) == 1
        assert summary.metrics == len(replayed["metrics"])
        check_spans(again, result)
        check_metrics(again, result)


def test_prometheus_scrapes_what_was_measured(server: LlamaServer) -> None:
    settings = llamatelemetry.init(
        traces_exporters="none", logs_exporters="none", metrics_exporters="prometheus", prometheus_port=0
    )
    try:
        with InferenceEngine("llamacpp", server_url=server.url) as engine:
            result = engine.generate(REQUEST)
            llamatelemetry.flush()
            text = requests.get(f"http://127.0.0.1:{settings.prometheus_port}/metrics", timeout=10).text
        families = {family.name: family for family in text_string_to_metric_families(text)}
        samples = families["gen_ai_client_token_usage"].samples
        sums = {s.labels["gen_ai_token_type"]: s.value for s in samples if s.name.endswith("_sum")}
        assert sums == {"input": result.input_tokens, "output": result.output_tokens}
        bounds = [
            s.labels["le"] for s in families["gen_ai_client_operation_duration_seconds"].samples if "le" in s.labels
        ]
        assert bounds[0] == "0.01"
        assert bounds[-1] == "+Inf"
        [active] = families["llamatelemetry_requests_active"].samples
        assert active.value == 0
        assert active.labels["gen_ai_request_model"] == "SmolLM2-135M-Instruct"
    finally:
        llamatelemetry.shutdown()
