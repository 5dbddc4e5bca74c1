"""The stage ``deploy``: in a pipeline's trace, run again only where its server does not serve any more."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path

import pytest

from llamatelemetry.deployment import status
from llamatelemetry.deployment.stage import DeployStage
from llamatelemetry.errors import ArtifactTamperedError, DeploymentFailedError, StageFailedError
from llamatelemetry.pipeline import Pipeline, Stage
from llamatelemetry.pipeline.definition import read_definition
from llamatelemetry.plugins import load_plugins
from llamatelemetry.testing.semconv import assert_valid_spans
from llamatelemetry.testing.stage_contract import StageContract


class TestDeployStage(StageContract):
    @pytest.fixture(autouse=True)
    def _given(self, home: Path, models) -> None:
        self._model = models.first

    def make_stage(self) -> Stage:
        return DeployStage("chat", context_length=256, slots=1, threads=1)

    def make_inputs(self, folder: Path) -> Mapping[str, Path]:
        return {"model": self._model}


DEFINITION = """
[pipeline]
name = "road"
store = "artifacts"

[inputs]
model = "{model}"

[[stage]]
use = "deploy"
inputs = {{ model = "inputs.model" }}
parameters = {{ name = "chat", context_length = 256, slots = 1, threads = 1 }}
"""


def test_a_pipeline_deploys_in_its_own_trace_and_again_when_the_server_ended(
    home: Path, models, telemetry, tmp_path: Path, gone
) -> None:
    telemetry.start()
    file = tmp_path / "road.toml"
    file.write_text(DEFINITION.format(model=models.first))
    definition = read_definition(file)

    def run():
        pipeline: Pipeline = definition.build(load_plugins().resolve_stage)
        return pipeline.run(definition.context(), store=definition.store, inputs=definition.inputs)

    first = run()
    made = json.loads(first.artifacts["deploy.deployment"].path.read_text())
    now = status("chat")
    assert (now.state, now.deployment.url, now.deployment.trace_id) == ("serving", made["url"], made["trace_id"])

    spans = telemetry.spans()
    assert_valid_spans(spans, ["gen_ai", "llm"])
    (stage,) = [span for span in spans if span.name == "deploy"]
    assert stage.trace_id == first.record.trace_id
    assert stage.attributes["llamatelemetry.deploy.outcome"] == "serving"
    inside = [span.name for span in spans if span.parent_id == stage.span_id]
    assert inside == ["verify", "plan", "start", "smoke", "health"]

    assert [each.state for each in run().record.stages] == ["reused"]
    assert status("chat").deployment == now.deployment

    os.kill(now.deployment.supervisor.pid, signal.SIGKILL)
    gone(now.deployment)
    assert [each.state for each in run().record.stages] == ["ran"]
    assert status("chat").state == "serving"


def test_a_model_that_changed_on_the_way_is_not_deployed(home: Path, models, tmp_path: Path) -> None:
    changed = tmp_path / "changed.gguf"
    changed.write_bytes(models.first.read_bytes()[:-1] + b"\x00")
    changed.with_name("changed.gguf.manifest.json").write_bytes(
        models.first.with_name("first.gguf.manifest.json").read_bytes()
    )
    with pytest.raises((ArtifactTamperedError, StageFailedError)) as told:
        Pipeline([DeployStage("chat")]).run("road", store=tmp_path / "store", inputs={"model": changed})
    assert "changed.gguf" in str(told.value) or "first.gguf" in str(told.value)
    assert not isinstance(told.value, DeploymentFailedError)
