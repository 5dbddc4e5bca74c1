"""A pipeline's file, right and wrong."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamatelemetry.errors import PipelineDefinitionError, StageInputError, UnknownNameError
from llamatelemetry.pipeline import Port
from llamatelemetry.pipeline.definition import read_definition

GOOD = """
[pipeline]
name = "road"
store = "kept"
base_model = "m"
parameters = { seed = 7 }

[inputs]
text = "texts/a.txt"

[[stage]]
use = "upper"

[[stage]]
use = "upper"
id = "again"
inputs = { text = "upper.text" }
parameters = { word = "x" }
"""


class Upper:
    name, version, tools = "upper", "1", {}
    inputs = outputs = (Port(name="text", kind="text"),)

    def __init__(self, word: str = "") -> None:
        self.parameters = {"word": word}

    def run(self, context):
        path = context.folder / "text.txt"
        path.write_text(context.path("text").read_text().upper() + self.parameters["word"])
        return {"text": path}


def resolve(name: str) -> type:
    if name != "upper":
        raise UnknownNameError("stage", name, ("upper",), "Run: pip install more")
    return Upper


@pytest.fixture
def written(tmp_path: Path):
    def write(text: str) -> Path:
        path = tmp_path / "pipeline.toml"
        path.write_text(text)
        return path

    return write


def test_a_file_becomes_a_pipeline_that_runs(written, tmp_path):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("abc")
    definition = read_definition(written(GOOD))
    assert definition.store == tmp_path / "kept"
    context = definition.context("r1")
    assert (context.name, context.run_id, context.base_model, context.parameters) == ("road", "r1", "m", {"seed": 7})
    with pytest.raises(StageInputError, match=r"inputs\.text"):
        definition.build(resolve).run(context, store=definition.store)
    run = definition.build(resolve).run(context, store=definition.store, inputs=definition.inputs)
    assert run.artifacts["again.text"].path.read_text() == "ABCx"


@pytest.mark.parametrize(
    ("right", "wrong", "field", "problem"),
    [
        ('name = "road"', "", "pipeline.name", "give text"),
        ('name = "road"', 'name = ""', "pipeline.name", "give text"),
        ('name = "road"', 'name = "a\\nb"', "pipeline.name", "one line"),
        ('base_model = "m"', "base_model = 1", "pipeline.base_model", "give text"),
        ('base_model = "m"', 'base_modle = "m"', "pipeline.base_modle", "did you mean base_model?"),
        ("parameters = { seed = 7 }", "parameters = 7", "pipeline.parameters", "give a table"),
        ("seed = 7", "seed = 2026-01-01", "pipeline.parameters.seed", "JSON"),
        ('text = "texts/a.txt"', "text = 1", "inputs.text", "give text"),
        ("[inputs]", "[input]", "input", "did you mean inputs?"),
        ('use = "upper"\n\n', "\n", "stage[0].use", "give text"),
        ('use = "upper"\n\n', 'use = "uper"\n\n', "stage[0].use", "pip install more"),
        ('id = "again"', "id = 1", "stage[1].id", "give text"),
        ('id = "again"', 'id = "upper"', "stage[1].id", "another stage"),
        ('id = "again"', 'ids = "again"', "stage[1].ids", "did you mean id?"),
        ("{ text = ", "{ texts = ", "stage[1].inputs.texts", "has the inputs text"),
        ('{ word = "x" }', "{ word = 1 }", "stage[1].parameters.word", "give text"),
        ('{ word = "x" }', "{ words = 1 }", "stage[1].parameters.words", "did you mean word?"),
    ],
)
def test_what_is_wrong_is_an_error_that_names_the_file_and_the_field(written, right, wrong, field, problem):
    assert right in GOOD
    path = written(GOOD.replace(right, wrong, 1))
    with pytest.raises(PipelineDefinitionError) as caught:
        read_definition(path).build(resolve)
    assert caught.value.field == field
    assert caught.value.path.endswith("pipeline.toml")
    assert problem in str(caught.value)


@pytest.mark.parametrize("text", ["", "[pipeline]\nname = 'x'", "stage = 1\n[pipeline]\nname = 'x'", "stage = []"])
def test_a_file_without_stages_or_a_name_is_no_pipeline(written, text):
    with pytest.raises(PipelineDefinitionError):
        read_definition(written(text))


@pytest.mark.parametrize(
    ("right", "wrong", "field"),
    [
        ('"upper.text"', '"uper.text"', "stage[1].inputs.text"),
        ('inputs = { text = "upper.text" }', "", "stage[1].inputs.text"),
        ('text = "texts/a.txt"', "", "stage[0].inputs.text"),
        ('text = "texts/a.txt"', 'text = "texts/a.txt"\nmodel = "m"', "inputs.model"),
    ],
)
def test_what_cannot_be_wired_is_named_by_its_field_in_the_file(written, right, wrong, field):
    definition = read_definition(written(GOOD.replace(right, wrong, 1)))
    with pytest.raises(PipelineDefinitionError) as caught:
        definition.wire(definition.build(resolve))
    assert caught.value.field == field
    assert caught.value.path.endswith("pipeline.toml")


def test_a_file_that_is_not_there_or_is_no_toml_says_so(written, tmp_path):
    with pytest.raises(PipelineDefinitionError, match="No such file"):
        read_definition(tmp_path / "absent.toml")
    with pytest.raises(PipelineDefinitionError, match="no TOML"):
        read_definition(written("[pipeline"))
    with pytest.raises(PipelineDefinitionError, match="Is a directory"):
        read_definition(tmp_path)
    with pytest.raises(PipelineDefinitionError, match="small file"):
        read_definition(written("#" * 2**21))


@given(st.binary(max_size=200) | st.text(alphabet='[]{}="\n.#ab1', max_size=200).map(str.encode))
def test_no_file_is_more_than_a_typed_error(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "hostile.toml"
    path.write_bytes(content)
    with pytest.raises(PipelineDefinitionError):
        read_definition(path)


@given(st.integers(0, len(GOOD)), st.integers(0, 12), st.text(alphabet='[]{}="\n.#ab17-', max_size=12))
def test_a_file_of_which_any_piece_is_another_is_a_pipeline_or_a_typed_error(tmp_path_factory, at, length, piece):
    path = tmp_path_factory.getbasetemp() / "changed.toml"
    path.write_text(GOOD[:at] + piece + GOOD[at + length :])
    with suppress(PipelineDefinitionError):
        definition = read_definition(path)
        definition.context()
        definition.wire(definition.build(resolve))
