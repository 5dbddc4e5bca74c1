"""The recorder: the only place where an inference record becomes spans and metrics.

A request's span is started in its caller's thread, so that it has the caller's context and its
trace id is known at once. Everything else happens here, in one thread, after the caller has its
answer: enrichers run, phases are laid out, attributes are mapped, metrics are recorded.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any, Final

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry._logs import Logger, SeverityNumber
from opentelemetry.metrics import Meter
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags, Tracer

from llamatelemetry.backends.protocol import ModelInfo
from llamatelemetry.backends.request import Operation
from llamatelemetry.config import Settings
from llamatelemetry.inference.record import FinishedRecord, Opening
from llamatelemetry.inference.sink import AttributeValue, RequestTrace, SpanEnricher
from llamatelemetry.otel.content import Content, TextRedactor, content_of
from llamatelemetry.otel.facts import attempts_of, facts_of, failure_of, phases_of
from llamatelemetry.otel.guard import quietly
from llamatelemetry.otel.handover import Handover, LateRecord
from llamatelemetry.otel.instruments import Instruments
from llamatelemetry.otel.nesting import OUTER_INFERENCE_KEY, inside_inference, mark_inside
from llamatelemetry.semconv.facts import InferenceFacts
from llamatelemetry.semconv.own import MODEL_MANIFEST, MODEL_RUN_ID
from llamatelemetry.semconv.profiles import (
    Profile,
    attempt_attributes,
    attributes_for,
    phase_attributes,
    start_attributes,
)
from llamatelemetry.semconv.spans import ATTEMPT_FAILED_EVENT, INFERENCE_DETAILS_EVENT, span_name

__all__ = ["MAX_WAITING_RECORDS", "OUTER_INFERENCE_KEY", "Recorder", "Untraced", "inside_inference"]

_log = logging.getLogger(__name__)

MAX_WAITING_RECORDS: Final = 8192
"""Finished records that may wait for the recorder; past it the oldest is dropped and counted."""


class Recorder:
    """Turns records into telemetry. Implements :class:`~llamatelemetry.inference.sink.RecordSink`.

    Args:
        tracer: Makes the spans.
        meter: Makes the instruments.
        logger: Takes content events.
        settings: Profiles and content capture.
        redactor: Takes secrets out of exported text.
        enrichers: Add attributes to inference spans.
        max_waiting: Finished records that may wait.
    """

    def __init__(
        self,
        *,
        tracer: Tracer,
        meter: Meter,
        logger: Logger,
        settings: Settings,
        redactor: TextRedactor,
        enrichers: Sequence[SpanEnricher] = (),
        max_waiting: int = MAX_WAITING_RECORDS,
    ) -> None:
        self._tracer = tracer
        self._logger = logger
        self._profiles: tuple[Profile, ...] = settings.semconv
        self._content_on_span = settings.capture_content in {"SPAN_ONLY", "SPAN_AND_EVENT"}
        self._content_in_event = settings.capture_content in {"EVENT_ONLY", "SPAN_AND_EVENT"}
        self._redactor = redactor
        self._content_of = quietly(content_of)
        self._enrichers = [_GuardedEnricher(enricher) for enricher in enrichers]
        self._instruments = Instruments(meter, self._profiles)
        self._handover = Handover(self._record, self._instruments.dropped, max_waiting)

    @property
    def captures_content(self) -> bool:
        """Whether prompts and answers may be exported."""
        return self._content_on_span or self._content_in_event

    def begin(self, opening: Opening) -> RequestTrace:
        """Starts the inference span under the caller's current context."""
        try:
            return self._begin(opening)
        except Exception:  # noqa: BLE001 - telemetry never breaks the application, whatever a sampler or processor does
            _log.exception("could not start the span of request %s", opening.request.request_id)
            return Untraced()

    def flush(self, timeout_s: float) -> bool:
        """Waits until every record handed over so far is recorded; False if time ran out."""
        return self._handover.flush(timeout_s)

    def shutdown(self, timeout_s: float) -> int:
        """Records what waits, within ``timeout_s``, and stops; returns how many records were lost."""
        return self._handover.stop(timeout_s)

    def _begin(self, opening: Opening) -> RequestTrace:
        context = otel_context.get_current()
        if inside_inference(context):
            return Untraced(trace.get_current_span(context))
        request, model = opening.request, opening.model
        name, attributes, links = _opening_of(model, request.operation, request.model or model.model, self._profiles)
        span = self._tracer.start_span(
            name,
            context=context,
            kind=SpanKind.INTERNAL if model.in_process else SpanKind.CLIENT,
            links=links,
            attributes=self._redactor.attributes(attributes),
            start_time=opening.submitted_ns,
        )
        for enricher in self._enrichers:
            enricher.on_start(opening)
        return _Trace(span, self._handover.put)

    def _record(self, span: Span, late: LateRecord) -> None:
        try:
            record = late() if callable(late) else late
        except Exception:
            # Whatever an instrumentor's code raises, the span would never end; the handover logs it and goes on.
            span.end()
            raise
        context = trace.set_span_in_context(span)
        try:
            recording = span.is_recording()
            content = None
            if recording and (self._content_on_span or self._content_in_event):
                content = self._content_of(record, self._redactor)
            facts = facts_of(record, self._redactor, content if self._content_on_span else None)
            if recording:
                self._describe(span, record, facts, context)
            if content is not None and content.output_messages is not None and self._content_in_event:
                self._emit_event(record, content, context)
            self._instruments.record(facts, context)
        finally:
            span.end(end_time=record.finished_ns)

    def _describe(
        self, span: Span, record: FinishedRecord, facts: InferenceFacts, context: otel_context.Context
    ) -> None:
        attributes: dict[str, Any] = dict(attributes_for(facts, self._profiles))
        for enricher in self._enrichers:
            attributes.update(enricher.on_finish(record))
        clean = self._redactor.attributes
        span.set_attributes(clean(attributes))
        failure = failure_of(record)
        if failure is not None:
            span.set_status(Status(StatusCode.ERROR, facts.error_message))
        for attempt, failed_ns in attempts_of(record):
            span.add_event(ATTEMPT_FAILED_EVENT, clean(attempt_attributes(attempt)), failed_ns)
        for phase, start_ns, end_ns in phases_of(record):
            child = self._tracer.start_span(
                phase.name,
                context=context,
                attributes=clean(phase_attributes(phase, self._profiles)),
                start_time=start_ns,
            )
            child.end(end_time=end_ns)

    def _emit_event(self, record: FinishedRecord, content: Content, context: otel_context.Context) -> None:
        facts = facts_of(record, self._redactor, content)
        self._logger.emit(
            timestamp=record.finished_ns,
            context=context,
            severity_number=SeverityNumber.INFO,
            event_name=INFERENCE_DETAILS_EVENT,
            attributes=dict(self._redactor.attributes(attributes_for(facts, self._profiles))),
        )


class _Trace:
    """A request's span, and the way to the recorder's thread."""

    __slots__ = ("_put", "_span", "_span_context")

    def __init__(self, span: Span, put: Callable[[Span, LateRecord], None]) -> None:
        self._span = span
        self._span_context = span.get_span_context()
        self._put = put

    @property
    def trace_id(self) -> str:
        return trace.format_trace_id(self._span_context.trace_id)

    @property
    def traceparent(self) -> str:
        # https://www.w3.org/TR/trace-context/#traceparent-header
        span = self._span_context
        return f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"

    def active(self) -> AbstractContextManager[object]:
        return _Active(self._span)

    def finish(self, record: FinishedRecord) -> None:
        self._put(self._span, record)

    def finish_later(self, make: Callable[[], FinishedRecord]) -> None:
        self._put(self._span, make)


class _Active:
    """A span as the current one; by hand, because a generator takes longer than all it does."""

    __slots__ = ("_span", "_token")

    def __init__(self, span: Span) -> None:
        self._span = span

    def __enter__(self) -> None:
        self._token = otel_context.attach(mark_inside(trace.set_span_in_context(self._span)))

    def __exit__(self, *_: object) -> None:
        otel_context.detach(self._token)


class Untraced:
    """A request that has no span of its own, inside the span of somebody else's or of none."""

    __slots__ = ("_outer",)
    traceparent: str | None = None

    def __init__(self, outer: Span = trace.INVALID_SPAN) -> None:
        self._outer = outer.get_span_context()

    @property
    def trace_id(self) -> str | None:
        """That of the outer span."""
        return trace.format_trace_id(self._outer.trace_id) if self._outer.is_valid else None

    def active(self) -> AbstractContextManager[object]:
        """Changes nothing."""
        return nullcontext()

    def finish(self, record: FinishedRecord) -> None:
        """Records nothing."""

    def finish_later(self, make: Callable[[], FinishedRecord]) -> None:
        """Likewise."""


@lru_cache(maxsize=256)
def _opening_of(
    model: ModelInfo, operation: Operation, request_model: str, profiles: tuple[Profile, ...]
) -> tuple[str, Mapping[str, Any], Sequence[Link]]:
    """Name, first attributes and links of a span: the same for every request of one kind to one model."""
    facts = InferenceFacts(
        operation=operation,
        provider=model.provider,
        request_model=request_model,
        server_address=model.server_address,
        server_port=model.server_port,
    )
    return span_name(operation, request_model), start_attributes(facts, profiles), _links_of(model)


def _links_of(model: ModelInfo) -> tuple[Link, ...]:
    """To the span that made the model's file, as far as that is known and was not refuted."""
    lineage = model.lineage
    if lineage is None or not lineage.span_id:
        return ()
    made_by = SpanContext(
        int(lineage.trace_id, 16), int(lineage.span_id, 16), is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED)
    )
    attributes = {MODEL_MANIFEST.name: lineage.standing, MODEL_RUN_ID.name: lineage.run_id}
    return (Link(made_by, {name: value for name, value in attributes.items() if value}),)


class _GuardedEnricher:
    """An enricher that may fail: the first failure is logged, and the others are not worth a line."""

    def __init__(self, enricher: SpanEnricher) -> None:
        self._enricher = enricher
        self._told = False

    def on_start(self, opening: Opening) -> None:
        try:
            self._enricher.on_start(opening)
        except Exception:  # noqa: BLE001 - a plugin's code, on the application's path
            self._tell()

    def on_finish(self, record: FinishedRecord) -> Mapping[str, AttributeValue]:
        try:
            return dict(self._enricher.on_finish(record))
        except Exception:  # noqa: BLE001 - a plugin's code, and the other attributes are still good
            self._tell()
            return {}

    def _tell(self) -> None:
        if not self._told:
            self._told = True
            _log.warning("enricher %s fails and adds nothing", type(self._enricher).__name__, exc_info=True)
