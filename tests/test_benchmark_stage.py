"""The stage ``benchmark`` on a small random model in real llama.cpp."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from llamatelemetry import sdk
from llamatelemetry.bench.stage import BenchmarkStage
from llamatelemetry.errors import ConfigurationError, StageFailedError, UnknownNameError
from llamatelemetry.pipeline import Pipeline
from llamatelemetry.plugins import load_plugins
from llamatelemetry.quantization.testing import write_small_model
from llamatelemetry.testing.stage_contract import StageContract
from llamatelemetry.testing.telling import Telling

OPTIONS = {"threads": 1, "context_length": 256}


def stage(**changed) -> BenchmarkStage:
    return BenchmarkStage(**{"options": OPTIONS, "prompts": ["One.", "And two."], "max_tokens": 4, **changed})


class TestBenchmarkStage(StageContract):
    def make_stage(self) -> BenchmarkStage:
        return stage()

    def make_inputs(self, folder: Path) -> Mapping[str, Path]:
        return {"model": write_small_model(folder / "small.gguf", blocks=1)}


@pytest.fixture
def model(tmp_path):
    return write_small_model(tmp_path / "small.gguf", blocks=1)


def test_it_is_what_pipelines_find_by_its_name():
    assert load_plugins().resolve_stage("benchmark") is BenchmarkStage


def test_requests_are_spans_within_the_stages_and_make_the_report(tmp_path, model):
    sdk.shutdown()
    sdk.init(telemetry_dir=tmp_path / "telemetry", exporters="file", sampler="always_on")
    try:
        run = Pipeline([stage(concurrency=2)]).run("small", store=tmp_path / "store", inputs={"model": model})
        telling = Telling(tmp_path / "telemetry")
        outcome, spans = run.record.stages[0], telling.spans()
        asked = [span for span in telling.requests().values() if span.parent_id == outcome.span_id]
    finally:
        sdk.shutdown()
    report = json.loads(run.artifacts["benchmark.report"].path.read_text())

    # One request before those that count.
    assert len(asked) == report["requests"] + 1 == 3
    assert {span.trace_id for span in spans} == {outcome.trace_id}
    assert report["model_digest"] == run.artifacts["inputs.model"].manifest.digest
    assert report["provider"] == "llamacpp"
    assert report["cached_tokens"] < report["input_tokens"] / 2
    assert report["ttft_ms"]["value"] <= report["ttft_p95_ms"] < 1e3 * report["wall_s"]
    assert report["decode_tps"]["value"] > 0
    assert report["prefill_tps"]["value"] > 0


@pytest.mark.parametrize(
    ("changed", "error"),
    [({"backend": "no_such"}, UnknownNameError), ({"options": {"no_such": 1}}, ConfigurationError)],
)
def test_a_backend_that_cannot_run_it_is_said(tmp_path, model, changed, error):
    with pytest.raises(StageFailedError) as caught:
        Pipeline([stage(**changed)]).run("small", store=tmp_path / "store", inputs={"model": model})

    assert isinstance(caught.value.cause, error)
