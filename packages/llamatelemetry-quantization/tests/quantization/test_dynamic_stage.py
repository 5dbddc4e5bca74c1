from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import gguf
import pytest

from llamatelemetry.cli.app import run
from llamatelemetry.errors import InvalidValueError
from llamatelemetry.pipeline import Pipeline, Stage
from llamatelemetry.plugins import load_plugins
from llamatelemetry.quantization import DynamicStage, ImatrixStage
from llamatelemetry.quantization.testing import write_small_model
from llamatelemetry.testing.stage_contract import StageContract

TEXT = "A text of a few words, which is all that a model of random weights needs to know. " * 2
SETTINGS = {"types": ["Q4_K", "Q8_0"], "bands": 1, "context": 64, "windows": 1, "threads": 1}


class TestDynamicStage(StageContract):
    # One file for all tests of the contract: what is tried does not change what comes out.
    cache: Path

    @pytest.fixture(autouse=True)
    def _cache(self, tmp_path_factory):
        type(self).cache = tmp_path_factory.getbasetemp() / "contract-trials.json"

    def make_stage(self) -> Stage:
        return DynamicStage(like="Q5_0", cache=str(self.cache), **SETTINGS)

    def make_inputs(self, folder: Path) -> Mapping[str, Path]:
        text = folder / "text.txt"
        text.write_text(TEXT)
        return {"model": write_small_model(folder / "model.gguf", blocks=1, tied=True), "text": text}


def test_the_file_names_its_parent_and_the_report_says_why(tmp_path, tiny):
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    road = Pipeline([ImatrixStage(context=64, threads=1), DynamicStage(bits_per_weight=6, **SETTINGS)])

    made = road.run("small", store=tmp_path / "store", inputs={"model": tiny, "text": text})

    model, report = (made.artifacts[f"dynamic.{name}"] for name in ("model", "report"))
    fields = gguf.GGUFReader(model.path).fields
    parent = made.artifacts["inputs.model"].manifest.digest
    assert fields["llamatelemetry.lineage.parent_digest"].contents() == parent
    assert fields["quantize.imatrix.file"].contents() == "imatrix.gguf"
    said = json.loads(report.path.read_text())
    assert said["made_of"] == parent
    assert said["size_bytes"] == model.path.stat().st_size
    assert {group["type"] for group in said["groups"]} == {"Q4_K", "Q8_0"}
    assert said["divergence"]["measured"] > 0


def test_a_budget_is_asked_for_when_the_stage_is_made():
    with pytest.raises(InvalidValueError, match="give one of size_bytes"):
        DynamicStage()


def test_pipelines_find_the_stage_by_its_name():
    assert load_plugins().resolve_stage("dynamic") is DynamicStage


def test_the_verb_says_what_each_group_got(tmp_path, tiny, capsys):
    text, out = tmp_path / "text.txt", tmp_path / "out.gguf"
    text.write_text(TEXT)
    given = ["dynamic", str(tiny), str(out), "--types", "Q4_K,Q8_0", "--bands", "1", "--text", str(text)]
    given += ["--context", "64", "--windows", "1", "--threads", "1", "--cache", str(tmp_path / "trials.json")]

    assert run([*given, "--bits", "6"]) == 0
    said = capsys.readouterr().out
    assert "embedding" in said
    assert "down, band 1" in said
    assert "bits a weight, divergence" in said
    assert "17 trials." in said

    assert run([*given, "--max-divergence", "1", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["path"] == str(out)
    assert facts["divergence"]["measured"] <= 1
    assert facts["size_bytes"] == out.stat().st_size


def test_the_verb_wants_one_budget(tmp_path, tiny, capsys):
    assert run(["dynamic", str(tiny), str(tmp_path / "out.gguf")]) == 1
    assert "give one of size_bytes, bits_per_weight, like and max_divergence" in capsys.readouterr().err
