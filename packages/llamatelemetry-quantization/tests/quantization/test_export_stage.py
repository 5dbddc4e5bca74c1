from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import gguf
import pytest

from llamatelemetry.errors import InvalidValueError
from llamatelemetry.pipeline import Pipeline, PipelineContext, Stage
from llamatelemetry.plugins import load_plugins
from llamatelemetry.quantization import ExportGGUFStage, QuantizeStage
from llamatelemetry.quantization.small_checkpoints import write_small_checkpoint
from llamatelemetry.testing.stage_contract import StageContract


class TestExportGGUFStage(StageContract):
    def make_stage(self) -> Stage:
        return ExportGGUFStage("F16", threads=1)

    def make_inputs(self, folder: Path) -> Mapping[str, Path]:
        return {"checkpoint": write_small_checkpoint(folder / "small")}


def test_the_file_names_the_run_and_the_checkpoint_and_is_quantized_next(tmp_path):
    folder = write_small_checkpoint(tmp_path / "small")
    stages = [ExportGGUFStage("BF16"), QuantizeStage("Q8_0")]

    run = Pipeline(stages).run("road", store=tmp_path / "store", inputs={"checkpoint": folder})

    made = run.artifacts["export_gguf.model"]
    fields = gguf.GGUFReader(made.path).fields
    assert fields["llamatelemetry.lineage.run_id"].contents() == run.record.run_id
    (parent,) = made.manifest.parents
    assert fields["llamatelemetry.lineage.parent_digest"].contents() == parent.digest
    assert fields["general.name"].contents() == "small"
    assert run.artifacts["quantize.model"].path.exists()


def test_the_name_in_the_file_is_among_what_decides_the_outcome(tmp_path):
    checkpoint = write_small_checkpoint(tmp_path / "small")

    def run(name, **about):
        context = PipelineContext(name="road", **about)
        stages = [ExportGGUFStage("F16", model_name=name)]
        made = Pipeline(stages).run(context, store=tmp_path / "store", inputs={"checkpoint": checkpoint})
        called = gguf.GGUFReader(made.artifacts["export_gguf.model"].path).fields["general.name"].contents()
        return made.record.stages[0].state, called

    assert run(None) == ("ran", "small")
    # What a run is said to be about changes nothing that is made.
    assert run(None, artifact="tuned", base_model="SmolLM2") == ("reused", "small")
    assert run("tuned") == ("ran", "tuned")


def test_a_type_that_quantize_makes_is_refused_when_the_stage_is_made():
    with pytest.raises(InvalidValueError, match="give one of F32, F16"):
        ExportGGUFStage("Q4_K_M")


def test_pipelines_find_the_stage_by_its_name():
    assert load_plugins().resolve_stage("export_gguf") is ExportGGUFStage
