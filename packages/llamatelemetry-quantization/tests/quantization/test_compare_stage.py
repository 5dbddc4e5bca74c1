from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from llamatelemetry.artifacts.files import create_manifest, write_manifest
from llamatelemetry.clock import Clock
from llamatelemetry.errors import InvalidValueError, StageFailedError
from llamatelemetry.pipeline import Node, Pipeline
from llamatelemetry.plugins import load_plugins
from llamatelemetry.quantization import CompareStage
from llamatelemetry.quantization.variants import read_variant_table
from llamatelemetry.testing.stage_contract import StageContract

ALONE = {"low": None, "high": None}
QUALITY = {
    "perplexity": {"value": 20.5, "low": 20.0, "high": 21.0},
    "divergence": {"value": 0.5, **ALONE},
}
SPEED = {"decode_tps": {"value": 12.25, "count": 2, **ALONE}, "ttft_ms": None}


def given(folder: Path) -> dict[str, Path]:
    """Two models and what is known of them."""
    (folder / "f16.gguf").write_bytes(bytes(4000))
    (folder / "q4.gguf").write_bytes(bytes(1000))
    for name, report in (("quality", QUALITY), ("benchmark", SPEED)):
        (folder / f"{name}.json").write_text(json.dumps(report))
    return {
        "model_f16": folder / "f16.gguf",
        "model_q4": folder / "q4.gguf",
        "quality_q4": folder / "quality.json",
        "benchmark_q4": folder / "benchmark.json",
    }


class TestCompareStage(StageContract):
    def make_stage(self) -> CompareStage:
        return CompareStage(["f16", "q4"])

    def make_inputs(self, folder: Path) -> Mapping[str, Path]:
        return given(folder)


def compared(folder, inputs):
    wires = {"quality_f16": "", "benchmark_f16": "", **{name: f"inputs.{name}" for name in inputs}}
    node = Node(stage=CompareStage(["f16", "q4"]), inputs=wires)
    return Pipeline([node]).run("compare", store=folder / "store", inputs=inputs)


def test_the_table_has_what_was_measured_and_says_of_the_rest_nothing(tmp_path):
    run = compared(tmp_path, given(tmp_path))

    assert run.artifacts["compare.table"].path.read_text() == (
        "| model | MB | of the parent | perplexity | divergence | tokens/s |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: |\n"
        "| f16 | 0.0 | 100% | - | - | - |\n"
        "| q4 | 0.0 | 25% | 20.500 ± 0.500 | 0.50000 | 12.2 |\n"
    )
    table = read_variant_table(run.artifacts["compare.report"].path)
    assert [variant.size_bytes for variant in table.variants] == [4000, 1000]
    assert table.variants[0].perplexity is table.variants[1].ttft_ms is None
    assert (table.variants[1].perplexity.low, table.variants[1].perplexity.high) == (20.0, 21.0)


@pytest.mark.parametrize(
    "report", ["nothing", "[]", '{"perplexity": 3}', '{"perplexity": {"value": "3"}}', "[" * 10_000]
)
def test_a_report_that_is_none_is_refused(tmp_path, report):
    inputs = given(tmp_path)
    inputs["quality_q4"].write_text(report)

    with pytest.raises(StageFailedError) as caught:
        compared(tmp_path, inputs)

    assert isinstance(caught.value.cause, InvalidValueError)


def described(folder: Path, **made_of: str) -> dict[str, Path]:
    """The same, with a manifest of the report on quality that says which models it is of."""
    inputs = given(folder)
    parents = [
        create_manifest(inputs[model], kind="gguf", clock=Clock(time_ns=lambda: 1)).as_parent(role)
        for role, model in made_of.items()
    ]
    report = inputs["quality_q4"]
    write_manifest(create_manifest(report, kind="report", parents=parents), report)
    return inputs


def test_a_report_of_another_model_or_against_another_parent_is_refused(tmp_path):
    assert compared(tmp_path, described(tmp_path, model="model_q4", parent="model_f16")).artifacts

    of_another = described(tmp_path, model="model_f16")
    with pytest.raises(StageFailedError, match=r"quality_q4='f16\.gguf' is not valid: its model was not model_q4"):
        compared(tmp_path / "model", of_another)
    against_another = described(tmp_path, model="model_q4", parent="model_q4")
    with pytest.raises(StageFailedError, match="its parent was not model_f16, the first of the variants: wire"):
        compared(tmp_path / "parent", against_another)


@pytest.mark.parametrize("text", ["{}", '{"variants": []}', '{"variants": [3]}', '{"variants": [{"name": "q4"}]}'])
def test_what_is_no_table_is_refused(tmp_path, text):
    (tmp_path / "table.json").write_text(text)

    with pytest.raises(InvalidValueError, match="as the stage compare writes it"):
        read_variant_table(tmp_path / "table.json")


def test_variants_have_names_of_their_own():
    for wrong in ([], ["q4", "q4"], "q4"):
        with pytest.raises(InvalidValueError, match="each once"):
            CompareStage(wrong)
    assert load_plugins().resolve_stage("compare") is CompareStage
