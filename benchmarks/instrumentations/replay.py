"""What OpenTelemetry's SDK alone takes for the telemetry of one call: less it cannot cost to have it.

The spans that the call has made are made again, with the attributes they had, and its measurements taken
again, by nothing but the SDK, in one thread, on providers as those they came from.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from opentelemetry.metrics import get_meter
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import get_tracer, set_span_in_context

REPEATS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """Measurements of one kind.

    Attributes:
        instrument: Name of the instrument.
        attributes: Theirs.
        count: How many there were.
    """

    instrument: str
    attributes: Mapping[str, Any]
    count: int


def points(reader: InMemoryMetricReader) -> list[Point]:
    """What histograms have taken so far."""
    data = reader.get_metrics_data()
    return [
        Point(instrument=metric.name, attributes=dict(point.attributes or {}), count=point.count)
        for resource in (data.resource_metrics if data else ())
        for scope in resource.scope_metrics
        for metric in scope.metrics
        for point in metric.data.data_points
        if isinstance(point, HistogramDataPoint)
    ]


def since(before: Sequence[Point], after: Sequence[Point]) -> list[Point]:
    """What they have taken between."""
    known = {(point.instrument, *sorted(point.attributes.items())): point.count for point in before}
    counts = [point.count - known.get((point.instrument, *sorted(point.attributes.items())), 0) for point in after]
    return [
        Point(instrument=point.instrument, attributes=point.attributes, count=count)
        for point, count in zip(after, counts, strict=True)
        if count
    ]


def sdk_us(spans: Sequence[ReadableSpan], measured: Sequence[Point], call: Callable[[], object]) -> float:
    """Microseconds of CPU that these spans and measurements take, the median; 0 for none.

    Args:
        spans: As the call made them.
        measured: As it took them.
        call: Makes the call without them, so that they find the processor's caches as full of other things
            as they did. One after the other they would take half the time.
    """
    if not spans and not measured:
        return 0.0
    tracer, meter = get_tracer("replay"), get_meter("replay")
    histograms = {point.instrument: meter.create_histogram(f"replay.{point.instrument}") for point in measured}
    roots = [span for span in spans if span.parent is None]
    children = {
        root.context.span_id: [span for span in spans if span.parent and span.parent.span_id == root.context.span_id]
        for root in roots
    }
    assert len(roots) + sum(map(len, children.values())) == len(spans), "a span is further down"

    def once() -> None:
        for root in roots:
            span = tracer.start_span(root.name, kind=root.kind, attributes=root.attributes, start_time=root.start_time)
            context = set_span_in_context(span)
            for child in children[root.context.span_id]:
                inner = tracer.start_span(
                    child.name, context, kind=child.kind, attributes=child.attributes, start_time=child.start_time
                )
                inner.end(child.end_time)
            span.end(root.end_time)
        for point in measured:
            for _ in range(point.count):
                histograms[point.instrument].record(1.0, point.attributes, context)

    spent = []
    for _ in range(REPEATS):
        call()
        start = time.thread_time()
        once()
        spent.append(time.thread_time() - start)
    return median(spent) * 1e6
