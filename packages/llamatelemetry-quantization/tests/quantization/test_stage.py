from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import gguf
import pytest

from llamatelemetry.errors import InvalidValueError
from llamatelemetry.pipeline import Pipeline, Stage
from llamatelemetry.plugins import load_plugins
from llamatelemetry.quantization import QuantizeStage, quantize
from llamatelemetry.quantization.testing import write_small_importance, write_small_model
from llamatelemetry.testing.stage_contract import StageContract


class TestQuantizeStage(StageContract):
    def make_stage(self) -> Stage:
        return QuantizeStage("Q4_K_M", threads=1)

    def make_inputs(self, folder: Path) -> Mapping[str, Path]:
        model = write_small_model(folder / "model.gguf", blocks=1, tied=True)
        return {"model": model, "imatrix": write_small_importance(folder / "imatrix.gguf", model)}


def test_the_file_names_the_run_and_the_model_that_it_was_made_of(tmp_path, tiny):
    run = Pipeline([QuantizeStage("Q8_0")]).run("small", store=tmp_path / "store", inputs={"model": tiny})

    made = run.artifacts["quantize.model"]
    fields = gguf.GGUFReader(made.path).fields
    assert fields["llamatelemetry.lineage.run_id"].contents() == run.record.run_id
    (parent,) = made.manifest.parents
    assert fields["llamatelemetry.lineage.parent_digest"].contents() == parent.digest


def test_an_importance_matrix_is_used_and_no_folder_of_this_machine_is_in_the_file(tmp_path, tiny, tiny_importance):
    given = {"model": tiny, "imatrix": tiny_importance}
    run = Pipeline([QuantizeStage("IQ4_XS", overrides=[["ffn_down", "Q8_0"]])]).run(
        "small", store=tmp_path / "store", inputs=given
    )

    made = run.artifacts["quantize.model"].path
    quantize(
        tiny, tmp_path / "direct.gguf", file_type="IQ4_XS", imatrix=tiny_importance, overrides=[("ffn_down", "Q8_0")]
    )
    assert str(tmp_path).encode() not in made.read_bytes()
    ours, direct = (
        {tensor.name: bytes(tensor.data) for tensor in gguf.GGUFReader(path).tensors}
        for path in (made, tmp_path / "direct.gguf")
    )
    assert ours == direct


def test_threads_are_no_reason_to_do_it_again_and_the_type_is(tmp_path, tiny):
    given = {"store": tmp_path / "store", "inputs": {"model": tiny}}
    Pipeline([QuantizeStage("Q8_0", threads=1)]).run("small", **given)

    same = Pipeline([QuantizeStage("q8_0", threads=2)]).run("small", **given)
    other = Pipeline([QuantizeStage("Q4_0", threads=1)]).run("small", **given)

    assert [run.record.stages[0].state for run in (same, other)] == ["reused", "ran"]


def test_a_type_that_is_none_is_refused_when_the_stage_is_made():
    with pytest.raises(InvalidValueError, match="give one of"):
        QuantizeStage("Q9")


def test_pipelines_find_the_stage_by_its_name():
    assert load_plugins().resolve_stage("quantize") is QuantizeStage
