"""Tests of the names of what deployments do."""

from __future__ import annotations

from dataclasses import fields
from typing import get_args

import pytest

from llamatelemetry.semconv import deployment, pipeline, spans
from llamatelemetry.semconv.deployment import DeployFacts, DeployStepFacts, StepName


@pytest.mark.parametrize(
    ("rows", "facts"), [(deployment.DEPLOY, DeployFacts), (deployment.DEPLOY_STEPS, DeployStepFacts)]
)
def test_every_fact_has_a_row_and_every_row_a_fact(rows, facts):
    assert {row.field for row in rows} == {field.name for field in fields(facts)}
    assert len({row.name for row in rows}) == len(rows)


def test_a_deployment_names_itself_and_nothing_that_is_not_known():
    assert deployment.deploy_attributes(DeployFacts(name="chat")) == {"llamatelemetry.deploy.name": "chat"}
    assert deployment.deploy_step_attributes(DeployStepFacts(name="chat", step="plan", needed_bytes=3)) == {
        "llamatelemetry.deploy.name": "chat",
        "llamatelemetry.deploy.step": "plan",
        "llamatelemetry.deploy.memory.needed": 3,
    }


def test_what_a_stage_says_of_its_deployment_is_nothing_that_it_says_anyway():
    assert not {row.name for row in deployment.DEPLOY_STAGE} & {row.name for row in pipeline.STAGE}


def test_no_step_is_called_like_a_phase_of_a_request():
    assert not set(get_args(StepName)) & set(spans.PHASES)
