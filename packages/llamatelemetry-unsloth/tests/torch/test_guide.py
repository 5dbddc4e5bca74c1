"""What the guide shows of training is what happens; what needs no torch in it, the documentation's tests run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llamatelemetry.pipeline.definition import read_definition
from llamatelemetry.plugins import load_plugins
from llamatelemetry.quantization.small_checkpoints import write_small_checkpoint

GUIDE = Path(__file__).parents[4] / "docs" / "unsloth.md"
FILE = re.compile(r"^```\{code-block\} \w+\n:caption: (?P<name>\S+)\n\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"^```py\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def reader(tmp_path, monkeypatch):
    """The folder of a reader who has the files that the guide shows, and a small model in the place of SmolLM2."""
    monkeypatch.chdir(tmp_path)
    write_small_checkpoint("SmolLM2-135M")
    for match in FILE.finditer(GUIDE.read_text()):
        Path(match["name"]).write_text(match["text"])
    return tmp_path


def test_its_examples_of_training_run_as_written(reader):
    names: dict[str, object] = {}
    for match in CODE.finditer(GUIDE.read_text()):
        exec(compile(match["text"], str(GUIDE), "exec"), names)

    assert sorted(path.name for path in reader.iterdir() if path.is_dir()) == [
        *("SmolLM2-135M", "SmolLM2-sums", "mine-lora", "sums-lora")
    ]


def test_its_pipeline_runs_as_written(reader):
    told = read_definition(reader / "road.toml")

    made = told.build(load_plugins().resolve_stage).run(told.context(), store=told.store, inputs=told.inputs)

    assert [stage.id for stage in made.record.stages] == ["finetune", "merge_lora", "export_gguf"]
