from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from llamatelemetry.errors import InvalidValueError, QualityLimitError, StageFailedError
from llamatelemetry.pipeline import Pipeline, Stage
from llamatelemetry.pipeline.nodes import NOTHING, Node
from llamatelemetry.pipeline.runner import WORK
from llamatelemetry.plugins import load_plugins
from llamatelemetry.quantization import QuantizeStage, ValidateStage
from llamatelemetry.quantization.testing import write_small_model
from llamatelemetry.testing.stage_contract import StageContract

TEXT = "A text of a few words, which is all that a model of random weights needs to know. " * 3


class TestValidateStage(StageContract):
    def make_stage(self) -> Stage:
        return ValidateStage(context=64, windows=2, threads=1)

    def make_inputs(self, folder: Path) -> Mapping[str, Path]:
        text = folder / "text.txt"
        text.write_text(TEXT)
        return {"model": write_small_model(folder / "model.gguf", blocks=1, tied=True), "text": text}


@pytest.fixture
def road(tmp_path, tiny):
    """Quantizes and validates with limits; gives the run."""
    text = tmp_path / "text.txt"
    text.write_text(TEXT)

    def run(**limits):
        wires = {"model": "quantize.model", "parent": "inputs.model", "text": "inputs.text"}
        stage = ValidateStage(context=64, threads=2, **limits)
        nodes = [
            Node(stage=QuantizeStage("Q4_0", threads=1), id="quantize", inputs={"model": "inputs.model"}),
            Node(stage=stage, id="validate", inputs=wires),
        ]
        return Pipeline(nodes).run("small", store=tmp_path / "store", inputs={"model": tiny, "text": text})

    return run


def test_the_report_says_what_was_measured_of_what(road):
    run = road(max_divergence=1.0)

    report = json.loads(run.artifacts["validate.report"].path.read_text())
    assert report["model"] == run.artifacts["quantize.model"].manifest.digest
    assert report["parent"] == run.artifacts["inputs.model"].manifest.digest
    assert report["windows"] == 5
    assert report["divergence"]["low"] <= report["divergence"]["value"] <= report["divergence"]["high"]
    assert report["text"]["name"]


@pytest.mark.parametrize("limit", ["max_divergence", "max_perplexity", "max_perplexity_ratio"])
def test_a_model_that_is_past_a_limit_fails_the_stage(road, limit):
    with pytest.raises(StageFailedError, match="at most 1e-06 was allowed") as caught:
        road(**{limit: 1e-6})

    cause = caught.value.cause
    assert isinstance(cause, QualityLimitError)
    assert f"max_{cause.figure}" == limit
    assert cause.value > cause.limit == 1e-6


def test_a_model_is_not_taken_for_its_own_parent(tmp_path, tiny):
    # It is the only model there is, so it is wired to both.
    with pytest.raises(StageFailedError, match="give the model that this one was made of"):
        Pipeline([ValidateStage(max_divergence=1.0)]).run("small", store=tmp_path / "store", inputs={"model": tiny})


def test_logits_of_a_parent_are_kept_while_another_stage_needs_them_and_for_no_other(tmp_path, tiny):
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    kept = []

    def look(progress):
        if progress.unit == "windows":
            kept.append((progress.stage, len(list((tmp_path / "store" / WORK).glob("*/.validate/*.f32")))))

    def measured(name, model, **wires):
        stage = ValidateStage(context=64, windows=1, threads=2)
        return Node(stage=stage, id=name, inputs={"model": model, "text": "inputs.text", **wires})

    def run(*nodes):
        kept.clear()
        quantized = Node(stage=QuantizeStage("Q4_0", threads=1), id="quantize", inputs={"model": "inputs.model"})
        given = {"model": tiny, "text": text}
        made = Pipeline([quantized, *nodes]).run("small", store=tmp_path / "store", inputs=given, progress=look)
        assert list((tmp_path / "store" / WORK).iterdir()) == []
        return made

    run(measured("alone", "quantize.model", parent="inputs.model"))
    assert kept == [("alone", 0)]
    shutil.rmtree(tmp_path / "store")
    run(measured("first", "inputs.model", parent=NOTHING), measured("second", "quantize.model", parent="inputs.model"))
    assert kept == [("first", 1), ("second", 1)]


def test_what_is_no_limit_is_refused_when_the_stage_is_made():
    with pytest.raises(InvalidValueError, match="above 0"):
        ValidateStage(max_divergence=-1)
    with pytest.raises(InvalidValueError, match="context"):
        ValidateStage(context=1)


def test_what_it_takes_is_told_of_the_class_and_a_limit_makes_the_parent_needed():
    assert [(port.name, port.optional) for port in ValidateStage.inputs] == [
        *(("model", False), ("parent", True), ("text", True))
    ]
    assert [port.optional for port in ValidateStage(max_divergence=1).inputs] == [False, False, True]


def test_pipelines_find_the_stage_by_its_name():
    assert load_plugins().resolve_stage("validate") is ValidateStage
