"""Real unsloth trains, and leaves the machine as it is."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from llamatelemetry import sdk
from llamatelemetry.errors import MissingDependencyError, ModelFileError, NotSupportedError
from llamatelemetry.pipeline import Pipeline
from llamatelemetry.semconv.model_load import MODEL_LOAD_SPAN
from llamatelemetry.testing.emitted import spans_from_otlp_json
from llamatelemetry.testing.semconv import assert_valid_spans
from llamatelemetry.testing.stage_contract import StageContract
from llamatelemetry.unsloth import (
    FinetuneStage,
    LoraSettings,
    MergeLoraStage,
    TrainingSettings,
    add_adapter,
    finetune,
    load_model,
    merge_adapter,
    read_adapter,
)
from llamatelemetry.unsloth.adapter import CONFIG, WEIGHTS
from llamatelemetry.unsloth.testing import write_small_adapter

TOLD = {"rank": 4, "alpha": 8, "steps": 12, "learning_rate": 2e-2, "batch_size": 4, "sequence_length": 48, "seed": 7}


class TestFinetuneStageWithUnsloth(StageContract):
    @pytest.fixture(autouse=True)
    def _given(self, base, lines, commands):
        self.given = {"base": base, "dataset": lines}

    def make_stage(self):
        return FinetuneStage(steps=2, rank=2, sequence_length=16)

    def make_inputs(self, folder):
        return self.given


@pytest.fixture(scope="module")
def run(base, lines, commands, tmp_path_factory):
    """A traced run of twelve steps and a merge, from an empty folder: its spans, what it made, and the folder."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "here").mkdir()
    before = Path.cwd()
    sdk.shutdown()
    sdk.init(telemetry_dir=folder / "telemetry", exporters="file", sampler="always_on")
    os.chdir(folder / "here")
    try:
        pipeline = Pipeline([FinetuneStage(**TOLD), MergeLoraStage()])
        made = pipeline.run("sums", store=folder / "store", inputs={"base": base, "dataset": lines})
        assert sdk.flush()
    finally:
        os.chdir(before)
        sdk.shutdown()
    told = [line for path in sorted((folder / "telemetry").iterdir()) for line in path.read_text().splitlines()]
    return spans_from_otlp_json(told), made, folder / "here"


def test_it_learns_and_says_so_on_the_stages_span(run):
    spans, made, _ = run
    trained = made.record.stages[0]

    assert trained.steps == 12
    assert trained.loss_last < 0.85 * trained.loss_first
    (load,) = [span for span in spans if span.name == MODEL_LOAD_SPAN]
    assert load.attributes["llamatelemetry.load.engine"] == "unsloth"
    assert_valid_spans(spans, ["gen_ai", "llm"])
    assert made.artifacts["finetune.adapter"].manifest.tools["unsloth"].startswith("2026.")


def test_its_adapter_is_one_like_any_other_and_merges(run):
    found = read_adapter(run[1].artifacts["finetune.adapter"].path)

    assert (found.rank, found.alpha, found.base_model, len(found.targets)) == (4, 8, "small", 7)
    assert (run[1].artifacts["merge_lora.checkpoint"].path / "model.safetensors").is_file()


def test_plain_peft_learns_the_same(run, base, lines, tmp_path):
    from safetensors.torch import load_file

    lora = LoraSettings(rank=4, alpha=8)
    training = TrainingSettings(**{name: value for name, value in TOLD.items() if name not in {"rank", "alpha"}})
    other = finetune(base, lines, tmp_path / "lora", engine="peft", lora=lora, training=training)

    mine = run[1].artifacts["finetune.adapter"].path
    assert (other / CONFIG).read_bytes() == (mine / CONFIG).read_bytes()
    expected = load_file(other / WEIGHTS)
    for name, weight in load_file(mine / WEIGHTS).items():
        assert (weight - expected[name]).abs().max() < 1e-3


def test_nothing_is_printed_and_nothing_is_written_where_it_stands(base, lines, tmp_path, capsys, run):
    finetune(base, lines, tmp_path / "lora", training=TrainingSettings(steps=1, sequence_length=16))

    assert capsys.readouterr().out == ""
    assert list(run[2].iterdir()) == []
    assert str(Path.cwd() / "unsloth_compiled_cache") not in sys.path
    assert "unsloth_compiled_cache" not in sys.path


def test_no_command_that_installs_anything_is_run(commands, run):
    from unsloth_zoo.llama_cpp import install_package

    with pytest.raises(RuntimeError, match="UNSLOTH_AUTO_INSTALL=0"):
        install_package("cowsay")

    assert commands.read_text() == ""


def test_its_own_export_is_refused_before_it_fetches_anything(base, commands, tmp_path):
    loaded = load_model(base, sequence_length=32)
    model = add_adapter(loaded, LoraSettings(rank=2), seed=1)

    for each in (loaded.model, model):
        with pytest.raises(NotSupportedError, match="export-gguf"):
            each.save_pretrained_gguf(str(tmp_path / "out"), loaded.tokenizer)
    assert commands.read_text() == ""
    assert not (tmp_path / "out").exists()


def test_four_bits_without_bitsandbytes_are_an_error_and_not_sixteen(base):
    with pytest.raises(MissingDependencyError, match="pip install bitsandbytes"):
        load_model(base, load_in_4bit=True)


def test_a_model_that_is_not_there_is_named(tmp_path):
    (tmp_path / "empty").mkdir()

    with pytest.raises(ModelFileError, match="empty: cannot be loaded"):
        load_model(tmp_path / "empty")


def test_merging_is_the_same_work_beside_unsloth(run, base, tmp_path):
    made = merge_adapter(base, write_small_adapter(tmp_path / "lora"), tmp_path / "merged")

    assert made.dtype == "bfloat16"
