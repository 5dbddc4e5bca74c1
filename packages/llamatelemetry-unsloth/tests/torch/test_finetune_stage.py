"""The stage ``finetune`` on PEFT: a model learns, its span says how, and the same settings give the same adapter."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from llamatelemetry import sdk
from llamatelemetry.errors import InvalidValueError, StageFailedError
from llamatelemetry.pipeline import Pipeline, PipelineContext
from llamatelemetry.quantization.small_checkpoints import write_small_checkpoint
from llamatelemetry.semconv.model_load import MODEL_LOAD_SPAN
from llamatelemetry.semconv.pipeline import STEP_EVENT
from llamatelemetry.testing.emitted import spans_from_otlp_json
from llamatelemetry.testing.semconv import assert_valid_spans
from llamatelemetry.testing.stage_contract import StageContract
from llamatelemetry.unsloth import FinetuneStage, LoraSettings, finetune, read_adapter
from llamatelemetry.unsloth.adapter import WEIGHTS

SETTINGS = {"steps": 3, "rank": 2, "batch_size": 2, "sequence_length": 16, "learning_rate": 1e-2}


class TestFinetuneStage(StageContract):
    def make_stage(self):
        return FinetuneStage(engine="peft", **SETTINGS)

    def make_inputs(self, folder):
        (folder / "data.jsonl").write_text(json.dumps({"text": "one two three"}) + "\n")
        return {"base": write_small_checkpoint(folder / "base"), "dataset": folder / "data.jsonl"}


@pytest.fixture(scope="module")
def run(base, lines, tmp_path_factory):
    """A traced run of twelve steps: its spans, its record, what it made, and the news of it."""
    folder = tmp_path_factory.mktemp("run")
    news = []
    stage = FinetuneStage(
        engine="peft", rank=4, alpha=8, steps=12, learning_rate=2e-2, batch_size=4, sequence_length=48, seed=7
    )
    sdk.shutdown()
    sdk.init(telemetry_dir=folder / "telemetry", exporters="file", sampler="always_on")
    try:
        made = Pipeline([stage]).run(
            "sums", store=folder / "store", inputs={"base": base, "dataset": lines}, progress=news.append
        )
        assert sdk.flush()
    finally:
        sdk.shutdown()
    told = [line for path in sorted((folder / "telemetry").iterdir()) for line in path.read_text().splitlines()]
    return spans_from_otlp_json(told), made, news


def test_the_loss_falls_over_twelve_steps(run):
    (outcome,) = run[1].record.stages

    assert outcome.steps == 12
    assert outcome.loss_last < 0.85 * outcome.loss_first


def test_every_step_is_an_event_with_its_loss_and_news_for_who_waits(run):
    spans, _, news = run
    (stage,) = [span for span in spans if span.name == "finetune"]
    steps = [event for event in stage.events if event.name == STEP_EVENT]

    assert [event.attributes["llamatelemetry.pipeline.step.number"] for event in steps] == list(range(1, 13))
    losses = [event.attributes["llamatelemetry.pipeline.step.loss"] for event in steps]
    assert losses == [each.loss for each in news if each.state == "step"]
    assert stage.attributes["llamatelemetry.pipeline.loss.last"] == losses[-1]
    assert stage.attributes["llamatelemetry.pipeline.memory.peak"] > 0
    assert [(each.done, each.total, each.unit) for each in news if each.unit == "steps"] == [(0, 12, "steps")]


def test_loading_has_a_span_of_its_own_inside(run):
    spans = run[0]
    (stage,) = [span for span in spans if span.name == "finetune"]
    (load,) = [span for span in spans if span.name == MODEL_LOAD_SPAN]

    assert load.parent_id == stage.span_id
    assert_valid_spans(spans, ["gen_ai", "llm"])
    assert load.attributes["llamatelemetry.load.engine"] == "peft"
    assert load.attributes["llamatelemetry.load.source"] == "small"
    assert load.attributes["llamatelemetry.load.dtype"] == "float32"
    assert load.attributes["llamatelemetry.model.architecture"] == "llama"
    assert load.attributes["llamatelemetry.model.parameters"] > 60_000


def test_the_adapter_is_of_the_shape_that_was_asked_for_and_names_no_folder_of_this_machine(run):
    made = run[1].artifacts["finetune.adapter"]
    found = read_adapter(made.path)

    assert (found.rank, found.alpha, found.base_model) == (4, 8, "small")
    assert len(found.targets) == 7
    assert [file.path for file in made.manifest.files] == ["adapter_config.json", "adapter_model.safetensors"]


def test_the_same_settings_make_the_same_bytes(run, trained):
    made = run[1].artifacts["finetune.adapter"].path

    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (made / name).read_bytes() == (trained / name).read_bytes()


def test_the_name_of_the_base_model_is_among_what_decides_the_outcome(base, lines, tmp_path):
    def run(**told):
        stage = FinetuneStage(engine="peft", **SETTINGS, **told)
        context = PipelineContext(name="sums", base_model="of the run")
        made = Pipeline([stage]).run(context, store=tmp_path, inputs={"base": base, "dataset": lines})
        return made.record.stages[0].state, read_adapter(made.artifacts["finetune.adapter"].path).base_model

    assert [run(), run(base_model="org/model")] == [("ran", "small"), ("ran", "org/model")]


def test_another_seed_makes_another_adapter(learn, trained, tmp_path):
    other = learn(tmp_path / "lora", seed=8)

    assert (other / WEIGHTS).read_bytes() != (trained / WEIGHTS).read_bytes()


@pytest.mark.parametrize(
    ("wanted", "said"), [("q_prj", "did you mean q_proj"), ("attention", "the model has down_proj")]
)
def test_a_target_that_is_not_in_the_model_is_named(base, lines, tmp_path, wanted, said):
    with pytest.raises(InvalidValueError, match=said):
        finetune(base, lines, tmp_path / "lora", engine="peft", lora=LoraSettings(targets=(wanted,)))


def test_training_that_diverged_is_an_error_and_no_adapter(base, lines, tmp_path):
    stage = FinetuneStage(engine="peft", **{**SETTINGS, "learning_rate": 1e30})

    with pytest.raises(StageFailedError, match=r"learning_rate.*diverged"):
        Pipeline([stage]).run("sums", store=tmp_path / "store", inputs={"base": base, "dataset": lines})
    assert not (tmp_path / "store" / "objects").exists()


def test_gradient_checkpointing_changes_nothing_that_is_learned(learn, trained, tmp_path):
    other = learn(tmp_path / "lora", gradient_checkpointing=False)

    expected = load_file(trained / WEIGHTS)
    for name, weight in load_file(other / WEIGHTS).items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-3, atol=1e-4)
