"""The span of one stage, around whatever code does its work.

What is ours here must not keep anybody from training: everything that touches telemetry is guarded, and
a step costs the recording of two figures and a place in a bounded list.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Mapping
from contextvars import Token
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Final, ParamSpec, Self, TypeVar

from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.trace import Span, set_span_in_context

from llamatelemetry.artifacts.manifest import ArtifactOrigin
from llamatelemetry.clock import Clock
from llamatelemetry.errors import InvalidValueError
from llamatelemetry.otel.guard import quietly
from llamatelemetry.pipeline.failure import error_type_of, ids_of, record_failure
from llamatelemetry.pipeline.gpu_watch import GPUWatch
from llamatelemetry.pipeline.instruments import StageInstruments
from llamatelemetry.pipeline.resources import ResourceWatch, StageResources
from llamatelemetry.pipeline.stage_label import StageLabel, stage_facts
from llamatelemetry.pipeline.step_log import StepLog, TrainingStep
from llamatelemetry.semconv.gpu import GPUFacts, gpu_section_attributes
from llamatelemetry.semconv.pipeline import (
    PIPELINE_NAME,
    STAGE_NAME,
    STEP_EVENT,
    StageFacts,
    StepFacts,
    stage_attributes,
    step_attributes,
)

if TYPE_CHECKING:
    from llamatelemetry.pipeline.tracer import PipelineTracer
    from llamatelemetry.pipeline.trainer import TrainerSteps

_P = ParamSpec("_P")
_R = TypeVar("_R")
_KEY: Final = otel_context.create_key("llamatelemetry.pipeline.stage")


class StageTrace:
    """One stage, from entering it to leaving it. Made by :meth:`~llamatelemetry.pipeline.tracer.PipelineTracer.stage`.

    A context manager, and a decorator of functions and coroutine functions, each call of which is a stage.

    Attributes:
        resources: What it cost, once it is over; None before.
        steps: What is known of its steps.
        clock: Where its times come from.
        on_step: Called after each step with how many there were and with its loss; None for nobody.
    """

    def __init__(self, tracer: PipelineTracer, label: StageLabel) -> None:
        self.resources: StageResources | None = None
        self.steps: StepLog = StepLog(tracer.step_events)
        self.clock: Clock = tracer.clock
        self.on_step: Callable[[int, float | None], None] | None = None
        self._tracer = tracer
        self._label = label
        self._lock = threading.Lock()
        self._last_ns: int | None = None
        self._outputs: tuple[str, ...] | None = None
        self._error_type: str | None = None
        self._span: Span | None = None
        self._token: Token[Context] | None = None
        self._instruments: StageInstruments | None = None
        self._watch: ResourceWatch | None = None
        self._gpus: GPUWatch | None = None
        self._begun_ns = self._begun_unix_ns = self._ended_unix_ns = 0

    def __enter__(self) -> Self:
        self._tracer.enter_run()
        self._open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close(error)
        self._detach()
        self._tracer.leave_run(error, reused=self._label.reused)

    def __call__(self, function: Callable[_P, _R]) -> Callable[_P, _R]:
        """Makes every call of a function, or of a coroutine function, a stage.

        Raises:
            InvalidValueError: It decorates a generator function, whose body runs in pieces.
        """
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            name = getattr(function, "__qualname__", function)
            raise InvalidValueError("stage", name, "decorate a function that is no generator, or use `with`")
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def awaited(*args: _P.args, **kwargs: _P.kwargs) -> object:
                with StageTrace(self._tracer, self._label):
                    return await function(*args, **kwargs)

            return awaited  # type: ignore[return-value]  # the same coroutine function, as its caller sees it

        @functools.wraps(function)
        def called(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            with StageTrace(self._tracer, self._label):
                return function(*args, **kwargs)

        return called

    def step(
        self,
        number: int | None = None,
        *,
        loss: float | None = None,
        learning_rate: float | None = None,
        **figures: float,
    ) -> None:
        """Says that a step ended: every one is measured, and some are events on the span.

        Never raises. Of tensors, hand in their numbers: reading one makes the device finish its work first.

        Args:
            number: Which it was; counted from 1 when None.
            loss: Its loss.
            learning_rate: Its learning rate.
            figures: More of it, on the event under these names, for example ``grad_norm``.
        """
        self._take(self.clock.monotonic_ns(), number, loss, learning_rate, figures)

    def step_at(self, monotonic_ns: int, number: int, **figures: float | None) -> None:
        """As :meth:`step`, of one that ended earlier; ``loss`` and ``learning_rate`` are among the figures."""
        known = {name: value for name, value in figures.items() if value is not None}
        loss, learning_rate = known.pop("loss", None), known.pop("learning_rate", None)
        self._take(monotonic_ns, number, loss, learning_rate, known)

    def output(self, name: str, digest: str) -> None:
        """Names what it made, on its span.

        Args:
            name: What it is to the stage.
            digest: Digest of its content.
        """
        self._outputs = (*(self._outputs or ()), f"{name}={digest}")

    def trainer_callback(self) -> TrainerSteps:
        """A callback for ``transformers.Trainer``, or any trainer of its shape, that reports each step here."""
        from llamatelemetry.pipeline.trainer import TrainerSteps

        return TrainerSteps(self)

    def origin(self, stage: str | None = None) -> ArtifactOrigin:
        """Where an artifact comes from that is made in this stage, for its manifest.

        Args:
            stage: What the manifest calls the stage; its name when None.
        """
        run = self._tracer.run
        trace_id, span_id = ids_of(self._span)
        return ArtifactOrigin(
            stage=stage or self._label.name,
            run_id=run.run_id,
            trace_id=trace_id,
            span_id=span_id,
            git_commit=run.git_commit or "",
            started_ns=self._begun_unix_ns,
        )

    def gpu_facts(self, timeout_s: float | None = None) -> GPUFacts | None:
        """What the GPUs did, once it is over; waits about one sampling period. None where nothing is measured."""
        return None if self._gpus is None else self._gpus.facts(timeout_s)

    @quietly
    def _open(self) -> None:
        now_ns = self.clock.monotonic_ns()
        self._begun_ns = now_ns if self._label.begun_ns is None else self._label.begun_ns
        self._begun_unix_ns = self.clock.time_ns() - (now_ns - self._begun_ns)
        self._watch = ResourceWatch(self.clock, self._publish)
        parent = self._tracer.stage_parent()
        self._span = self._tracer.tracer().start_span(
            self._label.name,
            parent,
            attributes=stage_attributes(self._facts()),
            links=self._label.links,
            start_time=self._begun_unix_ns,
        )
        context = set_span_in_context(self._span, parent)
        where = {PIPELINE_NAME.name: self._tracer.run.name, STAGE_NAME.name: self._label.name}
        self._instruments = StageInstruments(self._tracer.meter(), where, context)
        self._token = otel_context.attach(otel_context.set_value(_KEY, self, context))
        if not self._label.reused:
            self._gpus = GPUWatch(self._end)

    @quietly
    def _close(self, error: BaseException | None) -> None:
        if self._watch is None:
            return
        duration_ns = self.clock.monotonic_ns() - self._begun_ns
        self._ended_unix_ns = self._begun_unix_ns + duration_ns
        self.resources = replace(self._watch.close(), wall_s=duration_ns / 1e9)
        self._error_type = None if error is None else error_type_of(error)
        if self._span is None:
            return
        self._publish()
        if self._instruments is not None and not self._label.reused:
            self._instruments.stage(duration_ns / 1e9, self._error_type)
        self._describe(error)
        if self._gpus is None:
            self._end(None)
        else:
            self._gpus.close()

    @quietly
    def _describe(self, error: BaseException | None) -> None:
        span = self._span
        if span is None or not span.is_recording():
            return
        span.set_attributes(stage_attributes(self._facts()))
        for step in self.steps.kept():
            facts = StepFacts(
                number=step.number, duration_s=step.duration_s, loss=step.loss, learning_rate=step.learning_rate
            )
            when = self._begun_unix_ns + max(0, step.monotonic_ns - self._begun_ns)
            span.add_event(
                STEP_EVENT, {**(step.figures or {}), **step_attributes(facts)}, min(when, self._ended_unix_ns)
            )
        if error is not None:
            record_failure(span, error, self._ended_unix_ns)

    @quietly
    def _end(self, gpus: GPUFacts | None) -> None:
        """Ends the span, when what GPUs did is known."""
        if self._span is not None:
            if gpus is not None:
                self._span.set_attributes(gpu_section_attributes(gpus))
            self._span.end(self._ended_unix_ns)

    @quietly
    def _detach(self) -> None:
        if self._token is not None:
            otel_context.detach(self._token)

    @quietly
    def _publish(self) -> None:
        if self._instruments is not None:
            self._instruments.publish()

    @quietly
    def _take(
        self,
        now_ns: int,
        number: int | None,
        loss: float | None,
        learning_rate: float | None,
        figures: Mapping[str, float],
    ) -> None:
        with self._lock:
            last_ns, self._last_ns = self._last_ns, now_ns
            step = TrainingStep(
                number=self.steps.count + 1 if number is None else number,
                monotonic_ns=now_ns,
                duration_s=None if last_ns is None else max(0, now_ns - last_ns) / 1e9,
                loss=None if loss is None else float(loss),
                learning_rate=None if learning_rate is None else float(learning_rate),
                figures={name: float(value) for name, value in figures.items()} if figures else None,
            )
            self.steps.add(step)
        if self._instruments is not None:
            self._instruments.step(step)
        if self.on_step is not None:
            self.on_step(self.steps.count, step.loss)

    def _facts(self) -> StageFacts:
        return stage_facts(
            self._label,
            run=self._tracer.run,
            cost=self.resources,
            steps=self.steps,
            outputs=self._outputs,
            error_type=self._error_type,
        )


def current_stage(context: Context | None = None) -> StageTrace | None:
    """The stage that this code is part of; None outside of any.

    Args:
        context: Where to look; OpenTelemetry's current context when None.
    """
    found = otel_context.get_value(_KEY, context)
    return found if isinstance(found, StageTrace) else None
