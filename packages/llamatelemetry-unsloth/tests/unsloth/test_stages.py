"""What the stages are told is checked before anything runs, and decides the outcome."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from llamatelemetry.errors import InvalidValueError, PipelineDefinitionError
from llamatelemetry.pipeline.parameters import make_stage
from llamatelemetry.unsloth import FinetuneStage, MergeLoraStage


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("engine", "axolotl"),
        ("steps", 0),
        ("rank", 0),
        ("alpha", 0),
        ("dropout", 1.0),
        ("targets", []),
        ("targets", [""]),
        ("learning_rate", 0.0),
        ("learning_rate", float("inf")),
        ("schedule", "steep"),
        ("warmup_steps", -1),
        ("batch_size", 0),
        ("accumulation", 0),
        ("sequence_length", 1),
        ("seed", -1),
    ],
)
def test_a_parameter_that_cannot_be_used_is_named(field, value):
    with pytest.raises(InvalidValueError) as raised:
        FinetuneStage(**{field: value})

    assert raised.value.field == field


def test_all_that_a_stage_is_told_is_among_its_parameters():
    told = FinetuneStage(engine="peft", rank=8, targets=["q_proj"], steps=12, seed=5).parameters

    assert (told["engine"], told["rank"], told["targets"]) == ("peft", 8, ["q_proj"])
    assert (told["steps"], told["seed"]) == (12, 5)
    assert set(told) == set(inspect.signature(FinetuneStage).parameters)
    assert MergeLoraStage(dtype="float16").parameters == {"dtype": "float16"}


def test_a_file_is_held_to_what_the_stages_take():
    where = {"where": "stage[0].parameters", "folder": Path()}

    made = make_stage(FinetuneStage, {"engine": "peft", "targets": ["q_proj"], "learning_rate": 1}, **where)
    assert made.parameters["learning_rate"] == 1
    with pytest.raises(PipelineDefinitionError, match="did you mean steps"):
        make_stage(FinetuneStage, {"step": 3}, **where)
    with pytest.raises(PipelineDefinitionError, match="'unsloth' or 'peft'"):
        make_stage(FinetuneStage, {"engine": "other"}, **where)
    with pytest.raises(PipelineDefinitionError, match="'bfloat16'"):
        make_stage(MergeLoraStage, {"dtype": "int4"}, **where)
    with pytest.raises(InvalidValueError, match="dtype"):
        MergeLoraStage(dtype="int4")
