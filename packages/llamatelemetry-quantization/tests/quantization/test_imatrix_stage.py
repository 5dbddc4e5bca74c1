from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from llamatelemetry.cli.app import run
from llamatelemetry.pipeline import Pipeline, Stage
from llamatelemetry.plugins import load_plugins
from llamatelemetry.quantization import ImatrixStage, QuantizeStage, read_importance
from llamatelemetry.quantization.testing import write_small_model
from llamatelemetry.testing.stage_contract import StageContract

TEXT = "What a model of random weights reads is of no matter to it, and it is measured all the same. " * 2


class TestImatrixStage(StageContract):
    def make_stage(self) -> Stage:
        return ImatrixStage(context=64, windows=1, threads=1)

    def make_inputs(self, folder: Path) -> Mapping[str, Path]:
        text = folder / "text.txt"
        text.write_text(TEXT)
        return {"model": write_small_model(folder / "model.gguf", blocks=1, tied=True), "text": text}


def test_the_stage_after_it_quantizes_with_it(tmp_path, tiny):
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    road = Pipeline([ImatrixStage(context=64, threads=1), QuantizeStage("IQ2_XS", threads=1)])

    made = road.run("small", store=tmp_path / "store", inputs={"model": tiny, "text": text})

    # Without one, that type is refused.
    assert made.artifacts["quantize.model"].path.stat().st_size < tiny.stat().st_size / 4


def test_pipelines_find_the_stage_by_its_name():
    assert load_plugins().resolve_stage("imatrix") is ImatrixStage


def test_the_verb_writes_one_and_says_what_is_in_it(tmp_path, tiny, capsys):
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    out = str(tmp_path / "imatrix.gguf")
    given = ["imatrix", str(tiny), "--out", out, "--text", str(text), "--context", "64", "--threads", "1"]

    assert run(given) == 0
    assert capsys.readouterr().out == f"{out} has the importance of 7 weights, of 4 windows of text.txt.\n"
    assert run([*given, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["weights"] == len(read_importance(out).entries) == 7
