"""Spans of a pipeline around people's own code: ``with tracer.stage("finetune") as stage: ...``.

The span of a run is the parent of its stages. It is open while anything of the run is: inside ``with
tracer:``, or for as long as one stage that was entered without it.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextvars import Token
from functools import cache
from importlib.metadata import version
from types import TracebackType
from typing import Any, Final, Self

from opentelemetry import context as otel_context
from opentelemetry import metrics, trace
from opentelemetry.context import Context
from opentelemetry.metrics import Meter
from opentelemetry.trace import Span, Tracer, set_span_in_context

from llamatelemetry.clock import SYSTEM_CLOCK, Clock
from llamatelemetry.otel.guard import quietly
from llamatelemetry.pipeline.context import PipelineContext, current_pipeline, with_pipeline
from llamatelemetry.pipeline.failure import error_type_of, ids_of, record_failure
from llamatelemetry.pipeline.stage_label import StageLabel
from llamatelemetry.pipeline.stage_trace import StageTrace
from llamatelemetry.pipeline.step_log import DEFAULT_EVENTS
from llamatelemetry.semconv.gen_ai import ERROR_TYPE
from llamatelemetry.semconv.pipeline import pipeline_attributes, pipeline_span_name

_SCOPE: Final = "llamatelemetry"


class PipelineTracer:
    """Traces one run of a pipeline: a span for the run, and one for each stage in it.

    Without ``init()`` nothing is recorded. Nothing of it raises into the code it is around. Stages may run
    in threads of their own; ``with tracer:`` is left in the thread that entered it.

    Args:
        run: What the run is about, or only the pipeline's name.
        step_events: Steps that a stage's span shows at most, its first and its last among them.
        clock: Where time comes from.

    Raises:
        PipelineDefinitionError: The name cannot be used.

    Attributes:
        run: What the run is about, the commit of the current folder's code included.
    """

    def __init__(
        self, run: PipelineContext | str, *, step_events: int = DEFAULT_EVENTS, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        given = PipelineContext(name=run) if isinstance(run, str) else run
        self.run: PipelineContext = given.with_commit()
        self.step_events: int = step_events
        self.clock: Clock = clock
        self._lock = threading.RLock()
        self._depth = 0
        self._span: Span | None = None
        self._context: Context | None = None
        self._tokens: list[Token[Context]] = []
        self._begun_ns = self._begun_unix_ns = 0
        self._stages = self._reused = 0

    def __enter__(self) -> Self:
        self.enter_run(attach=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._detach()
        self.leave_run(error)

    def stage(self, name: str, parameters: Mapping[str, Any] | None = None) -> StageTrace:
        """A stage: a context manager, or a decorator of functions.

        Args:
            name: What it does: ``finetune``, ``merge_lora``, ``export_gguf``, ``quantize``, ``benchmark``,
                ``deploy`` or a word of one's own; the span's name.
            parameters: What it is told; what JSON does not have becomes text.
        """
        return self.stage_of(StageLabel(name=name, parameters=parameters))

    def stage_of(self, label: StageLabel) -> StageTrace:
        """A stage of which more is known."""
        return StageTrace(self, label)

    @property
    def trace_id(self) -> str:
        """Trace of the run, 32 hexadecimal digits; empty while its span is not open, or if it is not sampled."""
        return ids_of(self._span)[0]

    def tracer(self) -> Tracer:
        """Makes the spans. Asked for each time, because telemetry may be started later or anew."""
        return trace.get_tracer(_SCOPE, _version())

    def meter(self) -> Meter:
        """Makes the instruments."""
        return metrics.get_meter(_SCOPE, _version())

    def stage_parent(self) -> Context | None:
        """The OpenTelemetry context for a stage that is opened here and now.

        It is the current one inside the run. Elsewhere, as in another thread, it is the run's own.
        """
        current = current_pipeline()
        return None if current is not None and current.run_id == self.run.run_id else self._context

    def enter_run(self, *, attach: bool = False) -> None:
        """Opens the run's span unless it is open."""
        with self._lock:
            self._depth += 1
            if self._depth == 1:
                self._open()
            if attach and self._context is not None:
                self._tokens.append(otel_context.attach(self._context))

    def leave_run(self, error: BaseException | None = None, *, reused: bool | None = None) -> None:
        """Ends the run's span if nobody else has it open.

        Args:
            error: What went wrong.
            reused: Of a stage, whether it was not run.
        """
        with self._lock:
            self._depth -= 1
            if reused is not None:
                self._stages += 1
                self._reused += reused
            if self._depth == 0:
                self._close(error)

    @quietly
    def _open(self) -> None:
        self._stages = self._reused = 0
        self._begun_ns, self._begun_unix_ns = self.clock.monotonic_ns(), self.clock.time_ns()
        facts = self.run.facts()
        self._span = self.tracer().start_span(
            pipeline_span_name(facts.name), attributes=pipeline_attributes(facts), start_time=self._begun_unix_ns
        )
        self._context = with_pipeline(self.run, set_span_in_context(self._span))

    @quietly
    def _close(self, error: BaseException | None) -> None:
        span, self._span, self._context = self._span, None, None
        if span is None:
            return
        if error is not None:
            span.set_attribute(ERROR_TYPE.name, error_type_of(error))
            record_failure(span, error)
        span.set_attributes(pipeline_attributes(self.run.facts(stages=self._stages, reused=self._reused)))
        span.end(self._begun_unix_ns + self.clock.monotonic_ns() - self._begun_ns)

    @quietly
    def _detach(self) -> None:
        if self._tokens:
            otel_context.detach(self._tokens.pop())


@cache
def _version() -> str:
    """Read once: it takes longer than a stage."""
    return version("llamatelemetry-core")
