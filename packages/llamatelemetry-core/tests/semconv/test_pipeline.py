"""Tests of the names of what pipelines do."""

from __future__ import annotations

from dataclasses import fields

import pytest

from llamatelemetry.semconv import pipeline
from llamatelemetry.semconv.pipeline import PipelineFacts, StageFacts, StepFacts

RUN = PipelineFacts(run_id="r1", name="road")
STAGE = StageFacts(run_id="r1", pipeline="road", stage="quantize")


@pytest.mark.parametrize(
    ("rows", "facts"),
    [(pipeline.PIPELINE, PipelineFacts), (pipeline.STAGE, StageFacts), (pipeline.STEP, StepFacts)],
)
def test_every_fact_has_a_row_and_every_row_a_fact(rows, facts):
    assert {row.field for row in rows} == {field.name for field in fields(facts)}
    assert len({row.name for row in rows}) == len(rows)


def test_a_run_and_a_stage_name_themselves_and_nothing_else_that_is_not_known():
    assert pipeline.pipeline_attributes(RUN) == {
        "llamatelemetry.pipeline.run.id": "r1",
        "llamatelemetry.pipeline.name": "road",
    }
    assert pipeline.stage_attributes(STAGE) == {
        "llamatelemetry.pipeline.run.id": "r1",
        "llamatelemetry.pipeline.name": "road",
        "llamatelemetry.pipeline.stage.name": "quantize",
    }
    assert pipeline.pipeline_span_name("road") == "pipeline road"


def test_a_stage_that_was_run_does_not_say_that_it_was_not_reused():
    ran = StageFacts(run_id="r1", pipeline="road", stage="quantize", reused=False)
    assert pipeline.stage_attributes(ran) == pipeline.stage_attributes(STAGE)


def test_a_whole_number_of_a_loss_is_sent_as_a_double():
    attributes = pipeline.step_attributes(StepFacts(number=3, loss=2))
    assert attributes == {"llamatelemetry.pipeline.step.number": 3, "llamatelemetry.pipeline.step.loss": 2.0}
    assert isinstance(attributes["llamatelemetry.pipeline.step.loss"], float)


def test_metrics_name_the_pipeline_and_the_stage_and_no_run():
    for instrument in pipeline.PIPELINE_METRICS:
        names = {row.name for row in instrument.attributes}
        assert {"llamatelemetry.pipeline.name", "llamatelemetry.pipeline.stage.name"} <= names
        assert "llamatelemetry.pipeline.run.id" not in names
