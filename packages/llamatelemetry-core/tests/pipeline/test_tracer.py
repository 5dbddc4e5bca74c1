"""Spans around people's own code."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.trace import StatusCode

import llamatelemetry
from llamatelemetry.clock import ManualClock
from llamatelemetry.errors import InvalidValueError, PipelineDefinitionError, PipelineError
from llamatelemetry.pipeline import PipelineContext, PipelineTracer, current_pipeline, current_stage
from llamatelemetry.testing.emitted import EmittedMetric, metrics_from_otlp_json
from llamatelemetry.testing.nvml_stub import TESLA_T4_X2, NvmlStub
from llamatelemetry.testing.semconv import assert_valid_metrics

PREFIX = "llamatelemetry.pipeline."
STEP = "llamatelemetry.pipeline.step"


def test_a_run_is_a_span_and_its_stages_are_its_children(spans):
    run = PipelineContext(name="road", base_model="m", quantization="Q4_K_M", parameters={"seed": 7})
    with PipelineTracer(run) as tracer:
        with tracer.stage("finetune", {"lr": 1e-3}):
            trace.get_tracer("theirs").start_span("theirs").end()
        with tracer.stage("merge_lora"):
            pass
    whole, finetune, merge = (spans.named(name) for name in ("pipeline road", "finetune", "merge_lora"))
    assert whole.parent is None
    assert finetune.parent.span_id == merge.parent.span_id == whole.context.span_id
    assert spans.named("theirs").parent.span_id == finetune.context.span_id
    assert whole.attributes[f"{PREFIX}run.id"] == finetune.attributes[f"{PREFIX}run.id"] == run.run_id
    assert whole.attributes[f"{PREFIX}base_model"] == "m"
    assert whole.attributes[f"{PREFIX}parameters"] == '{"seed": 7}'
    assert whole.attributes[f"{PREFIX}stages"] == 2
    assert finetune.attributes[f"{PREFIX}stage.parameters"] == '{"lr": 0.001}'


def test_secrets_among_the_parameters_are_not_on_the_spans(spans):
    class Login:
        def __str__(self) -> str:
            return "hf_" + "a" * 30

    run = PipelineContext(name="road", parameters={"login": str(Login()), "seed": 7})
    with PipelineTracer(run).stage("finetune", {"login": Login(), "path": Path("a")}):
        pass
    whole = spans.named("pipeline road").attributes[f"{PREFIX}parameters"]
    assert whole == '{"login": "[redacted:api_key]", "seed": 7}'
    stage = spans.named("finetune").attributes[f"{PREFIX}stage.parameters"]
    assert stage == '{"login": "[redacted:api_key]", "path": "a"}'


def test_a_stage_by_itself_has_a_run_of_its_own(spans):
    tracer = PipelineTracer("road")
    with tracer.stage("finetune"):
        pass
    with tracer.stage("merge_lora"):
        pass
    runs = [span for span in spans.ended() if span.name == "pipeline road"]
    assert [span.attributes[f"{PREFIX}stages"] for span in runs] == [1, 1]
    assert len({span.attributes[f"{PREFIX}run.id"] for span in runs}) == 1


def test_code_inside_a_stage_knows_the_run_and_the_stage(spans):
    with PipelineTracer("road") as tracer, tracer.stage("finetune") as stage:
        assert current_pipeline() is tracer.run
        assert current_stage() is stage
    assert current_pipeline() is current_stage() is None


def test_a_stage_in_a_thread_of_its_own_belongs_to_the_run(spans):
    with PipelineTracer("road") as tracer:

        def work() -> None:
            with tracer.stage("finetune"):
                pass

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert spans.named("finetune").parent.span_id == spans.named("pipeline road").context.span_id


def test_a_stage_within_a_stage_is_its_child(spans):
    with PipelineTracer("road") as tracer, tracer.stage("finetune"), tracer.stage("evaluate"):
        pass
    assert spans.named("evaluate").parent.span_id == spans.named("finetune").context.span_id


def test_a_run_within_the_callers_own_trace_is_part_of_it(spans):
    with trace.get_tracer("theirs").start_as_current_span("nightly") as outer, PipelineTracer("road"):
        pass
    assert spans.named("pipeline road").parent.span_id == outer.get_span_context().span_id


def test_an_exception_passes_and_is_on_both_spans(spans):
    with pytest.raises(PipelineError), PipelineTracer("road") as tracer, tracer.stage("finetune"):
        raise PipelineError("no more data")
    for name in ("finetune", "pipeline road"):
        span = spans.named(name)
        assert span.status.status_code is StatusCode.ERROR
        assert span.attributes["error.type"] == "PipelineError"
    assert [event.name for event in spans.named("finetune").events] == ["exception"]


def test_a_secret_in_an_errors_words_is_not_on_the_spans(spans):
    token = "hf_" + "a" * 30
    with pytest.raises(PipelineError), PipelineTracer("road") as tracer, tracer.stage("finetune"):
        raise PipelineError(f"401 for {token}")
    for name in ("finetune", "pipeline road"):
        span = spans.named(name)
        assert span.status.description == "401 for [redacted:api_key]"
        assert token not in str([dict(event.attributes) for event in span.events])


def test_an_error_that_cannot_be_put_in_words_ends_the_spans_all_the_same(spans):
    class Mute(Exception):  # noqa: N818
        def __str__(self) -> str:
            raise RuntimeError("no words")

    with pytest.raises(Mute), PipelineTracer("road") as tracer, tracer.stage("finetune"):
        raise Mute
    assert spans.exporter.get_finished_spans()[0].attributes["error.type"] == "Mute"
    assert [span.name for span in spans.exporter.get_finished_spans()] == ["finetune", "pipeline road"]


def test_ctrl_c_ends_the_spans_too(spans):
    with pytest.raises(KeyboardInterrupt), PipelineTracer("road") as tracer, tracer.stage("finetune"):
        raise KeyboardInterrupt
    assert spans.named("finetune").attributes["error.type"] == "KeyboardInterrupt"


def test_an_error_that_the_caller_handles_fails_the_stage_alone(spans):
    with PipelineTracer("road") as tracer:
        try:
            with tracer.stage("finetune"):
                raise KeyError("gone")
        except KeyError:
            pass
    assert spans.named("pipeline road").status.status_code is StatusCode.UNSET


def test_a_decorated_function_is_a_stage_at_every_call(spans):
    tracer = PipelineTracer("road")

    @tracer.stage("double")
    def double(number: int) -> int:
        """Twice as much."""
        return 2 * number

    with tracer:
        assert [double(1), double(2)] == [2, 4]
    assert double.__doc__ == "Twice as much."
    assert [span.name for span in spans.ended()] == ["double", "double", "pipeline road"]


def test_a_decorated_coroutine_is_a_stage_until_it_returns(spans):
    tracer = PipelineTracer("road")

    @tracer.stage("wait")
    async def wait() -> str:
        await asyncio.sleep(0.02)
        return "done"

    async def both() -> list[str]:
        with tracer:
            return await asyncio.gather(wait(), wait())

    assert asyncio.run(both()) == ["done", "done"]
    first, second = [span for span in spans.ended() if span.name == "wait"]
    assert first.end_time - first.start_time >= 20_000_000
    assert first.parent.span_id == second.parent.span_id == spans.named("pipeline road").context.span_id


def test_a_generator_is_no_stage():
    with pytest.raises(InvalidValueError, match="numbers"):

        @PipelineTracer("road").stage("generate")
        def numbers() -> Iterator[int]:
            yield 1


def test_a_name_that_cannot_be_used_is_refused_at_once():
    with pytest.raises(PipelineDefinitionError, match="name"):
        PipelineTracer("two\nlines")


def test_of_many_steps_some_are_events_and_each_is_counted(spans):
    clock = ManualClock()
    tracer = PipelineTracer("road", step_events=8, clock=clock.clock)
    with tracer.stage("finetune") as stage:
        for number in range(1, 101):
            clock.advance(0.5)
            stage.step(loss=10 / number, learning_rate=1e-3, grad_norm=2)
    span = spans.named("finetune")
    numbers = [event.attributes[f"{STEP}.number"] for event in span.events]
    assert len(numbers) <= 8
    assert (numbers[0], numbers[-1]) == (1, 100)
    last = span.events[-1]
    assert last.attributes[f"{STEP}.loss"] == 0.1
    assert last.attributes[f"{STEP}.duration"] == 0.5
    assert last.attributes["grad_norm"] == 2.0
    assert last.timestamp - span.start_time == 50_000_000_000
    assert span.attributes[f"{PREFIX}steps"] == 100
    assert span.attributes[f"{PREFIX}loss.first"] == 10
    assert span.attributes[f"{PREFIX}loss.last"] == span.attributes[f"{PREFIX}loss.min"] == 0.1


def test_a_step_is_never_shown_after_the_end_of_its_stage(spans):
    clock = ManualClock()
    with PipelineTracer("road", clock=clock.clock).stage("finetune") as stage:
        stage.step_at(clock.now_ns() + 10**9, 1, loss=1.0)
    span = spans.named("finetune")
    assert span.events[0].timestamp == span.end_time


def test_a_step_that_is_no_number_costs_the_step_and_not_the_training(spans, caplog):
    with PipelineTracer("road").stage("finetune") as stage:
        stage.step(loss="high")  # type: ignore[arg-type]
        stage.step(loss=1)
    assert spans.named("finetune").attributes[f"{PREFIX}steps"] == 1


def test_a_tracer_whose_telemetry_breaks_keeps_nobody_from_training(spans, monkeypatch):
    monkeypatch.setattr(PipelineTracer, "tracer", lambda _self: 1 / 0)
    with PipelineTracer("road") as tracer, tracer.stage("finetune") as stage:
        stage.step(loss=1)
        done = True
    assert done
    assert spans.ended() == []


def test_without_init_the_code_runs_and_its_cost_is_known():
    with PipelineTracer("road").stage("finetune") as stage:
        stage.step(loss=1)
    assert stage.resources is not None
    assert stage.resources.wall_s >= 0
    assert stage.origin().trace_id == ""
    assert stage.origin().stage == "finetune"


def test_a_span_says_what_its_stage_cost(spans):
    with PipelineTracer("road").stage("finetune"):
        ballast = b"x" * 2**26
        until = time.process_time() + 0.05
        while time.process_time() < until:
            pass
        del ballast
    attributes = spans.named("finetune").attributes
    assert attributes[f"{PREFIX}cpu.time"] >= 0.05
    assert attributes[f"{PREFIX}memory.peak"] >= 2**26


def test_an_artifact_made_in_a_stage_can_name_its_span(spans):
    with PipelineTracer(PipelineContext(name="road", git_commit="a" * 40)).stage("finetune") as stage:
        origin = stage.origin()
    span = spans.named("finetune")
    assert origin.trace_id == f"{span.context.trace_id:032x}"
    assert origin.span_id == f"{span.context.span_id:016x}"
    assert origin.git_commit == "a" * 40
    assert origin.started_ns == span.start_time


def test_a_stage_that_is_not_sampled_is_named_as_no_origin():
    llamatelemetry.init(exporters="none", sampler="always_off", gpu=False)
    try:
        with PipelineTracer("road").stage("finetune") as stage:
            assert stage.origin().trace_id == stage.origin().span_id == ""
    finally:
        llamatelemetry.shutdown()


def metrics_after(folder: Path) -> dict[str, EmittedMetric]:
    assert llamatelemetry.flush()
    lines = [line for path in sorted(folder.iterdir()) for line in path.read_text().splitlines()]
    metrics = [metric for metric in metrics_from_otlp_json(lines) if metric.name.startswith(PREFIX)]
    assert_valid_metrics(metrics)
    return {metric.name: metric for metric in metrics}


def test_every_step_and_every_stage_is_in_the_metrics(tmp_path):
    llamatelemetry.init(telemetry_dir=tmp_path, gpu=False)
    try:
        with PipelineTracer("road", step_events=2).stage("finetune") as stage:
            for _ in range(10):
                stage.step(loss=1, learning_rate=0.1)
        with pytest.raises(KeyError), PipelineTracer("road").stage("merge_lora"):
            raise KeyError("gone")
        found = metrics_after(tmp_path)
        text = "".join(path.read_text() for path in tmp_path.iterdir())
    finally:
        llamatelemetry.shutdown()
    assert set(found) == {f"{PREFIX}stage.duration", f"{STEP}.duration", f"{STEP}.loss", f"{STEP}.learning_rate"}
    assert '"count":"9"' in text.replace(" ", ""), "ten steps have nine times between them"
    errors = [point.attributes.get("error.type") for point in found[f"{PREFIX}stage.duration"].points]
    assert sorted(errors, key=str) == ["KeyError", None]


def test_a_stage_has_what_gpus_did_meanwhile(tmp_path, spans):
    llamatelemetry.shutdown()
    with NvmlStub(TESLA_T4_X2, tmp_path):
        spans.start(gpu_interval_s=0.05)
        with PipelineTracer("road").stage("finetune") as stage:
            time.sleep(0.15)
        left_ns = time.time_ns()
        facts = stage.gpu_facts(5)
        span = spans.named("finetune")
        llamatelemetry.shutdown()
    assert facts is not None
    assert span.attributes["llamatelemetry.gpu.ids"] == facts.ids
    assert span.attributes["llamatelemetry.gpu.energy.idle"] == facts.energy_idle_j
    assert span.end_time <= left_ns
