"""The checker over spans of pipelines."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from llamatelemetry.semconv.model_load import MODEL_LOAD_SPAN, ModelLoadFacts, model_load_attributes
from llamatelemetry.semconv.pipeline import (
    STEP_EVENT,
    PipelineFacts,
    StageFacts,
    StepFacts,
    pipeline_attributes,
    stage_attributes,
    step_attributes,
)
from llamatelemetry.testing.semconv import EmittedEvent, EmittedSpan, violations_of_spans

T0 = 1_700_000_000_000_000_000
P = "llamatelemetry.pipeline."


def span(name: str, attributes: dict[str, Any], **fields: Any) -> EmittedSpan:
    base = {"kind": "INTERNAL", "trace_id": "a" * 32, "span_id": "b" * 16, "parent_id": None}
    return EmittedSpan(**{**base, "name": name, "start_ns": T0, "end_ns": T0 + 10, "attributes": attributes, **fields})


RUN = span("pipeline road", pipeline_attributes(PipelineFacts(run_id="r", name="road", stages=1, reused=0)))
STAGE = span(
    "quantize",
    stage_attributes(
        StageFacts(run_id="r", pipeline="road", stage="quantize", cpu_s=0.5, loss_last=float("nan"), outputs=("a=b",))
    ),
    events=(
        EmittedEvent(name=STEP_EVENT, time_ns=T0 + 1, attributes=step_attributes(StepFacts(number=1, loss=2))),
        EmittedEvent(name=STEP_EVENT, time_ns=T0 + 2, attributes={**step_attributes(StepFacts(number=2)), "mine": 1.0}),
        EmittedEvent(name="exception", time_ns=T0, attributes={}),
    ),
)


LOAD = span(
    MODEL_LOAD_SPAN,
    model_load_attributes(ModelLoadFacts(engine="peft", source="SmolLM2", sequence_length=128, parameters=135_000_000)),
)


def with_attributes(what: EmittedSpan, **more: Any) -> EmittedSpan:
    return replace(what, attributes={**what.attributes, **{name.replace("__", "."): more[name] for name in more}})


def test_a_run_and_a_stage_as_the_tables_have_them_pass():
    assert violations_of_spans([RUN, STAGE, LOAD], ["gen_ai", "llm"]) == []


def test_what_gpus_did_is_allowed_on_a_stage_and_not_on_a_run():
    ids = {"llamatelemetry__gpu__ids": ("GPU-1",)}
    assert violations_of_spans([with_attributes(STAGE, **ids)], ["gen_ai"]) == []
    assert "gpu.ids" in violations_of_spans([with_attributes(RUN, **ids)], ["gen_ai"])[0]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (replace(LOAD, attributes={"llamatelemetry.load.source": "a"}), "load.engine is required"),
        (with_attributes(LOAD, llamatelemetry__load__unheard_of=1), "no table of these profiles has"),
        (replace(RUN, name="road"), "the name is not pipeline and the pipeline's"),
        (replace(STAGE, name="pipeline road"), "the name is not the stage's"),
        (replace(STAGE, kind="CLIENT"), "kind is CLIENT"),
        (replace(STAGE, failed=True), "error.type and status ERROR go together"),
        (with_attributes(STAGE, **{f"{P}cpu.time": 1}), "not of type double"),
        (with_attributes(STAGE, **{f"{P}cpu.time": -1.0}), "no amount of s"),
        (with_attributes(STAGE, **{f"{P}stage.reused": False}), "sent only when true"),
        (with_attributes(STAGE, **{f"{P}unheard_of": 1}), "no table of these profiles has"),
        (replace(STAGE, events=(replace(STAGE.events[0], time_ns=T0 + 11),)), "within its span"),
        (replace(STAGE, events=(STAGE.events[1], STAGE.events[0])), "not after the one before"),
        (replace(STAGE, events=(replace(STAGE.events[0], attributes={}),)), "step.number is required"),
        (
            replace(STAGE, events=(replace(STAGE.events[0], attributes={f"{P}step.number": 1, f"{P}x": 1}),)),
            "no table has",
        ),
    ],
)
def test_what_the_tables_do_not_have_is_named(wrong, words):
    found = violations_of_spans([wrong], ["gen_ai"])
    assert len(found) == 1
    assert words in found[0]
