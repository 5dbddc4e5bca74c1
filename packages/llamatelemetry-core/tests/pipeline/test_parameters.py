"""Parameters of a file against what a stage takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytest

from llamatelemetry.errors import MissingDependencyError, PipelineDefinitionError
from llamatelemetry.pipeline.parameters import fits, make_stage


class Train:
    def __init__(
        self,
        steps: int,
        lr: float = 1e-3,
        *,
        text: Path | None = None,
        engine: Literal["peft", "unsloth"] = "peft",
        layers: Sequence[int] = (),
    ) -> None:
        if steps < 1:
            raise ValueError("steps go up from 1")
        if lr > 1:
            raise MissingDependencyError("a high rate", "courage", "pip install courage")
        if lr < 0:
            raise PipelineDefinitionError("lr", lr, "give a number from 0")
        self.given = (steps, lr, text, engine, layers)


class Anything:
    def __init__(self, **options: Any) -> None:
        self.options = options


class Plain:
    pass


def made(stage, parameters):
    return make_stage(stage, parameters, where="stage[0].parameters", folder=Path("/file's"))


def test_values_are_handed_on_and_paths_go_from_the_files_folder():
    given = made(Train, {"steps": 3, "lr": 1, "text": "a/b.txt", "layers": [1]}).given
    assert given == (3, 1, Path("/file's/a/b.txt"), "peft", [1])
    assert made(Train, {"steps": 3, "text": "/abs"}).given[2] == Path("/abs")
    assert made(Anything, {"x": 1}).options == {"x": 1}
    assert isinstance(made(Plain, {}), Plain)


@pytest.mark.parametrize(
    ("parameters", "field", "problem"),
    [
        ({}, "steps", "it is required: give a whole number"),
        ({"steps": "3"}, "steps", "give a whole number"),
        ({"steps": True}, "steps", "give a whole number"),
        ({"steps": 3, "lr": "x"}, "lr", "give a number"),
        ({"steps": 3, "text": 1}, "text", "give a path"),
        ({"steps": 3, "engine": "jax"}, "engine", "give 'peft' or 'unsloth'"),
        ({"steps": 3, "layers": 1}, "layers", "give a list"),
        ({"steps": 3, "stpes": 4}, "stpes", "did you mean steps?"),
        ({"steps": 3, "zzz": 4}, "zzz", "the stage takes steps, lr, text, engine, layers"),
        ({"steps": 3, "lr": -1.0}, "lr", "give a number from 0"),
    ],
)
def test_what_does_not_fit_is_an_error_that_names_the_field(parameters, field, problem):
    with pytest.raises(PipelineDefinitionError) as caught:
        made(Train, parameters)
    assert caught.value.field == f"stage[0].parameters.{field}"
    assert problem in str(caught.value)


def test_what_the_stage_itself_refuses_is_said_in_its_words():
    with pytest.raises(PipelineDefinitionError, match=r"stage\[0\].parameters=.*steps go up from 1"):
        made(Train, {"steps": 0})
    with pytest.raises(MissingDependencyError, match="pip install courage"):
        made(Train, {"steps": 1, "lr": 2.0})
    with pytest.raises(PipelineDefinitionError, match="takes no parameters"):
        made(Plain, {"x": 1})


def test_a_type_that_a_file_cannot_be_held_to_is_left_to_the_stage():
    assert fits("anything", Path.exists)
    assert fits(None, int | None)
    assert fits({"a": 1}, dict[str, int])
    assert not fits([], dict[str, int])
