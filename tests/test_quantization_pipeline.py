"""``QuantizationPipeline`` on a small random checkpoint: real conversion, real kernels, real llama.cpp."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from llamatelemetry import sdk
from llamatelemetry.artifacts.lookup import describe_file
from llamatelemetry.errors import InvalidValueError, PluginError, QualityLimitError, StageFailedError, UnknownNameError
from llamatelemetry.pipeline import Port, StageContext
from llamatelemetry.pipeline.runner import WORK
from llamatelemetry.plugins import Registry
from llamatelemetry.quantization import QuantizationPipeline
from llamatelemetry.quantization.small_checkpoints import write_small_checkpoint
from llamatelemetry.quantization.variants import read_report
from llamatelemetry.testing.telling import Telling

TEXT = "A text of a few words, which is all that a model of random weights needs to know. " * 3
VALIDATE = {"context": 64, "windows": 2}
BENCHMARK = {"options": {"context_length": 256}, "prompts": ["One.", "And two."], "max_tokens": 4}


class Merge:
    """Stands for the merging of a distribution that is not installed here: the checkpoint, with another name."""

    name, version, tools = "merge_lora", "1", {}
    inputs = (Port(name="base", kind="checkpoint"), Port(name="lora", kind="adapter"))
    outputs = (Port(name="merged", kind="checkpoint"),)

    def __init__(self, scale: float = 1.0) -> None:
        self.parameters = {"scale": scale}

    def run(self, context: StageContext) -> Mapping[str, Path]:
        assert (context.path("lora") / "adapter_config.json").exists()
        return {"merged": Path(shutil.copytree(context.path("base"), context.folder / "merged"))}


class Wrong(Merge):
    outputs = (Port(name="merged", kind="gguf"),)


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> dict[str, Path]:
    """A checkpoint whose rows have a multiple of 32 numbers, an adapter, and a text."""
    folder = tmp_path_factory.mktemp("given")
    adapter = folder / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    (folder / "text.txt").write_text(TEXT)
    return {"source": write_small_checkpoint(folder / "small"), "adapter": adapter, "text": folder / "text.txt"}


@pytest.fixture
def merging(monkeypatch):
    """Puts a stage where plugins are asked for ``merge_lora``."""

    def put(stage: type | None) -> None:
        registry = Registry("stage")
        if stage is not None:
            registry.add("merge_lora", f"{__name__}:{stage.__name__}")
            monkeypatch.setattr(registry, "resolve", lambda _name: stage)
        monkeypatch.setattr("llamatelemetry.quantization.road.load_plugins", lambda: Plugins(registry))

    return put


class Plugins:
    def __init__(self, stages: Registry) -> None:
        self._stages = stages

    def resolve_stage(self, name: str) -> type:
        self._stages.get(name, "Run: pip install something")
        return self._stages.resolve(name)


def test_one_run_makes_measures_and_compares_all_types_in_one_trace(tmp_path, given):
    road = QuantizationPipeline(["q4_0", "Q8_0"], validate=VALIDATE, benchmark=BENCHMARK, threads=1)
    sdk.shutdown()
    sdk.init(telemetry_dir=tmp_path / "telemetry", exporters="file", sampler="always_on")
    try:
        made = road.run(given["source"], store=tmp_path / "store", text=given["text"])
        telling = Telling(tmp_path / "telemetry")
        spans, requests = telling.spans(), telling.requests()
    finally:
        sdk.shutdown()

    ids = [stage.id for stage in made.run.record.stages]
    of_each = [f"{what}-{name}" for what in ("validate", "benchmark") for name in ("f16", "q4_0", "q8_0")]
    assert ids == ["f16", "q4_0", "q8_0", *of_each, "compare"]
    parent, q4, q8 = made.table.variants
    assert [parent.name, q4.name, q8.name] == ["f16", "q4_0", "q8_0"]
    assert q4.size_bytes < q8.size_bytes < parent.size_bytes == made.models["f16"].stat().st_size
    assert parent.divergence is None
    assert 0 < q8.divergence.value < q4.divergence.value
    assert q8.perplexity_ratio.value == pytest.approx(q8.perplexity.value / parent.perplexity.value, rel=1e-3)
    assert all(variant.prefill_tps.value > 0 for variant in made.table.variants)
    # Every request of every benchmark is in the pipeline's trace, and links to the stage that made its model.
    assert {span.trace_id for span in spans} == {made.run.record.trace_id}
    by_id = {stage.id: stage.span_id for stage in made.run.record.stages}
    for name in road.variants:
        ours = [span for span in requests.values() if span.parent_id == by_id[f"benchmark-{name}"]]
        assert len(ours) == 3
        assert {link.span_id for span in ours for link in span.links} == {by_id[name]}


def test_what_was_made_is_made_once_and_another_type_costs_itself_only(tmp_path, given):
    road = QuantizationPipeline(["Q4_0"], threads=1)
    road.run(given["source"], store=tmp_path / "store")

    again = QuantizationPipeline(["Q4_0", "Q5_1"], threads=1).run(given["source"], store=tmp_path / "store")

    states = {stage.id: stage.state for stage in again.run.record.stages}
    assert states == {"f16": "reused", "q4_0": "reused", "q5_1": "ran", "compare": "ran"}
    assert "perplexity" not in again.run.artifacts["compare.table"].path.read_text()


def test_an_adapter_is_merged_first_by_whatever_stage_plugins_bring(tmp_path, given, merging):
    merging(Merge)
    road = QuantizationPipeline(["Q8_0"], merge={"scale": 0.5}, parent="BF16", threads=1)

    made = road.run(given["source"], store=tmp_path / "store", adapter=given["adapter"])

    assert [stage.id for stage in made.run.record.stages] == ["merge_lora", "bf16", "q8_0", "compare"]
    merged = made.run.artifacts["merge_lora.merged"].manifest
    assert merged.parameters == {"scale": 0.5}
    assert describe_file(made.models["bf16"]).manifest.parents[0].digest == merged.digest


def test_without_a_stage_that_merges_it_says_what_to_install(tmp_path, given, merging):
    merging(None)
    with pytest.raises(UnknownNameError, match="Run: pip install"):
        QuantizationPipeline(["Q8_0"]).run(given["source"], store=tmp_path / "store", adapter=given["adapter"])
    assert not (tmp_path / "store").exists()

    merging(Wrong)
    with pytest.raises(PluginError, match="must make one checkpoint"):
        QuantizationPipeline(["Q8_0"]).build(adapter=True)
    merging(Merge)
    with pytest.raises(InvalidValueError, match="merge"):
        QuantizationPipeline(["Q8_0"], merge={"no_such": 1}).build(adapter=True)


def test_the_parent_runs_once_for_all_its_variants_and_the_reports_say_what_they_say_without(tmp_path, given, children):
    reports = {}
    for name, told in (("together", {}), ("apart", {"shared_bytes": 0})):
        children.clear()
        road = QuantizationPipeline(["Q4_0", "Q8_0"], validate={**VALIDATE, **told}, threads=1)
        made = road.run(given["source"], store=tmp_path / name, text=given["text"])
        assert list((tmp_path / name / WORK).iterdir()) == []
        reports[name] = [read_report(made.run.artifacts[f"validate-{each}.report"].path) for each in road.variants]
        assert children.count("model-F16.gguf") == {"together": 1, "apart": 3}[name]
        assert len(children) == {"together": 3, "apart": 5}[name]

    figures = [
        [{key: value for key, value in report.items() if key not in {"model", "parent"}} for report in each]
        for each in reports.values()
    ]
    assert figures[0] == figures[1]
    assert figures[0][1]["divergence"]["value"] > figures[0][2]["divergence"]["value"] > 0


def test_limits_hold_for_what_was_quantized_and_not_for_its_parent(tmp_path, given):
    road = QuantizationPipeline(["Q4_0"], validate={**VALIDATE, "max_divergence": 1e-9}, threads=1)

    with pytest.raises(StageFailedError) as caught:
        road.run(given["source"], store=tmp_path / "store", text=given["text"])

    assert caught.value.stage == "validate-q4_0"
    assert list((tmp_path / "store" / WORK).iterdir()) == []
    assert isinstance(caught.value.cause, QualityLimitError)


@pytest.mark.parametrize("types", [[], "Q4_0", ["Q9"], ["Q4_0", "q4_0"], ["F16"]])
def test_types_that_cannot_be_made_are_refused(types):
    with pytest.raises(InvalidValueError):
        QuantizationPipeline(types)
