"""Where torch, PEFT and unsloth are not installed, one error says what to run."""

from __future__ import annotations

import sys

import pytest

from llamatelemetry.errors import MissingDependencyError
from llamatelemetry.unsloth import FinetuneStage, MergeLoraStage, finetune, merge_adapter, runtime
from llamatelemetry.unsloth.checks import checks
from llamatelemetry.unsloth.testing import write_small_adapter


@pytest.fixture
def base(tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text("{}")
    return tmp_path / "base"


def test_unsloth_is_missed_and_nothing_stands_in_for_it(base, dataset, tmp_path):
    with pytest.raises(MissingDependencyError, match="unsloth, which is not installed") as raised:
        finetune(base, dataset([{"text": "a"}]), tmp_path / "out")

    assert raised.value.command == "pip install 'llamatelemetry-unsloth[unsloth]', or ask for engine=\"peft\""


def test_peft_has_its_own_command(base, dataset, tmp_path):
    with pytest.raises(MissingDependencyError) as raised:
        finetune(base, dataset([{"text": "a"}]), tmp_path / "out", engine="peft")
    assert raised.value.command == "pip install 'llamatelemetry-unsloth[peft]'"

    with pytest.raises(MissingDependencyError, match="merging an adapter needs torch"):
        merge_adapter(base, write_small_adapter(tmp_path / "lora"), tmp_path / "out")


@pytest.mark.parametrize("stage", [FinetuneStage(), FinetuneStage(engine="peft"), MergeLoraStage()])
def test_a_pipeline_with_such_a_stage_says_so_before_anything_runs(stage):
    with pytest.raises(MissingDependencyError, match=f"stage {stage.name}"):
        stage.tools  # noqa: B018  the access is the test


def test_one_that_is_too_old_counts_as_missing(monkeypatch):
    monkeypatch.setattr(runtime, "installed_version", {"torch": "2.13.0+cpu", "transformers": "4.57.1"}.get)

    with pytest.raises(MissingDependencyError, match=r"transformers 5\.0 or newer \(4\.57\.1 is here\)"):
        runtime.versions_of("peft", "training")


def test_doctor_is_content_without_them_and_has_the_commands():
    assert [(check.name, check.state) for check in checks()] == [("unsloth", "ok"), ("peft", "ok")]
    assert "pip install 'llamatelemetry-unsloth[peft]'" in checks()[1].detail
    assert "torch" not in sys.modules
