"""What every stage of a pipeline owes the runner, stated as tests.

Subclass :class:`StageContract` in a test module, say how to make the stage and what to give it, and a
test runner collects the rest::

    class TestMyStage(StageContract):
        def make_stage(self) -> Stage:
            return MyStage(level=3)

        def make_inputs(self, folder: Path) -> Mapping[str, Path]:
            path = folder / "text.txt"
            path.write_text("a few words")
            return {"text": path}
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

from llamatelemetry import sdk
from llamatelemetry.artifacts.files import create_manifest
from llamatelemetry.errors import LlamatelemetryError, StageFailedError
from llamatelemetry.pipeline.context import current_pipeline
from llamatelemetry.pipeline.nodes import Node, check_stage
from llamatelemetry.pipeline.recipe import recipe_of
from llamatelemetry.pipeline.runner import WORK, Pipeline, PipelineRun
from llamatelemetry.pipeline.stage import Stage, StageContext
from llamatelemetry.testing.emitted import EmittedSpan, spans_from_otlp_json
from llamatelemetry.testing.semconv import assert_valid_spans


class StageContract:
    """Tests that every stage must pass. Each runs the stage at most twice."""

    def make_stage(self) -> Stage:
        """A new stage, told the same each time."""
        raise NotImplementedError("say how to make the stage under test")

    def make_inputs(self, folder: Path) -> Mapping[str, Path]:
        """Writes what the stage takes into an empty folder, the same each time; each input's name to its path."""
        return {}

    def run_stage(self, folder: Path, stage: Stage | None = None) -> PipelineRun:
        """Runs the stage in a folder; a second time there, it is run again only if it must be."""
        given = folder / "given"
        if not given.exists():
            given.mkdir()
            self._inputs = dict(self.make_inputs(given))
        wires = {name: f"inputs.{name}" for name in self._inputs}
        node = Node(stage=stage or self.make_stage(), id="stage", inputs=wires)
        return Pipeline([node]).run("contract", store=folder / "store", inputs=self._inputs)

    def test_it_is_a_stage(self) -> None:
        """Its names, ports, parameters and tools can be used."""
        check_stage("stage", self.make_stage())

    def test_it_is_the_same_stage_each_time_it_is_made(self) -> None:
        """What decides the outcome does not change by itself, or nothing would ever be taken again."""
        first, second = self.make_stage(), self.make_stage()
        assert recipe_of(first, {}).key == recipe_of(second, {}).key, "parameters, tools or version differ"
        assert list(first.outputs) == list(second.outputs), "what it makes differs"

    def test_it_makes_what_it_promises(self, tmp_path: Path) -> None:
        """Each output is there, of its kind, and nothing else is left."""
        stage = self.make_stage()
        run = self.run_stage(tmp_path, stage)
        for port in stage.outputs:
            artifact = run.artifacts[f"stage.{port.name}"]
            assert artifact.path.exists()
            assert artifact.manifest.kind == port.kind, f"{port.name} is a {artifact.manifest.kind}"
            assert artifact.manifest.origin.run_id == run.record.run_id
        assert list((tmp_path / "store" / WORK).iterdir()) == [], "half-made files are left"

    def test_it_leaves_its_inputs_as_they_are(self, tmp_path: Path) -> None:
        """Whoever else takes them is owed what their manifests say."""
        run = self.run_stage(tmp_path)
        for name, artifact in run.artifacts.items():
            if name.startswith("inputs."):
                now = create_manifest(artifact.path, kind=artifact.manifest.kind)
                assert now.content_digest == artifact.manifest.content_digest, f"{name} was changed"

    def test_what_it_made_is_taken_again(self, tmp_path: Path) -> None:
        """A second run with the same does not run it, unless it makes nothing."""
        first = self.run_stage(tmp_path)
        second = self.run_stage(tmp_path)
        expected = "reused" if self.make_stage().outputs else "ran"
        state = second.record.stages[0].state
        assert state == expected, f"the second run of the same {state} it"
        if expected == "reused":
            assert second.record.stages[0].outputs == first.record.stages[0].outputs

    def test_its_span_says_what_every_stages_span_says(self, tmp_path: Path) -> None:
        """One span of its name, with what it made, in a trace that its artifacts name."""
        sdk.shutdown()
        sdk.init(telemetry_dir=tmp_path / "telemetry", exporters="file", sampler="always_on")
        try:
            stage = self.make_stage()
            run = self.run_stage(tmp_path, stage)
            assert sdk.flush()
            spans = _spans_in(tmp_path / "telemetry")
        finally:
            sdk.shutdown()
        ours = [span for span in spans if span.span_id == run.record.stages[0].span_id]
        assert [span.name for span in ours] == [stage.name]
        assert not ours[0].failed
        assert_valid_spans([span for span in spans if span.trace_id == run.record.trace_id], ["gen_ai", "llm"])
        for port in stage.outputs:
            assert run.artifacts[f"stage.{port.name}"].manifest.origin.span_id == ours[0].span_id

    def test_it_runs_in_the_context_of_its_run_and_without_telemetry(self, tmp_path: Path) -> None:
        """It needs no ``init()``; code that it calls is told which run it is part of."""
        sdk.shutdown()
        stage, seen = self.make_stage(), []

        class Watched:
            name, version, tools = stage.name, stage.version, stage.tools
            inputs, outputs, parameters = stage.inputs, stage.outputs, stage.parameters

            def run(self, context: StageContext) -> Mapping[str, Path]:
                seen.append(current_pipeline())
                return stage.run(context)

        run = self.run_stage(tmp_path, Watched())
        assert [each.run_id for each in seen if each is not None] == [run.record.run_id]

    def test_an_input_that_cannot_be_used_is_a_typed_error_and_leaves_nothing(self, tmp_path: Path) -> None:
        """A file of a few bytes that are nothing, in place of the first input, is refused in words or taken."""
        given = tmp_path / "given"
        given.mkdir()
        inputs = dict(self.make_inputs(given))
        if not inputs:
            return
        name = next(iter(inputs))
        inputs[name] = tmp_path / "nothing.bin"
        inputs[name].write_bytes(b"\x00\xffnothing of use")
        wires = {each: f"inputs.{each}" for each in inputs}
        pipeline = Pipeline([Node(stage=self.make_stage(), id="stage", inputs=wires)])
        cause: Exception | None = None
        try:
            pipeline.run("contract", store=tmp_path / "store", inputs=inputs)
        except StageFailedError as error:
            cause = error.cause
        if cause is not None:
            fix = "raise an error of llamatelemetry.errors that says what is wrong"
            assert isinstance(cause, LlamatelemetryError), f"{fix}, not {cause!r}"
            assert not (tmp_path / "store" / "objects").exists(), "something of it was kept"
        assert list((tmp_path / "store" / WORK).iterdir()) == [], "half-made files are left"

    def test_it_leaves_no_thread_behind(self, tmp_path: Path) -> None:
        """What it starts ends with it."""
        before = set(threading.enumerate())
        self.run_stage(tmp_path)
        left = [thread for thread in threading.enumerate() if thread not in before and not thread.daemon]
        assert left == [], f"threads are left: {left}"


def _spans_in(folder: Path) -> tuple[EmittedSpan, ...]:
    lines = [line for path in sorted(folder.iterdir()) for line in path.read_text().splitlines()]
    return spans_from_otlp_json(lines)
