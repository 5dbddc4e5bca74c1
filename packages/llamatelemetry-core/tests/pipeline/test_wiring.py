"""Which artifact goes into which input."""

from __future__ import annotations

import pytest

from llamatelemetry.errors import PipelineDefinitionError, StageInputError
from llamatelemetry.pipeline import Node, Pipeline, Port

MODEL = Port(name="model", kind="gguf")
CHECKPOINT = Port(name="model", kind="checkpoint")
REPORT = Port(name="report", kind="report")


def test_what_has_the_name_and_the_kind_is_taken(join):
    export = join(name="export", inputs=(CHECKPOINT,), outputs=(MODEL, REPORT))
    measure = join(name="measure", inputs=(MODEL,))
    assert Pipeline([export, measure]).wire({"model": "checkpoint"}) == {
        "export": {"model": "inputs.model"},
        "measure": {"model": "export.model"},
    }


def test_the_only_thing_of_a_kind_is_taken_whatever_its_name(join):
    make = join(name="make", outputs=(Port(name="weights", kind="gguf"), REPORT))
    assert Pipeline([make, join(inputs=(MODEL,))]).wire()["join"] == {"model": "make.weights"}


def test_two_that_fit_are_an_error_that_names_both(join):
    stages = [join(name="q4", outputs=(MODEL,)), join(name="q8", outputs=(MODEL,)), join(inputs=(MODEL,))]
    with pytest.raises(StageInputError, match=r"'join': inputs.model.*q4.model, q8.model"):
        Pipeline(stages).wire()
    stages[2] = Node(stage=stages[2], inputs={"model": "q8.model"})
    assert Pipeline(stages).wire()["join"] == {"model": "q8.model"}


def test_nothing_that_fits_is_an_error_that_says_what_there_is(join):
    with pytest.raises(StageInputError, match=r"takes a gguf, and there are make.text \(text\).*inputs.model"):
        Pipeline([join(name="make"), join(inputs=(MODEL,))]).wire()
    with pytest.raises(StageInputError, match="nothing is given"):
        Pipeline([join(inputs=(MODEL,))]).wire()


def test_an_optional_input_that_nothing_fits_is_left_out(join):
    optional = Port(name="imatrix", kind="imatrix", optional=True)
    assert Pipeline([join(inputs=(optional,))]).wire() == {"join": {}}


def test_an_optional_input_that_is_wired_to_nothing_stays_empty(join):
    optional = join(inputs=(Port(name="parent", kind="gguf", optional=True),))
    stages = [join(name="f16", outputs=(MODEL,)), Node(stage=optional, inputs={"parent": ""})]
    assert Pipeline(stages).wire()["join"] == {}
    assert Pipeline([stages[0], optional]).wire()["join"] == {"parent": "f16.model"}
    needed = Node(stage=join(name="needs", inputs=(MODEL,)), inputs={"model": ""})
    with pytest.raises(StageInputError, match="does not run without it"):
        Pipeline([stages[0], needed]).wire()


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("make.text", "takes a gguf, and that is a text"),
        ("maek.text", "did you mean make.text"),
        ("later.model", "comes later"),
        ("nowhere", "take one of make.text"),
    ],
)
def test_a_wire_to_the_wrong_place_is_an_error_that_says_why(join, source, problem):
    node = Node(stage=join(inputs=(MODEL,)), inputs={"model": source})
    with pytest.raises(StageInputError, match=problem):
        Pipeline([join(name="make"), node, join(name="later", outputs=(MODEL,))]).wire()


def test_what_is_given_without_a_kind_is_what_it_is_first_taken_for(join):
    stages = [join(name="a", inputs=(CHECKPOINT,)), join(name="b", inputs=(CHECKPOINT,))]
    assert Pipeline(stages).wire({"model": None})["b"] == {"model": "inputs.model"}
    with pytest.raises(StageInputError, match=r"there are inputs.model \(checkpoint\)"):
        Pipeline([stages[0], join(inputs=(MODEL,))]).wire({"model": None})


def test_two_stages_of_one_name_need_an_id_each(join):
    with pytest.raises(PipelineDefinitionError, match=r"stages\[1\].id"):
        Pipeline([join(), join()])
    assert [node.id for node in Pipeline([join(), Node(stage=join(), id="again")]).nodes] == ["join", "again"]


@pytest.mark.parametrize("node_id", ["inputs", "a.b", "../a", "-a"])
def test_an_id_that_would_be_taken_for_something_else_is_refused(join, node_id):
    with pytest.raises(PipelineDefinitionError, match="id"):
        Pipeline([Node(stage=join(), id=node_id)])


def test_a_wire_of_an_input_that_the_stage_does_not_have_is_refused(join):
    with pytest.raises(PipelineDefinitionError, match=r"stages\[0\].inputs.modle.*inputs model"):
        Pipeline([Node(stage=join(inputs=(MODEL,)), inputs={"modle": "inputs.model"})])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "a/b"),
        ("version", ""),
        ("version", 2),
        ("parameters", {"a": object()}),
        ("tools", {"gguf": 1}),
        ("inputs", ("model",)),
        ("outputs", (MODEL, MODEL)),
        ("outputs", (Port(name="model", kind="no kind"),)),
    ],
)
def test_a_stage_with_a_field_that_cannot_be_used_is_refused_by_its_name(join, field, value):
    stage = join()
    setattr(stage, field, value)
    with pytest.raises(PipelineDefinitionError) as caught:
        Pipeline([stage])
    assert caught.value.field.startswith(f"stages[0].{field}")


def test_what_is_no_stage_is_refused():
    with pytest.raises(PipelineDefinitionError, match="run"):
        Pipeline([object()])
    with pytest.raises(PipelineDefinitionError, match="at least one"):
        Pipeline([])
