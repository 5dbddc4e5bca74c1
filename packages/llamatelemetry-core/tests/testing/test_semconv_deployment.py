"""The checker over spans of deployments."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from llamatelemetry.semconv.deployment import DeployFacts, DeployStepFacts, deploy_attributes, deploy_step_attributes
from llamatelemetry.semconv.pipeline import StageFacts, stage_attributes
from llamatelemetry.testing.semconv import EmittedSpan, violations_of_spans

T0 = 1_700_000_000_000_000_000


def span(name: str, attributes: dict[str, Any], **fields: Any) -> EmittedSpan:
    base = {"kind": "INTERNAL", "trace_id": "a" * 32, "span_id": "b" * 16, "parent_id": None}
    return EmittedSpan(**{**base, "name": name, "start_ns": T0, "end_ns": T0 + 10, "attributes": attributes, **fields})


FACTS = deploy_attributes(DeployFacts(name="chat", outcome="serving", server_address="127.0.0.1", server_port=8080))
DEPLOY = span("deploy", FACTS)
STEP = span("plan", deploy_step_attributes(DeployStepFacts(name="chat", step="plan", needed_bytes=3, free_bytes=4)))
STAGE = span("deploy", {**stage_attributes(StageFacts(run_id="r", pipeline="road", stage="deploy")), **FACTS})


def test_a_deployment_its_steps_and_a_stage_that_deploys_pass():
    assert violations_of_spans([DEPLOY, STEP, STAGE], ["gen_ai", "llm"]) == []


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (replace(DEPLOY, name="start"), "the name is not deploy"),
        (replace(STEP, name="start"), "the name is not plan"),
        (replace(DEPLOY, kind="SERVER"), "kind is SERVER"),
        (replace(DEPLOY, failed=True), "error.type and status ERROR go together"),
        (replace(STEP, attributes={**STEP.attributes, "llamatelemetry.deploy.outcome": "x"}), "no table"),
        (replace(STAGE, attributes={**STAGE.attributes, "llamatelemetry.deploy.step": "plan"}), "no table"),
    ],
)
def test_what_the_tables_do_not_have_is_named(wrong, words):
    found = violations_of_spans([wrong], ["gen_ai"])
    assert len(found) == 1
    assert words in found[0]
