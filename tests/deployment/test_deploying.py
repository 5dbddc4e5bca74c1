"""From a file to a server that answers, and on to the next file and back."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from llamatelemetry import InferenceEngine, InferenceRequest
from llamatelemetry.artifacts.files import create_manifest, write_manifest
from llamatelemetry.deployment import deploy, history, rollback, status, stop
from llamatelemetry.errors import DeploymentFailedError, UnknownNameError
from llamatelemetry.testing.semconv import assert_valid_spans

STEPS = ["verify", "plan", "start", "smoke", "health"]


def served(url: str) -> tuple[str | None, int]:
    """Digest of the file that a server serves, and how many tokens it answered."""
    with InferenceEngine("llamacpp", server_url=url, sha256=True) as engine:
        return engine.info.sha256, engine.generate(InferenceRequest(prompt="Once", max_tokens=2)).output_tokens


def test_a_deployment_answers_and_says_where_it_came_from(kept, kept_home: Path, models, origin) -> None:
    now = status("kept")
    assert (now.state, now.problem) == ("serving", "")
    assert now.uptime_s is not None
    assert now.uptime_s > 0
    assert now.deployment == kept
    assert served(kept.url) == (kept.sha256, 2)
    assert (kept.artifact, kept.standing, kept.model) == (models.whole.resolve(), "verified", "whole")
    assert (kept.run_id, kept.trace_id, kept.span_id) == (origin.run_id, origin.trace_id, origin.span_id)
    assert kept.needs["host"] > kept.artifact.stat().st_size


def test_a_deployment_is_one_trace_that_leads_to_the_run_that_made_its_model(
    home: Path, models, options, origin, telemetry
) -> None:
    telemetry.start()
    made = deploy(models.first, name="chat", options=options)
    spans = telemetry.spans()
    assert_valid_spans(spans, ["gen_ai", "llm"])
    (deployed,) = [span for span in spans if span.name == "deploy"]
    assert deployed.trace_id == made.deploy_trace_id
    inside = sorted((span for span in spans if span.parent_id == deployed.span_id), key=lambda span: span.start_ns)
    assert [span.name for span in inside] == STEPS
    assert [(link.trace_id, link.span_id) for link in deployed.links] == [(origin.trace_id, origin.span_id)]
    said = deployed.attributes
    assert said["llamatelemetry.deploy.outcome"] == "serving"
    assert said["llamatelemetry.deploy.artifact.sha256"] == made.sha256
    assert (said["llamatelemetry.deploy.name"], said["server.port"]) == ("chat", made.port)
    (asked,) = [span for span in spans if span.name.startswith("chat first")]
    assert asked.parent_id == inside[STEPS.index("smoke")].span_id
    assert [link.span_id for link in asked.links] == [origin.span_id]


@pytest.mark.parametrize("standing", ["verified", "missing"])
def test_a_deployment_leads_to_the_run_that_only_its_model_file_names(
    home: Path, telling: Path, options, origin, *, telemetry, tmp_path: Path, standing: str
) -> None:
    model = tmp_path / telling.name
    shutil.copyfile(telling, model)
    if standing == "verified":
        write_manifest(create_manifest(model, kind="gguf"), model)
    telemetry.start()
    deploy(model, name="chat", options=options, allow_unverified=standing == "missing")
    spans = telemetry.spans()
    assert_valid_spans(spans, ["gen_ai", "llm"])
    (deployed,) = [span for span in spans if span.name == "deploy"]
    (asked,) = [span for span in spans if span.name.startswith("chat telling")]
    for span in (deployed, asked):
        (link,) = span.links
        assert (link.trace_id, link.span_id) == (origin.trace_id, origin.span_id)
        assert link.attributes == {"llamatelemetry.model.manifest": standing, "llamatelemetry.model.run.id": "run-7"}


def test_on_one_port_the_next_model_takes_over_a_bad_one_is_rolled_back_and_the_old_one_can_be_had_again(
    home: Path, models, options, gone
) -> None:
    first = deploy(models.first, name="chat", options=options)
    second = deploy(models.second, name="chat", options=options)
    gone(first)
    assert second.port == first.port
    assert served(second.url) == (second.sha256, 2)
    assert second.sha256 != first.sha256

    with pytest.raises(
        DeploymentFailedError, match=r"failed at start.*\n[\s\S]*Rolled back: second .* serves again"
    ) as told:
        deploy(models.broken, name="chat", options=options)
    assert (told.value.step, told.value.rollback, told.value.error_type) == ("start", "restarted", "BackendStartError")
    assert served(told.value.url) == (second.sha256, 2)
    now = status("chat")
    assert (now.state, now.deployment.sha256, now.deployment.port) == ("serving", second.sha256, first.port)

    back = rollback("chat")
    assert served(back.url) == (first.sha256, 2)
    assert [each.sha256 for each in history("chat")] == [first.sha256, second.sha256, second.sha256, first.sha256]

    stop("chat")
    gone(back)
    stop("chat")
    assert status("chat").state == "stopped"


def test_with_a_port_of_its_own_the_next_model_must_pass_before_the_old_one_is_stopped(
    home: Path, models, options, gone
) -> None:
    first = deploy(models.first, name="chat", options=options)
    with pytest.raises(DeploymentFailedError, match=r"first .* was not touched and serves at") as told:
        deploy(models.broken, name="chat", options=options, port=0)
    assert told.value.rollback == "kept"
    assert status("chat").deployment == first

    second = deploy(models.second, name="chat", options=options, port=0)
    assert second.port != first.port
    assert status("chat").deployment == second
    gone(first)

    # One that does not listen any more is killed.
    os.kill(second.supervisor.pid, signal.SIGSTOP)
    stop("chat", grace_s=0.1)
    gone(second)


def test_without_a_deployment_before_there_is_nothing_to_go_back_to(kept, kept_home: Path) -> None:
    with pytest.raises(UnknownNameError, match="Nothing else was deployed"):
        rollback("kept")
    with pytest.raises(UnknownNameError, match="kept"):
        status("another")
